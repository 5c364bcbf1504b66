"""Whether a converted network still answers as the one that it was made from (ours).

A network's own code may look at what its modules are, as `isinstance(m, nn.Conv2d)` does, or use more of a convolution
than its call. Such code takes another way once the convolution is replaced, and nobody would notice: one small random
frame is shown to both.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vkdlab.delta.answers import tensors_in
from vkdlab.delta.folding import replace_module

if TYPE_CHECKING:
    from vkdlab.delta.network import DeltaNetwork

_SIDES = (64, 224)
"""Height and width of the frame, pixels; the second for networks that take no smaller one."""
_APART = 0.03
"""Root of the squared difference relative to the answer: folding and rounding stay below, another computation does not.
Half precision rounds more."""
_APART_HALF = 0.2


def check_answers(original: nn.Module, network: DeltaNetwork) -> None:
    """Shows a frame to both; where the original cannot run on it, nothing is known and nothing said.

    Args:
        original: in evaluation mode; it is copied.
        network: converted from it; copied as well.

    Raises:
        ValueError: the teacher in the converted network answers otherwise, or not at all; the message names the layers
            whose replacement does that.
    """
    if any(isinstance(p, nn.UninitializedParameter) for p in original.parameters()):
        return  # a run would initialise them
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for side in _SIDES:
            frame, called = _frame(original, side), set()
            try:
                expected = _tried(_watched(original, network, called), frame)
            except Exception:  # a network's own code may raise anything at a size that it does not take
                continue
            if (why := _differs(network, frame, expected)) is not None:
                raise _refusal(type(original).__name__, network, frame, expected, called, why)
            return


def _frame(network: nn.Module, side: int) -> Tensor:
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    frame = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return frame.to(dtype=like.dtype, device=like.device)


def _watched(original: nn.Module, network: DeltaNetwork, called: set[str]) -> Callable[[Tensor], Any]:
    """A copy of the original that notes which of the replaced modules it calls."""
    copied = copy.deepcopy(original)
    for name in network.layers:
        copied.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
    return copied


def _tried(network: Callable[[Tensor], Any], frame: Tensor) -> Any:
    """The answer, with the same random numbers every time and none taken from anybody else."""
    devices = [frame.device] if frame.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        return network(frame.clone())


def _differs(network: DeltaNetwork, frame: Tensor, expected: Any, *, copied: bool = False) -> Exception | str | None:
    """What is wrong with the teacher's answer in a converted network; None where nothing is."""
    try:
        answer = _tried((network if copied else copy.deepcopy(network)).reference, frame)
    except Exception as error:  # as above
        return error
    ours, theirs = tensors_in(answer), tensors_in(expected)
    if [each.shape for each in ours] != [each.shape for each in theirs]:
        return f"shapes {[tuple(each.shape) for each in ours]} in place of {[tuple(each.shape) for each in theirs]}"
    wide = torch.complex128 if any(each.is_complex() for each in theirs) else torch.float64
    ours, theirs = ([each.to(wide) for each in some] for some in (ours, theirs))
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    wrong, size = (math.sqrt(sum(each.abs().square().sum().item() for each in some)) for some in (apart, theirs))
    most = _APART_HALF if frame.element_size() < 4 else _APART
    if not math.isfinite(size) or wrong <= most * size:
        return None
    return f"an answer that is {100 * wrong / max(size, 1e-30):.3g} % off"


def _refusal(
    kind: str, network: DeltaNetwork, frame: Tensor, expected: Any, called: set[str], why: Exception | str
) -> ValueError:
    """Finds the layers at fault: those that do it when they alone are replaced."""
    alone = copy.deepcopy(network)
    layers = alone.layers
    for layer in layers.values():
        replace_module(alone.model, layer, layer.teacher)
    said = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
    if _differs(alone, frame, expected, copied=True) is not None:
        return ValueError(
            f"{kind} cannot have its batch norms folded, which gives {said}: its own code takes another way without "
            "them. Convert with fold=False"
        )
    guilty = []
    for name, layer in layers.items():
        replace_module(alone.model, layer.teacher, layer)
        if _differs(alone, frame, expected, copied=True) is not None:
            guilty.append(name)
        replace_module(alone.model, layer, layer.teacher)
    guilty = guilty or list(layers)
    missed = [name for name in guilty if name in called and name not in _called(network, frame)]
    blocks = [name for name in guilty if name in network.recipe["blocks"]]
    skip = [*network.recipe["skip"], *(name for name in guilty if name not in blocks)]
    ways = [f"skip={skip}"] * (len(skip) > 0) + [f"blocks without {blocks}"] * (len(blocks) > 0)
    return ValueError(
        f"{kind} cannot be converted as it is: with {', '.join(map(repr, guilty))} replaced it gives {said}"
        f"{f' and never calls {missed}' if missed else ''}. Its own code looks at what these layers are, as "
        "isinstance(m, nn.Conv2d) does, or uses more of them than a call with a map (b, c, h, w). Leave them as they "
        f"are: convert(..., {', '.join(ways)})"
    )


def _called(network: DeltaNetwork, frame: Tensor) -> set[str]:
    try:
        seen = _tried(lambda x: copy.deepcopy(network).traced(x, teacher=True), frame)
    except Exception:  # then the message tells of it
        return set(network.layers)
    return {call.partition("#")[0] for call in seen.inputs}
