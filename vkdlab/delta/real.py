"""Real video that nobody labelled: the teacher's answers are the reference (ours).

A delta network is to answer as its teacher would, so that any video can tell how well it does: the teacher's answers
become the labels (`answered`), and what is measured with labels is measured with these. Beside it copying, the key
frame's answer shown until the next one, at the same period. How steady answers are needs no reference at all.

Video by video, for videos differ more than frames of one do, and intervals are over videos.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vkdlab.data import load
from vkdlab.data.dense import DenseDataset, load_dense
from vkdlab.data.dense_batches import as_input
from vkdlab.data.dense_files import VOID
from vkdlab.data.own_videos import MOMENTS_FILE
from vkdlab.data.video import FrameReader
from vkdlab.delta.evaluate import Measured, classes_of, consistency, evaluate, measured_frames, per_frame_outputs
from vkdlab.delta.floors import copying
from vkdlab.delta.frames import check_period
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.state import energy_of
from vkdlab.delta.tasks import SEGMENTATION, Task
from vkdlab.delta.watch import fitted
from vkdlab.metrics import Interval, paired_interval

if TYPE_CHECKING:
    import pandas as pd

AGREEMENT = "with the teacher"
"""What is added to a metric's name where the teacher's answers stand for the truth."""


@dataclass(frozen=True)
class OnVideo:
    """One video: the delta network and copying, held against the teacher."""

    data: str
    """The data set."""
    video: str
    """Name of the video."""
    frames: int
    """How many frames were measured, each at every distance from a key frame."""
    energy: tuple[float, ...]
    """How much of a frame is new at each distance, as `DeltaState.energy` says it, on average; 0 of the key frame."""
    delta: Measured
    """Agreement of the delta network with the teacher."""
    copying: Measured
    """Agreement of the key frame's answer."""


