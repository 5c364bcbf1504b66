"""All that is measured of a study: each way to choose frames at each number of frames, and where the time goes (ours).

On the common answerer ways differ by the frames alone. A student's own answerer has learned with its prompter besides,
which is what is run at inference; so that is measured too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vkdlab.metrics import Mean, mean_interval
from vkdlab.vlap.backbone import Backbone
from vkdlab.vlap.batches import QuestionBatch, QuestionDataset
from vkdlab.vlap.evaluate import CHANCE, Answerer, Results, answering, evaluate
from vkdlab.vlap.latency import KEPT, WayTime, interleaved
from vkdlab.vlap.prompter import ReleasedPrompter, Selection
from vkdlab.vlap.selectors import (
    ALL,
    LOCALIZER,
    NONE,
    PROMPTER,
    Way,
    confidence,
    everything,
    nothing,
    oracle,
    prompted,
    rivals,
    surest,
)
from vkdlab.vlap.study import Study
from vkdlab.vlap.workshop import KNOWING, LANGUAGE, OURS, TEACHER

if TYPE_CHECKING:
    import pandas as pd

LEVELS = {ALL: "all frames", NONE: "no frames", CHANCE: "chance"}
"""Ways that do not depend on S, and what metrics call them."""
OTHERS = {TEACHER: "teacher on all frames", LANGUAGE: "language alone", KNOWING: "taught by the oracle"}
"""Answerers beside the students and the common one, and what metrics call them."""
_FIXED = tuple(LEVELS.values())


@dataclass(frozen=True)
class Measured:
    """Answers to the same questions, by number of frames and way."""

    select: int
    """S of the study's students."""
    by_count: Mapping[int, Results]
    """Of the common answerer, by number of frames S; all frames and no frame are in each."""
    own: Results
    """Of each student with its own answerer, at `select`, by the students' names; of the `TEACHER`, from all frames;
    of `KNOWING`, from the oracle's; and of `LANGUAGE`, who has never seen one."""

    @property
    def common(self) -> Results:
        """Of the common answerer at `select`."""
        return self.by_count[self.select]

    def metrics(self) -> dict[str, float]:
        """Every number by name, shares of 1; what was measured on no question is left out."""
        found = {
            name: mean.value
            for part in (self._of_levels(), self._of_counts(), self._of_students())
            for name, mean in part
        }
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def _of_levels(self) -> Iterator[tuple[str, Mean]]:
        for way, called in LEVELS.items():
            yield from _accuracies(self.common, way, called)

    def _of_counts(self) -> Iterator[tuple[str, Mean]]:
        for count, results in self.by_count.items():
            for way in results.ways:
                if way not in LEVELS:
                    at = f"{way}, {count} frames"
                    yield from _accuracies(results, way, at)
                    yield f"{at}: evidence met", results.evidence_recall(way).questions
                    yield f"{at}: oracle's frames", results.oracle_agreement(way).frames

    def _of_students(self) -> Iterator[tuple[str, Mean]]:
        for way in self.own.ways:
            if way != CHANCE:
                yield from _accuracies(self.own, way, OTHERS.get(way, f"{way} with its own answerer"))


