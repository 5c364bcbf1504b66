"""A study is measured at once as each way is at each number of frames, and its numbers have fixed names."""

import math

import pytest

from tests.vlap.small_backbone import OPTIONS, questions_of
from tests.vlap.test_student_files import smoke_study
from vkdlab.data.datasets import Question
from vkdlab.metrics import Mean
from vkdlab.vlap import measure
from vkdlab.vlap.evaluate import CHANCE, answering, evaluate
from vkdlab.vlap.latency import KEPT, STAGES, WAYS, Seconds, WayTime
from vkdlab.vlap.measure import Measured, beside_committed, language_alone, measure_study, time_metrics, time_study
from vkdlab.vlap.selectors import (
    ALL,
    LOCALIZER,
    NONE,
    ORACLE,
    PROMPTER,
    RANDOM,
    UNIFORM,
    everything,
    nothing,
    oracle,
    prompted,
    rivals,
    uniform,
)  # fmt: skip
from vkdlab.vlap.study import train_study
from vkdlab.vlap.workshop import BLIND, KNOWING, LANGUAGE, OURS, RELEASED, STUDENTS, TEACHER, UNDISTILLED

KINDS = ("count", "order")
ROWS = [
    Question("a", "long", "where to?", OPTIONS[:4], 0, "order", (2.0, 3.0)),  # frames 4 and 5 of 20
    Question("b", "long", "how often?", OPTIONS[:3], 1, "count", (1.0, 1.5)),  # frame 2
    Question("c", "long", "where to then?", OPTIONS[:2], 1, "order", None),
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    _, runs_dir = smoke_study(tmp_path_factory)
    return train_study(profile="smoke", runs_dir=runs_dir, workers=1, progress=False)


@pytest.fixture(scope="module")
def measured(study):
    return measure_study(study, progress=False)


def right_from_two(batch, selection):
    """Right from two frames or more, wrong from fewer."""
    logits = answering_nothing(batch)
    for i, answer in enumerate(batch.answers.tolist()):
        wrong = (answer + 1) % len(batch.prompts[i].options)
        logits[i, answer if selection.mask[i].sum() > 1 else wrong] = 1.0
    return logits


def answering_nothing(batch):
    most = max(len(prompt.options) for prompt in batch.prompts)
    logits = batch.places.new_full((len(batch), most), -math.inf)
    for i, prompt in enumerate(batch.prompts):
        logits[i, : len(prompt.options)] = 0.0
    return logits


@pytest.fixture
def reckoned(tmp_path):
    """Of an answerer that is right from two frames or more, on three questions about a video of 20 frames."""
    questions = questions_of(tmp_path, ROWS, counts={"long": 20})

    def at(select):
        ways = {
            UNIFORM: lambda batch: uniform(batch.mask, select=select),
            ORACLE: lambda batch: oracle(batch, select=select),
            ALL: lambda batch: everything(batch.mask),
            NONE: lambda batch: nothing(batch.mask),
        }
        return evaluate(right_from_two, questions, ways, progress=False)

    ways = {OURS: lambda batch: uniform(batch.mask, select=2), LANGUAGE: lambda batch: nothing(batch.mask)}
    own = evaluate(right_from_two, questions, ways, progress=False)
    return Measured(2, {1: at(1), 2: at(2)}, own)


def test_each_way_at_each_number_of_frames_is_what_it_is_when_measured_by_itself(study, measured):
    assert tuple(measured.by_count) == (1, 2, 4, 8)  # of 8 frames that are looked at
    for count, results in measured.by_count.items():
        ways = rivals(study.answerer, select=count)
        for name in (OURS, BLIND, UNDISTILLED):
            student = study.students[name].student
            ways[name] = prompted(student.backbone, student.prompter, select=count)
        alone = evaluate(answering(study.answerer), study.sighted.test, ways, progress=False)
        for way in alone.ways:
            assert results.of(way) == alone.of(way), (count, way)


def test_the_released_prompter_is_measured_at_its_own_number_of_frames(measured):
    assert [count for count, results in measured.by_count.items() if RELEASED in results.ways] == [2]
    assert {len(row.frames) for row in measured.common.of(RELEASED)} == {2}


def test_noise_and_chance_are_the_same_every_time(study, measured):
    again = measure_study(study, counts=(), progress=False)
    assert tuple(again.by_count) == (2,)
    assert again.common.of(RELEASED) == measured.common.of(RELEASED)
    assert again.common.of(RANDOM) == measured.common.of(RANDOM)


def test_students_answer_for_themselves_too(study, measured):
    assert measured.own.ways == (*STUDENTS, TEACHER, LANGUAGE, KNOWING, CHANCE)
    student = study.students[BLIND].student
    ways = {BLIND: prompted(student.backbone, student.prompter, select=2)}
    alone = evaluate(answering(student.backbone), study.sighted.test, ways, progress=False)
    assert measured.own.of(BLIND) == alone.of(BLIND)
    assert measured.own.of(CHANCE) == alone.of(CHANCE)


def test_the_localizer_asks_about_a_frame_once_for_all_numbers_of_frames(study, monkeypatch):
    asked = []

    def counted(*args, **kwargs):
        asked.append(args)
        return confidence(*args, **kwargs)

    confidence = measure.confidence
    monkeypatch.setattr(measure, "confidence", counted)
    found = measure_study(study, counts=(1, 4, 8), progress=False)
    assert tuple(found.by_count) == (1, 2, 4, 8)
    assert len(asked) == math.ceil(len(study.splits.test) / 64)


def test_other_questions_can_be_asked_and_numbers_of_frames_begin_at_one(study):
    found = measure_study(study, questions=study.splits.val, counts=(), progress=False)
    assert {row.id for row in found.common.rows} == {row.id for row in study.splits.val.questions}
    with pytest.raises(ValueError, match=r"numbers of frames are at least 1, got \(0, 2\)"):
        measure_study(study, counts=(0, 2))


def test_metrics_have_the_numbers_of_the_results_by_name(reckoned):
    assert reckoned.metrics() == {
        "all frames: accuracy": 1,
        "all frames: accuracy count": 1,
        "all frames: accuracy order": 1,
        "no frames: accuracy": 0,
        "no frames: accuracy count": 0,
        "no frames: accuracy order": 0,
        "chance: accuracy": pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 3),
        "chance: accuracy count": pytest.approx(1 / 3),
        "chance: accuracy order": pytest.approx((1 / 4 + 1 / 2) / 2),
        "uniform, 1 frames: accuracy": 0,
        "uniform, 1 frames: accuracy count": 0,
        "uniform, 1 frames: accuracy order": 0,
        "uniform, 1 frames: evidence met": 0,  # frame 10
        "uniform, 1 frames: oracle's frames": 0,
        "oracle, 1 frames: accuracy": 0,
        "oracle, 1 frames: accuracy count": 0,
        "oracle, 1 frames: accuracy order": 0,
        "oracle, 1 frames: evidence met": 1,
        "oracle, 1 frames: oracle's frames": 1,
        "uniform, 2 frames: accuracy": 1,
        "uniform, 2 frames: accuracy count": 1,
        "uniform, 2 frames: accuracy order": 1,
        "uniform, 2 frames: evidence met": 0.5,  # frames 5 and 15
        "uniform, 2 frames: oracle's frames": 0.25,  # of a, where the oracle has 4 and 5
        "oracle, 2 frames: accuracy": 1,
        "oracle, 2 frames: accuracy count": 1,
        "oracle, 2 frames: accuracy order": 1,
        "oracle, 2 frames: evidence met": 1,
        "oracle, 2 frames: oracle's frames": 1,
        "prompter with its own answerer: accuracy": 1,
        "prompter with its own answerer: accuracy count": 1,
        "prompter with its own answerer: accuracy order": 1,
        "language alone: accuracy": 0,
        "language alone: accuracy count": 0,
        "language alone: accuracy order": 0,
    }


