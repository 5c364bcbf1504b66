"""Milliseconds of a frame, measured in the same run and in turns (ours).

A delta network is timed as it runs: a key frame and the frames after it, one by one, in its deployed form. What
competes with it gets the same: batch norms folded, weights and maps channels last, quick convolutions, no gradients.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vkdlab import cost
from vkdlab.delta import folding
from vkdlab.delta.frames import check_frame, check_period
from vkdlab.delta.memory import keep_freed_memory
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.quick import quicken


@dataclass(frozen=True)
class FrameTime:
    """How long a frame takes, on average over a key frame and the frames after it."""

    ms: float
    """Median over the repeats, milliseconds."""
    low_ms: float
    """First quartile, milliseconds."""
    high_ms: float
    """Third quartile, milliseconds."""
    cpu_ms: float
    """Median of the processor time of all threads, milliseconds: what a busy machine changes least."""
    times_ms: tuple[float, ...]
    """Every repeat, in order; the i-th repeats of all networks were made right after each other."""

    def faster_than(self, other: FrameTime) -> tuple[float, float, float]:
        """How many times faster this is: median and quartiles of the ratios, each of two repeats made in one round.

        Raises:
            ValueError: they were not timed in the same run.
        """
        if len(self.times_ms) != len(other.times_ms):
            raise ValueError(
                f"one was timed {len(self.times_ms)} times and the other {len(other.times_ms)}: time both in one run"
            )
        ratios = [theirs / mine for mine, theirs in zip(self.times_ms, other.times_ms, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return middle, low, high


def interleaved(
    networks: Mapping[str, DeltaNetwork | nn.Module | Callable[[Tensor], Any]],
    frames: Tensor,
    *,
    periods: Sequence[int] = (1, 2, 4, 8, 16),
    repeats: int = 20,
    warmup: int = 2,
    threads: int | None = None,
) -> dict[str, dict[int, FrameTime]]:
    """Times networks in turns, one frame after the other as in a stream.

    Memory that is freed is kept for the next frame (`keep_freed_memory`), for this process and all networks alike.

    Args:
        networks: by name. A delta network is deployed if it is not, and timed at every period; any other module is
            brought into the form of `ready`, and a function is called as it is; both answer to every frame.
        frames: of a video, (t, 3, h, w) as in a call; they are shown in turns. One is enough, but then nothing changes.
        periods: frames from one key frame to the next.
        repeats: timed rounds. In each, every network runs through one period of frames, and per-frame networks through
            four.
        warmup: rounds before that are not timed.
        threads: CPU threads; None for torch's setting.

    Returns:
        Name to period to time; the one period of a per-frame network is 1.

    Raises:
        ValueError: no network, no period, or a number out of range.
    """
    check_frame(frames)
    for period in periods:
        check_period(period)
    if not networks or not periods:
        raise ValueError(f"timing needs a network and a period, got {list(networks)} and {list(periods)}")
    keep_freed_memory()
    shown = [frame[None] for frame in frames.contiguous(memory_format=torch.channels_last)]
    functions: dict[tuple[str, int], Callable[[], None]] = {}
    counts: dict[tuple[str, int], int] = {}
    for name, network in networks.items():
        if isinstance(network, DeltaNetwork):
            network = network if network.recipe.get("forms") is not None else network.deploy()
            for period in periods:
                functions[name, period] = _streaming(network, _taken(shown, period))
                counts[name, period] = period
        else:
            network = ready(network) if isinstance(network, nn.Module) else network
            functions[name, 1] = _calling(network, _taken(shown, 4))
            counts[name, 1] = 4
    timed = cost.latency(functions, repeats=repeats, warmup=warmup, threads=threads)
    found: dict[str, dict[int, FrameTime]] = {name: {} for name in networks}
    for (name, period), latency in timed.items():
        scale = 1000 / counts[name, period]
        found[name][period] = FrameTime(
            latency.median_s * scale,
            latency.low_s * scale,
            latency.high_s * scale,
            latency.cpu_median_s * scale,
            tuple(time_s * scale for time_s in latency.times_s),
        )
    return found


def ready(network: nn.Module) -> nn.Module:
    """A copy of a per-frame network in the form in which it runs fastest here: norms folded, channels last."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    folding.fold_batch_norms(network, folding.trace(network))
    network = network.to(memory_format=torch.channels_last)
    quicken(network)
    return network


def _taken(frames: list[Tensor], count: int) -> list[Tensor]:
    return [frames[i % len(frames)] for i in range(count)]


def _streaming(network: DeltaNetwork, frames: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        for _ in network.stream(frames, period=len(frames)):
            pass

    return run


def _calling(network: Callable[[Tensor], Any], frames: list[Tensor]) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            for frame in frames:
                network(frame)

    return run
