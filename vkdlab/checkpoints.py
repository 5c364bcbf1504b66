"""All that a training needs to go on as if nothing had happened, in one file (ours).

Weights, optimiser, random states and the best weights so far are tensors of a safetensors file; place, history and
configuration are JSON in its header. One file means that the two can never be of different moments.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .runs import differences
from .weights import load_tensors, put_weights, save_tensors


@dataclass
class State:
    """Where a training is, beside its weights."""

    epoch: int = 0
    """Epochs finished, validation included."""
    step: int = 0
    """Steps taken in the epoch that runs."""
    sums: dict[str, float] = field(default_factory=dict)
    """Each loss term of that epoch, summed over samples."""
    samples: int = 0
    """Samples seen in that epoch."""
    seconds: float = 0.0
    """Time spent in that epoch, interruptions left out."""
    rows: list[dict[str, int | float]] = field(default_factory=list)
    """History: one row per finished epoch."""
    best_epoch: int = 0
    """The epoch, from 1, with the best validation metric; 0 before the first."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    """Its weights, on the CPU."""


def save_checkpoint(
    path: str | os.PathLike,
    state: State,
    *,
    method: nn.Module,
    optimiser: torch.optim.Optimizer,
    training: Mapping[str, Any],
) -> None:
    """Writes a checkpoint, atomically.

    Args:
        path: the file.
        state: where the training is.
        method: its weights and buffers.
        optimiser: its moments; learning rates are not kept, they follow from the step.
        training: what is trained on what, compared by `load_checkpoint`.

    Raises:
        OSError: the disk is full or the folder cannot be written; the older checkpoint is untouched.
    """
    optimiser_state = optimiser.state_dict()["state"]
    tensors = {f"method/{name}": value for name, value in method.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in state.best_weights.items()}
    tensors |= {f"optimiser/{i}/{name}": value for i, slots in optimiser_state.items() for name, value in slots.items()}
    tensors |= {f"random/{name}": value for name, value in _random_tensors().items()}
    plain = {name: value for name, value in vars(state).items() if name != "best_weights"}
    content = {"state": plain, "training": dict(training), "random": _random_values()}
    save_tensors(path, tensors, state=content)


def load_checkpoint(
    path: str | os.PathLike,
    *,
    method: nn.Module,
    optimiser: torch.optim.Optimizer,
    training: Mapping[str, Any],
) -> State:
    """Puts a checkpoint back into method, optimiser and random generators.

    Raises:
        ValueError: no safetensors, damaged, or of another training or architecture; both sides are named.
    """
    tensors, content = load_tensors(path)
    if not isinstance(content, dict) or not {"state", "training", "random"} <= content.keys():
        raise ValueError(f"{path} holds weights and not the state of a training. Delete it to train from the start")
    refuse_other_training(path, content["training"], training)
    groups: dict[str, dict[str, Tensor]] = {"method": {}, "best": {}, "optimiser": {}, "random": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups[group][rest] = tensor
    put_weights(method, groups["method"], where=str(path))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in groups["optimiser"].items():
        index, _, slot = name.partition("/")
        slots.setdefault(int(index), {})[slot] = tensor
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    _set_random(groups["random"], content["random"])
    return State(**content["state"], best_weights=groups["best"])


def refuse_other_training(where: str | os.PathLike, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises ValueError when a file of one training is met by another; every field that differs is named with both."""
    if found := differences(stored, given):
        raise ValueError(
            f"{Path(where)} is of another training (there -> here): {'; '.join(found)}. "
            "Open a run with the whole configuration, so that it gets its own folder, or delete this one"
        )


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seeds torch, numpy and random, and gives them their former states back, so that a caller never notices."""
    tensors, values = _random_tensors(), _random_values()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - methods and data sets may draw from the global generator
    random.seed(seed)
    try:
        yield
    finally:
        _set_random(tensors, values)


class Stopped(BaseException):
    """Ctrl-C, met at a place where the state is whole."""


class Interruption:
    """Makes Ctrl-C wait until `meet` is called; a second one is immediate. Works in the main thread only."""

    def __enter__(self) -> Interruption:
        self.asked = False
        self.previous = None
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGINT, self.previous)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def meet(self) -> None:
        if self.asked:
            raise Stopped


def _random_tensors() -> dict[str, Tensor]:
    found = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def _random_values() -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    return {
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def _set_random(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    np.random.set_state(tuple(values["numpy"]))  # noqa: NPY002
    version, internal, gauss_next = values["python"]
    random.setstate((version, tuple(internal), gauss_next))
