"""The best teacher and the better run are those that a plain loop over the moments names."""

from dataclasses import replace

import numpy as np
import pytest

from vkdlab.browse.comparison import BEST, BETTER, SAME, WORSE, compare_runs, only, tag_best_teacher
from vkdlab.browse.documents import labelled
from vkdlab.browse.selection import queries_in
from vkdlab.browse.to_fiftyone import to_fiftyone
from vkdlab.predictions import Predictions

UNANSWERED = 4
STUDENT_T_19 = 2.0930240544  # 97.5 % quantile with 19 degrees of freedom, from a printed table


@pytest.fixture(scope="module")
def answers(predictions) -> Predictions:
    """Answers of which the student and a teacher owe one."""
    moments = {source: values.copy() for source, values in predictions.moments_s.items()}
    for source in ("student", "teacher_spanning"):
        moments[source][UNANSWERED] = np.nan
    return replace(predictions, moments_s=moments)


@pytest.fixture
def shown(answers, name):
    """The answers in FiftyOne."""
    return to_fiftyone(answers, name=name, progress=False)


def _iou(answers, source) -> dict[str, float]:
    """IoU of every query, one by one; 0 where no answer was given."""
    found = {}
    for query, (start, end) in zip(answers.dataset.queries, answers.moments_s[source].tolist(), strict=True):
        shared = max(0.0, min(end, query.end_s) - max(start, query.start_s)) if start == start else 0.0
        found[query.id] = shared / ((end - start) + (query.end_s - query.start_s) - shared) if shared else 0.0
    return found


def _tagged(dataset, field, tag) -> set[str]:
    return {
        detection.query_id
        for sample in labelled(dataset)
        for detection in sample[field].detections
        if tag in detection.tags
    }


def _best(answers) -> dict[str, set[str]]:
    iou = {teacher: _iou(answers, teacher) for teacher in answers.teachers}
    best = {teacher: set() for teacher in answers.teachers}
    for query in answers.dataset.queries:
        greatest = max(iou[teacher][query.id] for teacher in answers.teachers)
        if greatest > 0:
            best[next(teacher for teacher in answers.teachers if iou[teacher][query.id] == greatest)].add(query.id)
    return best


def test_the_best_teacher_of_every_query_is_tagged(shown, answers):
    best = _best(answers)
    assert tag_best_teacher(shown) == {teacher: len(queries) for teacher, queries in best.items()}
    for teacher, queries in best.items():
        assert _tagged(shown, teacher, BEST) == queries
    assert not _tagged(shown, "student", BEST)
    assert len([queries for queries in best.values() if queries]) > 1, "the case is no test of a choice"


def test_tagging_again_changes_the_chosen_queries_alone_and_keeps_other_tags(shown, answers):
    teacher = answers.teachers[0]
    sample = shown.first()
    everything = shown.select_fields(teacher)
    everything.tag_labels(["mine", BEST], label_fields=teacher)
    tag_best_teacher(shown, selected=[sample.id])
    here = set(queries_in(shown, selected=[sample.id]))
    elsewhere = set(queries_in(shown)) & _tagged(shown, teacher, "mine") - here
    assert _tagged(shown, teacher, BEST) == elsewhere | (_best(answers)[teacher] & here)
    assert len(_tagged(shown, teacher, "mine")) == len(answers.dataset.queries) - 1
    before = shown.values(f"{teacher}.detections.tags")
    tag_best_teacher(shown, selected=[sample.id])
    assert shown.values(f"{teacher}.detections.tags") == before, "twice is as once"


def test_no_teacher_is_best_where_none_overlaps_the_truth(answers, name, fo):
    far = np.array([(0.0, min(query.start_s, 1e-3)) for query in answers.dataset.queries])
    shown = to_fiftyone(
        replace(answers, moments_s={"teacher_far": far}, confidence={}, weights={}), name=name, progress=False
    )
    assert tag_best_teacher(shown) == {"teacher_far": 0}
    assert not _tagged(shown, "teacher_far", BEST)


def test_of_equal_teachers_the_first_is_best(answers, name, fo):
    truth = answers.truth_s
    twins = {"teacher_b": truth, "teacher_a": truth}
    shown = to_fiftyone(replace(answers, moments_s=twins, confidence={}, weights={}), name=name, progress=False)
    assert tag_best_teacher(shown) == {"teacher_b": len(truth), "teacher_a": 0}


def test_without_teachers_there_is_no_best_one(answers, name, fo):
    student = {"student": answers.moments_s["student"]}
    shown = to_fiftyone(replace(answers, moments_s=student, confidence={}, weights={}), name=name, progress=False)
    with pytest.raises(ValueError, match="holds no teacher's answers: there is no best one to tag"):
        tag_best_teacher(shown)


