"""Teachers, delta networks and what these have to beat, each trained once (ours).

Every training is a run of its own, named by its configuration, its data and, where there is a teacher, the teacher's
weights. It needs one thread, so that several are trained at a time and each comes out with the same weights whether it
was trained alone or not.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

from vkdlab.data.dense_batches import Augmentation, Clips, TrainingFrames
from vkdlab.data.dense_mixed import MixedFrames
from vkdlab.delta.baselines import FeatureDistillation, PerFrame, low_rank, macs_of
from vkdlab.delta.distill import Config, DeltaDistillation
from vkdlab.delta.espnet import camvid_espnet
from vkdlab.delta.layers import Policy
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.recipes import DenseSplits, Recipe
from vkdlab.delta.student_files import save_student
from vkdlab.delta.tasks import MULTIPLES, SEGMENTATION, Segmentation, Task, rare_first
from vkdlab.history import History
from vkdlab.runs import Run, machine, run_of, trained_once
from vkdlab.student_files import SETTINGS
from vkdlab.training import Data, TrainConfig
from vkdlab.weights import weights_hash

VERSION = "2"
"""Of the methods' code: another one where a change of code changes what is learned."""
Kind = Literal["teacher", "delta", "small", "low rank", "feature distillation"]
DEFAULT = Config()
"""Of a delta network that is asked for without any."""
CLIP = 8
"""Frames of the clips by which a delta network's best epoch is chosen; the first is the key frame."""
MOVED = Augmentation(flip=0.0, zoom=(1.0, 1.0), shift=0.0, light=0.0)
"""Of frames that are seen a second time through a moved window, and not changed otherwise."""


@dataclass(frozen=True)
class Trained:
    """A network after its training."""

    kind: Kind
    """What it is."""
    method: nn.Module
    """What trained it, with the weights of its best epoch."""
    network: nn.Module
    """The network alone, in evaluation mode: a `DeltaNetwork`, or one that takes frames (b, 3, h, w)."""
    run: Run
    """Where its files lie."""
    history: History
    """What happened, epoch by epoch."""
    gamma: float | int = math.nan
    """Of a delta network's or a low-rank network's students; not-a-number where there are none."""


