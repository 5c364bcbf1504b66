"""How good a delta network's answers are, by how many frames after the key frame they were given.

    value(T) = mean over d = 0 .. T - 1 of metric(answers given d frames after their key frame)

which is the amortised metric of the released code (Habibian et al., ECCV 2022). There, one labelled frame of a clip
counts; here every frame is answered at every distance, so that no distance has easier frames than another. An answer
depends on the key frame and its own frame alone, so the values of a period hold all shorter ones (`Measured.at`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vkdlab.data.dense import DenseDataset
from vkdlab.data.dense_batches import as_input
from vkdlab.delta.answers import mapped
from vkdlab.delta.boxes import box_consistency, boxes_of, true_boxes
from vkdlab.delta.frames import check_period
from vkdlab.delta.inspection import drift
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.tasks import SEGMENTATION, Task
from vkdlab.dense_metrics import AveragePrecision, Confusion, temporal_consistency
from vkdlab.metrics import Mean


@dataclass(frozen=True)
class Measured:
    """A metric by distance from the key frame, as sums that add up."""

    metric: str
    """Its name, such as "mIoU"."""
    sums: tuple[Confusion | AveragePrecision | Mean, ...]
    """One per distance, from the key frame itself on."""

    @property
    def by_distance(self) -> tuple[float, ...]:
        """The metric at each distance, 0..1."""
        return tuple(each.value for each in self.sums)

    @property
    def value(self) -> float:
        """Mean over the distances, 0..1."""
        return float(np.mean(self.by_distance))

    def at(self, period: int) -> Measured:
        """What is measured at a shorter period: its distances are the first ones of this.

        Raises:
            ValueError: a longer period.
        """
        check_period(period)
        if period > len(self.sums):
            raise ValueError(f"this was measured at distances below {len(self.sums)}, not up to period {period}")
        return Measured(self.metric, self.sums[:period])

    def __add__(self, other: Measured) -> Measured:
        if not isinstance(other, Measured):
            return NotImplemented
        if (self.metric, len(self.sums)) != (other.metric, len(other.sums)):
            raise ValueError(
                f"{self.metric} at {len(self.sums)} distances cannot be added to {other.metric} at {len(other.sums)}"
            )
        return Measured(self.metric, tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)))


@dataclass(frozen=True)
class Followed:
    """A delta network on one stream of frames, beside its teacher."""

    frames: tuple[int, ...]
    """Numbers of the frames in the data set, in the order in which they were shown."""
    key: tuple[bool, ...]
    """Whether each was a key frame."""
    energy: tuple[float, ...]
    """How much of each was new since the last key frame, as `DeltaState.energy` says it; not-a-number for the first."""
    drift: tuple[float, ...]
    """Squared difference of the answer from the teacher's, relative to the squared answer of the teacher."""
    values: tuple[float, ...]
    """The task's metric of each frame alone, 0..1; not-a-number where there are no labels."""
    teacher_values: tuple[float, ...]
    """The teacher's."""
    cuts: tuple[int, ...]
    """Places of the frames that do not follow the one before."""
    metric: str
    """Name of the task's metric; empty where there is none."""
    period: int
    """Frames from one key frame to the next."""
    threshold: float | None
    """Energy above which a frame became a key frame."""


def evaluate(
    network: DeltaNetwork,
    dense: DenseDataset,
    task: Task,
    *,
    period: int,
    start: int | None = None,
    every: int = 1,
    batch: int = 32,
) -> Measured:
    """The metric at every distance from the key frame, on the same frames.

    Args:
        network: on any device.
        dense: frames with labels.
        task: whose metric is taken.
        period: distances 0 to `period` - 1 are measured.
        start: frames at the beginning of each sequence that are not measured, at least `period` - 1 (the default), for
            they are too early for the greatest distance. What is to be compared has to be given the same.
        every: measures every so many-th frame of the others.
        batch: frames at a time.

    Raises:
        ValueError: a number out of range, or no sequence that is long enough.
    """
    wanted = key_frames(measured_frames(dense, period=period, start=start, every=every), period)
    sums: list[Any] = [None] * period
    for distance, frames, output in outputs(network, dense, wanted, batch=batch):
        found = task.measure(output, dense, frames)
        sums[distance] = found if sums[distance] is None else sums[distance] + found
    return Measured(task.metric, tuple(sums))


def agreement(
    network: DeltaNetwork,
    dense: DenseDataset,
    *,
    period: int,
    start: int | None = None,
    every: int = 1,
    batch: int = 32,
) -> Measured:
    """Mean IoU of the network's classes with those of its teacher at every distance: needs no labels.

    Args:
        network: answers with logits of each pixel's classes.
        dense: frames, with labels or without.
        period: as in `evaluate`.
        start: likewise.
        every: likewise.
        batch: likewise.

    Raises:
        ValueError: as in `evaluate`, or answers that are no such logits.
    """
    chosen = measured_frames(dense, period=period, start=start, every=every)
    reference: dict[int, np.ndarray] = {}
    for frames, output in per_frame_outputs(network.reference, dense, chosen, batch=batch):
        reference |= dict(zip(frames, classes_of(output), strict=True))
        classes = output.shape[1]
    sums = [Confusion(np.zeros((classes, classes + 1), np.int64))] * period
    for distance, frames, output in outputs(network, dense, key_frames(chosen, period), batch=batch):
        truth = np.stack([reference[frame] for frame in frames])
        sums[distance] += Confusion.of(classes_of(output), truth, classes=classes)
    return Measured("mIoU with the teacher", tuple(sums))