@torch.no_grad()
def measure_study(
    study: Study,
    *,
    questions: QuestionDataset | None = None,
    counts: Sequence[int] = (1, 2, 4, 8, 16, 32),
    seed: int = 0,
    progress: bool = True,
) -> Measured:
    """Answers every question with each way to choose frames.

    The localizer asks about a frame once, whatever the number of frames, and frames that two ways agree on for a whole
    batch are read once. A prompter as released is measured at its own number of frames, for it has no other.

    Args:
        study: with the students to measure.
        questions: by default the test split.
        counts: numbers of frames S; those above T are left out, and the students' own is measured in any case.
        seed: of the random choice, and of the noise of a prompter as released.
        progress: shows progress bars.

    Raises:
        ValueError: a count below 1.
    """
    select, frames = study.recipe.method.select, study.recipe.frames
    if counts and min(counts) < 1:
        raise ValueError(f"numbers of frames are at least 1, got {tuple(counts)}")
    counts = sorted({select, *(count for count in counts if count <= frames)})
    questions = study.sighted.test if questions is None else questions
    how = {"device": next(study.answerer.parameters()).device, "progress": progress}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ways = _ways(study, counts, seed=seed)
        named = {_joined(*key): way for key, way in ways.items()}
        common = evaluate(_remembering(answering(study.answerer)), questions, named, **how)
        own = [
            evaluate(answering(method.student.backbone), questions, {name: _choosing(method, select)}, **how)
            for name, method in study.students.items()
        ]
        others = {
            TEACHER: (study.teacher, lambda batch: everything(batch.mask)),
            LANGUAGE: (study.language, lambda batch: nothing(batch.mask)),
            KNOWING: (study.knowing, partial(oracle, select=select)),
        }
        own += [evaluate(answering(who), questions, {name: way}, **how) for name, (who, way) in others.items()]
    return Measured(select, {count: _at(common, ways, count) for count in counts}, _beside(own, common))


def time_study(
    study: Study, *, counts: Sequence[int] = (), questions: int = 4, repeats: int = 5
) -> dict[int, dict[str, WayTime]]:
    """Times an answer about a video file with each way of `latency.WAYS`, by our student's networks.

    Args:
        study: with our student, `study.OURS`.
        counts: numbers of frames S; the student's own is timed in any case.
        questions: how many of the test split are asked, the first about each of the first videos.
        repeats: timed rounds over them.

    Returns:
        Number of frames S to way to time, as `curve_figures.accuracy_against_latency` takes it.
    """
    recipe, student, test = study.recipe, study.students[OURS].student, study.splits.test
    first = {row.video: index for index, row in reversed([*enumerate(test.questions)])}
    asked = [
        (test.dataset.videos[video].path, test[first[video]]["prompt"])
        for video in sorted(first, key=first.__getitem__)[:questions]
    ]
    looked_at = {"count": recipe.frames, "size": recipe.size, "thumbnail": recipe.thumbnail}
    return {
        select: interleaved(
            student.backbone, student.prompter, study.glance.encoder, asked, select=select, repeats=repeats, **looked_at
        )
        for select in sorted({recipe.method.select, *counts})
    }


def time_metrics(times: Mapping[str, WayTime]) -> dict[str, float]:
    """Medians in milliseconds, whole and by stage, and how many times faster prompters are than what they replace.

    Args:
        times: of one number of frames, as `interleaved` gives them.
    """
    found = {}
    for way, each in times.items():
        found[f"{way}: ms"] = 1e3 * each.total.median_s
        found |= {f"{way}: ms, {stage}": 1e3 * seconds.median_s for stage, seconds in each.stages.items()}
    for way in (PROMPTER, KEPT):
        for other in (ALL, LOCALIZER):
            if way in times and other in times:
                found[f"{way} faster than {other}"] = times[way].faster_than(times[other])[0]
    return found


def language_alone(results: Results) -> pd.DataFrame:
    """What question and options tell who has learned without any frame, against chance: a row a kind, in per cent.

    The last column is how far from chance 95 % of those who guess are with as many questions (normal approximation): a
    smaller difference is not told from none.
    """
    import pandas as pd  # half a second that an import of the package does without

    found = {}
    for kind in (*filter(None, results.kinds), None):
        without, chance = (results.accuracy(way, kind=kind) for way in (LANGUAGE, CHANCE))
        share, guessed = without.value, chance.value
        found[kind or "all"] = {
            "questions": int(without.count),
            "language alone": 100 * share,
            "chance": 100 * guessed,
            "points above chance": 100 * (share - guessed),
            "who guesses: ±": 196 * math.sqrt(guessed * (1 - guessed) / without.count),
        }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("kind")


