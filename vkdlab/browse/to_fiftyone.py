"""Answers become a video data set in FiftyOne: one sample a video, one field of moments a source (ours).

    dataset = to_fiftyone(predictions)
    dataset = to_fiftyone(run, renderings={"flow": {"video id": "flow.mp4", ...}})

A detection carries its exact seconds beside its frames, and the facts of `vkdlab.browse.facts`. What is said in
`dataset.info["vkdlab"]`: name, fingerprint, the data set's own names, sources, teachers, slices and state.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from vkdlab.browse import database, documents
from vkdlab.browse.documents import BATCH, FORMAT, GROUP, GT, KEPT, RGB, Media, update
from vkdlab.browse.facts import STUDENT, fact_names, facts
from vkdlab.browse.figures import colours
from vkdlab.browse.from_fiftyone import predictions_of
from vkdlab.data import Dataset, VideoError
from vkdlab.data.datasets import first_of
from vkdlab.predictions import TEACHER, Predictions
from vkdlab.runs import Run

if TYPE_CHECKING:
    import fiftyone

OF_FRAMES = frozenset({"id", "frame_number", "created_at", "last_modified_at"})
"""Fields of every frame; no score is called so."""
OF_SAMPLES = frozenset(
    {
        "id",
        "filepath",
        "tags",
        "metadata",
        "created_at",
        "last_modified_at",
        "frames",
        "video_id",
        "split",
        "duration_s",
    }
    | {GROUP, KEPT}
)
"""Fields of every sample; no source is called so."""

TRUTH_IN_THE_APP = "#757575"
"""The truth's near-black of the figures is not seen on the App's dark page: its box, and its bar under a video."""
ALIKE_S = 0.01
"""Seconds by which answers to a query may differ and still be the same ones."""
ALIKE = 0.01
"""Likewise confidences and weights."""


def to_fiftyone(
    shown: Run | Predictions | Dataset,
    *,
    name: str | None = None,
    overwrite: bool = False,
    renderings: Mapping[str, Mapping[str, str | os.PathLike]] | None = None,
    progress: bool = True,
) -> fiftyone.Dataset:
    """Makes a persistent video data set of what was answered.

    A data set of this name that holds the same answers, to a hundredth of a second, is returned as it is, with the
    corrections that were made in it; one whose import was cut off is imported again.

    Args:
        shown: answers; a run, whose `predictions.json` is read; or a data set, of which the truth alone is shown.
        name: the data set's name in FiftyOne; by default the run's folder's, the answers', or the data set's with its
            split and profile.
        overwrite: whether a data set of this name gives way whatever it holds, with all that was done in it.
        renderings: other pictures of the same videos, such as flow: video files by video id by the rendering's name.
            The data set is then one of groups, whose slice "rgb" carries the labels.
        progress: show bars.

    Returns:
        The data set. Of every video: `video_id`, `split`, `duration_s`, and the fields of moments, `gt` and one per
        source. Of a moment: its sentence as label, its frames (`support`), `confidence`, its exact `start_s` and
        `end_s`, `query_id`, and the facts. Frame scores are fields of those frames that have one.

    Raises:
        ValueError: videos have no file or cannot be read, those of a data set that is there already are missing, the
            name is taken by something else, or a source or score is called what FiftyOne or vkdlab calls another field.
        FileNotFoundError: the run has no predictions.
        BrowseUnavailable, BrowseError: see `vkdlab.browse.database`.
    """
    predictions, name = _predictions(shown, name, progress=progress)
    _check_names(predictions)
    files = {slice_: {key: Path(path) for key, path in by.items()} for slice_, by in (renderings or {}).items()}
    fo = database.fiftyone()
    with database.explained():
        standing = _standing(fo, name, predictions, slices=[*files], overwrite=overwrite)
        if standing is not None:
            return standing
    media = _media(predictions.dataset, files, progress=progress)
    with database.explained():
        if fo.dataset_exists(name):
            fo.delete_dataset(name)
        # What is not persistent is not there for others until all of it is.
        dataset = fo.Dataset(name, persistent=False)
        dataset.info[KEPT] = about = _about(predictions, slices=[*files])
        dataset.save()
        if files:
            dataset.add_group_field(GROUP, default=RGB)
            for slice_ in (RGB, *files):
                dataset.add_group_slice(slice_, "video")
        else:
            dataset.media_type = "video"
        _write(dataset, predictions, media, progress=progress)
        _arrange(dataset, predictions)
        shown = [source for source in predictions.moments_s if source == STUDENT] or [*predictions.moments_s][:1]
        # With all sources' chips a grid shows no picture.
        dataset.app_config.active_fields = fo.ActiveFields(exclude=False, paths=[GT, *shown])
        dataset.info[KEPT] = about | {"state": "complete"}
        dataset.persistent = True
        dataset.save()
    return dataset


def add_source(
    dataset: fiftyone.Dataset, predictions: Predictions, *, source: str = "student", as_: str = "student_b"
) -> None:
    """Adds another run's answers to the same queries as a further field.

    Args:
        dataset: of `to_fiftyone`.
        predictions: the other run's answers.
        source: which of them.
        as_: what they are called here; a teacher's name starts with "teacher_".

    Raises:
        ValueError: there is no such source, the name is taken, or the other run answers other queries.
    """
    if source not in predictions.moments_s:
        raise ValueError(f"{predictions.name!r} has no source {source!r}, it has {', '.join(predictions.moments_s)}")
    with database.explained():
        about = documents.about(dataset)
        if as_ in dataset.get_field_schema():
            raise ValueError(f"{dataset.name!r} has a field {as_!r} already: give another name by as_=")
        asked = {query.id: row for row, query in enumerate(predictions.dataset.queries)}
        kept = {query["id"] for each in documents.labelled(dataset).values(KEPT) for query in each["queries"]}
        strange = [*(f"{id_!r} is not answered by the other run" for id_ in sorted(kept - asked.keys()))]
        strange += [f"{id_!r} is asked of the other run alone" for id_ in sorted(asked.keys() - kept)]
        if strange:
            raise ValueError(
                f"{dataset.name!r} and {predictions.name!r} have other queries: {first_of(strange, separator='; ')}. "
                "Predict on the same split of the same data"
            )
        mine = predictions_of(dataset)
        rows = np.array([asked.get(query.id, -1) for query in mine.dataset.queries], dtype=int)
        more = {
            kind: {as_: np.where((rows < 0).reshape(-1, *[1] * (values.ndim - 1)), np.nan, values[rows])}
            for kind in ("moments_s", "confidence", "weights")
            if (values := getattr(predictions, kind).get(source)) is not None
        }
        joined = replace(mine, **{kind: {**getattr(mine, kind), **new} for kind, new in more.items()})
        table = facts(joined)
        documents.declare(dataset, [as_], fact_names(table, as_))
        update(dataset, joined, new=as_)
        for kind in ("confidence", "weights"):
            about["known"][kind] += [as_] if kind in more else []
        about["sources"].append(as_)
        about["teachers"] += [as_] if as_.startswith(TEACHER) else []
        dataset.info[KEPT] = about
        dataset.save()
        _arrange(dataset, joined)


def _predictions(shown: Run | Predictions | Dataset, name: str | None, *, progress: bool) -> tuple[Predictions, str]:
    if isinstance(shown, Run):
        return Predictions.load(shown.folder, progress=progress), name or shown.folder.name
    if isinstance(shown, Dataset):
        default = f"{shown.name} {shown.split} {shown.profile}"
        return Predictions(name=default, dataset=shown), name or default
    if isinstance(shown, Predictions):
        return shown, name or shown.name
    raise TypeError(f"expected a Run, Predictions or a Dataset, got {type(shown).__name__}")


def _check_names(predictions: Predictions) -> None:
    fields = {"source": (predictions.moments_s, OF_SAMPLES), "score": (predictions.scores, OF_FRAMES)}
    for kind, (names, taken) in fields.items():
        if clash := sorted(taken.intersection(names)):
            raise ValueError(f"the {kind} {clash[0]!r} is called what FiftyOne calls another field: give another name")


def _standing(
    fo, name: str, predictions: Predictions, *, slices: list[str], overwrite: bool
) -> fiftyone.Dataset | None:
    """The data set that is there already and may stay; None where one is to be made."""
    if overwrite or not fo.dataset_exists(name):
        return None
    dataset = fo.load_dataset(name)
    about = dataset.info.get(KEPT)
    if about is None and not dataset.persistent and not len(dataset):
        return None  # cut off before it was said what it is
    if about is None:
        raise ValueError(
            f"the data set {name!r} in FiftyOne is not vkdlab's: give another name, or pass overwrite=True"
        )
    if about["state"] != "complete":
        return None
    same = about["fingerprint"] == predictions.fingerprint or _alike(dataset, about, predictions)
    if same and about["slices"] == slices:
        _check_files(dataset)
        return dataset
    what = "other renderings" if same else "other answers"
    raise ValueError(
        f"the data set {name!r} in FiftyOne holds {what}: give another name, or pass overwrite=True, "
        "by which corrections and tags in it are lost"
    )


def _check_files(dataset: fiftyone.Dataset) -> None:
    """Raises a ValueError where files of a data set that stands are missing: the App would show nothing for them."""
    every = dataset.select_group_slices() if dataset.media_type == GROUP else dataset
    if missing := [path for path in every.values("filepath") if not os.path.isfile(path)]:
        raise ValueError(
            f"{len(missing)} video files of the data set {dataset.name!r} in FiftyOne are missing: "
            f"{first_of(missing)}. Put them back; or, where they were moved for good, load the data from there and "
            "pass overwrite=True, by which corrections and tags in it are lost"
        )


def _alike(dataset: fiftyone.Dataset, about: Mapping[str, Any], predictions: Predictions) -> bool:
    """True for the same answers to the same queries but for what another machine or number of threads makes of them."""
    if about["data"]["fingerprint"] != predictions.dataset.fingerprint:
        return False
    standing = predictions_of(dataset)
    if standing.moments_s.keys() != predictions.moments_s.keys() or standing.scores.keys() != predictions.scores.keys():
        return False
    rows = {query.id: row for row, query in enumerate(predictions.dataset.queries)}
    there = [row for row, query in enumerate(standing.dataset.queries) if query.id in rows]
    here = [rows[standing.dataset.queries[row].id] for row in there]
    kinds = (("moments_s", ALIKE_S), ("confidence", ALIKE), ("weights", ALIKE))
    return all(
        name in getattr(standing, kind)
        and np.allclose(getattr(standing, kind)[name][there], values[here], rtol=0, atol=near, equal_nan=True)
        for kind, near in kinds
        for name, values in getattr(predictions, kind).items()
    )


def _media(dataset: Dataset, files: Mapping[str, Mapping[str, Path]], *, progress: bool) -> dict[str, dict[str, Media]]:
    """Every slice's files by video id, "rgb" first.

    Raises:
        ValueError: some are missing or cannot be read; the first five are named.
    """
    problems = [f"{name} has no file" for name, video in dataset.videos.items() if video.path is None]
    for slice_, by_video in files.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", slice_) or slice_ == RGB:
            raise ValueError(
                f"a rendering is named by lower-case letters, digits and _, and not {RGB!r}, got {slice_!r}"
            )
        problems += [f"{slice_} of {name}, which is no video here" for name in by_video.keys() - dataset.videos.keys()]
    wanted = [(RGB, name, video.path) for name, video in dataset.videos.items() if video.path is not None]
    wanted += [(slice_, name, path) for slice_, by_video in files.items() for name, path in by_video.items()]

    def read(item: tuple[str, str, Path]) -> Media | str:
        try:
            return Media.read(item[2])
        except (VideoError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(total=len(wanted), desc="reading videos", unit="video", disable=not progress or not wanted)
        with bar:
            read_all = []
            for media in pool.map(read, wanted):
                read_all.append(media)
                bar.update()
    found: dict[str, dict[str, Media]] = {slice_: {} for slice_ in (RGB, *files)}
    for (slice_, name, _), media in zip(wanted, read_all, strict=True):
        if isinstance(media, Media):
            found[slice_][name] = media
        else:
            problems.append(media)
    if problems:
        raise ValueError(
            f"{len(problems)} videos cannot be shown: {first_of(problems, separator='; ')}. Nothing was written: mend "
            "them, or leave them out by dataset.of_videos"
        )
    return found


def _about(predictions: Predictions, *, slices: list[str]) -> dict[str, Any]:
    data = predictions.dataset
    return {
        "format": FORMAT,
        "name": predictions.name,
        "fingerprint": predictions.fingerprint,
        "data": {
            "name": data.name, "split": data.split, "profile": data.profile, "version": data.version,
            "root": os.fspath(data.root.absolute()), "fingerprint": data.fingerprint,
        },
        "sources": list(predictions.moments_s),
        "teachers": list(predictions.teachers),
        "known": {kind: list(getattr(predictions, kind)) for kind in ("confidence", "weights", "scores")},
        "slices": slices,
        "state": "writing",
    }  # fmt: skip


def _write(
    dataset: fiftyone.Dataset, predictions: Predictions, media: Mapping[str, Mapping[str, Media]], *, progress: bool
) -> None:
    table = facts(predictions)
    sources = (GT, *predictions.moments_s)
    known = [name for source in sources for name in fact_names(table, source)]
    documents.declare(dataset, sources, known, predictions.scores)
    timelines = {name: each.timeline for name, each in media[RGB].items()}
    moments = {source: documents.moment_documents(predictions, table, source, timelines) for source in sources}
    kept = documents.kept_documents(predictions, timelines)
    videos = list(predictions.dataset.videos.values())
    grouped = len(media) > 1
    with tqdm(total=len(videos), desc="to FiftyOne", unit="video", disable=not progress) as bar:
        for first in range(0, len(videos), BATCH):
            batch = videos[first : first + BATCH]
            samples, frames = [], []
            for video in batch:
                group = documents.new_id() if grouped else None
                common = {"video_id": video.id, "split": predictions.dataset.split, "duration_s": video.duration_s}
                shown = {source: documents.field_document(moments[source][video.id]) for source in sources}
                for slice_, files in media.items():
                    if video.id not in files:
                        continue
                    fields = common | shown | {KEPT: kept[video.id]} if slice_ == RGB else common
                    sample = documents.sample_document(dataset, files[video.id], fields, group=group, slice_=slice_)
                    samples.append(sample)
                    if slice_ == RGB:
                        scores = kept[video.id]["scores"]
                        frames += documents.frame_documents(dataset, sample, scores, timelines[video.id])
            documents.insert(dataset, samples, frames)
            bar.update(len(batch))


def _arrange(dataset: fiftyone.Dataset, predictions: Predictions) -> None:
    """Puts what a person filters by to the top of the App's sidebar, and gives every source its colour in figures."""
    fo = database.fiftyone()
    known = colours(predictions) | {GT: TRUTH_IN_THE_APP}
    fields = [{"path": field, "fieldColor": known[field]} for field in (GT, *predictions.moments_s)]
    dataset.app_config.color_scheme = fo.ColorScheme(color_by="field", fields=fields)
    groups = fo.DatasetAppConfig.default_sidebar_groups(dataset)
    for group in groups:
        group.expanded = group.name in ("tags", "labels")
    dataset.app_config.sidebar_groups = sorted(groups, key=lambda group: not group.expanded)
    dataset.save()
