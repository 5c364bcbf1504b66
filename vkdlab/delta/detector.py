"""A one-stage detector without anchors: where a thing's centre is, and how far its four sides are away.

Heat maps of centres with the focal loss of CenterNet (Zhou et al., 2019); each place near a centre says its distances
to the four sides, with the generalised IoU as loss, weighted by a Gaussian of the thing's size (TTFNet, Liu et al.,
AAAI 2020):

    heat* = exp(-(dx / s_x)^2 / 2 - (dy / s_y)^2 / 2),   s = 0.15 * side (0.09 there; our things are few places wide)

All that the network says is one map, at a quarter of the picture's size, so that it can be converted as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, fx, nn
from torch.nn import functional

from vkdlab.delta.networks import Frames, UNet, block, check_size

Answer = Float[Tensor, "b k rows columns"] | fx.Proxy
STRIDE = 4
_SPREAD = 0.15
_BOX_WEIGHT = 5.0
# Called, not looked into, when a network is traced.
fx.wrap("check_size")


@dataclass(frozen=True)
class DetectionConfig:
    """What a detection network is made of."""

    classes: int
    """Kinds of things."""
    width: int = 32
    """Channels at half the picture's size; multiples of 16 run best."""
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    """Channels from half the size down, times `width`."""

    def __post_init__(self):
        if self.classes < 1 or self.width < 1:
            raise ValueError(f"classes and width must be at least 1, got {self.classes} and {self.width}")
        if len(self.multiples) < 2 or min(self.multiples) < 1:
            raise ValueError(f"multiples are two or more numbers of at least 1, got {self.multiples}")

    @property
    def multiple(self) -> int:
        """What height and width of a frame have to be multiples of."""
        return 2 ** len(self.multiples)


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, best first."""

    boxes: Float32[Tensor, "n 4"]
    """x0, y0, x1, y1, pixels, within the picture."""
    scores: Float32[Tensor, " n"]
    """0..1."""
    labels: Int[Tensor, " n"]
    """1 to the number of classes, as `DenseDataset.boxes` numbers them: 0 is no thing."""


class DetectionNetwork(nn.Module):
    """Things and their boxes, one frame at a time.

    Args:
        config: sizes.
    """

    def __init__(self, config: DetectionConfig):
        super().__init__()
        self.config = config
        channels = config.width * config.multiples[1]
        self.features = UNet(config.width, multiples=config.multiples, stride=2, top=1)
        self.neck = block(channels, channels)
        self.head = nn.Conv2d(channels, config.classes + 4, 1)
        nn.init.constant_(self.head.bias[: config.classes], -4.0)  # most places hold nothing

    def forward(self, frames: Frames) -> Answer:
        """What is said of each place.

        Args:
            frames: (b, 3, h, w) RGB, 0..1; height and width are multiples of `config.multiple`.

        Returns:
            (b, classes + 4, h / 4, w / 4): logits of the classes' centres, then the logarithms of the distances to the
            left, upper, right and lower side, in units of 16 pixels.

        Raises:
            ValueError: another size.
        """
        check_size(frames, self.config.multiple)
        return self.head(self.neck(self.features(frames)))

    def decode(self, output: Float[Tensor, "b k h w"], *, most: int = 50, least: float = 0.01) -> list[Detections]:
        """What a map says, picture by picture; see `decode`."""
        return decode(output, classes=self.config.classes, most=most, least=least)


def decode(output: Float[Tensor, "b k h w"], *, classes: int, most: int = 50, least: float = 0.01) -> list[Detections]:
    """What a map says, picture by picture: its peaks, each the greatest of its class among its eight neighbours.

    Args:
        output: what `DetectionNetwork` gave.
        classes: kinds of things.
        most: detections a picture at most.
        least: lowest score.
    """
    output = output.detach().float()
    heat = output[:, :classes].sigmoid()
    heat = heat * (functional.max_pool2d(heat, 3, stride=1, padding=1) == heat)
    height, width = heat.shape[-2:]
    limit = heat.new_tensor([width, height] * 2) * STRIDE
    boxes = sides(output[:, classes:])
    found = []
    for scores, places in zip(heat.flatten(1), boxes.flatten(2), strict=True):
        best, which = scores.topk(min(most, scores.numel()))
        best, which = best[best >= least], which[best >= least]
        kept = torch.minimum(places[:, which % (height * width)].T.clamp(min=0), limit)
        found.append(Detections(kept, best, which // (height * width) + 1))
    return found


def sides(distances: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b 4 h w"]:
    """The box x0, y0, x1, y1, pixels, that each place says."""
    height, width = distances.shape[-2:]
    y, x = ((torch.arange(n, device=distances.device) + 0.5) * STRIDE for n in (height, width))
    left, up, right, down = (distances.clamp(max=5).exp() * 16).unbind(1)
    return torch.stack([x - left, y[:, None] - up, x + right, y[:, None] + down], dim=1)


def targets(
    boxes: Sequence[Float[Tensor, "_ 4"]],
    labels: Sequence[Int[Tensor, " _"]],
    *,
    classes: int,
    height: int,
    width: int,
) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b 4 h w"], Float[Tensor, "b h w"]]:
    """What a map should say.

    Args:
        boxes: per picture, x0, y0, x1, y1, pixels.
        labels: per picture, 1 to classes.
        classes: k.
        height: of the map.
        width: of the map.

    Returns:
        heat, 0..1, 1 at the place that holds a thing's centre; the box of each place, pixels; how much each place's box
        counts, 0 where none does: a thing's places sum to 1, less what a smaller thing in front of it takes.

    Raises:
        ValueError: a label that is none, or a box without area.
    """
    device = boxes[0].device
    heat = torch.zeros(len(boxes), classes, height, width, device=device)
    box = torch.zeros(len(boxes), 4, height, width, device=device)
    weight = torch.zeros(len(boxes), height, width, device=device)
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    for b, (rows, kinds) in enumerate(zip(boxes, labels, strict=True)):
        extent = rows[:, 2:] - rows[:, :2]
        if len(kinds) and not (kinds.min() >= 1 and kinds.max() <= classes and (extent > 0).all()):
            raise ValueError(
                f"expected labels from 1 to {classes} and boxes x0 < x1, y0 < y1, got {kinds.tolist()}, {rows.tolist()}"
            )
        for i in extent.prod(dim=1).argsort(descending=True).tolist():  # the smaller thing has the last word
            centre = ((rows[i, :2] + rows[i, 2:]) / 2 / STRIDE).long()
            spread = extent[i] * _SPREAD / STRIDE
            near = torch.exp(-(((x - centre[0]) / spread[0]) ** 2 + ((y - centre[1]) / spread[1]) ** 2) / 2)
            heat[b, kinds[i] - 1] = torch.maximum(heat[b, kinds[i] - 1], near)
            mine = near > 0.05  # well within the box
            box[b, :, mine] = rows[i, :, None]
            weight[b][mine] = near[mine] / near[mine].sum()
    return heat, box, weight


def detection_loss(
    output: Float[Tensor, "b k h w"], boxes: Sequence[Float[Tensor, "_ 4"]], labels: Sequence[Int[Tensor, " _"]]
) -> dict[str, Float[Tensor, ""]]:
    """Losses of a batch.

    Args:
        output: what the network said.
        boxes: per picture, x0, y0, x1, y1, pixels.
        labels: per picture, 1 to the number of classes.

    Returns:
        "heat", focal loss a thing; "box", 1 - generalised IoU, mean over the things; "total".
    """
    output = output.float()
    classes = output.shape[1] - 4
    heat, box, weight = targets(boxes, labels, classes=classes, height=output.shape[2], width=output.shape[3])
    logits = output[:, :classes]
    probs, centre = logits.sigmoid(), heat == 1
    found = (1 - probs) ** 2 * functional.logsigmoid(logits)
    kept_out = (1 - heat) ** 4 * probs**2 * functional.logsigmoid(-logits)
    focal = -torch.where(centre, found, kept_out).sum() / centre.sum().clamp(min=1)
    lost = (1 - generalised_iou(sides(output[:, classes:]), box)) * weight
    inside = lost.sum() / weight.sum().clamp(min=1)
    return {"heat": focal, "box": inside, "total": focal + _BOX_WEIGHT * inside}


def generalised_iou(a: Float[Tensor, "b 4 h w"], b: Float[Tensor, "b 4 h w"]) -> Float[Tensor, "b h w"]:
    """IoU less the share of the common hull that neither box covers (Rezatofighi et al., CVPR 2019), -1..1."""
    shared = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1)
    union = sum((box[:, 2:] - box[:, :2]).prod(dim=1) for box in (a, b)) - shared
    return shared / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)