def beside_committed(
    metrics: Mapping[str, float], *, select: int, committed: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """Accuracies at one number of frames, and what is how many times faster, beside committed runs.

    Args:
        metrics: of this run, from `Measured.metrics` and `time_metrics`.
        select: S.
        committed: from `vkdlab.evidence.committed_runs`; of these the mean and its 95 % interval, a dash for none.
    """
    import pandas as pd  # half a second that an import of the package does without

    found = {}
    for name, value in metrics.items():
        of_all, faster = name.endswith(": accuracy"), " faster than " in name
        if faster or (of_all and (f", {select} frames:" in name or " frames:" not in name or name.startswith(_FIXED))):
            scale = 100 if of_all else 1
            runs = [scale * run["metrics"][name] for run in committed if name in run["metrics"]]
            there = mean_interval(runs) if runs else None
            spread = f" ± {there.high - there.mean:.1f}" if there and there.count > 1 else ""
            found[f"{name} (%)" if of_all else f"{name} (times)"] = {
                "this run": f"{scale * value:.1f}",
                "committed runs": f"{there.mean:.1f}{spread}" if there else "–",
            }
    return pd.DataFrame.from_dict(found, orient="index")


def _accuracies(results: Results, way: str, called: str) -> Iterator[tuple[str, Mean]]:
    yield f"{called}: accuracy", results.accuracy(way)
    for kind in filter(None, results.kinds):
        yield f"{called}: accuracy {kind}", results.accuracy(way, kind=kind)


def _ways(study: Study, counts: Sequence[int], *, seed: int) -> dict[tuple[str, int | None], Way]:
    """By name and number of frames, None where it has none."""
    found: dict[tuple[str, int | None], Way] = {}
    sure = _surely(study.answerer)
    for count in counts:
        named = rivals(study.answerer, select=count, seed=seed) | {LOCALIZER: partial(sure, select=count)}
        named |= {
            name: _choosing(method, count)
            for name, method in study.students.items()
            if count == study.recipe.method.select or not isinstance(method.student.prompter, ReleasedPrompter)
        }
        found |= {(name, None if name in LEVELS else count): way for name, way in named.items()}
    return found


def _choosing(method: Any, select: int) -> Way:
    return prompted(method.student.backbone, method.student.prompter, select=select)


def _surely(backbone: Backbone) -> Callable[..., Selection]:
    """The localizer, asking about a batch once for all numbers of frames."""

    @lru_cache(maxsize=1)
    def asked(batch: QuestionBatch) -> Tensor:
        text = backbone.read(batch.prompts)
        return confidence(backbone, batch.tokens, text, mask=batch.mask, places=batch.places)

    return lambda batch, *, select: surest(asked(batch), mask=batch.mask, select=select)


def _remembering(answer: Answerer) -> Answerer:
    """The same answerer, which gives what it gave before for the same frames of the same batch."""

    @lru_cache(maxsize=1)
    def given(batch: QuestionBatch) -> dict[tuple, Tensor]:
        return {}

    def again(batch: QuestionBatch, selection: Selection) -> Tensor:
        frames = selection.indices.masked_fill(~selection.mask, -1)
        key = tuple(map(tuple, frames.tolist()))
        if key not in given(batch):
            given(batch)[key] = answer(batch, selection)
        return given(batch)[key]

    return again


def _joined(way: str, count: int | None) -> str:
    return way if count is None else f"{way}, {count} frames"


def _at(results: Results, ways: Mapping[tuple[str, int | None], Way], count: int) -> Results:
    """What belongs to one number of frames, each way under its own name."""
    order = {_joined(*key): key[0] for key in ways if key[1] in (count, None)} | {CHANCE: CHANCE}
    rows = tuple(replace(row, way=order[row.way]) for row in results.rows if row.way in order)
    return replace(results, rows=rows)


def _beside(own: Sequence[Results], common: Results) -> Results:
    """Students' results in one, with chance."""
    rows = [row for each in own for row in each.rows if row.way != CHANCE]
    return replace(common, rows=(*rows, *common.of(CHANCE)))
