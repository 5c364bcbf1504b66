"""Questions of the table of facts, against conditions written out as plain code."""

import math
from dataclasses import replace

import pytest

from tests.browse.test_facts import NAN, made, with_gaps
from vkdlab.browse.facts import facts
from vkdlab.browse.questions import QUESTIONS, Condition, Question, answerable

# fmt: off
SLOWLY = {
    "student_wrong_teacher_right": (
        lambda q: q["student_iou"] < 0.5 <= q["best_teacher_iou"], lambda q: -q["best_teacher_iou"]),
    "teachers_disagree": (lambda q: q["teachers_agree"] < 0.3, lambda q: q["teachers_agree"]),
    "kau_trusts_the_wrong_teacher": (
        lambda q: q["trusted_teacher_iou"] < 0.5 <= q["best_teacher_iou"], lambda q: -q["best_teacher_iou"]),
    "cut_short": (
        lambda q: q["student_inside"] >= 0.9 and q["student_length_ratio"] < 0.7, lambda q: q["student_length_ratio"]),
    "too_early": (
        lambda q: q["student_start_s"] < q["start_s"] and q["student_end_s"] < q["end_s"] and q["student_iou"] < 0.5,
        lambda q: q["student_end_s"] - q["end_s"]),
    "too_late": (
        lambda q: q["student_start_s"] > q["start_s"] and q["student_end_s"] > q["end_s"] and q["student_iou"] < 0.5,
        lambda q: q["start_s"] - q["student_start_s"]),
    "longest": (lambda q: q["length_percentile"] >= 90, lambda q: q["start_s"] - q["end_s"]),
    "shortest": (lambda q: q["length_percentile"] <= 10, lambda q: q["end_s"] - q["start_s"]),
}
# fmt: on


def asked_slowly(table):
    """Ids by question: plain conditions, then sorted by what tells most and the id."""
    rows = {query: row._asdict() for query, row in zip(table.index, table.itertuples(index=False), strict=True)}
    named = {}
    for name, (holds, tells) in SLOWLY.items():
        found = [query for query, row in rows.items() if holds(row)]
        named[name] = sorted(found, key=lambda query: (tells(rows[query]), query))
    return named


@pytest.mark.parametrize("gaps", [False, True])
def test_every_question_names_the_queries_that_plain_conditions_name_in_their_order(predictions, gaps):
    table = facts(with_gaps(predictions) if gaps else predictions)
    expected = asked_slowly(table)
    assert {name: question.rows(table) for name, question in QUESTIONS.items()} == expected
    assert sum(map(bool, expected.values())) >= 6, "questions that name nothing show nothing"


def test_every_question_says_what_it_asks_and_no_two_ask_the_same():
    assert all(question.name == name and question.asks[0].islower() for name, question in QUESTIONS.items())
    assert len({question.asks for question in QUESTIONS.values()}) == len(QUESTIONS)


def test_what_is_not_known_is_named_by_no_question():
    table = facts(made([(1, 5), (1, 5)], student=[(NAN, NAN), (8, 9)], teacher_a=[(1, 5)] * 2))
    assert QUESTIONS["student_wrong_teacher_right"].rows(table) == ["q1"]
    for op in ("<", "<=", ">", ">="):
        wide = Condition("student_iou", op, math.inf if "<" in op else -math.inf)
        assert Question("all", "all of them", (wide,), "student_iou").rows(table) == ["q1"]


def test_facts_are_compared_with_each_other_and_the_greatest_come_first_on_demand():
    table = facts(made([(0, 10)] * 3, student=[(0, 4), (0, 9), (0, 5)], teacher_a=[(0, 5)] * 3))
    better = Question("better", "better than a", (Condition("student_iou", ">=", "teacher_a_iou"),), "student_iou")
    assert better.rows(table) == ["q2", "q1"]
    assert replace(better, descending=True).rows(table) == ["q1", "q2"]
    assert better.needs == ("student_iou", "teacher_a_iou")


def test_equal_queries_come_in_the_order_of_their_ids_either_way():
    question = Question("all", "all of them", (Condition("length_s", ">", 0),), "length_s")
    table = facts(made([(0, 2), (1, 3), (0, 5)])).iloc[::-1]
    assert question.rows(table) == ["q0", "q1", "q2"]
    assert replace(question, descending=True).rows(table) == ["q2", "q0", "q1"]


def test_only_questions_of_which_every_fact_is_known_can_be_answered(predictions):
    def names(some):
        return [question.name for question in answerable(facts(some))]

    assert names(predictions) == list(QUESTIONS)
    of_student = ["cut_short", "too_early", "too_late", "longest", "shortest"]
    assert names(made([(1, 2)], student=[(1, 2)])) == of_student
    assert names(made([(1, 2)], student=[(NAN, NAN)])) == ["longest", "shortest"]
    assert names(replace(predictions, weights={})) == [name for name in QUESTIONS if not name.startswith("kau")]
    assert names(made([], student=[])) == []


def test_a_question_of_a_fact_that_is_not_there_or_that_is_text_is_refused():
    table = facts(made([(1, 2)], student=[(1, 2)]))
    with pytest.raises(ValueError, match=r"'teachers_disagree' asks of 'teachers_agree', which is not known .* video"):
        QUESTIONS["teachers_disagree"].rows(table)
    with pytest.raises(ValueError, match="'words' asks of 'sentence', which is text"):
        Question("words", "words", (Condition("length_s", ">", 0),), "sentence").rows(table)


def test_another_comparison_and_no_condition_are_refused():
    with pytest.raises(ValueError, match="compared by <, <=, >, >=, got '=='"):
        Condition("student_iou", "==", 0.5)
    with pytest.raises(ValueError, match="'nothing' has no condition"):
        Question("nothing", "nothing", (), "student_iou")
