"""What an answerer makes of different ways to choose frames: every answer, and the sums that follow from them (ours).

One answerer serves all ways, so that they differ by the frames alone. Beside them stands chance, which gives every
option the same probability and is right in 1 / options of a question. NExT-QA's published accuracy is the mean over
questions (micro), STAR's the mean over its kinds of questions (macro); both are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from vkdlab.metrics import Mean
from vkdlab.vlap.answerer import look
from vkdlab.vlap.backbone import Backbone
from vkdlab.vlap.batches import QuestionBatch, QuestionDataset
from vkdlab.vlap.prompter import Selection
from vkdlab.vlap.selectors import ORACLE, UNIFORM, Way, evidence_frames

if TYPE_CHECKING:
    import pandas as pd

CHANCE = "chance"

Answerer = Callable[[QuestionBatch, Selection], Float[Tensor, "b o"]]
"""Gives a logit for each option from the chosen frames, -inf where a question has no such option."""


@dataclass(frozen=True)
class Row:
    """One question, answered with the frames that one way chose."""

    id: str
    """The question's id."""
    video: str
    """Its video's id."""
    kind: str
    """Type of the question; empty where the data set knows none."""
    way: str
    """Who chose the frames; "chance" for no answer at all."""
    answer: int
    """The right option, from 0."""
    predicted: int | None
    """The option with the greatest probability, of equals the first; None for chance."""
    right: float
    """1 where that is the right one and 0 where it is not; for chance 1 / options."""
    probs: tuple[float, ...]
    """Of the options. An answerer as released gives some to options that do not exist."""
    frames: tuple[int, ...]
    """Numbers of the chosen frames among those that were looked at."""
    times_s: tuple[float, ...]
    """When they are on screen, seconds; nan where the data set does not tell how long the video is."""
    evidence: tuple[int, ...] | None
    """Numbers of the frames within the evidence's span, chosen or not; None where it is not known."""


class EvidenceRecall(NamedTuple):
    """How the chosen frames meet the evidence, over questions whose evidence is known."""

    questions: Mean
    """Of questions with at least one chosen frame within it. Where no frame that was looked at lies within it none can
    be chosen: what the oracle reaches is the most."""
    frames: Mean
    """Of all frames within it, those that were chosen."""
    chosen: Mean
    """Of all chosen frames, those within it."""


class OracleAgreement(NamedTuple):
    """How a way agrees with the oracle, over questions whose evidence is known."""

    frames: Mean
    """Of all chosen frames, those that the oracle chose."""
    answers: Mean
    """Of questions that are answered alike, be it right or wrong."""


