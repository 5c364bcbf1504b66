"""What costs as little and is simpler: the least that a delta network has to beat (ours).

Copying a key frame's answer until the next one costs a T-th of the teacher; a smaller network, or one of low rank, runs
on every frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vkdlab.data.dense import DenseDataset
from vkdlab.delta.answers import mapped
from vkdlab.delta.evaluate import Measured, key_frames, measured_frames, per_frame_outputs
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.tasks import Task

PerFrame = nn.Module | Callable[[Tensor], Any]
"""What answers to a batch of frames (b, 3, h, w), each by itself."""


def per_frame(
    network: PerFrame,
    dense: DenseDataset,
    task: Task,
    *,
    start: int = 0,
    every: int = 1,
    batch: int = 32,
) -> Measured:
    """The metric of a network that computes every frame.

    Args:
        network: a module, or the teacher of a delta network (`network.reference`).
        dense: frames with labels.
        task: whose metric is taken.
        start: frames at the beginning of each sequence that are not measured, as in `evaluate`.
        every: measures every so many-th frame of the others.
        batch: frames at a time.

    Returns:
        One distance.

    Raises:
        ValueError: a number out of range, or no sequence that is long enough.
    """
    frames = measured_frames(dense, period=1, start=start, every=every)
    total: Any = None
    for some, output in per_frame_outputs(network, dense, frames, batch=batch):
        found = task.measure(output, dense, some)
        total = found if total is None else total + found
    return Measured(task.metric, (total,))


def copying(
    network: DeltaNetwork | PerFrame,
    dense: DenseDataset,
    task: Task,
    *,
    period: int,
    start: int | None = None,
    every: int = 1,
    batch: int = 32,
) -> Measured:
    """The metric of the key frame's answer shown for all frames until the next key frame.

    Args:
        network: computes the key frames; of a delta network, the teacher does.
        dense: frames with labels.
        task: whose metric is taken.
        period: frames from one key frame to the next.
        start: as in `evaluate`.
        every: likewise.
        batch: frames at a time.

    Raises:
        ValueError: as in `evaluate`.
    """
    wanted = key_frames(measured_frames(dense, period=period, start=start, every=every), period)
    teacher = network.reference if isinstance(network, DeltaNetwork) else network
    sums: list[Any] = [None] * period
    for keys, output in per_frame_outputs(teacher, dense, sorted(wanted), batch=batch):
        for distance in range(period):
            rows = [row for row, key in enumerate(keys) if distance in wanted[key]]
            if not rows:
                continue
            chosen = mapped(output, lambda tensor, rows=rows: tensor[torch.tensor(rows, device=tensor.device)])
            found = task.measure(chosen, dense, [keys[row] + distance for row in rows])
            sums[distance] = found if sums[distance] is None else sums[distance] + found
    return Measured(task.metric, tuple(sums))
