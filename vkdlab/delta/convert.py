"""Turns a per-frame network into a delta network (Habibian et al., "Delta Distillation", ECCV 2022).

As in the released code, the first and the last convolution, depth-wise ones and those of squeeze-and-excitation stay as
they are. Ours: a convolution whose small student would not be cheaper stays too, and so does what is no plain
convolution (transposed, 1-d, 3-d, parametrised, complex, lazy); `DeltaNetwork.left` says why, by name. What a network's
own code does otherwise once a layer is replaced is found by showing it a frame, and refused.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence

import torch
from torch import nn

from vkdlab.delta import folding
from vkdlab.delta.layers import POLICIES, DeltaBlock, DeltaConv2d, DeltaLayer, Policy, pair_macs, svd_rank
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.probing import check_answers

_PROBE = 64


def convert(
    model: nn.Module,
    *,
    gamma: float | int = 4,
    policy: Policy = "out",
    skip: Sequence[str] = (),
    blocks: Sequence[str] = (),
    fold: bool = True,
) -> DeltaNetwork:
    """A delta network with the model's weights, whose students start as the best that their ranks allow.

    Args:
        model: takes frames (b, 3, h, w); it is copied, not changed.
        gamma: how many times narrower small students are; see `svd_rank`.
        policy: of the ranks; "min" suits networks of 1x1 convolutions.
        skip: names of convolutions, or of modules that hold some, to be left as they are.
        blocks: names of modules that get one student for the whole, a `DeltaBlock`.
        fold: whether batch norms become part of the convolution before them, where the network can be traced.

    Raises:
        ValueError: no convolution to convert; the message says why each was left. Unknown names, a block that no
            student fits, a gamma or a policy out of range, a network that was converted before, or one that answers
            otherwise once its layers are replaced; the message names these.
    """
    if not gamma >= 1:
        raise ValueError(f"gamma must be at least 1, got {gamma}")
    if policy not in POLICIES:
        raise ValueError(f"policy must be 'out' or 'min', got {policy!r}")
    if isinstance(skip, str) or isinstance(blocks, str):
        raise ValueError("skip and blocks are lists of names, not one name")
    if any(isinstance(module, DeltaLayer | DeltaNetwork) for module in model.modules()):
        raise ValueError("the network is a delta network already; convert the network that it was made from")
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    _check_names(skip, names, "skip")
    _check_names(blocks, names, "blocks")
    recipe = {"gamma": gamma, "policy": policy, "skip": list(skip), "blocks": list(blocks), "fold": fold}

    original = copy.deepcopy(model).eval()
    model = copy.deepcopy(original)
    graph = folding.trace(model)
    if fold:
        folding.fold_batch_norms(model, graph)
    convs = folding.convolutions(model, graph)
    if not convs:
        scripted = ", as it is compiled to TorchScript: convert it before" if _scripted(model) else ""
        raise ValueError(f"{type(model).__name__} has no nn.Conv2d to convert{scripted}")
    within = {name: _block_of(name, blocks) for name in convs}
    left = _left(model, convs, gamma=gamma, policy=policy, skip=skip)
    layers: list[tuple[str, nn.Module, DeltaLayer]] = []
    for name in blocks:
        block = model.get_submodule(name)
        layers.append((name, block, _delta_block(name, block, convs, gamma)))
    for name, conv in convs.items():
        if within[name] is not None:
            left.pop(name, None)
        elif name not in left:
            rank = svd_rank(conv, gamma=gamma, policy=policy)
            try:
                layer = DeltaConv2d(conv, rank=rank, padding=folding.own_padding(conv))
            except ValueError as error:
                raise ValueError(f"the layer {name!r} cannot be converted: {error}") from error
            layers.append((name, conv, layer))
    if not layers:
        reasons = "; ".join(f"{name}: {why}" for name, why in left.items())
        raise ValueError(f"{type(model).__name__} has no convolution that can be converted. {reasons}")
    for name, old, layer in layers:
        layer.name = name
        folding.replace_module(model, old, layer)
    network = DeltaNetwork(model, left=left, recipe=recipe)
    check_answers(original, network)
    return network


def _left(
    model: nn.Module, convs: dict[str, nn.Conv2d], *, gamma: float | int, policy: Policy, skip: Sequence[str]
) -> dict[str, str]:
    """Why each convolution that stays stays."""
    apart = folding.hidden_modules(model)
    order = list(convs)
    aliases: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        aliases.setdefault(id(module), []).append(name)
    left = {}
    for name, conv in convs.items():
        if any(alias == given or alias.startswith(f"{given}.") for alias in aliases[id(conv)] for given in skip):
            left[name] = "it was asked to be skipped"
        elif name == order[0]:
            left[name] = "it is the first convolution"
        elif name == order[-1]:
            left[name] = "it is the last convolution"
        elif why := folding.why_dense(conv):
            left[name] = why
        elif conv.groups == conv.in_channels > 1:
            left[name] = "it is depth-wise"
        elif ".se." in name:
            left[name] = "it belongs to squeeze-and-excitation"
        elif id(conv) in apart:
            left[name] = "it is also kept in a plain list or attribute, through which it may be called"
        elif folding.own_padding(conv) is None:
            left[name] = f"{type(conv).__name__} computes something else than a convolution with its weights"
        elif pair_macs(conv, svd_rank(conv, gamma=gamma, policy=policy)) >= 1:
            left[name] = "its small student would not be cheaper"
    return left


def _check_names(given: Sequence[str], names: list[str], argument: str) -> None:
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
            hint = f"; there is {' or '.join(map(repr, close))}" if close else f"; names are like {names[:3]}"
            raise ValueError(f"{argument} names {name!r}, which is no module of the network{hint}")
    if argument == "blocks":
        for name in given:
            if (outer := _block_of(name.rpartition(".")[0], given)) is not None:
                raise ValueError(f"the block {name!r} is within the block {outer!r}: name one of them")
        if len(set(given)) != len(given):
            raise ValueError(f"blocks names a module twice: {list(given)}")


def _block_of(name: str, blocks: Sequence[str]) -> str | None:
    return next((block for block in blocks if name == block or name.startswith(f"{block}.")), None)


def _delta_block(name: str, block: nn.Module, convs: dict[str, nn.Conv2d], gamma: float | int) -> DeltaBlock:
    inner = [conv for conv_name, conv in convs.items() if _block_of(conv_name, [name])]
    if not inner:
        raise ValueError(f"the block {name!r} has no convolution")
    like = inner[0].weight
    x = torch.zeros(1, inner[0].in_channels, _PROBE, _PROBE, dtype=like.dtype, device=like.device)
    expected = "one map (b, c, h, w) as input, of as many channels as its first convolution, and one as output"
    try:
        with torch.no_grad():
            z = block(x)
        shape = tuple(z.shape)
        stride = _PROBE // shape[2]
    except Exception as error:
        raise ValueError(f"the block {name!r} cannot get a student: it needs {expected}") from error
    if len(shape) != 4 or shape[2:] != (_PROBE // stride,) * 2 or _PROBE % stride:
        raise ValueError(f"the block {name!r} cannot get a student: {_PROBE}x{_PROBE} became {shape}; needs {expected}")
    student = DeltaBlock(
        block,
        in_channels=inner[0].in_channels,
        out_channels=shape[1],
        stride=stride,
        hidden=max(int(shape[1] // gamma), 1),
    )
    return student.to(device=like.device, dtype=like.dtype).eval()


def _scripted(model: nn.Module) -> bool:
    return any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
