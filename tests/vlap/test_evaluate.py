"""Answers to every question with every way to choose frames, and what follows from them."""

import math

import pytest
import torch

from tests.vlap.small_backbone import OPTIONS, SmallBackbone, questions_of
from vkdlab.data.datasets import Question
from vkdlab.metrics import Mean
from vkdlab.vlap.evaluate import CHANCE, Results, answering, evaluate
from vkdlab.vlap.prompter import FramePrompter
from vkdlab.vlap.selectors import (
    NONE,
    ORACLE,
    RANDOM,
    UNIFORM,
    evidence_frames,
    oracle,
    prompted,
    rivals,
    selection_of,
    uniform,
)

COUNTS = {"long": 20, "short": 3, "other": 12}


def question(
    ident: str, *, video: str = "long", kind: str = "order", options: int = 4, answer: int = 0, span_s=(5.0, 6.0)
) -> Question:
    return Question(ident, video, f"where to, {ident}?", OPTIONS[:options], answer, kind, span_s)


ROWS = [
    question("a", span_s=(2.0, 3.0)),  # frames 4 and 5 of 20
    question("b", span_s=(1.0, 1.5), kind="count", options=3, answer=1),  # frame 2
    question("c", video="short", span_s=(0.0, 10.0), kind="count", options=2, answer=1),
    question("d", video="other", span_s=None, answer=3),
    question("e", video="other", span_s=(9.9, 10.0), options=5, answer=4),  # no frame
]


def right_with_evidence(batch, selection):
    """Logits that are greatest on the right option if a chosen frame shows evidence, else on the one behind it."""
    seen = selection.take(evidence_frames(batch).float()).any(1)
    most = max(len(prompt.options) for prompt in batch.prompts)
    logits = torch.full((len(batch), most), -torch.inf)
    for i, prompt in enumerate(batch.prompts):
        logits[i, : len(prompt.options)] = 0.0
        logits[i, (int(batch.answers[i]) + (not seen[i])) % len(prompt.options)] = 2.0
    return logits


def first_frames(batch):
    """Of every video the first three frames."""
    there = batch.mask & (torch.arange(batch.mask.shape[1]) < 3)
    return selection_of(there, mask=batch.mask, select=3)


def ways(select: int = 4) -> dict:
    return {
        UNIFORM: lambda batch: uniform(batch.mask, select=select),
        "first": first_frames,
        ORACLE: lambda batch: oracle(batch, select=select),
    }


@pytest.fixture
def results(tmp_path) -> Results:
    return evaluate(right_with_evidence, questions_of(tmp_path, ROWS, counts=COUNTS), ways(), progress=False)


def test_there_is_a_row_for_every_question_and_way_and_one_by_chance(results):
    assert results.ways == (UNIFORM, "first", ORACLE, CHANCE)
    assert [row.id for row in results.of("first")] == ["a", "b", "c", "d", "e"]
    row = results.of("first")[1]
    assert (row.id, row.video, row.kind, row.way, row.answer, row.predicted) == ("b", "long", "count", "first", 1, 1)
    assert (row.right, row.frames, row.evidence) == (1.0, (0, 1, 2), (2,))
    assert row.times_s == pytest.approx((0.25, 0.75, 1.25))
    assert row.probs == pytest.approx(torch.tensor([0.0, 2.0, 0.0]).softmax(0).tolist())
    assert results.of("first")[3].evidence is None
    assert results.of("first")[4].evidence == ()


def test_accuracy_is_counted_over_questions_over_kinds_and_of_each_kind(results):
    # Uniform frames of 20 are 2, 7, 12 and 17.
    assert [row.right for row in results.of(UNIFORM)] == [0, 1, 1, 0, 0]
    assert results.accuracy(UNIFORM) == Mean(2, 5)
    assert results.by_kind(UNIFORM) == {"count": Mean(2, 2), "order": Mean(0, 3)}
    assert results.macro(UNIFORM) == 0.5
    assert results.accuracy(UNIFORM, kind="count") == Mean(2, 2)
    assert [row.right for row in results.of(ORACLE)] == [1, 1, 1, 0, 0]


def test_chance_is_right_in_one_of_as_many_options_as_there_are(results):
    assert results.accuracy(CHANCE).value == pytest.approx((1 / 4 + 1 / 3 + 1 / 2 + 1 / 4 + 1 / 5) / 5)
    assert results.by_kind(CHANCE)["count"].value == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert results.evidence_recall(CHANCE).questions.value == 0
    assert math.isnan(results.oracle_agreement(CHANCE).answers.value)


