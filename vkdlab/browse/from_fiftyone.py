"""What a person corrected in FiftyOne, as a data set that trains (ours).

A moment that nobody touched comes back as it was, to the last digit. Of one whose frames were moved, the side that was
moved is the frame's time and the other stays exact; seconds that were written by hand count where the frames were not
moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vkdlab.browse import database
from vkdlab.browse.documents import GT, KEPT, about, as_id, labelled, query_ids, update
from vkdlab.browse.frames import seconds, support
from vkdlab.data import Action, Dataset, Query, Question, Video
from vkdlab.data.datasets import first_of, moment_error
from vkdlab.predictions import FrameScores, Predictions

if TYPE_CHECKING:
    import fiftyone

LABEL = ("id", "query_id", "label", "support", "start_s", "end_s", "kind")
ANSWER = ("query_id", "start_s", "end_s", "confidence")
WEIGHTS = ("start_weight", "end_weight")


def from_fiftyone(dataset: fiftyone.core.collections.SampleCollection, *, field: str = GT) -> Dataset:
    """The moments of a field as a data set.

    Args:
        dataset: of `to_fiftyone`, or a view of it, of which the videos and the moments count that it shows; of clips,
            the videos they are from and the moments of their queries.
        field: whose moments: "gt", or a source's to train on its answers.

    Returns:
        The data set, with the ids that it had; where nothing was touched it has the same fingerprint. A changed label
        is the query's new sentence; a moment that was deleted is gone; one that was added is a query with a new id.

    Raises:
        ValueError: the data set is not of `to_fiftyone`, has no such field, or holds moments that are none; the message
            names their videos and sentences.
    """
    with database.explained():
        root = dataset._root_dataset
        data = about(root)["data"]
        if field not in (GT, *about(root)["sources"]):
            raise ValueError(f"{root.name!r} has no moments {field!r}, it has gt, {', '.join(about(root)['sources'])}")
        rows = rows_of(_samples(dataset, field), field)
    videos, problems = {}, []
    queries: list[tuple[int, Query]] = []
    told: dict[str, list] = {"actions": [], "questions": []}
    for row in rows:
        kept = row[KEPT]
        videos[row["video_id"]] = Video(row["video_id"], Path(row["filepath"]), kept["duration_s"], kept["group"])
        before = {query["id"]: query for query in kept["queries"]}
        for id_, moment in row["moments"].items():
            try:
                # What is known of a query is its truth, which tells nothing of how an answer to it was moved.
                query = _query(id_, row["video_id"], moment, kept, before.get(id_) if field == GT else None)
                queries.append((before[id_]["row"] if id_ in before else 1 << 40, query))
            except ValueError as error:
                problems.append(f"{row['video_id']}, {moment['label']!r}: {error}")
        for kind, make in (("actions", Action), ("questions", Question)):
            told[kind] += [(each["row"], make(**_tuples(each))) for each in kept[kind]]
    if problems:
        raise ValueError(
            f"{len(problems)} moments of {root.name!r} are none: {first_of(problems, separator='; ')}. Mend or delete "
            "them in the App"
        )
    return Dataset(
        name=data["name"],
        split=data["split"],
        profile=data["profile"],
        version=data["version"],
        root=Path(data["root"]),
        videos=videos,
        queries=_ordered(queries),
        **{kind: _ordered(each) for kind, each in told.items()},
    )


def predictions_of(dataset: fiftyone.core.collections.SampleCollection) -> Predictions:
    """All sources' answers to the queries as they now stand: what `to_fiftyone` was given, with the corrected truth.

    An answer that was deleted, or that answers a query which is new, is not-a-number.

    Args:
        dataset: of `to_fiftyone`, or a view of it, see `from_fiftyone`.

    Raises:
        ValueError: see `from_fiftyone`.
    """
    truth = from_fiftyone(dataset)
    with database.explained():
        noted = about(dataset._root_dataset)
        samples = labelled(dataset._root_dataset)
        order = {query.id: row for row, query in enumerate(truth.queries)}
        parts: dict[str, dict[str, Any]] = {"moments_s": {}, "confidence": {}, "weights": {}}
        for source in noted["sources"]:
            has_weights = source in noted["known"]["weights"]
            names = ANSWER + (WEIGHTS if has_weights else ())
            columns = samples.values([f"{source}.detections.{name}" for name in names], unwind=True)
            ids, numbers = columns[0], np.array(columns[1:], dtype=float).reshape(len(names) - 1, -1).T
            found = np.full((len(order), len(names) - 1), np.nan)
            for id_, values in zip(ids[::-1], numbers[::-1], strict=True):  # of two answers, the first one stays
                if id_ in order:
                    found[order[id_]] = values
            parts["moments_s"][source] = found[:, :2]
            if source in noted["known"]["confidence"]:
                parts["confidence"][source] = found[:, 2]
            if has_weights:
                parts["weights"][source] = found[:, 3:]
        kept = dict(zip(*samples.values(["video_id", KEPT]), strict=True))
    scores = {
        score: {
            name: FrameScores(times_s=kept[name]["scores"][score][0], values=kept[name]["scores"][score][1])
            for name in truth.videos
            if score in kept[name]["scores"]
        }
        for score in noted["known"]["scores"]
    }
    return Predictions(name=noted["name"], dataset=truth, scores=scores, **parts)


def rescore(dataset: fiftyone.Dataset) -> None:
    """Brings a data set, the whole one also where a view is given, up to date with the corrections made in it.

    Every moment's facts are reckoned anew from the truth as it now stands. Of true moments, seconds follow frames that
    were moved, new ones are given ids, and answers show the corrected sentences.

    Raises:
        ValueError: see `from_fiftyone`; nothing was written.
    """
    with database.explained():
        update(dataset._root_dataset, predictions_of(dataset._root_dataset))


def rows_of(view: fiftyone.core.collections.SampleCollection, field: str) -> list[dict[str, Any]]:
    """What samples tell of a field's moments: a dict a video.

    Args:
        view: samples that carry the labels.
        field: "gt" or a source.

    Returns:
        `id`, `video_id`, `filepath` and `vkdlab` of every sample, and `moments`: query id to what the detection says.

    Raises:
        ValueError: a sample was not written by `to_fiftyone`.
    """
    names = ("id", "video_id", "filepath", KEPT)
    columns = view.values([*names, *(f"{field}.detections.{name}" for name in LABEL)])
    rows = []
    for values in zip(*columns, strict=True):
        row = dict(zip(names, values[: len(names)], strict=True))
        if not row[KEPT]:
            raise ValueError(
                f"{row['filepath']} was not written by to_fiftyone: add it to the data set that is shown, or delete it "
                "in the App"
            )
        details = (each or [] for each in values[len(names) :])
        moments = [dict(zip(LABEL, each, strict=True)) for each in zip(*details, strict=True)]
        named = [(moment["id"], moment["query_id"]) for moment in moments]
        row["moments"] = dict(zip(query_ids(row["video_id"], named), moments, strict=True))
        rows.append(row)
    return rows


def seconds_of(
    moment: Mapping[str, Any], kept: Mapping[str, Any], before: Mapping[str, Any] | None
) -> tuple[float, float]:
    """When a detection's moment is, whether its frames were moved or its seconds written.

    Args:
        moment: what `rows_of` tells of it.
        kept: what it tells of the sample, as `vkdlab`.
        before: what was known of the query when it was last read; None of an answer, and of what is new.

    Returns:
        Start and end, seconds.

    Raises:
        ValueError: frames or seconds lie outside the video, or end before they start.
    """
    timeline = {"rate": kept["rate"], "count": kept["count"]}
    frames, exact = moment["support"], (moment["start_s"], moment["end_s"])
    if frames is None or not 1 <= frames[0] <= frames[1] <= kept["count"]:
        raise ValueError(f"its frames {frames} are not among the video's, 1 to {kept['count']}")
    shown = seconds(frames, rate=kept["rate"], duration_s=kept["duration_s"])
    if None in exact:
        return shown
    if reason := moment_error(*exact, kept["duration_s"]):
        raise ValueError(reason)
    expected = support(*exact, **timeline)
    known = support(before["start_s"], before["end_s"], **timeline) if before else expected
    return tuple(
        time_s if frame in (also, last) else at_s
        for time_s, at_s, frame, also, last in zip(exact, shown, frames, expected, known, strict=True)
    )


def _samples(view: fiftyone.core.collections.SampleCollection, field: str):
    """The videos of a view, with those moments that count."""
    if not view._is_clips:
        return labelled(view)
    fo, clips_of, root = database.fiftyone(), view._classification_field, labelled(view._root_dataset)
    samples = root.select(list(dict.fromkeys(view.values("sample_id"))), ordered=True)
    if clips_of is None:
        return samples
    labels, queries = view.values([f"{clips_of}.id", f"{clips_of}.query_id"])
    shown = fo.ViewField("query_id").is_in([query for query in queries if query])
    if clips_of == field:
        shown |= fo.ViewField("_id").is_in([as_id(label) for label in labels])
    return samples.filter_labels(field, shown, only_matches=False)


def _query(
    id_: str, video: str, moment: Mapping[str, Any], kept: Mapping[str, Any], before: Mapping[str, Any] | None
) -> Query:
    """One query of a detection; `before` is what was known of it when it was last read.

    Raises:
        ValueError: the detection has no sentence, or no moment within the video.
    """
    sentence = (moment["label"] or "").strip() and moment["label"]
    if not sentence:
        raise ValueError("it has no sentence; write what it shows as its label")
    start_s, end_s = seconds_of(moment, kept, before)
    if reason := moment_error(start_s, end_s, kept["duration_s"]):
        raise ValueError(reason)
    windows = [tuple(window) for window in (before or {}).get("windows_s", [])]
    if windows and before["sentence"] != sentence:
        windows = []  # they were moments of another sentence
    was = before and (before["start_s"], before["end_s"])
    return Query(
        id=id_,
        video=video,
        sentence=sentence,
        start_s=start_s,
        end_s=end_s,
        kind=moment["kind"] or "",
        windows_s=tuple((start_s, end_s) if window == was else window for window in windows),
    )


def _ordered(rows: list[tuple[int, Any]]) -> tuple:
    return tuple(each for _, each in sorted(rows, key=lambda row: row[0]))


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name != "row"}
