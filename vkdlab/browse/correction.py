"""A person mends a query in the App: when its moment is, what its sentence says, or that it should not be there (ours).

A query is taken out with all its answers: else they would count against a sentence that nobody asks any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vkdlab.browse import database
from vkdlab.browse.documents import GT, about, labelled
from vkdlab.browse.frames import support
from vkdlab.browse.from_fiftyone import rescore
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


def moments_of(dataset: fiftyone.Dataset, queries: Iterable[str]) -> dict[str, Moment]:
    """The true moments of some queries, by query id, in the data set's order; unknown ids are left out.

    Raises:
        ValueError: the data set was not made by `to_fiftyone`.
    """
    about(dataset)
    view = labelled(dataset).filter_labels(GT, database.fiftyone().ViewField("query_id").is_in(list(queries)))
    names = ("query_id", "label", "start_s", "end_s")
    rows = zip(*view.values(["video_id", "duration_s", *(f"{GT}.detections.{name}" for name in names)]), strict=True)
    return {
        query: Moment(query, sentence, start_s, end_s, video, duration_s)
        for video, duration_s, *parts in rows
        for query, sentence, start_s, end_s in zip(*parts, strict=True)
    }


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
    before, sample = _found(dataset, query)
    after = before.corrected(start_s=start_s, end_s=end_s, sentence=sentence)
    count = sample.metadata.total_frame_count
    truth = next(each for each in sample[GT].detections if _query(each) == query)
    truth["start_s"], truth["end_s"], truth.label = after.start_s, after.end_s, after.sentence
    truth.support = support(after.start_s, after.end_s, rate=count / after.duration_s, count=count)
    sample.save()
    rescore(dataset)
    return after


def delete_query(dataset: fiftyone.Dataset, query: str) -> Moment:
    """Takes a query out of the data set, its true moment and all answers to it, and brings the facts up to date.

    Args:
        dataset: a data set that `to_fiftyone` made.
        query: the query's id.

    Returns:
        The moment as it was.

    Raises:
        ValueError: there is no such query.
    """
    before, sample = _found(dataset, query)
    for field in (GT, *about(dataset)["sources"]):
        if sample[field] is not None:
            sample[field].detections = [each for each in sample[field].detections if _query(each) != query]
    sample.save()
    rescore(dataset)
    return before


def _found(dataset: fiftyone.Dataset, query: str) -> tuple[Moment, fiftyone.Sample]:
    moment = moments_of(dataset, [query]).get(query)
    if moment is None:
        raise ValueError(f"the data set {dataset.name!r} has no query {query!r}: it may have been deleted")
    in_video = database.fiftyone().ViewField("video_id") == moment.video
    return moment, dataset[labelled(dataset).match(in_video).first().id]


def _query(detection: fiftyone.TemporalDetection) -> str | None:
    return detection["query_id"] if detection.has_field("query_id") else None
