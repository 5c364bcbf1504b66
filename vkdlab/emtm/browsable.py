"""What EMTM's teachers, their mixture and the student answered, for whoever wants to see it (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vkdlab.emtm.moments import best_moments
from vkdlab.emtm.predictions import Grounded
from vkdlab.emtm.study import KAU, Study
from vkdlab.predictions import TEACHER, Predictions


def predictions_of(
    study: Study, student: Sequence[Grounded] | None = None, *, name: str, aggregate: str = KAU
) -> Predictions:
    """Every test query's answers: of the teachers, of their mixture (`label`), and of a student where one is given.

    How sure an answer is, is the geometric mean of the probabilities of its start and of its end.

    Args:
        study: what the teachers said and how they were mixed.
        student: the student's answers to the same queries, in any order.
        name: what a person calls it.
        aggregate: whose mixture, one of `study.test`.

    Raises:
        ValueError: no such mixture, or a query that the student did not answer.
    """
    if aggregate not in study.test:
        raise ValueError(f"expected aggregate {', '.join(study.test)}, got {aggregate!r}")
    outputs, mixed = study.ensemble.test, study.test[aggregate]
    dataset = study.ensemble.splits.test.dataset
    row_of = {query: row for row, query in enumerate(outputs.ids)}
    rows = torch.tensor([row_of[query.id] for query in dataset.queries])
    moments_s, confidence, weights = {}, {}, {}
    if student is not None:
        answers = {item.id: item for item in student}
        if missing := [query.id for query in dataset.queries if query.id not in answers]:
            raise ValueError(f"the student has no answer to {len(missing)} queries, the first is {missing[0]!r}")
        items = [answers[query.id] for query in dataset.queries]
        moments_s["student"] = np.array([item.predicted_s[0] for item in items])
        confidence["student"] = np.array([_student_confidence(item) for item in items])
    moments_s["label"] = mixed.moments_s[rows, 0].numpy()
    confidence["label"] = _confidence(mixed.start, mixed.end, outputs.duration_s, mixed.mask)[rows].numpy()
    for place, teacher in enumerate(outputs.names):
        source = TEACHER + teacher
        moments_s[source] = outputs.moments_s[rows, place].numpy()
        sure = _confidence(outputs.start[:, place], outputs.end[:, place], outputs.duration_s, outputs.mask)
        confidence[source] = sure[rows].numpy()
        weights[source] = mixed.weights[rows, place].numpy()
    return Predictions(name=name, dataset=dataset, moments_s=moments_s, confidence=confidence, weights=weights)


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
