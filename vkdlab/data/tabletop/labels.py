"""Everything that is known exactly about one video: masks, boxes, true optical flow, instances, events (ours)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vkdlab.files import read_json


@dataclass(frozen=True)
class Instance:
    """One thing that masks and boxes speak of."""

    id: int
    """Number in the masks, from 1."""
    kind: str
    """A shape, "hand" or "cloth"."""
    semantic: int
    """Index into `SEMANTICS`."""
    colour: str | None = None
    """Colour of an object; None for hands and cloths."""
    size: str | None = None
    """Size of an object before it grows or shrinks; None for hands and cloths."""
    material: str | None = None
    """What an object sounds like; None for hands and cloths."""


@dataclass(frozen=True)
class VideoAnnotations:
    """The labels of one video."""

    id: str
    """The video's name."""
    path: Path
    """The video file."""
    duration_s: float
    """Length, seconds."""
    fps: float
    """Frames per second."""
    instances: tuple[Instance, ...]
    """What can be seen; row k of `boxes` and number k + 1 in `masks` belong to instances[k]."""
    masks: np.ndarray = field(repr=False)
    """uint8 (t, h, w): the instance that each pixel shows, 0 for the table."""
    boxes: np.ndarray = field(repr=False)
    """float32 (t, n, 4): x0, y0, x1, y1 in pixels around what is visible, NaN where nothing is."""
    affines: np.ndarray = field(repr=False)
    """float64 (t, 1 + n, 2, 3): from a thing's plane to pixels, pixel centres at half numbers; 0 is the table."""
    events: tuple[dict[str, Any], ...] = field(repr=False)
    """Events: id, verb, object, other (instance numbers), start_s, end_s, hand, also, paraphrases."""
    queries: tuple[dict[str, Any], ...] = field(repr=False)
    """Queries: id, sentence, kind, event, logic, start_s, end_s."""
    questions: tuple[dict[str, Any], ...] = field(repr=False)
    """Questions: id, question, options, answer, kind, evidence_s."""

    def flow(self, i: int) -> np.ndarray:
        """True optical flow from frame i to frame i + 1, exact where the same point is still visible.

        Args:
            i: frame, 0 to t - 2.

        Returns:
            float32 (h, w, 2): motion right and down, pixels, of the point that each pixel of frame i shows.

        Raises:
            IndexError: there is no frame i + 1.
        """
        frames, height, width = self.masks.shape
        if not 0 <= i < frames - 1:
            raise IndexError(f"{self.id} has flow from frames 0 to {frames - 2}, was asked for {i}")
        motion = np.stack([_between(a, b) for a, b in zip(self.affines[i], self.affines[i + 1], strict=True)])
        m = motion[self.masks[i]]
        y, x = np.mgrid[0:height, 0:width] + 0.5
        moved = np.stack([m[..., 0, 0] * x + m[..., 0, 1] * y, m[..., 1, 0] * x + m[..., 1, 1] * y], -1) + m[..., 2]
        return (moved - np.stack([x, y], -1)).astype(np.float32)

    def semantic(self, i: int) -> np.ndarray:
        """Semantic classes of frame i: uint8 (h, w), indices into `SEMANTICS`."""
        classes = np.array([0, *(instance.semantic for instance in self.instances)], np.uint8)
        return classes[self.masks[i]]


def _between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The affine map, (2, 3), that takes the picture of a plane in one frame to its picture in the next."""
    (a, b, c), (d, e, f) = first
    det = a * e - b * d
    turn = second[:, :2] @ (np.array([[e, -b], [-d, a]]) / det)
    return np.column_stack([turn, second[:, 2] - turn @ np.array([c, f])])


def read_arrays(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads one video's masks, boxes and affines from a built world."""
    # A damaged archive that NumPy opens itself stays open.
    with open(folder / "labels" / f"{name}.npz", "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return arrays["masks"], arrays["boxes"], arrays["affines"]


def read(folder: Path, name: str) -> VideoAnnotations:
    """Reads one video's labels from a built world."""
    rows = read_json(folder / "labels" / f"{name}.json")
    masks, boxes, affines = read_arrays(folder, name)
    return VideoAnnotations(
        id=name,
        path=folder / "videos" / f"{name}.mp4",
        duration_s=rows["duration_s"],
        fps=rows["fps"],
        instances=tuple(Instance(**row) for row in rows["instances"]),
        masks=masks,
        boxes=boxes,
        affines=affines,
        events=tuple(rows["events"]),
        queries=tuple(rows["queries"]),
        questions=tuple(rows["questions"]),
    )
