"""The table of facts against loops over plain numbers, and what a detection carries of it."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from vkdlab.browse.facts import detection_facts, facts, sources
from vkdlab.data import Dataset, Query, Video
from vkdlab.predictions import Predictions

NAN = float("nan")


def made(truth, *, weights=None, confidence=None, **moments):
    """Answers to one query per true moment, all of one video of 30 s."""
    queries = tuple(Query(f"q{row}", "v", f"sentence {row}", *each) for row, each in enumerate(truth))
    data = Dataset("made", "test", "smoke", {"v": Video("v", None, 30.0)}, queries)
    answers = {name: np.array(each, dtype=float).reshape(-1, 2) for name, each in moments.items()}
    return Predictions("made", data, answers, confidence=confidence or {}, weights=weights or {})


def with_gaps(predictions):
    """The same answers, of which every source left out some, and no teacher answered the last query."""
    moments = {name: values.copy() for name, values in predictions.moments_s.items()}
    for place, (name, values) in enumerate(moments.items()):
        values[place :: len(moments) + 1] = NAN
        if name.startswith("teacher_"):
            values[-1] = NAN
    return replace(predictions, moments_s=moments)


def iou(a, b):
    if any(math.isnan(each) for each in (*a, *b)):
        return NAN
    if tuple(a) == tuple(b):
        return 1.0
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = a[1] - a[0] + b[1] - b[0] - shared
    return shared / union if union > 0 else 0.0


def slowly(predictions):
    """Every fact of every query, one at a time."""
    data, found = predictions.dataset, {}
    for row, query in enumerate(data.queries):
        true = (query.start_s, query.end_s)
        length = true[1] - true[0]
        lengths = [each.end_s - each.start_s for place, each in enumerate(data.queries) if place != row]
        smaller = sum(0.5 if abs(other - length) < 1e-7 else float(other < length) for other in lengths)
        known = {
            "video": query.video,
            "sentence": query.sentence,
            "kind": query.kind,
            "start_s": true[0],
            "end_s": true[1],
            "length_s": length,
            "duration_s": data.videos[query.video].duration_s,
            "length_percentile": 100 * smaller / len(lengths) if lengths else 50.0,
        }
        for source, moments in predictions.moments_s.items():
            start, end = moments[row].tolist()
            shared = max(0.0, min(end, true[1]) - max(start, true[0]))
            known[f"{source}_start_s"], known[f"{source}_end_s"] = start, end
            known[f"{source}_iou"] = iou((start, end), true)
            known[f"{source}_confidence"] = predictions.confidence.get(source, {row: NAN})[row]
            known[f"{source}_start_error_s"] = start - true[0]
            known[f"{source}_end_error_s"] = end - true[1]
            known[f"{source}_length_ratio"] = (end - start) / length
            point = NAN if math.isnan(start) else float(true[0] <= start <= true[1])
            known[f"{source}_inside"] = shared / (end - start) if end > start else point
        teachers = {name: known[f"{name}_iou"] for name in predictions.teachers}
        answered = {name: value for name, value in teachers.items() if not math.isnan(value)}
        best = max(answered, key=answered.get, default=None)
        known["best_teacher"], known["best_teacher_iou"] = best, answered.get(best, NAN)
        agree = [
            iou(predictions.moments_s[a][row], predictions.moments_s[b][row]) for a, b in combinations(answered, 2)
        ]
        known["teachers_agree"] = sum(agree) / len(agree) if agree else NAN
        trust = {name: sum(values[row]) / 2 for name, values in predictions.weights.items()}
        for name, values in predictions.weights.items():
            known[f"{name}_start_weight"], known[f"{name}_end_weight"] = values[row]
        known["trusted_teacher"] = max(trust, key=trust.get)
        known["trusted_teacher_iou"] = teachers[known["trusted_teacher"]]
        found[query.id] = known
    return found


@pytest.mark.parametrize("gaps", [False, True])
def test_every_fact_is_what_a_loop_over_queries_finds(predictions, gaps):
    predictions = with_gaps(predictions) if gaps else predictions
    table, expected = facts(predictions), slowly(predictions)
    assert list(table.index) == list(expected)
    assert set(table.columns) == set(next(iter(expected.values())))
    for query, known in expected.items():
        for name, value in known.items():
            got = table.at[query, name]
            if value is None:
                assert got is None or got != got, (query, name)
            elif isinstance(value, str):
                assert got == value, (query, name)
            else:
                assert got == pytest.approx(value, abs=1e-9, nan_ok=True), (query, name)


def test_an_answer_later_than_the_truth_has_errors_above_0():
    row = facts(made([(10, 20)], student=[(12, 25)])).loc["q0"]
    assert (row.student_start_error_s, row.student_end_error_s) == (2, 5)
    assert row.student_length_ratio == pytest.approx(1.3)
    assert row.student_inside == pytest.approx(8 / 13)
    assert row.student_iou == pytest.approx(8 / 15)


def test_an_answer_of_no_length_is_inside_where_its_second_is():
    table = facts(made([(10, 20)] * 4, student=[(10, 10), (15, 15), (20, 20), (21, 21)]))
    assert table.student_inside.tolist() == [1, 1, 1, 0]
    assert table.student_iou.tolist() == [0, 0, 0, 0]
    assert table.student_length_ratio.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5], [50]),
        ([5, 1], [100, 0]),
        ([3, 3], [50, 50]),
        ([1, 2, 2, 9], [0, 50, 50, 100]),
        ([0.1 + 0.2, 0.3], [50, 50]),
    ],
)
def test_the_percentile_of_a_length_runs_from_0_to_100_and_equal_ones_share_it(lengths, expected):
    table = facts(made([(0, length) for length in lengths]))
    assert table.length_percentile.tolist() == pytest.approx(expected)


def test_without_queries_there_is_a_table_without_rows():
    table = facts(made([], student=[], teacher_a=[], weights={"teacher_a": np.zeros((0, 2))}))
    assert len(table) == 0
    assert {"student_iou", "best_teacher", "trusted_teacher_iou"} <= set(table.columns)
    assert detection_facts(table, "student") == []


def test_nothing_is_told_of_teachers_and_weights_that_there_are_not():
    table = facts(made([(1, 2)], student=[(1, 2)]))
    assert not [name for name in table if "teacher" in name or "weight" in name]
    assert sources(table) == ("student",)
    table = facts(made([(1, 2)], teacher_a=[(1, 2)]))
    assert "trusted_teacher" not in table
    assert math.isnan(table.teachers_agree["q0"]), "one teacher agrees with nobody"


def test_of_equal_teachers_the_first_is_the_best_and_of_equal_weights_the_first_is_trusted():
    half = np.full((1, 2), 0.5)
    moments = {"teacher_b": [(1, 2)], "teacher_a": [(1, 2)]}
    row = facts(made([(1, 2)], **moments, weights={"teacher_b": half, "teacher_a": half})).loc["q0"]
    assert (row.best_teacher, row.trusted_teacher) == ("teacher_b", "teacher_b")
    assert row.teachers_agree == 1


def test_start_and_end_weigh_the_same_in_whom_is_trusted():
    weights = {"teacher_a": np.array([(0.9, 0.1)]), "teacher_b": np.array([(0.1, 0.9 + 1e-6)])}
    row = facts(made([(1, 2)], teacher_a=[(1, 2)], teacher_b=[(5, 6)], weights=weights)).loc["q0"]
    assert (row.trusted_teacher, row.trusted_teacher_iou, row.best_teacher_iou) == ("teacher_b", 0, 1)


def test_the_order_of_teachers_changes_no_number(predictions):
    turned = replace(predictions, moments_s=dict(reversed(predictions.moments_s.items())))
    table, other = facts(predictions), facts(turned)
    for name in ("best_teacher_iou", "teachers_agree", "trusted_teacher_iou"):
        assert other[name].to_numpy() == pytest.approx(table[name].to_numpy())


def test_a_source_whose_facts_would_be_named_like_others_is_refused():
    with pytest.raises(ValueError, match="two facts are named 'best_teacher_iou': give the source another name"):
        facts(made([(1, 2)], best_teacher=[(1, 2)], teacher_a=[(1, 2)]))


def test_a_detection_carries_its_own_facts_without_its_sources_name_and_those_of_its_query(predictions):
    predictions = with_gaps(predictions)
    expected = slowly(predictions)
    table = facts(predictions)
    asked = {
        "kind", "length_s", "length_percentile", "best_teacher", "best_teacher_iou", "teachers_agree",
        "trusted_teacher", "trusted_teacher_iou", "student_iou", "student_start_error_s", "student_end_error_s",
        "student_length_ratio", "student_inside",
    }  # fmt: skip
    own = {"iou", "start_error_s", "end_error_s", "length_ratio", "inside"}
    more = {"gt": set(), "student": own, "label": own, "teacher_deciding": own | {"start_weight", "end_weight"}}
    for source, names in more.items():
        rows = detection_facts(table, source)
        assert len(rows) == len(table)
        for row, known in zip(rows, expected.values(), strict=True):
            assert row.keys() == asked | names
            for name, value in row.items():
                wanted = known[f"{source}_{name}" if name in names else name]
                unknown = isinstance(wanted, float) and math.isnan(wanted)
                if wanted is None or unknown:
                    assert value is None, (source, name)
                else:
                    assert type(value) in (str, float)
                    assert value == (pytest.approx(wanted) if isinstance(wanted, float) else wanted), (source, name)


def test_a_source_that_the_table_does_not_tell_of_is_refused(predictions):
    with pytest.raises(ValueError, match="no source 'student_b', its sources are student, teacher_spanning"):
        detection_facts(facts(predictions), "student_b")
    with pytest.raises(ValueError, match="its sources are none"):
        detection_facts(facts(made([(1, 2)])), "student")
