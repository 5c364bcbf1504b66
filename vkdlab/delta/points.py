"""Points of the curves of accuracy against cost, and what lies between them (ours)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from vkdlab.delta.evaluate import Measured

KINDS = ("teacher", "delta", "copy", "small", "low rank", "feature distillation")
Axis = Literal["gmac", "ms"]


@dataclass(frozen=True)
class Point:
    """One network at one key-frame period: what it reaches and what it costs."""

    name: str
    """Which curve it belongs to."""
    kind: str
    """What sort of network it is, one of `KINDS`."""
    gamma: float | int
    """How many times narrower small students are; 1 where there are none."""
    period: int
    """Frames from one key frame to the next; 1 for what computes every frame."""
    value: float | int
    """mIoU or mAP, 0..1, mean over the distances from the key frame."""
    by_distance: tuple[float | int, ...]
    """The same at each distance."""
    gmac: float | int
    """Billions of multiply-accumulates, average of a frame."""
    ms: float | int = math.nan
    """Milliseconds, average of a frame; not-a-number where it was not measured."""
    seed: int = 0
    """Of the training."""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"Point.kind is one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.period < 1 or len(self.by_distance) != self.period:
            raise ValueError(
                f"Point.by_distance has one value for each distance below the period, got {len(self.by_distance)} "
                f"for a period of {self.period}"
            )


def points_of(
    measured: Measured,
    *,
    name: str,
    kind: str,
    gmac: Callable[[int], float] | float | int,
    gamma: float | int = 1,
    periods: Sequence[int] = (1,),
    ms: Mapping[int, float] | None = None,
    seed: int = 0,
) -> list[Point]:
    """The points of one network at several periods, from one measurement at the longest.

    Args:
        measured: as `evaluate`, `copying` or `per_frame` gave it.
        name: of the curve.
        kind: of the network.
        gmac: average cost of a frame at a period, 1e9 multiply-accumulates; a number for what costs the same at all.
        gamma: of the students.
        periods: which are wanted, none longer than what was measured.
        ms: period to milliseconds a frame, where it was measured.
        seed: of the training.

    Raises:
        ValueError: a period that was not measured.
    """
    points = []
    for period in periods:
        found = measured.at(period)
        points.append(
            Point(
                name,
                kind,
                float(gamma),
                period,
                found.value,
                found.by_distance,
                float(gmac(period) if callable(gmac) else gmac),
                (ms or {}).get(period, math.nan),
                seed,
            )
        )
    return points


def at_cost(points: Sequence[Point], cost: float | int, *, axis: Axis = "gmac") -> float:
    """What a curve reaches at a cost: on the straight line between its two points next to it.

    For copying and for delta networks the line can be had, by taking one period here and the other there.

    Args:
        points: of one curve and one seed, in any order.
        cost: in the unit of the axis.
        axis: "gmac" or "ms".

    Returns:
        0..1; not-a-number beyond the ends of the curve.

    Raises:
        ValueError: no points, or points of several curves or seeds.
    """
    if len({(point.name, point.seed) for point in points}) != 1:
        raise ValueError(
            f"one curve of one seed is looked at, got {sorted({(point.name, point.seed) for point in points})}"
        )
    ordered = sorted(points, key=lambda point: (getattr(point, axis), point.value))
    costs = [getattr(point, axis) for point in ordered]
    values = [point.value for point in ordered]
    return float(np.interp(cost, costs, values, left=math.nan, right=math.nan))


def table(points: Sequence[Point]) -> pd.DataFrame:
    """A row a point: name, kind, gamma, period, value in per cent, cost, share of the teacher's where there is one."""
    teacher = {point.seed: point for point in points if point.kind == "teacher"}
    return pd.DataFrame(
        {
            "name": point.name,
            "kind": point.kind,
            "gamma": point.gamma,
            "period": point.period,
            "seed": point.seed,
            "value (%)": 100 * point.value,
            "GMAC a frame": point.gmac,
            "of the teacher (%)": 100 * point.gmac / teacher[point.seed].gmac if point.seed in teacher else math.nan,
            "ms a frame": point.ms,
        }
        for point in points
    )