def test_two_runs_are_compared_query_by_query(shown, answers):
    mine, theirs = _iou(answers, "student"), _iou(answers, "teacher_proposing")
    better = {query for query in mine if mine[query] >= 0.7 > theirs[query]}
    worse = {query for query in mine if mine[query] < 0.7 <= theirs[query]}
    found = compare_runs(shown, source="student", reference="teacher_proposing", threshold=0.7)
    count = len(mine)
    assert (found.better, found.worse, found.same) == (len(better), len(worse), count - len(better) - len(worse))
    assert found.recall == pytest.approx(sum(iou >= 0.7 for iou in mine.values()) / count)
    assert found.reference_recall == pytest.approx(sum(iou >= 0.7 for iou in theirs.values()) / count)
    gaps = np.array([mine[query] - theirs[query] for query in mine])
    half = STUDENT_T_19 * gaps.std(ddof=1) / count**0.5
    assert count == 20
    assert found.difference.mean == pytest.approx(gaps.mean())
    assert (found.difference.low, found.difference.high) == pytest.approx((gaps.mean() - half, gaps.mean() + half))
    answered = {query.id for row, query in enumerate(answers.dataset.queries) if row != UNANSWERED}
    assert _tagged(shown, "student", BETTER) == better
    assert _tagged(shown, "student", WORSE) == worse & answered
    assert _tagged(shown, "student", SAME) == answered - better - worse
    assert not _tagged(shown, "teacher_proposing", SAME)
    assert better, "the case is no test of a difference"
    assert worse, "the case is no test of a difference"


def test_the_saved_views_hold_the_better_and_the_worse_queries_and_no_others(shown, answers):
    mine, theirs = _iou(answers, "student"), _iou(answers, "teacher_deciding")
    found = compare_runs(shown, source="student", reference="teacher_deciding")
    assert found.views == (
        "student better than teacher_deciding (IoU 0.5)",
        "student worse than teacher_deciding (IoU 0.5)",
    )
    for view, expected in (
        (found.views[0], {query for query in mine if mine[query] >= 0.5 > theirs[query]}),
        (found.views[1], {query for query in mine if mine[query] < 0.5 <= theirs[query]}),
    ):
        view = shown.load_saved_view(view)
        assert set(queries_in(view)) == expected
        for field in ("gt", "label"):
            assert set(view.values(f"{field}.detections.query_id", unwind=True)) == expected
        videos = {query.video for query in answers.dataset.queries if query.id in expected}
        assert set(view.values("video_id")) == videos
    words = {view["name"]: view["description"] for view in map(shown.get_saved_view_info, found.views)}
    assert words[found.views[0]] == (
        f"the {found.better} of 20 queries on which student is better than teacher_deciding"
    )


def test_a_second_comparison_replaces_the_tags_and_views_of_the_first(shown):
    compare_runs(shown, source="student", reference="teacher_deciding")
    compare_runs(shown, source="student", reference="teacher_spanning")
    again = compare_runs(shown, source="student", reference="teacher_spanning")
    tagged = [_tagged(shown, "student", tag) for tag in (BETTER, WORSE, SAME)]
    assert sum(map(len, tagged)) == 19
    assert len(tagged[0]) == again.better
    assert len(shown.list_saved_views()) == 4


def test_a_comparison_of_what_is_selected_says_nothing_of_the_rest(shown):
    sample = shown.first()
    found = compare_runs(shown, source="student", reference="label", selected=[sample.id])
    here = queries_in(shown, selected=[sample.id])
    assert found.difference.count == len(here)
    assert (found.chosen, found.of) == (True, 20)
    assert str(found).endswith(
        f". These {len(here)} queries were chosen from 20: what holds for them proves nothing about all"
    )
    assert set().union(*(_tagged(shown, "student", tag) for tag in (BETTER, WORSE, SAME))) <= set(here)


def test_a_comparison_is_told_in_words(shown):
    found = compare_runs(shown, source="label", reference="student")
    assert str(found).startswith(
        f"label against student, right from IoU 0.5: better on {found.better}, worse on {found.worse}, "
        f"same on {found.same} of 20 queries (R1 {found.recall:.1%} against {found.reference_recall:.1%}). Mean IoU"
    )
    assert "95 % interval" in str(found)
    assert not found.chosen
    assert "chosen" not in str(found)
    every = compare_runs(shown, source="label", reference="student", selected=shown.values("id"))
    assert not every.chosen, "all of them are no choice"
    label = shown.first().label.detections[0]
    one = compare_runs(shown, source="label", reference="student", selected_labels=[{"label_id": label.id}])
    assert one.difference.count == 1
    assert "interval" not in str(one).partition("These")[0], "one query says nothing of the spread"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source": "studnet"}, "has no source 'studnet', its sources are student, "),
        ({"reference": "gt"}, "has no source 'gt'"),
        ({"reference": "student"}, "'student' compared with itself is the same everywhere: choose two sources"),
        ({"threshold": 0.0}, "lies above 0 and is at most 1, got 0"),
        ({"threshold": 1.5}, "lies above 0 and is at most 1, got 1.5"),
        ({"threshold": float("nan")}, "lies above 0 and is at most 1, got nan"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(shown, given, message):
    with pytest.raises(ValueError, match=message):
        compare_runs(shown, **{"source": "student", "reference": "label", "threshold": 0.5} | given)
    assert not shown.list_saved_views()


def test_nothing_chosen_is_nothing_to_compare(shown, fo):
    empty = shown.filter_labels("student", fo.ViewField("iou") > 2)
    with pytest.raises(ValueError, match="what is chosen holds no moment"):
        compare_runs(empty, source="student", reference="label")
    with pytest.raises(ValueError, match="what is chosen holds no moment"):
        tag_best_teacher(empty)


def test_only_shows_some_queries_in_every_field(shown, answers):
    some = [answers.dataset.queries[row].id for row in (0, 2, 7)]
    view = only(shown, some)
    for field in ("gt", *answers.moments_s):
        assert set(view.values(f"{field}.detections.query_id", unwind=True)) == set(some)
