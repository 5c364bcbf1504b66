"""What a delta network remembers of a key frame, given and returned at every call (ours).

The released code keeps it in buffers of the layers, so that one video's frames can meet another one's maps. Here it is
a value: several videos go through one network in turns or in threads, each with its own state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DeltaState:
    """The memory of one video, or of a batch of videos that run in step."""

    frame: Tensor
    """The key frame, (b 3 h w)."""
    caches: Mapping[str, tuple[Tensor, ...]] = field(repr=False)
    """What each layer remembers, by its name; the second call of a shared layer is "name#2". The layer's output on the
    key frame comes last."""
    shapes: Mapping[str, torch.Size] = field(repr=False)
    """Shape of each call's input on the key frame."""
    network: object = field(repr=False)
    """Stands for the network that made it."""
    age: int = 0
    """Frames since the key frame."""

    @property
    def bytes(self) -> int:
        """Memory of all that is remembered."""
        tensors = [self.frame, *(tensor for cache in self.caches.values() for tensor in cache)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def energy(self, frame: Tensor) -> float:
        """How much of a frame is new: its difference from the key frame, relative to the key frame's own contrast.

        Returns:
            0 for the key frame itself, about 2 for an unrelated picture of the same contrast; the largest of a batch.
            Between videos of the built-in world a cut is 1.4 or more, half of them above 2.6; within a video, 7 frames
            after the key frame, 19 of 20 are below 0.8. Infinite where a frame is not finite, as nothing that is
            remembered then holds.

        Raises:
            ValueError: the frame is not of the key frame's shape, type and device.
        """
        self.check_frame(frame)
        return energy_of(frame, self.frame)

    def check_frame(self, frame: Tensor) -> None:
        """Raises a ValueError if the frame cannot follow the key frame."""
        for what, expected, given in (
            ("shape (b, 3, h, w)", tuple(self.frame.shape), tuple(frame.shape)),
            ("device", self.frame.device, frame.device),
            ("type", self.frame.dtype, frame.dtype),
        ):
            if expected != given:
                raise ValueError(
                    f"the state was made from a key frame of {what} {expected}, and the frame given is {given}. Frames "
                    "of one video have to be alike: start anew with state=None when the video or its size changes"
                )

    def check_network(self, network: object) -> None:
        """Raises a ValueError if another network made this state."""
        if self.network is not network:
            raise ValueError(
                "the state was made by another network (a copy or the deployed form counts as another one). "
                "Give each network its own state: start with state=None"
            )

    def after(self) -> DeltaState:
        """The same memory, one frame later."""
        return replace(self, age=self.age + 1)


def energy_of(frame: Tensor, key: Tensor) -> float:
    """How much of a frame is new since a key frame of the same shape (b, 3, h, w), as `DeltaState.energy` says it."""
    axes = (1, 2, 3)
    change = (frame - key).square().mean(axes)
    contrast = (key - key.mean((2, 3), keepdim=True)).square().mean(axes)
    return (change / contrast.clamp(min=torch.finfo(frame.dtype).tiny)).nan_to_num(nan=inf, posinf=inf).max().item()


class Pass:
    """One call of a network: what each of its layers does, and what was seen of it.

    Args:
        kind: "teacher" for the layers as they were, "key" to remember them, "delta" to predict their change.
        state: what is remembered, for "delta".
        rows: which of the state's videos each frame of the batch belongs to; by default they run in step.
        sample: gives the gate of a layer, the same for all calls of it; None where gates choose.
        watch: whether inputs and outputs of all layers are kept.
    """

    def __init__(
        self,
        kind: Literal["teacher", "key", "delta"],
        *,
        state: DeltaState | None = None,
        rows: Tensor | None = None,
        sample: Callable[[Tensor], Tensor] | None = None,
        watch: bool = False,
    ):
        self.kind, self.state, self.rows, self.sample, self.watch = kind, state, rows, sample, watch
        self.frame: Tensor | None = None
        self.calls: Counter[str] = Counter()
        self.caches: dict[str, tuple[Tensor, ...]] = {}
        self.shapes: dict[str, torch.Size] = {}
        self.gates: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.changes: dict[str, Tensor] = {}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Layers called in this block, in this thread, take part in this pass."""
        token = _PASS.set(self)
        try:
            yield
        finally:
            _PASS.reset(token)

    def through(self, layer: nn.Module, x: Tensor) -> Tensor:
        """One call of one `DeltaLayer`."""
        name = layer.name
        self.calls[name] += 1
        call = name if self.calls[name] == 1 else f"{name}#{self.calls[name]}"
        if x.ndim != 4:
            raise ValueError(
                f"the layer {name!r} was given a map of shape {tuple(x.shape)}, not (b, c, h, w). Leave this layer as "
                f"it is: convert(..., skip=[{name!r}])"
            )
        if self.watch:
            self.inputs[call] = x.clone()
        if self.kind == "teacher":
            z = layer.dense(x)
        elif self.kind == "key":
            self.shapes[call] = x.shape
            z, self.caches[call] = layer.key(x)
        else:
            cache = self._recall(call, name, x)
            z = layer.delta(x, cache, gate=self._gate(layer))
            if self.watch:
                self.changes[call] = z - cache[-1]
        if self.watch:
            self.outputs[call] = z.clone()
        return z

    def finish(self) -> None:
        """Raises a ValueError if a layer was not called as often as on the key frame."""
        if self.kind == "delta":
            before = _calls(self.state)
            if self.calls != before:
                name = next(name for name in before if self.calls[name] != before[name])
                raise _other_calls(name, before[name], self.calls[name])

    def _gate(self, layer: nn.Module) -> Tensor | None:
        if self.sample is None or not hasattr(layer, "gate_logit"):
            return None
        if layer.name not in self.gates:
            self.gates[layer.name] = self.sample(layer.gate_logit)
        return self.gates[layer.name]

    def _recall(self, call: str, name: str, x: Tensor) -> tuple[Tensor, ...]:
        if call not in self.state.caches:
            raise _other_calls(name, _calls(self.state)[name], self.calls[name])
        expected, cache = self.state.shapes[call], self.state.caches[call]
        if self.rows is not None:
            if any(len(tensor) != len(self.state.frame) for tensor in cache):
                raise ValueError(
                    f"the layer {name!r} changes the batch axis ({len(self.state.frame)} frames became "
                    f"{expected[0]} maps), so the frames of a clip cannot run in parallel: use stream"
                )
            expected = torch.Size((len(self.rows), *expected[1:]))
            cache = tuple(tensor[self.rows] for tensor in cache)
        if x.shape != expected:
            raise ValueError(
                f"the layer {name!r} was given {tuple(expected)} on the key frame and {tuple(x.shape)} now: the "
                f"network decides by what is in the frame. Leave this layer as it is: convert(..., skip=[{name!r}])"
            )
        return cache


_PASS: ContextVar[Pass | None] = ContextVar("delta pass", default=None)


def current_pass(name: str) -> Pass:
    """The pass that is going on.

    Raises:
        RuntimeError: none is; a layer was called by itself.
    """
    if (current := _PASS.get()) is None:
        raise RuntimeError(
            f"the delta layer {name!r} was called by itself, so it does not know of which frame this is part. "
            "Call the DeltaNetwork, or the layer's dense, key and delta"
        )
    return current


def _calls(state: DeltaState) -> Counter[str]:
    """How often each layer was called on the key frame."""
    return Counter(call.partition("#")[0] for call in state.caches)


def _other_calls(name: str, before: int, now: int) -> ValueError:
    return ValueError(
        f"the layer {name!r} was called {before} times on the key frame and {'at least ' if now > before else ''}{now} "
        f"times now: the network decides by what is in the frame. Leave this layer as it is: "
        f"convert(..., skip=[{name!r}])"
    )