@dataclass(frozen=True)
class Training:
    """What `trained_once` needs to know: a training that may be done, or still has to be."""

    name: str
    """Of the run."""
    kind: Kind
    """What is trained."""
    method: nn.Module
    """As it is before the training."""
    data: Data
    """What it learns from, and what chooses its best epoch."""
    config: TrainConfig
    """How it is trained."""
    extra: dict[str, Any]
    """What else decides the result."""
    runs_dir: str | os.PathLike | None = None
    """Folder of all runs; by default in the cache."""
    gamma: float | int = math.nan
    """As `Trained.gamma`."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """What `DeltaNetwork.choose` is told when the training is over; empty: the gates stand as they were learned."""

    @property
    def done(self) -> bool:
        """Whether it reached its end."""
        return run_of(self.name, self.data, self.config, runs_dir=self.runs_dir, extra=self.extra, version=VERSION).done

    def train(self, *, progress: bool = True) -> Trained:
        """Trains where that was never done, goes on where it was interrupted, loads where it is done."""
        run, history = trained_once(
            self.name, self.method, self.data, self.config,
            runs_dir=self.runs_dir, extra=self.extra, version=VERSION, progress=progress,
        )  # fmt: skip
        method = self.method.eval()
        network = method.student if isinstance(method, DeltaDistillation) else method.network
        if self.chosen:
            assert isinstance(network, DeltaNetwork)
            network.choose(**self.chosen)
        if isinstance(method, DeltaDistillation) and not (run.folder / SETTINGS).is_file():
            self._save_student(run, method, history)
        return Trained(self.kind, method, network, run, history, self.gamma)

    def _save_student(self, run: Run, method: DeltaDistillation, history: History) -> None:
        metric, dense, val = method.task.metric, self.data.train.dataset, self.data.val
        shown = f"clips of {CLIP} frames" if isinstance(val, Clips) else "pairs made of one frame each"
        save_student(
            run.folder, method.student, task=method.task, dataset=dense, period=method.config.period,
            metrics={metric: history.best[f"val/{metric}"]},
            measured_on=f"{shown} of the validation split of {dense.name}, first frame as key frame",
            recipe={**asdict(method.config), **asdict(self.config)},
        )  # fmt: skip


@dataclass(frozen=True)
class Given(Training):
    """A network that others have trained: it is kept as a run, and there is nothing to do."""

    @property
    def done(self) -> bool:
        """Always."""
        return True

    def train(self, *, progress: bool = True) -> Trained:
        """The network as it was given; its history is empty."""
        run = Run.open(self.name, self.extra, data=self.data.fingerprint, runs_dir=self.runs_dir, version=VERSION)
        with run.lock(progress=progress):
            if not run.done:
                run.save_model(self.method)
                run.note(status="done", machine=machine())
        method = self.method.eval()
        return Trained(self.kind, method, method.network, run, History([], best_epoch=0))


@dataclass(frozen=True)
class Setting:
    """Where and how trainings of one study are done: all that they share."""

    splits: DenseSplits
    """The data."""
    recipe: Recipe
    """Sizes and training."""
    task: Task = SEGMENTATION
    """What is taught."""
    seed: int = 0
    """Of weights, order of samples, and gates."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    runs_dir: str | os.PathLike | None = None
    """Folder of all runs; by default in the cache."""

    @property
    def classes(self) -> int:
        """Of the data set, the background included."""
        return len(self.splits.train.classes)

    def network(self, width: int) -> nn.Module:
        """A new network of the task, with the weights that the seed gives."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return self.task.network(width, self.classes, multiples=self.recipe.multiples)

    @cached_property
    def taught(self) -> Task:
        """The task, with weights of classes where the recipe wants them."""
        if not self.recipe.balanced or not isinstance(self.task, Segmentation):
            return self.task
        return Segmentation(rare_first(self.splits.train))

    def teacher_network(self) -> nn.Module:
        """The teacher: as its authors trained it, or as it is before its training."""
        return self.network(self.recipe.width) if self.recipe.given is None else self.given()

    def given(self) -> nn.Module:
        """The network that others have trained, which is the teacher or whose answers are learned.

        Raises:
            DataMissing, FileNotFoundError, ValueError: as `camvid_espnet`.
        """
        return camvid_espnet(self.splits.source.get("root"))


def teacher_training(setting: Setting) -> Training:
    """The per-frame network that deltas are distilled from; with a recipe that has one given, nothing is trained."""
    recipe = setting.recipe
    if recipe.given is None:
        return _per_frame("teacher", setting, width=recipe.width, frames=recipe.teacher_samples)
    method = PerFrame(setting.given(), task=setting.taught, classes=setting.classes)
    about = {"given": recipe.given, "weights": weights_hash(method.network)}
    training = _training("teacher", method, setting, about, frames=recipe.teacher_samples)
    return Given(**{each.name: getattr(training, each.name) for each in fields(training)})


def small_training(setting: Setting, *, width: int) -> Training:
    """A smaller per-frame network; it sees as many frames as teacher and delta network together."""
    return _per_frame("small", setting, width=width, frames=_together(setting.recipe))


def feature_training(setting: Setting, teacher: nn.Module, *, width: int, alpha: float | int = 1.0) -> Training:
    """The same one, which learns the teacher's features and answers beside the labels."""
    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        method = FeatureDistillation(
            setting.network(width), task=setting.taught, classes=setting.classes, teacher=teacher,
            frame_shape=setting.splits.frame_shape, alpha=alpha,
        )  # fmt: skip
    about = {"width": width, "alpha": alpha, "teacher": weights_hash(teacher)}
    return _training("feature distillation", method, setting, about, frames=_together(setting.recipe))


def low_rank_training(setting: Setting, teacher: nn.Module, *, gamma: float | int, policy: Policy = "out") -> Training:
    """The teacher's low-rank form on every frame, tuned for as long as a delta network, on labels and answers."""
    network = low_rank(teacher, gamma=gamma, policy=policy).requires_grad_(True)
    method = PerFrame(network, task=setting.taught, classes=setting.classes, teacher=teacher)
    about = {"gamma": gamma, "policy": policy, "teacher": weights_hash(teacher)}
    return _training("low rank", method, setting, about, frames=2 * setting.recipe.student_samples, gamma=gamma)


def delta_training(setting: Setting, teacher: nn.Module, *, config: Config = DEFAULT) -> Training:
    """A delta network of the teacher."""
    recipe, shape = setting.recipe, setting.splits.frame_shape
    steps = recipe.student.epochs * math.ceil(recipe.student_samples / recipe.student.batch_size)
    method = DeltaDistillation(
        teacher, config=config, task=setting.taught, classes=setting.classes, frame_shape=shape, steps=steps
    )
    about = {"config": config, "teacher": weights_hash(teacher), "shape": list(shape)}
    chosen = {"budget": config.budget, "frame_shape": shape, "period": config.period} if config.budget else {}
    return _training(
        "delta", method, setting, about, frames=recipe.student_samples, gamma=config.gamma, gaps=config.gaps,
        chosen=chosen,
    )  # fmt: skip


def train_teacher(setting: Setting, *, progress: bool = True) -> Trained:
    """Trains the teacher where that was never done with these settings and data; loads it where it was."""
    return teacher_training(setting).train(progress=progress)


def train_small(setting: Setting, *, width: int, progress: bool = True) -> Trained:
    """Trains a smaller per-frame network; see `small_training`."""
    return small_training(setting, width=width).train(progress=progress)


def train_delta(setting: Setting, teacher: nn.Module, *, config: Config = DEFAULT, progress: bool = True) -> Trained:
    """Trains a delta network of a teacher; see `delta_training`."""
    return delta_training(setting, teacher, config=config).train(progress=progress)


