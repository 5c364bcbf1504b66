"""What EMTM's teachers, their mixture and the student answered, for whoever wants to see it (ours)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vkdlab.data.grounding import GroundingDataset
from vkdlab.emtm.moments import best_moments
from vkdlab.emtm.predictions import Grounded, predict
from vkdlab.emtm.students import TrainedStudent
from vkdlab.emtm.study import KAU, Study
from vkdlab.emtm.teacher import GroundingTeacher
from vkdlab.predictions import TEACHER, Predictions


def predictions_of(
    study: Study,
    students: Mapping[str, TrainedStudent] | None = None,
    *,
    name: str,
    split: str = "test",
    aggregate: str = KAU,
    progress: bool = True,
) -> Predictions:
    """The answers of the teachers, of their mixture (`label`), and of students, to every query of a split.

    How sure an answer is, is the geometric mean of the probabilities of its start and of its end.

    Args:
        study: what the teachers said and how they were mixed.
        students: source to student: "student", and others such as "student_alone".
        name: what a person calls it.
        split: "test", or "train", on which all of them were trained: to find wrong labels, not to judge them.
        aggregate: whose mixture, one of `study.test`.
        progress: show a bar.

    Raises:
        ValueError: no such split or mixture.
    """
    if split not in ("test", "train"):
        raise ValueError(f"expected split test or train, got {split!r}")
    if aggregate not in study.test:
        raise ValueError(f"expected aggregate {', '.join(study.test)}, got {aggregate!r}")
    ensemble = study.ensemble
    grounding = ensemble.splits.test if split == "test" else ensemble.splits.train
    outputs = ensemble.test if split == "test" else ensemble.train
    aggregator = study.aggregators[aggregate]
    mixed = study.test[aggregate] if split == "test" else aggregator.integrate(outputs, dataset=grounding)
    row_of = {query: row for row, query in enumerate(outputs.ids)}
    rows = torch.tensor([row_of[query.id] for query in grounding.dataset.queries])
    moments_s, confidence, weights = {}, {}, {}
    for source, student in (students or {}).items():
        items = student.items if split == "test" else _answers(student, grounding, progress=progress)
        answers = {item.id: item for item in items}
        ordered = [answers[query.id] for query in grounding.dataset.queries]
        moments_s[source] = np.array([item.predicted_s[0] for item in ordered])
        confidence[source] = np.array([_student_confidence(item) for item in ordered])
    moments_s["label"] = mixed.moments_s[rows, 0].numpy()
    confidence["label"] = _confidence(mixed.start, mixed.end, outputs.duration_s, mixed.mask)[rows].numpy()
    for place, teacher in enumerate(outputs.names):
        source = TEACHER + teacher
        moments_s[source] = outputs.moments_s[rows, place].numpy()
        sure = _confidence(outputs.start[:, place], outputs.end[:, place], outputs.duration_s, outputs.mask)
        confidence[source] = sure[rows].numpy()
        weights[source] = mixed.weights[rows, place].numpy()
    return Predictions(
        name=name, dataset=grounding.dataset, moments_s=moments_s, confidence=confidence, weights=weights
    )


def _answers(student: TrainedStudent, grounding: GroundingDataset, *, progress: bool) -> list[Grounded]:
    columns = (student.method.columns.start, student.method.columns.stop)
    return predict(GroundingTeacher(student.method.student, columns=columns), grounding, progress=progress)


def _confidence(
    start: Float[Tensor, "n l"], end: Float[Tensor, "n l"], duration_s: Float[Tensor, " n"], mask: Tensor
) -> Float[Tensor, " n"]:
    parts = zip(*(each.split(256) for each in (start, end, duration_s, mask)), strict=True)
    scores = [best_moments(s, e, duration_s=length_s, mask=m, k=1)[1][:, 0] for s, e, length_s, m in parts]
    return torch.cat(scores).clamp(min=0).sqrt()


def _student_confidence(item: Grounded) -> float:
    start, end = (torch.as_tensor(probs)[None] for probs in (item.start_probs, item.end_probs))
    mask = torch.ones_like(start, dtype=torch.bool)
    return _confidence(start, end, torch.tensor([item.duration_s]), mask).item()
