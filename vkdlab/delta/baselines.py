"""What a delta network has to beat at the same cost: per-frame networks, trained as long and as well (ours).

A smaller network; the teacher with every convolution replaced by the two that its small student starts as, run on every
frame and tuned; and a smaller network that learns the teacher's features as they are, without changes ("plain feature
distillation"):

    L = L_task + KL(teacher || student) + mean over levels of |A z - z_teacher|^2 / |z_teacher - mean|^2

with one 1x1 convolution A a level, which is thrown away afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vkdlab import cost
from vkdlab.data.dense_batches import DenseBatch
from vkdlab.delta.convert import convert
from vkdlab.delta.folding import replace_module
from vkdlab.delta.layers import DeltaConv2d, Policy, pair_macs, svd_rank
from vkdlab.delta.networks import SegmentationNetwork
from vkdlab.delta.tasks import MULTIPLES, Task, Truth


class PerFrame(nn.Module):
    """A network that looks at one frame at a time, and how it is trained.

    Args:
        network: takes (n, 3, h, w); kept, not copied.
        task: what it is taught.
        classes: of the data set, the background included.
        teacher: a network whose answers are learned too; None for the truth alone. It is copied and stays as it is.
    """

    def __init__(self, network: nn.Module, *, task: Task, classes: int, teacher: nn.Module | None = None):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.task, self.classes = task, classes
        self.teacher = None if teacher is None else copy.deepcopy(teacher).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> PerFrame:
        """Sets the mode; the teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def loss(self, batch: DenseBatch) -> dict[str, Float[Tensor, ""]]:
        """Of all frames of a batch: "task", "output" where there is a teacher, and "total"."""
        frames = _flat(batch)
        output = _quickest(self.network, frames.clone())  # which may change them in place
        losses = {"task": self.task.loss(output, Truth.of(batch))}
        if self.teacher is not None:
            with torch.no_grad():
                theirs = _quickest(self.teacher, frames)
            losses["output"] = self.task.soft(output, _coarser(theirs, output))
        return {"total": sum(losses.values()), **losses}

    def evaluate(self, batch: DenseBatch) -> dict[str, Any]:
        """The task's metric over all frames of a batch; values add up."""
        output = self.network(_flat(batch))
        return {self.task.metric: self.task.compare(output, Truth.of(batch), classes=self.classes)}

    @torch.no_grad()
    def predict(self, batch: DenseBatch) -> Float[Tensor, "b t k h w"]:
        """Answers to all frames of a batch."""
        return self.network(_flat(batch)).unflatten(0, batch.frames.shape[:2])


class FeatureDistillation(PerFrame):
    """A smaller network that learns the teacher's answers and its features, level by level.

    Args:
        network: the smaller one, of the teacher's form.
        task: what it is taught.
        classes: of the data set, the background included.
        teacher: whose features are learned.
        levels: modules whose outputs are compared, of the same names in both; by default `levels_of(teacher)`.
        frame_shape: (3, h, w) of a frame, to see how many channels there are.
        alpha: of the features' term.

    Raises:
        ValueError: a level that one of the networks does not have.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        task: Task,
        classes: int,
        teacher: nn.Module,
        levels: Sequence[str] | None = None,
        frame_shape: tuple[int, int, int],
        alpha: float | int = 1.0,
    ):
        super().__init__(network, task=task, classes=classes, teacher=teacher)
        self.levels = tuple(levels_of(teacher) if levels is None else levels)
        self.alpha = alpha
        for part, whose in ((self.network, "smaller network"), (self.teacher, "teacher")):
            names = [name for name, _ in part.named_modules()]
            if not self.levels or (missing := [level for level in self.levels if level not in names]):
                raise ValueError(f"the {whose} has no module {missing[0]!r}" if self.levels else "there is no level")
        was = self.network.training
        with torch.no_grad():
            frame = torch.zeros(1, *frame_shape)
            ours, theirs = (self._features(part.eval(), frame)[1] for part in (self.network, self.teacher))
        self.network.train(was)
        self.adapters = nn.ModuleList(nn.Conv2d(a.shape[1], b.shape[1], 1) for a, b in zip(ours, theirs, strict=True))

    def loss(self, batch: DenseBatch) -> dict[str, Float[Tensor, ""]]:
        """Of all frames of a batch: "task", "output", "features", and "total"."""
        frames = _flat(batch)
        output, ours = self._features(self.network, frames.clone())  # as above
        with torch.no_grad():
            answer, theirs = self._features(self.teacher, frames)
        apart = [
            (adapter(a).float() - b.float()).square().mean() / b.float().var().clamp(min=1e-6)
            for adapter, a, b in zip(self.adapters, ours, theirs, strict=True)
        ]
        losses = {
            "task": self.task.loss(output, Truth.of(batch)),
            "output": self.task.soft(output, answer),
            "features": torch.stack(apart).mean(),
        }
        return {"total": losses["task"] + losses["output"] + self.alpha * losses["features"], **losses}

    def _features(self, network: nn.Module, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        found: dict[str, Tensor] = {}
        hooks = [
            network.get_submodule(level).register_forward_hook(
                lambda _module, _inputs, output, level=level: found.__setitem__(level, output)
            )
            for level in self.levels
        ]
        try:
            output = network(frames)
        finally:
            for hook in hooks:
                hook.remove()
        return output, [found[level] for level in self.levels]


def levels_of(network: nn.Module) -> list[str]:
    """Names of the modules of a task's network that end a level: those of its `down` and `up` lists."""
    return [
        f"{name}.{place}" if name else place
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList)
        for place, _ in module.named_children()
    ]


