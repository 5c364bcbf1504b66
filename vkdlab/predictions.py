"""What a run answered, in a form that every method can write and figures, players and FiftyOne can read (ours).

A method fills in `Predictions` and knows nothing of who looks at them; who looks at them knows no method. On disk it is
one JSON file, `predictions.json` in a run's folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from .data.datasets import Dataset
from .data.loading import load as load_data
from .data.own_videos import MOMENTS_FILE
from .files import hash_of, read_json, write_json

FILE = "predictions.json"
TEACHER = "teacher_"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class FrameScores:
    """A number for some moments of one video, such as a frame's relevance or how much of it is new."""

    times_s: Float[np.ndarray, " t"]
    """When, seconds; ascending."""
    values: Float[np.ndarray, " t"]
    """What, in the score's own unit."""

    def __post_init__(self):
        for name in ("times_s", "values"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=float))
        if self.times_s.ndim != 1 or self.times_s.shape != self.values.shape:
            raise ValueError(f"expected one value per time, got {self.times_s.shape} times and {self.values.shape}")
        if not (np.isfinite(self.times_s).all() and np.isfinite(self.values).all()):
            raise ValueError("a frame's time and score are finite numbers")
        if (np.diff(self.times_s) <= 0).any():
            raise ValueError("times of frame scores ascend, and none is there twice")


