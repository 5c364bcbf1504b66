"""Questions as saved views of a data set in FiftyOne: the videos, and clips that play exactly the moment (ours).

A query is asked of once, of its true moment; the sources' answers to it follow by its id. So every view shows all
answers to the queries it is about and no other, also those of a run that was added later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vkdlab.browse import database
from vkdlab.browse.documents import GROUP, GT, RGB, about, labelled
from vkdlab.browse.facts import STUDENT
from vkdlab.browse.questions import QUESTIONS, Question

if TYPE_CHECKING:
    from fiftyone import Dataset, DatasetView

CLIPS = "{} (clips)"
"""What a view of clips is called by."""


def save_views(dataset: Dataset) -> list[str]:
    """Saves the views of all questions that the data set answers, over those of the same names.

    Of every question `<name>`, its videos, and `<name> (clips)`, its true moments, the most telling first; besides,
    all moments, `gt (clips)`, and all of the student's, `student (clips)`. A view of clips keeps the frames that its
    moments had when it was saved: call it again after moments were corrected.

    Args:
        dataset: of `to_fiftyone`.

    Returns:
        The names, in the order of the questions. None where the data set has no moment.

    Raises:
        ValueError: the data set is not one of `to_fiftyone`.
        BrowseUnavailable, BrowseError: see `vkdlab.browse.database`.
    """
    saved = []

    def save(name: str, view: DatasetView, description: str) -> None:
        dataset.save_view(name, view, description=description, overwrite=True)
        saved.append(name)

    with database.explained():
        known = _known(dataset)
        for question in QUESTIONS.values():
            if known.issuperset(question.needs):
                asks = question.asks[:1].upper() + question.asks[1:]
                save(question.name, videos(dataset, question), f"{asks}: the videos, with these queries alone")
                title = f"{asks}: the true moments, the most telling first"
                save(CLIPS.format(question.name), clips(dataset, question), title)
        all_of = {GT: "Every true moment", STUDENT: "Every moment that the student answers with"}
        for field, description in all_of.items():
            if field in _fields(dataset) and labelled(dataset).count(f"{field}.detections"):
                save(CLIPS.format(field), clips(dataset, field=field), description)
    return saved


def videos(dataset: Dataset, question: Question) -> DatasetView:
    """The videos that have a query of which a question's conditions hold, and in every field these queries alone.

    Of groups, it is the groups, whichever of their slices is looked at.

    Args:
        dataset: of `to_fiftyone`.
        question: whose conditions.

    Raises:
        ValueError: the data set is not one of `to_fiftyone`, or its moments do not tell one of the facts.
        BrowseUnavailable, BrowseError: see `vkdlab.browse.database`.
    """
    field = database.fiftyone().ViewField
    with database.explained():
        _check(dataset, question)
        # Videos are matched first and their labels filtered after, so that the App keeps a group's other slices.
        root = f"groups.{RGB}." if dataset.media_type == GROUP else ""
        asked = dataset.match(field(f"{root}{GT}.detections").filter(question.expression()).length() > 0)
        return _answers(asked, dataset, question)


def clips(dataset: Dataset, question: Question | None = None, *, field: str = GT) -> DatasetView:
    """Clips that play exactly the moments of one field, each with every source's answer to its query.

    Args:
        dataset: of `to_fiftyone`.
        question: whose queries, the most telling first; by default all moments, in the videos' order.
        field: whose moments are played; "gt" or a source.

    Returns:
        A view with a clip per moment. Its `gt`, or `field`, is the moment itself, whose facts it can be sorted by.

    Raises:
        ValueError: the data set is not one of `to_fiftyone`, has no such field, or its moments do not tell one of the
            facts.
        BrowseUnavailable, BrowseError: see `vkdlab.browse.database`.
    """
    fo = database.fiftyone()
    with database.explained():
        fields = _fields(dataset)
        if field not in fields:
            raise ValueError(f"{dataset.name!r} has no moments {field!r}, it has {', '.join(fields)}")
        view = labelled(dataset)
        if question is not None:
            _check(dataset, question)
            view = _answers(view, dataset, question)
        others = [name for name in fields if name != field]
        view = view.to_clips(field, other_fields=["video_id", *others])
        for name in others:
            same = fo.ViewField("query_id") == fo.ViewField(f"${field}.query_id")
            view = view.filter_labels(name, same, only_matches=False)
        if question is None:
            return view
        return view.sort_by([(f"{field}.{question.order}", -1 if question.descending else 1), (f"{field}.query_id", 1)])


def _answers(view: DatasetView, dataset: Dataset, question: Question) -> DatasetView:
    """The labels of a question's queries: the truth by the conditions, every source by the ids that are left of it."""
    fo = database.fiftyone()
    view = view.filter_labels(GT, question.expression(), only_matches=False)
    # FiftyOne's own is_in() takes a list alone, and reads a field without end.
    left = fo.ViewExpression({"$ifNull": [fo.ViewField(f"${GT}.detections.query_id"), []]})
    named = fo.ViewExpression({"$in": [fo.ViewField("query_id"), left]})
    for name in _fields(dataset)[1:]:
        view = view.filter_labels(name, named, only_matches=False)
    return view


def _fields(dataset: Dataset) -> list[str]:
    return [GT, *about(dataset)["sources"]]


def _known(dataset: Dataset) -> set[str]:
    """The facts that at least one true moment tells."""
    asked = list(dict.fromkeys(fact for question in QUESTIONS.values() for fact in question.needs))
    told = [fact for fact in asked if dataset.has_field(f"{GT}.detections.{fact}")]
    fo = database.fiftyone()
    counts = labelled(dataset).aggregate([fo.Count(f"{GT}.detections.{fact}") for fact in told])
    return {fact for fact, count in zip(told, counts, strict=True) if count}


def _check(dataset: Dataset, question: Question) -> None:
    about(dataset)
    for fact in question.needs:
        if not dataset.has_field(f"{GT}.detections.{fact}"):
            raise ValueError(
                f"the question {question.name!r} asks of {fact!r}, which the true moments of {dataset.name!r} do not "
                "tell: ask of the table of facts instead, by question.rows(facts(predictions))"
            )
