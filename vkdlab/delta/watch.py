"""Teacher and delta network over one's own video: side by side to look at, and what each frame costs (ours).

Frame by frame, both networks in turns, so that whatever else the machine does meets both. Nobody knows the truth about
one's own video: the delta network is held against its teacher.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from vkdlab.data.video import FrameReader, write_video
from vkdlab.delta.boxes import boxes_of
from vkdlab.delta.detector import Detections
from vkdlab.delta.frames import check_period
from vkdlab.delta.memory import keep_freed_memory
from vkdlab.delta.network import Step
from vkdlab.delta.side_by_side import Shown, SideBySide
from vkdlab.delta.state import DeltaState
from vkdlab.delta.student_files import Student, latest_student, load_student
from vkdlab.delta.tasks import Truth

if TYPE_CHECKING:
    import pandas as pd

_CHUNK = 32
_WARM_UP = 2


@dataclass(frozen=True)
class Watched:
    """What came of a video."""

    video: Path
    """The file."""
    out: Path | None
    """The side-by-side video, where one was written."""
    size: tuple[int, int]
    """Width and height that the networks saw, pixels."""
    metric: str
    """What the agreement is measured by."""
    agreement: float
    """Of the delta network with its teacher, over all frames, 0 to 1; not-a-number where there was nothing to see."""
    by_frame: Float[np.ndarray, " t"]
    """The same of each frame."""
    energy: Float[np.ndarray, " t"]
    """How much of each frame was new since its key frame, as `DeltaState.energy` says it; 0 for the first."""
    key_frames: tuple[int, ...]
    """Numbers of the key frames."""
    gmac: tuple[float, float]
    """Multiply-accumulates a frame on average, 10^9, of teacher and delta network."""
    ms: tuple[float, float]
    """Milliseconds a frame on average, of teacher and delta network; not-a-number of a video of very few frames."""
    threads: int
    """CPU threads while that was measured."""

    def table(self) -> pd.DataFrame:
        """A row for teacher and delta network: agreement, cost, time, key frames."""
        import pandas as pd  # takes longer to import than a frame to answer

        return pd.DataFrame(
            {
                f"{self.metric} against the teacher, %": [100.0, 100 * self.agreement],
                "GMAC per frame": list(self.gmac),
                "ms per frame": list(self.ms),
                "times faster": [1.0, self.ms[0] / self.ms[1]],
                "key frames": [len(self.energy), len(self.key_frames)],
            },
            index=["teacher", "delta network"],
        )

    def text(self) -> str:
        """The table, to be printed."""
        return self.table().to_string(float_format="{:.2f}".format, na_rep="–")


def watch(
    video: str | os.PathLike,
    *,
    student: Student | str | os.PathLike | None = None,
    teacher: Callable[[Tensor], Tensor] | None = None,
    period: int | None = None,
    threshold: float | int | None = None,
    out: str | os.PathLike | None = None,
    progress: bool = True,
) -> Watched:
    """Runs teacher and delta network over a video file, which is never in memory as a whole.

    The process keeps freed memory afterwards (`keep_freed_memory`), or both networks would be timed wrongly.

    Args:
        video: any file that `FrameReader` opens.
        student: a loaded one, or its folder; the newest in the cache when None.
        teacher: what is held against; takes frames (1, 3, h, w), 0 to 1. By default the student's own teacher.
        period: frames from one key frame to the next; by default the one that the student was trained for.
        threshold: energy from which a frame becomes a key frame (1 finds cuts); None for the period alone.
        out: an MP4 file of both side by side; None for none.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: no such video, or no student; the message says how to get one.
        VideoError: the file is no video that can be read.
        ValueError: a number out of range, or an output that is no MP4 file or the video itself.
    """
    out = None if out is None else Path(out)
    if out is not None and out.suffix != ".mp4":
        raise ValueError(f"the side-by-side video is an MP4 file, such as {out.stem}.mp4, got {out}")
    if out is not None and out.exists() and Path(video).exists() and out.samefile(video):
        raise ValueError(f"{out} is the video itself: write the side-by-side video to another file")
    if period is not None:
        check_period(period)
    if threshold is not None and not threshold > 0:
        raise ValueError(f"a threshold must be above 0, got {threshold}")
    reader = FrameReader(video)
    if not isinstance(student, Student):
        student = load_student(latest_student() if student is None else student)
    keep_freed_memory()
    watching = _Watching(
        reader, student, teacher=teacher, period=period or student.period, threshold=threshold, progress=progress
    )
    if out is None:
        for _ in watching.shown():
            pass
    else:
        write_video(out, watching.pictures(), fps=reader.fps)
    return watching.watched(out)


def fitted(width: int, height: int, *, size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The width and height with a picture's proportions and about as many pixels as `size`, both whole multiples."""
    scale = math.sqrt(size[0] * size[1] / (width * height))
    return tuple(max(round(side * scale / multiple), 1) * multiple for side in (width, height))


