"""Answers of several sources to a data set's queries: what they may be, and that a file gives them back."""

import json
import re

import numpy as np
import pytest

from vkdlab.data import load
from vkdlab.predictions import FrameScores, Predictions


@pytest.fixture(scope="module")
def dataset():
    return load("tabletop", "test", profile="smoke", progress=False)


@pytest.fixture(scope="module")
def moments(dataset):
    return np.array([(query.start_s, query.end_s) for query in dataset.queries])


def test_a_file_gives_everything_back_to_the_last_digit(dataset, moments, tmp_path):
    answers = moments + np.random.default_rng(0).random(len(moments))[:, None] / 3
    answers[2] = np.nan
    sure = np.linspace(0, 1, len(moments))
    sure[1] = np.nan
    video = next(iter(dataset.videos))
    scores = {"energy": {video: FrameScores(times_s=[0.1, 0.7], values=[1 / 3, 2])}}
    before = Predictions(
        name="run of mine", dataset=dataset, moments_s={"student": answers, "teacher_span": moments},
        confidence={"student": sure}, weights={"teacher_span": moments * 0 + 1 / 3}, scores=scores,
    )  # fmt: skip
    after = Predictions.load(before.save(tmp_path))
    assert after.name == before.name
    assert after.dataset.fingerprint == dataset.fingerprint
    for kind in ("moments_s", "confidence", "weights"):
        assert list(getattr(after, kind)) == list(getattr(before, kind))
        for name, values in getattr(before, kind).items():
            np.testing.assert_array_equal(getattr(after, kind)[name], values)
    np.testing.assert_array_equal(after.scores["energy"][video].times_s, [0.1, 0.7])
    np.testing.assert_array_equal(after.scores["energy"][video].values, [1 / 3, 2])
    assert after.fingerprint == before.fingerprint


def test_answers_to_some_of_the_videos_find_these_again(dataset, moments, tmp_path):
    part = dataset.of_videos(list(dataset.videos)[:2])
    rows = [row for row, query in enumerate(dataset.queries) if query.video in part.videos]
    before = Predictions(name="part", dataset=part, moments_s={"student": moments[rows]})
    assert Predictions.load(before.save(tmp_path)).dataset.fingerprint == part.fingerprint


def test_no_sources_and_no_queries_are_fine(dataset, tmp_path):
    from dataclasses import replace

    nothing = Predictions(name="videos alone", dataset=replace(dataset, queries=()))
    assert nothing.truth_s.shape == (0, 2)
    assert nothing.teachers == ()
    nothing.save(tmp_path)
    assert Predictions.load(tmp_path, dataset=nothing.dataset).moments_s == {}


