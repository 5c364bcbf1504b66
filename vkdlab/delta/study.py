"""One teacher, delta networks of it, and all that these have to beat at the same cost (ours)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from vkdlab.data.workers import Task as Work
from vkdlab.data.workers import work
from vkdlab.delta.baselines import gamma_for, width_for
from vkdlab.delta.distill import Config
from vkdlab.delta.recipes import DenseSplits, Recipe, load_splits, recipe_for, recipe_from, splits_from
from vkdlab.delta.students import (
    Setting,
    Trained,
    Training,
    delta_macs,
    delta_training,
    feature_training,
    low_rank_training,
    macs_per_frame,
    small_training,
    teacher_training,
)
from vkdlab.delta.tasks import SEGMENTATION, TASKS, Task

TEACHER = "teacher"
GAMMA = 4
"""Of the delta network whose cost the other networks are given."""
CHEAP = 8
"""Of the delta network that is looked at where little may be spent."""
BUDGET = 0.5
"""Share of the teacher's cost that the search may spend at period 4."""
_RIVAL = re.compile(r"(small|features|low rank) \((?:gamma (\d+), )?period (\d+)\)")
Which = Literal["few", "floors", "all"]
_SMALLER = ("small", "features")


@dataclass(frozen=True)
class Study:
    """All networks of one seed."""

    setting: Setting
    """What they share."""
    trained: Mapping[str, Trained]
    """By name, the teacher first; `plan` says the names."""

    @property
    def teacher(self) -> Trained:
        """What deltas are distilled from."""
        return self.trained[TEACHER]

    def __getitem__(self, name: str) -> Trained:
        return self.trained[name]

    def of_kind(self, kind: str) -> dict[str, Trained]:
        """Those of one kind, by name."""
        return {name: each for name, each in self.trained.items() if each.kind == kind}

    def macs(self, name: str, *, period: int = 1) -> float:
        """Average multiply-accumulates of a frame; the period counts for delta networks alone."""
        return macs_per_frame(self.trained[name], self.setting.splits.frame_shape, period=period)


def names_of(*, gammas: Sequence[float | int] = (2, 4, 8, 16), which: Which = "all", given: bool = False) -> list[str]:
    """Names of a study's networks, the teacher first.

    "small", "low rank" and "features" cost as much as the delta network of gamma 4, or of the gamma named, does at the
    period named; "searched" keeps full students to a budget; "as released" has the losses, weights and schedule of the
    published recipe, but our optimiser, as all others: AdamW with a cosine, where theirs is SGD with a polynomial decay
    of power 0.9.

    Args:
        gammas: of the delta networks.
        which: "few", "floors" (also what a delta network has to beat at other periods and where little may be spent)
            or "all".
        given: whether the teacher was given: it has no smaller form that could be trained as it was.

    Raises:
        ValueError: `which` is none of these.
    """
    names = [TEACHER, f"delta {GAMMA}", "as released", "small (period 4)", "low rank (period 4)"]
    if which in ("floors", "all"):
        names += ["small (period 8)", "low rank (period 8)"]
        names += [f"delta {CHEAP}", f"small (gamma {CHEAP}, period 16)", f"low rank (gamma {CHEAP}, period 16)"]
    if which == "all":
        names += [
            *(f"delta {gamma:g}" for gamma in gammas if gamma not in (GAMMA, CHEAP)),
            "features (period 4)",
            "searched",
        ]
    elif which not in ("few", "floors"):
        raise ValueError(f"which is 'few', 'floors' or 'all', got {which!r}")
    return [name for name in names if not (given and name.startswith(_SMALLER))]


