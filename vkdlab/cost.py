"""What a network costs: parameters, multiply-accumulates, latency (ours).

Multiply-accumulates are half of the floating-point operations that `torch.utils.flop_counter` counts: matrix products,
convolutions and attention. Element-wise work, norms and embeddings count as nothing there, as in published tables.
Attention counts as its two products, a masked one as a full one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


def parameters(module: nn.Module, *, trainable_only: bool = False) -> int:
    """Number of parameters; tied ones count once, buffers not at all.

    Args:
        module: any module.
        trainable_only: whether to leave out those that require no gradient.
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


def macs(function: Callable[..., Any], *inputs: Any) -> int:
    """Multiply-accumulates of one call, without gradients; a module is counted in evaluation mode.

    Args:
        function: a module or any function of tensors.
        inputs: what it is called with; the result is for all samples of a batch together.
    """
    was_training = isinstance(function, nn.Module) and function.training
    if was_training:
        function.eval()
    try:
        with torch.no_grad(), _counted_attention(), FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
            function(*inputs)
    finally:
        if was_training:
            function.train()
    return counter.get_total_flops() // 2


def _convolution(x: torch.Size, weight: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    return conv_flop_count(list(x), list(weight), list(out_shape))


# Torch's counter knows this convolution by its other name only.
_COUNTED = {torch.ops.aten.mkldnn_convolution: _convolution}


@contextmanager
def _counted_attention() -> Iterator[None]:
    """Attention as plain matrix products: torch's counter does not know the fused kernels of every device."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@dataclass(frozen=True)
class Latency:
    """How long one call takes, over repeats."""

    median_s: float
    """Median, seconds."""
    low_s: float
    """First quartile, seconds."""
    high_s: float
    """Third quartile, seconds."""
    cpu_median_s: float
    """Median of the processor time of all threads, seconds: what a busy machine changes least."""
    times_s: tuple[float, ...]
    """Every call, in order; the i-th calls of all functions were made right after each other."""


def latency(
    functions: Mapping[str, Callable[[], Any]], *, repeats: int = 30, warmup: int = 3, threads: int | None = None
) -> dict[str, Latency]:
    """Times several functions in turns, so that whatever else the machine does meets all of them alike.

    Every round calls each function once and starts with another one. Work queued on a GPU is waited for.

    Args:
        functions: without arguments, by name.
        repeats: timed calls of each.
        warmup: calls of each that are made before and not timed.
        threads: CPU threads while timing; None for torch's setting.

    Raises:
        ValueError: no function, or no repeat.
    """
    if not functions or repeats < 1 or warmup < 0:
        raise ValueError(
            f"timing needs a function and a repeat, given {len(functions)} functions, {repeats} repeats and "
            f"{warmup} warm-ups"
        )
    names = list(functions)
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        for round_ in range(warmup + repeats):
            shift = round_ % len(names)
            for name in names[shift:] + names[:shift]:
                started, cpu_started = time.perf_counter(), time.process_time()
                functions[name]()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if round_ >= warmup:
                    wall[name].append(time.perf_counter() - started)
                    cpu[name].append(time.process_time() - cpu_started)
    finally:
        torch.set_num_threads(before)
    return {name: _summary(wall[name], cpu[name]) for name in names}


def _summary(wall: list[float], cpu: list[float]) -> Latency:
    low, _, high = statistics.quantiles(wall, n=4, method="inclusive") if len(wall) > 1 else wall * 3
    return Latency(statistics.median(wall), low, high, statistics.median(cpu), tuple(wall))
