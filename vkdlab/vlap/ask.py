"""From a video file, a question and its options to an answer, by a trained student (ours).

Frames are decoded when they are needed. The first question about a file has all T frames decoded, to be glanced at;
their thumbnails are kept in the cache, so that the next one has nothing decoded but the S frames that it reads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vkdlab.data.video import FrameReader
from vkdlab.vlap.backbone import LETTERS, Prompt
from vkdlab.vlap.frames import VideoFrames
from vkdlab.vlap.latency import STAGES
from vkdlab.vlap.prompter import segments
from vkdlab.vlap.student_files import SavedStudent, latest_student, load_student

_ANY = Prompt("Which?", ("this", "that"))
"""Read first, so that the encoder of words is loaded before any seconds count."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A question, answered on a video: t frames were looked at, s of them read."""

    video: Path
    """The file."""
    prompt: Prompt
    """What was asked, and what may be answered."""
    option_probs: Float[np.ndarray, " o"]
    """Probability of each option; they sum to 1."""
    numbers: Int[np.ndarray, " t"]
    """Numbers in the video, from 0, of the frames that were looked at."""
    times_s: Float[np.ndarray, " t"]
    """When each is on screen, seconds."""
    parts: Int[np.ndarray, " t"]
    """In which of the s parts of the video each is; one frame of each part is read."""
    scores: Float[np.ndarray, " t"]
    """The prompter's logits."""
    probs: Float[np.ndarray, " t"]
    """The prompter's probability of each frame within its part, 0 to 1."""
    chosen: tuple[int, ...]
    """Places among the t frames, from 0, of those that were read; ascending."""
    thumbnails: UInt8[np.ndarray, "t h w 3"]
    """What was glanced at, RGB."""
    decoded: int
    """How many frames were decoded."""
    seconds: Mapping[str, float]
    """How long each of `vkdlab.vlap.latency.STAGES` took."""
    loading_s: float
    """How long it took before to load the student and what encodes words; next to nothing where they were there."""
    student: SavedStudent
    """Who answered."""

    @property
    def answer(self) -> int:
        """Index of the option of the highest probability; of equals the first."""
        return int(self.option_probs.argmax())

    @property
    def frames(self) -> tuple[int, ...]:
        """Numbers in the video, from 0, of the frames that were read."""
        return tuple(self.numbers[list(self.chosen)].tolist())

    def text(self) -> str:
        """Options, frames that were read, and seconds, to be printed."""
        lines = ["    probability  option"]
        for place, (option, prob) in enumerate(zip(self.prompt.options, self.option_probs, strict=True)):
            lines.append(f"{'>' if place == self.answer else ' '} {LETTERS[place]} {prob:11.3f}  {option}")
        lines.append("read at (s)  frame    score  probability in its part")
        for place in self.chosen:
            time_s, score, prob = self.times_s[place], self.scores[place], self.probs[place]
            lines.append(f"{time_s:11.2f}  {self.numbers[place]:5d}  {score:7.2f}  {prob:24.3f}")
        lines.append(f"Frames: {len(self.numbers)} looked at, {len(self.chosen)} read, {self.decoded} decoded")
        stages = ", ".join(f"{stage} {each_s:.3f}" for stage, each_s in self.seconds.items())
        lines.append(f"Seconds: {sum(self.seconds.values()):.3f} ({stages}); before, to load: {self.loading_s:.3f}")
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """All but the pictures as plain values, for JSON."""
        prompt, chosen = self.prompt, set(self.chosen)
        columns = (self.numbers, self.times_s, self.scores, self.probs)
        return {
            "video": str(self.video),
            "question": prompt.question,
            "options": [
                {"letter": LETTERS[place], "option": option, "prob": prob}
                for place, (option, prob) in enumerate(zip(prompt.options, self.option_probs.tolist(), strict=True))
            ],
            "answer": prompt.options[self.answer],
            "frames": [
                {"frame": number, "time_s": time_s, "score": score, "prob": prob, "read": place in chosen}
                for place, (number, time_s, score, prob) in enumerate(
                    zip(*(column.tolist() for column in columns), strict=True)
                )
            ],
            "decoded": self.decoded,
            "seconds": dict(self.seconds),
            "loading_s": self.loading_s,
            "student": str(self.student.folder),
            "trained_on": self.student.data,
        }


