"""Every metric, as sums and counts, so that batches, videos and hosts add up exactly.

Temporal grounding (R@n, IoU = m and mean IoU: Gao et al., TALL, ICCV 2017). Published code differs in one point that
moves the numbers: some of it, EMTM and SeqPAN among it, compares with the true moment **snapped to the clip grid** and
not with the annotated seconds. `grounding_metrics` reports both, and `grid_ceiling` what a perfect model on that grid
reaches.

Also here: the expected calibration error (Guo et al., ICML 2017) and Student-t intervals for sweeps over seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

THRESHOLDS = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Mean:
    """A mean that is still a sum and a count, so that two of them add up exactly.

    Attributes:
        sum: sum of the values.
        count: number of values.
    """

    sum: int | float = 0.0
    count: int | float = 0

    @classmethod
    def of(cls, values: Shaped[Tensor, "*any"]) -> Mean:
        """The mean of all elements of a tensor of any shape; booleans count as 0 and 1."""
        return cls(sum=values.detach().double().sum().item(), count=values.numel())

    @property
    def value(self) -> float:
        """The mean; not-a-number when there is no value."""
        return self.sum / self.count if self.count else math.nan

    def __add__(self, other: Mean) -> Mean:
        if not isinstance(other, Mean):
            return NotImplemented
        return Mean(self.sum + other.sum, self.count + other.count)


def temporal_iou(a_s: Float[Tensor, "*#batch 2"], b_s: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*batch"]:
    """Intersection over union of moments `[start, end]`, in any common unit of time; leading axes broadcast.

    A moment of zero length overlaps nothing, except that two identical ones have IoU 1: what equals the truth is right.

    Returns:
        0..1, in the wider dtype of the two.

    Raises:
        ValueError: a moment ends before it starts or is not finite; the message names the first one.
    """
    for name, moments in (("a_s", a_s), ("b_s", b_s)):
        _check_moments(name, moments)
    low, high = torch.maximum(a_s[..., 0], b_s[..., 0]), torch.minimum(a_s[..., 1], b_s[..., 1])
    intersection = (high - low).clamp(min=0)
    union = (a_s[..., 1] - a_s[..., 0]) + (b_s[..., 1] - b_s[..., 0]) - intersection
    identical = (a_s == b_s).all(dim=-1)
    return torch.where(union > 0, intersection / union.where(union > 0, 1), 0).where(~identical, 1).clamp(max=1)


def recall_at_iou(
    pred_s: Float[Tensor, "n k 2"],
    true_s: Float[Tensor, "n 2"],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    k: int = 1,
) -> dict[float, Mean]:
    """R@k, IoU >= m: the share of queries with at least one of the `k` best predictions at that IoU or above.

    Args:
        pred_s: predicted moments, best first, seconds.
        true_s: annotated moments, seconds.
        thresholds: the m, each in 0..1.
        k: how many of the best predictions count. A method that has fewer repeats one of them.

    Returns:
        One mean, 0..1, per threshold.

    Raises:
        ValueError: fewer than `k` predictions a query, or a moment that ends before it starts.
    """
    if not 1 <= k <= pred_s.shape[1]:
        raise ValueError(
            f"recall at k = {k} needs at least k predictions a query, pred_s has {pred_s.shape[1]}. "
            "Ask the method for more moments, or repeat its last one"
        )
    iou = temporal_iou(pred_s[:, :k].double(), true_s[:, None].double())
    return {threshold: Mean.of((iou >= threshold).any(dim=1)) for threshold in thresholds}


def mean_iou(pred_s: Float[Tensor, "n 2"], true_s: Float[Tensor, "n 2"]) -> Mean:
    """Mean temporal IoU of one prediction a query, both in seconds."""
    return Mean.of(temporal_iou(pred_s.double(), true_s.double()))


def snap_to_grid(
    moment_s: Float[Tensor, "n 2"], duration_s: Float[Tensor, " n"], num_clips: int | Int[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    """The moment on the clip grid that has the greatest IoU with `moment_s`, in seconds.

    Grid moments run from `i * duration / n` to `(j + 1) * duration / n`, i <= j; of equal ones the earliest start, then
    the earliest end, is taken. This is the rule of SeqPAN's released code, which looks through all n * n pairs; the
    best one is always among the neighbours of the two true boundaries, so four are looked at here. A moment of zero
    length takes the clip it lies in.

    Args:
        moment_s: moments within their videos, seconds.
        duration_s: length of each video, seconds, above 0.
        num_clips: n, clips on the grid, the same for all or one number a moment.

    Raises:
        ValueError: a duration or a clip count that is not positive, or a moment that ends before it starts.
    """
    _check_moments("moment_s", moment_s)
    count = torch.as_tensor(num_clips, device=moment_s.device).expand(len(moment_s))
    for name, values in (("duration_s", duration_s), ("num_clips", count)):
        if (bad := ~(values > 0)).any():
            row = int(bad.nonzero()[0, 0])
            raise ValueError(f"{name} of moment {row} is {values[row].item()}, it has to be above 0")
    clip_s = duration_s.double() / count
    position = moment_s.double() / clip_s[:, None]
    last = count[:, None] - 1.0
    start = torch.stack([position[:, 0].floor(), position[:, 0].ceil()], dim=1).clamp(min=0).minimum(last)
    end = torch.stack([position[:, 1].floor() - 1, position[:, 1].ceil() - 1], dim=1).clamp(min=0).minimum(last)
    pairs = torch.stack([start.repeat_interleave(2, dim=1), end.repeat(1, 2)], dim=-1)
    pairs[..., 1] = pairs[..., 1].maximum(pairs[..., 0])
    candidates = torch.stack([pairs[..., 0], pairs[..., 1] + 1], dim=-1) * clip_s[:, None, None]
    best = temporal_iou(candidates, moment_s.double()[:, None]).argmax(dim=1)
    return candidates[torch.arange(len(best), device=best.device), best].to(moment_s.dtype)


def grounding_metrics(
    pred_s: Float[Tensor, "n k 2"],
    true_s: Float[Tensor, "n 2"],
    *,
    duration_s: Float[Tensor, " n"],
    num_clips: int | Int[Tensor, " n"],
) -> dict[str, Mean]:
    """R1 and R5 at IoU 0.3, 0.5 and 0.7 and mean IoU, against the annotated seconds and against the snapped truth.

    Args:
        pred_s: predicted moments, best first, seconds. R5 is reported where there are at least 5 a query.
        true_s: annotated moments, seconds.
        duration_s: length of each query's video, seconds.
        num_clips: clips on the grid to which the truth is snapped.

    Returns:
        `R1@0.3` .. `R5@0.7`, `mIoU`, and each again with ` (snapped)` behind its name, where the truth (and nothing
        else) is snapped as in the code of EMTM and SeqPAN. Means of 0..1.
    """
    found = {}
    for suffix, truth in (("", true_s), (" (snapped)", snap_to_grid(true_s, duration_s, num_clips))):
        for k in (1, 5):
            if k <= pred_s.shape[1]:
                recalls = recall_at_iou(pred_s, truth, k=k)
                found |= {f"R{k}@{threshold}{suffix}": recall for threshold, recall in recalls.items()}
        found[f"mIoU{suffix}"] = mean_iou(pred_s[:, 0], truth)
    return found


def grid_ceiling(
    true_s: Float[Tensor, "n 2"], *, duration_s: Float[Tensor, " n"], num_clips: int | Int[Tensor, " n"]
) -> dict[str, Mean]:
    """What a perfect model that answers on the clip grid reaches against the annotated seconds: R1 and mean IoU."""
    perfect_s = snap_to_grid(true_s, duration_s, num_clips)
    recalls = recall_at_iou(perfect_s[:, None], true_s)
    return {f"R1@{threshold}": recall for threshold, recall in recalls.items()} | {"mIoU": mean_iou(perfect_s, true_s)}


def expected_calibration_error(probs: Float[Tensor, "n c"], labels: Int[Tensor, " n"], *, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equally wide bins of confidence (Guo et al., 2017, eq. 3).

    `sum_b |B_b| / n * |accuracy(B_b) - confidence(B_b)|` with B_b the samples whose greatest probability lies in
    `((b - 1) / bins, b / bins]`.

    Args:
        probs: probabilities, each row summing to 1.
        labels: true classes, 0..c-1.
        bins: number of bins.

    Returns:
        0..1; not-a-number when there is no sample.

    Raises:
        ValueError: rows of `probs` that are no distribution (logits, for instance), or a label outside 0..c-1.
    """
    probs = probs.double()
    if (bad := ((probs < 0).any(dim=1)) | ~((probs.sum(dim=1) - 1).abs() < 1e-3)).any():
        row = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"probs[{row}] sums to {probs[row].sum().item():.4g} and its least value is {probs[row].min().item():.4g}; "
            "a distribution is expected: apply softmax to logits first"
        )
    if (bad := (labels < 0) | (labels >= probs.shape[1])).any():
        row = int(bad.nonzero()[0, 0])
        raise ValueError(f"labels[{row}] is {labels[row].item()}, expected 0..{probs.shape[1] - 1}")
    if not len(probs):
        return math.nan
    confidence, guess = probs.max(dim=1)
    gap = (guess == labels).double() - confidence
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    return torch.zeros(bins, dtype=gap.dtype, device=gap.device).index_add(0, which, gap).abs().sum().item() / len(gap)


