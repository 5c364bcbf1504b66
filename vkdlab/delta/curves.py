"""Accuracy against cost of a whole study: all networks at all periods, on the same frames and clock (ours)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm.auto import tqdm

from vkdlab.data.dense_batches import as_input
from vkdlab.delta.convert import convert
from vkdlab.delta.evaluate import Measured, evaluate
from vkdlab.delta.floors import copying, per_frame
from vkdlab.delta.latency import FrameTime, interleaved
from vkdlab.delta.points import Axis, Point, at_cost, points_of
from vkdlab.delta.study import TEACHER, Study

PERIODS = (1, 2, 4, 8, 16)
COPY = "copying the key frame"
UNTRAINED = "delta 4, untrained"
RIVALS = {"small": "smaller networks", "low rank": "low-rank networks"}
"""Per-frame networks by kind: the line through them and the teacher is what such a network of any cost would reach."""
COSTS: Mapping[Axis, str] = {"gmac": "at the cost", "ms": "at the ms"}


@dataclass(frozen=True)
class Curves:
    """What every network of a study reaches, and at which cost."""

    points: tuple[Point, ...]
    """One per network and period."""
    measured: Mapping[str, Measured]
    """Name to the metric by distance from the key frame."""
    times: Mapping[str, Mapping[int, FrameTime]]
    """Name to period to time, on the first number of threads; empty where nothing was timed."""
    times_by_threads: Mapping[int, Mapping[str, Mapping[int, FrameTime]]] = field(default_factory=dict)
    """The same by number of threads, all of them."""

    def of(self, name: str) -> list[Point]:
        """The points of one network, cheapest last."""
        return sorted((point for point in self.points if point.name == name), key=lambda point: point.period)

    def rivals(self) -> dict[str, list[Point]]:
        """By name, the curves that a delta network has to beat: copying, and per-frame networks of any cost."""
        teacher = self.of(TEACHER)
        found = {COPY: self.of(COPY)}
        for kind, name in RIVALS.items():
            same = [point for point in self.points if point.kind == kind]
            if same:
                found[name] = [replace(point, name=name) for point in (*teacher, *same)]
        return found

    def metrics(self, metric: str) -> dict[str, float]:
        """All numbers by "network, period n what", as the notebook keeps them.

        "X, at the cost of Y" is what rivals X reach at the GMAC of the delta network Y, "at the ms of" at its time.
        """
        found = {}
        for point in self.points:
            name = f"{point.name}, period {point.period}"
            found[f"{name} {metric}"] = point.value
            found[f"{name} GMAC"] = point.gmac
            if not math.isnan(point.ms):
                found[f"{name} ms"] = point.ms
        rivals = self.rivals()
        for point in self.points:
            for rival, points in rivals.items() if point.kind == "delta" else ():
                for axis, words in COSTS.items():
                    cost = getattr(point, axis)
                    value = math.nan if math.isnan(cost) else at_cost(points, cost, axis=axis)
                    if not math.isnan(value):
                        found[f"{rival}, {words} of {point.name}, period {point.period} {metric}"] = value
        for threads, times in self.times_by_threads.items():
            on = "" if threads == 1 else f" on {threads} threads"
            for name, by_period in times.items():
                for period, time in by_period.items():
                    if name != TEACHER:
                        found[f"{name}, period {period} times faster{on}"] = time.faster_than(times[TEACHER][1])[0]
        return found


def measure_study(
    study: Study,
    *,
    periods: Sequence[int] = PERIODS,
    every: int = 5,
    repeats: int = 10,
    threads: Sequence[int] = (1,),
    progress: bool = True,
) -> Curves:
    """Measures every network of a study on the test split, all on the same frames.

    A frame is measured at every distance below the longest period, so that a period's number is the mean over all
    places of the key frame (amortised, as published). The study's teacher is also run as a delta network whose students
    nobody trained, with gamma 4.

    Args:
        study: its networks.
        periods: frames from one key frame to the next; 1 is the teacher alone.
        every: measures every so many-th frame.
        repeats: timed rounds; 0 for none.
        threads: CPU threads that times are taken on, one after the other; points have those of the first.
        progress: shows a progress bar.

    Raises:
        ValueError: a number out of range, or videos shorter than the longest period.
    """
    dense, task, shape = study.setting.splits.test, study.setting.task, study.setting.splits.frame_shape
    start, longest = max(periods) - 1, max(periods)
    later = [period for period in periods if period > 1]
    teacher = study.macs(TEACHER) / 1e9
    deltas = {name: each.network for name, each in study.of_kind("delta").items()}
    untrained = convert(study.teacher.network, gamma=4)
    timed = {name: each.network for name, each in study.trained.items()}
    by_threads: dict[int, Mapping[str, Mapping[int, FrameTime]]] = {}
    if repeats:
        shown = as_input(np.stack([dense.frame(i) for i in dense.sequences[0].frames[: max(periods)]]))
        by_threads = {n: interleaved(timed, shown, periods=later, repeats=repeats, threads=n) for n in threads}
    times = next(iter(by_threads.values()), {})
    measured: dict[str, Measured] = {}
    points: list[Point] = []
    names = [*study.trained, COPY, UNTRAINED]
    for name in tqdm(names, desc="measuring", unit="network", disable=not progress):
        ms = {period: time.ms for period, time in times.get(name, {}).items()}
        if name in deltas or name == UNTRAINED:
            network = deltas.get(name, untrained)
            measured[name] = evaluate(network, dense, task, period=longest, start=start, every=every)
            form = network.deploy()
            points += points_of(
                measured[name], name=name, kind="delta", gamma=4 if name == UNTRAINED else study[name].gamma,
                gmac=lambda period, form=form: form.macs_per_frame(shape, period) / 1e9, periods=later, ms=ms,
                seed=study.setting.seed,
            )  # fmt: skip
        elif name == COPY:
            measured[name] = copying(study.teacher.network, dense, task, period=longest, start=start, every=every)
            points += points_of(
                measured[name], name=name, kind="copy", gmac=lambda period: teacher / period, periods=periods,
                ms={period: times[TEACHER][1].ms / period for period in periods if times}, seed=study.setting.seed,
            )  # fmt: skip
        else:
            measured[name] = per_frame(study[name].network, dense, task, start=start, every=every)
            points += points_of(
                measured[name], name=name, kind=study[name].kind, gmac=study.macs(name) / 1e9, ms=ms,
                gamma=1 if math.isnan(study[name].gamma) else study[name].gamma, seed=study.setting.seed,
            )  # fmt: skip
    return Curves(tuple(points), measured, times, by_threads)