@dataclass(frozen=True)
class Results:
    """Answers to all questions of a data set with every way; parts of a data set add up."""

    rows: tuple[Row, ...]
    """One per question and way."""
    failed: Mapping[str, str]
    """Videos that could not be decoded, and why, by id."""
    without_video: Mapping[str, str]
    """Questions about them, and why, by id: they are in no number."""

    @property
    def ways(self) -> tuple[str, ...]:
        """Names of the ways."""
        return tuple(dict.fromkeys(row.way for row in self.rows))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of questions, sorted."""
        return tuple(sorted({row.kind for row in self.rows}))

    def of(self, way: str, *, kind: str | None = None) -> list[Row]:
        """The rows of one way, of all questions or of one kind.

        Raises:
            ValueError: there is no such way or kind.
        """
        if way not in self.ways or (kind is not None and kind not in self.kinds):
            raise ValueError(
                f"there are the ways {', '.join(self.ways)} and the kinds {', '.join(map(repr, self.kinds))}, "
                f"asked for {way!r} and {kind!r}"
            )
        return [row for row in self.rows if row.way == way and kind in (None, row.kind)]

    def accuracy(self, way: str, *, kind: str | None = None) -> Mean:
        """The share of questions that are answered rightly (micro)."""
        rows = self.of(way, kind=kind)
        return Mean(sum(row.right for row in rows), len(rows))

    def by_kind(self, way: str) -> dict[str, Mean]:
        """The accuracy of each kind of questions."""
        return {kind: self.accuracy(way, kind=kind) for kind in self.kinds}

    def macro(self, way: str) -> float:
        """The mean of the kinds' accuracies, each counting the same. It is no sum: add results first."""
        values = [mean.value for mean in self.by_kind(way).values()]
        return sum(values) / len(values)

    def evidence_recall(self, way: str, *, kind: str | None = None) -> EvidenceRecall:
        """How the chosen frames meet the evidence; of no question, and so nan, where none is known."""
        rows = [row for row in self.of(way, kind=kind) if row.evidence is not None]
        met = [len({*row.frames} & {*row.evidence}) for row in rows]
        return EvidenceRecall(
            questions=Mean(sum(count > 0 for count in met), len(rows)),
            frames=Mean(sum(met), sum(len(row.evidence) for row in rows)),
            chosen=Mean(sum(met), sum(len(row.frames) for row in rows)),
        )

    def oracle_agreement(self, way: str, *, kind: str | None = None) -> OracleAgreement:
        """How a way agrees with the oracle.

        Raises:
            ValueError: the oracle is none of the ways.
        """
        pairs = [pair for pair in self._pairs(way, ORACLE, kind=kind) if pair[0].evidence is not None]
        answered = [mine.predicted == theirs.predicted for mine, theirs in pairs if mine.predicted is not None]
        return OracleAgreement(
            frames=Mean(
                sum(len({*mine.frames} & {*theirs.frames}) for mine, theirs in pairs),
                sum(len(mine.frames) for mine, _ in pairs),
            ),
            answers=Mean(sum(answered), len(answered)),
        )

    def against(self, way: str, rival: str = UNIFORM) -> Against:
        """Where one way is right and another wrong: when choosing is worse, and when better.

        Raises:
            ValueError: there is no such way, or one is chance, which answers nothing.
        """
        if CHANCE in (way, rival):
            raise ValueError(f"chance answers no question, so {way!r} cannot be held against {rival!r}")
        return Against(way, rival, tuple(self._pairs(way, rival)))

    def table(self) -> pd.DataFrame:
        """A row a way: accuracy over questions, over kinds and of each kind, evidence and oracle, all 0 to 1."""
        import pandas as pd  # half a second that an import of the package does without

        found = {}
        for way in self.ways:
            recall = self.evidence_recall(way)
            row = {"accuracy": self.accuracy(way).value, "macro": self.macro(way)}
            row |= {f"accuracy {kind}": mean.value for kind, mean in self.by_kind(way).items() if kind}
            row |= {
                "evidence met": recall.questions.value,
                "evidence frames chosen": recall.frames.value,
                "chosen frames in evidence": recall.chosen.value,
            }
            if ORACLE in self.ways:
                agreement = self.oracle_agreement(way)
                row |= {"oracle's frames": agreement.frames.value, "oracle's answers": agreement.answers.value}
            found[way] = row
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("way")

    def frame(self) -> pd.DataFrame:
        """All rows, with the fields of `Row` as columns."""
        import pandas as pd  # half a second that an import of the package does without

        found = pd.DataFrame([vars(row) for row in self.rows], columns=[field.name for field in fields(Row)])
        return found.astype({"predicted": "Int64"})

    def __add__(self, other: Results) -> Results:
        if not isinstance(other, Results):
            return NotImplemented
        if self.rows and other.rows and set(self.ways) != set(other.ways):
            raise ValueError(f"results of {', '.join(self.ways)} do not add to results of {', '.join(other.ways)}")
        if twice := {row.id for row in self.rows} & {row.id for row in other.rows}:
            raise ValueError(f"question {min(twice)!r} is in both results: a question counts once")
        failed, without = {**self.failed, **other.failed}, {**self.without_video, **other.without_video}
        return Results(self.rows + other.rows, failed, without)

    def _pairs(self, way: str, rival: str, *, kind: str | None = None) -> Iterable[tuple[Row, Row]]:
        theirs = {row.id: row for row in self.of(rival, kind=kind)}
        return ((row, theirs[row.id]) for row in self.of(way, kind=kind))


@dataclass(frozen=True)
class Against:
    """Two ways on the same questions."""

    way: str
    """The one."""
    rival: str
    """The other."""
    pairs: tuple[tuple[Row, Row], ...]
    """Each question's rows of both."""

    @property
    def won(self) -> list[tuple[Row, Row]]:
        """Questions that the way gets right and its rival wrong."""
        return [(mine, theirs) for mine, theirs in self.pairs if mine.right > theirs.right]

    @property
    def lost(self) -> list[tuple[Row, Row]]:
        """Questions that the way gets wrong and its rival right."""
        return [(mine, theirs) for mine, theirs in self.pairs if mine.right < theirs.right]

    def counts(self) -> pd.DataFrame:
        """A row a kind of questions and one for all: how many there are, and who is right in how many."""
        import pandas as pd  # half a second that an import of the package does without

        def count(pairs: list[tuple[Row, Row]]) -> dict[str, int]:
            right = [(bool(mine.right), bool(theirs.right)) for mine, theirs in pairs]
            return {
                "questions": len(right),
                "both right": right.count((True, True)),
                f"only {self.way}": right.count((True, False)),
                f"only {self.rival}": right.count((False, True)),
                "both wrong": right.count((False, False)),
            }

        kinds = sorted({mine.kind for mine, _ in self.pairs})
        found = {kind: count([pair for pair in self.pairs if pair[0].kind == kind]) for kind in kinds if kind}
        found["all"] = count(list(self.pairs))
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("kind")

    def questions(self) -> pd.DataFrame:
        """A row a question that one gets right and the other wrong, by kind, those first that the way gets wrong."""
        import pandas as pd  # half a second that an import of the package does without

        rows = [
            (
                mine.id, mine.kind, mine.video, name, mine.answer, mine.predicted, theirs.predicted, mine.frames,
                theirs.frames, mine.evidence,
            )
            for name, pairs in ((self.rival, self.lost), (self.way, self.won))
            for mine, theirs in pairs
        ]  # fmt: skip
        columns = [
            "id", "kind", "video", "right with", "answer", f"{self.way} predicted", f"{self.rival} predicted",
            f"{self.way} frames", f"{self.rival} frames", "evidence",
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=columns).sort_values("kind", kind="stable", ignore_index=True)


