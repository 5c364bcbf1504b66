"""Which layers keep their full student: a search by gradient, and a choice that keeps to a budget.

    soft = sigmoid((b + G1 - G2) / tau),  G1, G2 ~ Gumbel(0, 1),  gate = 1[soft >= 1/2], gradient of soft

One gate per layer and call of the network, tau = 2/3, as in the released code of Habibian et al. The cost is that of
the layers' real multiply-accumulates, where that code reads a file. The budget is ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from vkdlab.delta.costs import Costs

TEMPERATURE = 2 / 3


def sample_gate(logit: Float[Tensor, ""], *, temperature: float = TEMPERATURE) -> Float[Tensor, ""]:
    """Draws 1 with probability sigmoid(logit), else 0, with the gradient of the soft sample.

    Args:
        logit: of keeping the full student.
        temperature: tau, above 0.
    """
    uniform = torch.rand(2, device=logit.device, dtype=logit.dtype).clamp(torch.finfo(logit.dtype).tiny, 1 - 1e-7)
    noise = -(-uniform.log()).log()
    soft = ((logit + noise[0] - noise[1]) / temperature).sigmoid()
    hard = (soft.detach() >= 0.5).to(soft)
    return hard + (soft - soft.detach())


def cost_share(gates: Mapping[str, Tensor], costs: Costs, *, period: int) -> Float[Tensor, ""]:
    """Average cost of a frame as a share of the teacher's, for gates that were drawn; its gradient reaches them.

    Args:
        gates: of each layer that has one, 0 or 1.
        costs: of the network, at the size that counts.
        period: frames from one key frame to the next.

    Raises:
        ValueError: there is no gate, or a gate of a layer that has no costs.
    """
    if not gates:
        raise ValueError("no gates were drawn: call the network in training mode with searching = True")
    if unknown := sorted(set(gates) - set(costs.layers)):
        raise ValueError(f"gates of layers without costs: {', '.join(unknown)}")
    delta = costs.delta(()) + sum(
        gate * float(costs.layers[name].full - costs.layers[name].small) for name, gate in gates.items()
    )
    return (costs.key + (period - 1) * delta) / (period * costs.teacher)


def cost_loss(
    gates: Mapping[str, Tensor], costs: Costs, *, period: int, budget: float | int | None = None
) -> Float[Tensor, ""]:
    """What to add to the loss so that gates close.

    It counts the form that is trained, in which a key frame costs what the teacher does. The form that runs costs a few
    hundredths more or less of the teacher; `DeltaNetwork.choose` keeps that one to the budget when the search is over.

    Args:
        gates: as they were drawn.
        costs: of the network as it is trained.
        period: frames from one key frame to the next.
        budget: share of the teacher's cost; no loss is left where the network keeps to it. None gives the loss of
            the released code: the share that full students add.
    """
    share = cost_share(gates, costs, period=period)
    if budget is None:
        return share - costs.per_frame(period, ()) / costs.teacher
    return (share / budget - 1).relu()


def within_budget(
    scores: Mapping[str, tuple[float | int, ...]], costs: Costs, *, budget: float | int, period: int
) -> tuple[str, ...]:
    """The layers that keep their full student: those of greatest score that the budget has room for.

    So do those whose small student would cost more, as it does where nearly all frames are key frames.

    Args:
        scores: of each layer that has a gate.
        costs: of the form that is to keep to the budget; the deployed one runs.
        budget: average cost of a frame, as a share of the teacher's.
        period: frames from one key frame to the next.

    Raises:
        ValueError: not even the cheapest students keep to the budget.
    """
    small = costs.per_frame(period, ())
    cheap = [name for name in scores if costs.per_frame(period, (name,)) <= small]
    least = costs.per_frame(period, cheap) / costs.teacher
    if not budget >= least:
        raise ValueError(
            f"a budget of {budget:.3g} of the teacher's cost cannot be kept at period {period}: small students "
            f"wherever they are cheaper cost {least:.3g}. Ask for more, for a longer period, or convert with a larger "
            "gamma"
        )
    kept: list[str] = []
    for name in sorted(scores, key=lambda name: scores[name], reverse=True):
        if name in cheap or costs.per_frame(period, {*cheap, *kept, name}) <= budget * costs.teacher:
            kept.append(name)
    return tuple(kept)
