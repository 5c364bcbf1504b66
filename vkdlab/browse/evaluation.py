"""vkdlab's numbers and FiftyOne's for the same answers, and why they differ (ours).

vkdlab asks, query by query and in exact seconds, whether the one answer is good enough: `R1@m`, the share of queries
whose answer has a temporal IoU of at least m, and `mIoU`. FiftyOne reckons the mean average precision of temporal
detection (Heilbron et al., "ActivityNet", CVPR 2015) with the sentence as class: whole frames, answers and moments
matched by sentence, one average precision a sentence, the mean of ten thresholds. `difference` goes from the first to
the second in steps.

FiftyOne's code for matching and precision is run as it is, on copies of the four things that it looks at. Through its
`evaluate_detections`, which makes an object of every fact of every moment several times over, the same numbers take
more than ten times as long.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import torch
from tqdm.auto import tqdm

from vkdlab.browse import database
from vkdlab.browse.documents import GT, KEPT, about, labelled
from vkdlab.browse.from_fiftyone import predictions_of
from vkdlab.metrics import THRESHOLDS, mean_iou, recall_at_iou
from vkdlab.plots import PALETTE, TRUTH, styled
from vkdlab.predictions import Predictions

if TYPE_CHECKING:
    import fiftyone
    import pandas as pd

IOU = 0.5
SWEEP = tuple(percent / 100 for percent in range(50, 100, 5))
OURS = (*(f"R1@{threshold}" for threshold in THRESHOLDS), "mIoU")
THEIRS = (f"mAP@{IOU}", "mAP")
RUN = "vkdlab_metrics"
"""Name of the custom run that holds the numbers in FiftyOne."""


def evaluate(dataset: fiftyone.Dataset, *, sources: Sequence[str] | None = None, progress: bool = True) -> pd.DataFrame:
    """Scores the answers as they now stand, corrections included, and writes the numbers into the data set.

    They are kept in `dataset.info["vkdlab"]["metrics"]` and in the custom run `vkdlab_metrics`; FiftyOne's evaluation
    of a source under the key `eval_<source>`, by which moments are filtered in the App: true or false positive, what it
    was matched with, and their IoU.

    Args:
        dataset: of `to_fiftyone`.
        sources: whose answers; all by default.
        progress: shows a progress bar.

    Returns:
        A row a source; columns R1@0.3, R1@0.5, R1@0.7 and mIoU are vkdlab's, mAP@0.5 and mAP (mean of the thresholds
        0.5, 0.55 .. 0.95) FiftyOne's, all 0..1. A query without an answer is a miss. Not-a-number where there is no
        query; FiftyOne's also where answers have no confidence, which it needs.

    Raises:
        ValueError: there is no such source, or a moment is none; see `from_fiftyone`.
    """
    import pandas as pd  # half a second that an import of the package does without

    with database.explained():
        known = about(dataset)["sources"]
        sources = known if sources is None else list(sources)
        for source in sources:
            _check(dataset, source, known)
        predictions = predictions_of(dataset)
        found = {}
        for source in tqdm(sources, desc="evaluating", unit="source", disable=not (progress and sources)):
            found[source] = _ours(predictions, source) | _theirs(dataset, source)
        _keep(dataset, found)
    return pd.DataFrame.from_dict(found, orient="index", columns=[*OURS, *THEIRS]).rename_axis("source")


def measure(predictions: Predictions) -> pd.DataFrame:
    """vkdlab's numbers alone, which need no FiftyOne.

    Args:
        predictions: the answers.

    Returns:
        As `evaluate`, without FiftyOne's columns.
    """
    import pandas as pd  # half a second that an import of the package does without

    found = {source: _ours(predictions, source) for source in predictions.moments_s}
    return pd.DataFrame.from_dict(found, orient="index", columns=list(OURS)).rename_axis("source")


def difference(dataset: fiftyone.Dataset, source: str = "student") -> pd.DataFrame:
    """How vkdlab's R1@0.5 of a source becomes FiftyOne's mAP, one change at a time.

    Every step is reckoned here, without FiftyOne's code; the last two equal what `evaluate` reports as `mAP@0.5` and
    `mAP`.

    Args:
        dataset: of `to_fiftyone`.
        source: whose answers.

    Returns:
        A row a step: `step`, `value` (0..1), `change` against the step before, and `why`, in words.

    Raises:
        ValueError: there is no such source, nothing to evaluate, an answer without confidence, or a moment is none.
    """
    import pandas as pd  # half a second that an import of the package does without

    with database.explained():
        _check(dataset, source, about(dataset)["sources"])
        exact = _ours(predictions_of(dataset), source)[f"R1@{IOU}"]
        videos = _read(dataset, source)
    truth = sum(len(video.truth) for video in videos)
    if not truth:
        raise ValueError(f"{dataset.name!r} has no true moments: there is nothing to compare answers with")
    if _unsure(videos):
        raise ValueError(
            f"answers of {source!r} have no confidence, without which FiftyOne reckons no mAP. Give it in "
            "Predictions.confidence"
        )
    whole, short = (
        sum(_found_by_query(video, last_frame=last_frame) for video in videos) / truth for last_frame in (1, 0)
    )
    ranked = {threshold: _by_sentence(videos, threshold) for threshold in SWEEP}
    hits = {sentence: sum(right for _, right in answers) for sentence, (answers, _) in ranked[IOU].items()}
    sizes = {sentence: count for sentence, (_, count) in ranked[IOU].items() if count}
    precision = {
        threshold: _mean(_average_precision(*each) for each in by_sentence.values() if each[1])
        for threshold, by_sentence in ranked.items()
    }
    rows = [
        (f"R1@{IOU}, in seconds", exact,
         f"share of the queries whose answer has an IoU of {IOU} or more, in exact seconds, query by query"),
        ("in whole frames", whole, "a moment becomes all frames that show some of it"),
        ("last frame left out", short,
         "FiftyOne takes last - first for the length of a moment, one frame less than it has"),
        ("matched by sentence", sum(hits.values()) / truth,
         "within a video an answer may match any moment of the same sentence, the surest answer first, each moment "
         "once; a sentence that was corrected in the truth alone is not found"),
        ("mean over sentences", _mean(hits[sentence] / count for sentence, count in sizes.items()),
         "every different sentence counts the same, however many moments it has"),
        (f"average precision: {THEIRS[0]}", precision[IOU],
         "of the answers to a sentence in all videos, a wrong one that is surer than a right one costs"),
        ("ten thresholds: mAP", _mean(precision.values()), "the mean over the thresholds 0.5, 0.55 .. 0.95"),
    ]  # fmt: skip
    steps = pd.DataFrame(rows, columns=["step", "value", "why"])
    steps.insert(2, "change", steps["value"].diff().fillna(0.0))
    return steps


def difference_figure(steps: pd.DataFrame, *, name: str = "student") -> go.Figure:
    """The steps of `difference` as bars that hang on one another, first and last from zero.

    Args:
        steps: of `difference`.
        name: whose answers they are.
    """
    first, last = 100 * steps["value"].iloc[0], 100 * steps["value"].iloc[-1]
    change = 100 * steps["change"]
    figure = go.Figure(
        go.Waterfall(
            orientation="h",
            measure=["absolute", *["relative"] * (len(steps) - 1), "total"],
            y=[*steps["step"], "FiftyOne's mAP"],
            x=[first, *change[1:], 0.0],
            text=[f"{first:.1f} %", *(f"{each:+.1f}".replace("-", "−") for each in change[1:]), f"{last:.1f} %"],
            customdata=[*steps["why"], "what FiftyOne reports"],
            hovertemplate="%{customdata}<extra></extra>",
            textposition="outside", cliponaxis=False, constraintext="none",
            connector={"line": {"color": "#bbbbbb", "width": 1}},
            increasing={"marker": {"color": PALETTE[2]}}, decreasing={"marker": {"color": PALETTE[1]}},
            totals={"marker": {"color": TRUTH}},
        )
    )  # fmt: skip
    styled(
        figure,
        title=f"{name}: R1@{IOU} of {first:.1f} % and mAP of {last:.1f} % are the same answers",
        subtitle="each bar changes one thing in how they are counted; green raises the number, orange lowers it",
        x="share of queries, at the end mean average precision (%)",
        height=420,
    )
    figure.update_xaxes(range=[0, 1.15 * max(100 * steps["value"].max(), 1)])
    return figure.update_yaxes(autorange="reversed", showgrid=False)


@dataclass(frozen=True)
class _Video:
    """What FiftyOne looks at, of one video."""

    truth: list[_Moment]
    """True moments."""
    answers: list[_Moment]
    """The source's."""


