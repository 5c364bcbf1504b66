"""The trainings of a study of VLAP: what each needs, whether it is done, and how to do it in its own process (ours)."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vkdlab.data import Dataset, load
from vkdlab.data.dense import load_dense
from vkdlab.data.dense_batches import Clips, TrainingFrames
from vkdlab.data.sentences import sentence_features
from vkdlab.data.tabletop.asked import with_more_questions
from vkdlab.data.workers import Task
from vkdlab.history import History
from vkdlab.runs import run_of, trained_once
from vkdlab.training import Data, TrainConfig
from vkdlab.vlap.answerer import AnswererTraining
from vkdlab.vlap.batches import QuestionDataset
from vkdlab.vlap.distill import VLAP, Config
from vkdlab.vlap.mentions import Mentions, MentionTexts, MentionTraining
from vkdlab.vlap.naming import Naming
from vkdlab.vlap.networks import CompactBackbone, FrameEncoder
from vkdlab.vlap.prompter import FramePrompter, ReleasedPrompter
from vkdlab.vlap.recipes import Recipe, recipe_from
from vkdlab.vlap.selectors import oracle
from vkdlab.vlap.sightings import sighted
from vkdlab.vlap.store import frame_store
from vkdlab.vlap.student_files import SETTINGS, save_student
from vkdlab.weights import weights_hash

VERSION = "2"
"""Of the method's code: another one where a change of code changes what is learned."""
TEACHER, ANSWERER, LANGUAGE, KNOWING = "teacher", "answerer", "language alone", "taught by the oracle"
ANSWERERS = (TEACHER, ANSWERER, LANGUAGE, KNOWING)
"""Answerers of a study: who learns from all frames, from any number of them, from none, and from the oracle's."""
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
class Training:
    """One thing that a study trains once."""

    name: str
    """Of its runs."""
    method: nn.Module
    """As it is before."""
    data: Data
    """What it learns from."""
    config: TrainConfig
    """How."""
    about: Mapping[str, Any]
    """What else decides the result."""
    runs_dir: str | os.PathLike | None
    """Folder of all runs; None for the cache's."""
    save: Callable[[Path, History], None] | None = None
    """Writes what is to be kept beside a run, once."""

    @property
    def done(self) -> bool:
        """Whether it was trained before."""
        return run_of(self.name, self.data, self.config, **self._how).done

    def train(self, *, progress: bool) -> nn.Module:
        """The method with what it has learned, in evaluation mode."""
        run, history = trained_once(self.name, self.method, self.data, self.config, **self._how, progress=progress)
        self.method.eval()
        if self.save is not None and not (run.folder / SETTINGS).is_file():
            self.save(run.folder, history)
        return self.method

    @property
    def _how(self) -> dict[str, Any]:
        return {"runs_dir": self.runs_dir, "extra": dict(self.about), "version": VERSION}


