"""What a data set is once it is loaded: videos, and sentences, actions and questions about moments of them.

Times are seconds from the first frame; every moment lies within its video, `0 <= start_s < end_s <= duration_s`.
A row of a source file that breaks this is left out by its reader and kept in `Dataset.problems`, by file and row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ..files import hash_of

SPLITS = ("train", "val", "test")
TOLERANCE_S = 1e-3


@dataclass(frozen=True)
class Video:
    """One video, or what is known about it where only text or features exist."""

    id: str
    """Name, unique within the data set."""
    path: Path | None
    """The file; None where the data set comes without it."""
    duration_s: float
    """Length, seconds."""
    group: str = ""
    """Which part of the recordings it was made from; videos of different groups share none. Empty: the video is a group
    of its own."""


@dataclass(frozen=True)
class Query:
    """One sentence and the moment that it describes."""

    id: str
    """Name, unique within the data set."""
    video: str
    """The video's id."""
    sentence: str
    """What the moment shows, in English."""
    start_s: float
    """First second of the moment."""
    end_s: float
    """Last second of the moment."""
    kind: str = ""
    """Type of the query, such as "plain" or "order"; empty where the data set knows none."""
    windows_s: tuple[tuple[float, float], ...] = ()
    """All moments that the sentence describes, seconds; start_s and end_s are the longest of them. Empty where there
    is one."""


@dataclass(frozen=True)
class Action:
    """One labelled action."""

    id: str
    """Name, unique within the data set."""
    video: str
    """The video's id."""
    label: str
    """The action's class."""
    start_s: float
    """First second."""
    end_s: float
    """Last second."""
    verb: str = ""
    """The class's verb, where the data set has one."""
    noun: str = ""
    """The class's noun, where the data set has one."""


@dataclass(frozen=True)
class Question:
    """One multiple-choice question."""

    id: str
    """Name, unique within the data set."""
    video: str
    """The video's id."""
    question: str
    """The question, in English."""
    options: tuple[str, ...]
    """What may be answered."""
    answer: int
    """Index of the right option, from 0."""
    kind: str = ""
    """Type of the question; empty where the data set knows none."""
    evidence_s: tuple[float, float] | None = None
    """Start and end, in seconds, of what answers the question; None where the data set does not tell."""


@dataclass(frozen=True)
class Problem:
    """One row of a source file that could not be used as it stands."""

    file: str
    """The file, relative to the data root."""
    row: int | str
    """Row from 1 (the header counts), or the entry's name where the file has no rows."""
    reason: str
    """What is wrong."""
    kept: bool = False
    """True when the row was mended as the reason says, and kept; False when it was left out."""

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.reason}"


