"""What a network's convolutions are, in which order they run, and batch norms folded into them (ours).

A network is traced only to find out; what runs afterwards is its own `forward`. Where it cannot be traced, because its
control flow depends on what is in a frame, nothing is folded, and layers count in the order of their registration.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.Graph | None:
    """The order of all calls, or None where they cannot be known beforehand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _Tracer().trace(copy.deepcopy(model))  # a copy, as tracing runs the network's own code
        except Exception:  # a network's own code may raise anything when it meets no tensors
            return None


def convolutions(model: nn.Module, graph: fx.Graph | None) -> dict[str, nn.Conv2d]:
    """All convolutions by name, each once, in the order in which they run where that is known."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    if graph is None:
        return found
    called = list(dict.fromkeys(node.target for node in graph.nodes if node.op == "call_module"))
    order = [name for name in called if name in found]
    return {name: found[name] for name in [*order, *(name for name in found if name not in order)]}


def fold_batch_norms(model: nn.Module, graph: fx.Graph | None) -> list[str]:
    """Folds every batch norm that follows one convolution and nothing else into it, in place.

    Returns:
        Names of the batch norms that are gone.
    """
    if graph is None:
        return []
    modules = dict(model.named_modules())
    apart = hidden_modules(model)
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    touched = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    folded = []
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(norm := modules.get(node.target), nn.BatchNorm2d):
            continue
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        conv = modules.get(source.target)
        names = (source.target, node.target)
        if not isinstance(conv, nn.Conv2d) or any(calls[name] > 1 or name in touched for name in names):
            continue
        if norm.running_mean is None or any(why_dense(m) or id(m) in apart for m in (conv, norm)):
            continue
        if _folded(conv, norm):
            replace_module(model, norm, nn.Identity())
            folded.append(node.target)
    return folded


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts `new` wherever `old` is registered."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def hidden_modules(model: nn.Module) -> set[int]:
    """Identities of modules that are also kept in plain lists, tuples or dictionaries, past their registration."""
    found: set[int] = set()
    seen: set[int] = set()  # a list may hold itself

    def look(value: object) -> None:
        if isinstance(value, nn.Module):
            found.update(id(inner) for inner in value.modules())
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            for item in value.values() if isinstance(value, dict) else value:
                look(item)

    for module in model.modules():
        for name, value in vars(module).items():
            if name != "_modules":
                look(value)
    return found


def why_dense(module: nn.Module) -> str | None:
    """Why a module cannot be replaced by anything else, in words; None where it can."""
    if parametrize.is_parametrized(module):
        return "its weights are parametrised"
    if any(isinstance(p, nn.UninitializedParameter) for p in module.parameters(recurse=False)):
        return "it is lazy and was not run yet"
    if any(p.is_complex() for p in module.parameters(recurse=False)):
        return "its weights are complex"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return "it has hooks"
    return None


def own_padding(conv: nn.Conv2d) -> tuple[int, int] | str | None:
    """How a convolution pads, as `nn.Conv2d` says it; None if its forward is none of a convolution with its weights.

    A subclass is tried on random maps: it may pad as TensorFlow does, or change its weights before it uses them.
    """
    if type(conv) is nn.Conv2d:
        return conv.padding
    for padding in (conv.padding, "same") if max(conv.stride) == 1 else (conv.padding,):
        if _agrees(conv, padding):
            return padding
    return None


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Folds one batch norm, unless the convolution is of a kind that does something of its own to its weights."""
    before = conv.weight, conv.bias
    expected = None if type(conv) is nn.Conv2d else [_tried(conv, x, norm) for x in _probes(conv)]
    # New parameters: tied weights of two convolutions are folded with two batch norms.
    conv.weight, conv.bias = fuse_conv_bn_weights(
        *before, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    if expected is None or all(_close(_tried(conv, x), old) for x, old in zip(_probes(conv), expected, strict=True)):
        return True
    conv.weight, conv.bias = before
    return False


def _agrees(conv: nn.Conv2d, padding: tuple[int, int] | str) -> bool:
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        tuple(conv.stride),
        padding,
        tuple(conv.dilation),
        conv.groups,
        padding_mode=conv.padding_mode,
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    return all(_close(_tried(conv, x), _tried(plain, x)) for x in _probes(conv))


def _probes(conv: nn.Conv2d) -> list[Tensor]:
    """Two random maps, one of odd and one of even height."""
    draw = torch.Generator().manual_seed(0)
    reach = max((k - 1) * d + 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
    sizes = (reach + 4, reach + 7)
    return [torch.randn(1, conv.in_channels, s, s + 1, generator=draw).to(conv.weight) for s in sizes]


@torch.no_grad()
def _tried(conv: nn.Conv2d, x: Tensor, then: nn.Module | None = None) -> Tensor | None:
    try:
        z = conv(x)
        return z if then is None else then(z)
    except (RuntimeError, ValueError, TypeError):
        return None


def _close(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item())