class Workshop:
    """What all trainings of a study share, made when it is first needed.

    Args:
        recipe: how everything is trained.
        seed: of the answerers, the prompters and the orders of their samples.
        device: where to train.
        runs_dir: folder of all runs; None for the cache's.
        progress: shows progress bars.
    """

    def __init__(self, recipe: Recipe, *, seed: int, device: str, runs_dir: str | None, progress: bool):
        self.recipe, self.seed, self.device, self.runs_dir, self.progress = recipe, seed, device, runs_dir, progress

    @cached_property
    def close(self) -> Naming:
        """What sees frames that are read."""
        return self._naming("close", self.recipe.size, self.recipe.width)

    @cached_property
    def glance(self) -> Naming:
        """What sees thumbnails, in the same vectors."""
        recipe = self.recipe
        return self._naming("glance", recipe.thumbnail, recipe.glance_width, words=self.close.words)

    @cached_property
    def questions(self) -> tuple[Dataset, Dataset, Dataset]:
        """Training, validation and test split of tabletop as the recipe wants them asked about."""
        recipe, parts = self.recipe, []
        for split in ("train", "val", "test"):
            part = load("tabletop", split, profile=recipe.profile, progress=self.progress)
            few = recipe.videos if split == "train" or recipe.videos is None else max(1, recipe.videos // 3)
            if split == "train" and recipe.draws:
                part = with_more_questions(part, draws=recipe.draws)
            parts.append(part if few is None or few >= len(part.videos) else part.subset(few))
        return tuple(parts)

    @cached_property
    def splits(self) -> QuestionSplits:
        """The same with the frames of their videos; training samples are mirrored half of the time."""
        recipe = self.recipe
        store = frame_store(
            self.questions, self.close.encoder, self.glance.encoder,
            count=recipe.frames, size=recipe.size, thumbnail=recipe.thumbnail, progress=self.progress,
        )  # fmt: skip
        columns = recipe.grid(recipe.size)[0], recipe.grid(recipe.thumbnail)[0]
        train, val, test = self.questions
        mirrored = QuestionDataset(train, store, mirrored=True, columns=columns)
        return QuestionSplits(mirrored, QuestionDataset(val, store), QuestionDataset(test, store))

    @cached_property
    def sighted(self) -> QuestionSplits:
        """The same with what is seen of each question in place of its frames' cells."""
        parts = (self.splits.train, self.splits.val, self.splits.test)
        return QuestionSplits(*(sighted(part, self.fresh(), progress=self.progress) for part in parts))

    @cached_property
    def mentions(self) -> Mentions:
        """What finds the things that texts speak of, learned from questions and options that name them literally."""
        recipe, classes, texts = self.recipe, self.close.classes, self._texts()
        with self._random(recipe.encoder_seed):
            method = MentionTraining(Mentions(recipe.dim), self.close.words, classes=classes, progress=self.progress)
        sentences = sentence_features(sorted(set().union(*texts)), progress=self.progress)
        data = Data(*(MentionTexts(part, classes=classes, sentences=sentences) for part in texts[:2]))
        about = {"words": weights_hash(self.close.words), "dim": recipe.dim}
        return self._trained("mentions", method, data, recipe.mentions, "found", about).mentions

    def fresh(self) -> CompactBackbone:
        """An answerer as it is before its training."""
        close = self.close
        always = close.looked_up([name for name in close.classes[1:] if len(name.split()) == 1])
        with self._random(self.seed):
            backbone = CompactBackbone(close.encoder, self.mentions, always=always, config=self.recipe.compact)
        backbone.remember(set().union(*self._texts()), progress=self.progress)
        return backbone

    def answerer(self, name: str) -> Training:
        """A backbone that learns to answer: which of `ANSWERERS`."""
        recipe, backbone = self.recipe, self.fresh()
        counts = {TEACHER: (recipe.frames,), ANSWERER: recipe.counts, LANGUAGE: (0,), KNOWING: (recipe.method.select,)}
        counts = counts[name]
        about = {"counts": list(counts), "compact": recipe.compact, "start": weights_hash(backbone)}
        if name == KNOWING:
            about["way"] = "oracle"
        config = recipe.teacher if name == TEACHER else recipe.answerer
        data = Data(self.sighted.train, self.sighted.val)
        method = AnswererTraining(backbone, counts=counts, way=oracle if name == KNOWING else None)
        return self._training(_dashed(name), method, data, config, "accuracy", about)

    def student(self, name: str, *, answerer: CompactBackbone, teacher: CompactBackbone) -> Training:
        """A prompter, and a copy of the answerer that learns with it; ours is kept as `vkdlab ask` finds it."""
        recipe, splits = self.recipe, self.sighted
        sizes = {"frames": recipe.frames, "select": recipe.method.select}
        config = recipe.method
        if name == RELEASED:
            config = replace(Config.released(**sizes), backbone_lr=config.backbone_lr)
        if name == UNDISTILLED:
            config = replace(config, distillation=0.0)
        with self._random(self.seed):
            method = VLAP(
                copy.deepcopy(answerer), self._prompter(name, answerer), config=config,
                teacher=None if config.distillation == 0 else copy.deepcopy(teacher),
                steps=recipe.steps(len(splits.train)),
            )  # fmt: skip
        about = {"student": name, "method": config, "answerer": weights_hash(answerer)}
        if method.teacher is not None:
            about["teacher"] = weights_hash(teacher)

        def save(folder: Path, history: History) -> None:
            best = {key.removeprefix("val/"): value for key, value in history.best.items() if "accuracy" in key}
            how = {"student": name, **asdict(config), **asdict(recipe.student), "monitor": "accuracy"}
            save_student(
                folder, method.student, self.glance.encoder,
                frames=recipe.frames, thumbnail=recipe.thumbnail, dataset=splits.train, metrics=best,
                measured_on=f"the validation split of {splits.val.dataset.name}, which chose the best epoch",
                recipe=how | {"seed": self.seed, "device": self.device},
            )  # fmt: skip

        data = Data(splits.train, splits.val)
        training = self._training(_dashed(name), method, data, recipe.student, "accuracy", about)
        return replace(training, save=save) if name == OURS else training

    def _prompter(self, name: str, backbone: CompactBackbone) -> FramePrompter | ReleasedPrompter:
        recipe = self.recipe
        columns, rows = recipe.grid(recipe.thumbnail)
        if name == RELEASED:
            return ReleasedPrompter(columns * rows, frames=recipe.frames, select=recipe.method.select)
        return FramePrompter(
            recipe.dim, question_dim=backbone.question_dim, named=backbone.named, grid=(columns, rows),
            question_aware=name != BLIND,
        )  # fmt: skip

    def _naming(self, name: str, size: tuple[int, int], width: int, *, words: nn.Linear | None = None) -> Naming:
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
        with self._random(recipe.encoder_seed):
            encoder = FrameEncoder(width, dim=recipe.dim)
            method = Naming(encoder, classes=train.classes, words=words, progress=self.progress)
        about = {"width": width, "dim": recipe.dim, "size": list(size)}
        if words is not None:
            about["words"] = weights_hash(words)
        return self._trained(name, method, data, recipe.naming, "named", about)

    def _texts(self) -> list[set[str]]:
        return [{text for row in part.questions for text in (row.question, *row.options)} for part in self.questions]

    def _trained(self, name: str, method: nn.Module, data: Data, config: TrainConfig, monitor: str, about: dict):
        training = self._training(name, method, data, config, monitor, about)
        config = replace(training.config, seed=self.recipe.encoder_seed)
        return replace(training, config=config).train(progress=self.progress)

    def _training(
        self, name: str, method: nn.Module, data: Data, config: TrainConfig, monitor: str, about: dict
    ) -> Training:
        config = replace(config, monitor=monitor, seed=self.seed, device=self.device)
        return Training(f"vlap-{name}", method, data, config, about, self.runs_dir)

    @staticmethod
    @contextmanager
    def _random(seed: int) -> Iterator[None]:
        """New weights come from a seed, and leave torch's random numbers as they were."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield


def _dashed(name: str) -> str:
    """A name as it stands in the name of a folder."""
    return name.replace(", ", "-").replace(" ", "-")


def task(setup: dict[str, Any]) -> Task:
    """What a worker does: trains what has a name."""
    workshop = Workshop(
        recipe_from(setup["recipe"]), seed=setup["seed"], device=setup["device"], runs_dir=setup["runs_dir"],
        progress=False,
    )  # fmt: skip

    def train(_: str, name: str) -> str:
        if name in ANSWERERS:
            training = workshop.answerer(name)
        else:
            first = (workshop.answerer(each).train(progress=False).student for each in (ANSWERER, TEACHER))
            training = workshop.student(name, **dict(zip(("answerer", "teacher"), first, strict=True)))
        training.train(progress=False)
        return name

    return train
