"""Metrics of labels on every pixel and of boxes, as sums, so that batches, videos and hosts add up exactly.

Mean IoU from one confusion matrix over all pixels (Everingham et al., IJCV 2010); mAP at one IoU with the area under
the whole precision-recall curve and the greedy matching of COCO's tool; temporal consistency, the mean IoU between the
labels of a frame and those of the frame before carried over by the optical flow (Liu et al., ECCV 2020, "ETC").
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Integer, UInt8

from vkdlab.metrics import Mean


@dataclass(frozen=True)
class Confusion:
    """How often each class was answered where each was true.

    Attributes:
        counts: int64 (k, k + 1): row true class, column answer; the last column is any answer beyond the k classes.
    """

    counts: Int[np.ndarray, "k m"]

    @classmethod
    def of(
        cls,
        answers: Integer[np.ndarray, "*any"],
        labels: Integer[np.ndarray, "*any"],
        *,
        classes: int,
        void: int = 255,
    ) -> Confusion:
        """The confusion of some pixels.

        Args:
            answers: a class for each pixel; one of `classes` or above is no class and always wrong.
            labels: the true classes, 0 to classes - 1, or `void`.
            classes: k.
            void: label of pixels that do not count.

        Raises:
            ValueError: a label that is none, or an answer below 0.
        """
        counted = labels != void
        labels, answers = labels[counted].astype(np.int64), answers[counted].astype(np.int64)
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"labels are from 0 to {classes - 1}, or {void}; got {labels.min()} to {labels.max()}")
        if len(answers) and answers.min() < 0:
            raise ValueError(f"answers are classes from 0, got {answers.min()}")
        cells = labels * (classes + 1) + np.minimum(answers, classes)
        return cls(np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1))

    @property
    def iou(self) -> Float[np.ndarray, " k"]:
        """IoU of each class, 0..1; not-a-number for a class that was nowhere true."""
        right = np.diagonal(self.counts).astype(float)
        true, answered = self.counts.sum(axis=1), self.counts[:, : len(right)].sum(axis=0)
        union = np.where(true > 0, true + answered - right, np.nan)
        return right / union

    @property
    def value(self) -> float:
        """Mean IoU of the classes that were true somewhere, 0..1; not-a-number where nothing was counted."""
        iou = self.iou
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else math.nan

    @property
    def accuracy(self) -> float:
        """Share of pixels that are right, 0..1; not-a-number where nothing was counted."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else math.nan

    def __add__(self, other: Confusion | Mean) -> Confusion:
        if isinstance(other, Mean) and not other.count:
            return self
        if not isinstance(other, Confusion):
            return NotImplemented
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"one has {len(self.counts)} classes and the other {len(other.counts)}")
        return Confusion(self.counts + other.counts)

    __radd__ = __add__


