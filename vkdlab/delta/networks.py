"""A U-Net of ordinary 3x3 convolutions (Ronneberger et al., MICCAI 2015): teacher, and smaller network to beat.

Where we differ: padded convolutions, batch norm, nearest-neighbour upsampling, and a first convolution that halves the
size, so that most of the work is done at a half and below of the picture's size; logits are brought back bilinearly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, fx, nn
from torch.nn import functional

# A traced network is called with proxies.
Frames = Float[Tensor, "b 3 h w"] | fx.Proxy
Logits = Float[Tensor, "b k rows columns"] | fx.Proxy


def check_size(frames: Tensor, multiple: int) -> None:
    """Raises a ValueError unless height and width are multiples of a number."""
    height, width = frames.shape[-2:]
    if height % multiple or width % multiple or not height or not width:
        near = [max(1, round(side / multiple)) * multiple for side in (height, width)]
        raise ValueError(
            f"height and width must be multiples of {multiple}, got {height} and {width}: bring frames to another "
            f"size, {near[0]} and {near[1]} for instance"
        )


# Called, not looked into, when a network is traced.
fx.wrap("check_size")


@dataclass(frozen=True)
class SegmentationConfig:
    """What a segmentation network is made of."""

    classes: int
    """Classes of a pixel."""
    width: int = 32
    """Channels at the first level; multiples of 16 run best."""
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each level, times `width`; each level has half the size of the one before it."""
    stride: int = 2
    """1, or 2: the first convolution halves the size."""

    def __post_init__(self):
        if self.classes < 2:
            raise ValueError(f"SegmentationConfig.classes must be at least 2, got {self.classes}")
        if self.width < 1 or not self.multiples or min(self.multiples) < 1:
            raise ValueError(
                f"SegmentationConfig.width and multiples must be at least 1, got {self.width} and {self.multiples}"
            )
        if self.stride not in (1, 2):
            raise ValueError(f"SegmentationConfig.stride is 1 or 2, got {self.stride}")

    @property
    def multiple(self) -> int:
        """What height and width of a frame have to be multiples of."""
        return self.stride * 2 ** (len(self.multiples) - 1)


class SegmentationNetwork(nn.Module):
    """Classes of every pixel, one frame at a time.

    Args:
        config: sizes.
    """

    def __init__(self, config: SegmentationConfig):
        super().__init__()
        self.config = config
        self.features = UNet(config.width, multiples=config.multiples, stride=config.stride)
        self.head = nn.Conv2d(config.width * config.multiples[0], config.classes, 1)

    def forward(self, frames: Frames) -> Logits:
        """Logits of each pixel.

        Args:
            frames: (b, 3, h, w) RGB, 0..1; height and width are multiples of `config.multiple`.

        Returns:
            (b, classes, h, w).

        Raises:
            ValueError: another size.
        """
        coarse = self.coarse(frames)
        if self.config.stride == 1:
            return coarse
        return functional.interpolate(
            coarse, scale_factor=float(self.config.stride), mode="bilinear", align_corners=False
        )

    def coarse(self, frames: Frames) -> Logits:
        """Logits before they are brought to the frame's size, (b, classes, h / stride, w / stride).

        With many classes a training on these, which `segmentation_loss` takes as well, is nearly twice as fast.
        """
        check_size(frames, self.config.multiple)
        return self.head(self.features(frames))


class UNet(nn.Module):
    """Maps of a picture at its size over `stride`, that know of all levels below.

    Args:
        width: channels at the first level.
        multiples: channels of each level, times `width`.
        stride: of the first convolution.
        top: the level whose maps are given out.
    """

    def __init__(self, width: int, *, multiples: tuple[int, ...], stride: int, top: int = 0):
        super().__init__()
        channels = [width * multiple for multiple in multiples]
        self.stem = block(3, width, stride=stride)
        self.down = nn.ModuleList(
            nn.Sequential(block(before, after), block(after, after))
            for before, after in zip([width, *channels], channels, strict=False)
        )
        self.up = nn.ModuleList(
            nn.Sequential(block(here + below, here), block(here, here))
            for here, below in zip(channels[top:], channels[top + 1 :], strict=False)
        )
        self.top = top

    def forward(self, frames):
        x = self.stem((frames - 0.5) / 0.25)
        levels = []
        for level, blocks in enumerate(self.down):
            x = blocks(functional.max_pool2d(x, 2) if level else x)
            levels.append(x)
        for level in reversed(range(len(self.up))):
            larger = functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.up[level](torch.cat([levels[self.top + level], larger], 1))
        return x


def block(channels: int, out: int, *, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    )


def segmentation_loss(
    logits: Float[Tensor, "b k h w"],
    labels: Int[Tensor, "b rows columns"],
    *,
    void: int = 255,
    weights: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy over the pixels that count; 0 where none does.

    Args:
        logits: of each class; where they are coarser than the labels, each place answers for all pixels it covers.
        labels: true classes, or `void`.
        void: label of pixels that do not count.
        weights: how much a pixel of each class counts; None for all alike.

    Raises:
        ValueError: the labels' size is no multiple of the logits'.
    """
    step = labels.shape[1] // logits.shape[2]
    if not step or labels.shape[1:] != (step * logits.shape[2], step * logits.shape[3]):
        raise ValueError(
            f"labels of {tuple(labels.shape[1:])} do not fit logits of {tuple(logits.shape[2:])}: expected that "
            "size or a multiple of it"
        )
    log_probs = functional.log_softmax(logits.float(), dim=1)
    counted = labels != void
    # One log-softmax a place, looked up for each of the pixels that it covers.
    covered = functional.pixel_unshuffle(labels.where(counted, 0)[:, None], step)
    found = log_probs.gather(1, covered) * functional.pixel_unshuffle(counted[:, None].to(log_probs), step)
    if weights is not None:
        weight = weights.to(found)[covered]
        return -(found * weight).sum() / (weight * functional.pixel_unshuffle(counted[:, None], step)).sum().clamp(
            min=1
        )
    return -found.sum() / counted.sum().clamp(min=1)
