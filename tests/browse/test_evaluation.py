"""Our numbers and FiftyOne's beside them, held against slow sums and FiftyOne's ordinary way; and what lies between."""

import math
from dataclasses import replace

import numpy as np
import pytest

from vkdlab.browse.evaluation import IOU, OURS, RUN, SWEEP, THEIRS, difference, difference_figure, evaluate
from vkdlab.browse.from_fiftyone import from_fiftyone, rescore
from vkdlab.browse.to_fiftyone import to_fiftyone
from vkdlab.data import Dataset, Query, Video, load, write_video
from vkdlab.predictions import Predictions

MARKS = ("", "_id", "_iou")


@pytest.fixture(scope="module")
def videos():
    world = load("tabletop", "test", profile="smoke", progress=False)
    return list(world.videos.values())


def answers(videos: list[Video], *, seed: int = 0, queries: int = 40, sentences: int = 7) -> Predictions:
    """Answers by chance to few different sentences, some of them missing, some equally sure, some exact."""
    rng = np.random.default_rng(seed)
    asked, moments = [], []
    for number in range(queries):
        video = videos[rng.integers(len(videos))]
        start_s, end_s = truth = np.sort(rng.uniform(0, video.duration_s, 2))
        asked.append(Query(f"q{number}", video.id, f"sentence {rng.integers(sentences)}", start_s, end_s))
        moved = np.sort(np.clip(truth + rng.normal(scale=0.7, size=2), 0, video.duration_s))
        moments.append(moved if rng.uniform() > 0.2 else truth)
    moments = np.array(moments)
    moments[rng.uniform(size=queries) < 0.1] = np.nan
    return Predictions(
        name="some",
        dataset=Dataset("some", "test", "full", {video.id: video for video in videos}, tuple(asked)),
        moments_s={"student": moments, "teacher_a": moments * 0.9},
        confidence={"student": rng.integers(0, 5, queries) / 4, "teacher_a": rng.uniform(size=queries)},
    )


def overlap(a, b) -> float:
    union = max(a[1], b[1]) - min(a[0], b[0])
    both = min(a[1], b[1]) - max(a[0], b[0])
    return max(both, 0) / union if union else 1.0


def by_hand(predictions: Predictions, source: str) -> dict[str, float]:
    overlaps = [
        overlap(answer, (query.start_s, query.end_s)) if np.isfinite(answer).all() else 0
        for query, answer in zip(predictions.dataset.queries, predictions.moments_s[source], strict=True)
    ]
    count = len(overlaps)
    found = {f"R1@{least}": sum(each >= least for each in overlaps) / count for least in (0.3, 0.5, 0.7)}
    return found | {"mIoU": sum(overlaps) / count}


def the_ordinary_way(dataset, source: str, *, key: str | None = None) -> tuple[float, float]:
    results = dataset.evaluate_detections(source, gt_field="gt", eval_key=key, compute_mAP=True, progress=False)
    at_half = results.classwise_AP[list(results.iou_threshs).index(0.5)]
    return at_half[at_half > -1].mean(), results.mAP()


@pytest.mark.parametrize("seed", range(2))
def test_ours_are_the_sums_by_hand_and_theirs_what_fiftyone_reports_itself(fo, name, videos, seed):
    predictions = answers(videos, seed=seed)
    dataset = to_fiftyone(predictions, name=name, progress=False)
    found = evaluate(dataset, progress=False)
    assert list(found.columns) == [*OURS, *THEIRS]
    assert list(found.index) == ["student", "teacher_a"]
    for source in found.index:
        assert found.loc[source, list(OURS)].to_dict() == pytest.approx(by_hand(predictions, source))
        assert tuple(found.loc[source, list(THEIRS)]) == pytest.approx(the_ordinary_way(dataset, source), abs=1e-12)


def test_moments_and_videos_bear_the_marks_that_fiftyone_gives_them_itself(fo, name, videos):
    dataset = to_fiftyone(answers(videos), name=name, progress=False)
    evaluate(dataset, sources=["student"], progress=False)
    the_ordinary_way(dataset, "student", key="ordinary")
    for field in ("gt", "student"):
        for mark in MARKS:
            ours, theirs = (dataset.values(f"{field}.detections.{key}{mark}") for key in ("eval_student", "ordinary"))
            assert ours == theirs
            assert any(each for row in ours for each in row)
    for end in ("tp", "fp", "fn"):
        assert dataset.values(f"eval_student_{end}") == dataset.values(f"ordinary_{end}")
    assert dataset.get_field("student.detections.eval_student") is not None
    results, ordinary = (dataset.load_evaluation_results(key) for key in ("eval_student", "ordinary"))
    assert results.report() == ordinary.report()
    false = dataset.filter_labels("student", fo.ViewField("eval_student") == "fp")
    assert 0 < false.count("student.detections") == sum(dataset.values("ordinary_fp"))


