"""A study of VLAP on the built-in world: encoders, teacher, common answerer and prompters, each trained once (ours).

naming    two frame encoders, one for frames that are read and a small one for glances, learn what is in a frame
teacher   a compact backbone learns to answer from all T frames
answerer  another one learns to answer from any number of frames: on it all ways to choose frames are compared
students  prompters, each with its own copy of the answerer, learn to choose S frames and to answer from them
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from vkdlab.data import Dataset, load
from vkdlab.data.dense import load_dense
from vkdlab.data.dense_batches import Clips, TrainingFrames
from vkdlab.data.encoders import SENTENCE_DIM
from vkdlab.data.tabletop.asked import with_more_questions
from vkdlab.history import History
from vkdlab.runs import trained_once
from vkdlab.training import Data, TrainConfig
from vkdlab.vlap.answerer import AnswererTraining
from vkdlab.vlap.batches import QuestionDataset
from vkdlab.vlap.distill import VLAP, Config
from vkdlab.vlap.naming import Naming
from vkdlab.vlap.networks import CompactBackbone, FrameEncoder
from vkdlab.vlap.prompter import FramePrompter, ReleasedPrompter
from vkdlab.vlap.recipes import RECIPES, Recipe
from vkdlab.vlap.store import FrameStore, frame_store
from vkdlab.vlap.student_files import SETTINGS, save_student
from vkdlab.weights import weights_hash

VERSION = "1"
"""Of the method's code: another one where a change of code changes what is learned."""
OURS, BLIND, UNDISTILLED, RELEASED = "prompter", "blind prompter", "prompter, not distilled", "as released"
STUDENTS = (OURS, BLIND, UNDISTILLED, RELEASED)
"""Students of a study: ours, one whose prompter does not see the question, one without a teacher, the released code."""
_VAL_FRAMES = 200


@dataclass(frozen=True)
class QuestionSplits:
    """Questions of one world, with the frames of its videos as a study's encoders see them."""

    train: QuestionDataset
    """What is learned from."""
    val: QuestionDataset
    """What chooses the best epoch."""
    test: QuestionDataset
    """What is reported, and nothing else."""


@dataclass(frozen=True)
class Study:
    """Everything that was trained, in evaluation mode."""

    recipe: Recipe
    """How."""
    splits: QuestionSplits
    """On what."""
    close: Naming
    """What sees frames that are read."""
    glance: Naming
    """What sees thumbnails."""
    teacher: CompactBackbone
    """Answers from all frames."""
    answerer: CompactBackbone
    """Answers from any number of frames."""
    students: dict[str, VLAP]
    """By name, of `STUDENTS`."""


