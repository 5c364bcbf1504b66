"""Which teacher was right, and which of two sources: tags on the moments that show it in the App (ours).

What is tagged is found by its tag in the App's sidebar. Every number is of exact seconds (`vkdlab.browse.facts`), with
an answer that was not given as IoU 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vkdlab.browse import database
from vkdlab.browse.documents import GT, about, labelled
from vkdlab.browse.selection import at_least_one, facts_of, queries_in
from vkdlab.metrics import Interval, paired_interval

if TYPE_CHECKING:
    import fiftyone

BEST = "best_teacher"
BETTER, WORSE, SAME = "better", "worse", "same"


@dataclass(frozen=True)
class Comparison:
    """How the answers of one source compare with those of another."""

    source: str
    """Whose answers are judged and tagged."""
    reference: str
    """Whose answers they are compared with."""
    threshold: float
    """IoU from which an answer is right, 0 to 1."""
    better: int
    """Queries that the source has right and the reference wrong."""
    worse: int
    """Queries that the source has wrong and the reference right."""
    same: int
    """Queries that both have right or both wrong."""
    recall: float
    """R1 at the threshold of the source, 0 to 1."""
    reference_recall: float
    """R1 at the threshold of the reference, 0 to 1."""
    difference: Interval
    """Mean IoU of the source minus that of the reference, with its 95 % interval over pairs of answers to the same
    query (Student's t; queries count as independent)."""
    views: tuple[str, str]
    """Names of the saved views of the queries that are better and worse."""
    of: int
    """Queries of the data set; where it is more than were compared, these were chosen."""

    @property
    def chosen(self) -> bool:
        """True where a view or a selection left queries out: then the interval tells nothing of all of them."""
        return self.difference.count < self.of

    def __str__(self) -> str:
        mean = self.difference
        # One query says nothing of the spread.
        interval = f", 95 % interval {mean.low:+.3f} to {mean.high:+.3f}" if mean.count > 1 else ""
        warning = (
            f". These {mean.count} queries were chosen from {self.of}: what holds for them proves nothing about all"
            if self.chosen
            else ""
        )
        return (
            f"{self.source} against {self.reference}, right from IoU {self.threshold:g}: better on {self.better}, "
            f"worse on {self.worse}, same on {self.same} of {mean.count} queries (R1 {self.recall:.1%} against "
            f"{self.reference_recall:.1%}). Mean IoU differs by {mean.mean:+.3f}{interval}{warning}"
        )


@database.explained()
def tag_best_teacher(
    view: fiftyone.core.collections.SampleCollection,
    *,
    selected: Iterable[str] = (),
    selected_labels: Iterable[Mapping[str, str]] = (),
) -> dict[str, int]:
    """Tags, for every query that a person looks at, the answer of the teacher with the greatest IoU as `best_teacher`.

    Earlier tags of the same queries are taken away. Where no teacher overlaps the truth none is tagged; of equal ones
    the first is.

    Args:
        view: as in `vkdlab.browse.selection.queries_in`, and so the others.
        selected: ids of samples or clips.
        selected_labels: labels.

    Returns:
        Teacher to the number of queries on which it is the best, for all teachers.

    Raises:
        ValueError: there is no teacher, or no query in what was chosen.
    """
    dataset = view._root_dataset
    table = facts_of(dataset)
    teachers = about(dataset)["teachers"]
    if not teachers:
        raise ValueError(f"the data set {dataset.name!r} holds no teacher's answers: there is no best one to tag")
    rows = table.loc[list(at_least_one(queries_in(view, selected=selected, selected_labels=selected_labels)))]
    found = rows[rows["best_teacher_iou"] > 0]
    best = {teacher: {query: BEST for query in found.index[found["best_teacher"] == teacher]} for teacher in teachers}
    for teacher, tags in best.items():
        _tag(dataset, teacher, tags, instead_of=(BEST,), among=set(rows.index))
    return {teacher: len(tags) for teacher, tags in best.items()}


@database.explained()
def compare_runs(
    view: fiftyone.core.collections.SampleCollection,
    *,
    source: str,
    reference: str,
    threshold: float = 0.5,
    selected: Iterable[str] = (),
    selected_labels: Iterable[Mapping[str, str]] = (),
) -> Comparison:
    """Compares the answers of two sources in one data set; `vkdlab.browse.add_source` brings in those of another run.

    The source's answers are tagged `better`, `worse` or `same`, and earlier such tags of these queries are taken away.
    Two views are saved in the data set: of the queries on which the source is better, and of those on which it is
    worse.

    Args:
        view: the data set, for all queries; or what chooses some, as in `vkdlab.browse.selection.queries_in`. Chosen
            queries are easily those on which one source is good, so the result then says that they prove nothing.
        source: whose answers are judged, such as "student_b".
        reference: whose answers they are compared with, such as "student".
        threshold: IoU from which an answer is right, above 0, at most 1.
        selected: ids of samples or clips.
        selected_labels: labels.

    Raises:
        ValueError: an unknown source, the same one twice, a threshold outside its range, or no query was chosen.
    """
    dataset = view._root_dataset
    check_comparison(dataset, source=source, reference=reference, threshold=threshold)
    queries = at_least_one(queries_in(view, selected=selected, selected_labels=selected_labels))
    rows = facts_of(dataset).loc[list(queries)]
    iou, other = (rows[f"{name}_iou"].fillna(0.0).to_numpy() for name in (source, reference))
    right, right_other = iou >= threshold, other >= threshold
    verdict = [
        BETTER if mine > theirs else WORSE if mine < theirs else SAME
        for mine, theirs in zip(right.tolist(), right_other.tolist(), strict=True)
    ]
    tags = dict(zip(queries, verdict, strict=True))
    _tag(dataset, source, tags, instead_of=(BETTER, WORSE, SAME), among=set(queries))
    count = Counter(verdict)
    views = []
    for word in (BETTER, WORSE):
        name = f"{source} {word} than {reference} (IoU {threshold:g})"
        of_word = [query for query, tag in tags.items() if tag == word]
        dataset.save_view(
            name,
            only(dataset, of_word),
            description=f"the {len(of_word)} of {len(queries)} queries on which {source} is {word} than {reference}",
            overwrite=True,
        )
        views.append(name)
    return Comparison(
        source=source,
        reference=reference,
        threshold=threshold,
        better=count[BETTER],
        worse=count[WORSE],
        same=count[SAME],
        recall=float(right.mean()),
        reference_recall=float(right_other.mean()),
        difference=paired_interval(iou.tolist(), other.tolist()),
        views=tuple(views),
        of=len(queries_in(dataset)),
    )


def check_comparison(dataset: fiftyone.Dataset, *, source: str, reference: str, threshold: float) -> None:
    """Raises a ValueError that says what is wrong with a comparison, see `compare_runs`."""
    known = about(dataset)["sources"]
    for name in (source, reference):
        if name not in known:
            raise ValueError(
                f"the data set {dataset.name!r} has no source {name!r}, its sources are {', '.join(known)}"
            )
    if source == reference:
        raise ValueError(f"{source!r} compared with itself is the same everywhere: choose two sources")
    if not 0 < threshold <= 1:
        raise ValueError(f"the IoU from which an answer is right lies above 0 and is at most 1, got {threshold:g}")


def only(dataset: fiftyone.Dataset, queries: Iterable[str]) -> fiftyone.DatasetView:
    """The videos of some queries, with the moments of these alone in every field."""
    of_queries = database.fiftyone().ViewField("query_id").is_in(list(queries))
    view = dataset.filter_labels(GT, of_queries)
    for source in about(dataset)["sources"]:
        view = view.filter_labels(source, of_queries, only_matches=False)
    return view


def _tag(
    dataset: fiftyone.Dataset, field: str, tags: Mapping[str, str], *, instead_of: tuple[str, ...], among: set[str]
) -> None:
    """Gives a field's moments their tag, one a query, and takes the tags `instead_of` it from those of `among`."""
    samples = labelled(dataset)
    paths = [f"{field}.detections.{name}" for name in ("query_id", "tags")]
    ids, queries, before = samples.values(["id", *paths])
    after = {}
    for sample, of_sample, old in zip(ids, queries, before, strict=True):
        new = [
            [tag for tag in given or [] if tag not in instead_of] + ([tags[query]] if query in tags else [])
            if query in among
            else given
            for query, given in zip(of_sample or [], old or [], strict=True)
        ]
        if new != (old or []):
            after[sample] = new
    if after:
        samples.set_values(paths[1], after, key_field="id")