@dataclass(frozen=True)
class Dataset:
    """One split of a data set.

    Raises:
        ValueError: an id occurs twice, a row names a video that is not there, a moment lies outside its video, or a
            question's answer is none of its options. Readers check before; this is the last guard.
    """

    name: str
    """The manifest's name."""
    split: str
    """"train", "val" or "test"; "all" for a folder of one's own."""
    profile: str
    """"smoke", "demo" or "full"; sets that exist in one size ignore it."""
    videos: Mapping[str, Video]
    """Videos by id."""
    queries: tuple[Query, ...] = ()
    """Grounded sentences."""
    actions: tuple[Action, ...] = ()
    """Labelled actions."""
    questions: tuple[Question, ...] = ()
    """Multiple-choice questions."""
    root: Path = field(default=Path(), compare=False)
    """Folder below which its files lie."""
    version: str = ""
    """Version that the manifest states."""
    problems: tuple[Problem, ...] = ()
    """Rows of the source files that were mended or left out."""

    def __post_init__(self):
        object.__setattr__(self, "videos", dict(self.videos))
        for kind in ("queries", "actions", "questions"):
            rows = tuple(getattr(self, kind))
            object.__setattr__(self, kind, rows)
            seen = set()
            for row in rows:
                if row.id in seen:
                    raise ValueError(f"{self.name} {self.split}: id {row.id!r} occurs twice among its {kind}")
                seen.add(row.id)
                if row.video not in self.videos:
                    raise ValueError(
                        f"{self.name} {self.split}: {kind} {row.id!r} names the unknown video {row.video!r}"
                    )
                for moment in _moments(row):
                    if reason := moment_error(*moment, self.videos[row.video].duration_s):
                        raise ValueError(f"{self.name} {self.split}: {kind} {row.id!r}: {reason}")
        for row in self.questions:
            if not 0 <= row.answer < len(row.options):
                raise ValueError(
                    f"{self.name} {self.split}: question {row.id!r} has {len(row.options)} options, "
                    f"its answer is {row.answer}"
                )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all labels, durations and the version: the same on every machine, wherever the files lie."""
        return hash_of(
            self.name,
            self.split,
            self.profile,
            self.version,
            [(video.id, round(video.duration_s, 3)) for video in sorted(self.videos.values(), key=lambda v: v.id)],
            self.queries,
            self.actions,
            self.questions,
        )

    def subset(self, fraction_or_n: float | int) -> Dataset:
        """The same data set with fewer videos, and what is said about these.

        Videos are taken in the order of a hash of their ids: the choice is the same on every machine, and a smaller
        subset lies within every larger one.

        Args:
            fraction_or_n: a float in (0, 1] is a fraction of the videos (at least one is kept), an int a number of
                videos.

        Raises:
            ValueError: the number is outside its range.
        """
        total = len(self.videos)
        if isinstance(fraction_or_n, float):
            if not 0 < fraction_or_n <= 1:
                raise ValueError(
                    f"a fraction of a data set lies in (0, 1], got {fraction_or_n}; for a number of videos pass an int"
                )
            count = max(1, round(fraction_or_n * total))
        else:
            count = int(fraction_or_n)
            if not 1 <= count <= total:
                raise ValueError(f"{self.name} {self.split} has {total} videos, a subset of {count} was asked for")
        return self.of_videos(sorted(self.videos, key=lambda name: (spread(name), name))[:count])

    def of_videos(self, names: Iterable[str]) -> Dataset:
        """The same data set with these videos alone, and what is said about them, in the order they have here.

        Raises:
            KeyError: it has no such video.
        """
        kept = set(names)
        if unknown := sorted(kept - set(self.videos)):
            raise KeyError(f"{self.name} {self.split} has no video {', '.join(map(repr, unknown[:5]))}")
        return replace(
            self,
            videos={name: video for name, video in self.videos.items() if name in kept},
            queries=tuple(row for row in self.queries if row.video in kept),
            actions=tuple(row for row in self.actions if row.video in kept),
            questions=tuple(row for row in self.questions if row.video in kept),
        )


def moment_error(start_s: float, end_s: float, duration_s: float) -> str:
    """Why `[start_s, end_s]` is no moment of a video of `duration_s` seconds; empty when it is one."""
    if not (math.isfinite(start_s) and math.isfinite(end_s)):
        return f"the moment {start_s} to {end_s} s is not a pair of finite numbers"
    if end_s <= start_s:
        return f"the moment ends at {end_s:g} s, not after its start at {start_s:g} s"
    if start_s < 0:
        return f"the moment starts at {start_s:g} s, before the video"
    if end_s > duration_s + TOLERANCE_S:
        return f"the moment {start_s:g} to {end_s:g} s lies beyond the video, which is {duration_s:g} s long"
    return ""


def spread(name: str) -> float:
    """A number in [0, 1) drawn from a hash of `name`: for choices that are the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48


def first_of(names: list[str], *, separator: str = ", ") -> str:
    """The first five of `names`, and how many more there are."""
    return separator.join(names[:5]) + (f"{separator}and {len(names) - 5} more" if len(names) > 5 else "")


def _moments(row: Query | Action | Question) -> list[tuple[float, float]]:
    if isinstance(row, Question):
        return [row.evidence_s] if row.evidence_s else []
    return [(row.start_s, row.end_s), *getattr(row, "windows_s", ())]