@dataclass(frozen=True)
class Interval:
    """A mean and its two-sided confidence interval.

    Attributes:
        mean: mean of the values.
        low: lower end; not-a-number for a single value, which says nothing about its spread.
        high: upper end; likewise.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Student-t interval of the mean: `mean ± t(n - 1) * s / sqrt(n)`, for instance over seeds.

    Raises:
        ValueError: no values, a value that is not finite, or a level outside 0..1.
    """
    values = [float(value) for value in values]
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"an interval needs at least one value and all of them finite, given {values}")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = student_t_quantile((1 + level) / 2, freedom=len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half, len(values))


def paired_interval(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> Interval:
    """Student-t interval of the mean of `a - b`, for two settings run with the same seeds in the same order.

    Raises:
        ValueError: different lengths, no values, or one that is not finite.
    """
    if len(a) != len(b):
        raise ValueError(f"a pair needs both: a has {len(a)} values and b has {len(b)}. Run both over the same seeds")
    return mean_interval([float(x) - float(y) for x, y in zip(a, b, strict=True)], level=level)


def student_t_quantile(probability: float, *, freedom: int) -> float:
    """Quantile of Student's t distribution with a whole number of degrees of freedom.

    Bisection on the closed form of its distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4).

    Raises:
        ValueError: a probability outside (0, 1) or fewer than one degree of freedom.
    """
    if not (0 < probability < 1 and freedom >= 1):
        raise ValueError(f"expected 0 < probability < 1 and freedom >= 1, given {probability} and {freedom}")
    if probability < 0.5:
        return -student_t_quantile(1 - probability, freedom=freedom)
    low, high = 0.0, math.pi / 2
    for _ in range(200):
        middle = (low + high) / 2
        if _within_angle(middle, freedom) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return math.tan((low + high) / 2) * freedom**0.5


def _within_angle(angle: float, freedom: int) -> float:
    """Probability that |t| < tan(angle) * sqrt(freedom)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = 0.0
    for power in range(odd, freedom - 1, 2):
        term = term * cosine**2 * (power - 1) / power if total else (cosine if odd else 1.0)
        total += term
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def _check_moments(name: str, moments: Float[Tensor, "*batch 2"]) -> None:
    if (bad := ~(moments[..., 1] >= moments[..., 0]) | ~moments.isfinite().all(dim=-1)).any():
        where = bad.nonzero()[0].tolist()
        start, end = moments[tuple(where)].tolist()
        raise ValueError(f"{name}{where} is [{start}, {end}]: a moment is finite and does not end before it starts")
