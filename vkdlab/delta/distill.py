"""How students learn to predict the teacher's changes (Habibian et al., "Delta Distillation", ECCV 2022).

On pairs of a key frame and a later one:

    L = L_task + alpha L_distill + L_output + beta L_cost
    L_distill = mean over layers of |g(x_t - x_0) - (f(x_t*) - f(x_0*))|^2 / |f(x_t*) - f(x_0*)|^2

where x* are the teacher's own features, and x what the layers before have made of the frame. All terms but L_cost are
of the later frame. L_cost and L_task as in the paper.

Where we differ: every layer's error is divided by the energy of its own target, at every step; L_output, the divergence
from the teacher's answer; the teacher and full students, which are exact, stay as they are; the distillation is never
switched off. `Config.as_released` gives the released schedule, whose state is part of the module's and so of a
checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vkdlab.data.dense_batches import DenseBatch
from vkdlab.delta.convert import convert
from vkdlab.delta.costs import Costs
from vkdlab.delta.gates import cost_loss
from vkdlab.delta.inspection import Inspection
from vkdlab.delta.layers import DeltaConv2d, Policy
from vkdlab.delta.network import Traced
from vkdlab.delta.state import DeltaState
from vkdlab.delta.tasks import Task, Truth

_FLOOR = 1e-4  # of a map's own energy: bfloat16 rounds a change away that is smaller


@dataclass(frozen=True)
class Config:
    """What a delta network is made of and how it learns."""

    gamma: float | int = 4
    """How many times narrower small students are."""
    policy: Policy = "out"
    """Of the ranks; see `svd_rank`."""
    skip: tuple[str, ...] = ()
    """Layers that stay as they are."""
    blocks: tuple[str, ...] = ()
    """Modules that get one non-linear student for the whole."""
    gaps: tuple[int, int] = (1, 7)
    """Least and greatest number of frames from a key frame to the later one."""
    task: float | int = 1.0
    """Weight of the task's loss."""
    alpha: float | int = 1.0
    """Weight of the layers' errors."""
    output: float | int = 1.0
    """Weight of the divergence from the teacher's answer."""
    beta: float | int = 1.0
    """Weight of the cost, where there is a search."""
    search: bool = False
    """Whether to search which layers keep their full student."""
    budget: float | int | None = None
    """Average cost of a frame that the search may spend, as a share of the teacher's; None for the released loss."""
    period: int = 4
    """Frames from one key frame to the next that the cost is averaged over."""
    normalise: Literal["energy", "first"] = "energy"
    """What layers' errors are divided by: the energy of their targets, or their own mean at the first step."""
    until: float | int = 1.0
    """Share of the steps after which the layers' errors count no more."""
    train_full: bool = False
    """Whether full students learn; else they are the teacher."""
    teacher_lr: float | int = 0.0
    """Learning rate of the teacher as a share of the students'; 0 keeps it as it is."""

    def __post_init__(self):
        if self.normalise not in ("energy", "first"):
            raise ValueError(f"normalise is 'energy' or 'first', got {self.normalise!r}")
        if not (self.gamma >= 1 and 0 < self.until <= 1 and self.teacher_lr >= 0):
            raise ValueError(
                "expected gamma of at least 1, until above 0 and at most 1, and teacher_lr of at least 0, got "
                f"gamma={self.gamma}, until={self.until}, teacher_lr={self.teacher_lr}"
            )
        if min(self.task, self.alpha, self.output, self.beta) < 0 or not self.task + self.alpha + self.output > 0:
            raise ValueError(
                f"weights are 0 or more, and not all 0, got task={self.task}, alpha={self.alpha}, "
                f"output={self.output}, beta={self.beta}"
            )
        if not 1 <= self.gaps[0] <= self.gaps[1]:
            raise ValueError(f"gaps is (least, greatest) number of frames, 1 or more, got {self.gaps}")
        if self.budget is not None and not (self.search and 0 < self.budget <= 1):
            raise ValueError(
                f"a budget is above 0, at most 1, and kept by a search, got {self.budget}, search={self.search}"
            )
        if self.period < 1:
            raise ValueError(f"period must be at least 1, got {self.period}")

    @classmethod
    def as_released(cls, *, gamma: float | int = 4, policy: Policy = "out", gaps: tuple[int, int] = (1, 5)) -> Config:
        """The released recipe of segmentation: weights, normalisation, a teacher that learns, an end after a third.

        Of the losses alone: their optimiser is SGD with a polynomial decay, ours is whatever trains (`TrainConfig`).
        """
        return cls(
            gamma=gamma, policy=policy, gaps=gaps, alpha=0.01, output=0.0, beta=0.1, search=True, normalise="first",
            until=1 / 3, train_full=True, teacher_lr=0.1,
        )  # fmt: skip