def ask(
    video: str | os.PathLike,
    question: str,
    options: Sequence[str],
    *,
    student: SavedStudent | str | os.PathLike | None = None,
    select: int | None = None,
    kept: bool = True,
) -> Asked:
    """Answers a multiple-choice question about a video.

    A student whose prompter is the released one draws frames at random; all others answer the same every time.

    Args:
        video: any file that `FrameReader` opens.
        question: in English.
        options: 2 to 5 different answers.
        student: a loaded one, which answers several questions faster, or its folder; the newest in the cache when None.
        select: S, how many frames to read; by default as many as the student was trained for. Of a video with fewer
            frames all are read.
        kept: whether thumbnails of the video are kept in the cache, or taken from there.

    Raises:
        FileNotFoundError: no such video, or no student; the message says how to get one.
        VideoError: the file is no video that can be read.
        ValueError: an empty question, options that are too few, too many, empty or alike, a text with no word or more
            than 63 word pieces, or more frames to read than the student looks at.
        ImportError: MiniLM is not installed; the message says how to get it.
    """
    prompt = _prompt(question, options)
    if select is not None and select < 1:
        raise ValueError(f"the number of frames to read is at least 1, got {select}")
    reader = FrameReader(video)
    started = time.perf_counter()
    if not isinstance(student, SavedStudent):
        student = load_student(latest_student() if student is None else student)
    select = student.select if select is None else select
    if select > student.frames:
        raise ValueError(f"this student looks at {student.frames} frames of a video and cannot read {select} of them")
    student.student.backbone.read([_ANY])
    loading_s = time.perf_counter() - started
    return _answered(prompt, student, reader, select=select, kept=kept, loading_s=loading_s)


@torch.inference_mode()
def _answered(
    prompt: Prompt, student: SavedStudent, reader: FrameReader, *, select: int, kept: bool, loading_s: float
) -> Asked:
    backbone, prompter = student.student.backbone, student.student.prompter
    seconds = dict.fromkeys(STAGES, 0.0)
    clock = partial(_adding, seconds)
    with clock("decode"):
        video = VideoFrames(
            reader.path, count=student.frames, size=student.size, thumbnail=student.thumbnail, kept=kept
        )
        thumbnails = video.glance()
    with clock("read"):
        text = backbone.read([prompt])
    with clock("glance"):
        glances = _rounded(student.glance(torch.from_numpy(thumbnails)))
    with clock("choose"):
        selection = prompter(glances[None], backbone.question(text), select=select)
    chosen = selection.indices[selection.mask]
    with clock("decode"):
        pictures = video.read(chosen.tolist())
    with clock("see"):
        tokens = _rounded(backbone.see(torch.from_numpy(pictures)))
    mask, places = torch.ones(1, len(chosen), dtype=torch.bool), torch.from_numpy(video.places).float()
    with clock("look"):
        visual = backbone.look(tokens[None], text, mask, places[chosen][None])
    with clock("score"):
        logits = backbone.score(visual, text, mask)
    return Asked(
        video=reader.path,
        prompt=prompt,
        option_probs=logits[0].double().softmax(0).numpy(),
        numbers=np.searchsorted(reader.timestamps_s, video.times_s),
        times_s=video.times_s,
        parts=_parts(len(video), select=select),
        scores=selection.scores[0].double().numpy(),
        probs=selection.probs[0].sum(0).double().numpy(),
        chosen=tuple(chosen.tolist()),
        thumbnails=thumbnails,
        decoded=video.decoded,
        seconds=seconds,
        loading_s=loading_s,
        student=student,
    )


def _parts(count: int, *, select: int) -> Int[np.ndarray, " t"]:
    bounds = segments(torch.tensor([count]), select=select)[0].numpy()
    found = np.searchsorted(bounds[1:], np.arange(count), side="right")
    return np.unique(found, return_inverse=True)[1]  # of a short video some parts have no frame, and do not count


def _prompt(question: str, options: Sequence[str]) -> Prompt:
    question = " ".join(question.split())
    options = [" ".join(option.split()) for option in ([options] if isinstance(options, str) else options)]
    if not question:
        raise ValueError("the question is empty: ask something, such as 'What happens to the red cup?'")
    if not 2 <= len(options) <= len(LETTERS):
        given = ": " + ", ".join(map(repr, options)) if options else ""
        raise ValueError(f"a question needs 2 to {len(LETTERS)} options to choose from, got {len(options)}{given}")
    seen: dict[str, int] = {}
    for number, option in enumerate(options, start=1):
        if not option:
            raise ValueError(f"option {number} is empty: leave it out, or say what it is")
        first = seen.setdefault(option.casefold(), number)  # MiniLM reads no capitals
        if first != number:
            raise ValueError(f"options {first} and {number} are the same, {option!r}: each has to say something else")
    return Prompt(question, tuple(options))


def _rounded(tokens: Tensor) -> Tensor:
    """As they were kept while the student was trained."""
    return tokens.half().float()


@contextmanager
def _adding(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - started
