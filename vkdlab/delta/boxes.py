"""Boxes that two sources see of the same thing, in one frame or from frame to frame (ours).

Temporal consistency of boxes: the share of a frame's boxes that meet a box of the same class of the frame before. Each
is first carried back by the median motion of the pixels in its middle (half as wide and half as high), at its own size;
one of which none of these pixels could be seen in the frame before does not count.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from vkdlab.data.dense import DenseDataset
from vkdlab.delta.detector import Detections, decode
from vkdlab.dense_metrics import box_iou
from vkdlab.metrics import Mean

LEAST_SCORE = 0.3
"""Score from which a thing counts as found, where detections are looked at one by one."""
LEAST_IOU = 0.5
"""Of two boxes that meet."""


def boxes_of(output: Float[Tensor, "b k h w"]) -> list[Detections]:
    """What a detector's map says of each picture, as far as it is sure enough to be shown (`LEAST_SCORE`)."""
    return decode(output.cpu(), classes=output.shape[1] - 4, least=LEAST_SCORE)


def true_boxes(dense: DenseDataset, i: int) -> Detections:
    """The boxes that a data set knows of frame `i`, with a score of 1 each.

    Raises:
        ValueError: the data set has no boxes.
    """
    boxes, labels = dense.boxes(i)
    return Detections(torch.from_numpy(boxes), torch.ones(len(boxes)), torch.from_numpy(labels).long())


def met(a: Detections, b: Detections) -> Bool[np.ndarray, " n"]:
    """Whether each of `a` meets one of `b`: the same class, and an IoU of 0.5 or more."""
    same = a.labels[:, None] == b.labels[None]
    return ((box_iou(a.boxes.numpy(), b.boxes.numpy()) >= LEAST_IOU) & same.numpy()).any(axis=1)


def box_consistency(
    now: Detections,
    before: Detections,
    *,
    motion: Float32[np.ndarray, "h w 2"],
    visible: Bool[np.ndarray, "h w"],
) -> Mean:
    """How the boxes of a frame agree with those of the frame before; `.value` is the share of them that meet one.

    Nothing here is held against the truth: a detector that always answers the same is consistent where nothing moves.

    Args:
        now: what was found in a frame.
        before: what was found in the frame before.
        motion: from each pixel of the frame to the same point in the frame before, right and down, pixels.
        visible: whether that point could be seen there.
    """
    carried, counted = now.boxes.numpy().copy(), np.zeros(len(now.boxes), bool)
    height, width = visible.shape
    for row, (x0, y0, x1, y1) in enumerate(now.boxes.tolist()):
        middle = np.s_[_inner(y0, y1, height), _inner(x0, x1, width)]
        seen = visible[middle]
        counted[row] = seen.any()
        if counted[row]:
            carried[row] += np.tile(np.median(motion[middle][seen], axis=0), 2)
    back = Detections(torch.from_numpy(carried), now.scores, now.labels)
    return Mean(int(met(back, before)[counted].sum()), int(counted.sum()))


def _inner(low: float | int, high: float | int, size: int) -> slice:
    """The pixels of a box's middle half along one axis, at least one."""
    first = min(int(low + (high - low) / 4), size - 1)
    return slice(first, max(round(high - (high - low) / 4), first + 1))
