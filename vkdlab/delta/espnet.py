"""ESPNet (Mehta et al., ECCV 2018): a network whose convolutions are narrow and factorised already.

An ESP unit reduces to a fifth of the channels, looks at them with five dilated 3x3 convolutions, adds their answers one
after another, so that no dilation leaves a grid, and joins them. The encoder has three levels with the picture itself
let in at each; the decoder goes back up by transposed convolutions.

Here it is the case in which Delta Distillation gains least: there is little rank left to take away.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import fx, nn

from vkdlab.data.manifests import data_root
from vkdlab.delta.networks import Frames, Logits, check_size
from vkdlab.weights import put_weights

DILATIONS = (1, 2, 4, 8, 16)
CAMVID_WEIGHTS = "7d354a257170322086dcd4c1e89a482454cf2c9d30b085e70883878dd59301af"
"""SHA-256 of the authors' `espnet_p_2_q_8_camvid.pth`, MIT licence: 11 classes and void."""
CAMVID_FILE = "espnet_p2q8_camvid.pth"
_EPS = 1e-3
# Called, not looked into, when a network is traced.
fx.wrap("check_size")


@dataclass(frozen=True)
class ESPNetConfig:
    """What an ESPNet is made of."""

    classes: int = 12
    """Classes; the CamVid weights have 11 and void, the last."""
    second: int = 2
    """ESP units on the second level (p in the paper)."""
    third: int = 8
    """ESP units on the third level (q in the paper)."""
    mean: tuple[float, float, float] = (104.81, 108.2, 110.0)
    """What is taken from red, green and blue of 0 to 255."""
    scale: tuple[float, float, float] = (69.6, 72.4, 71.8)
    """What the rest is divided by, before it is divided by 255."""
    answered: int | None = None
    """Classes that are answered, the first ones; None for all."""

    def __post_init__(self):
        if self.answered is not None and not 1 <= self.answered <= self.classes:
            raise ValueError(f"answered is from 1 to the {self.classes} classes, got {self.answered}")
        if self.classes < 5 or min(self.second, self.third) < 0:
            raise ValueError(
                f"expected at least 5 classes and second and third at least 0, got {self.classes}, {self.second} and "
                f"{self.third}"
            )


class ESPNet(nn.Module):
    """Classes of every pixel.

    Args:
        config: sizes.
    """

    def __init__(self, config: ESPNetConfig):
        super().__init__()
        self.config, k = config, config.classes
        self.encoder = Encoder(config)
        self.level3_C = Convolution(131, k, 1)
        self.br = nn.BatchNorm2d(k, eps=_EPS)
        self.conv = NormedConvolution(19 + k, k, 3)
        self.up_l3 = nn.Sequential(_up(k))
        self.combine_l2_l3 = nn.Sequential(Norm(2 * k), ESPUnit(2 * k, k, residual=False))
        self.up_l2 = nn.Sequential(_up(k), Norm(k))
        self.classifier = _up(k, config.answered)

    def forward(self, frames: Frames) -> Logits:
        """Logits of each pixel.

        Args:
            frames: (b, 3, h, w) RGB, 0..1; height and width are multiples of 8.

        Returns:
            (b, classes, h, w); of `config.answered` classes where not all are answered.

        Raises:
            ValueError: another size.
        """
        check_size(frames, 8)
        mean, scale = (frames.new_tensor(values).view(3, 1, 1) for values in (self.config.mean, self.config.scale))
        picture = ((frames * 255 - mean) / scale / 255).flip(1)
        first, second, third = self.encoder(picture)
        third = self.up_l3(self.br(self.encoder.classifier(third)))
        second = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(second), third], 1)))
        return self.classifier(self.conv(torch.cat([second, first], 1)))


class Encoder(nn.Module):
    """The three levels, at a half, a quarter and an eighth of the size: 19, 131 and 256 maps."""

    def __init__(self, config: ESPNetConfig):
        super().__init__()
        self.shrink = nn.AvgPool2d(3, stride=2, padding=1)
        self.level1 = NormedConvolution(3, 16, 3, stride=2)
        self.b1 = Norm(19)
        self.level2_0 = ESPDown(19, 64)
        self.level2 = nn.ModuleList(ESPUnit(64, 64) for _ in range(config.second))
        self.b2 = Norm(131)
        self.level3_0 = ESPDown(131, 128)
        self.level3 = nn.ModuleList(ESPUnit(128, 128) for _ in range(config.third))
        self.b3 = Norm(256)
        self.classifier = Convolution(256, config.classes, 1)

    def forward(self, picture):
        half = self.shrink(picture)
        first = self.b1(torch.cat([self.level1(picture), half], 1))
        begin = end = self.level2_0(first)
        for unit in self.level2:
            end = unit(end)
        second = self.b2(torch.cat([end, begin, self.shrink(half)], 1))
        begin = end = self.level3_0(second)
        for unit in self.level3:
            end = unit(end)
        return first, second, self.b3(torch.cat([begin, end], 1))


