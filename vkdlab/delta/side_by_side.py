"""A picture a frame: what was filmed, what teacher and delta network say of it, where they differ, and what is new.

Below the four panels, how much of each frame is new since its key frame, up to now, over the whole video's seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from vkdlab.delta.detector import Detections
from vkdlab.delta.marks import COLOURS, class_colours

PANEL = 400
"""Width of a panel, pixels."""
_STRIP, _LEFT, _LEGEND_ROW, _HEAD = 110, 46, 20, 22
_HIGHEST = 2.0
_WHITE, _DARK, _PALE, _DIFFERENT = (255, 255, 255), (51, 51, 51), (205, 205, 205), (213, 40, 0)
_MOST_NAMES = 16


@dataclass(frozen=True)
class Shown:
    """What is known of one frame."""

    frame: UInt8[np.ndarray, "h w 3"]
    """RGB, as the networks saw it."""
    teacher: Shaped[np.ndarray, "h w"] | Detections
    """The teacher's classes, or the things that it found."""
    student: Shaped[np.ndarray, "h w"] | Detections
    """The delta network's."""
    key: bool
    """Whether the delta network took it for a key frame."""
    energy: float
    """`DeltaState.energy` before it became one; 0 for the first frame."""
    agreement: float
    """Of the delta network with the teacher, 0 to 1; not-a-number where there is nothing to agree on."""


