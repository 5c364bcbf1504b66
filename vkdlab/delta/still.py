"""Still tiles, measured: what is saved where the camera stands still, and what it costs in agreement (ours).

Whether a camera stands still is measured, not seen: the median of the optical flow over a frame is how far the picture
as a whole has moved, whatever moves in front of it. A camera counts as fixed where

    90th percentile over frames of |median flow| <= 0.03 % of the frame's width

which is a tenth of a pixel of 320. The threshold from which a tile has changed is chosen on other videos than those
that are reported (`choose_threshold`).

Teacher, delta network and still tiles run in turns of one period, frame by frame, on one thread, so that whatever else
the machine does meets all of them alike, and none finds its maps driven out of the processor by another at every frame.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from vkdlab.data.dense import DenseDataset
from vkdlab.data.dense_batches import as_input
from vkdlab.delta.frames import check_period
from vkdlab.delta.latency import ready
from vkdlab.delta.memory import keep_freed_memory
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.real import finite, interval_metrics, per_video
from vkdlab.delta.tasks import SEGMENTATION, Task
from vkdlab.delta.tiles import StillTiles
from vkdlab.dense_metrics import AveragePrecision, Confusion
from vkdlab.metrics import Interval, mean_interval

if TYPE_CHECKING:
    import pandas as pd

FIXED = 0.0003
"""Motion of the whole picture, as a share of its width, up to which a camera counts as fixed."""
THRESHOLDS = (0.02, 0.03, 0.05, 0.08)
"""What is tried as the change from which a tile is computed anew."""
LOSS = 0.01
"""Share of pixels in which still tiles may differ from the teacher more than the delta network does without them."""
_STEPS = 12
_WARM_UP = 2


@dataclass(frozen=True)
class Tiled:
    """One video under one camera: teacher, delta network, and delta network with still tiles."""

    data: str
    """The data set."""
    video: str
    """Name of the video."""
    frames: int
    """How many frames were shown."""
    changed: float
    """Share of tiles that had changed, 0..1, on average over the frames after the first."""
    share: float
    """Share of pixels that were computed, likewise: all that surrounds changes included."""
    ms: Mapping[str, float]
    """"teacher", "delta" and "tiles" to milliseconds a frame, on average."""
    cpu_ms: Mapping[str, float]
    """The same of processor time, which a busy machine changes least."""
    agreement: Mapping[str, Confusion | AveragePrecision]
    """"delta" and "tiles" to the task's metric with the teacher's answers as the truth, over all frames."""
    camera: float = math.nan
    """How much the whole picture moves, as `camera_motion` says it; not-a-number where nobody measured it."""

    def same(self, source: str) -> float:
        """Share of pixels with the teacher's class, 0..1; of a detector the task's metric.

        Unlike the mean IoU, it does not count a class that the teacher sees on a few pixels like one on half of all.

        Args:
            source: "delta" or "tiles".
        """
        found = self.agreement[source]
        return found.accuracy if isinstance(found, Confusion) else found.value

    @property
    def times_faster(self) -> float:
        """Still tiles, than the teacher on every frame."""
        return self.ms["teacher"] / self.ms["tiles"]


@dataclass(frozen=True)
class TiledVideos:
    """What was measured on all videos of fixed cameras."""

    videos: tuple[Tiled, ...]
    """By rising share of tiles that change."""
    threshold: float
    """Change of a tile's pixels from which it was computed anew."""
    chosen_on: tuple[str, ...]
    """Names of the videos on which the threshold was chosen; none of `videos`."""
    period: int
    """Frames from one key frame to the next."""
    metric: str
    """What the agreement is measured by."""

    @property
    def times_faster(self) -> Interval:
        """Over videos."""
        return mean_interval([video.times_faster for video in self.videos])

    def agreement(self, source: str) -> float:
        """With the teacher by the task's metric, 0..1: mean over the videos in which it saw something.

        Args:
            source: "delta" or "tiles".
        """
        return _mean([video.agreement[source].value for video in self.videos])

    def same(self, source: str) -> float:
        """What `Tiled.same` says, mean over the videos.

        Args:
            source: "delta" or "tiles".
        """
        return _mean([video.same(source) for video in self.videos])

    def table(self) -> pd.DataFrame:
        """A row for every video, by rising share of tiles that change."""
        import pandas as pd  # takes longer to import than a frame to answer

        rows = {
            f"{video.data}, {video.video}": {
                "motion of the picture (% of width)": 100 * video.camera,
                "tiles changed (%)": 100 * video.changed,
                "computed (%)": 100 * video.share,
                "times faster": video.times_faster,
                "delta, as the teacher (%)": 100 * video.same("delta"),
                "still tiles, as the teacher (%)": 100 * video.same("tiles"),
            }
            for video in self.videos
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def metrics(self) -> dict[str, float | int]:
        """Numbers over all videos by name, as a notebook keeps them."""
        found = {
            "still tiles: videos of fixed cameras": len(self.videos),
            "still tiles: threshold": self.threshold,
            "still tiles: share of tiles changed": _mean([video.changed for video in self.videos]),
            "still tiles: share computed": _mean([video.share for video in self.videos]),
            "still tiles: times less processor time": _mean(
                [video.cpu_ms["teacher"] / video.cpu_ms["tiles"] for video in self.videos]
            ),
        }
        for source in ("delta", "tiles"):
            found[f"still tiles: {self.metric} with the teacher of {source}"] = self.agreement(source)
            found[f"still tiles: same as the teacher of {source}"] = self.same(source)
        return finite(found) | interval_metrics("still tiles: times faster", self.times_faster)


def camera_motion(video: DenseDataset) -> float:
    """How far the picture as a whole moves from frame to frame, as a share of its width.

    The length of the median flow of a frame, and of the frames the 90th percentile: a camera that moves in a tenth of
    the time is none that is fixed. Up to 12 steps are looked at, spread evenly.

    Args:
        video: of one sequence, as `per_video` gives it.

    Raises:
        ValueError: fewer than two frames.
    """
    (sequence,) = video.sequences
    if sequence.count < 2:
        raise ValueError(f"{sequence.id} has {sequence.count} frame: motion is from one frame to the next")
    steps = np.unique(np.linspace(1, sequence.count - 1, _STEPS).round().astype(int)).tolist()
    lengths = [np.hypot(*np.median(video.motion(i)[0].reshape(-1, 2), axis=0)) for i in steps]
    return float(np.quantile(lengths, 0.9)) / video.size[0]


def fixed_cameras(
    datasets: Mapping[str, DenseDataset], *, most: float | int = FIXED, least_frames: int = 16
) -> dict[tuple[str, str], DenseDataset]:
    """The videos of fixed cameras.

    Args:
        datasets: name to frames, as `load_videos` gives them.
        most: `camera_motion` up to which a camera counts as fixed.
        least_frames: videos of fewer frames are left out.

    Returns:
        Data set and name of a video to its frames.
    """
    return {
        (name, video.sequences[0].id): video
        for name, dense in datasets.items()
        for video in per_video(dense)
        if video.sequences[0].count >= max(least_frames, 2) and camera_motion(video) <= most
    }


def tiled(
    network: DeltaNetwork,
    video: DenseDataset,
    *,
    threshold: float | int,
    task: Task = SEGMENTATION,
    teacher: nn.Module | Callable[[Tensor], Any] | None = None,
    period: int = 8,
    tile: int = 16,
    reach: int = 16,
    frames: int = 60,
) -> Tiled:
    """Runs one video through teacher, delta network and still tiles, in turns of a period, on one thread.

    The process keeps freed memory afterwards (`keep_freed_memory`), or all would be timed wrongly. What is timed was
    warmed up: still tiles see the video once before, as a network's first call with a rectangle of another size costs
    as much as several more, and the first two frames are not timed.

    Args:
        network: on the processor; deployed if it is not.
        video: of one sequence, as `per_video` gives it.
        threshold: change of a tile's pixels, root mean square of 0..1, from which it is computed anew.
        task: of the network.
        teacher: is brought into the form of `ready` if it is a module, and called as it is otherwise; by default the
            network's `reference`.
        period: frames from one key frame to the next.
        tile: side of a tile, pixels.
        reach: how far away, pixels, a change is taken to matter.
        frames: at most so many, from the first on.

    Raises:
        ValueError: a number out of range, fewer than four frames, or frames that the network or `StillTiles` does not
            take.
    """
    check_period(period)
    (sequence,) = video.sequences
    count = min(frames, sequence.count)
    if count < _WARM_UP + 2:
        raise ValueError(f"{sequence.id}: at least {_WARM_UP + 2} frames are needed to time two, got {count}")
    network = network if network.recipe.get("forms") is not None else network.deploy()
    teacher = network.reference if teacher is None else ready(teacher) if isinstance(teacher, nn.Module) else teacher
    tiles = StillTiles(network, tile=tile, threshold=threshold, reach=reach, period=period)
    seconds = {source: np.zeros((count, 2)) for source in ("teacher", "delta", "tiles")}
    agreed: dict[str, Any] = {}
    changed, share = [], []
    keep_freed_memory()
    with _one_thread(), torch.inference_mode():
        for _ in tiles.stream(_input(video, i) for i in range(count)):
            pass
        coming: deque[Tensor] = deque()
        runs = {
            "teacher": (teacher(frame) for frame in _taken(coming)),
            "delta": network.stream(_taken(coming), period=period),
            "tiles": tiles.steps(_taken(coming)),
        }
        for turn, first in enumerate(range(0, count, period)):
            some = range(first, min(first + period, count))
            frames_shown = [_input(video, i) for i in some]
            answers: dict[str, list[Any]] = {source: [] for source in runs}
            for source in [*runs, *runs][turn % 3 : turn % 3 + 3]:
                coming.extend(frames_shown)
                for i in some:
                    started = time.perf_counter(), time.process_time()
                    answers[source].append(next(runs[source]))
                    seconds[source][i] = time.perf_counter() - started[0], time.process_time() - started[1]
            for truth, output, step in zip(*answers.values(), strict=True):
                known, classes = task.answers(truth), truth.shape[1] - 3 * task.boxes
                for source, answer in (("delta", output), ("tiles", step.output)):
                    found = task.compare(answer, known, classes=classes)
                    agreed[source] = found if source not in agreed else agreed[source] + found
                changed.append(float(step.changed.mean()))
                share.append(step.share)
    means = {source: 1000 * times[_WARM_UP:].mean(axis=0) for source, times in seconds.items()}
    return Tiled(
        video.name,
        sequence.id,
        count,
        changed=float(np.mean(changed[1:])),
        share=float(np.mean(share[1:])),
        ms={source: float(wall) for source, (wall, _) in means.items()},
        cpu_ms={source: float(cpu) for source, (_, cpu) in means.items()},
        agreement=agreed,
    )


def choose_threshold(
    network: DeltaNetwork,
    videos: Sequence[DenseDataset],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    loss: float | int = LOSS,
    **settings: Any,
) -> float:
    """The largest threshold with which still tiles answer as the teacher does, or little less than the delta network.

    Args:
        network: as `tiled` takes it.
        videos: of fixed cameras; not those that are reported.
        thresholds: what is tried.
        loss: how much the mean of `Tiled.same` over the videos may be below that of the delta network.
        settings: of `tiled`.

    Returns:
        One of `thresholds`; the smallest where none is good enough.

    Raises:
        ValueError: no video, no threshold, or as `tiled`.
    """
    if not videos or not thresholds:
        raise ValueError(f"a threshold is chosen on a video at least, got {len(videos)} and {len(thresholds)} to try")
    for threshold in sorted(thresholds, reverse=True):
        found = [tiled(network, video, threshold=threshold, **settings) for video in videos]
        tiles, delta = (_mean([each.same(source) for each in found]) for source in ("tiles", "delta"))
        if not tiles < delta - loss:
            return threshold
    return min(thresholds)


def on_fixed_cameras(
    network: DeltaNetwork,
    videos: Mapping[tuple[str, str], DenseDataset],
    *,
    task: Task = SEGMENTATION,
    period: int = 8,
    threshold: float | int | None = None,
    **settings: Any,
) -> TiledVideos:
    """Still tiles on all videos of fixed cameras.

    Args:
        network: as `tiled` takes it.
        videos: as `fixed_cameras` gives them.
        task: of the network.
        period: frames from one key frame to the next.
        threshold: as `tiled` takes it. By default every other video, from the first on, is left to `choose_threshold`
            and is not reported.
        settings: of `tiled`.

    Raises:
        ValueError: no video, or only one and no threshold; or as `tiled`.
    """
    if len(videos) < (1 if threshold is not None else 2):
        raise ValueError(
            f"{len(videos)} videos are of fixed cameras: at least one is needed, and another one to choose the "
            "threshold on where none is given"
        )
    settings |= {"task": task, "period": period}
    names, chosen_on = list(videos), []
    if threshold is None:
        names, chosen_on = names[1::2], names[::2]
        threshold = choose_threshold(network, [videos[name] for name in chosen_on], **settings)
    found = [
        replace(
            tiled(network, videos[name], threshold=threshold, **settings),
            data=name[0],
            camera=camera_motion(videos[name]),
        )
        for name in names
    ]
    found.sort(key=lambda video: video.changed)
    return TiledVideos(tuple(found), float(threshold), tuple(map(", ".join, chosen_on)), period, task.metric)


def _input(video: DenseDataset, i: int) -> Tensor:
    return as_input(video.frame(i))[None].contiguous(memory_format=torch.channels_last)


def _taken(coming: deque[Tensor]) -> Iterator[Tensor]:
    while True:  # it is asked for a frame only after one has come
        yield coming.popleft()


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