class _Moment(dict):
    """A moment that FiftyOne's code takes for one of its own: values by item and by attribute."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class _Moments(dict):
    """A field of moments, likewise."""

    _LABEL_LIST_FIELD = "detections"

    def copy(self) -> _Moments:
        return _Moments(detections=[_Moment(each) for each in self["detections"]])


class _Sentences(list):
    """Classes whose place is found without a search; FiftyOne asks for it thousands of times."""

    def __init__(self, sentences: Sequence[str]):
        super().__init__(sentences)
        self._places = {sentence: place for place, sentence in enumerate(self)}

    def index(self, sentence: str) -> int:
        return self._places[sentence]


class _Samples(list):
    """What FiftyOne's sweep asks of a collection of samples."""

    def select_fields(self, fields: Any) -> _Samples:
        return self

    def iter_samples(self, progress: Any = None):
        return iter(self)


def _check(dataset: fiftyone.Dataset, source: str, known: Sequence[str]) -> None:
    if source not in known:
        raise ValueError(f"{dataset.name!r} has no source {source!r}, it has {', '.join(known)}")


def _read(dataset: fiftyone.Dataset, source: str) -> list[_Video]:
    names = ("id", "label", "support", "confidence", "query_id")
    fields = (GT, source)
    columns = labelled(dataset).values([f"{field}.detections.{name}" for field in fields for name in names])
    videos = []
    for row in zip(*columns, strict=True):
        parts = [row[: len(names)], row[len(names) :]]
        truth, answers = (
            [_Moment(zip(names, each, strict=True)) for each in zip(*(values or [] for values in part), strict=True)]
            for part in parts
        )
        videos.append(_Video(truth, answers))
    return videos


