"""Your own videos: a folder and a CSV with the columns file, start, end, sentence become a data set, and back.

Times are seconds, mm:ss or hh:mm:ss.fff. A bad row is reported with its number and reason, and the good ones are kept.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import atomic_path
from .datasets import SPLITS, Dataset, Problem, Query, Video, first_of, moment_error, spread
from .readers.common import clock_s
from .video import FrameReader, VideoError

MOMENTS_FILE = "moments.csv"
COLUMNS = ("file", "start", "end", "sentence")
HELD_OUT = {"test": 0.15, "val": 0.15}


@dataclass(frozen=True)
class BadRow:
    """A row that was left out."""

    row: int
    """Line in the CSV, from 1; the header is line 1."""
    reason: str
    """What is wrong with it, and what was expected."""

    def __str__(self) -> str:
        return f"row {self.row}: {self.reason}"


def own_videos(
    folder: str | os.PathLike,
    csv: str | os.PathLike = MOMENTS_FILE,
    *,
    name: str | None = None,
    split: str = "all",
) -> tuple[Dataset, list[BadRow]]:
    """Makes a data set of the videos in a folder.

    The CSV has a header with file, start, end and sentence in any order; a column `split` (train, val, test) is
    followed when there is one, other columns are passed over. Commas, semicolons and tabs separate; UTF-8 with or
    without a byte order mark, and what Excel writes on Windows, are read.

    Args:
        folder: holds the videos; `file` is relative to it, or a whole path.
        csv: the CSV's path, or its name in the folder.
        name: the data set's name, default the folder's.
        split: "all", or "train", "val", "test": by the column `split`; without one, videos are dealt out 70/15/15 by
            a hash of their names, with at least one video in each where there are three.

    Returns:
        The data set of the good rows, and the bad rows of the whole CSV.

    Raises:
        FileNotFoundError: folder or CSV is not there.
        PermissionError: the folder may not be read.
        ValueError: the CSV is no text, a column is missing, or no row is good.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give the folder that holds your videos")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise PermissionError(f"the folder {folder} may not be read by you: change its permissions")
    if split not in ("all", *SPLITS):
        raise ValueError(f"expected split all, {', '.join(SPLITS)}, got {split!r}")
    path = folder / csv
    rows, has_splits = _read(path)
    videos: dict[str, Video] = {}
    queries, bad, assigned = [], [], {}
    unusable: dict[str, str] = {}
    for number, fields in rows:
        try:
            video = _video(folder, fields["file"], videos, unusable)
            queries.append(_query(number, fields, video))
            if has_splits:
                _assign(assigned, video.id, fields["split"])
        except ValueError as error:
            if queries and queries[-1].id == str(number):
                queries.pop()
            bad.append(BadRow(number, str(error)))
    if not queries:
        listed = "; ".join(map(str, bad[:5])) or "it has a header and nothing else"
        raise ValueError(f"{path} has no good row: {listed}{' ...' if len(bad) > 5 else ''}")
    used = {query.video for query in queries}
    splits = assigned if has_splits else _dealt(used)
    wanted = used if split == "all" else {video for video in used if splits[video] == split}
    if not wanted:
        raise ValueError(
            f"{path} has no video in split {split!r}: "
            + (
                "write it into the column split of some rows"
                if has_splits
                else "three videos are needed for train, val and test"
            )
        )
    dataset = Dataset(
        name=name or folder.resolve().name,
        split=split,
        profile="full",
        videos={key: video for key, video in videos.items() if key in wanted},
        queries=tuple(query for query in queries if query.video in wanted),
        root=folder,
        problems=tuple(Problem(path.name, row.row, row.reason) for row in bad),
    )
    return dataset, bad


