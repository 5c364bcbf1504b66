"""What a student is distilled with: one soft loss as we build it, one as released (EMTM, section 1.7 of our notes).

Ours, for start and end each, with a label y that is a distribution and detached:

    L_soft = T^2 KL(y_T || softmax(s / T)),   y_T = y^(1/T) / sum y^(1/T),   over real clips alone

As released, with u(x) = softmax(softmax(x / |x|_2 / T)) over all clips, padding among them, and nothing detached:

    D = KL(u(y) || u(s))

A vector of norm 1 has no number above 1, so its softmax is already nearly flat, and the softmax of that is all but
uniform whatever y says: D hardly moves anything, and `gradient_norms` measures by how little.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vkdlab.emtm.losses import soft_target


def soft_loss(
    logits: Float[Tensor, "b l"], label: Float[Tensor, "b l"], mask: Bool[Tensor, "b l"], *, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """`T^2 KL(label_T || student_T)`, mean over the batch; no gradient reaches the label.

    Args:
        logits: of the student, for one boundary; what stands on padding has no influence.
        label: distribution over the real clips, 0 on padding.
        mask: True on real clips, at least one a row.
        temperature: T, above 0; a greater one flattens both.
    """
    label = label.detach().masked_fill(~mask, 0) ** (1 / temperature)
    label = label / label.sum(1, keepdim=True)
    student = functional.log_softmax((logits / temperature).masked_fill(~mask, -torch.inf), dim=1)
    return temperature**2 * _divergence(label, student.masked_fill(~mask, 0))


def released_soft_loss(
    logits: Float[Tensor, "b l"],
    label: Float[Tensor, "b l"],
    mask: Bool[Tensor, "b l"],
    *,
    temperature: float = 1.0,
    softmaxes: int = 2,
) -> Float[Tensor, ""]:
    """The released code's divergence of label and student, mean over the batch; gradients reach the label too.

    Args:
        logits: of the student, for one boundary; on padding they are set to 0, as released, and so get probability.
        label: any scores that are not negative; 0 on padding.
        mask: True on real clips.
        temperature: T, above 0.
        softmaxes: how often a softmax is taken; released: 2. With 1 the same loss without the slip.
    """
    student = _flattened(logits.masked_fill(~mask, 0), temperature, softmaxes)
    return _divergence(_flattened(label, temperature, softmaxes).exp(), student)


def released_label(
    label: Float[Tensor, "b l"], *, temperature: float = 1.0, softmaxes: int = 2
) -> Float[Tensor, "b l"]:
    """What a label has become when the released loss compares it with the student; arguments as there."""
    return _flattened(label, temperature, softmaxes).exp()


@dataclass(frozen=True)
class GradientNorms:
    """How strongly each loss pulls at the student's logits of one boundary: L2 norm of its gradient, mean over rows."""

    hard: float
    """Cross-entropy with the label's likeliest clip, softened over its neighbours."""
    soft: float
    """Our soft loss."""
    one_softmax: float
    """The released loss with one softmax in place of two."""
    released: float
    """The released loss."""


def gradient_norms(
    logits: Float[Tensor, "b l"], label: Float[Tensor, "b l"], mask: Bool[Tensor, "b l"], *, temperature: float = 1.0
) -> GradientNorms:
    """The pull of every loss at the same logits, before it is weighted by alpha; arguments as for `soft_loss`."""
    # Not a number would come of 0 * inf where padding is multiplied by a gradient.
    logits = logits.detach().masked_fill(~mask, 0).requires_grad_()
    label = label.detach()
    over_clips = functional.log_softmax(logits.masked_fill(~mask, -torch.inf), dim=1).masked_fill(~mask, 0)
    losses = {
        "hard": -(soft_target(label.argmax(1), mask) * over_clips).sum(1).mean(),
        "soft": soft_loss(logits, label, mask, temperature=temperature),
        "one_softmax": released_soft_loss(logits, label, mask, temperature=temperature, softmaxes=1),
        "released": released_soft_loss(logits, label, mask, temperature=temperature),
    }
    return GradientNorms(
        **{
            name: (len(logits) * torch.autograd.grad(loss, logits, retain_graph=True)[0]).norm(dim=1).mean().item()
            for name, loss in losses.items()
        }
    )


def _flattened(scores: Tensor, temperature: float, softmaxes: int) -> Tensor:
    """Logarithm of the scores' last softmax."""
    scores = functional.normalize(scores, dim=1) / temperature
    for _ in range(softmaxes - 1):
        scores = scores.softmax(1)
    return scores.log_softmax(1)


def _divergence(probs: Float[Tensor, "b l"], log_probs: Float[Tensor, "b l"]) -> Float[Tensor, ""]:
    """KL(probs || log_probs), mean over rows; 0 log 0 is 0."""
    return (torch.xlogy(probs, probs) - probs * log_probs).sum(1).mean()
