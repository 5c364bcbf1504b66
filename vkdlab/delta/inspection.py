"""What a delta network did, layer by layer and frame by frame: what figures and panels show (ours)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vkdlab.delta.answers import tensors_in


@dataclass(frozen=True)
class LayerMaps:
    """Root mean squares over the channels of one layer: where something changed. The first frame is the key frame."""

    input: Float[Tensor, "t h w"]
    """Change of the input that the student was given, since the key frame."""
    teacher: Float[Tensor, "t h2 w2"]
    """Change of the teacher's output, within the teacher's own network."""
    predicted: Float[Tensor, "t h2 w2"]
    """Change of the output that the delta network has."""
    error: Float[Tensor, "t h2 w2"]
    """Predicted minus the teacher's."""


@dataclass(frozen=True)
class Inspection:
    """A key frame and the frames after it, in a delta network beside its teacher. Energies are mean squares."""

    names: tuple[str, ...]
    """The k calls of delta layers, in the order in which they ran."""
    input_energy: Float[Tensor, "k t"]
    """Of the change of the input since the key frame."""
    teacher_energy: Float[Tensor, "k t"]
    """Of the change of the teacher's output."""
    predicted_energy: Float[Tensor, "k t"]
    """Of the change that was predicted."""
    error_energy: Float[Tensor, "k t"]
    """Of predicted minus the teacher's change: what a layer's student and all layers before it did wrong."""
    output_drift: Float[Tensor, " t"]
    """Squared difference between both networks' outputs, relative to the squared output of the teacher."""
    maps: dict[str, LayerMaps]
    """Where it happened, for each of the names."""
    outputs: list
    """What the delta network answered to each frame."""
    teacher_outputs: list
    """What the teacher answered to each frame."""


def drift(output: object, teacher: object) -> float:
    """Squared difference of two answers, relative to the squared second one."""
    pairs = list(zip(tensors_in(output), tensors_in(teacher), strict=True))
    wrong = sum((ours.double() - theirs.double()).square().sum().item() for ours, theirs in pairs)
    size = sum(theirs.double().square().sum().item() for _, theirs in pairs)
    return wrong / max(size, torch.finfo(torch.float64).tiny)


def root_mean_square(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "h w"]:
    """Over the channels, and over a batch of one."""
    return maps.float().square().mean((0, 1)).sqrt().cpu()
