"""Frames of a data set as a network takes them, and what teacher and delta network see in them, for figures (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vkdlab.data.dense import DenseDataset
from vkdlab.data.dense_batches import as_input
from vkdlab.delta.boxes import boxes_of, true_boxes
from vkdlab.delta.detector import Detections
from vkdlab.delta.network import DeltaNetwork


def busiest(dense: DenseDataset, *, count: int) -> list[int]:
    """Numbers of frames that follow one another in one sequence: of all such stretches the one where most moves.

    Args:
        dense: the frames.
        count: how many.

    Raises:
        ValueError: no sequence has so many frames.
    """
    stretches = [
        each.frames[first : first + count]
        for each in dense.sequences
        for first in range(0, each.count - count + 1, max(1, count // 2))
    ]
    if not stretches:
        raise ValueError(f"no sequence of {dense.name} {dense.split} has {count} frames")

    def moved(frames: range) -> float:
        small = np.stack([dense.frame(i)[::4, ::4].astype(np.float32) for i in frames])
        return float(np.abs(small[1:] - small[0]).mean())

    return list(max(stretches, key=moved))


def frames_of(dense: DenseDataset, indices: Sequence[int]) -> list[Float[Tensor, "1 3 h w"]]:
    """Frames by their numbers, one by one, as a network takes them."""
    return [as_input(dense.frame(i))[None] for i in indices]


def pictures_of(dense: DenseDataset, indices: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames by their numbers, as figures show them."""
    return np.stack([dense.frame(i) for i in indices])


@torch.inference_mode()
def class_maps(
    network: DeltaNetwork, dense: DenseDataset, indices: Sequence[int]
) -> dict[str, UInt8[np.ndarray, "t h w"]]:
    """The truth's, the teacher's and the delta network's class of every pixel; the first frame is the key frame.

    Args:
        network: answers with logits of each pixel's classes.
        dense: frames with labels.
        indices: numbers of frames that follow one another.
    """
    state, teacher, delta = None, [], []
    for frame in frames_of(dense, indices):
        output, state = network(frame, state)
        delta.append(output[0].argmax(0))
        teacher.append(network.reference(frame)[0].argmax(0))
    seen = {"teacher": teacher, "delta": delta}
    maps = {name: torch.stack(each).numpy().astype(np.uint8) for name, each in seen.items()}
    return {"truth": np.stack([dense.labels(i) for i in indices]).astype(np.uint8)} | maps


@torch.inference_mode()
def found_boxes(network: DeltaNetwork, dense: DenseDataset, indices: Sequence[int]) -> dict[str, list[Detections]]:
    """The true boxes, the teacher's and the delta network's, frame by frame; the first frame is the key frame.

    Args:
        network: a detector.
        dense: frames with boxes.
        indices: numbers of frames that follow one another.

    Raises:
        ValueError: the data set has no boxes.
    """
    state, teacher, delta = None, [], []
    for frame in frames_of(dense, indices):
        output, state = network(frame, state)
        delta += boxes_of(output)
        teacher += boxes_of(network.reference(frame))
    return {"truth": [true_boxes(dense, i) for i in indices], "teacher": teacher, "delta": delta}
