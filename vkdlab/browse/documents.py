"""Samples, detections and frames as the plain documents that FiftyOne keeps in its database (ours).

FiftyOne makes an object of every detection, which takes minutes where a data set has tens of thousands of answers; its
database takes the same documents within seconds. A test holds them against those that FiftyOne itself writes.

Beside what FiftyOne shows, the field `vkdlab` of a sample keeps what it has no place for: the video's group,
length and frames, its queries as they were last read, its actions and questions, and frame scores at their exact times.
"""

from __future__ import annotations

import copy
import mimetypes
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vkdlab.browse import database
from vkdlab.browse.facts import detection_facts, fact_names, facts
from vkdlab.browse.frames import frame_at, support
from vkdlab.data import FrameReader, Query
from vkdlab.predictions import Predictions

if TYPE_CHECKING:
    import fiftyone
    import pandas as pd

FORMAT = 1
BATCH = 200
"""Samples that are written at once."""
GT = "gt"
GROUP = "group"
RGB = "rgb"
KEPT = "vkdlab"
"""The field of a sample, and the entry of a data set's info, that are ours."""
WORDS = ("kind", "best_teacher", "trusted_teacher")
"""Attributes of detections that are text; the others are numbers."""


@dataclass(frozen=True)
class Timeline:
    """How a video's seconds are counted in frames."""

    rate: float
    """Frames a second."""
    count: int
    """Frames."""


@dataclass(frozen=True)
class Media:
    """A video file as FiftyOne describes it."""

    path: Path
    """The file, absolute."""
    size_bytes: int
    """Its length in bytes."""
    width: int
    """Pixels of a row."""
    height: int
    """Rows."""
    count: int
    """Frames."""
    duration_s: float
    """Seconds."""

    @classmethod
    def read(cls, path: str | os.PathLike) -> Media:
        """Reads a file's index.

        Raises:
            VideoError, FileNotFoundError: it cannot be read; the message names it.
        """
        path = Path(os.path.abspath(path))
        reader = FrameReader(path)
        size = path.stat().st_size
        return cls(path, size, reader.width, reader.height, reader.num_frames, reader.duration_s)

    @property
    def timeline(self) -> Timeline:
        """Its frames as the App counts them."""
        return Timeline(rate=self.count / self.duration_s, count=self.count)


def moment_documents(
    predictions: Predictions, table: pd.DataFrame, source: str, timelines: Mapping[str, Timeline]
) -> dict[str, list[dict[str, Any]]]:
    """The detections of a source, or of the truth, by video id; every video has a list.

    Where the source gave no answer, there is no detection.

    Args:
        predictions: the answers.
        table: `facts` of them.
        source: whose moments; "gt" for the true ones.
        timelines: every video's.
    """
    truth = source == GT
    moments = predictions.truth_s if truth else predictions.moments_s[source]
    confidence = np.full(len(moments), np.nan) if truth else predictions.confidence.get(source)
    confidence = np.full(len(moments), np.nan) if confidence is None else confidence
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in predictions.dataset.videos}
    rows = zip(
        predictions.dataset.queries, moments.tolist(), confidence.tolist(), detection_facts(table, source), strict=True
    )
    for query, (start_s, end_s), sure, known in rows:
        if start_s == start_s and end_s == end_s:
            document = {"_id": new_id(), "_cls": "TemporalDetection", "tags": []}
            document |= moment_fields(query, start_s, end_s, timeline=timelines[query.video])
            document["confidence"] = None if sure != sure else sure
            found[query.video].append(document | known)
    return found


def moment_fields(query: Query, start_s: float, end_s: float, *, timeline: Timeline) -> dict[str, Any]:
    """What a detection says of a query's moment, without the facts."""
    return {
        "label": query.sentence,
        "support": support(start_s, end_s, rate=timeline.rate, count=timeline.count),
        "start_s": start_s,
        "end_s": end_s,
        "query_id": query.id,
        "kind": query.kind,
    }


def field_document(detections: list[dict[str, Any]]) -> dict[str, Any]:
    """A sample's field of moments."""
    return {"_cls": "TemporalDetections", "detections": detections}


def kept_documents(predictions: Predictions, timelines: Mapping[str, Timeline]) -> dict[str, dict[str, Any]]:
    """What the field `vkdlab` keeps, by video id, so that `from_fiftyone` gives the very same data back."""
    dataset = predictions.dataset
    kept = {
        name: {"group": video.group, "duration_s": video.duration_s, "scores": {}}
        | asdict(timelines[name])
        | {kind: [] for kind in ("queries", "actions", "questions")}
        for name, video in dataset.videos.items()
    }
    for kind in ("queries", "actions", "questions"):
        for row, each in enumerate(getattr(dataset, kind)):
            kept[each.video][kind].append({"row": row, **_plain(asdict(each))})
    for score, by_video in predictions.scores.items():
        for name, values in by_video.items():
            kept[name]["scores"][score] = [values.times_s.tolist(), values.values.tolist()]
    return kept