def train_low_rank(
    setting: Setting, teacher: nn.Module, *, gamma: float | int, policy: Policy = "out", progress: bool = True
) -> Trained:
    """Tunes the low-rank form of a teacher; see `low_rank_training`."""
    return low_rank_training(setting, teacher, gamma=gamma, policy=policy).train(progress=progress)


def train_feature_distillation(
    setting: Setting, teacher: nn.Module, *, width: int, alpha: float | int = 1.0, progress: bool = True
) -> Trained:
    """Trains a smaller network on a teacher's features; see `feature_training`."""
    return feature_training(setting, teacher, width=width, alpha=alpha).train(progress=progress)


def delta_macs(setting: Setting, config: Config, *, period: int) -> float:
    """Average multiply-accumulates of a frame of the delta network that runs, before any training or search."""
    from vkdlab.delta.convert import convert

    network = convert(
        setting.teacher_network(), gamma=config.gamma, policy=config.policy, skip=config.skip,
        blocks=config.blocks,
    )  # fmt: skip
    return network.deploy().macs_per_frame(setting.splits.frame_shape, period)


def macs_per_frame(trained: Trained, frame_shape: tuple[int, int, int], *, period: int = 1) -> float:
    """Average multiply-accumulates of a frame, of a delta network in its deployed form; others have no period."""
    if isinstance(trained.network, DeltaNetwork):
        return trained.network.deploy().macs_per_frame(frame_shape, period)
    return float(macs_of(trained.network, frame_shape))


def _together(recipe: Recipe) -> int:
    """Frames an epoch of a network that sees in the teacher's epochs what teacher and delta network see together."""
    pairs = recipe.student.epochs * recipe.student_samples
    return recipe.teacher_samples + math.ceil(2 * pairs / recipe.teacher.epochs)


def _per_frame(kind: Kind, setting: Setting, *, width: int, frames: int) -> Training:
    """A network of a width, which learns labels, and another network's answers where the recipe has one."""
    recipe = setting.recipe
    soft = None if recipe.soft is None else setting.given()
    method = PerFrame(setting.network(width), task=setting.taught, classes=setting.classes, teacher=soft)
    about: dict[str, Any] = {"width": width}
    if recipe.multiples != MULTIPLES:
        about["multiples"] = list(recipe.multiples)
    if soft is not None:
        about |= {"soft": recipe.soft, "soft weights": weights_hash(soft)}
    return _training(kind, method, setting, about, frames=frames)


def _training(
    kind: Kind,
    method: nn.Module,
    setting: Setting,
    about: dict[str, Any],
    *,
    frames: int,
    gamma: float | int = math.nan,
    gaps: tuple[int, int] | None = None,
    chosen: dict[str, Any] | None = None,
) -> Training:
    recipe, task, splits = setting.recipe, setting.task, setting.splits
    length = CLIP if kind == "delta" else 1
    train = _learned_from(setting, frames=frames, gaps=gaps)
    stride = max(length, len(splits.val) * length // recipe.val_frames)
    val: Clips | TrainingFrames
    if gaps and recipe.stills:
        some = min(len(splits.val), -(-recipe.val_frames // 2))
        val = TrainingFrames(splits.val, stills=True, augmentation=MOVED, samples=some, boxes=task.boxes)
    else:
        val = Clips(splits.val, length=length, stride=stride, boxes=task.boxes)
    config = recipe.student if kind in ("delta", "low rank") else recipe.teacher
    if kind == "low rank":
        config = replace(config, batch_size=2 * config.batch_size)  # as many frames a step as in pairs
    config = replace(config, monitor=task.metric, seed=setting.seed, device=setting.device)
    extra = {
        "kind": kind,
        "task": task.name,
        "classes": list(splits.train.classes),
        **({"balanced": True} if recipe.balanced else {}),
        **about,
    }
    name = f"delta-{task.name}-{kind.replace(' ', '-')}"
    return Training(name, kind, method, Data(train, val), config, extra, setting.runs_dir, gamma, chosen or {})


def _learned_from(setting: Setting, *, frames: int, gaps: tuple[int, int] | None) -> TrainingFrames | MixedFrames:
    """Training frames, or pairs where there are gaps, with their share of unlabelled ones."""
    recipe, splits = setting.recipe, setting.splits
    how: dict[str, Any] = {"size": recipe.crop, "augmentation": recipe.augmentation, "boxes": setting.task.boxes}
    others = 0 if splits.unlabelled is None else max(1, round(recipe.share * frames))
    stills = recipe.stills and gaps is not None
    train = TrainingFrames(splits.train, gaps=None if stills else gaps, stills=stills, samples=frames - others, **how)
    if splits.unlabelled is None:
        return train
    return MixedFrames([train, TrainingFrames(splits.unlabelled, gaps=gaps, samples=others, **how)])