class SideBySide:
    """Draws the frames of one video in order.

    Args:
        size: width and height of the frames, pixels.
        classes: names of the classes.
        count: frames of the video.
        fps: frames per second.
        metric: what the agreement is measured by.
        threshold: energy from which a frame becomes a key frame; None where the period alone decides.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        classes: Sequence[str],
        count: int,
        fps: float | int,
        metric: str,
        threshold: float | int | None = None,
    ):
        width, height = size
        self._panel = PANEL, 2 * round(PANEL * height / width / 2)
        self._classes, self._colours = tuple(classes), class_colours(len(classes))
        self._count, self._metric = count, metric
        self._points: list[tuple[int, int]] = []
        self._strip = self._axes(count / fps, threshold)
        self._legend = _legend(classes, self._colours, width=2 * PANEL)

    def draw(self, shown: Shown) -> UInt8[np.ndarray, "h2 w2 3"]:
        """The picture of the next frame; sides are even."""
        known = (
            "" if math.isnan(shown.agreement) else f": {self._metric} {100 * shown.agreement:.0f} % against the teacher"
        )
        rows = [
            [("video", self._frame(shown)), ("teacher, every frame", self._answer(shown.frame, shown.teacher))],
            [
                (f"delta network{': key frame' if shown.key else ''}", self._answer(shown.frame, shown.student)),
                (f"where they differ{known}", self._difference(shown)),
            ],
        ]
        panels = np.vstack([np.hstack([self._titled(*panel) for panel in row]) for row in rows])
        return np.vstack([panels, self._curve(shown), self._legend])

    def _frame(self, shown: Shown) -> np.ndarray:
        return self._large(shown.frame)

    def _answer(self, frame: np.ndarray, answer: np.ndarray | Detections) -> np.ndarray:
        picture = self._large(frame)
        if isinstance(answer, Detections):
            return self._boxes(picture, frame, answer)
        labels = cv2.resize(answer.astype(np.uint8), self._panel, interpolation=cv2.INTER_NEAREST)
        return cv2.addWeighted(picture, 0.35, self._colours[labels], 0.65, 0)

    def _difference(self, shown: Shown) -> np.ndarray:
        grey = cv2.cvtColor(cv2.cvtColor(shown.frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        picture = self._large(grey // 2 + 120)
        if isinstance(shown.teacher, Detections):
            self._boxes(picture, grey, shown.teacher, colour=_DARK, thickness=3)
            return self._boxes(picture, grey, shown.student, colour=_DIFFERENT)
        differ = (shown.teacher != shown.student).astype(np.uint8)
        differ = cv2.resize(differ, self._panel, interpolation=cv2.INTER_NEAREST).astype(bool)
        picture[differ] = _DIFFERENT
        return picture

    def _boxes(
        self,
        picture: np.ndarray,
        frame: np.ndarray,
        found: Detections,
        *,
        colour: tuple[int, int, int] | None = None,
        thickness: int = 2,
    ) -> np.ndarray:
        scale = np.array([self._panel[0] / frame.shape[1], self._panel[1] / frame.shape[0]] * 2)
        shown = list(
            zip((found.boxes.numpy() * scale).round().astype(int).tolist(), found.labels.tolist(), strict=True)
        )
        for (x0, y0, x1, y1), label in shown:
            cv2.rectangle(picture, (x0, y0), (x1, y1), colour or self._colours[label].tolist(), thickness)
        if colour is None:  # the names last, so that no box hides one
            for ((x0, y0, _, _), label), score in zip(shown, found.scores.tolist(), strict=True):
                _tag(picture, f"{self._classes[label]} {score:.2f}", (x0, y0), self._colours[label].tolist())
        return picture

    def _titled(self, title: str, picture: np.ndarray) -> np.ndarray:
        head = np.full((_HEAD, self._panel[0], 3), _WHITE, np.uint8)
        _write(head, title, (6, 16))
        return np.vstack([head, picture])

    def _large(self, frame: np.ndarray) -> np.ndarray:
        return cv2.resize(frame, self._panel, interpolation=cv2.INTER_LINEAR)

    def _axes(self, duration_s: float | int, threshold: float | int | None) -> np.ndarray:
        strip = np.full((_STRIP, 2 * PANEL, 3), _WHITE, np.uint8)
        _write(strip, "how much of the frame is new since its key frame (bars: key frames)", (_LEFT, 12))
        for level in (0, 0.1, 0.5, 1, 2):
            cv2.line(strip, (_LEFT, _height(level)), (2 * PANEL - 8, _height(level)), _PALE, 1)
            _write(strip, f"{level:g}", (14, _height(level) + 4))
        for share in (0, 0.25, 0.5, 0.75, 1):
            _write(strip, f"{share * duration_s:.3g} s", (self._place(share) - 34 * (share == 1), _STRIP - 4))
        if threshold is not None:
            level = _height(threshold)
            for x in range(_LEFT, 2 * PANEL - 8, 12):
                cv2.line(strip, (x, level), (x + 6, level), _DIFFERENT, 1)
        return strip

    def _curve(self, shown: Shown) -> np.ndarray:
        x = self._place(len(self._points) / max(self._count - 1, 1))
        point = x, _height(shown.energy)
        if shown.key:
            cv2.line(self._strip, (x, _height(0)), (x, _height(0) + 5), _DARK, 1)
        if self._points:
            cv2.line(self._strip, self._points[-1], point, _rgb(COLOURS["delta"]), 2, cv2.LINE_AA)
        self._points.append(point)
        strip = self._strip.copy()
        cv2.circle(strip, point, 3, _rgb(COLOURS["delta"]), -1, cv2.LINE_AA)
        return strip

    def _place(self, share: float | int) -> int:
        return round(_LEFT + min(share, 1) * (2 * PANEL - 8 - _LEFT))


def _height(energy: float | int) -> int:
    # By its root, because most energies are small and a cut is large.
    return round(_STRIP - 22 - math.sqrt(min(energy, _HIGHEST) / _HIGHEST) * (_STRIP - 44))


def _legend(classes: Sequence[str], colours: np.ndarray, *, width: int) -> np.ndarray:
    if len(classes) > _MOST_NAMES:
        return np.empty((0, width, 3), np.uint8)
    step = width // 8
    legend = np.full((_LEGEND_ROW * math.ceil(len(classes) / 8), width, 3), _WHITE, np.uint8)
    for place, (name, colour) in enumerate(zip(classes, colours.tolist(), strict=True)):
        x, y = place % 8 * step + 8, place // 8 * _LEGEND_ROW
        cv2.rectangle(legend, (x, y + 5), (x + 10, y + 15), colour, -1)
        _write(legend, name, (x + 15, y + 14))
    return legend


def _write(picture: np.ndarray, text: str, place: tuple[int, int]) -> None:
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, _DARK, 1, cv2.LINE_AA)


def _tag(picture: np.ndarray, text: str, corner: tuple[int, int], colour: list[int]) -> None:
    """A name on its colour, above the upper left corner of a box, and never beyond the picture."""
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.35, 1)
    x = max(min(corner[0], picture.shape[1] - width), 0)
    y = max(corner[1], height + below)
    cv2.rectangle(picture, (x, y - height - below), (x + width, y), colour, -1)
    bright = np.dot(colour, (0.3, 0.6, 0.1)) > 140
    cv2.putText(
        picture, text, (x, y - below // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.35, _DARK if bright else _WHITE, 1, cv2.LINE_AA
    )  # fmt: skip


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
