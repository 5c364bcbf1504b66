"""Whether the right teacher is believed: rank correlations, and what of the oracle is reached (ours)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vkdlab.emtm.integration import Integrated
from vkdlab.emtm.teacher_outputs import TeacherOutputs
from vkdlab.metrics import Mean


def trust(weights: Integrated | Float[Tensor, "n k 2"], outputs: TeacherOutputs) -> Mean:
    """Spearman's rank correlation between the teachers' weights and their IoU, per query; its mean over the queries.

    Args:
        weights: of the teachers, or what was integrated with them; start and end are averaged.
        outputs: of the same teachers on the same queries.

    Returns:
        -1 to 1; the count is of the queries where there is something to rank: neither all weights nor all IoUs equal.

    Raises:
        ValueError: a query whose true moment is not known.
    """
    given = weights.weights if isinstance(weights, Integrated) else weights
    found = spearman(given.mean(2), outputs.iou)
    return Mean.of(found[~found.isnan()])


def recovered(value: float, uniform: float, oracle: float) -> float:
    """The share of the oracle's gain over the uniform mean that `value` reaches; not-a-number where there is no gain.

    Args:
        value: a metric of a way to weigh the teachers.
        uniform: the same metric of equal weights.
        oracle: the same metric of the oracle.
    """
    return (value - uniform) / (oracle - uniform) if oracle != uniform else math.nan


def spearman(a: Float[Tensor, "b m"], b: Float[Tensor, "b m"]) -> Float[Tensor, " b"]:
    """Rank correlation of each row of `a` with that row of `b`; equal values share the mean of their ranks.

    Returns:
        -1 to 1; not-a-number where all values of a row are equal.
    """
    first, second = (_ranks(values) - (values.shape[1] + 1) / 2 for values in (a, b))
    product = (first * second).sum(1)
    return (product / (first.square().sum(1) * second.square().sum(1)).sqrt()).float()


def _ranks(values: Tensor) -> Tensor:
    ordered = values.contiguous().sort(1).values
    below, up_to = (torch.searchsorted(ordered, values.contiguous(), right=right) for right in (False, True))
    return (below + up_to + 1).double() / 2