def test_another_answer_or_another_label_is_another_fingerprint(dataset, moments):
    from dataclasses import replace

    first = Predictions(name="a", dataset=dataset, moments_s={"student": moments})
    assert Predictions(name="b", dataset=dataset, moments_s={"student": moments}).fingerprint == first.fingerprint
    later = moments + 0.01
    assert Predictions(name="a", dataset=dataset, moments_s={"student": later}).fingerprint != first.fingerprint
    query = replace(dataset.queries[0], sentence="Something else.")
    other = replace(dataset, queries=(query, *dataset.queries[1:]))
    assert Predictions(name="a", dataset=other, moments_s={"student": moments}).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"moments_s": {"Student": None}}, "lower-case letters, digits and _"),
        ({"moments_s": {"gt": None}}, "not 'gt', got 'gt'"),
        ({"moments_s": {"student": [[0, 1]]}}, "moments_s of 'student': expected an array of"),
        ({"confidence": {"student": None}}, "confidence of 'student', which gave no moments"),
        ({"moments_s": {"label": None}, "weights": {"label": None}}, "weights belong to teachers"),
        ({"scores": {"energy": {"nowhere": FrameScores([0], [1])}}}, "score 'energy' of the unknown video 'nowhere'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(dataset, moments, given, message):
    def filled(kind, rows):
        if kind == "scores":
            return rows
        shape = moments[:, 0] if kind == "confidence" else moments
        return {name: shape if values is None else values for name, values in rows.items()}

    with pytest.raises(ValueError, match=re.escape(message)):
        Predictions(name="x", dataset=dataset, **{kind: filled(kind, rows) for kind, rows in given.items()})


@pytest.mark.parametrize("kind", ["confidence", "weights"])
@pytest.mark.parametrize(("value", "told"), [(1.5, "1.5"), (-0.1, "-0.1"), (np.inf, "inf")])
def test_confidence_and_weights_lie_between_0_and_1(dataset, moments, kind, value, told):
    rows = np.full(moments.shape if kind == "weights" else len(moments), 0.5)
    rows[0] = np.nan  # not known
    rows[-1] = 1 + 1e-7  # what single precision leaves
    given = {"moments_s": {"teacher_a": moments}, kind: {"teacher_a": rows}}
    Predictions(name="x", dataset=dataset, **given)
    rows[2] = value
    with pytest.raises(ValueError, match=re.escape(f"{kind} of 'teacher_a' lies between 0 and 1, got {told}")):
        Predictions(name="x", dataset=dataset, **given)


def test_a_moment_that_ends_before_it_starts_is_named(dataset, moments):
    wrong = moments.copy()
    wrong[3] = wrong[3, ::-1]
    with pytest.raises(ValueError, match=f"student: the moment of query '{dataset.queries[3].id}' ends before"):
        Predictions(name="x", dataset=dataset, moments_s={"student": wrong})


@pytest.mark.parametrize(("seconds", "message"), [((1, np.inf), "finite"), ((np.nan, 2), "has one end")])
def test_a_moment_has_two_finite_ends_or_none(dataset, moments, seconds, message):
    wrong = moments.copy()
    wrong[0] = seconds
    with pytest.raises(ValueError, match=message):
        Predictions(name="x", dataset=dataset, moments_s={"student": wrong})


@pytest.mark.parametrize(
    ("times", "values", "message"),
    [
        ([0, 1], [1], "one value per time"),
        ([0, 0], [1, 1], "ascend"),
        ([0, np.nan], [1, 1], "finite"),
        ([0, 1], [1, np.inf], "finite"),
    ],
)
def test_frame_scores_are_finite_and_in_order(times, values, message):
    with pytest.raises(ValueError, match=message):
        FrameScores(times, values)


def test_another_runs_answers_stand_beside_these(dataset, moments):
    sure = np.full(len(moments), 0.5)
    mine = Predictions(name="mine", dataset=dataset, moments_s={"student": moments, "label": moments})
    answers = {"student": moments + 0.1}
    other = Predictions(name="yours", dataset=dataset, moments_s=answers, confidence={"student": sure})
    both = mine.beside(other)
    assert list(both.moments_s) == ["student", "label", "student_b"]
    np.testing.assert_array_equal(both.moments_s["student_b"], moments + 0.1)
    np.testing.assert_array_equal(both.confidence["student_b"], sure)
    assert both.name == "mine beside yours"
    with pytest.raises(ValueError, match="'yours' has no answers of 'label', it has student"):
        mine.beside(other, source="label")
    with pytest.raises(ValueError, match="answers of 'label' already"):
        mine.beside(other, as_="label")
    part = dataset.of_videos(list(dataset.videos)[:1])
    rows = [row for row, query in enumerate(dataset.queries) if query.video in part.videos]
    with pytest.raises(ValueError, match="compare runs on the same data"):
        mine.beside(Predictions(name="part", dataset=part, moments_s={"student": moments[rows]}))


def test_missing_foreign_and_outdated_files_are_told_apart(dataset, moments, tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no predictions at"):
        Predictions.load(tmp_path)
    (tmp_path / "predictions.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds no predictions of format 1"):
        Predictions.load(tmp_path)
    path = Predictions(name="x", dataset=dataset, moments_s={"student": moments}).save(tmp_path)
    content = json.loads(path.read_text())
    content["data"]["fingerprint"] = "0" * 16
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"answers other data: .* Predict again"):
        Predictions.load(tmp_path)