def consistency(
    network: DeltaNetwork,
    dense: DenseDataset,
    *,
    period: int,
    every: int = 1,
    batch: int = 32,
    task: Task = SEGMENTATION,
) -> dict[str, Measured]:
    """Temporal consistency: how a frame's answers agree with those of the frame before, carried along by the motion.

    Of classes of pixels the mean IoU; of boxes the share that meets one of the frame before (`box_consistency`, ours).
    Every sequence is one stream with key frames at its start and every `period` frames. The value at distance 0 is that
    of the step onto a key frame.

    Args:
        network: taught the task.
        dense: frames; their motion is exact in the built-in world and estimated elsewhere.
        period: frames from one key frame to the next.
        every: measures every so many-th frame, or every next larger number that shares no factor with the period: with
            others some distances would never be met.
        batch: frames at a time.
        task: what the network answers with.

    Returns:
        "teacher", "delta", "copying" (the key frame's answers until the next one), and where there are labels,
        "labels": what answers that are never wrong reach. It is no upper bound: nothing but this is held against the
        truth, and answers that never change, as an untrained network's, are wholly consistent.

    Raises:
        ValueError: as in `evaluate`.
    """
    check_period(period)
    if every < 1:
        raise ValueError(f"every is at least 1, got {every}")
    while np.gcd(every, period) > 1:
        every += 1
    steps = [i for each in dense.sequences for i in each.frames[1::every]]
    if len({_distance(dense, i, period) for i in steps}) < period:
        raise ValueError(f"the sequences are too short for a period of {period}: {_lengths(dense)}")
    needed = sorted({*steps, *(i - 1 for i in steps)})
    wanted = defaultdict(list)
    for i in needed:
        distance = _distance(dense, i, period)
        wanted[i - distance].append(distance)
    answers = boxes_of if task.boxes else classes_of
    found: dict[str, dict[int, Any]] = {"teacher": {}, "delta": {}}
    # Key frames are wanted in any case: copying shows their answers.
    for frames, output in per_frame_outputs(network.reference, dense, sorted({*needed, *wanted}), batch=batch):
        found["teacher"] |= dict(zip(frames, answers(output), strict=True))
        classes = output.shape[1]
    for _, frames, output in outputs(network, dense, wanted, batch=batch):
        found["delta"] |= dict(zip(frames, answers(output), strict=True))
    found["copying"] = {i: found["teacher"][i - _distance(dense, i, period)] for i in needed}
    if dense.classes:
        found["labels"] = {i: true_boxes(dense, i) if task.boxes else dense.labels(i) for i in needed}
    sums: dict[str, list[Any]] = {name: [None] * period for name in found}
    for i in steps:
        motion, visible = dense.motion(i)
        for name, seen in found.items():
            if task.boxes:
                agreed = box_consistency(seen[i], seen[i - 1], motion=motion, visible=visible)
            else:
                agreed = temporal_consistency(
                    seen[i], seen[i - 1], motion=motion, visible=visible,
                    classes=len(dense.classes) if name == "labels" else classes,
                )  # fmt: skip
            row, place = sums[name], _distance(dense, i, period)
            row[place] = agreed if row[place] is None else row[place] + agreed
    metric = "boxes that meet one" if task.boxes else "temporal consistency"
    return {name: Measured(metric, tuple(each)) for name, each in sums.items()}


def cut(dense: DenseDataset, *, before: int = 8, after: int = 12, sequences: tuple[int, int] = (0, 1)) -> list[int]:
    """Numbers of frames with a scene cut in them: the last ones of a sequence, then the first ones of another.

    Args:
        dense: the frames.
        before: frames before the cut.
        after: frames after it.
        sequences: which two of `dense.sequences`.

    Raises:
        ValueError: there are no such sequences, or they are too short.
    """
    if not all(0 <= place < len(dense.sequences) for place in sequences) or sequences[0] == sequences[1]:
        raise ValueError(f"a cut needs two of the sequences 0 to {len(dense.sequences) - 1}, got {sequences}")
    first, second = (dense.sequences[place] for place in sequences)
    if not (1 <= before <= first.count and 1 <= after <= second.count):
        raise ValueError(
            f"before is from 1 to {first.count} and after from 1 to {second.count}, the sequences' lengths, "
            f"got {before} and {after}"
        )
    return [*first.frames[-before:], *second.frames[:after]]