def _unsure(videos: Sequence[_Video]) -> bool:
    return any(answer.confidence is None for video in videos for answer in video.answers)


def _ours(predictions: Predictions, source: str) -> dict[str, float]:
    moments, truth = (torch.from_numpy(each) for each in (predictions.moments_s[source], predictions.truth_s))
    answered = ~moments.isnan().any(dim=1)
    if not len(truth):
        return dict.fromkeys(OURS, math.nan)
    recalls = recall_at_iou(moments[answered][:, None], truth[answered])
    sums = [*(recalls[threshold].sum for threshold in THRESHOLDS), mean_iou(moments[answered], truth[answered]).sum]
    return {name: total / len(truth) for name, total in zip(OURS, sums, strict=True)}


def _theirs(dataset: fiftyone.Dataset, source: str) -> dict[str, float]:
    """FiftyOne's numbers; its marks are written to the moments and its results kept under `eval_<source>`."""
    from fiftyone.utils.eval.activitynet import ActivityNetEvaluationConfig
    from fiftyone.utils.eval.detection import DetectionResults, _tally_matches

    samples, videos = labelled(dataset), _read(dataset, source)
    key = f"eval_{source}"
    method = ActivityNetEvaluationConfig(source, GT, iou=IOU, classwise=True).build()
    method.register_run(samples, key)
    method.register_samples(samples, key)
    shown = _Samples(
        {GT: _Moments(detections=video.truth), source: _Moments(detections=video.answers)} for video in videos
    )
    by_video = [method.evaluate(each, eval_key=key) for each in shown]
    matches = [match for each in by_video for match in each]
    sentences = _Sentences(sorted({match[0] or match[1] for match in matches}))
    for field in (GT, source):
        for mark in (key, f"{key}_id", f"{key}_iou"):
            values = [[moment.get(mark) for moment in each[field]["detections"]] for each in shown]
            samples.set_values(f"{field}.detections.{mark}", values)
    for end, values in zip(("tp", "fp", "fn"), zip(*map(_tally_matches, by_video), strict=True), strict=True):
        samples.set_values(f"{key}_{end}", list(values))
    # Its own form of results would keep 2,020 numbers a sentence for curves of mostly one answer each.
    method.save_run_results(samples, key, DetectionResults(samples, method.config, key, matches, backend=method))
    if _unsure(videos) or not any(video.truth for video in videos):
        return dict.fromkeys(THEIRS, math.nan)
    sweep = ActivityNetEvaluationConfig(source, GT, iou=IOU, classwise=True, compute_mAP=True).build()
    sweep.gt_field, sweep.pred_field = GT, source
    with _quiet("fiftyone.utils.eval.activitynet"):
        results = sweep.generate_results(shown, matches, classes=sentences)
    at_half = results.classwise_AP[SWEEP.index(IOU)]
    return dict(zip(THEIRS, (float(at_half[at_half > -1].mean()), float(results.mAP())), strict=True))


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keeps a logger to warnings; FiftyOne's speak of every step."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _keep(dataset: fiftyone.Dataset, found: dict[str, dict[str, float]]) -> None:
    plain = {
        source: {name: None if math.isnan(value) else value for name, value in values.items()}
        for source, values in found.items()
    }
    kept = {**dataset.info[KEPT].get("metrics", {}), **plain}
    dataset.info[KEPT]["metrics"] = kept
    dataset.save()
    dataset.register_run(RUN, dataset.init_run(method="vkdlab", sources=sorted(kept)), overwrite=True)
    dataset.save_run_results(RUN, dataset.init_run_results(RUN, metrics=kept))


