"""Frames with labels as batches: single frames, pairs with a gap, clips; and augmentation that is the same for a whole
pair (ours).

Pairs come from one video, a key frame and one of the frames after it. Where a data set has no frames that follow one
another closely (CamVid's training frames are a second apart), a pair is made of one frame: the second is seen through
a slightly moved and zoomed window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor

from vkdlab.data.dense import DenseDataset
from vkdlab.data.dense_files import VOID
from vkdlab.files import hash_of

_LEAST_LEFT = 0.25


@dataclass(frozen=True)
class DenseBatch:
    """Some clips of equally many frames, with what is known of each pixel."""

    frames: Float[Tensor, "b t 3 h w"]
    """RGB, 0..1."""
    labels: Int[Tensor, "b t h w"] | None
    """Classes, 255 where none counts; None where the data set has no labels."""
    boxes: tuple[tuple[Float[Tensor, "n 4"], ...], ...] = ()
    """Per clip and frame: x0, y0, x1, y1, pixels; empty where the data set has no boxes or none were asked for."""
    box_labels: tuple[tuple[Int[Tensor, " n"], ...], ...] = ()
    """Classes of the boxes, never 0."""

    def to(self, device: torch.device | str) -> DenseBatch:
        """The same batch on a device."""
        move = lambda rows: tuple(tuple(each.to(device) for each in row) for row in rows)  # noqa: E731
        labels = None if self.labels is None else self.labels.to(device)
        return DenseBatch(self.frames.to(device), labels, move(self.boxes), move(self.box_labels))


@dataclass(frozen=True)
class Augmentation:
    """How training frames are changed, all frames of a clip alike. All zero (or 1, 1) leaves them as they are."""

    flip: float = 0.5
    """Probability of a picture mirrored left to right."""
    zoom: tuple[float, float] = (0.75, 1.5)
    """Smallest and largest magnification, drawn log-uniformly."""
    shift: float = 0.25
    """Greatest shift, as a fraction of the picture."""
    light: float = 0.2
    """Greatest relative change of brightness and of contrast."""
    motion: float = 0.04
    """For pairs made of one frame: greatest shift, as a fraction of the picture, and relative zoom between the two."""

    def __post_init__(self):
        low, high = self.zoom
        if not (0 <= self.flip <= 1 and 0 < low <= high and 0 <= self.shift < 1 and 0 <= self.light < 1):
            raise ValueError(
                f"expected flip in 0..1, 0 < zoom[0] <= zoom[1], shift and light in 0 to below 1, got {self}"
            )
        if not 0 <= self.motion < 1:
            raise ValueError(f"motion is from 0 to below 1, got {self.motion}")


class TrainingFrames(torch.utils.data.Dataset):
    """Frames to train on: single ones, or pairs of a key frame and a later one. Random numbers come from torch's.

    Args:
        dense: the frames.
        gaps: (least, greatest) number of frames from the first of a pair to the second; None gives single frames.
        stills: makes pairs of one frame by `Augmentation.motion` in place of the video's.
        augmentation: None leaves frames as they are.
        size: (width, height) of what comes out, a crop where it is smaller; by default the frames' own.
        samples: samples an epoch, spread evenly over the frames; by default one a frame.
        boxes: whether batches carry boxes.

    Raises:
        ValueError: gaps that are none, or longer than every sequence; boxes where there are none.
    """

    def __init__(
        self,
        dense: DenseDataset,
        *,
        gaps: tuple[int, int] | None = None,
        stills: bool = False,
        augmentation: Augmentation | None = Augmentation(),
        size: tuple[int, int] | None = None,
        samples: int | None = None,
        boxes: bool = False,
    ):
        if stills and gaps is not None:
            raise ValueError("pairs are made of the video's frames (gaps) or of one frame (stills), not of both")
        if gaps is not None and not 1 <= gaps[0] <= gaps[1]:
            raise ValueError(f"gaps is (least, greatest) number of frames, 1 or more, got {gaps}")
        if boxes and dense.box_rows is None:
            raise ValueError(f"{dense.name} has no boxes; tabletop has")
        reach = gaps[0] if gaps else 0
        usable = [np.arange(each.first, each.first + each.count - reach) for each in dense.sequences]
        self.starts = np.concatenate([rows for rows in usable if len(rows)] or [np.empty(0, int)])
        if not len(self.starts):
            longest = max((each.count for each in dense.sequences), default=0)
            raise ValueError(f"no pair with a gap of {reach} frames: the longest sequence has {longest}")
        if samples is not None and samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.dataset, self.gaps, self.stills, self.augmentation, self.boxes = dense, gaps, stills, augmentation, boxes
        self.size, self.samples = size or dense.size, samples or len(self.starts)

    @property
    def fingerprint(self) -> str:
        """Hash of the frames and of how samples are drawn from them."""
        drawn = self.gaps, self.stills, self.augmentation, self.size, self.samples, self.boxes
        return hash_of(self.dataset.fingerprint, *drawn)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, i: int) -> DenseBatch:
        """Sample `i`, a batch of one; drawn anew at every call."""
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        stretch = len(self.starts) / self.samples
        start = int(self.starts[min(int((i + (rng.random() if stretch > 1 else 0)) * stretch), len(self.starts) - 1)])
        rows = [start]
        if self.gaps:
            last = self.dataset.sequence_of(start).frames[-1]
            rows.append(int(rng.integers(start + self.gaps[0], min(start + self.gaps[1], last) + 1)))
        elif self.stills:
            rows.append(start)
        maps = self._maps(rng, len(rows))
        light = self.augmentation.light if self.augmentation else 0.0
        gain, lift = 1 + rng.uniform(-light, light), rng.uniform(-light, light) / 2
        frames, labels, boxes, box_labels = [], [], [], []
        for row, matrix in zip(rows, maps, strict=True):
            frame = cv2.warpAffine(self.dataset.frame(row), matrix, self.size, borderMode=cv2.BORDER_REFLECT_101)
            values = torch.from_numpy(frame).permute(2, 0, 1).float() / 255
            frames.append(((values - 0.5) * gain + 0.5 + lift).clamp(0, 1))
            if self.dataset.classes:
                labels.append(
                    cv2.warpAffine(
                        self.dataset.labels(row), matrix, self.size, flags=cv2.INTER_NEAREST,
                        borderMode=cv2.BORDER_CONSTANT, borderValue=VOID,
                    )
                )  # fmt: skip
            if self.boxes:
                found = moved_boxes(*self.dataset.boxes(row), matrix=matrix, size=self.size)
                boxes.append(torch.from_numpy(found[0]))
                box_labels.append(torch.from_numpy(found[1]).long())
        return DenseBatch(
            torch.stack(frames)[None],
            torch.from_numpy(np.stack(labels)).long()[None] if labels else None,
            (tuple(boxes),) if self.boxes else (),
            (tuple(box_labels),) if self.boxes else (),
        )

    def _maps(self, rng: np.random.Generator, count: int) -> list[np.ndarray]:
        """Maps from the frame's pixels to those of what comes out, (2, 3) each."""
        (width, height), (out_width, out_height) = self.dataset.size, self.size
        how = self.augmentation or Augmentation(flip=0, zoom=(1, 1), shift=0, light=0, motion=0)
        zoom = np.exp(rng.uniform(*np.log(how.zoom)))
        mirror = -1 if rng.random() < how.flip else 1
        away = rng.uniform(-how.shift, how.shift, 2)
        maps = []
        for step in range(count):
            more = rng.uniform(-how.motion, how.motion, 3) if self.stills and step else np.zeros(3)
            scale = zoom * (1 + more[2])
            centre = np.array([width, height]) * (0.5 + away + more[:2])
            turn = np.diag([scale * mirror, scale])
            # Pixel centres lie at whole numbers for OpenCV, at halves for us.
            shift = np.array([out_width, out_height]) / 2 - 0.5 - turn @ (centre - 0.5)
            maps.append(np.column_stack([turn, shift]))
        return maps

    @staticmethod
    def collate(items: Sequence[DenseBatch]) -> DenseBatch:
        """Samples as one batch."""
        return _joined(items)