def follow(
    network: DeltaNetwork,
    dense: DenseDataset,
    frames: Sequence[int],
    *,
    period: int,
    threshold: float | int | None = None,
    task: Task | None = None,
) -> Followed:
    """Runs a network over frames in the order given, as over a video, and its teacher beside it.

    Args:
        network: on any device.
        dense: the frames.
        frames: their numbers, such as those of `cut`.
        period: frames from one key frame to the next.
        threshold: energy above which a frame becomes a key frame; None for the period alone.
        task: whose metric is taken of every frame; None where there are no labels.

    Raises:
        ValueError: no frame, or a number out of range.
    """
    if not len(frames):
        raise ValueError("there is no frame to follow")
    device = device_of(network)
    shown = (as_input(dense.frame(i))[None].to(device) for i in frames)
    rows: dict[str, list] = {name: [] for name in ("key", "energy", "drift", "values", "teacher_values")}
    # A threshold that nothing crosses has the energy told all the same.
    stream = network.steps(shown, period=period, threshold=float("inf") if threshold is None else threshold)
    for i, step in zip(frames, stream, strict=True):
        with torch.inference_mode():
            teacher = network.reference(as_input(dense.frame(i))[None].to(device))
            rows["key"].append(step.key)
            rows["energy"].append(float("nan") if step.energy is None else step.energy)
            rows["drift"].append(drift(step.output, teacher))
            for name, output in (("values", step.output), ("teacher_values", teacher)):
                rows[name].append(float("nan") if task is None else task.measure(output, dense, [i]).value)
    return Followed(
        tuple(frames),
        cuts=tuple(
            place
            for place in range(1, len(frames))
            if frames[place] != frames[place - 1] + 1 or frames[place] == dense.sequence_of(frames[place]).first
        ),
        metric=task.metric if task else "",
        period=period,
        threshold=None if threshold is None else float(threshold),
        **{name: tuple(values) for name, values in rows.items()},
    )


def measured_frames(dense: DenseDataset, *, period: int, start: int | None = None, every: int = 1) -> list[int]:
    """Numbers of the frames that count; see `evaluate`."""
    check_period(period)
    start = period - 1 if start is None else start
    if start < period - 1 or every < 1:
        raise ValueError(
            f"start is at least {period - 1} for a period of {period} and every at least 1, got {start} and {every}"
        )
    frames = [i for each in dense.sequences for i in each.frames[start::every]]
    if not frames:
        raise ValueError(f"no frame has {start} frames before it: {_lengths(dense)}. Take a shorter period")
    return frames


def key_frames(frames: Sequence[int], period: int) -> dict[int, list[int]]:
    """Every key frame that has one of the frames at most `period` - 1 after it, and the distances to these."""
    wanted = defaultdict(list)
    for frame in frames:
        for distance in range(period):
            wanted[frame - distance].append(distance)
    return {key: sorted(distances) for key, distances in wanted.items()}


@torch.inference_mode()
def outputs(
    network: DeltaNetwork, dense: DenseDataset, wanted: Mapping[int, Sequence[int]], *, batch: int = 32
) -> Iterator[tuple[int, list[int], Any]]:
    """Answers at given distances from given key frames, many at a time.

    Args:
        network: on any device.
        dense: the frames.
        wanted: number of a key frame to distances, in rising order.
        batch: frames at a time.

    Yields:
        A distance, numbers of frames, and what the network answers to them at this distance.
    """
    forms = defaultdict(list)
    for key in sorted(wanted):
        forms[tuple(wanted[key])].append(key)
    device = device_of(network)
    for distances, keys in forms.items():
        shown = [0, *(distance for distance in distances if distance)]
        size = max(1, batch // len(shown))
        for first in range(0, len(keys), size):
            some = keys[first : first + size]
            frames = as_input(dense.frames[[[key + distance for distance in shown] for key in some]])
            answer = network.clip(frames.to(device))
            for place, distance in enumerate(shown):
                if distance in distances:
                    column = mapped(answer, lambda tensor, place=place: tensor[:, place])
                    yield distance, [key + distance for key in some], column


@torch.inference_mode()
def per_frame_outputs(
    network: Any, dense: DenseDataset, frames: Sequence[int], *, batch: int = 32
) -> Iterator[tuple[list[int], Any]]:
    """Answers of a per-frame network, such as a delta network's `reference`: numbers of frames, and what it says."""
    device = device_of(getattr(network, "__self__", network))
    for first in range(0, len(frames), batch):
        some = list(frames[first : first + batch])
        yield some, network(as_input(dense.frames[some]).to(device))


def classes_of(logits: Float[Tensor, "b k h w"]) -> UInt8[np.ndarray, "b h w"]:
    """The greatest logit's class of each pixel."""
    return logits.argmax(1).to(torch.uint8).cpu().numpy()


def device_of(network: Any) -> torch.device:
    """Where a network's first parameter is; the processor for what has none."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))


def _distance(dense: DenseDataset, i: int, period: int) -> int:
    """How far frame `i` is from its key frame, in a stream that starts with its sequence."""
    return (i - dense.sequence_of(i).first) % period


def _lengths(dense: DenseDataset) -> str:
    return f"the longest sequence of {dense.name} has {max((each.count for each in dense.sequences), default=0)} frames"