def answering(backbone: Backbone) -> Answerer:
    """The answerer that a backbone is; it should be in evaluation mode."""

    def answer(batch: QuestionBatch, selection: Selection) -> Float[Tensor, "b o"]:
        text = backbone.read(batch.prompts)
        return backbone.score(look(backbone, batch, selection, text), text, selection.mask)

    return answer


@torch.no_grad()
def evaluate(
    answer: Answerer,
    questions: QuestionDataset,
    ways: Mapping[str, Way],
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Results:
    """Answers every question with the frames of every way, and by chance.

    Args:
        answer: such as `answering(backbone)`. What it and the ways call should be in evaluation mode: a prompter in
            training chooses with noise.
        questions: of any split, not mirrored.
        ways: by name, such as `selectors.rivals` and `selectors.prompted`.
        batch_size: questions at a time; no influence on the result but by rounding.
        device: where the networks are.
        progress: whether to show a progress bar.

    Raises:
        ValueError: a way is called "chance", the questions are mirrored at random, or a logit of an option is not
            finite.
    """
    if CHANCE in ways:
        raise ValueError(f"{CHANCE!r} is measured anyway: call the way {ways[CHANCE]} by another name")
    if questions.mirrored:
        raise ValueError("these questions are mirrored at random, which is for training: evaluate them as they are")
    videos = {row.id: questions.dataset.videos[row.video] for row in questions.questions}
    rows: list[Row] = []
    steps = range(0, len(questions), batch_size)
    for first in tqdm(steps, desc="answering", unit="batch", leave=False, disable=not progress):
        items = [questions[i] for i in range(first, min(first + batch_size, len(questions)))]
        batch = questions.collate(items).to(device)
        inside, places = evidence_frames(batch).cpu(), batch.places.cpu()
        known = batch.evidence.isfinite().all(1).tolist()
        about = [
            {
                "id": ident,
                "video": videos[ident].id,
                "kind": batch.kinds[i],
                "answer": questions.questions[first + i].answer,
                "evidence": tuple(inside[i].nonzero().flatten().tolist()) if known[i] else None,
            }
            for i, ident in enumerate(batch.ids)
        ]
        for name, way in ways.items():
            selection = way(batch)
            logits = answer(batch, selection).double().cpu()
            indices, there = selection.indices.cpu(), selection.mask.cpu()
            for i, facts in enumerate(about):
                frames = indices[i][there[i]]
                times_s = places[i, frames].double() * videos[facts["id"]].duration_s
                chosen = {"frames": tuple(frames.tolist()), "times_s": tuple(times_s.tolist())}
                rows.append(Row(way=name, **_predicted(logits[i], batch, i), **chosen, **facts))
        for i, facts in enumerate(about):
            share = 1 / len(batch.prompts[i].options)
            probs = (share,) * len(batch.prompts[i].options)
            rows.append(Row(way=CHANCE, predicted=None, right=share, probs=probs, frames=(), times_s=(), **facts))
    failed = {name: why for name, why in questions.store.failed.items() if name in questions.dataset.videos}
    return Results(tuple(rows), failed, dict(questions.without_video))


def _predicted(logits: Tensor, batch: QuestionBatch, i: int) -> dict:
    options = len(batch.prompts[i].options)
    if not logits[:options].isfinite().all() or len(logits) < options:
        raise ValueError(
            f"question {batch.ids[i]!r} has {options} options and needs a finite logit for each, got {logits.tolist()}"
        )
    probs = tuple(logits[logits > -torch.inf].softmax(0).tolist())
    predicted = max(range(len(probs)), key=probs.__getitem__)
    return {"predicted": predicted, "right": float(predicted == int(batch.answers[i])), "probs": probs}
