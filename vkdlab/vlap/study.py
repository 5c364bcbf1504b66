"""A study of VLAP on the built-in world: encoders, teacher, common answerer and prompters, each trained once (ours).

naming    two frame encoders, one for frames that are read and a small one for glances, learn what is in a frame
mentions  what texts speak of is learned from questions and options that name things literally
teacher   a compact backbone learns to answer from all T frames
answerer  another one learns to answer from any number of frames: on it all ways to choose frames are compared
language  one more learns to answer without any frame: what questions give away
knowing   and one from the frames of an oracle that knows the evidence: what the choice of frames could be worth
students  prompters, each with its own copy of the answerer, learn to choose S frames and to answer from them

The first two are what a pre-trained vision transformer and its language model are in the paper: they are frozen, and
the same whatever the study's seed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from torch import nn

from vkdlab.data.workers import work
from vkdlab.vlap.distill import VLAP
from vkdlab.vlap.naming import Naming
from vkdlab.vlap.networks import CompactBackbone
from vkdlab.vlap.recipes import RECIPES, Recipe
from vkdlab.vlap.workshop import (
    ANSWERER,
    ANSWERERS,
    KNOWING,
    LANGUAGE,
    STUDENTS,
    TEACHER,
    QuestionSplits,
    Training,
    Workshop,
    task,
)


@dataclass(frozen=True)
class Study:
    """Everything that was trained, in evaluation mode."""

    recipe: Recipe
    """How."""
    splits: QuestionSplits
    """On what, with the cells of all frames."""
    sighted: QuestionSplits
    """The same with what is seen of each question in place of cells: enough to measure, and much faster."""
    close: Naming
    """What sees frames that are read."""
    glance: Naming
    """What sees thumbnails."""
    teacher: CompactBackbone
    """Answers from all frames."""
    answerer: CompactBackbone
    """Answers from any number of frames."""
    language: CompactBackbone
    """Answers from no frame."""
    knowing: CompactBackbone
    """Answers from the oracle's frames."""
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
    workers: int | None = None,
    progress: bool = True,
) -> Study:
    """Trains what was never trained with these settings; loads the rest.

    Args:
        profile: "smoke", "demo" or "full": which recipe of `RECIPES`.
        recipe: in place of the profile's.
        seed: of the answerers, the prompters and the orders of their samples.
        students: which of `STUDENTS` to train.
        device: where to train.
        runs_dir: folder of all runs; by default in the cache.
        workers: trainings at a time, of one thread each; by default one a core.
        progress: shows progress bars.

    Raises:
        ValueError: there is no such profile or student, or `workers` is below 1.
    """
    if recipe is None and profile not in RECIPES:
        raise ValueError(f"profile is one of {', '.join(RECIPES)}, got {profile!r}")
    if unknown := [name for name in students if name not in STUDENTS]:
        raise ValueError(f"students are of {', '.join(STUDENTS)}, got {', '.join(unknown)}")
    recipe = RECIPES[profile] if recipe is None else recipe
    folder = None if runs_dir is None else os.fspath(runs_dir)
    shop = Workshop(recipe, seed=seed, device=device, runs_dir=folder, progress=progress)
    first = {name: shop.answerer(name) for name in ANSWERERS}
    learned = {name: method.student for name, method in _trained(shop, first, workers=workers).items()}
    teacher, answerer = learned[TEACHER], learned[ANSWERER]
    chosen = {name: shop.student(name, answerer=answerer, teacher=teacher) for name in students}
    trained = _trained(shop, chosen, workers=workers)
    return Study(
        recipe, shop.splits, shop.sighted, shop.close, shop.glance,
        teacher, answerer, learned[LANGUAGE], learned[KNOWING], trained,
    )  # fmt: skip


def _trained(shop: Workshop, trainings: Mapping[str, Training], *, workers: int | None) -> dict[str, nn.Module]:
    """Several at a time in processes of their own, or one after the other here."""
    missing = {name: name for name, training in trainings.items() if not training.done}
    if workers != 1 and len(missing) > 1:
        setup = {"recipe": asdict(shop.recipe), "seed": shop.seed, "device": shop.device, "runs_dir": shop.runs_dir}
        work(
            f"{task.__module__}:{task.__name__}", setup, missing,
            workers=workers, label="training", unit="network", progress=shop.progress,
        )  # fmt: skip
    return {name: training.train(progress=shop.progress) for name, training in trainings.items()}
