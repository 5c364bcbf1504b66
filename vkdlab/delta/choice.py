"""Which layers keep a full student, judged by what their small students get wrong (ours)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from vkdlab.data.dense import DenseDataset
from vkdlab.delta.layers import DeltaConv2d
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.shown import frames_of


def chosen(
    network: DeltaNetwork, dense: DenseDataset, frames: Sequence[int], *, budget: float = 0.5, period: int = 4
) -> DeltaNetwork:
    """A copy of a network in which the layers that err most keep a full student, as far as a budget reaches.

    Args:
        network: not deployed.
        dense: frames to judge by.
        frames: numbers of frames that follow one another; the first is the key frame.
        budget: average cost of a frame of the deployed network, as a share of the teacher's.
        period: frames from one key frame to the next.

    Raises:
        ValueError: not even small students everywhere keep to the budget.
    """
    looked = network.inspect(frames_of(dense, frames))
    share = looked.error_energy.sum(1) / looked.teacher_energy.sum(1).clamp(min=1e-30)
    # A shared layer is called several times, "b" and "b#2"; its worst call counts.
    worst: dict[str, float] = {}
    for call, wrong in zip(looked.names, share.tolist(), strict=True):
        name = call.partition("#")[0]
        worst[name] = max(wrong, worst.get(name, 0.0))
    copied = copy.deepcopy(network)
    scores = {name: worst.get(name, 0.0) for name, each in copied.layers.items() if isinstance(each, DeltaConv2d)}
    height, width = dense.size[1], dense.size[0]
    copied.choose(budget, frame_shape=(3, height, width), period=period, scores=scores)
    return copied