def test_evidence_recall_counts_questions_frames_of_the_evidence_and_chosen_frames(results):
    found = results.evidence_recall(UNIFORM)  # of a, b, c and e
    assert found.questions == Mean(2, 4)
    assert found.frames == Mean(0 + 1 + 3 + 0, 2 + 1 + 3 + 0)
    assert found.chosen == Mean(0 + 1 + 3 + 0, 4 + 4 + 3 + 4)
    assert results.evidence_recall(ORACLE).questions == Mean(3, 4)  # no frame lies within the last one's span
    assert results.evidence_recall("first", kind="order") == (Mean(0, 2), Mean(0, 2), Mean(0, 6))


def test_agreement_with_the_oracle_counts_frames_and_answers_of_questions_with_evidence(results):
    # Of a, 4 and 5 lie within the span; of b, 2 does, and 0 is as near as 4; of e none does.
    assert [row.frames for row in results.of(ORACLE)] == [
        (3, 4, 5, 6), (0, 1, 2, 3), (0, 1, 2), (1, 4, 7, 10), (8, 9, 10, 11)
    ]  # fmt: skip
    found = results.oracle_agreement("first")
    assert found.frames == Mean(0 + 3 + 3 + 0, 12)
    assert found.answers == Mean(3, 4)
    assert results.oracle_agreement(ORACLE) == (Mean(15, 15), Mean(4, 4))


def test_where_one_way_is_right_and_another_wrong_is_told_by_kind(results):
    found = results.against(ORACLE, UNIFORM)
    assert [mine.id for mine, _ in found.won] == ["a"]
    assert not found.lost
    assert [theirs.id for _, theirs in results.against(UNIFORM, ORACLE).lost] == ["a"]
    counts = found.counts()
    assert counts.columns.tolist() == ["questions", "both right", "only oracle", "only uniform", "both wrong"]
    assert counts.loc["count"].tolist() == [2, 2, 0, 0, 0]
    assert counts.loc["order"].tolist() == [3, 0, 1, 0, 2]
    assert counts.loc["all"].tolist() == [5, 2, 1, 0, 2]
    assert results.against("first").questions().empty


def test_questions_that_choosing_makes_worse_come_first(tmp_path):
    rows = [
        question(f"{kind}{i}", kind=kind, span_s=span) for kind in "yx" for i, span in enumerate([(1, 1.5), (0, 1)])
    ]
    found = evaluate(right_with_evidence, questions_of(tmp_path, rows, counts=COUNTS), ways(), progress=False)
    table = found.against("first", UNIFORM).questions()
    assert table["id"].tolist() == ["x1", "y1"]  # frames 0 and 1: uniform meets neither
    swapped = evaluate(
        right_with_evidence,
        questions_of(tmp_path, [*rows, question("x2", kind="x", span_s=(8.5, 9))], counts=COUNTS),
        ways(),
        progress=False,
    )
    table = swapped.against("first", UNIFORM).questions()
    assert table[["id", "right with"]].values.tolist() == [["x2", UNIFORM], ["x1", "first"], ["y1", "first"]]
    assert table.loc[0, "uniform frames"] == (2, 7, 12, 17)
    assert table.loc[0, ["answer", "uniform predicted", "first predicted"]].tolist() == [0, 0, 1]


def test_results_of_two_halves_add_up_to_those_of_the_whole(tmp_path, results):
    halves = [
        evaluate(right_with_evidence, questions_of(tmp_path / name, rows, counts=COUNTS), ways(), progress=False)
        for name, rows in (("first", ROWS[:2]), ("second", ROWS[2:]))
    ]
    both = halves[0] + halves[1]
    for way in results.ways:
        assert both.accuracy(way) == results.accuracy(way)
        assert both.by_kind(way) == results.by_kind(way)
        assert both.macro(way) == results.macro(way)
        assert both.evidence_recall(way) == results.evidence_recall(way)
        for each, one, other in zip(*(part.evidence_recall(way) for part in (both, *halves)), strict=True):
            assert each == one + other
        for each, one, other in zip(*(part.oracle_agreement(way) for part in (both, *halves)), strict=True):
            assert each == one + other
    with pytest.raises(ValueError, match="question 'a' is in both results"):
        both + halves[0]
    with pytest.raises(ValueError, match="uniform, first, oracle, chance do not add to"):
        halves[0] + Results(tuple(row for row in halves[1].rows if row.way != "first"), {}, {})


def test_a_batchs_size_changes_no_answer(tmp_path):
    torch.manual_seed(1)
    backbone, dataset = SmallBackbone().eval(), questions_of(tmp_path, ROWS, counts=COUNTS)
    one, all_ = (
        evaluate(answering(backbone), dataset, rivals(backbone, select=4, seed=3), batch_size=size, progress=False)
        for size in (1, 5)
    )
    by_name = {(row.id, row.way): row for row in all_.rows}
    assert len(by_name) == 5 * 7
    for row in one.rows:
        other = by_name[row.id, row.way]
        assert (row.frames, row.predicted, row.evidence) == (other.frames, other.predicted, other.evidence)
        assert row.probs == pytest.approx(other.probs)
    assert len(one.of(RANDOM)[2].frames) == 3