def low_rank(model: nn.Module, *, gamma: float | int, policy: Policy = "out") -> nn.Module:
    """A network in which every convolution that `convert` would convert is the two of its spatial SVD.

    Args:
        model: takes frames (b, 3, h, w); it is copied, not changed.
        gamma: how many times narrower; see `svd_rank`.
        policy: of the ranks.

    Raises:
        ValueError: as `convert`.
    """
    network = convert(model, gamma=gamma, policy=policy)
    for layer in network.layers.values():
        assert isinstance(layer, DeltaConv2d)
        pair = layer.small
        if layer.teacher.bias is not None:
            pair[1].bias = nn.Parameter(layer.teacher.bias.detach().clone())
        replace_module(network.model, layer, pair)
    return network.model.eval()


def macs_of(network: nn.Module, frame_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of a per-frame network for one frame of shape (3, h, w)."""
    return cost.macs(network, torch.zeros(1, *frame_shape))


def width_for(
    macs: float | int,
    task: Task,
    *,
    classes: int,
    frame_shape: tuple[int, int, int],
    multiples: tuple[int, ...] = MULTIPLES,
) -> int:
    """The smallest width of a task's network that costs `macs` multiply-accumulates a frame, or 1 % less, or more.

    Args:
        macs: what a frame may cost.
        task: whose network.
        classes: of the data set, the background included.
        frame_shape: (3, h, w).
        multiples: channels of each level, times the width.
    """
    width = 1
    while macs_of(task.network(width, classes, multiples=multiples), frame_shape) < 0.99 * macs:
        width += 1
    return width


def gamma_for(
    macs: float | int, model: nn.Module, *, frame_shape: tuple[int, int, int], policy: Policy = "out"
) -> float:
    """The largest gamma, in steps of a twentieth, with which `low_rank` costs `macs` a frame, or 1 % less, or more.

    It is at least 1: no low-rank network costs more than that one. It is less than the channels of any layer, as a
    layer that is narrower than gamma keeps its rank.

    Args:
        macs: what a frame may cost.
        model: the network to be decomposed.
        frame_shape: (3, h, w).
        policy: of the ranks.
    """
    network = convert(model, gamma=4, policy=policy)
    costs, convs = network.costs(frame_shape), {name: layer.teacher for name, layer in network.layers.items()}
    narrow = min(min(conv.in_channels if policy == "min" else 10**9, conv.out_channels) for conv in convs.values())

    def expected(step: int) -> float:
        shares = {name: pair_macs(conv, svd_rank(conv, gamma=step / 20, policy=policy)) for name, conv in convs.items()}
        return costs.dense + sum(min(share, 1) * costs.layers[name].teacher for name, share in shares.items())

    step = next((step for step in range(20 * narrow - 1, 20, -1) if expected(step) >= 0.99 * macs), 20)
    # A layer that does not pay at gamma 4 may do so at a larger one, and is not among those that were counted.
    while step > 20 and macs_of(low_rank(model, gamma=step / 20, policy=policy), frame_shape) < 0.99 * macs:
        step -= 1
    return step / 20


def _quickest(network: nn.Module, frames: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k rows columns"]:
    """Answers in the form that is learned from at the least cost: before they are brought to the frame's size."""
    return network.coarse(frames) if isinstance(network, SegmentationNetwork) else network(frames)


def _coarser(
    theirs: Float[Tensor, "b k rows columns"], ours: Float[Tensor, "b k rows2 columns2"]
) -> Float[Tensor, "b k rows2 columns2"]:
    """A teacher's logits, averaged over what each of ours covers, where ours are coarser."""
    step = theirs.shape[2] // ours.shape[2]
    return functional.avg_pool2d(theirs, step) if step > 1 else theirs


def _flat(batch: DenseBatch) -> Float[Tensor, "n 3 h w"]:
    return batch.frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