@pytest.mark.parametrize("seed", range(3))
def test_the_last_steps_are_fiftyones_numbers_and_the_first_is_ours(fo, name, videos, seed):
    predictions = answers(videos, seed=seed, sentences=(2, 7, 40)[seed])
    dataset = to_fiftyone(predictions, name=name, progress=False)
    steps = difference(dataset)
    value = steps["value"].to_list()
    assert len(steps) == 7
    assert value[0] == pytest.approx(by_hand(predictions, "student")["R1@0.5"])
    assert value[-2:] == pytest.approx(the_ordinary_way(dataset, "student"), abs=1e-12)
    assert steps["change"].to_list() == pytest.approx([0, *np.diff(value)])
    assert steps["why"].str.len().min() > 20


@pytest.fixture
def known(tmp_path) -> Predictions:
    """One answer changes at each step, in videos of 10 frames, one a second."""
    write_video(tmp_path / "ten.mp4", np.zeros((10, 48, 64, 3), np.uint8), fps=1)
    rows = [
        # video, sentence, truth, answer, confidence
        ("a", "rounds up", (2.0, 4.0), (3.05, 4.0), 0.9),  # 0.475 in seconds; frames 3-4 and 4: 0.5; 0 without the last
        ("a", "twice", (0.0, 4.0), (5.0, 9.0), 0.8),  # the answers are the wrong way round
        ("a", "twice", (5.0, 9.0), (0.0, 4.0), 0.7),
        ("a", "often", (0.0, 9.0), (0.0, 8.0), 0.6),
        ("b", "often", (0.0, 9.0), (0.0, 1.0), 0.7),  # wrong, and surer than the right ones
        ("c", "often", (0.0, 9.0), (0.0, 8.0), 0.5),
        ("c", "never", (0.0, 9.0), (math.nan, math.nan), math.nan),
    ]
    queries = [Query(f"q{i}", row[0], row[1], *row[2]) for i, row in enumerate(rows)]
    data = Dataset(
        "ten", "all", "full", {each: Video(each, tmp_path / "ten.mp4", 10.0) for each in "abc"}, tuple(queries)
    )
    return Predictions(
        name="ten",
        dataset=data,
        moments_s={"student": np.array([row[3] for row in rows])},
        confidence={"student": np.array([row[4] for row in rows])},
    )


def test_every_step_changes_what_it_says(fo, name, known):
    steps = difference(to_fiftyone(known, name=name, progress=False))
    # IoU without the last frame: frames 1-9 and 1-8, 7/8; 1-4 and itself, 1; so "often" is found up to 0.85.
    often = {True: 2 / 3 * 2 / 3, False: 0}
    sweep = [(0 + 1 + often[least <= 7 / 8] + 0) / 4 for least in SWEEP]
    expected = [2 / 7, 3 / 7, 2 / 7, 4 / 7, (0 + 1 + 2 / 3 + 0) / 4, (0 + 1 + often[True] + 0) / 4, sum(sweep) / 10]
    assert steps["value"].to_list() == pytest.approx(expected)


def test_numbers_are_kept_in_the_data_set_and_as_a_run_and_may_come_source_by_source(fo, name, videos):
    dataset = to_fiftyone(answers(videos), name=name, progress=False)
    first = evaluate(dataset, sources=["teacher_a"], progress=False)
    assert list(first.index) == list(dataset.info["vkdlab"]["metrics"]) == ["teacher_a"]
    second = evaluate(dataset, sources=["student"], progress=False)
    dataset = fo.load_dataset(name)
    dataset.reload()
    for kept in (dataset.info["vkdlab"]["metrics"], dataset.load_run_results(RUN).metrics):
        assert kept == {"teacher_a": first.loc["teacher_a"].to_dict(), "student": second.loc["student"].to_dict()}
    assert sorted(dataset.list_evaluations()) == ["eval_student", "eval_teacher_a"]


def test_evaluating_changes_no_moment_and_can_be_repeated(fo, name, videos):
    predictions = answers(videos)
    dataset = to_fiftyone(predictions, name=name, progress=False)
    first = evaluate(dataset, progress=False)
    assert from_fiftyone(dataset).fingerprint == predictions.dataset.fingerprint
    assert evaluate(dataset, progress=False).equals(first)
    assert to_fiftyone(predictions, name=name, progress=False).name == name


def test_renderings_beside_the_videos_change_no_number(fo, name, videos):
    predictions = answers(videos)
    plain = evaluate(to_fiftyone(predictions, name=name, progress=False), progress=False)
    flow = {video.id: video.path for video in videos}
    grouped = to_fiftyone(predictions, name=f"{name}_grouped", renderings={"flow": flow}, progress=False)
    assert evaluate(grouped, progress=False).equals(plain)
    assert grouped.media_type == "group"
    assert grouped.select_group_slices("rgb").count_values("student.detections.eval_student")["tp"] > 0
    assert difference(grouped)["value"].iloc[-1] == pytest.approx(plain.loc["student", "mAP"])