class Convolution(nn.Module):
    """A convolution that keeps the size (halves it at stride 2), without bias."""

    def __init__(self, channels: int, out: int, kernel: int, *, stride: int = 1, dilation: int = 1):
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=False)

    def forward(self, x):
        return self.conv(x)


class Norm(nn.Module):
    """Batch norm and PReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn, self.act = nn.BatchNorm2d(channels, eps=_EPS), nn.PReLU(channels)

    def forward(self, x):
        return self.act(self.bn(x))


class NormedConvolution(nn.Module):
    """Convolution, batch norm, PReLU."""

    def __init__(self, channels: int, out: int, kernel: int, *, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        self.bn, self.act = nn.BatchNorm2d(out, eps=_EPS), nn.PReLU(out)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Pyramid(nn.Module):
    """Five dilated convolutions of few channels; each answer but the first two is added to the one before it."""

    def __init__(self, channels: int, out: int, *, kernel: int, stride: int):
        super().__init__()
        narrow = out // len(DILATIONS)
        self.c1 = Convolution(channels, narrow, kernel, stride=stride)
        for dilation in DILATIONS:
            width = out - (len(DILATIONS) - 1) * narrow if dilation == 1 else narrow
            self.add_module(f"d{dilation}", Convolution(narrow, width, 3, dilation=dilation))

    def joined(self, x):
        """The five answers, side by side."""
        x = self.c1(x)
        answers, total = [self.d1(x)], None
        for branch in (self.d2, self.d4, self.d8, self.d16):
            total = branch(x) if total is None else total + branch(x)
            answers.append(total)
        return torch.cat(answers, 1)


class ESPDown(Pyramid):
    """An ESP unit at half the size."""

    def __init__(self, channels: int, out: int):
        super().__init__(channels, out, kernel=3, stride=2)
        self.bn, self.act = nn.BatchNorm2d(out, eps=_EPS), nn.PReLU(out)

    def forward(self, x):
        return self.act(self.bn(self.joined(x)))


class ESPUnit(Pyramid):
    """An ESP unit that keeps the size, added to what it was given."""

    def __init__(self, channels: int, out: int, *, residual: bool = True):
        super().__init__(channels, out, kernel=1, stride=1)
        self.bn, self.residual = Norm(out), residual

    def forward(self, x):
        answer = self.joined(x)
        return self.bn(x + answer if self.residual else answer)


def load_espnet(path: str | os.PathLike, *, sha256: str = CAMVID_WEIGHTS, config: ESPNetConfig | None = None) -> ESPNet:
    """An ESPNet with the authors' weights, in evaluation mode.

    Args:
        path: the file as published: a state dict that torch wrote.
        sha256: what the file has to hash to; it is not opened otherwise.
        config: sizes, by default those of the CamVid weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is another one, or its tensors are not the network's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: get the authors' ESPNet weights (decoder, CamVid) and name them"
        )
    content = path.read_bytes()  # hashed and unpickled from one read, so that nobody can change it in between
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{path} has the SHA-256 {found}, expected {sha256}. It was not opened: get the original file")
    weights = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    network = ESPNet(config or ESPNetConfig())
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    put_weights(network, counters | {name: value.detach() for name, value in weights.items()}, where=str(path))
    return network.eval()


def camvid_espnet(root: str | os.PathLike | None = None) -> ESPNet:
    """The authors' network for CamVid, which answers its 11 classes: never void, which nothing is labelled as.

    Args:
        root: the data root, default `$VKDLAB_DATA`; the file is weights/espnet_p2q8_camvid.pth in it.

    Raises:
        DataMissing: there is no data root.
        FileNotFoundError, ValueError: as `load_espnet`.
    """
    whole = load_espnet(data_root(root, wanted_by="ESPNet's weights") / "weights" / CAMVID_FILE)
    network = ESPNet(replace(whole.config, answered=whole.config.classes - 1)).eval()
    weights = whole.state_dict()
    weights["classifier.weight"] = weights["classifier.weight"][:, : network.config.answered].clone()
    network.load_state_dict(weights)
    return network


def _up(channels: int, out: int | None = None) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, out or channels, 2, stride=2, bias=False)
