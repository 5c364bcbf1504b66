"""What networks are taught and judged by: classes of pixels, or things and their boxes.

Both tasks are the same to whoever trains: a network, a loss against the truth, a loss against another network's answer,
and a metric that adds up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torch.nn import functional

from vkdlab.data.dense import VOID, DenseDataset
from vkdlab.data.dense_batches import DenseBatch
from vkdlab.delta.detector import DetectionConfig, DetectionNetwork, decode, detection_loss
from vkdlab.delta.networks import SegmentationConfig, SegmentationNetwork, segmentation_loss
from vkdlab.dense_metrics import AveragePrecision, Confusion

MULTIPLES = (1, 2, 4)
"""Channels of the levels of a task's network, times its width; frames are multiples of 8."""


@dataclass(frozen=True)
class Truth:
    """What is known of n frames."""

    labels: Integer[Tensor, "n h w"] | None
    """Class of each pixel, 255 where none counts; None where nothing is known of pixels."""
    boxes: tuple[Float[Tensor, "_ 4"], ...] = ()
    """Of each frame: x0, y0, x1, y1, pixels; empty where nothing is known of boxes."""
    box_labels: tuple[Int[Tensor, " _"], ...] = ()
    """Classes of the boxes, never 0."""

    @classmethod
    def of(cls, batch: DenseBatch, *, frame: int | None = None) -> Truth:
        """Of all frames of a batch, clip by clip, or of one frame of each clip."""
        frames = slice(None) if frame is None else slice(frame, None if frame == -1 else frame + 1)
        labels = None if batch.labels is None else batch.labels[:, frames].flatten(0, 1)
        boxes, kinds = (
            tuple(each for clip in clips for each in clip[frames]) for clips in (batch.boxes, batch.box_labels)
        )
        return cls(labels, boxes, kinds)

    @classmethod
    def at(cls, dense: DenseDataset, indices: Iterable[int], *, boxes: bool = False) -> Truth:
        """Of frames of a data set: their labels, or their boxes.

        Raises:
            ValueError: the data set has none.
        """
        if not boxes:
            return cls(torch.from_numpy(np.stack([dense.labels(i) for i in indices])).long())
        found = [dense.boxes(i) for i in indices]
        return cls(
            None,
            tuple(torch.from_numpy(rows) for rows, _ in found),
            tuple(torch.from_numpy(kinds).long() for _, kinds in found),
        )


class Task(ABC):
    """One of `SEGMENTATION` and `DETECTION`."""

    name: ClassVar[str]
    metric: ClassVar[str]
    """What the metric is called."""
    boxes: ClassVar[bool]
    """Whether batches have to carry boxes."""

    @abstractmethod
    def network(self, width: int, classes: int, *, multiples: tuple[int, ...] = MULTIPLES) -> nn.Module:
        """A new network.

        Args:
            width: channels at its first level.
            classes: of the data set, the background included.
            multiples: channels of each level, times `width`.
        """

    @abstractmethod
    def loss(self, output: Float[Tensor, "n k h w"], truth: Truth) -> Float[Tensor, ""]:
        """How far answers are from the truth; 0 where nothing is known."""

    @abstractmethod
    def soft(self, output: Float[Tensor, "n k h w"], teacher_output: Float[Tensor, "n k h w"]) -> Float[Tensor, ""]:
        """How far answers are from a teacher's, 0 where they are the same."""

    @abstractmethod
    def compare(self, output: Float[Tensor, "n k h w"], truth: Truth, *, classes: int) -> Confusion | AveragePrecision:
        """The metric's value over n frames; values of several batches add up."""

    @abstractmethod
    def answers(self, output: Float[Tensor, "n k h w"]) -> Truth:
        """Answers as a truth to compare others with, where nobody knows better."""

    def measure(
        self, outputs: Float[Tensor, "n k h w"], dense: DenseDataset, indices: Iterable[int]
    ) -> Confusion | AveragePrecision:
        """The metric's value over some frames of a data set; values of several calls add up.

        Args:
            outputs: what a network answered to the frames.
            dense: the data set.
            indices: numbers of the n frames in it.

        Raises:
            ValueError: the data set has no labels, or no boxes where these are needed.
        """
        return self.compare(outputs, Truth.at(dense, indices, boxes=self.boxes), classes=len(dense.classes))