def test_without_a_frame_a_backbone_says_what_words_tell_it(tmp_path):
    backbone = SmallBackbone().eval()
    found = evaluate(
        answering(backbone), questions_of(tmp_path, ROWS, counts=COUNTS), rivals(backbone, select=4), progress=False
    )
    assert all(row.frames == () and row.predicted == 0 for row in found.of(NONE))
    assert found.of(NONE)[1].probs == pytest.approx((1 / 3,) * 3)


def test_videos_that_could_not_be_decoded_are_named_and_their_questions_counted(tmp_path):
    rows = [*ROWS, question("f", video="broken"), question("g", video="broken")]
    dataset = questions_of(tmp_path, rows, counts=COUNTS, failed={"broken": "cut off"})
    found = evaluate(right_with_evidence, dataset, ways(), progress=False)
    assert found.failed == {"broken": "cut off"}
    assert found.without_video == {"f": "cut off", "g": "cut off"}
    assert found.accuracy(UNIFORM).count == 5
    more = found + Results((), {"gone": "no file"}, {"h": "no file"})
    assert (set(more.failed), set(more.without_video)) == ({"broken", "gone"}, {"f", "g", "h"})


def test_an_answer_that_is_no_option_is_wrong(tmp_path):
    def released(batch, selection):
        return torch.tensor([0.0, 1.0, 0.0, 0.0, 5.0]).expand(len(batch), -1)

    found = evaluate(released, questions_of(tmp_path, ROWS[2:3], counts=COUNTS), ways(), progress=False)
    assert (found.of(UNIFORM)[0].predicted, found.of(UNIFORM)[0].right) == (4, 0.0)
    assert len(found.of(UNIFORM)[0].probs) == 5


def test_tables_hold_all_ways_and_all_rows(results):
    table = results.table()
    assert table.index.tolist() == list(results.ways)
    assert table.loc[UNIFORM, ["accuracy", "macro", "accuracy count", "evidence met"]].tolist() == [0.4, 0.5, 1.0, 0.5]
    assert table.loc[ORACLE, ["oracle's frames", "oracle's answers"]].tolist() == [1.0, 1.0]
    frame = results.frame()
    assert len(frame) == 20
    assert frame.groupby("way")["right"].mean()[UNIFORM] == 0.4
    assert frame["predicted"].isna().sum() == 5
    assert "macro" in Results(tuple(results.of("first")), {}, {}).table()


@pytest.mark.parametrize("wrong", [torch.nan, -torch.inf])
def test_an_option_without_a_finite_logit_is_named(tmp_path, wrong):
    def broken(batch, selection):
        return right_with_evidence(batch, selection).index_fill(1, torch.tensor([1]), wrong)

    with pytest.raises(ValueError, match="question 'a' has 4 options and needs a finite logit for each"):
        evaluate(broken, questions_of(tmp_path, ROWS, counts=COUNTS), ways(), progress=False)


def test_what_cannot_be_evaluated_or_asked_for_is_refused(tmp_path, results):
    dataset = questions_of(tmp_path / "more", ROWS, counts=COUNTS)
    with pytest.raises(ValueError, match="'chance' is measured anyway"):
        evaluate(right_with_evidence, dataset, {CHANCE: first_frames}, progress=False)
    dataset.mirrored = True
    with pytest.raises(ValueError, match="mirrored at random"):
        evaluate(right_with_evidence, dataset, ways(), progress=False)
    with pytest.raises(ValueError, match="asked for 'prompter' and None"):
        results.accuracy("prompter")
    with pytest.raises(ValueError, match="asked for 'uniform' and 'why'"):
        results.accuracy(UNIFORM, kind="why")
    with pytest.raises(ValueError, match="chance answers no question"):
        results.against("first", CHANCE)
    with pytest.raises(ValueError, match="asked for 'oracle'"):
        Results(tuple(results.of("first")), {}, {}).oracle_agreement("first")


def test_a_prompter_is_a_way_like_others(tmp_path):
    backbone, dataset = SmallBackbone().eval(), questions_of(tmp_path, ROWS, counts=COUNTS)
    prompter = FramePrompter(3, question_dim=3, hidden=8, heads=2).eval()
    found = evaluate(
        answering(backbone),
        dataset,
        {"prompter": prompted(backbone, prompter, select=4)} | rivals(backbone, select=4),
        batch_size=2,
        progress=False,
    )
    batch = dataset.collate([dataset[1]])
    chosen = prompter(batch.glances, backbone.question(backbone.read(batch.prompts)), select=4)
    assert found.of("prompter")[1].frames == tuple(chosen.indices[0].tolist())
    assert [len(row.frames) for row in found.of("prompter")] == [4, 4, 3, 4, 4]
    assert found.against("prompter").counts().loc["all", "questions"] == 5