def save_own_videos(dataset: Dataset | Sequence[Dataset], folder: str | os.PathLike) -> Path:
    """Writes the moments of a data set as a `moments.csv` that `own_videos` and `load` read, to the last digit.

    Videos stay where they are: those below the folder are named relative to it, others by their whole path. The rows
    are read once before they take the place of an older file. Of a query, its video, its sentence and its one moment
    are written; ids become the numbers of the rows.

    Args:
        dataset: one data set, whose videos are dealt out to train, val and test when they are read; or several splits
            of one, which are kept apart by a column `split`.
        folder: where `moments.csv` goes; it is made when it is not there.

    Returns:
        The CSV.

    Raises:
        ValueError: there is no query, a video has no file, a split is given twice or is not train, val or test, or a
            row would not be read back: its file is missing, or is shorter than the data set says.
        OSError: the folder cannot be written.
    """
    splits = [dataset] if isinstance(dataset, Dataset) else list(dataset)
    names = [each.split for each in splits]
    if len(splits) > 1 and (not set(names) <= set(SPLITS) or len(set(names)) < len(names)):
        raise ValueError(f"several data sets have to be train, val and test of one, each once, got {', '.join(names)}")
    if not any(each.queries for each in splits):
        raise ValueError("there is no moment to write: none of the videos has a query")
    path = Path(folder).expanduser() / MOMENTS_FILE
    videos = (each.videos[query.video] for each in splits for query in each.queries)
    missing = dict.fromkeys(f"{video.path}" for video in videos if video.path is not None and not video.path.is_file())
    if missing:
        raise ValueError(f"{path} is not written: {len(missing)} video files are missing: {first_of([*missing])}")
    with atomic_path(path) as temporary:
        home = path.parent.resolve()
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*COLUMNS, "split"] if len(splits) > 1 else COLUMNS)
            for each in splits:
                for query in each.queries:
                    row = [_name(each.videos[query.video], home), repr(query.start_s), repr(query.end_s)]
                    writer.writerow([*row, query.sentence, *([each.split] if len(splits) > 1 else [])])
        try:
            _, bad = own_videos(home, temporary.name)
        except ValueError as error:
            raise ValueError(f"{path} is not written: {str(error).replace(temporary.name, path.name)}") from None
        if bad:
            raise ValueError(f"{path} is not written: {len(bad)} of its rows could not be read back: {bad[0]}")
    return path


def _name(video: Video, home: Path) -> str:
    if video.path is None:
        raise ValueError(f"{video.id} has no video file: its moments cannot be written as those of a folder of videos")
    path = video.path.absolute()
    for place in (path, path.resolve()):
        if place.is_relative_to(home):
            return place.relative_to(home).as_posix()
    return os.fspath(path)


def _read(path: Path) -> tuple[list[tuple[int, dict[str, str]]], bool]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}: write one with the columns {', '.join(COLUMNS)}") from None
    for encoding in ("utf-16", "utf-8-sig", "cp1252"):
        if encoding == "utf-16" and raw[:2] not in (b"\xff\xfe", b"\xfe\xff"):
            continue
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise ValueError(f"{path} is no text: save it as CSV in UTF-8")
    if "\0" in text:
        raise ValueError(f"{path} is no text: save it as CSV in UTF-8")
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    columns = [column.strip().lower() for column in next(reader, [])]
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise ValueError(
            f"{path}, row 1: expected a header with the columns {', '.join(COLUMNS)}; {', '.join(missing)} is missing, "
            f"found {', '.join(filter(None, columns)) or 'nothing'}"
        )
    rows = []
    for values in reader:
        if any(value.strip() for value in values):
            padded = values + [""] * (len(columns) - len(values))
            rows.append((reader.line_num, {key: value.strip() for key, value in zip(columns, padded, strict=False)}))
    return rows, "split" in columns


def _video(folder: Path, file: str, videos: dict[str, Video], unusable: dict[str, str]) -> Video:
    if not file:
        raise ValueError("the file name is empty")
    if file in unusable:
        raise ValueError(unusable[file])
    if file not in videos:
        path = folder / file
        try:
            if not path.is_file():
                raise ValueError(f"the file {file} is missing" + ("" if Path(file).is_absolute() else f" in {folder}"))
            videos[file] = Video(file, path, FrameReader(path).duration_s)
        except (VideoError, ValueError, OSError) as error:
            unusable[file] = str(error)
            raise ValueError(unusable[file]) from None
    return videos[file]


def _query(number: int, fields: dict[str, str], video: Video) -> Query:
    times = []
    for column in ("start", "end"):
        try:
            times.append(clock_s(fields[column].replace(",", ".")))
        except ValueError as error:
            raise ValueError(f"{column} {error}") from None
    if reason := moment_error(*times, video.duration_s):
        raise ValueError(reason)
    if not fields["sentence"]:
        raise ValueError("the sentence is empty")
    return Query(str(number), video.id, fields["sentence"], times[0], min(times[1], video.duration_s))


def _assign(assigned: dict[str, str], video: str, split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected {', '.join(SPLITS)}")
    if assigned.setdefault(video, split) != split:
        raise ValueError(
            f"{video} is in split {assigned[video]!r} by an earlier row and in {split!r} by this one: splits overlap"
        )


def _dealt(videos: set[str]) -> dict[str, str]:
    order = sorted(videos, key=lambda name: (spread(name), name))
    splits = {}
    for split, fraction in HELD_OUT.items():
        count = max(1, round(fraction * len(videos))) if len(videos) >= 3 else 0
        splits |= dict.fromkeys(order[:count], split)
        order = order[count:]
    return splits | dict.fromkeys(order, "train")