def _iou(a: Sequence[int], b: Sequence[int], *, last_frame: int = 0) -> float:
    """IoU of first and last frames; `last_frame` is 1 where the last one is counted, which FiftyOne does not do."""
    overlap = min(a[1], b[1]) - max(a[0], b[0]) + last_frame
    union = a[1] - a[0] + b[1] - b[0] + 2 * last_frame - overlap
    return max(overlap, 0) / union if union > 0 else float(a == b)


def _found_by_query(video: _Video, *, last_frame: int) -> int:
    answers = {answer.query_id: answer for answer in reversed(video.answers)}
    return sum(
        _iou(answers[moment.query_id].support, moment.support, last_frame=last_frame) >= IOU
        for moment in video.truth
        if moment.query_id is not None and moment.query_id in answers
    )


def _by_sentence(videos: Sequence[_Video], threshold: float) -> dict[str, tuple[list[tuple[float, bool]], int]]:
    """Sentence to its answers' confidences, each with whether it was right, and the number of its true moments."""
    found: dict[str, list] = defaultdict(lambda: [[], 0])
    for video in videos:
        for sentence in {moment.label for moment in (*video.truth, *video.answers)}:
            left = [moment.support for moment in video.truth if moment.label == sentence]
            answers = [answer for answer in video.answers if answer.label == sentence]
            found[sentence][1] += len(left)
            for answer in sorted(answers, key=lambda answer: -(answer.confidence or -1)):
                overlaps = [_iou(answer.support, support) for support in left]
                # Of equal ones FiftyOne takes the last.
                best = max(range(len(left)), key=lambda place: (overlaps[place], place), default=None)
                right = best is not None and overlaps[best] >= threshold
                if right:
                    del left[best]
                found[sentence][0].append((answer.confidence, right))
    return {sentence: (answers, count) for sentence, (answers, count) in found.items()}


def _average_precision(answers: Sequence[tuple[float, bool]], count: int) -> float:
    """Area under the precision that is reached at this recall or beyond; of equally sure answers, right ones first."""
    ranked = sorted(answers, key=lambda answer: (-answer[0], not answer[1]))
    right = np.array([right for _, right in ranked], dtype=float)
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best_from_here * right).sum() / count)


def _mean(values) -> float:
    return float(np.mean(list(values)))
