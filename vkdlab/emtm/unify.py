"""Every teacher's answer as two distributions over the clips of the video (EMTM, released scripts).

With v clips on the video, start of clip i at the share i / v, end at (i + 1) / v, and x over the clips:

    span        s(x) = softmax(start logits)
    map         s_i = max_{j >= i} sigmoid(M_ij),   e_j = max_{i <= j} sigmoid(M_ij)
    proposals   s(x) = sum_k p_k exp(-(x - a_k)^2 / 2 width^2),   p = sigmoid(logits), a = starts; ends likewise
    regression  the rule for proposals with one of p = 1

each divided by its sum. Where we differ: a sum of 1 in place of a sigmoid per clip (span) or an L2 norm (the rest), so
that teachers can be mixed; a Gaussian's width is a share of the video, so that it does not depend on padding; cells of
a map below its diagonal or on padding count for nothing; between grids of different lengths mass is moved by overlap in
time and not by interpolation, so that none is lost; no distribution starts from that of the sample before.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vkdlab.emtm.outputs import Boundaries, MapOutput, ProposalOutput, RegressionOutput, SpanOutput


def unify(
    output: SpanOutput | MapOutput | ProposalOutput | RegressionOutput,
    *,
    length: int,
    mask: Bool[Tensor, "b l"],
    width: float = 0.05,
) -> Boundaries:
    """Start and end of the moment as distributions over the clips, whatever shape the answer has.

    Args:
        output: a network's answer; on a grid of its own, or padded otherwise than `mask`, it is moved to that grid.
        length: clips of the grid, padding included; as long as `mask`.
        mask: True on real clips, which come first; at least one per video.
        width: standard deviation of the Gaussian around a boundary in seconds, as a share of the video, 0.001 to 1; the
            released code has 0.05. Only for proposals and regression.

    Returns:
        Not negative, 0 on padding, rows sum to 1; not-a-number where the network said so.

    Raises:
        ValueError: `length` is not the mask's, a video has no clip, a width out of range, or a row without proposal.
        TypeError: an answer of another shape.
    """
    if mask.shape[1] != length:
        raise ValueError(f"length is {length}, the mask has {mask.shape[1]} clips: they are the same grid")
    if not 1e-3 <= width <= 1:
        raise ValueError(f"width is a share of the video from 0.001 to 1, got {width}")
    _check_clips("mask", mask)
    start, end = _boundaries(output, mask, width)
    return Boundaries(start=start, end=end, mask=mask)


def resample_mass(
    probs: Float[Tensor, "b n"], *, source_mask: Bool[Tensor, "b n"], mask: Bool[Tensor, "b l"]
) -> Float[Tensor, "b l"]:
    """A distribution over one grid, brought to another grid over the same video.

    A clip's mass is spread evenly over its time, and a clip of the new grid gets what falls into it.

    Args:
        probs: mass per clip of the old grid; what stands on padding is ignored.
        source_mask: True on real clips of the old grid, which come first.
        mask: True on real clips of the new grid, which come first.

    Returns:
        The same sum per row; 0 on padding; unchanged where both grids have the same number of real clips.

    Raises:
        ValueError: a row without real clips.
    """
    _check_clips("source_mask", source_mask)
    _check_clips("mask", mask)
    old, new = source_mask.sum(1)[:, None, None], mask.sum(1)[:, None, None]
    # In units of duration / (old * new) all edges are whole numbers, so equal grids give the identity to the last bit.
    first = torch.arange(probs.shape[1], device=probs.device)[None, :, None] * new  # (b, n, 1)
    second = torch.arange(mask.shape[1], device=probs.device)[None, None, :] * old  # (b, 1, l)
    overlap = (torch.minimum(first + new, second + old) - torch.maximum(first, second)).clamp(min=0)
    overlap = overlap * source_mask[:, :, None] * mask[:, None, :]
    moved = probs.masked_fill(~source_mask, 0)[:, None, :] @ (overlap / new).to(probs.dtype)
    return moved.squeeze(1)


@functools.singledispatch
def _boundaries(output, mask: Tensor, width: float) -> tuple[Tensor, Tensor]:
    raise TypeError(
        "unify takes a SpanOutput, MapOutput, ProposalOutput or RegressionOutput of vkdlab.emtm.outputs, "
        f"got {type(output).__name__}"
    )


@_boundaries.register(SpanOutput)
def _of_span(output: SpanOutput, mask: Tensor, width: float) -> tuple[Tensor, Tensor]:
    start, end = (
        logits.masked_fill(~output.mask, -torch.inf).softmax(1) for logits in (output.start_logits, output.end_logits)
    )
    return (
        resample_mass(start, source_mask=output.mask, mask=mask),
        resample_mass(end, source_mask=output.mask, mask=mask),
    )


@_boundaries.register(MapOutput)
def _of_map(output: MapOutput, mask: Tensor, width: float) -> tuple[Tensor, Tensor]:
    size = output.logits.shape[1]
    ordered = torch.ones(size, size, dtype=torch.bool, device=output.logits.device).triu()
    allowed = ordered & output.mask[:, :, None] & output.mask[:, None, :]
    logits = output.logits.masked_fill(~allowed, -torch.inf)
    # softmax(log sigmoid) is the sigmoid over its sum, also where every sigmoid is too small for a float.
    start, end = (functional.logsigmoid(logits.amax(axis)).softmax(1) for axis in (2, 1))
    return (
        resample_mass(start, source_mask=output.mask, mask=mask),
        resample_mass(end, source_mask=output.mask, mask=mask),
    )


@_boundaries.register(ProposalOutput)
def _of_proposals(output: ProposalOutput, mask: Tensor, width: float) -> tuple[Tensor, Tensor]:
    none = (output.logits == -torch.inf).all(1)
    if none.any():
        raise ValueError(f"row {int(none.nonzero()[0])} has no proposal: all its logits are -inf")
    return _gaussians(output.moments, functional.logsigmoid(output.logits), mask, width)


@_boundaries.register(RegressionOutput)
def _of_regression(output: RegressionOutput, mask: Tensor, width: float) -> tuple[Tensor, Tensor]:
    return _gaussians(output.moment[:, None], output.moment.new_zeros(len(output.moment), 1), mask, width)


def _gaussians(moments: Tensor, log_weights: Tensor, mask: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Sums in the logarithm: on clips much wider than the Gaussian, all its values are too small for a float."""
    clips = torch.arange(mask.shape[1], device=mask.device)
    found = []
    for side in (0, 1):
        edges = (clips + side) / mask.sum(1, keepdim=True)  # (b, l), shares of the video
        distance = (edges[:, None, :] - moments[:, :, side, None]) / width  # (b, k, l)
        logits = torch.logsumexp(log_weights[:, :, None] - distance.square() / 2, dim=1)
        found.append(logits.masked_fill(~mask, -torch.inf).softmax(1))
    return found[0], found[1]


def _check_clips(name: str, mask: Tensor) -> None:
    if not mask.any(1).all():
        raise ValueError(f"{name} of row {int((~mask.any(1)).nonzero()[0])} has no clip: every video has at least one")
