"""What figures show of one question about one video: its frames, which were chosen, what was answered (ours)."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vkdlab import plots
from vkdlab.vlap.answerer import Answer
from vkdlab.vlap.backbone import LETTERS, Prompt
from vkdlab.vlap.batches import QuestionBatch
from vkdlab.vlap.frames import VideoFrames
from vkdlab.vlap.prompter import segments

_SMALL, _LARGE = 1720, 400
"""Pixels of all frames side by side, and of one that is shown large: twice what they are on a page of usual width."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """The frames of a video that were looked at.

    Raises:
        ValueError: there is no frame, not one time for each, or a time outside the video.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    """RGB, of any size."""
    times_s: Sequence[float] | Float[np.ndarray, " t"]
    """When each is on screen, seconds, ascending."""
    duration_s: float
    """Length of the video, seconds."""

    def __post_init__(self):
        if not len(self.frames) or len(self.frames) != len(self.times_s):
            raise ValueError(
                f"expected at least one frame and one time per frame, got {len(self.frames)} frames and "
                f"{len(self.times_s)} times"
            )
        if not all(0 <= time <= self.duration_s for time in self.times_s) or (np.diff(self.times_s) <= 0).any():
            raise ValueError(
                f"times ascend and lie within the video's {self.duration_s} s, got {[float(t) for t in self.times_s]}"
            )

    @classmethod
    def of(cls, video: VideoFrames) -> Pictures:
        """All frames of a video that is open; those that were not decoded before are.

        Raises:
            VideoError: a frame cannot be decoded.
        """
        return cls(video.read(range(len(video))), video.times_s, video.duration_s)

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def edges_s(self) -> Float[np.ndarray, " t1"]:
        """Where the time that a frame stands for ends and that of the next begins, from 0 to the video's end."""
        between = (np.asarray(self.times_s[1:]) + np.asarray(self.times_s[:-1])) / 2
        return np.array([0.0, *between, self.duration_s])

    @cached_property
    def small(self) -> list[str]:
        """Data URIs of all frames, as large as they are in a strip."""
        return [_uri(frame, _SMALL // len(self)) for frame in self.frames]

    @cached_property
    def large(self) -> list[str]:
        """Data URIs of all frames, as large as chosen ones are shown."""
        return [_uri(frame, _LARGE) for frame in self.frames]


@dataclass(frozen=True, eq=False)
class Answered:
    """A question about a video with t frames: how frames were chosen, and what was answered from them.

    Raises:
        ValueError: numbers that do not fit together; the message says which.
    """

    prompt: Prompt
    """The question and its options."""
    frame_probs: Float[np.ndarray, " t"]
    """The prompter's, of each frame within its segment, 0 to 1."""
    bounds: tuple[int, ...]
    """First frames of the segments, and behind the last of them: t."""
    frames: tuple[int, ...]
    """Numbers of the frames that the answer was given from, ascending."""
    option_probs: tuple[float, ...]
    """Of the options, 0 to 1."""
    answer: int | None = None
    """Index of the right option; None where nobody knows."""
    evidence: tuple[float, float] | None = None
    """Start and end of what answers the question, as shares of the video; None where it is not known."""
    forced: tuple[int, ...] = ()
    """Those of `frames` that somebody put in place of the prompter's."""

    def __post_init__(self):
        count, options = len(self.frame_probs), len(self.prompt.options)
        if not count:
            raise ValueError("no frame was looked at: frame_probs is empty")
        if self.bounds[:1] != (0,) or self.bounds[-1] != count or list(self.bounds) != sorted(self.bounds):
            raise ValueError(f"bounds of segments ascend from 0 to the number of frames, {count}, got {self.bounds}")
        if list(self.frames) != sorted({*self.frames} & {*range(count)}) or {*self.forced} - {*self.frames}:
            raise ValueError(
                f"chosen frames are different ones of 0 to {count - 1}, ascending, and forced ones are among them, got "
                f"{self.frames} and {self.forced}"
            )
        if len(self.option_probs) != options:
            raise ValueError(f"expected one probability for each of {options} options, got {len(self.option_probs)}")
        if self.answer is not None and not 0 <= self.answer < options:
            raise ValueError(f"the right one of {options} options is numbered from 0, got {self.answer}")

    @classmethod
    def of(cls, answer: Answer, batch: QuestionBatch, row: int = 0) -> Answered:
        """One question of a batch that was answered."""
        selection, prompt = answer.selection, batch.prompts[row]
        count = int(batch.mask[row].sum())
        bounds = segments(batch.mask[[row]].sum(1), select=selection.indices.shape[1])
        evidence = batch.evidence[row].tolist()
        return cls(
            prompt=prompt,
            frame_probs=selection.probs[row].detach().sum(0)[:count].double().cpu().numpy(),
            bounds=tuple(bounds[0].tolist()),
            frames=tuple(selection.indices[row][selection.mask[row]].tolist()),
            option_probs=tuple(answer.probs[row, : len(prompt.options)].tolist()),
            answer=int(batch.answers[row]),
            evidence=tuple(evidence) if all(map(math.isfinite, evidence)) else None,
        )

    @property
    def predicted(self) -> int:
        """The option of the greatest probability; of equals the first."""
        return max(range(len(self.option_probs)), key=self.option_probs.__getitem__)

    @property
    def verdict(self) -> str:
        """Whether the answer is right, and else what it is, with its probability."""
        share = f"{100 * self.option_probs[self.predicted]:.0f} %"
        if self.answer is None:
            return f"“{html.escape(self.prompt.options[self.predicted])}” ({share})"
        return f"{'right' if self.predicted == self.answer else 'wrong'} ({share})"


def lettered(prompt: Prompt) -> list[str]:
    """Options behind their letters, safe to be shown."""
    return [f"{letter} {html.escape(option)}" for letter, option in zip(LETTERS, prompt.options, strict=False)]


def joined(*parts: str) -> str:
    """What is not empty, as one line of a figure."""
    return "; ".join(part for part in parts if part)


def wrapped(parts: Sequence[str], separator: str, *, width: int = 140) -> list[str]:
    """Parts in lines of about so many letters at most."""
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += separator * bool(lines[-1]) + part
    return lines


def _uri(frame: np.ndarray, width: int) -> str:
    width = max(8, width)
    if frame.shape[1] > width:
        height = max(1, round(frame.shape[0] * width / frame.shape[1]))
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return plots.picture_uri(np.ascontiguousarray(frame))