@dataclass(frozen=True)
class AveragePrecision:
    """Answers of a detector, each right or wrong, and how many things there were.

    Attributes:
        scores: (n,) of each answer.
        right: (n,) whether it found a thing that no better answer had found.
        labels: (n,) its class.
        things: (k,) true things of each class.
    """

    scores: Float32[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    things: Int[np.ndarray, " k"]

    @classmethod
    def of(
        cls,
        boxes: Float32[np.ndarray, "n 4"],
        scores: Float32[np.ndarray, " n"],
        labels: Integer[np.ndarray, " n"],
        *,
        true_boxes: Float32[np.ndarray, "m 4"],
        true_labels: Integer[np.ndarray, " m"],
        classes: int,
        threshold: int | float = 0.5,
    ) -> AveragePrecision:
        """The answers for one picture.

        Of each class, answers are gone through from the best score down; each takes the thing not yet taken that it
        overlaps most, if their IoU is `threshold` or more.

        Args:
            boxes: x0, y0, x1, y1, pixels.
            scores: higher is surer.
            labels: 0 to classes - 1.
            true_boxes: likewise.
            true_labels: likewise.
            classes: k.
            threshold: least IoU of an answer that is right, above 0.

        Raises:
            ValueError: a label or threshold out of range, or a score that is no number.
        """
        for name, given in (("labels", labels), ("true_labels", true_labels)):
            if len(given) and not 0 <= given.min() <= given.max() < classes:
                raise ValueError(f"{name} are from 0 to {classes - 1}, got {given.min()} to {given.max()}")
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is above 0 and at most 1, got {threshold}")
        if np.isnan(scores).any():
            raise ValueError("scores hold not-a-number")
        order = np.argsort(-scores, kind="stable")
        boxes, scores, labels = boxes[order], scores[order], labels[order].astype(np.int64)
        iou = box_iou(boxes, true_boxes) * (labels[:, None] == true_labels)
        right, free = np.zeros(len(boxes), bool), np.ones(len(true_boxes), bool)
        for i in range(len(boxes)):
            overlap = np.where(free, iou[i], 0)
            if len(overlap) and overlap.max() >= threshold:
                right[i], free[overlap.argmax()] = True, False
        return cls(scores, right, labels, np.bincount(true_labels, minlength=classes))

    @property
    def by_class(self) -> Float[np.ndarray, " k"]:
        """Average precision of each class, 0..1; not-a-number for a class of which there was nothing."""
        return np.array([self._of_class(k) if things else math.nan for k, things in enumerate(self.things)])

    def _of_class(self, k: int) -> float:
        mine = self.labels == k
        right = self.right[mine][np.argsort(-self.scores[mine], kind="stable")]
        found = np.cumsum(right)
        precision = found / np.arange(1, len(right) + 1)
        # The precision at a recall is the best of any recall as high or higher.
        best = np.maximum.accumulate(precision[::-1])[::-1]
        return float(best[right].sum() / self.things[k])

    @property
    def value(self) -> float:
        """Mean over the classes of which there was something, 0..1; not-a-number where there was nothing."""
        found = self.by_class
        return float(np.nanmean(found)) if np.isfinite(found).any() else math.nan

    def __add__(self, other: AveragePrecision | Mean) -> AveragePrecision:
        if isinstance(other, Mean) and not other.count:
            return self
        if not isinstance(other, AveragePrecision):
            return NotImplemented
        if len(self.things) != len(other.things):
            raise ValueError(f"one has {len(self.things)} classes and the other {len(other.things)}")
        mine, its = (self.scores, self.right, self.labels), (other.scores, other.right, other.labels)
        joined = (np.concatenate(pair) for pair in zip(mine, its, strict=True))
        return AveragePrecision(*joined, self.things + other.things)

    __radd__ = __add__


def box_iou(a: Float32[np.ndarray, "n 4"], b: Float32[np.ndarray, "m 4"]) -> Float32[np.ndarray, "n m"]:
    """Intersection over union of every pair of boxes x0, y0, x1, y1, 0..1; 0 where both are empty."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    area_a, area_b = (np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=-1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def carried(
    before: UInt8[np.ndarray, "h w"],
    motion: Float32[np.ndarray, "h w 2"],
    visible: Bool[np.ndarray, "h w"],
    *,
    void: int = 255,
) -> UInt8[np.ndarray, "h w"]:
    """The labels of the frame before, as they lie in this frame.

    Args:
        before: labels of the frame before.
        motion: from each pixel of this frame to the same point in the frame before, right and down, pixels.
        visible: whether that point could be seen there.
        void: label of pixels that could not.
    """
    height, width = before.shape
    y, x = np.mgrid[0:height, 0:width]
    from_x = np.rint(x + motion[..., 0]).astype(int)
    from_y = np.rint(y + motion[..., 1]).astype(int)
    inside = visible & (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    return np.where(inside, before[from_y.clip(0, height - 1), from_x.clip(0, width - 1)], void).astype(np.uint8)


def temporal_consistency(
    now: UInt8[np.ndarray, "h w"],
    before: UInt8[np.ndarray, "h w"],
    *,
    motion: Float32[np.ndarray, "h w 2"],
    visible: Bool[np.ndarray, "h w"],
    classes: int,
    void: int = 255,
) -> Confusion:
    """How the answers of a frame agree with those of the frame before, point by point; `.value` is the mean IoU.

    Nothing here is held against the truth: a network that always answers the same is perfectly consistent.

    Args:
        now: answers, 0 to classes - 1, or void.
        before: answers for the frame before, likewise.
        motion: as `carried` takes it, and `DenseDataset.motion` gives it.
        visible: likewise.
        classes: k.
        void: label of pixels that do not count.
    """
    known = visible & (now != void)  # labels have pixels of which nobody knows what they are
    return Confusion.of(now, carried(before, motion, known, void=void), classes=classes, void=void)