class DeltaDistillation(nn.Module):
    """A delta network, and how it is trained.

    Args:
        teacher: the per-frame network; it is copied.
        config: of the delta network and its losses.
        task: what the teacher was taught.
        classes: of the data set, the background included.
        frame_shape: (3, h, w), of which the cost is counted.
        steps: of the whole training; only needed where `config.until` is below 1.

    Attributes:
        student: the delta network.

    Raises:
        ValueError: a teacher that cannot be converted, or steps that are missing.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        config: Config,
        task: Task,
        classes: int,
        frame_shape: tuple[int, int, int],
        steps: int | None = None,
    ):
        super().__init__()
        if config.until < 1 and steps is None:
            raise ValueError("steps is needed to know when the layers' errors count no more (config.until)")
        self.student = convert(
            teacher, gamma=config.gamma, policy=config.policy, skip=config.skip, blocks=config.blocks
        )
        self.student.searching = config.search
        self.student.layout = "channels_last"
        self.student.model.to(memory_format=torch.channels_last)
        self.config, self.task, self.classes, self.steps = config, task, classes, steps
        self.costs: Costs = self.student.costs(frame_shape)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("first", torch.zeros(()))
        self.requires_grad_(False)
        for parameter in self._learned():
            parameter.requires_grad_(True)

    @property
    def lr_scales(self) -> dict[nn.Parameter, float]:
        """Learning rates of the teacher's parameters, as a share of all others'."""
        return dict.fromkeys(self.student.teacher_parameters(), float(self.config.teacher_lr))

    def loss(self, batch: DenseBatch) -> dict[str, Float[Tensor, ""]]:
        """Of pairs (b, 2, 3, h, w), a key frame and a later one.

        Returns:
            "task", "distill", "output", "cost" where there is a search, and "total". In training mode the step counts.

        Raises:
            ValueError: clips of less than two frames.
        """
        if batch.frames.shape[1] < 2:
            raise ValueError("a pair has a key frame and a later one, got clips of one frame")
        key, later = batch.frames[:, 0], batch.frames[:, -1]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.teacher_lr > 0):
            _, state = self.student(key)
        with torch.no_grad():
            theirs = self.student.traced(later, teacher=True)
        ours = self.student.traced(later, state)
        losses = {
            "task": self.task.loss(ours.output, Truth.of(batch, frame=-1)),
            "distill": self._distill(ours, theirs, state),
            "output": self.task.soft(ours.output, theirs.output),
        }
        weights = {"task": self.config.task, "distill": self._alpha(), "output": self.config.output}
        if ours.gates:
            losses["cost"] = cost_loss(ours.gates, self.costs, period=self.config.period, budget=self.config.budget)
            weights["cost"] = self.config.beta
        if self.training:
            self.step += 1
        # A term of weight 0 is shown and teaches nothing.
        return {"total": sum(weights[name] * value for name, value in losses.items() if weights[name]), **losses}

    def _alpha(self) -> float:
        over = self.config.until < 1 and self.step.item() >= self.config.until * self.steps
        return 0.0 if over else float(self.config.alpha)

    def _distill(self, ours: Traced, theirs: Traced, state: DeltaState) -> Float[Tensor, ""]:
        errors = []
        for call, change in ours.changes.items():
            z_0 = state.caches[call][-1].detach().float()
            target = theirs.outputs[call].float() - z_0
            error = (change.float() - target).square().mean()
            if self.config.normalise == "energy":
                error = error / (target.square().mean() + _FLOOR * z_0.square().mean()).clamp(min=1e-12)
            errors.append(error)
        error = torch.stack(errors).mean()
        if self.config.normalise == "energy":
            return error
        if self.training and not self.first:
            self.first.copy_(error.detach())
        return error / (self.first if self.first else 1.0)

    def evaluate(self, batch: DenseBatch) -> dict[str, Any]:
        """The task's metric over all frames of clips, the first of each being the key frame; values add up.

        Where a data set has no labels, the teacher's answers are the truth.
        """
        output = self.student.clip(batch.frames).flatten(0, 1)
        truth = Truth.of(batch)
        if truth.labels is None and not truth.boxes:
            truth = self.task.answers(self.student.reference(batch.frames.flatten(0, 1)))
        return {self.task.metric: self.task.compare(output, truth, classes=self.classes)}

    @torch.no_grad()
    def predict(self, batch: DenseBatch) -> Float[Tensor, "b t k h w"]:
        """Answers to all frames of clips, the first of each being the key frame."""
        return self.student.clip(batch.frames)

    def inspect(self, batch: DenseBatch) -> Inspection:
        """What happens in each layer on the first clip; see `DeltaNetwork.inspect`."""
        return self.student.inspect(batch.frames[0, :, None])

    def _learned(self) -> list[nn.Parameter]:
        student, full = self.student, set()
        if not self.config.train_full:
            full = {
                id(p) for layer in student.layers.values() if isinstance(layer, DeltaConv2d)
                for p in layer.full.parameters()
            }  # fmt: skip
        learned = [p for p in student.student_parameters() if id(p) not in full]
        if self.config.search:
            learned += student.gate_parameters()
        return learned + (student.teacher_parameters() if self.config.teacher_lr else [])
