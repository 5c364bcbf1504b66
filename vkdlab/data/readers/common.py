"""What every reader needs: label files plain or gzipped, moments held against their videos, splits that are held
out."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from ..datasets import TOLERANCE_S, Action, Dataset, Problem, Query, Question, Video, moment_error, spread
from ..manifests import DataMissing, Manifest, ManifestError
from ..video import VideoError


@dataclass(frozen=True)
class Request:
    """What `load` was asked for, and the folder found for it."""

    manifest: Manifest
    """The set."""
    split: str
    """One of the manifest's splits."""
    profile: str
    """"smoke", "demo" or "full"."""
    folder: Path
    """The set's folder below the data root."""
    root: Path
    """The data root."""
    progress: bool = True
    """Whether sets that are built show a progress bar."""
    problems: list[Problem] = field(default_factory=list)
    """Filled while reading."""
    place: list[str | int] = field(default_factory=list)
    """File and row, or entry, that is being read; empty before and after."""

    @property
    def files(self) -> tuple[str, ...]:
        """Label files of the split, or of the split that it is held out of."""
        return self.manifest.files(self.split)

    def lines(self, file: str) -> Iterator[tuple[int, str]]:
        """Lines of a label file with their numbers from 1."""
        with open_text(self.manifest, self.folder, file) as lines:
            for row, line in enumerate(lines, start=1):
                self.place[:] = file, row
                yield row, line

    def rows(self, file: str) -> Iterator[tuple[int, dict[str, str]]]:
        """Rows of a CSV as fields by column, with their numbers; the header is row 1."""
        with open_text(self.manifest, self.folder, file) as lines:
            for row, fields in enumerate(csv.DictReader(lines), start=2):
                self.place[:] = file, row
                yield row, fields

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns what a reader stumbles over into an error that names file and row.

        Raises:
            ValueError: a row lacks a field, holds what no field may hold, or cannot be unpacked.
        """
        try:
            yield
        except (VideoError, ManifestError):
            raise
        except (ValueError, LookupError, TypeError, AttributeError, EOFError, gzip.BadGzipFile, csv.Error) as error:
            if not self.place:
                raise
            file, row = self.place
            missing = isinstance(error, KeyError)
            reason = f"expected a field {error}, there is none" if missing else f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{self.folder / str(file)}, row {row}: {reason}. The file is damaged, or of another version than "
                f"{self.manifest.version!r}. {self.manifest.cure}"
            ) from error

    def wants(self, video: str, *, group: str = "", position: float | None = None) -> bool:
        """Whether a video of `files` belongs to the split, held-out parts considered.

        Args:
            video: its id.
            group: its recording group, where splits are held out by group.
            position: where it lies in [0, 1) among the videos that are dealt out; default a hash of its id.
        """
        manifest = self.manifest
        position = spread(f"{manifest.name}:{video}") if position is None else position
        given = manifest.split(self.split).held_out
        start = 0.0
        for name, split in manifest.splits.items():
            held = split.held_out
            if held is None or held.of != (given.of if given else self.split):
                continue
            end = start + (held.fraction or 0.0)
            if group in held.groups or start <= position < end:
                return name == self.split
            start = end
        return given is None

    def moment(
        self, file: str, row: int | str, start_s: float, end_s: float, duration_s: float
    ) -> tuple[float, float] | None:
        """The moment if it lies within the video; a problem is noted otherwise.

        An end that passes the video's end by no more than the manifest's tolerance is moved to it and kept.
        """
        beyond = end_s - duration_s
        mended = min(end_s, duration_s) if beyond <= self.manifest.end_tolerance_s else end_s
        if reason := moment_error(start_s, mended, duration_s):
            self.problems.append(Problem(file, row, reason))
            return None
        if beyond > TOLERANCE_S:
            reason = f"end {end_s:g} s is {beyond:.2g} s beyond the video; moved to its end at {duration_s:g} s"
            self.problems.append(Problem(file, row, reason, kept=True))
        return start_s, mended

    def refuse(self, file: str, row: int | str, reason: str) -> None:
        """Notes a row that cannot be used."""
        self.problems.append(Problem(file, row, reason))

    def dataset(
        self,
        videos: Iterable[Video],
        *,
        queries: Iterable[Query] = (),
        actions: Iterable[Action] = (),
        questions: Iterable[Question] = (),
    ) -> Dataset:
        """The data set read."""
        videos = {video.id: video for video in videos}
        self.place.clear()
        return Dataset(
            name=self.manifest.name,
            split=self.split,
            profile=self.profile,
            videos=videos,
            queries=tuple(queries),
            actions=tuple(actions),
            questions=tuple(questions),
            root=self.root,
            version=self.manifest.version,
            problems=tuple(self.problems),
        )

    def video_files(self) -> dict[str, Path]:
        """Video files that a person has added, by video id, with and without suffix; empty when there are none."""
        layout = self.manifest.videos
        folder = self.folder / layout.folder if layout else None
        if folder is None or not folder.is_dir():
            return {}
        paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in layout.suffixes]
        return {path.stem: path for path in paths} | {path.name: path for path in paths}


def find(manifest: Manifest, folder: Path, name: str) -> Path:
    """A label file, plain or with .gz.

    Raises:
        DataMissing: neither is there.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataMissing(f"{manifest.name}: {folder / name} is missing (with or without .gz). {manifest.cure}")


def open_text(manifest: Manifest, folder: Path, name: str) -> TextIO:
    """Opens a label file as UTF-8, unpacking .gz on the way.

    Raises:
        DataMissing: it is not there.
    """
    path = find(manifest, folder, name)
    return (
        gzip.open(path, "rt", encoding="utf-8", newline="")
        if path.suffix == ".gz"
        else open(path, encoding="utf-8", newline="")
    )


def clock_s(text: str) -> float:
    """Seconds from "75.5", "1:15.5" or "0:01:15.5".

    Raises:
        ValueError: the text is no time.
    """
    parts = text.strip().split(":")
    wrong = f"{text.strip()!r} is no time: expected seconds (75.5), mm:ss (1:15.5) or hh:mm:ss (0:01:15.5)"
    if not 1 <= len(parts) <= 3 or any(not part.isdigit() for part in parts[:-1]):
        raise ValueError(wrong)
    try:
        seconds = float(parts[-1])
    except ValueError:
        raise ValueError(wrong) from None
    if (
        not math.isfinite(seconds)
        or (len(parts) > 1 and not 0 <= seconds < 60)
        or (len(parts) == 3 and int(parts[1]) > 59)
    ):
        raise ValueError(wrong)
    for weight, part in zip((60, 3600), reversed(parts[:-1]), strict=False):
        seconds += weight * int(part)
    return seconds