class Segmentation(Task):
    """Classes of pixels: cross-entropy, Kullback-Leibler divergence from the teacher, mean IoU.

    Args:
        weights: how much a pixel of each class counts in the cross-entropy, see `rare_first`; None for all alike.
    """

    name, metric, boxes = "segmentation", "mIoU", False

    def __init__(self, weights: Float[Tensor, " k"] | None = None):
        self.weights = weights

    def network(self, width: int, classes: int, *, multiples: tuple[int, ...] = MULTIPLES) -> nn.Module:
        return SegmentationNetwork(SegmentationConfig(width=width, classes=classes, multiples=multiples))

    def loss(self, output: Float[Tensor, "n k h w"], truth: Truth) -> Float[Tensor, ""]:
        if truth.labels is None:
            return output.new_zeros((), dtype=torch.float32)
        return segmentation_loss(output, truth.labels.long(), void=VOID, weights=self.weights)

    def soft(self, output: Float[Tensor, "n k h w"], teacher_output: Float[Tensor, "n k h w"]) -> Float[Tensor, ""]:
        ours, theirs = (logits.float().log_softmax(1) for logits in (output, teacher_output))
        return (theirs.exp() * (theirs - ours)).sum(1).mean()

    def compare(self, output: Float[Tensor, "n k h w"], truth: Truth, *, classes: int) -> Confusion:
        if truth.labels is None:
            raise ValueError("nothing is known of these pixels: the mean IoU needs a data set with labels")
        answers = output.argmax(1).cpu().numpy()
        return Confusion.of(answers, truth.labels.cpu().numpy(), classes=classes, void=VOID)

    def answers(self, output: Float[Tensor, "n k h w"]) -> Truth:
        return Truth(output.argmax(1))


def rare_first(dense: DenseDataset) -> Float[Tensor, " k"]:
    """Weights of classes, 1 / ln(1.1 + p) for a class that has the share p of a data set's labelled pixels.

    As of ENet (Paszke et al., 2016): from 1.3 for what is everywhere to 10.5 for what is nearly nowhere.
    """
    counts = sum(np.bincount(dense.labels(i).reshape(-1), minlength=256) for i in range(len(dense)))
    counts = counts[: len(dense.classes)]
    return torch.from_numpy(1 / np.log(1.1 + counts / max(counts.sum(), 1))).float()


class Detection(Task):
    """Things and their boxes: `detection_loss`, distance of heat maps and boxes from the teacher's, mAP at IoU 0.5."""

    name, metric, boxes = "detection", "mAP@0.5", True

    def network(self, width: int, classes: int, *, multiples: tuple[int, ...] = MULTIPLES) -> nn.Module:
        return DetectionNetwork(DetectionConfig(width=width, classes=classes - 1, multiples=multiples))

    def loss(self, output: Float[Tensor, "n k h w"], truth: Truth) -> Float[Tensor, ""]:
        if not truth.boxes:
            return output.new_zeros((), dtype=torch.float32)
        return detection_loss(output, truth.boxes, truth.box_labels)["total"]

    def soft(self, output: Float[Tensor, "n k h w"], teacher_output: Float[Tensor, "n k h w"]) -> Float[Tensor, ""]:
        """Divergence of the heat maps, and the boxes' distances where the teacher sees a thing; both per thing."""
        ours, theirs = output.float(), teacher_output.float()
        heat = theirs[:, :-4].sigmoid()
        things = heat.sum().clamp(min=1)
        cross = functional.binary_cross_entropy_with_logits(ours[:, :-4], heat, reduction="sum")
        least = functional.binary_cross_entropy_with_logits(theirs[:, :-4], heat, reduction="sum")
        seen = heat.amax(1, keepdim=True)
        away = ((ours[:, -4:] - theirs[:, -4:]).abs() * seen).sum() / seen.sum().clamp(min=1)
        return (cross - least) / things + away

    def compare(self, output: Float[Tensor, "n k h w"], truth: Truth, *, classes: int) -> AveragePrecision:
        if not len(truth.boxes) == len(output):
            raise ValueError("nothing is known of the boxes in these frames: mAP needs a data set with boxes")
        parts = [
            AveragePrecision.of(
                found.boxes.cpu().numpy(),
                found.scores.cpu().numpy(),
                found.labels.cpu().numpy(),
                true_boxes=boxes.cpu().numpy().astype(np.float32),
                true_labels=labels.cpu().numpy(),
                classes=classes,
            )
            for found, boxes, labels in zip(
                decode(output, classes=output.shape[1] - 4), truth.boxes, truth.box_labels, strict=True
            )
        ]
        return sum(parts[1:], start=parts[0])

    def answers(self, output: Float[Tensor, "n k h w"]) -> Truth:
        """Things of which the detector is surer than not."""
        found = decode(output, classes=output.shape[1] - 4, least=0.5)
        return Truth(None, tuple(each.boxes for each in found), tuple(each.labels for each in found))


SEGMENTATION = Segmentation()
DETECTION = Detection()
TASKS = {task.name: task for task in (SEGMENTATION, DETECTION)}
"""By name."""


def task_of(name: str, *, data: str) -> Task:
    """A task by its name, for a data set that has what it is taught with.

    Args:
        name: "segmentation" or "detection".
        data: name of the data set.

    Raises:
        ValueError: no such task, or detection on a data set without boxes.
    """
    if name not in TASKS:
        raise ValueError(f"task is one of {', '.join(TASKS)}, got {name!r}")
    if TASKS[name].boxes and data != "tabletop":
        raise ValueError(f'{name} learns from boxes, which {data} does not have: take data "tabletop"')
    return TASKS[name]
