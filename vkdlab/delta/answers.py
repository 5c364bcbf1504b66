"""What a network answers: tensors, and tuples, lists and dictionaries of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def tensors_in(value: object) -> list[Tensor]:
    """All tensors of an answer made of tensors, tuples, lists and dictionaries, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """An answer of the same form with `function` of every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: mapped(item, function) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, function) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, function) for item in value)
    return value


def joined(first: Any, second: Any, n: int, m: int) -> Any:
    """Two answers of the same form, one after the other along the batch."""
    others = iter(tensors_in(second))
    return mapped(first, lambda tensor: torch.cat([rows_of(tensor, n), rows_of(next(others), m)]))


def rows_of(tensor: Tensor, n: int) -> Tensor:
    """The tensor, if its first axis is the batch of `n`.

    Raises:
        ValueError: it is not.
    """
    if tensor.ndim == 0 or len(tensor) != n:
        raise ValueError(
            f"an answer of shape {tuple(tensor.shape)} to {n} frames has no axis of the batch, so the frames of a clip "
            "cannot run in parallel: use stream"
        )
    return tensor