@dataclass(frozen=True)
class OnVideos:
    """What was measured on all videos of some data sets."""

    videos: tuple[OnVideo, ...]
    """Those that are long enough."""
    left_out: Mapping[str, str]
    """Name of a video that is not, to the reason."""

    def total(self, source: str) -> Measured:
        """Over the frames of all videos together.

        Args:
            source: "delta" or "copying".
        """
        parts = [getattr(video, source) for video in self.videos]
        return sum(parts[1:], start=parts[0])

    @property
    def gain(self) -> Interval:
        """Points of 1 that the delta network agrees more than copying, per video and after the key frame."""
        return _paired(*([_later(getattr(v, source)) for v in self.videos] for source in ("delta", "copying")))

    def table(self) -> pd.DataFrame:
        """A row for every video, by rising share of what is new."""
        import pandas as pd  # takes longer to import than a frame to answer

        last = max(len(video.energy) for video in self.videos) - 1
        rows = {
            f"{video.data}, {video.video}": {
                "frames": video.frames,
                f"new energy after {last} frames (%)": 100 * video.energy[-1],
                f"delta {video.delta.metric} (%)": 100 * video.delta.value,
                f"copying {video.delta.metric} (%)": 100 * video.copying.value,
            }
            for video in sorted(self.videos, key=lambda video: video.energy[-1])
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def metrics(self) -> dict[str, float | int]:
        """Numbers over all videos by name, as a notebook keeps them."""
        last = len(self.videos[0].energy) - 1
        found = {
            "real video: videos": len(self.videos),
            f"real video: new energy after {last} frames": statistics.fmean(v.energy[-1] for v in self.videos),
        }
        for source in ("delta", "copying"):
            total = self.total(source)
            found[f"real video: {source}, {total.metric}"] = total.value
            found[f"real video: {source}, {total.metric} after {last} frames"] = total.by_distance[-1]
        return finite(found) | interval_metrics("real video: delta above copying", self.gain)


@dataclass(frozen=True)
class Steadiness:
    """Temporal consistency, sequence by sequence."""

    sequences: tuple[str, ...]
    """Names of those that are long enough."""
    by_source: Mapping[str, tuple[Measured, ...]]
    """"teacher", "delta" and "copying" to what was measured of each sequence."""
    left_out: Mapping[str, str]
    """Name of a sequence that is not, to the reason."""

    def total(self) -> dict[str, Measured]:
        """Over all sequences together, as `consistency` gives it."""
        return {source: sum(each[1:], start=each[0]) for source, each in self.by_source.items()}

    def gain(self, source: str, *, than: str = "teacher") -> Interval:
        """Points of 1 by which one source is more consistent than another: mean over sequences of their differences.

        Args:
            source: one of `by_source`.
            than: likewise.
        """
        return _paired(*([each.value for each in self.by_source[name]] for name in (source, than)))

    def metrics(self, data: str) -> dict[str, float | int]:
        """Numbers over all sequences by name, as a notebook keeps them.

        Args:
            data: the data set's name.
        """
        found = {f"{data}: consistency of {source}": each.value for source, each in self.total().items()}
        found = finite(found)
        for source in ("delta", "copying"):
            found |= interval_metrics(f"{data}: consistency of {source} above the teacher", self.gain(source))
        return found


def load_videos(
    names: str | Sequence[str],
    *,
    size: tuple[int, int] = (320, 240),
    multiple: int = 16,
    videos: int | None = None,
    root: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, DenseDataset]:
    """Frames of real videos, each data set brought to one size.

    Args:
        names: of data sets with videos ("clips", "davis20", "gmdcsa24", "arid6"), or folders of one's own that hold a
            `moments.csv`; in one text, separated by commas, or as a list. Test splits are taken, of a folder all of it.
        size: width and height; a data set's frames get about as many pixels, in the proportions of its middle video.
        multiple: what width and height are multiples of: of what the network takes, and of the side of a tile.
        videos: at most so many of each data set.
        root: the data root, default `$VKDLAB_DATA`.
        workers: processes that decode, default one a core.
        progress: shows progress bars.

    Returns:
        Name to frames.

    Raises:
        ValueError: no name, or as `load_dense`.
        DataMissing, ManifestError: as `load_dense`.
    """
    given = names.split(",") if isinstance(names, str) else list(names)
    if not (given := [name.strip() for name in given if name.strip()]):
        raise ValueError('no data set is named: give "clips", "clips,davis20", or a folder of videos of your own')
    found = {}
    for name in given:
        split = "all" if (Path(name).expanduser() / MOMENTS_FILE).is_file() else "test"
        paths = [video.path for video in load(name, split, root=root, progress=progress).videos.values()]
        if not paths:
            raise ValueError(f"{name} has no video in its split {split!r}")
        fit = None  # frames that come as pictures have one size of their own
        if all(path is not None and path.is_file() for path in paths):
            shapes = [(reader.width, reader.height) for reader in map(FrameReader, paths)]
            fit = fitted(*sorted(shapes, key=lambda shape: shape[0] / shape[1])[len(shapes) // 2], size=size,
                         multiple=multiple)  # fmt: skip
        most = None if videos is None else min(videos, len(paths))
        found[name] = load_dense(
            name, split, size=fit, videos=most, root=root, workers=workers, progress=progress
        )  # fmt: skip
    return found


def per_video(dense: DenseDataset, *, frames: int | None = None) -> list[DenseDataset]:
    """Every sequence as a data set of its own, without its labels; no frame is copied.

    Args:
        dense: the frames.
        frames: at most so many of each, from the first on; None for all.
    """
    found = []
    for sequence in dense.sequences:
        count = sequence.count if frames is None else min(sequence.count, frames)
        found.append(
            replace(
                dense, sequences=(replace(sequence, first=0, count=count),), classes=(), codes=None, to_class=None,
                frames=dense.frames[sequence.first : sequence.first + count], box_rows=None, box_codes=None,
            )
        )  # fmt: skip
    return found


def answered(
    network: DeltaNetwork, dense: DenseDataset, frames: Sequence[int], *, task: Task = SEGMENTATION, batch: int = 32
) -> DenseDataset:
    """The same frames with the teacher's answers as their labels.

    Args:
        network: whose `reference` answers.
        dense: the frames.
        frames: numbers of those that get labels; the others have none.
        task: whose answers these are; of a detector, the things of which it is surer than not.
        batch: frames at a time.

    Raises:
        ValueError: the network does not take frames of this size.
    """
    codes = rows = None
    things: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    classes = 0
    for some, output in _answers(network, dense, frames, batch):
        if not task.boxes:
            codes = np.full(dense.frames.shape[:3], VOID, np.uint8) if codes is None else codes
            codes[some], classes = classes_of(output), output.shape[1]
            continue
        truth, classes = task.answers(output), output.shape[1] - 3  # four for the box, and the background is a class
        for place, i in enumerate(some):
            things[i] = truth.boxes[place].cpu().numpy(), truth.box_labels[place].cpu().numpy()
    if task.boxes:
        most = max((len(kinds) for _, kinds in things.values()), default=0)
        rows = np.full((len(dense), most, 4), np.nan, np.float32)
        codes = np.zeros((len(dense), most), np.uint8)
        for i, (boxes, kinds) in things.items():
            rows[i, : len(kinds)], codes[i, : len(kinds)] = boxes, kinds
    return replace(
        dense,
        classes=tuple(map(str, range(classes))),
        to_class=np.arange(256, dtype=np.uint8),
        codes=None if task.boxes else codes,
        box_rows=rows,
        box_codes=codes if task.boxes else None,
    )


def on_videos(
    network: DeltaNetwork,
    datasets: Mapping[str, DenseDataset],
    *,
    task: Task = SEGMENTATION,
    period: int = 8,
    frames: int = 12,
    batch: int = 32,
) -> OnVideos:
    """Agreement with the teacher by distance from the key frame, and how much is new; video by video.

    Every measured frame is answered at every distance, so that no distance has easier frames than another.

    Args:
        network: on any device.
        datasets: name to frames, as `load_videos` gives them.
        task: of the network.
        period: distances 0 to `period` - 1 are measured.
        frames: at most so many frames of a video are measured, spread evenly over it.
        batch: frames at a time.

    Raises:
        ValueError: a number out of range, frames that the network does not take, or no video that is long enough; one
            that is not, among others, is left out and named.
    """
    check_period(period)
    if frames < 1:
        raise ValueError(f"at least one frame of a video is measured, got {frames}")
    found, left_out = [], {}
    for name, dense in datasets.items():
        for video in per_video(dense):
            (sequence,) = video.sequences
            if sequence.count < period:
                left_out[f"{name} {sequence.id}"] = f"{sequence.count} frames are fewer than the period of {period}"
                continue
            every = math.ceil((sequence.count - period + 1) / frames)
            chosen = measured_frames(video, period=period, every=every)
            labelled = answered(network, video, chosen, task=task, batch=batch)
            energy = [
                statistics.fmean(
                    energy_of(*(as_input(video.frame(j))[None] for j in (i, i - distance))) for i in chosen
                )
                for distance in range(period)
            ]
            delta, copied = (
                measure(network, labelled, task, period=period, every=every, batch=batch)
                for measure in (evaluate, copying)
            )
            delta, copied = (replace(each, metric=f"{task.metric} {AGREEMENT}") for each in (delta, copied))
            found.append(OnVideo(name, sequence.id, len(chosen), tuple(energy), delta, copied))
    if not found:
        raise _too_short(datasets, period)
    return OnVideos(tuple(found), left_out)


def steadiness(
    network: DeltaNetwork,
    dense: DenseDataset,
    *,
    task: Task = SEGMENTATION,
    period: int = 8,
    frames: int | None = None,
    batch: int = 32,
) -> Steadiness:
    """Temporal consistency of teacher, delta network and copying, sequence by sequence; see `consistency`.

    Args:
        network: on any device.
        dense: frames; their motion is exact in the built-in world and estimated elsewhere.
        task: of the network.
        period: frames from one key frame to the next.
        frames: at most so many of each sequence, from the first on; None for all.
        batch: frames at a time.

    Raises:
        ValueError: as `consistency`, frames that the network does not take, or no sequence that is longer than the
            period; one that is not, among others, is left out and named.
    """
    check_period(period)
    found: dict[str, list[Measured]] = {}
    names, left_out = [], {}
    for video in per_video(dense, frames=frames):
        (sequence,) = video.sequences
        if sequence.count <= period:
            left_out[sequence.id] = f"{sequence.count} frames hold no step at every distance of period {period}"
            continue
        next(_answers(network, video, [0], batch))
        names.append(sequence.id)
        for source, measured in consistency(network, video, period=period, batch=batch, task=task).items():
            found.setdefault(source, []).append(measured)
    if not names:
        raise _too_short({dense.name: dense}, period)
    return Steadiness(tuple(names), {source: tuple(each) for source, each in found.items()}, left_out)


def _answers(network: DeltaNetwork, dense: DenseDataset, frames: Sequence[int], batch: int):
    try:
        yield from per_frame_outputs(network.reference, dense, frames, batch=batch)
    except (ValueError, RuntimeError) as error:
        width, height = dense.size
        raise ValueError(
            f"the network does not take the frames of {dense.name}, {width}x{height} pixels: {error}"
        ) from error


def _later(measured: Measured) -> float:
    """After the key frame, on which all agree; of period 1 there is nothing else."""
    return float(np.mean(measured.by_distance[1:] or measured.by_distance))


def _paired(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Over the videos in which both have a value: of a detector that finds nothing there is none."""
    pairs = [pair for pair in zip(a, b, strict=True) if all(map(math.isfinite, pair))]
    return paired_interval(*zip(*pairs, strict=True)) if pairs else Interval(math.nan, math.nan, math.nan, 0)


def _too_short(datasets: Mapping[str, DenseDataset], period: int) -> ValueError:
    longest = max((each.count for dense in datasets.values() for each in dense.sequences), default=0)
    return ValueError(
        f"no video of {', '.join(datasets) or 'these'} is long enough for a period of {period}: the longest has "
        f"{longest} frames. Take a shorter period or other videos"
    )


def finite(metrics: Mapping[str, float | int]) -> dict[str, float | int]:
    """Those that have a value."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def interval_metrics(name: str, interval: Interval) -> dict[str, float | int]:
    """A mean and the ends of its 95 % interval, by name."""
    found = {name: interval.mean, f"{name}, low": interval.low, f"{name}, high": interval.high}
    return finite(found)
