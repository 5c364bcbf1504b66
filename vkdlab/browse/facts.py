"""What is known of every query once teachers and student have answered: the table that questions are asked of (ours).

A row is a query, a column a fact. A source's own facts carry its name in front (`student_iou`); what no answer, no
teacher or no weight is there to tell is not-a-number. IoU is `vkdlab.metrics.temporal_iou` of exact seconds.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float

from vkdlab.metrics import temporal_iou
from vkdlab.predictions import Predictions

if TYPE_CHECKING:
    import pandas as pd

STUDENT = "student"
ANSWER = ("iou", "start_error_s", "end_error_s", "length_ratio", "inside")
WEIGHTS = ("start_weight", "end_weight")
QUERY = (
    *("kind", "length_s", "length_percentile", "best_teacher", "best_teacher_iou", "teachers_agree"),
    *("trusted_teacher", "trusted_teacher_iou"),
    *(f"{STUDENT}_{fact}" for fact in ANSWER),
)


def facts(predictions: Predictions) -> pd.DataFrame:
    """The table of all facts.

    Returns:
        One row per query, in the data set's order, under the query's id:

        - `video`, `sentence`, `kind` (empty where the data set knows none);
        - `start_s`, `end_s`, `length_s` of the true moment and `duration_s` of its video, seconds;
        - `length_percentile`: percentage of the other queries whose moment is shorter, 0..100, equal ones counting half
          (50 for a single query);
        - of every source s: `s_start_s` and `s_end_s`, seconds; `s_iou`, 0..1; `s_confidence`, 0..1;
          `s_start_error_s` and `s_end_error_s`, seconds, above 0 where the answer is later than the truth;
          `s_length_ratio`, the answer's length over the truth's; `s_inside`, the share of the answer that lies inside
          the truth, 0..1;
        - where there are teachers: `best_teacher`, the one of the greatest IoU (the first of equals), its IoU
          `best_teacher_iou`, and `teachers_agree`, the mean IoU of every two teachers' answers;
        - where there are weights: `t_start_weight` and `t_end_weight` of every weighted teacher t; `trusted_teacher`,
          the one whose two weights have the greatest mean (the first of equals), and its IoU `trusted_teacher_iou`.

    Raises:
        ValueError: a source is named so that one of its facts has the name of another fact.
    """
    import pandas as pd  # half a second that an import of the package does without

    queries, videos = predictions.dataset.queries, predictions.dataset.videos
    truth = predictions.truth_s
    length = truth[:, 1] - truth[:, 0]
    columns: dict[str, object] = {
        "video": [query.video for query in queries],
        "sentence": [query.sentence for query in queries],
        "kind": [query.kind for query in queries],
        "start_s": truth[:, 0],
        "end_s": truth[:, 1],
        "length_s": length,
        "duration_s": np.array([videos[query.video].duration_s for query in queries], dtype=float),
        "length_percentile": _percentile(pd.Series(length)),
    }

    def add(more: dict[str, object]) -> None:
        if taken := [name for name in more if name in columns]:
            raise ValueError(f"two facts are named {taken[0]!r}: give the source another name")
        columns.update(more)

    for source in predictions.moments_s:
        add({f"{source}_{fact}": values for fact, values in _answer(predictions, source, truth).items()})
    teachers, weighted = predictions.teachers, tuple(predictions.weights)
    if teachers:
        iou = np.stack([columns[f"{name}_iou"] for name in teachers], axis=1)
        add(dict(zip(("best_teacher", "best_teacher_iou"), _greatest(teachers, iou, iou), strict=True)))
        add({"teachers_agree": _agreement([predictions.moments_s[name] for name in teachers], len(queries))})
    if weighted:
        for name in weighted:
            add({f"{name}_{fact}": predictions.weights[name][:, side] for side, fact in enumerate(WEIGHTS)})
        iou = np.stack([columns[f"{name}_iou"] for name in weighted], axis=1)
        trust = np.stack([predictions.weights[name].mean(axis=1) for name in weighted], axis=1)
        add(dict(zip(("trusted_teacher", "trusted_teacher_iou"), _greatest(weighted, trust, iou), strict=True)))
    return pd.DataFrame(columns, index=pd.Index([query.id for query in queries], name="query"))


def detection_facts(table: pd.DataFrame, source: str) -> list[dict[str, object]]:
    """What a detection of `source` carries: its own facts without the source's name, and the facts of its query.

    The facts of the query are the same in every source, so that one condition filters them all.

    Args:
        table: of `facts`.
        source: a source, or `"gt"`, which has no facts of its own.

    Returns:
        A dict per row of the table, of `fact_names`; None where a fact is not known.

    Raises:
        ValueError: the table has no such source.
    """
    columns = _columns(table, source)
    plain = [_plain(table[name]) for name in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]


def fact_names(table: pd.DataFrame, source: str) -> list[str]:
    """The facts that detections of `source` carry; one that is no column of the table is left out.

    Raises:
        ValueError: the table has no such source.
    """
    return list(_columns(table, source))


def sources(table: pd.DataFrame) -> tuple[str, ...]:
    """The sources that the table tells of, in its order."""
    return tuple(name.removesuffix("_start_error_s") for name in table if name.endswith("_start_error_s"))


def _columns(table: pd.DataFrame, source: str) -> dict[str, str]:
    """Fact to the column that tells it."""
    if source != "gt" and f"{source}_iou" not in table:
        raise ValueError(f"the table has no source {source!r}, its sources are {', '.join(sources(table)) or 'none'}")
    own = {} if source == "gt" else {fact: f"{source}_{fact}" for fact in (*ANSWER, *WEIGHTS)}
    return {fact: name for fact, name in (own | {name: name for name in QUERY}).items() if name in table}


def iou_s(a_s: Float[np.ndarray, "n 2"], b_s: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    """IoU of moments in seconds, 0..1; not-a-number where either is none."""
    known = np.isfinite(a_s).all(axis=1) & np.isfinite(b_s).all(axis=1)
    found = np.full(len(known), np.nan)
    found[known] = temporal_iou(torch.from_numpy(a_s[known]), torch.from_numpy(b_s[known])).numpy()
    return found


def _answer(predictions: Predictions, source: str, truth: Float[np.ndarray, "n 2"]) -> dict[str, np.ndarray]:
    answer = predictions.moments_s[source]
    unknown = np.full(len(answer), np.nan)
    length = answer[:, 1] - answer[:, 0]
    within = np.minimum(answer[:, 1], truth[:, 1]) - np.maximum(answer[:, 0], truth[:, 0])
    # An answer of no length is a point, which lies inside or does not.
    inside = np.where(length > 0, np.clip(within, 0, None) / np.where(length > 0, length, 1), within >= 0)
    return {
        "start_s": answer[:, 0],
        "end_s": answer[:, 1],
        "iou": iou_s(answer, truth),
        "confidence": predictions.confidence.get(source, unknown),
        "start_error_s": answer[:, 0] - truth[:, 0],
        "end_error_s": answer[:, 1] - truth[:, 1],
        "length_ratio": length / (truth[:, 1] - truth[:, 0]),
        "inside": np.where(np.isnan(length), np.nan, np.clip(inside, 0, 1)),
    }


def _greatest(
    names: tuple[str, ...], values: Float[np.ndarray, "n k"], told: Float[np.ndarray, "n k"]
) -> tuple[np.ndarray, Float[np.ndarray, " n"]]:
    """Per row the name of the greatest value and what is told of it; None and not-a-number where there is no value."""
    known = ~np.isnan(values).all(axis=1)
    best = np.where(np.isnan(values), -np.inf, values).argmax(axis=1)
    name = np.where(known, np.array(names, dtype=object)[best], None)
    return name, np.where(known, np.take_along_axis(told, best[:, None], axis=1)[:, 0], np.nan)


def _agreement(moments: list[Float[np.ndarray, "n 2"]], count: int) -> Float[np.ndarray, " n"]:
    """Mean over the pairs of which both answered; not-a-number where there is no such pair."""
    total, pairs = np.zeros(count), np.zeros(count)
    for a, b in combinations(moments, 2):
        iou = iou_s(a, b)
        total += np.nan_to_num(iou)
        pairs += ~np.isnan(iou)
    return np.where(pairs > 0, total / np.maximum(pairs, 1), np.nan)


def _percentile(values: pd.Series) -> Float[np.ndarray, " n"]:
    if len(values) == 1:
        return np.array([50.0])
    # Seconds that are equal on paper differ in their last digit.
    return (values.round(6).rank(method="average").to_numpy() - 1) / max(len(values) - 1, 1) * 100


def _plain(column: pd.Series) -> list:
    unknown: Bool[np.ndarray, " n"] = column.isna().to_numpy()
    values = column.tolist()
    return [None if missing else value for value, missing in zip(values, unknown, strict=True)]