def train_study(
    *,
    profile: str = "demo",
    recipe: Recipe | None = None,
    seed: int = 0,
    students: Sequence[str] = STUDENTS,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    runs_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> Study:
    """Trains what was never trained with these settings; loads the rest.

    Args:
        profile: "smoke", "demo" or "full": which recipe of `RECIPES`.
        recipe: in place of the profile's.
        seed: of all weights and orders of samples.
        students: which of `STUDENTS` to train.
        device: where to train.
        runs_dir: folder of all runs; by default in the cache.
        progress: shows progress bars.

    Raises:
        ValueError: there is no such profile or student.
    """
    if recipe is None and profile not in RECIPES:
        raise ValueError(f"profile is one of {', '.join(RECIPES)}, got {profile!r}")
    if unknown := [name for name in students if name not in STUDENTS]:
        raise ValueError(f"students are of {', '.join(STUDENTS)}, got {', '.join(unknown)}")
    recipe = RECIPES[profile] if recipe is None else recipe
    work = _Workshop(recipe, seed, device, runs_dir, progress)
    close = work.naming("close", recipe.size, recipe.width)
    glance = work.naming("glance", recipe.thumbnail, recipe.glance_width)
    data = questions(recipe, progress=progress)
    splits = with_frames(data, recipe, close, glance, progress=progress)
    work.texts = sorted({text for part in data for row in part.questions for text in (row.question, *row.options)})
    teacher = work.answerer("teacher", splits, close, counts=(recipe.frames,), config=recipe.teacher)
    answerer = work.answerer("answerer", splits, close, counts=recipe.counts, config=recipe.answerer)
    trained = {name: work.student(name, splits, answerer, teacher, glance) for name in students}
    return Study(recipe, splits, close, glance, teacher, answerer, trained)


def questions(recipe: Recipe, *, progress: bool = True) -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test split of tabletop as a recipe wants them asked about."""
    parts = []
    for split in ("train", "val", "test"):
        part = load("tabletop", split, profile=recipe.profile, progress=progress)
        few = recipe.videos if split == "train" or recipe.videos is None else max(1, recipe.videos // 3)
        if split == "train" and recipe.draws:
            part = with_more_questions(part, draws=recipe.draws)
        parts.append(part if few is None or few >= len(part.videos) else part.subset(few))
    return tuple(parts)


def with_frames(
    data: Sequence[Dataset], recipe: Recipe, close: Naming, glance: Naming, *, progress: bool = True
) -> QuestionSplits:
    """Splits with the frames of their videos; training samples are mirrored half of the time."""
    store: FrameStore = frame_store(
        list(data), close.encoder, glance.encoder,
        count=recipe.frames, size=recipe.size, thumbnail=recipe.thumbnail, progress=progress,
    )  # fmt: skip
    columns = recipe.grid(recipe.size)[0], recipe.grid(recipe.thumbnail)[0]
    train, val, test = data
    mirrored = QuestionDataset(train, store, mirrored=True, columns=columns)
    return QuestionSplits(mirrored, QuestionDataset(val, store), QuestionDataset(test, store))


class _Workshop:
    """What all trainings of a study share."""

    def __init__(self, recipe: Recipe, seed: int, device: str, runs_dir: str | os.PathLike | None, progress: bool):
        self.recipe, self.seed, self.device, self.runs_dir, self.progress = recipe, seed, device, runs_dir, progress
        self.texts: list[str] = []

    def naming(self, name: str, size: tuple[int, int], width: int) -> Naming:
        """A frame encoder that has learned to name what is in frames of a size."""
        recipe = self.recipe
        few = {"train": recipe.named_videos, "val": recipe.named_videos and max(1, recipe.named_videos // 3)}
        train, val = (
            load_dense(
                "tabletop", split, profile=recipe.profile, classes="objects", size=size, videos=few[split],
                progress=self.progress,
            )
            for split in ("train", "val")
        )  # fmt: skip
        data = Data(
            TrainingFrames(train, samples=recipe.named_samples), Clips(val, stride=max(1, len(val) // _VAL_FRAMES))
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            method = Naming(FrameEncoder(width, dim=recipe.dim), classes=train.classes, progress=self.progress)
        about = {"width": width, "dim": recipe.dim, "size": list(size)}
        return self._trained(f"vlap-{name}", method, data, recipe.naming, "named", about)

    def backbone(self, close: Naming) -> CompactBackbone:
        """An answerer as it is before its training."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            backbone = CompactBackbone(close.encoder, close.words, config=self.recipe.compact)
        backbone.remember(self.texts, progress=self.progress)
        return backbone

    def answerer(
        self, name: str, splits: QuestionSplits, close: Naming, *, counts: Sequence[int], config: TrainConfig
    ) -> CompactBackbone:
        """A backbone that has learned to answer from these numbers of frames."""
        backbone = self.backbone(close)
        about = {"counts": list(counts), "compact": self.recipe.compact, "start": weights_hash(backbone)}
        method = AnswererTraining(backbone, counts=counts)
        data = Data(splits.train, splits.val)
        return self._trained(f"vlap-{name}", method, data, config, "accuracy", about).student

    def student(
        self, name: str, splits: QuestionSplits, answerer: CompactBackbone, teacher: CompactBackbone, glance: Naming
    ) -> VLAP:
        """A prompter, and a copy of the answerer that has learned with it; ours is kept as `vkdlab ask` finds it."""
        recipe = self.recipe
        sizes = {"frames": recipe.frames, "select": recipe.method.select}
        config = Config.released(**sizes) if name == RELEASED else recipe.method
        if name == UNDISTILLED:
            config = replace(config, distillation=0.0)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            method = VLAP(
                copy.deepcopy(answerer), self.prompter(name), config=config,
                teacher=None if config.distillation == 0 else copy.deepcopy(teacher),
                steps=recipe.steps(len(splits.train)),
            )  # fmt: skip
        about = {"student": name, "method": config, "answerer": weights_hash(answerer)}
        if method.teacher is not None:
            about["teacher"] = weights_hash(teacher)
        data = Data(splits.train, splits.val)

        def save(folder: Path, history: History) -> None:
            best = {key.removeprefix("val/"): value for key, value in history.best.items() if "accuracy" in key}
            how = {"student": name, **asdict(config), **asdict(recipe.student), "monitor": "accuracy"}
            save_student(
                folder, method.student, glance.encoder,
                frames=recipe.frames, thumbnail=recipe.thumbnail, dataset=splits.train, metrics=best,
                measured_on=f"the validation split of {splits.val.dataset.name}, which chose the best epoch",
                recipe=how | {"seed": self.seed, "device": self.device},
            )  # fmt: skip

        return self._trained(f"vlap-{name.replace(', ', '-').replace(' ', '-')}", method, data, recipe.student,
                             "accuracy", about, save=save if name == OURS else None)  # fmt: skip

    def prompter(self, name: str) -> FramePrompter | ReleasedPrompter:
        """As it is before its training."""
        recipe = self.recipe
        if name == RELEASED:
            columns, rows = recipe.grid(recipe.thumbnail)
            return ReleasedPrompter(columns * rows, frames=recipe.frames, select=recipe.method.select)
        return FramePrompter(recipe.dim, question_dim=SENTENCE_DIM, question_aware=name != BLIND)

    def _trained(
        self, name: str, method: nn.Module, data: Data, config: TrainConfig, monitor: str, about: dict,
        save: Callable[[Path, History], None] | None = None,
    ) -> nn.Module:  # fmt: skip
        config = replace(config, monitor=monitor, seed=self.seed, device=self.device)
        run, history = trained_once(
            name, method, data, config,
            runs_dir=self.runs_dir, extra=about, version=VERSION, progress=self.progress,
        )  # fmt: skip
        method.eval()
        if save is not None and not (run.folder / SETTINGS).is_file():
            save(run.folder, history)
        return method
