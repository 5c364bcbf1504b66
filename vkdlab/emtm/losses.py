"""What span networks are trained on before anybody distils from them: hard labels (EMTM, released code).

y has 0.5 on the true clip and 0.25 on each neighbour; what a missing neighbour would get goes to the true clip. The
matching target is 1 within two clips of the start, 3 within two clips of the end (which wins where both hold), 2
between, 0 outside.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from vkdlab.emtm.outputs import SpanOutput

OUTSIDE, START, INSIDE, END = range(4)


def location_loss(output: SpanOutput, clips: Int[Tensor, "b 2"]) -> Float[Tensor, ""]:
    """Cross-entropy of start and end against targets softened over the neighbouring clips, mean over the batch.

    Args:
        output: logits of a span network.
        clips: first and last clip of the true moment.
    """
    return sum(
        -(soft_target(clips[:, side], output.mask) * functional.log_softmax(logits, dim=1).masked_fill(~output.mask, 0))
        .sum(1)
        .mean()
        for side, logits in enumerate((output.start_logits, output.end_logits))
    )


def soft_target(clip: Int[Tensor, " b"], mask: Tensor) -> Float[Tensor, "b l"]:
    """0.5 on the clip, 0.25 on each neighbour; a missing neighbour's share goes to the clip. Rows sum to 1."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    neighbours = ((steps - clip[:, None]).abs() == 1) & mask
    target = 0.25 * neighbours
    return target + (steps == clip[:, None]) * (1 - target.sum(1, keepdim=True))


def match_loss(output: SpanOutput, clips: Int[Tensor, "b 2"]) -> Float[Tensor, ""]:
    """Cross-entropy of each clip's place, mean over the real clips of the batch."""
    losses = functional.cross_entropy(
        output.match_logits.flatten(0, 1), match_target(clips, output.mask).flatten(), reduction="none"
    )
    return losses[output.mask.flatten()].mean()


def match_target(clips: Int[Tensor, "b 2"], mask: Tensor, *, reach: int = 2) -> Int[Tensor, "b l"]:
    """Each clip's place: `OUTSIDE`, `START`, `INSIDE` or `END`; `reach` in clips."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    first, last = clips[:, :1], clips[:, 1:]
    places = torch.where((steps > first) & (steps < last), INSIDE, OUTSIDE)
    places = torch.where((steps - first).abs() <= reach, START, places)
    return torch.where((steps - last).abs() <= reach, END, places)


def place_overlap(vectors: Float[Tensor, "4 d"]) -> Float[Tensor, ""]:
    """How far the place vectors are from being orthogonal: Frobenius norm of their off-diagonal products."""
    products = vectors @ vectors.T
    # The squared norm's root has no gradient at zero, where orthogonal initialisation starts.
    return (products - torch.diag(products.diagonal())).square().sum().add(1e-12).sqrt()
