"""Several teachers for one data set: of different families, on different features, each trained once (ours).

Every training is a run of its own and needs one thread, so that several are trained at a time and each comes out with
the same weights whether it was trained alone or not.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from vkdlab.data.folds import folds
from vkdlab.data.grounding import GroundingDataset
from vkdlab.data.prepared import GroundingSplits, prepare_grounding
from vkdlab.data.workers import Task, work
from vkdlab.emtm.map_teacher import MapConfig, MapNetwork
from vkdlab.emtm.networks import NetworkConfig, SpanConfig, SpanNetwork
from vkdlab.emtm.proposal_teacher import ProposalConfig, ProposalNetwork
from vkdlab.emtm.regression_teacher import RegressionConfig, RegressionNetwork
from vkdlab.emtm.teacher import GroundingTeacher
from vkdlab.emtm.teacher_files import write_teacher_card
from vkdlab.history import History
from vkdlab.runs import Run, run_of, trained_once
from vkdlab.student_files import CARD
from vkdlab.training import Data, TrainConfig

FAMILIES: Mapping[str, tuple[type[NetworkConfig], type[torch.nn.Module]]] = {
    "span": (SpanConfig, SpanNetwork),
    "map": (MapConfig, MapNetwork),
    "proposal": (ProposalConfig, ProposalNetwork),
    "regression": (RegressionConfig, RegressionNetwork),
}
"""What a family's network is made of, and the network."""


@dataclass(frozen=True)
class TeacherSpec:
    """One teacher: what it is and what it looks at."""

    family: str
    """Shape of its answer, one of `FAMILIES`."""
    features: tuple[str, ...] = ()
    """The extractors whose features it sees, neighbours in the order of the data set; empty: all."""

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise ValueError(f"family is {self.family!r}, expected one of {', '.join(FAMILIES)}")


VERSION = "1"
"""Of the networks' code: another one where a change of code changes what is learned."""
RGB, FLOW = "efficientnet-lite0", "dis-flow"
TEACHERS: Mapping[str, TeacherSpec] = {
    "span": TeacherSpec("span"),
    "map": TeacherSpec("map", (FLOW,)),
    "proposal": TeacherSpec("proposal"),
    "regression": TeacherSpec("regression"),
}
"""The ensemble of the notebooks: every family once, and one teacher that sees motion alone and so no scene (ours)."""


@dataclass(frozen=True)
class Recipe:
    """How large networks are and how they are trained."""

    training: TrainConfig
    """Epochs, batch, learning rate."""
    dim: int = 64
    """Width of every hidden layer."""
    heads: int = 4
    """Attention heads."""
    dropout: float = 0.3
    """Share of hidden units dropped while training, 0 to below 1."""


RECIPES = {
    "smoke": Recipe(TrainConfig(epochs=2, batch_size=16, lr=1e-3, num_threads=1), dim=32, heads=2),
    "demo": Recipe(TrainConfig(epochs=8, batch_size=32, lr=1e-3, warmup_epochs=1, num_threads=1), dim=64),
    "full": Recipe(TrainConfig(epochs=60, batch_size=32, lr=5e-4, warmup_epochs=2, patience=12), dim=128, heads=8),
}
"""Per profile (ours): "demo" as long as tabletop's validation split asked for; "full" was not run yet."""


@dataclass(frozen=True)
class TrainedTeacher:
    """A teacher after its training."""

    method: GroundingTeacher
    """The network with the weights of its best epoch."""
    run: Run
    """Where its files lie."""
    history: History
    """What happened, epoch by epoch."""


def columns_of(dataset: GroundingDataset, features: Sequence[str]) -> tuple[int, int]:
    """First and one past the last column of these extractors' features.

    Raises:
        ValueError: features that the data set does not have, or that are not neighbours in it.
    """
    names = list(dataset.columns)
    wanted = list(features) or names
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(f"the data set has no features of {missing[0]!r}; it has {', '.join(names)}")
    ranges = [dataset.columns[name] for name in wanted]
    if any(one[1] != other[0] for one, other in itertools.pairwise(ranges)):
        raise ValueError(f"{', '.join(wanted)} are not neighbours among the features {', '.join(names)}")
    return ranges[0][0], ranges[-1][1]


def choose_teachers(names: str) -> dict[str, TeacherSpec]:
    """Some of `TEACHERS`, by their names with commas between, or "all".

    Raises:
        ValueError: a name that is none of them.
    """
    wanted = list(TEACHERS) if names == "all" else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in TEACHERS]:
        raise ValueError(f"there is no teacher {unknown[0]!r}; there are {', '.join(TEACHERS)}")
    return {name: TEACHERS[name] for name in wanted}