class Clips(torch.utils.data.Dataset):
    """All frames, in order, as clips of `length` frames from one sequence; the rest of a sequence is left out.

    Args:
        dense: the frames.
        length: frames a clip, at least 1.
        stride: frames from the start of a clip to the next, default `length`.
        boxes: whether batches carry boxes.

    Raises:
        ValueError: no sequence is so long, or a number is below 1.
    """

    def __init__(self, dense: DenseDataset, *, length: int = 1, stride: int | None = None, boxes: bool = False):
        stride = length if stride is None else stride
        if length < 1 or stride < 1:
            raise ValueError(f"length and stride are at least 1, got length={length}, stride={stride}")
        if boxes and dense.box_rows is None:
            raise ValueError(f"{dense.name} has no boxes; tabletop has")
        self.dataset, self.length, self.boxes = dense, length, boxes
        self.starts = [
            first
            for each in dense.sequences
            for first in range(each.first, each.first + each.count - length + 1, stride)
        ]
        if not self.starts:
            longest = max((each.count for each in dense.sequences), default=0)
            raise ValueError(f"no clip of {length} frames: the longest sequence has {longest}")

    @property
    def fingerprint(self) -> str:
        """Hash of the frames and of the clips they are cut into."""
        return hash_of(self.dataset.fingerprint, self.length, self.starts, self.boxes)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> DenseBatch:
        rows = range(self.starts[i], self.starts[i] + self.length)
        found = [self.dataset.boxes(row) for row in rows] if self.boxes else []
        return DenseBatch(
            as_input(np.stack([self.dataset.frame(row) for row in rows]))[None],
            torch.from_numpy(np.stack([self.dataset.labels(row) for row in rows])).long()[None]
            if self.dataset.classes
            else None,
            (tuple(torch.from_numpy(boxes) for boxes, _ in found),) if self.boxes else (),
            (tuple(torch.from_numpy(labels).long() for _, labels in found),) if self.boxes else (),
        )

    @staticmethod
    def collate(items: Sequence[DenseBatch]) -> DenseBatch:
        """Clips as one batch."""
        return _joined(items)


