"""What grounding networks say: four shapes of answer, and the one form that all are brought to (ours).

Shares are of the video's length, 0 to 1. Clip `i` of a grid of `n` covers the shares `[i / n, (i + 1) / n)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class SpanOutput:
    """What a span network says; nothing here is normalised."""

    start_logits: Float[Tensor, "b l"]
    """Start of the moment, per clip; -inf on padding."""
    end_logits: Float[Tensor, "b l"]
    """End of the moment, per clip; -inf on padding."""
    match_logits: Float[Tensor, "b l 4"]
    """Each clip's place: outside, at the start, inside, at the end."""
    mask: Bool[Tensor, "b l"]
    """True on real clips."""


@dataclass(frozen=True)
class MapOutput:
    """What a map network says: one score for every pair of a first and a last clip of its own grid."""

    logits: Float[Tensor, "b n n"]
    """Row: first clip, column: last clip; a sigmoid makes each the estimated IoU of that moment with the truth."""
    mask: Bool[Tensor, "b n"]
    """True on real clips of the map's grid; pairs with a clip of padding, or an end before its start, are none."""


@dataclass(frozen=True)
class ProposalOutput:
    """What a proposal network says: scored moments in any order."""

    moments: Float[Tensor, "b k 2"]
    """Start and end, shares of the video; start <= end."""
    logits: Float[Tensor, "b k"]
    """A sigmoid makes each the confidence in that proposal; -inf on a proposal that is none."""


@dataclass(frozen=True)
class RegressionOutput:
    """What a regression network says: one moment."""

    moment: Float[Tensor, "b 2"]
    """Start and end, shares of the video; start <= end."""


@dataclass(frozen=True)
class Boundaries:
    """Where a moment starts and where it ends, as two distributions over the clips of a grid."""

    start: Float[Tensor, "b l"]
    """Probability of each clip to hold the start: not negative, 0 on padding, sums to 1."""
    end: Float[Tensor, "b l"]
    """Probability of each clip to hold the end: likewise."""
    mask: Bool[Tensor, "b l"]
    """True on real clips."""
