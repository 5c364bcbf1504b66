"""Readers of the published sentence-grounding files: Charades-STA, ActivityNet Captions, TACoS, QVHighlights, GMDCSA24.

Each follows the files as their authors publish them. Rows are counted from 1; entries of JSON files, which have no
rows, are named by video and index from 0.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from typing import Any

from ..datasets import Action, Dataset, Query, Video
from ..video import FrameReader
from .common import Request, clock_s, open_text


def charades_sta(request: Request) -> Dataset:
    """Lines `VIDEO start end##sentence`, seconds; durations from charades.json."""
    durations = {name: entry["duration"] for name, entry in _json(request, "charades.json").items()}
    (file,) = request.files
    videos, queries = {}, []
    paths = request.video_files()
    for row, line in request.lines(file):
        place, marks, sentence = line.partition("##")
        fields = place.split()
        if not marks or len(fields) != 3:
            request.refuse(file, row, f"expected 'VIDEO start end##sentence', got {line.strip()!r}")
            continue
        name = fields[0]
        if not request.wants(name):
            continue
        if name not in durations:
            request.refuse(file, row, f"charades.json knows no video {name!r}")
            continue
        try:
            times = clock_s(fields[1]), clock_s(fields[2])
        except ValueError as error:
            request.refuse(file, row, str(error))
            continue
        moment = request.moment(file, row, *times, durations[name])
        if moment:
            videos[name] = Video(name, paths.get(name), durations[name])
            queries.append(Query(f"{name}:{row}", name, sentence.strip(), *moment))
    return request.dataset(videos.values(), queries=queries)


def activitynet_captions(request: Request) -> Dataset:
    """`{video: {duration, timestamps [[start, end]], sentences}}`, seconds."""
    return _entries(request, lambda entry: (1.0, entry["duration"]))


def tacos(request: Request) -> Dataset:
    """`{video: {fps, num_frames, timestamps [[first, last]], sentences}}`, in frames; given here in seconds."""
    return _entries(request, lambda entry: (1 / entry["fps"], entry["num_frames"] / entry["fps"]))


def qvhighlights(request: Request) -> Dataset:
    """JSON lines; a query has one or several windows, of which the longest is its moment."""
    (file,) = request.files
    videos, queries = {}, []
    paths = request.video_files()
    for row, line in request.lines(file):
        entry = json.loads(line)
        name, duration_s = entry["vid"], float(entry["duration"])
        if not request.wants(name):
            continue
        windows = [request.moment(file, row, *map(float, window), duration_s) for window in entry["relevant_windows"]]
        windows = tuple(sorted(window for window in windows if window))
        if not windows:
            continue
        longest = max(windows, key=lambda window: window[1] - window[0])
        videos[name] = Video(name, paths.get(name), duration_s)
        queries.append(
            Query(
                str(entry["qid"]),
                name,
                entry["query"].strip(),
                *longest,
                windows_s=windows if len(windows) > 1 else (),
            )
        )
    return request.dataset(videos.values(), queries=queries)


_GMDCSA24_SENTENCES = {
    "Drinking": "a person drinks",
    "Eating": "a person eats",
    "Exercising": "a person does exercises",
    "Fall (FW)": "a person falls forward",
    "Falling (BW)": "a person falls backward",
    "Falling (FW)": "a person falls forward",
    "Falling (SW)": "a person falls sideways",
    "Reading": "a person reads",
    "Sitting": "a person is sitting",
    "Sleeping": "a person is lying asleep",
    "Standing": "a person is standing",
    "Walking": "a person walks",
}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def gmdcsa24(request: Request) -> Dataset:
    """Rows with `in_pack` 1: each interval is an action, and a query whose sentence names its activity (ours)."""
    (file,) = request.files
    rows = [(number, row) for number, row in request.rows(file) if row["in_pack"] == "1"]
    repeats = Counter((row["clip"], row["activity"]) for _, row in rows)
    seen: dict[tuple[str, str], int] = defaultdict(int)
    videos, queries, actions = {}, [], []
    for number, row in rows:
        request.place[:] = file, number
        path = request.folder / "clips" / row["clip"]
        name = path.stem
        if name not in videos:
            videos[name] = Video(name, path, FrameReader(path).duration_s)
        moment = request.moment(file, number, float(row["start_s"]), float(row["end_s"]), videos[name].duration_s)
        if moment is None:
            continue
        activity = row["activity"].replace("Fall (", "Falling (")
        sentence = _GMDCSA24_SENTENCES.get(row["activity"])
        if sentence is None:
            request.refuse(file, number, f"the activity {row['activity']!r} has no sentence")
            continue
        key = row["clip"], row["activity"]
        seen[key] += 1
        again = repeats[key] > 1
        if again:
            sentence += f" for the {_ORDINALS[seen[key] - 1]} time"
        queries.append(Query(f"{name}:{number}", name, sentence, *moment, kind="order" if again else "plain"))
        actions.append(Action(f"{name}:{number}", name, activity, *moment))
    return request.dataset(videos.values(), queries=queries, actions=actions)


def _entries(request: Request, scale) -> Dataset:
    (file,) = request.files
    videos, queries = {}, []
    paths = request.video_files()
    for name, entry in _json(request, file).items():
        request.place[:] = file, name
        if not request.wants(name):
            continue
        unit_s, duration_s = scale(entry)
        for index, (span, sentence) in enumerate(zip(entry["timestamps"], entry["sentences"], strict=True)):
            row = f"{name}[{index}]"
            moment = request.moment(file, row, span[0] * unit_s, span[1] * unit_s, duration_s)
            if moment:
                videos[name] = Video(name, paths.get(name), duration_s)
                queries.append(Query(f"{name}:{index}", name, " ".join(sentence.split()), *moment))
    return request.dataset(videos.values(), queries=queries)


def _json(request: Request, name: str) -> dict[str, Any]:
    try:
        with open_text(request.manifest, request.folder, name) as file:
            return json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{request.folder / name} cannot be read: {error}. {request.manifest.cure}") from error