def test_what_was_measured_on_no_question_is_left_out(tmp_path):
    rows = [Question("a", "long", "where to?", OPTIONS[:4], 0, "", None)]
    questions = questions_of(tmp_path, rows, counts={"long": 20})
    ways = {
        UNIFORM: lambda batch: uniform(batch.mask, select=1),
        ORACLE: lambda batch: oracle(batch, select=1),
        ALL: lambda batch: everything(batch.mask),
        NONE: lambda batch: nothing(batch.mask),
    }
    results = evaluate(right_from_two, questions, ways, progress=False)
    found = Measured(1, {1: results}, results).metrics()
    assert not any(name.endswith((": accuracy ", "evidence met", "oracle's frames")) for name in found)
    assert found["uniform, 1 frames: accuracy"] == 0


def test_a_smoke_study_has_all_the_names_that_evidence_is_made_of(measured):
    names = measured.metrics().keys()
    for way in (UNIFORM, RANDOM, ORACLE, LOCALIZER, OURS, BLIND, UNDISTILLED):
        assert {
            f"{way}, {count} frames: {what}" for count in (1, 2, 4, 8) for what in ("accuracy", "evidence met")
        } <= names
    for way in (UNIFORM, LOCALIZER, *STUDENTS):
        assert {
            f"{way}, 2 frames: accuracy",
            f"{way}, 2 frames: evidence met",
            f"{way}, 2 frames: oracle's frames",
        } <= names
        assert f"{way}, 2 frames: accuracy count" in names
    assert {f"{name} with its own answerer: accuracy" for name in STUDENTS} <= names
    assert {"all frames: accuracy", "no frames: accuracy count", "chance: accuracy"} <= names
    assert {"teacher on all frames: accuracy", "language alone: accuracy count"} <= names


