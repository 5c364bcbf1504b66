"""Students, alone and distilled from labels: each trained once, and asked about every test query (ours).

Labels are made before; a distillation step never runs a teacher. A student may also learn on videos of the new scenes
whose moments nobody annotated. So that it is measured on other clips than those, half of the test videos teach one
student, without their moments, and the other half measure it, and the other way round.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vkdlab.data.folds import halves
from vkdlab.data.prepared import GroundingSplits, prepare_grounding
from vkdlab.data.workers import Task, work
from vkdlab.emtm.distill import EMTM, Config
from vkdlab.emtm.labelled import DistillationDataset, Label, Part
from vkdlab.emtm.networks import SpanConfig
from vkdlab.emtm.predictions import Grounded, measure, predict
from vkdlab.emtm.student_files import save_student
from vkdlab.emtm.teacher import GroundingTeacher
from vkdlab.emtm.teacher_outputs import fingerprint_of
from vkdlab.emtm.teachers import VERSION, Recipe, columns_of
from vkdlab.files import cache_dir
from vkdlab.history import History
from vkdlab.metrics import Mean
from vkdlab.runs import Run, run_of, trained_once
from vkdlab.training import Data, TrainConfig
from vkdlab.weights import load_tensors, save_tensors


@dataclass(frozen=True)
class StudentSpec:
    """What a student learns from."""

    label: str = ""
    """Name of the label; empty: the student learns from the true moments alone."""
    shared_encoder: bool = False
    """Whether an isomorphic teacher learns on its encoder."""
    labels: Literal["soft", "hard"] = "soft"
    """The label's distributions, or its best moment."""
    unlabelled: bool = False
    """Whether it also learns on test videos without their moments."""
    features: tuple[str, ...] = ()
    """The extractors whose features it sees; empty: all."""
    alpha: float = 1.0
    """Weight of the label's loss (released code: 0.1)."""

    def __post_init__(self):
        if self.unlabelled and not self.label:
            raise ValueError("a student learns nothing on unlabelled videos without a label")


@dataclass(frozen=True)
class TrainedStudent:
    """A student after its training, and what it reaches on the test split."""

    method: EMTM
    """With the weights of its best epoch; with unlabelled videos, of the first of two."""
    run: Run
    """Where its files lie."""
    history: History
    """What happened, epoch by epoch."""
    items: list[Grounded]
    """Every test query, answered by a student that did not learn on its video."""
    metrics: dict[str, Mean]
    """Of these answers."""


def train_students(
    splits: GroundingSplits,
    specs: Mapping[str, StudentSpec],
    labels: Mapping[str, Label],
    *,
    recipe: Recipe,
    seed: int = 0,
    device: str = "auto",
    runs_dir: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, TrainedStudent]:
    """Trains every student that was not trained before, several at a time, and asks it about the test split.

    Args:
        splits: of `vkdlab.data.prepared.prepare_grounding`.
        specs: what each student learns from, by name.
        labels: by name, for all training queries, and for the test queries where a student learns on unlabelled videos.
        recipe: sizes and training.
        seed: of weights, order of samples and dropout.
        device: "auto", "cpu" or "cuda".
        runs_dir: folder of all runs; by default in the cache.
        workers: trainings at a time, by default one a core.
        progress: show progress bars.

    Raises:
        ValueError: a label that is not there, or misses a query.
    """
    if unknown := sorted({spec.label for spec in specs.values() if spec.label} - labels.keys()):
        raise ValueError(f"there is no label {unknown[0]!r}; there are {', '.join(labels) or 'none'}")
    shop = _Workshop(splits, specs, labels, recipe=recipe, seed=seed, device=device, runs_dir=runs_dir)
    jobs = {f"{name}|{half}": half for name, spec in specs.items() for half in ((0, 1) if spec.unlabelled else (-1,))}
    missing = {key: half for key, half in jobs.items() if not shop.is_trained(key, half)}
    if missing and splits.source:
        folder = Path(runs_dir or cache_dir("runs"))
        files = {name: str(_keep(label, folder)) for name, label in labels.items()}
        setup = {
            "source": splits.source, "specs": {name: asdict(spec) for name, spec in specs.items()}, "labels": files,
            "recipe": asdict(recipe), "seed": seed, "device": device,
            "runs_dir": None if not runs_dir else os.fspath(runs_dir),
        }  # fmt: skip
        work(
            f"{__name__}:task", setup, missing, workers=workers, label="training students", unit="student",
            progress=progress,
        )  # fmt: skip
    return {name: shop.trained(name, progress=progress) for name in specs}


