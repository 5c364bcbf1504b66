"""The form of a delta network that runs: one student per layer, no gates, and as little to do as can be (ours).

A small student is two convolutions without bias, z_t = z_0 + B A (x_t - x_0) = z_0 + B (A x_t - A x_0). What is
remembered is A x_0, which is a quarter as wide or less, rather than x_0: the subtraction costs next to nothing, and a
key frame only A more. Keeping the one map z_0 - B A x_0 instead would cost it A and B.

A full student that is still its teacher becomes the plain convolution: it is exact and remembers nothing.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vkdlab.delta.costs import Macs
from vkdlab.delta.folding import replace_module
from vkdlab.delta.layers import DeltaConv2d, DeltaLayer, conv_macs
from vkdlab.delta.network import DeltaNetwork, Layout
from vkdlab.delta.quick import quicken
from vkdlab.weights import load_tensors, put_weights, save_tensors


class DeployedSmall(DeltaLayer):
    """A convolution and its small student, `first` (A) and `second` (B)."""

    def __init__(self, layer: DeltaConv2d):
        super().__init__()
        self.name = layer.name
        self.teacher = layer.teacher
        self.first, self.second = layer.small

    def dense(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h2 w2"]:
        return self.teacher(x)

    def key(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n h2 w2"], tuple[Tensor, ...]]:
        z = self.teacher(x)
        return z, (self.first(x), z.clone())

    def delta(
        self, x: Float[Tensor, "b c h w"], cache: tuple[Tensor, ...], *, gate: Tensor | None = None
    ) -> Float[Tensor, "b n h2 w2"]:
        narrow_0, z_0 = cache
        return self.second(self.first(x).sub_(narrow_0)).add_(z_0)

    def macs_of(self, x: torch.Size, z: torch.Size) -> Macs:
        between = torch.Size((x[0], self.first.out_channels, z[2], x[3]))
        teacher, first = conv_macs(self.teacher, z), conv_macs(self.first, between)
        delta = first + conv_macs(self.second, z) + between.numel() + z.numel()
        return Macs(teacher=teacher, key=teacher + first, full=delta, small=delta)


class DeployedFull(DeltaLayer):
    """A convolution and its full student."""

    def __init__(self, layer: DeltaConv2d):
        super().__init__()
        self.name = layer.name
        self.teacher, self.full = layer.teacher, layer.full

    def dense(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h2 w2"]:
        return self.teacher(x)

    def key(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n h2 w2"], tuple[Tensor, ...]]:
        z = self.teacher(x)
        return z, (x.clone(), z.clone())

    def delta(
        self, x: Float[Tensor, "b c h w"], cache: tuple[Tensor, ...], *, gate: Tensor | None = None
    ) -> Float[Tensor, "b n h2 w2"]:
        x_0, z_0 = cache
        return self.full(x - x_0).add_(z_0)

    def macs_of(self, x: torch.Size, z: torch.Size) -> Macs:
        teacher = conv_macs(self.teacher, z)
        delta = teacher + x.numel() + z.numel()
        return Macs(teacher=teacher, key=teacher, full=delta, small=delta)


def deployed(network: DeltaNetwork, *, layout: Layout = "channels_last") -> DeltaNetwork:
    """A network of its own, with the students that the gates stand for and without gates.

    Args:
        network: is not changed.
        layout: of maps and weights in memory; "channels_last" is faster with ordinary convolutions.

    Raises:
        ValueError: a network that was deployed before, or a layout that is none.
    """
    _check_layout(layout)
    if network.recipe.get("forms") is not None:
        raise ValueError("the network was deployed before: a deployed network has one student per layer and no gates")
    return _with_forms(network, {name: _form(layer) for name, layer in _convs(network).items()}, layout)


def save(network: DeltaNetwork, path: str | os.PathLike) -> None:
    """Writes a delta network, deployed or not, as one safetensors file.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    save_tensors(path, network.state_dict(), state={"delta": network.recipe, "layout": network.layout})


def load(path: str | os.PathLike, model: nn.Module) -> DeltaNetwork:
    """Reads what `save` wrote.

    Args:
        path: of the file.
        model: a network like the one that was converted; its weights do not matter, and it is not changed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no file of a delta network, or one of another network; the message says what differs.
    """
    from vkdlab.delta.convert import convert

    tensors, state = load_tensors(path)
    if not isinstance(state, dict) or "delta" not in state:
        raise ValueError(f"{path} holds no delta network: it was not written by vkdlab.delta.save")
    recipe = dict(state["delta"])
    forms = recipe.pop("forms", None)
    network = convert(model, **recipe)
    if forms is not None:
        if set(forms) != set(_convs(network)):
            wrong = ", ".join(sorted(set(forms) ^ set(_convs(network))))
            raise ValueError(f"{path} was made from another network: layers in one and not the other are {wrong}")
        network = _with_forms(network, forms, state["layout"])
    put_weights(network, tensors, where=str(path))
    return network


def _with_forms(network: DeltaNetwork, forms: dict[str, str], layout: Layout) -> DeltaNetwork:
    model = copy.deepcopy(network.model)
    layers = {module.name: module for module in model.modules() if isinstance(module, DeltaConv2d)}
    left = dict(network.left)
    for name, form in forms.items():
        layer = layers[name]
        if form == "dense":
            left[name] = "its full student was chosen and is its teacher"
            replace_module(model, layer, layer.teacher)
        else:
            replace_module(model, layer, DeployedSmall(layer) if form == "small" else DeployedFull(layer))
    if layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
        quicken(model)
    recipe: dict[str, Any] = {**network.recipe, "forms": forms}
    return DeltaNetwork(model.requires_grad_(False), left=left, recipe=recipe, layout=layout)


def _convs(network: DeltaNetwork) -> dict[str, DeltaConv2d]:
    return {name: layer for name, layer in network.layers.items() if isinstance(layer, DeltaConv2d)}


def _form(layer: DeltaConv2d) -> str:
    if not layer.keeps_full:
        return "small"
    return "dense" if layer.full_is_teacher else "full"


def _check_layout(layout: str) -> None:
    if layout not in ("channels_last", "contiguous"):
        raise ValueError(f"layout must be 'channels_last' or 'contiguous', got {layout!r}")