def test_answers_about_files_are_timed_at_each_number_of_frames(study):
    times = time_study(study, counts=(1,), questions=2, repeats=2)
    assert {count: tuple(each) for count, each in times.items()} == {1: WAYS, 2: WAYS}
    assert {len(each.total.times_s) for by_way in times.values() for each in by_way.values()} == {2 * 2}
    assert times[1][PROMPTER].kept.value == 1
    assert times[1][PROMPTER].decoded.value == 8


def test_times_become_milliseconds_and_ratios():
    def timed(*seconds):
        stages = {stage: Seconds(tuple(each / 10 for each in seconds)) for stage in STAGES}
        return WayTime(Seconds(seconds), stages, Mean(), Mean())

    times = {ALL: timed(0.4, 0.6, 0.9), PROMPTER: timed(0.2, 0.2, 0.3), KEPT: timed(0.1, 0.1, 0.1)}
    found = time_metrics(times)
    assert found["all frames: ms"] == pytest.approx(600)
    assert found["prompter, kept thumbnails: ms, see"] == pytest.approx(10)
    assert {name: value for name, value in found.items() if "faster" in name} == pytest.approx(
        {"prompter faster than all frames": 3, "prompter, kept thumbnails faster than all frames": 6}
    )
    assert len(found) == 3 * (1 + len(STAGES)) + 2


def test_language_is_held_against_chance_by_kind(reckoned):
    found = language_alone(reckoned.own)
    assert [*found.index] == [*KINDS, "all"]
    assert found.loc["count"].to_dict() == pytest.approx(
        {"questions": 1, "language alone": 0, "chance": 100 / 3, "points above chance": -100 / 3,
         "who guesses: ±": 196 * (2 / 9) ** 0.5}
    )  # fmt: skip
    assert found.loc["all", "questions"] == 3


def test_this_run_stands_beside_committed_ones():
    metrics = {
        "all frames: accuracy": 0.7, "all frames: accuracy count": 0.1, "uniform, 2 frames: accuracy": 0.5,
        "uniform, 4 frames: accuracy": 0.6, "uniform, 4 frames: evidence met": 0.9,
        "prompter with its own answerer: accuracy": 0.65, "prompter: ms": 30.0, "prompter faster than all frames": 3.0,
    }  # fmt: skip
    runs = [{"metrics": {"all frames: accuracy": share}} for share in (0.7, 0.72, 0.74)]
    found = beside_committed(metrics, select=4, committed=runs)
    assert found["this run"].to_dict() == {
        "all frames: accuracy (%)": "70.0",
        "uniform, 4 frames: accuracy (%)": "60.0",
        "prompter with its own answerer: accuracy (%)": "65.0",
        "prompter faster than all frames (times)": "3.0",
    }
    assert found["committed runs"].tolist() == ["72.0 ± 5.0", "–", "–", "–"]
    assert set(beside_committed(metrics, select=4, committed=[])["committed runs"]) == {"–"}
