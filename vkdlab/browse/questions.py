"""What a person asks of teachers and student, as conditions on facts: the same of a table and of FiftyOne (ours).

question = QUESTIONS["cut_short"]
question.rows(facts(predictions))          # query ids, the most telling first
dataset.filter_labels("gt", question.expression())
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from vkdlab.browse import database

if TYPE_CHECKING:
    import pandas as pd
    from fiftyone import ViewExpression

OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Condition:
    """A fact compared with a number or with another fact; it holds of no query of which either is not known.

    Raises:
        ValueError: another way to compare.
    """

    fact: str
    """A column of `vkdlab.browse.facts.facts` that holds numbers."""
    op: str
    """"<", "<=", ">" or ">="."""
    value: float | str
    """A number, or the name of another fact."""

    def __post_init__(self):
        if self.op not in OPERATORS:
            raise ValueError(f"a fact is compared by {', '.join(OPERATORS)}, got {self.op!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        """The facts that it compares."""
        return (self.fact, self.value) if isinstance(self.value, str) else (self.fact,)


@dataclass(frozen=True)
class Question:
    """Conditions that hold together, and which of the queries tell most.

    Raises:
        ValueError: no condition.
    """

    name: str
    """What saved views are called by."""
    asks: str
    """The conditions in words, beginning in lower case."""
    where: tuple[Condition, ...]
    """All of them hold."""
    order: str
    """The fact by which the queries are sorted; equal ones by their ids."""
    descending: bool = False
    """Whether the greatest comes first."""

    def __post_init__(self):
        object.__setattr__(self, "where", tuple(self.where))
        if not self.where:
            raise ValueError(f"the question {self.name!r} has no condition: name at least one")

    @property
    def needs(self) -> tuple[str, ...]:
        """The facts that it asks of, each once."""
        return tuple(dict.fromkeys((*(fact for each in self.where for fact in each.needs), self.order)))

    def rows(self, table: pd.DataFrame) -> list[str]:
        """The queries of which all conditions hold.

        Args:
            table: of `facts`.

        Returns:
            Their ids, the most telling first.

        Raises:
            ValueError: the table does not tell one of the facts, or tells it in words.
        """
        for fact in self.needs:
            if fact not in table:
                raise ValueError(
                    f"the question {self.name!r} asks of {fact!r}, which is not known of these answers; known are "
                    f"{', '.join(table)}"
                )
            if table[fact].dtype.kind not in "iuf":
                raise ValueError(f"the question {self.name!r} asks of {fact!r}, which is text: name a fact in numbers")
        holds = table[self.order].notna()
        for each in self.where:
            value = table[each.value] if isinstance(each.value, str) else each.value
            holds &= OPERATORS[each.op](table[each.fact], value)
        sign = -1 if self.descending else 1
        named = zip((sign * table.loc[holds, self.order]).tolist(), table.index[holds].tolist(), strict=True)
        return [query for _, query in sorted(named)]

    def expression(self) -> ViewExpression:
        """The same conditions on a detection that `to_fiftyone` wrote.

        Raises:
            BrowseUnavailable, BrowseError: see `vkdlab.browse.database`.
        """
        field = database.fiftyone().ViewField
        # To the database, what is not known is smaller than every number.
        parts = [field(fact).is_number() for fact in self.needs]
        for each in self.where:
            value = field(each.value) if isinstance(each.value, str) else each.value
            parts.append(OPERATORS[each.op](field(each.fact), value))
        return reduce(operator.and_, parts)


_ALL = (
    Question(
        name="student_wrong_teacher_right",
        asks="the student is wrong (IoU below 0.5) where a teacher is right",
        where=(Condition("student_iou", "<", 0.5), Condition("best_teacher_iou", ">=", 0.5)),
        order="best_teacher_iou",
        descending=True,
    ),
    Question(
        name="teachers_disagree",
        asks="the teachers disagree (mean IoU of every two below 0.3)",
        where=(Condition("teachers_agree", "<", 0.3),),
        order="teachers_agree",
    ),
    Question(
        name="kau_trusts_the_wrong_teacher",
        asks="the teacher of the greatest weight is wrong (IoU below 0.5) where another is right",
        where=(Condition("trusted_teacher_iou", "<", 0.5), Condition("best_teacher_iou", ">=", 0.5)),
        order="best_teacher_iou",
        descending=True,
    ),
    Question(
        name="cut_short",
        asks="the student cuts the moment short (nine tenths of its answer inside, less than 0.7 of the length)",
        where=(Condition("student_inside", ">=", 0.9), Condition("student_length_ratio", "<", 0.7)),
        order="student_length_ratio",
    ),
    Question(
        name="too_early",
        asks="the student starts and ends too early (IoU below 0.5)",
        where=(
            Condition("student_start_error_s", "<", 0),
            Condition("student_end_error_s", "<", 0),
            Condition("student_iou", "<", 0.5),
        ),
        order="student_end_error_s",
    ),
    Question(
        name="too_late",
        asks="the student starts and ends too late (IoU below 0.5)",
        where=(
            Condition("student_start_error_s", ">", 0),
            Condition("student_end_error_s", ">", 0),
            Condition("student_iou", "<", 0.5),
        ),
        order="student_start_error_s",
        descending=True,
    ),
    Question(
        name="longest",
        asks="the moment is among the longest tenth",
        where=(Condition("length_percentile", ">=", 90),),
        order="length_s",
        descending=True,
    ),
    Question(
        name="shortest",
        asks="the moment is among the shortest tenth",
        where=(Condition("length_percentile", "<=", 10),),
        order="length_s",
    ),
)

QUESTIONS = {question.name: question for question in _ALL}
"""The questions of the saved views, by name."""


def answerable(table: pd.DataFrame) -> list[Question]:
    """Those of `QUESTIONS` whose every fact is known of at least one query, in their order."""
    known = {name for name in table if table[name].notna().any()}
    return [question for question in QUESTIONS.values() if known.issuperset(question.needs)]