def build_teacher(spec: TeacherSpec, dataset: GroundingDataset, recipe: Recipe, *, seed: int) -> GroundingTeacher:
    """A new teacher for the features of a data set, with the weights that `seed` gives."""
    config_class, network_class = FAMILIES[spec.family]
    columns = columns_of(dataset, spec.features)
    config = config_class(
        video_dim=columns[1] - columns[0],
        query_dim=dataset.query_dim,
        dim=recipe.dim,
        heads=recipe.heads,
        dropout=recipe.dropout,
        max_clips=dataset.max_clips,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GroundingTeacher(network_class(config), columns=columns)


def train_teacher(
    spec: TeacherSpec,
    data: Data,
    *,
    recipe: Recipe,
    seed: int = 0,
    device: str = "auto",
    runs_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> TrainedTeacher:
    """Trains one teacher where that was never done with these settings and data; loads it where it was."""
    teacher = build_teacher(spec, data.train, recipe, seed=seed)
    name, config, extra = _identity(spec, teacher, recipe, seed=seed, device=device)
    run, history = trained_once(
        name, teacher, data, config, runs_dir=runs_dir or None, extra=extra, version=VERSION, progress=progress
    )
    if not (run.folder / CARD).is_file():
        write_teacher_card(run.folder, teacher, family=spec.family, train=data.train, history=history, training=config)
    return TrainedTeacher(method=teacher, run=run, history=history)


def train_teachers(
    splits: GroundingSplits,
    *,
    teachers: Mapping[str, TeacherSpec] = TEACHERS,
    recipe: Recipe,
    cross_fit: int = 0,
    seed: int = 0,
    device: str = "auto",
    runs_dir: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[dict[str, TrainedTeacher], list[dict[str, TrainedTeacher]]]:
    """Trains every teacher on the whole training split, and on all folds but one of it, for each fold.

    Args:
        splits: of `vkdlab.data.prepared.prepare_grounding`.
        teachers: by name.
        recipe: sizes and training.
        cross_fit: number of folds, at least 2; 0 for none.
        seed: of weights, order of samples and dropout.
        device: "auto", "cpu" or "cuda".
        runs_dir: folder of all runs; by default in the cache.
        workers: trainings at a time, by default one a core.
        progress: show progress bars.

    Returns:
        The teachers by name, and for each fold the teachers that never saw it.
    """
    settings = {"recipe": recipe, "seed": seed, "device": device, "runs_dir": runs_dir}
    missing = {
        f"{name}|{part}": part
        for part in range(-1, cross_fit)
        for name, spec in teachers.items()
        if not _is_trained(spec, splits, part, cross_fit, **settings)
    }
    if missing and splits.source:
        setup = {
            "source": splits.source,
            "teachers": {name: asdict(spec) for name, spec in teachers.items()},
            "recipe": asdict(recipe),
            "cross_fit": cross_fit,
            "seed": seed,
            "device": device,
            "runs_dir": None if not runs_dir else os.fspath(runs_dir),
        }
        work(
            f"{__name__}:task", setup, missing, workers=workers, label="training teachers", unit="teacher",
            progress=progress,
        )  # fmt: skip
    trained = [
        {
            name: train_teacher(spec, _part(splits, part, cross_fit), progress=progress, **settings)
            for name, spec in teachers.items()
        }
        for part in range(-1, cross_fit)
    ]
    return trained[0], trained[1:]


def task(setup: dict[str, Any]) -> Task:
    """What a worker does: trains the teacher "name|part" of the splits that `setup` names."""
    splits = prepare_grounding(**setup["source"], progress=False)
    teachers = {name: TeacherSpec(each["family"], tuple(each["features"])) for name, each in setup["teachers"].items()}
    recipe = Recipe(**(setup["recipe"] | {"training": TrainConfig(**setup["recipe"]["training"])}))

    def train(key: str, part: int) -> str:
        name = key.partition("|")[0]
        trained = train_teacher(
            teachers[name],
            _part(splits, part, setup["cross_fit"]),
            recipe=recipe,
            seed=setup["seed"],
            device=setup["device"],
            runs_dir=setup["runs_dir"],
            progress=False,
        )
        return trained.run.folder.name

    return train


def _part(splits: GroundingSplits, part: int, cross_fit: int) -> Data:
    return Data(splits.train if part < 0 else folds(splits.train, cross_fit)[part][0], splits.val)


def _identity(
    spec: TeacherSpec, teacher: GroundingTeacher, recipe: Recipe, *, seed: int, device: str
) -> tuple[str, TrainConfig, dict[str, Any]]:
    extra = {"network": asdict(teacher.network.config), "columns": [teacher.columns.start, teacher.columns.stop]}
    return f"emtm-teacher-{spec.family}", replace(recipe.training, seed=seed, device=device), extra


def _is_trained(
    spec: TeacherSpec, splits: GroundingSplits, part: int, cross_fit: int, *, recipe: Recipe, seed: int, device: str,
    runs_dir: str | os.PathLike | None,
) -> bool:  # fmt: skip
    data = _part(splits, part, cross_fit)
    teacher = build_teacher(spec, data.train, recipe, seed=seed)
    name, config, extra = _identity(spec, teacher, recipe, seed=seed, device=device)
    return run_of(name, data, config, runs_dir=runs_dir or None, extra=extra, version=VERSION).done