def test_corrections_count(fo, name, known):
    dataset = to_fiftyone(known, name=name, progress=False)
    before = evaluate(dataset, progress=False).loc["student"]
    sample = dataset.match(fo.ViewField("video_id") == "a").first()
    moments = {each.query_id: each for each in sample["gt"].detections}
    moments["q0"].start_s, moments["q0"].end_s = 3.05, 4.0  # as it was answered
    moments["q1"].label = "once"
    sample["gt"].detections = [each for each in sample["gt"].detections if each.query_id != "q3"]
    sample.save()
    after = evaluate(dataset, progress=False).loc["student"]
    assert before["R1@0.5"] == pytest.approx(2 / 7)
    assert after["R1@0.5"] == pytest.approx(2 / 6)
    assert tuple(after[list(THEIRS)]) == pytest.approx(the_ordinary_way(dataset, "student"))
    assert difference(dataset)["value"].iloc[-2:].to_list() == pytest.approx(after[list(THEIRS)].to_list())
    rescore(dataset)
    scored = evaluate(dataset, progress=False).loc["student"]
    assert scored["R1@0.5"] == after["R1@0.5"]
    assert tuple(scored[list(THEIRS)]) == pytest.approx(the_ordinary_way(dataset, "student"))


@pytest.mark.parametrize("sure", [{}, {"student": np.array([0.5, math.nan, 0.2, 0.1, 0.3, 0.4, 0.6])}])
def test_without_confidence_fiftyone_has_no_number_and_ours_and_its_marks_stay(fo, name, known, sure):
    dataset = to_fiftyone(replace(known, confidence=sure), name=name, progress=False)
    found = evaluate(dataset, progress=False).loc["student"]
    assert found["R1@0.5"] == pytest.approx(2 / 7)
    assert found[list(THEIRS)].isna().all()
    assert dataset.info["vkdlab"]["metrics"]["student"]["mAP"] is None
    assert "tp" in dataset.count_values("student.detections.eval_student")
    with pytest.raises(
        ValueError, match=r"^answers of 'student' have no confidence, without which FiftyOne.*Predictions"
    ):
        difference(dataset)


def test_perfect_answers_are_perfect_by_both(fo, name, videos):
    predictions = answers(videos)
    perfect = replace(predictions, moments_s={"student": predictions.truth_s}, confidence={"student": np.ones(40)})
    assert (evaluate(to_fiftyone(perfect, name=name, progress=False), progress=False) == 1).all(axis=None)


def test_without_a_query_there_is_no_number(fo, name, known):
    empty = Predictions(
        name="empty",
        dataset=replace(known.dataset, queries=()),
        moments_s={"student": np.empty((0, 2))},
        confidence={"student": np.empty(0)},
    )
    dataset = to_fiftyone(empty, name=name, progress=False)
    assert evaluate(dataset, progress=False).loc["student"].isna().all()
    with pytest.raises(ValueError, match="has no true moments: there is nothing to compare answers with"):
        difference(dataset)


def test_answers_to_nothing_but_deleted_queries_are_no_number(fo, name, known):
    dataset = to_fiftyone(known, name=name, progress=False)
    for sample in dataset:
        sample["gt"].detections = []
        sample.save()
    assert evaluate(dataset, progress=False).loc["student"].isna().all()


def test_an_unknown_source_is_told_with_those_that_there_are(fo, name, videos):
    dataset = to_fiftyone(answers(videos), name=name, progress=False)
    expected = f"^'{name}' has no source 'teacher_z', it has student, teacher_a$"
    with pytest.raises(ValueError, match=expected):
        evaluate(dataset, sources=["student", "teacher_z"])
    with pytest.raises(ValueError, match=expected):
        difference(dataset, "teacher_z")
    assert dataset.list_evaluations() == []


def test_a_strange_data_set_is_refused(fo, name):
    with pytest.raises(ValueError, match=f"the data set '{name}' holds no answers of vkdlab"):
        evaluate(fo.Dataset(name))


def test_the_figure_says_both_numbers_and_every_step(fo, name, known):
    steps = difference(to_fiftyone(known, name=name, progress=False))
    figure = difference_figure(steps, name="the student")
    (bars,) = figure.data
    assert list(bars.y) == [*steps["step"], "FiftyOne's mAP"]
    assert np.cumsum(bars.x[:-1]).tolist() == pytest.approx((100 * steps["value"]).to_list())
    assert bars.text[0] == f"{100 * 2 / 7:.1f} %"
    assert bars.text[3] == f"+{100 * 2 / 7:.1f}"
    assert bars.text[2] == f"−{100 / 7:.1f}"
    assert f"R1@{IOU} of 28.6 %" in figure.layout.title.text
    assert f"mAP of {100 * steps['value'].iloc[-1]:.1f} %" in figure.layout.title.text
