"""A person mends a query in the App: when its moment is, what its sentence says, or that it should not be there (ours).

A query is taken out with all its answers: else they would count against a sentence that nobody asks any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vkdlab.browse import database
from vkdlab.browse.documents import GT, KEPT, about, labelled, take_out, write_truth
from vkdlab.browse.frames import support
from vkdlab.browse.from_fiftyone import rescore, rows_of, seconds_of
from vkdlab.data.datasets import moment_error

if TYPE_CHECKING:
    import fiftyone


@dataclass(frozen=True)
class Moment:
    """A query's true moment as it stands in the data set."""

    query: str
    """The query's id."""
    sentence: str
    """What the moment shows."""
    start_s: float
    """First second."""
    end_s: float
    """Last second."""
    video: str
    """The video's id."""
    duration_s: float
    """Length of the video, seconds."""

    def __str__(self) -> str:
        return f"{self.sentence} ({self.start_s:g} to {self.end_s:g} s of {self.duration_s:g} s)"

    def corrected(
        self, *, start_s: float | None = None, end_s: float | None = None, sentence: str | None = None
    ) -> Moment:
        """The moment with other seconds or another sentence; None leaves a part as it is.

        Raises:
            ValueError: it would not lie within its video or be empty, its sentence would be empty, or nothing would
                change.
        """
        after = replace(
            self,
            sentence=self.sentence if sentence is None else " ".join(sentence.split()),
            start_s=self.start_s if start_s is None else float(start_s),
            end_s=self.end_s if end_s is None else float(end_s),
        )
        if after == self:
            raise ValueError(f"nothing to correct: the moment is {self} already. Give another start, end or sentence")
        if not after.sentence:
            raise ValueError(
                "a query's sentence is not empty: delete the query if there is nothing to say of the moment"
            )
        if reason := moment_error(after.start_s, after.end_s, after.duration_s):
            raise ValueError(f"{self.sentence!r} of video {self.video!r}: {reason}")
        return after


@database.explained()
def moments_of(dataset: fiftyone.Dataset, queries: Iterable[str]) -> dict[str, Moment]:
    """The true moments of some queries as they now stand, by query id, in the data set's order.

    Unknown ids are left out. A moment that is none is told as it is, so that it can be corrected.

    Raises:
        ValueError: the data set was not made by `to_fiftyone`.
    """
    return {query: moment for query, (moment, _, _) in _found(dataset, queries).items()}


@database.explained()
def correct_moment(
    dataset: fiftyone.Dataset,
    query: str,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    sentence: str | None = None,
) -> Moment:
    """Moves a query's true moment or mends its sentence, and brings the facts up to date; None leaves a part as it is.

    Args:
        dataset: a data set that `to_fiftyone` made.
        query: the query's id.
        start_s: first second.
        end_s: last second.
        sentence: what the moment shows.

    Returns:
        The moment as it is now.

    Raises:
        ValueError: there is no such query, the moment would not lie within its video or be empty, the sentence would be
            empty, or nothing would change, and the data set is as before. Or another moment of the data set is none:
            then the correction is kept, and facts follow by `rescore` once that one is mended.
    """
    before, row, label = _one(dataset, query)
    after = before.corrected(start_s=start_s, end_s=end_s, sentence=sentence)
    frames = support(after.start_s, after.end_s, rate=row[KEPT]["rate"], count=row[KEPT]["count"])
    fields = {"start_s": after.start_s, "end_s": after.end_s, "support": frames, "label": after.sentence}
    write_truth(dataset, row["id"], label, fields)
    rescore(dataset)
    return after


@database.explained()
def delete_query(dataset: fiftyone.Dataset, query: str) -> Moment:
    """Takes a query out of the data set, its true moment and all answers to it, and brings the facts up to date.

    Args:
        dataset: a data set that `to_fiftyone` made.
        query: the query's id.

    Returns:
        The moment as it was.

    Raises:
        ValueError: there is no such query. Or another moment of the data set is none: the query is gone all the same,
            and facts follow by `rescore` once that one is mended.
    """
    before, row, label = _one(dataset, query)
    take_out(dataset, row["id"], label, query)
    rescore(dataset)
    return before


def _one(dataset: fiftyone.Dataset, query: str) -> tuple[Moment, Mapping[str, Any], str]:
    if (found := _found(dataset, [query]).get(query)) is None:
        raise ValueError(f"the data set {dataset.name!r} has no query {query!r}: it may have been deleted")
    return found


def _found(dataset: fiftyone.Dataset, queries: Iterable[str]) -> dict[str, tuple[Moment, Mapping[str, Any], str]]:
    """Query id to its moment, what is told of its video (see `rows_of`), and its detection's id."""
    about(dataset)
    wanted, found = set(queries), {}
    for row in rows_of(labelled(dataset), GT):
        kept, before = row[KEPT], {query["id"]: query for query in row[KEPT]["queries"]}
        for query, moment in row["moments"].items():
            if query not in wanted:
                continue
            try:
                ends = seconds_of(moment, kept, before.get(query))
            except ValueError:
                ends = (math.nan if each is None else each for each in (moment["start_s"], moment["end_s"]))
            told = Moment(query, moment["label"] or "", *ends, row["video_id"], kept["duration_s"])
            found[query] = (told, row, moment["id"])
    return found