@dataclass(frozen=True, eq=False)
class Predictions:
    """The answers of several sources to the n queries of a data set, each source's best moment.

    Raises:
        ValueError: a source's name that is no lower-case identifier or is taken, numbers that are not one row per
            query, a moment that ends before it starts or is not finite, confidence or weights outside 0 to 1, weights
            of no teacher, or scores of an unknown video.
    """

    name: str
    """What a person calls it."""
    dataset: Dataset
    """Videos, and queries with their true moments."""
    moments_s: Mapping[str, Float[np.ndarray, "n 2"]] = field(default_factory=dict)
    """Source to its best moment of every query, seconds; not-a-number where it gave none. Teachers are named
    `teacher_<name>`, the student `student`, the teachers' mixture `label`."""
    confidence: Mapping[str, Float[np.ndarray, " n"]] = field(default_factory=dict)
    """Source to how sure it was of each moment, 0 to 1; not-a-number where it is not known."""
    weights: Mapping[str, Float[np.ndarray, "n 2"]] = field(default_factory=dict)
    """Teacher's source to the weight that its start and its end had in the mixture, 0 to 1."""
    scores: Mapping[str, Mapping[str, FrameScores]] = field(default_factory=dict)
    """Name of a frame-level score to video id to its values."""

    def __post_init__(self):
        for kind, width in (("moments_s", 2), ("confidence", 0), ("weights", 2)):
            rows = {name: np.asarray(values, dtype=float) for name, values in getattr(self, kind).items()}
            object.__setattr__(self, kind, rows)
            expected = (len(self.dataset.queries), width) if width else (len(self.dataset.queries),)
            for name, values in rows.items():
                if values.shape != expected:
                    raise ValueError(f"{kind} of {name!r}: expected an array of {expected}, got {values.shape}")
        for name in (*self.moments_s, *self.scores):
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "gt":
                raise ValueError(
                    f"a source or score is named by lower-case letters, digits and _, and not 'gt', got {name!r}"
                )
        if others := [name for name in self.weights if not name.startswith(TEACHER)]:
            raise ValueError(f"weights belong to teachers, named {TEACHER}..., got {others[0]!r}")
        for kind in ("confidence", "weights"):
            if unknown := getattr(self, kind).keys() - self.moments_s.keys():
                raise ValueError(f"{kind} of {sorted(unknown)[0]!r}, which gave no moments")
            for name, values in getattr(self, kind).items():
                # What a network sums up to 1 ends a little beside it.
                if (strange := values[(values < -1e-4) | (values > 1 + 1e-4)]).size:
                    raise ValueError(f"{kind} of {name!r} lies between 0 and 1, got {strange[0]:g}")
        for name, moments in self.moments_s.items():
            if np.isinf(moments).any():
                raise ValueError(
                    f"{name}: a moment's seconds are finite, or both not-a-number where there is no answer"
                )
            bad = (moments[:, 1] < moments[:, 0]) | (np.isnan(moments).sum(1) == 1)
            if bad.any():
                row = int(bad.nonzero()[0][0])
                raise ValueError(
                    f"{name}: the moment of query {self.dataset.queries[row].id!r} ends before it starts or has one end"
                )
        for name, by_video in self.scores.items():
            if unknown := by_video.keys() - self.dataset.videos.keys():
                raise ValueError(f"score {name!r} of the unknown video {sorted(unknown)[0]!r}")

    @property
    def teachers(self) -> tuple[str, ...]:
        """The sources that are teachers."""
        return tuple(name for name in self.moments_s if name.startswith(TEACHER))

    @property
    def truth_s(self) -> Float[np.ndarray, "n 2"]:
        """The true moments, seconds."""
        return np.array([(query.start_s, query.end_s) for query in self.dataset.queries], dtype=float).reshape(-1, 2)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the labels and of every answer, to four digits behind the point."""
        return hash_of(self.dataset.fingerprint, self._plain(digits=4))

    def beside(self, other: Predictions, *, source: str = "student", as_: str = "student_b") -> Predictions:
        """These answers, and a source of another run's to the same queries, to be compared.

        Args:
            other: the other run's answers.
            source: which of them.
            as_: what they are called here.

        Raises:
            ValueError: there is no such source, the name is taken, or the other run answered other data.
        """
        if source not in other.moments_s:
            known = ", ".join(other.moments_s) or "none"
            raise ValueError(f"{other.name!r} has no answers of {source!r}, it has {known}")
        if as_ in self.moments_s:
            raise ValueError(f"there are answers of {as_!r} already: give the other run's another name")
        if other.dataset.fingerprint != self.dataset.fingerprint:
            raise ValueError(
                f"{other.name!r} answers {other.dataset.name} {other.dataset.split} and {self.name!r} answers "
                f"{self.dataset.name} {self.dataset.split}, or their labels differ: compare runs on the same data"
            )
        parts = {
            kind: getattr(self, kind) | {as_: getattr(other, kind)[source]}
            for kind in ("moments_s", "confidence")
            if source in getattr(other, kind)
        }
        return replace(self, name=f"{self.name} beside {other.name}", **parts)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes all but the data set itself, of which name and fingerprint are kept, as JSON, atomically.

        Args:
            path: a file, or a folder, such as a run's, which then holds `predictions.json`.

        Returns:
            The file.
        """
        path = _file(path)
        data = self.dataset
        own = (data.root / MOMENTS_FILE).is_file()
        where = {
            "name": os.fspath(data.root.resolve()) if own else data.name,
            "split": data.split,
            "profile": data.profile,
            "videos": sorted(data.videos),
            "fingerprint": data.fingerprint,
        }
        write_json(path, {"format": FORMAT, "name": self.name, "data": where, **self._plain()})
        return path

    @classmethod
    def load(cls, path: str | os.PathLike, *, dataset: Dataset | None = None, progress: bool = True) -> Predictions:
        """Reads what `save` wrote.

        Args:
            path: the file, or the folder that holds it.
            dataset: the data that was answered; by default it is loaded by its name.
            progress: whether a data set that has to be built shows its progress.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file holds something else, or the data set is not the one that was answered.
        """
        path = _file(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"there are no predictions at {path}: a run keeps them there once `Predictions.save` was called"
            )
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path} holds no predictions of format {FORMAT}: write them again")
        where = content["data"]
        if dataset is None:
            dataset = load_data(where["name"], where["split"], profile=where["profile"], progress=progress)
            if known := [name for name in where["videos"] if name in dataset.videos]:
                dataset = dataset.of_videos(known)
        if dataset.fingerprint != where["fingerprint"]:
            raise ValueError(
                f"{path} answers other data: {where['name']} {where['split']} as it was then had fingerprint "
                f"{where['fingerprint']}, {dataset.name} {dataset.split} now has {dataset.fingerprint}. Predict again"
            )
        parts = {
            kind: {name: np.array(rows, dtype=float).reshape(shape) for name, rows in content[kind].items()}
            for kind, shape in (("moments_s", (-1, 2)), ("confidence", (-1,)), ("weights", (-1, 2)))
        }
        scores = {
            name: {video: FrameScores(times_s=each[0], values=each[1]) for video, each in by_video.items()}
            for name, by_video in content["scores"].items()
        }
        return cls(name=content["name"], dataset=dataset, scores=scores, **parts)

    def _plain(self, digits: int = 17) -> dict:
        def plain(values: np.ndarray) -> list:
            # JSON knows no not-a-number; numpy reads null back as one.
            rounded = values.round(digits) if digits < 17 else values
            return np.where(np.isnan(rounded), None, rounded.astype(object)).tolist()

        return {
            kind: {name: plain(values) for name, values in getattr(self, kind).items()}
            for kind in ("moments_s", "confidence", "weights")
        } | {
            "scores": {
                name: {video: [plain(each.times_s), plain(each.values)] for video, each in by_video.items()}
                for name, by_video in self.scores.items()
            }
        }


def _file(path: str | os.PathLike) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / FILE