def sample_document(
    dataset: fiftyone.Dataset, media: Media, fields: Mapping[str, Any], *, group: Any = None, slice_: str = ""
) -> dict[str, Any]:
    """A sample of these fields, ready for `insert`; `group` is the id that the samples of a group share."""
    path = os.fspath(media.path)
    document = {
        "_id": new_id(),
        "_dataset_id": dataset._doc.id,
        "_media_type": "video",
        "_rand": random.Random(path).random(),
        "filepath": path,
        "tags": [],
        "metadata": {
            "_cls": "VideoMetadata",
            "size_bytes": media.size_bytes,
            "mime_type": mimetypes.guess_type(path)[0] or "video/mp4",
            "frame_width": media.width,
            "frame_height": media.height,
            "frame_rate": media.timeline.rate,
            "total_frame_count": media.count,
            "duration": media.duration_s,
        },
        **now("created_at", "last_modified_at"),
        **fields,
    }
    if group is not None:
        document[GROUP] = {"_id": group, "_cls": "Group", "name": slice_}
    return document


def frame_documents(
    dataset: fiftyone.Dataset,
    sample: Mapping[str, Any],
    scores: Mapping[str, Sequence[Sequence[float]]],
    timeline: Timeline,
) -> list[dict[str, Any]]:
    """The frames of a sample that have a score: of several values within one frame, their mean."""
    frames: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for score, (times_s, values) in scores.items():
        for time_s, value in zip(times_s, values, strict=True):
            frames[frame_at(time_s, rate=timeline.rate, count=timeline.count)][score].append(value)
    common = {"_dataset_id": dataset._doc.id, "_sample_id": sample["_id"], **now("created_at", "last_modified_at")}
    return [
        {"_id": new_id(), **common, "frame_number": number}
        | {score: sum(values) / len(values) for score, values in shown.items()}
        for number, shown in sorted(frames.items())
    ]


def insert(dataset: fiftyone.Dataset, samples: Sequence[dict], frames: Sequence[dict] = ()) -> None:
    """Writes documents of samples, and of their frames, all of fields that were declared."""
    if frames:
        dataset._frame_collection.insert_many(frames, ordered=False)
    if samples:
        dataset._sample_collection.insert_many(samples, ordered=False)


def update(dataset: fiftyone.Dataset, predictions: Predictions, *, new: str = "") -> None:
    """Writes the facts anew into every moment, and the truth as it was read.

    Args:
        dataset: of `to_fiftyone`; its fields are declared.
        predictions: what `predictions_of` says of it.
        new: a further source in them, whose moments are added.
    """
    from pymongo import UpdateOne  # comes with FiftyOne

    table = facts(predictions)
    sources = (GT, *predictions.moments_s)
    known = {source: dict(zip(table.index, detection_facts(table, source), strict=True)) for source in sources}
    nothing = {source: dict.fromkeys(fact_names(table, source)) for source in sources}
    queries = {query.id: query for query in predictions.dataset.queries}
    samples = list(dataset._sample_collection.find({KEPT: {"$exists": True}}, [*sources, KEPT, "video_id"]))
    timelines = {each["video_id"]: Timeline(each[KEPT]["rate"], each[KEPT]["count"]) for each in samples}
    kept = kept_documents(predictions, timelines)
    added = moment_documents(predictions, table, new, timelines) if new else {}
    changes = []
    for sample in samples:
        video = sample["video_id"]
        changed = {KEPT: kept[video], **now("last_modified_at")}
        for source in sources:
            moments = added[video] if source == new else (sample.get(source) or {}).get("detections") or []
            named = [(moment["_id"], moment.get("query_id")) for moment in moments]
            for id_, moment in zip(query_ids(video, named), moments, strict=True):
                if query := queries.get(id_):
                    moment |= known[source][id_] | {"label": query.sentence}
                    if source == GT:
                        moment |= moment_fields(query, query.start_s, query.end_s, timeline=timelines[video])
                else:
                    moment |= nothing[source]
            changed[source] = field_document(moments)
        changes.append(UpdateOne({"_id": sample["_id"]}, {"$set": changed}))
    for first in range(0, len(changes), BATCH):
        dataset._sample_collection.bulk_write(changes[first : first + BATCH], ordered=False)
    dataset.reload()