def training_of(name: str, setting: Setting, teacher: nn.Module | None = None) -> Training:
    """The training of a study's network by its name.

    Args:
        name: one of `names_of`, or "delta " and any gamma, or one with any other period.
        setting: of the study.
        teacher: trained; not needed for the teacher itself and for small networks.

    Raises:
        ValueError: a name that is none.
    """
    if name == TEACHER:
        return teacher_training(setting)
    if rival := _RIVAL.fullmatch(name):
        kind, gamma, period = rival.groups()
        macs = delta_macs(setting, Config(gamma=int(gamma or GAMMA)), period=int(period))
        shape = setting.splits.frame_shape
        if kind in _SMALLER:
            if setting.recipe.given is not None:
                raise ValueError(f"the study has no network {name!r}: {setting.recipe.given} was given in one size")
            multiples = setting.recipe.multiples
            width = width_for(macs, setting.task, classes=setting.classes, frame_shape=shape, multiples=multiples)
            return (
                small_training(setting, width=width)
                if kind == "small"
                else feature_training(setting, teacher, width=width)
            )
        else:
            return low_rank_training(setting, teacher, gamma=gamma_for(macs, teacher, frame_shape=shape))
    config = {"searched": Config(search=True, budget=BUDGET), "as released": Config.as_released()}.get(name)
    if config is None and name.startswith("delta "):
        gamma = float(name.removeprefix("delta "))
        config = Config(gamma=int(gamma) if gamma.is_integer() else gamma)  # 4 and 4.0 are one training
    if config is None:
        raise ValueError(f"a study has no network {name!r}; it has {', '.join(names_of())}")
    return delta_training(setting, teacher, config=config)


def train_study(
    splits: DenseSplits | None = None,
    *,
    profile: str = "demo",
    recipe: Recipe | None = None,
    task: Task = SEGMENTATION,
    seed: int = 0,
    gammas: Sequence[float | int] = (2, 4, 8, 16),
    which: Which = "few",
    only: Sequence[str] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    runs_dir: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Study:
    """Trains all networks of a study that were never trained with these settings and data; loads the others.

    Args:
        splits: of `load_splits`; by default tabletop as the recipe wants it.
        profile: "smoke", "demo" or "full": which recipe of `recipe_for`.
        recipe: in place of the profile's.
        task: what is taught.
        seed: of everything.
        gammas: of the delta networks.
        which: "few" for the teacher, its delta network by our recipe and by the released one, a small and a low-rank
            network; "floors" and "all" for what `names_of` says.
        only: names, in place of `which`; the teacher comes in any case.
        device: where to train.
        runs_dir: folder of all runs; by default in the cache.
        workers: trainings at a time, of one thread each; by default one a core.
        progress: shows progress bars.

    Raises:
        ValueError: a profile, `which` or a name that is none.
    """
    if recipe is None:
        recipe = recipe_for(splits.train.name if splits else "tabletop", profile, task.name)
    names = [TEACHER, *(name for name in only or () if name != TEACHER)]
    if only is None:
        names = names_of(gammas=gammas, which=which, given=recipe.given is not None)
    splits = load_splits(recipe=recipe, workers=workers, progress=progress) if splits is None else splits
    setting = Setting(splits, recipe, task, seed, device, None if runs_dir is None else os.fspath(runs_dir))
    first = [name for name in names if name == TEACHER or name.startswith("small")]
    rest = [name for name in names if name not in first]
    trained = _train(setting, first, None, workers=workers, progress=progress)
    trained |= _train(setting, rest, trained[TEACHER].network, workers=workers, progress=progress)
    return Study(setting, {name: trained[name] for name in names})


def _train(
    setting: Setting, names: Sequence[str], teacher: nn.Module | None, *, workers: int | None, progress: bool
) -> dict[str, Trained]:
    """Several at a time in processes of their own, or one after the other here."""
    trainings = {name: training_of(name, setting, teacher) for name in names}
    missing = {name: name for name, training in trainings.items() if not training.done}
    if workers != 1 and len(missing) > 1 and setting.splits.source:
        setup = {
            "source": dict(setting.splits.source),
            "recipe": asdict(setting.recipe),
            "task": setting.task.name,
            "seed": setting.seed,
            "device": setting.device,
            "runs_dir": setting.runs_dir,
        }
        work(
            f"{__name__}:task", setup, missing, workers=workers, label="training", unit="network", progress=progress
        )  # fmt: skip
    return {name: training.train(progress=progress) for name, training in trainings.items()}


def task(setup: dict[str, Any]) -> Work:
    """What a worker does: trains the network of a name."""
    setting = Setting(
        splits_from(setup["source"], progress=False), recipe_from(setup["recipe"]), TASKS[setup["task"]], setup["seed"],
        setup["device"], setup["runs_dir"],
    )  # fmt: skip

    def train(_: str, name: str) -> str:
        first = name == TEACHER or name.startswith("small")
        teacher = None if first else training_of(TEACHER, setting).train(progress=False).network
        return training_of(name, setting, teacher).train(progress=False).run.folder.name

    return train