def task(setup: dict[str, Any]) -> Task:
    """What a worker does: trains the student "name|half" that `setup` describes."""
    specs = {
        name: StudentSpec(**(each | {"features": tuple(each["features"])})) for name, each in setup["specs"].items()
    }
    labels = {}
    for name, file in setup["labels"].items():
        tensors, ids = load_tensors(file)
        labels[name] = Label(tuple(ids), tensors["start"], tensors["end"])
    shop = _Workshop(
        prepare_grounding(**setup["source"], progress=False),
        specs,
        labels,
        recipe=Recipe(**(setup["recipe"] | {"training": TrainConfig(**setup["recipe"]["training"])})),
        seed=setup["seed"],
        device=setup["device"],
        runs_dir=setup["runs_dir"],
    )
    return lambda key, half: shop.train(key, half, progress=False)[1].folder.name


class _Workshop:
    """All that trainings of students share."""

    def __init__(self, splits, specs, labels, *, recipe: Recipe, seed: int, device: str, runs_dir):
        self.splits, self.specs, self.labels = splits, specs, labels
        self.recipe, self.seed, self.device, self.runs_dir = recipe, seed, device, runs_dir or None

    def method(self, spec: StudentSpec) -> EMTM:
        train = self.splits.train
        columns = columns_of(train, spec.features)
        student = SpanConfig(
            video_dim=columns[1] - columns[0], query_dim=train.query_dim, dim=self.recipe.dim,
            heads=self.recipe.heads, dual_layers=0, dropout=self.recipe.dropout, max_clips=train.max_clips,
        )  # fmt: skip
        config = Config(
            student=student, shared_encoder=spec.shared_encoder, distill=bool(spec.label), alpha=spec.alpha,
            labels=spec.labels,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return EMTM(config, columns=columns)

    def data(self, spec: StudentSpec, half: int) -> Data:
        if not spec.label:
            return Data(self.splits.train, self.splits.val)
        label = self.labels[spec.label]
        parts = [Part.of(self.splits.train, label)]
        if half >= 0:
            parts.append(Part.of(halves(self.splits.test)[half], label, has_moment=False))
        return Data(DistillationDataset(parts), self.splits.val)

    def identity(self, method: EMTM) -> tuple[str, TrainConfig, dict[str, Any]]:
        extra = asdict(method.config) | {"columns": [method.columns.start, method.columns.stop]}
        name = "emtm-student" if method.config.shared_encoder and method.config.distill else "emtm-control"
        return name, replace(self.recipe.training, seed=self.seed, device=self.device), extra

    def is_trained(self, key: str, half: int) -> bool:
        spec = self.specs[key.partition("|")[0]]
        name, config, extra = self.identity(self.method(spec))
        data = self.data(spec, half)
        return run_of(name, data, config, runs_dir=self.runs_dir, extra=extra, version=VERSION).done

    def train(self, key: str, half: int, *, progress: bool) -> tuple[EMTM, Run, History]:
        spec = self.specs[key.partition("|")[0]]
        method = self.method(spec)
        name, config, extra = self.identity(method)
        run, history = trained_once(
            name, method, self.data(spec, half), config, runs_dir=self.runs_dir, extra=extra, version=VERSION,
            progress=progress,
        )  # fmt: skip
        return method, run, history

    def trained(self, name: str, *, progress: bool) -> TrainedStudent:
        spec = self.specs[name]
        if spec.unlabelled:
            both = [self.train(f"{name}|{half}", half, progress=progress) for half in (0, 1)]
            others = reversed(halves(self.splits.test))
            answers = [
                self.answers(method, other, progress=progress)
                for (method, _, _), other in zip(both, others, strict=True)
            ]
            (method, run, history), items = both[0], [item for part in answers for item in part]
        else:
            method, run, history = self.train(f"{name}|-1", -1, progress=progress)
            items = self.answers(method, self.splits.test, progress=progress)
        metrics = measure(items)
        test = {f"test/{metric}": mean.value for metric, mean in metrics.items()}
        run.save_metrics(test)
        if not (run.folder / "student.json").is_file():
            save_student(
                run.folder,
                method.student,
                dataset=self.splits.train,
                columns=columns_of(self.splits.train, spec.features),
                metrics={metric: mean.value for metric, mean in metrics.items()},
                measured_on=f"{self.splits.test.dataset.name}, test split, {len(items)} queries"
                + ", each half by one of two students, this one by the half that it did not learn on" * spec.unlabelled,
                recipe={"student": name, "seed": self.seed, **asdict(spec), **asdict(self.recipe.training)},
            )
        return TrainedStudent(method=method, run=run, history=history, items=items, metrics=metrics)

    def answers(self, method: EMTM, dataset, *, progress: bool) -> list[Grounded]:
        columns = (method.columns.start, method.columns.stop)
        return predict(GroundingTeacher(method.student, columns=columns), dataset, progress=progress)


def _keep(label: Label, folder: Path) -> Path:
    path = folder / f"emtm-label-{fingerprint_of([label.ids], [label.start, label.end])[:12]}.safetensors"
    if not path.is_file():
        save_tensors(path, {"start": label.start.contiguous(), "end": label.end.contiguous()}, state=list(label.ids))
    return path