def write_truth(dataset: fiftyone.Dataset, sample: str, label: str, fields: Mapping[str, Any]) -> None:
    """Writes fields of one true moment, which is found by its id: others of the video may have come or gone meanwhile.

    Args:
        dataset: of `to_fiftyone`.
        sample: id of the sample.
        label: id of the detection.
        fields: what is written.
    """
    changed = {f"{GT}.detections.$[moment].{name}": value for name, value in fields.items()}
    dataset._sample_collection.update_one(
        {"_id": as_id(sample)},
        {"$set": changed | now("last_modified_at")},
        array_filters=[{"moment._id": as_id(label)}],
    )
    dataset.reload()


def take_out(dataset: fiftyone.Dataset, sample: str, label: str, query: str) -> None:
    """Takes out one true moment, and all answers to its query.

    Args:
        dataset: of `to_fiftyone`.
        sample: id of the sample.
        label: id of the true moment.
        query: id of the query.
    """
    answers = {f"{source}.detections": {"query_id": query} for source in about(dataset)["sources"]}
    gone = {f"{GT}.detections": {"_id": as_id(label)}} | answers
    dataset._sample_collection.update_one({"_id": as_id(sample)}, {"$pull": gone, "$set": now("last_modified_at")})
    dataset.reload()


def query_ids(video: str, moments: Iterable[tuple[Any, str | None]]) -> list[str]:
    """The ids of the queries whose moments these are; a moment that a person added is a query of its own.

    Args:
        video: the video's id.
        moments: id of each detection, and of the query that it names.
    """
    found: list[str] = []
    for label, query in moments:
        found.append(query if query and query not in found else f"{video}-new-{label}")
    return found


def about(dataset: fiftyone.Dataset) -> dict[str, Any]:
    """What `to_fiftyone` noted of a data set.

    Raises:
        ValueError: the data set is not one of its own, was not finished, or was made by another version.
    """
    noted = dataset.info.get(KEPT)
    if not noted or noted.get("format") != FORMAT or noted["state"] != "complete":
        what = "was not finished" if noted and noted.get("format") == FORMAT else "holds no answers of vkdlab"
        raise ValueError(f"the data set {dataset.name!r} {what}: make one by vkdlab.browse.to_fiftyone(...)")
    return copy.deepcopy(noted)


def labelled(view: fiftyone.core.collections.SampleCollection) -> fiftyone.core.collections.SampleCollection:
    """The samples that carry the labels: of groups, the slice of the videos themselves."""
    return view.select_group_slices(RGB) if view.media_type == GROUP else view


def declare(
    dataset: fiftyone.Dataset, sources: Iterable[str], known: Iterable[str], scores: Iterable[str] = ()
) -> None:
    """Makes the fields of moments and of frame scores known, so that the App filters by their attributes.

    FiftyOne learns all of them at once from a sample that has them, which is then taken out.

    Args:
        dataset: may have samples already.
        sources: fields of moments.
        known: names of the facts that their detections carry.
        scores: fields of frames.
    """
    fo = database.fiftyone()
    attributes = {"start_s": 0.0, "end_s": 0.0, "query_id": "", "kind": ""}
    attributes |= {name: "" if name in WORDS else 0.0 for name in known}
    sample = fo.Sample(filepath=f"{new_id()}.mp4", video_id="", split="", duration_s=0.0)
    sample[KEPT] = {}
    for source in sources:
        detection = fo.TemporalDetection(label="", support=[1, 1], confidence=0.0, **attributes)
        sample[source] = fo.TemporalDetections(detections=[detection])
    sample["metadata"] = fo.VideoMetadata()
    for score in scores:
        sample.frames[1] = sample.frames[1] if 1 in sample.frames else fo.Frame()
        sample.frames[1][score] = 0.0
    if dataset.media_type == "group":
        sample[GROUP] = fo.Group().element(dataset.default_group_slice)
    dataset.add_sample(sample, dynamic=True)
    dataset.delete_samples([sample.id])


def now(*names: str) -> dict[str, datetime]:
    """The present time under these names."""
    return dict.fromkeys(names, datetime.now(UTC).replace(tzinfo=None))


def new_id() -> Any:
    """One more id of a document."""
    from bson import ObjectId  # comes with FiftyOne

    return ObjectId()


def as_id(text: str) -> Any:
    """The id of a document, as the database keeps it, of its text."""
    from bson import ObjectId  # comes with FiftyOne

    return ObjectId(text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
