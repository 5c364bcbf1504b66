"""Several teachers' distributions mixed into one, and how sure each teacher is (EMTM; log-linear pooling: ours).

With weights w_t that sum to 1 over the teachers t, for the start and for the end apart, and temperatures T_t:

    p_t(x) <- p_t(x)^(1 / T_t) / sum_x' p_t(x')^(1 / T_t)
    linear        y(x) = sum_t w_t p_t(x)
    log-linear    y(x) = prod_t p_t(x)^w_t / sum_x' prod_t p_t(x')^w_t
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vkdlab.emtm.outputs import Boundaries
from vkdlab.emtm.teacher_outputs import TeacherOutputs, fingerprint_of, require_truth
from vkdlab.metrics import Mean, grounding_metrics, temporal_iou

POOLINGS = ("linear", "log_linear")


@dataclass(frozen=True, eq=False)
class Integrated:
    """One label per query, mixed of k teachers' answers."""

    weights: Float[Tensor, "n k 2"]
    """How much each teacher was believed, for the start and for the end; over the teachers they sum to 1."""
    start: Float[Tensor, "n l"]
    """Probability of each clip to hold the start; 0 on padding."""
    end: Float[Tensor, "n l"]
    """Likewise the end."""
    mask: Bool[Tensor, "n l"]
    """True on real clips."""
    moments_s: Float[Tensor, "n 5 2"]
    """The five best moments, best first, seconds."""
    duration_s: Float[Tensor, " n"]
    """Lengths of the videos, seconds."""
    truth_s: Float[Tensor, "n 2"]
    """The true moments, seconds; not-a-number where the moment is not known."""
    ids: tuple[str, ...]
    """Ids of the queries."""
    names: tuple[str, ...]
    """The teachers."""

    @property
    def iou(self) -> Float[Tensor, " n"]:
        """IoU of the best moment with the truth, 0 to 1.

        Raises:
            ValueError: a query whose true moment is not known.
        """
        require_truth(self.truth_s, self.ids)
        return temporal_iou(self.moments_s[:, 0], self.truth_s)

    @property
    def boundaries(self) -> Boundaries:
        """The label in the form of a teacher's answer."""
        return Boundaries(start=self.start, end=self.end, mask=self.mask)

    @property
    def fingerprint(self) -> str:
        """Hash of ids, label and moments, numbers to five digits behind the point."""
        return fingerprint_of([self.ids, self.names], [self.weights, self.start, self.end, self.mask, self.moments_s])

    def metrics(self) -> dict[str, Mean]:
        """Recalls and mean IoU, in true seconds and against the snapped truth.

        Raises:
            ValueError: a query whose true moment is not known.
        """
        require_truth(self.truth_s, self.ids)
        return grounding_metrics(self.moments_s, self.truth_s, duration_s=self.duration_s, num_clips=self.mask.sum(1))


def integrate(
    outputs: TeacherOutputs,
    weights: Float[Tensor, "n k 2"],
    *,
    temperatures: Float[Tensor, " k"] | None = None,
    pooling: str = "log_linear",
) -> tuple[Float[Tensor, "n l"], Float[Tensor, "n l"]]:
    """Start and end of the mixture, each a distribution over the real clips.

    Args:
        outputs: of k teachers.
        weights: for the start and for the end, not negative, 1 in sum over the teachers.
        temperatures: T_t, above 0; by default 1.
        pooling: "linear" or "log_linear".

    Raises:
        ValueError: a pooling that is none, or weights that are no distribution over the teachers.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"expected pooling {', '.join(POOLINGS)}, got {pooling!r}")
    sums = weights.sum(1)
    bad = ~((weights >= 0).all(1) & ((sums - 1).abs() < 1e-4)).all(1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"weights of query {outputs.ids[row]!r} are {weights[row].tolist()}: expected numbers from 0 that sum to 1 "
            "over the teachers, for the start and for the end"
        )
    start, end = (
        pool(log_calibrated(probs, outputs.mask, temperatures), weights[..., side], outputs.mask, pooling).exp()
        for side, probs in enumerate((outputs.start, outputs.end))
    )
    return start, end


def log_calibrated(
    probs: Float[Tensor, "n k l"], mask: Bool[Tensor, "n l"], temperatures: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "n k l"]:
    """Logarithm of every teacher's distribution at its temperature; -inf on padding.

    On real clips a probability below 1e-8 counts as that, so that no single teacher can rule a clip out for all.
    """
    logs = probs.clamp(min=1e-8).log()
    if temperatures is not None:
        logs = logs / temperatures[:, None]
    return logs.masked_fill(~mask[:, None], -torch.inf).log_softmax(2)


def pool(
    log_probs: Float[Tensor, "n k l"], weights: Float[Tensor, "n k"], mask: Bool[Tensor, "n l"], pooling: str
) -> Float[Tensor, "n l"]:
    """Logarithm of the mixture; -inf on padding."""
    # 0 times -inf is not-a-number, also in gradients: padding is hidden until the end.
    logs = log_probs.masked_fill(~mask[:, None], 0)
    if pooling == "log_linear":
        mixed = (weights[:, None] @ logs).squeeze(1)
        return mixed.masked_fill(~mask, -torch.inf).log_softmax(1)
    mixed = (weights[:, None] @ logs.exp()).squeeze(1)
    return mixed.clamp(min=1e-30).log().masked_fill(~mask, -torch.inf)


def uncertainty_inputs(
    outputs: TeacherOutputs, *, temperatures: Float[Tensor, " k"] | None = None
) -> Float[Tensor, "n u"]:
    """How sure the teachers are and how far they agree, six numbers for each, teacher by teacher, all 0 to 1.

    Entropy of the start and of the end as a share of the greatest possible (0 for a video of one clip), the greatest
    probability of the start and of the end, and 1 - IoU of the teacher's moment with the others': mean and least (0 for
    a single teacher).

    Args:
        outputs: of k teachers; u is 6 k.
        temperatures: of the teachers, where calibrated distributions are to be looked at.
    """
    numbers = []
    greatest = outputs.num_clips.clamp(min=2).log()[:, None]
    peaks = []
    for probs in (outputs.start, outputs.end):
        calibrated = log_calibrated(probs, outputs.mask, temperatures).exp()
        numbers.append(torch.special.entr(calibrated).sum(2) / greatest)
        peaks.append(calibrated.amax(2))
    distance = 1 - temporal_iou(outputs.moments_s[:, :, None], outputs.moments_s[:, None])  # (n, k, k)
    count = len(outputs.names)
    if count == 1:
        apart = [torch.zeros_like(peaks[0])] * 2
    else:
        others = distance.masked_fill(torch.eye(count, dtype=torch.bool), torch.inf)
        apart = [distance.sum(2) / (count - 1), others.amin(2)]
    return torch.stack([*numbers, *peaks, *apart], dim=2).flatten(1)
