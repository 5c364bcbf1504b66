"""What a set of teachers says: on what they were trained on, on what they never saw, and on the test split.

Whoever learns whom to trust has to learn it on questions that the teachers were not trained on (cross-fitting, ours):
teachers trained on all folds but one answer that fold. Where the test split differs from the training split in what it
was recorded of, folds of the training split mislead, and the answers on a validation split of other recordings take
their place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vkdlab.data import manifests
from vkdlab.data.folds import folds
from vkdlab.data.grounding import GroundingDataset
from vkdlab.data.manifests import DataMissing
from vkdlab.data.prepared import GroundingSplits, prepare_transfer
from vkdlab.emtm.predictions import blind_guess, measure, predict
from vkdlab.emtm.teacher_outputs import TeacherOutputs, collect
from vkdlab.emtm.teachers import TEACHERS, Recipe, TeacherSpec, TrainedTeacher, train_teachers
from vkdlab.files import cache_dir, hash_of
from vkdlab.metrics import Mean, grounding_metrics

HELD_OUT = ("auto", "folds", "validation")


@dataclass(frozen=True)
class Ensemble:
    """Teachers, and what they say."""

    splits: GroundingSplits
    """What they were trained and tested on."""
    teachers: Mapping[str, TrainedTeacher]
    """By name, trained on the whole training split."""
    train: TeacherOutputs
    """Their answers on the samples that they were trained on."""
    held_out: TeacherOutputs
    """Answers that show how good they are on what they never saw."""
    test: TeacherOutputs
    """Their answers on the test split."""
    held_out_dataset: GroundingDataset
    """The queries of `held_out`."""
    held_out_by: str
    """"folds" of the training split, or "validation"."""


def train_ensemble(
    splits: GroundingSplits,
    *,
    recipe: Recipe,
    teachers: Mapping[str, TeacherSpec] = TEACHERS,
    held_out_by: str = "auto",
    cross_fit: int = 0,
    seed: int = 0,
    device: str = "auto",
    runs_dir: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Ensemble:
    """Trains what was not trained before, and asks every teacher every question that it may be asked.

    Args:
        splits: of `vkdlab.data.prepared.prepare_grounding`.
        recipe: sizes and training.
        teachers: by name.
        held_out_by: "folds": each fold of the training split is answered by teachers that never saw it; "validation":
            the validation split is, by the teachers of the whole training split; "auto": the latter where the
            validation split was chosen by recording group, as the test split was, or there is one training video.
        cross_fit: number of folds, at least 2; 0: one for each recording group, or 2 where these are many or none.
        seed: of weights, order of samples and dropout.
        device: "auto", "cpu" or "cuda".
        runs_dir: folder of all runs; by default in the cache.
        workers: trainings at a time, by default one a core.
        progress: show progress bars.

    Raises:
        ValueError: `held_out_by` is none of these, no teacher, or fewer groups of videos than folds.
    """
    if held_out_by not in HELD_OUT or not teachers:
        raise ValueError(
            f"expected held_out_by {', '.join(HELD_OUT)} and at least one teacher, got {held_out_by!r} and "
            f"{len(teachers)} teachers"
        )
    if held_out_by == "auto":
        alone = len(splits.train.dataset.videos) < 2
        held_out_by = "validation" if alone or _validates_on_other_recordings(splits) else "folds"
    parts = (cross_fit or _number_of_folds(splits.train)) if held_out_by == "folds" else 0
    whole, by_fold = train_teachers(
        splits, teachers=teachers, recipe=recipe, cross_fit=parts, seed=seed, device=device, runs_dir=runs_dir,
        workers=workers, progress=progress,
    )  # fmt: skip
    if by_fold:
        answers = [
            answer(those, held, runs_dir=runs_dir, progress=progress)
            for those, (_, held) in zip(by_fold, folds(splits.train, parts), strict=True)
        ]
        joined = answers[0].join(answers[1:])
        place = {name: row for row, name in enumerate(joined.ids)}
        held_out_dataset = splits.train
        held_out = joined.rows(torch.tensor([place[query.id] for query in splits.train.dataset.queries]))
    else:
        held_out_dataset = splits.val
        held_out = answer(whole, splits.val, runs_dir=runs_dir, progress=progress)
    return Ensemble(
        splits=splits,
        teachers=whole,
        train=answer(whole, splits.train, runs_dir=runs_dir, progress=progress),
        held_out=held_out,
        test=answer(whole, splits.test, runs_dir=runs_dir, progress=progress),
        held_out_dataset=held_out_dataset,
        held_out_by=held_out_by,
    )


def answer(
    teachers: Mapping[str, TrainedTeacher],
    dataset: GroundingDataset,
    *,
    runs_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> TeacherOutputs:
    """Every teacher's answer to every query, computed once: they are kept beside the runs."""
    key = hash_of({name: each.run.folder.name for name, each in teachers.items()}, list(teachers), dataset.fingerprint)
    path = Path(runs_dir or cache_dir("runs")) / f"emtm-answers-{key[:12]}.safetensors"
    if path.is_file():
        return TeacherOutputs.load(path)
    outputs = collect({name: each.method for name, each in teachers.items()}, dataset, progress=progress)
    outputs.save(path)
    return outputs


def measure_unified(outputs: TeacherOutputs, name: str) -> dict[str, Mean]:
    """The metrics of a teacher's best moment as its curves tell it: what unifying leaves of its answer."""
    place = outputs.names.index(name)
    return grounding_metrics(
        outputs.moments_s[:, place : place + 1],
        outputs.truth_s,
        duration_s=outputs.duration_s,
        num_clips=outputs.num_clips,
    )


def disagreements(outputs: TeacherOutputs, *, count: int = 60) -> list[int]:
    """Queries on which teachers differ in how right they are, most first."""
    spread = outputs.iou.std(1, correction=0) if len(outputs.names) > 1 else outputs.iou[:, 0]
    return spread.argsort(descending=True, stable=True)[:count].tolist()


def describe(outputs: TeacherOutputs, dataset: GroundingDataset, row: int) -> dict[str, Any]:
    """The sentence of a query and the file of its video, as figures take them."""
    query = next(query for query in dataset.dataset.queries if query.id == outputs.ids[row])
    return {"sentence": query.sentence, "video": dataset.dataset.videos[query.video].path}


def transfer_rows(
    name: str, teachers: Mapping[str, TrainedTeacher], splits: GroundingSplits, *, progress: bool = True
) -> dict[str, dict[str, Mean]]:
    """What teachers, and a guess without looking, reach on a data set that they were not trained on.

    Returns:
        By teacher; nothing where the data set is not on this machine, which is said.
    """
    try:
        other = prepare_transfer(name, train=splits.train, progress=progress)
    except DataMissing as missing:
        print(f"{name} is left out: {missing}")  # noqa: T201 - the notebook's reader has to know
        return {}
    found = {"guess without looking": blind_guess(splits.train, other)}
    return found | {
        each: measure(predict(teacher.method, other, progress=progress)) for each, teacher in teachers.items()
    }


def _validates_on_other_recordings(splits: GroundingSplits) -> bool:
    name = splits.val.dataset.name
    if name not in manifests.names():
        return False
    held_out = manifests.get(name).split("val").held_out
    return held_out is not None and bool(held_out.groups)


def _number_of_folds(dataset: GroundingDataset) -> int:
    groups = {video.group for video in dataset.dataset.videos.values()} - {""}
    return len(groups) if 2 <= len(groups) <= 4 else 2
