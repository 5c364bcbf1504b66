"""What the claims of all methods have in common: differences on the same seeds, with their intervals."""

from collections.abc import Mapping, Sequence

from vkdlab.evidence import Claim
from vkdlab.metrics import mean_interval

Runs = Sequence[Mapping[str, float]]
"""Metrics of runs that differ in their seed alone."""


def points_between(runs: Runs, one: str, other: str, *, name: str, at_least: float | None, note: str = "") -> Claim:
    """One metric above another on the same seeds, both 0..1, in points.

    Args:
        runs: one per seed, that have both metrics.
        one: name of a metric.
        other: name of what it is held against.
        name: of the claim.
        at_least: the least mean; where it is not negative the interval has to lie above zero too. None for no target.
        note: what a reader has to know when it is not met.
    """
    found = mean_interval([100 * (run[one] - run[other]) for run in runs])
    target, met = "reported, no target", True
    if at_least is not None:
        target = f"{at_least:+g} points or more" if at_least else "above 0"
        target += ", interval above zero" if at_least >= 0 else ""
        met = found.mean >= at_least and (at_least < 0 or found.low > 0)
    return Claim(
        name=name, value=found.mean, low=finite(found.low), high=finite(found.high), n_seeds=found.count,
        target=target, met=met, note="" if met else note,
    )  # fmt: skip


def limit(
    values: Sequence[float], *, name: str, at_least: float | None = None, at_most: float | None = None, note: str = ""
) -> Claim:
    """The mean of a number over seeds against a limit, or against none."""
    found = mean_interval(values)
    target, met = "reported, no target", True
    if at_least is not None:
        target, met = f"{at_least:g} or more", found.mean >= at_least
    elif at_most is not None:
        target, met = f"{at_most:g} or less", found.mean <= at_most
    return Claim(
        name=name, value=found.mean, low=finite(found.low), high=finite(found.high), n_seeds=found.count,
        target=target, met=met, note="" if met else note,
    )  # fmt: skip


def finite(value: float) -> float | None:
    """None where there is no number, as for the interval of a single seed."""
    return value if abs(value) < float("inf") else None