class _Watching:
    """One video, as it is watched."""

    def __init__(
        self,
        reader: FrameReader,
        student: Student,
        *,
        teacher: Callable[[Tensor], Tensor] | None,
        period: int,
        threshold: float | int | None,
        progress: bool,
    ):
        self.reader, self.student, self.period, self.threshold = reader, student, period, threshold
        self.teacher = student.deployed.reference if teacher is None else teacher
        self.progress = progress
        self.size = fitted(reader.width, reader.height, size=student.size, multiple=student.multiple)
        self.agreed: Any = None
        self.by_frame: list[float] = []
        self.energy: list[float] = []
        self.keys: list[int] = []
        self.seconds: dict[str, list[float]] = {"teacher": [], "key": [], "delta": []}

    def pictures(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        reader, student = self.reader, self.student
        sheet = SideBySide(
            self.size, classes=student.classes, count=reader.num_frames, fps=reader.fps, metric=student.task.metric,
            threshold=self.threshold,
        )  # fmt: skip
        return (sheet.draw(shown) for shown in self.shown())

    def shown(self) -> Iterator[Shown]:
        frames = self._frames()
        coming: list[Tensor] = []
        state: DeltaState | None = None

        def ready() -> Iterator[Tensor]:
            while True:  # it is asked for a frame only after one has come
                yield coming.pop()

        steps = self.student.deployed.steps(ready(), period=self.period, threshold=self.threshold)
        bar = tqdm(frames, total=self.reader.num_frames, desc="watching", unit="frame", disable=not self.progress)
        for number, picture in enumerate(bar):
            frame = torch.from_numpy(picture).permute(2, 0, 1)[None].float().div(255)
            coming.append(frame)
            if number % 2:
                step, theirs = self._step(steps), self._asked(frame)
            else:
                theirs, step = self._asked(frame), self._step(steps)
            # Where the period alone decides nobody needs the energy to run: it is told, but not timed.
            energy = state.energy(frame) if step.energy is None and state is not None else step.energy or 0.0
            state = step.state
            yield self._compared(number, picture, theirs, step, energy)

    def watched(self, out: Path | None) -> Watched:
        costs = self.student.deployed.costs((3, self.size[1], self.size[0]))
        count, keys = len(self.by_frame), len(self.keys)
        delta = (keys * costs.key + (count - keys) * costs.delta(self.student.deployed.full_layers())) / count
        return Watched(
            video=self.reader.path,
            out=out,
            size=self.size,
            metric=self.student.task.metric,
            agreement=self.agreed.value,
            by_frame=np.array(self.by_frame),
            energy=np.array(self.energy),
            key_frames=tuple(self.keys),
            gmac=(costs.teacher / 1e9, delta / 1e9),
            ms=self._ms(),
            threads=torch.get_num_threads(),
        )

    def _frames(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for first in range(0, self.reader.num_frames, _CHUNK):
            for frame in self.reader.frames(range(first, min(first + _CHUNK, self.reader.num_frames))):
                same = frame.shape[1::-1] == self.size
                yield np.array(frame) if same else cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)

    def _asked(self, frame: Tensor) -> Tensor:
        frame = frame.clone()  # a teacher of one's own may change it in place
        started = time.perf_counter()
        with torch.inference_mode():
            output = self.teacher(frame)
        self.seconds["teacher"].append(time.perf_counter() - started)
        return output

    def _step(self, steps: Iterator[Step]) -> Step:
        started = time.perf_counter()
        step = next(steps)
        self.seconds["key" if step.key else "delta"].append(time.perf_counter() - started)
        return step

    def _compared(
        self, number: int, picture: UInt8[np.ndarray, "h w 3"], theirs: Tensor, step: Step, energy: float
    ) -> Shown:
        task, classes = self.student.task, len(self.student.classes)
        teacher, student = self._answer(theirs), self._answer(step.output)
        if isinstance(teacher, Detections):
            truth = Truth(None, (teacher.boxes,), (teacher.labels,))
        else:
            truth = Truth(torch.from_numpy(teacher)[None].long())
        found = task.compare(step.output, truth, classes=classes)
        self.agreed = found if self.agreed is None else self.agreed + found
        self.by_frame.append(found.value)
        self.energy.append(energy)
        if step.key:
            self.keys.append(number)
        return Shown(picture, teacher, student, step.key, self.energy[-1], found.value)

    def _answer(self, output: Tensor) -> np.ndarray | Detections:
        if self.student.task.boxes:
            return boxes_of(output)[0]
        return output.argmax(1)[0].numpy()

    def _ms(self) -> tuple[float, float]:
        # The first calls of each kind are slower, and medians keep out what else the machine did.
        medians = {
            kind: statistics.median(seconds[_WARM_UP:]) if len(seconds) > _WARM_UP else math.nan
            for kind, seconds in self.seconds.items()
        }
        counts = {kind: len(self.seconds[kind]) for kind in ("key", "delta")}
        delta = sum(count * medians[kind] for kind, count in counts.items() if count) / sum(counts.values())
        return 1e3 * medians["teacher"], 1e3 * delta