def as_input(frames: UInt8[np.ndarray, "*t h w 3"]) -> Float[Tensor, "*t 3 h w"]:
    """Pictures as networks take them: float RGB, 0..1, channels first."""
    return torch.from_numpy(np.array(frames)).movedim(-1, -3).float() / 255


def moved_boxes(
    boxes: Float32[np.ndarray, "n 4"],
    labels: UInt8[np.ndarray, " n"],
    *,
    matrix: np.ndarray,
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes after a picture was mirrored, scaled and shifted; those of which under a quarter is left are dropped.

    Args:
        boxes: x0, y0, x1, y1, pixels.
        labels: what is in them.
        matrix: (2, 3), from whole-numbered pixel centres to whole-numbered pixel centres; turns nothing.
        size: width and height of the new picture.
    """
    corners = boxes.reshape(-1, 2, 2) - 0.5
    corners = corners * matrix[[0, 1], [0, 1]] + matrix[:, 2] + 0.5
    low, high = corners.min(axis=1), corners.max(axis=1)
    kept_low, kept_high = np.clip(low, 0, size), np.clip(high, 0, size)
    left = np.prod(kept_high - kept_low, axis=1) >= _LEAST_LEFT * np.prod(high - low, axis=1)
    return np.concatenate([kept_low, kept_high], axis=1)[left].astype(np.float32), labels[left]


def _joined(items: Sequence[DenseBatch]) -> DenseBatch:
    labels = None if items[0].labels is None else torch.cat([item.labels for item in items])
    return DenseBatch(
        torch.cat([item.frames for item in items]),
        labels,
        tuple(row for item in items for row in item.boxes),
        tuple(row for item in items for row in item.box_labels),
    )
