"""What each data set is, where a person gets it and how it must lie: pydantic models over `data_manifests/*.yaml`.

A manifest states facts that `check` can hold against the files: counts, hashes, layout, known defects. It never
fetches anything.
"""

from __future__ import annotations

import csv
import difflib
import importlib.util
import os
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..files import project_root
from .field_errors import explain

ROOT_VARIABLE = "VKDLAB_DATA"
Reader = Literal[
    "actionsense",
    "activitynet-captions",
    "arid",
    "camvid",
    "charades-sta",
    "clips",
    "davis",
    "epic-kitchens",
    "gmdcsa24",
    "how2qa",
    "nextqa",
    "packages",
    "qvhighlights",
    "star",
    "tabletop",
    "tacos",
    "tvqa",
    "vlep",
]


class ManifestError(ValueError):
    """A manifest is wrong, or none has the name; the message names file and field, what was expected and given, and
    the cure."""


class DataMissing(FileNotFoundError):
    """Files of a data set are not there; the message says which, and where a person gets them."""


def _below(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\\" in path:
        raise ValueError("expected a path below the data root, with / between folders and without ..")
    return path


RelativePath = Annotated[str, AfterValidator(_below)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HeldOut(_Model):
    """A split that the source does not have: some videos of another split, the same on every machine."""

    of: str = Field(description="The split that gives the videos away")
    fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Part of its videos (0..1), chosen by a hash of their ids; None when `groups` are named",
    )
    groups: tuple[str, ...] = Field((), description="Recording groups that are held out whole, instead of a fraction")


class Split(_Model):
    """One split. Counts are what `load` gives; a mapping gives one count per profile."""

    files: tuple[RelativePath, ...] = Field((), description="Label files, below the manifest's folder, without .gz")
    videos: int | dict[str, int] | None = Field(None, description="Number of videos; None where it depends on a build")
    queries: int | dict[str, int] | None = Field(None, description="Number of grounded sentences")
    actions: int | dict[str, int] | None = Field(None, description="Number of labelled actions")
    questions: int | dict[str, int] | None = Field(None, description="Number of multiple-choice questions")
    held_out: HeldOut | None = Field(None, description="Set when the split is held out of another one")
    note: str = Field("", description="What a user must know about this split")


class Features(_Model):
    """Features that come with the set, or that published results on it use."""

    extractor: str = Field(description="Network and weights")
    dim: int = Field(gt=0, description="Numbers per clip")
    order: tuple[str, ...] = Field(description="What the dimensions are, in order of concatenation")
    stride_s: float | None = Field(
        None, gt=0, description="Seconds from one clip to the next; None where the source does not say"
    )
    files: tuple[RelativePath, ...] = Field(
        (), description="Files that hold them, below the manifest's folder; empty: get them elsewhere"
    )
    note: str = Field("", description="Where they come from and what is odd about them")


class Videos(_Model):
    """Where video files of an annotation-only set may lie."""

    folder: RelativePath = Field(description="Folder below the manifest's folder; files are <video id>.<suffix>")
    suffixes: tuple[str, ...] = Field((".mp4", ".mkv", ".webm", ".avi"), description="Suffixes that count as a video")


class Package(_Model):
    """An installed Python package that carries files."""

    distribution: str = Field(description="Name for pip")
    version: str = Field(description="Version whose files have the hashes")
    module: str = Field(description="Importable name; it is located, never imported")
    files: tuple[RelativePath, ...] = Field(description="Files below the module's folder")


class Build(_Model):
    """A set that vkdlab makes itself."""

    seed: int = Field(description="Seed of everything random")
    version: str = Field(description="Changes whenever the same seed would give other labels")
    profiles: dict[str, dict[str, Any]] = Field(
        description="Per profile, the builder's settings; units are in their names"
    )


class Overlap(_Model):
    """Two splits that share videos, as published."""

    splits: tuple[str, str] = Field(description="The two")
    videos: int = Field(gt=0, description="Number of videos in both")
    reason: str = Field(description="Why, and what it means for a result")


class Manifest(_Model):
    """One data set."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="The file's name without .yaml")
    title: str = Field(description="Name as its authors write it")
    task: Literal[
        "grounding",
        "action recognition",
        "question answering",
        "highlight detection",
        "segmentation",
        "detection",
        "classification",
        "browsing",
        "all",
    ] = Field(description="What it is used for here")
    summary: str = Field(description="One or two sentences")
    source: str = Field(description="URL where its authors describe it, or the package's name")
    citation: str = Field(description="The publication, one line")
    licence: str = Field(description="Terms as far as they are known")
    redistributable: bool = Field(description="True when the terms allow passing the files on")
    version: str = Field(description="Version or revision that counts and hashes belong to")
    where: str = Field(description="How a person gets it")
    folder: RelativePath = Field("", description="Folder below the data root")
    layout: str = Field("", description="Expected files below the folder")
    checksums: RelativePath | None = Field(
        None,
        description="CSV beside the manifest: path, bytes, sha256 (of a .gz, its content's); None where none is known",
    )
    packages: tuple[Package, ...] = Field((), description="Installed packages that carry the files")
    videos: Videos | None = Field(
        None, description="Set when labels are useful without the videos, which a person may add"
    )
    fps: float | None = Field(None, gt=0, description="Frames per second; None where videos differ")
    clip_length_s: float | None = Field(
        None, gt=0, description="Length in seconds of the annotation grid's clips; None where there is none"
    )
    features: tuple[Features, ...] = Field((), description="Features that come with it or are usual for it")
    splits: dict[str, Split] = Field(description="By name")
    shared_videos: tuple[Overlap, ...] = Field((), description="Splits that share videos as published")
    published_rows: dict[RelativePath, int] = Field({}, description="Rows that a label file holds, as published")
    known_problems: dict[RelativePath, int] = Field(
        {},
        description="Rows of a label file with a fault, as published: a moment beyond its video, no right answer",
    )
    end_tolerance_s: float = Field(
        0.0,
        ge=0,
        description="Seconds by which a moment's end may pass the video's end and is then moved to it, and reported",
    )
    traps: tuple[str, ...] = Field((), description="What has misled people")
    reader: Reader | None = Field(None, description="What parses it; None when vkdlab only names the set")
    build: Build | None = Field(None, description="Set when vkdlab makes the files")

    @model_validator(mode="after")
    def _splits_fit(self):
        used: dict[str, str] = {}
        for name, split in self.splits.items():
            if split.held_out:
                source = self.splits.get(split.held_out.of)
                if source is None or source.held_out:
                    raise ValueError(
                        f"splits.{name}.held_out.of: expected a split that has files, got {split.held_out.of!r}"
                    )
                if (split.held_out.fraction is None) == (not split.held_out.groups):
                    raise ValueError(f"splits.{name}.held_out: expected either a fraction or groups")
                continue
            for file in split.files:
                if file in used:
                    raise ValueError(
                        f"splits.{name} and splits.{used[file]} overlap: both read {file!r}. "
                        "Give each its own file, or say held_out"
                    )
                used[file] = name
        for file in (*self.published_rows, *self.known_problems):
            if file not in used:
                raise ValueError(f"{file!r} has a count in published_rows or known_problems but no split reads it")
        for overlap in self.shared_videos:
            for name in overlap.splits:
                if name not in self.splits:
                    raise ValueError(
                        f"shared_videos names the unknown split {name!r}; there are {', '.join(self.splits)}"
                    )
        return self

    def at(self, root: str | os.PathLike | None = None) -> Path:
        """The set's folder below the data root.

        Raises:
            DataMissing: there is no data root, or the folder is not in it.
        """
        folder = data_root(root, wanted_by=self.name) / self.folder
        if not folder.is_dir():
            raise DataMissing(f"{self.name}: there is no folder {folder}. {self.cure}")
        return folder

    @cached_property
    def cure(self) -> str:
        """Where a person gets it, as the end of an error message."""
        return f"Get it: {self.where} `vkdlab data show {self.name}` tells the layout."

    def split(self, name: str) -> Split:
        """A split by name.

        Raises:
            ValueError: there is none of that name; the message lists them.
        """
        if name not in self.splits:
            raise ValueError(f"{self.name} has no split {name!r}; it has {', '.join(self.splits) or 'none'}")
        return self.splits[name]

    def files(self, name: str) -> tuple[str, ...]:
        """Label files of a split, or of the split that it is held out of, below the set's folder."""
        split = self.split(name)
        return self.split(split.held_out.of).files if split.held_out else split.files


def names(folder: Path | None = None) -> list[str]:
    """Names of all manifests, sorted."""
    return sorted(path.stem for path in (folder or folder_of_manifests()).glob("*.yaml"))


def get(name: str, *, folder: Path | None = None) -> Manifest:
    """The manifest of that name.

    Raises:
        ManifestError: there is none (the message suggests the closest names), or it is wrong.
    """
    folder = folder or folder_of_manifests()
    known = names(folder)
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        raise ManifestError(
            f"no data set is named {name!r}. "
            + (f"Did you mean {' or '.join(close)}? " if close else "")
            + f"Known: {', '.join(known)}. A folder of your own videos needs a moments.csv in it."
        )
    return read(folder / f"{name}.yaml")


def read(path: str | os.PathLike) -> Manifest:
    """Reads one manifest file.

    Raises:
        ManifestError: it is no YAML, or a field is unknown, missing or wrong; every one is named.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: there is no such manifest") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path.name} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ManifestError(f"{path.name}: expected fields such as `name: ...`, got {type(values).__name__}")
    try:
        manifest = Manifest(**values)
    except ValidationError as error:
        raise ManifestError("\n".join(explain(path.name, found, model=Manifest) for found in error.errors())) from None
    if manifest.name != path.stem:
        raise ManifestError(
            f"{path.name}: field name: expected {path.stem!r} as the file is called, got {manifest.name!r}"
        )
    return manifest


def checksums(manifest: Manifest, *, folder: Path | None = None) -> dict[str, tuple[int, str]]:
    """Size in bytes and SHA-256 of each of the set's files, by path below the set's folder.

    Raises:
        ManifestError: the list is not there or a row of it is wrong.
    """
    if manifest.checksums is None:
        return {}
    path = (folder or folder_of_manifests()) / manifest.checksums
    if not path.is_file():
        raise ManifestError(f"{manifest.name}.yaml: field checksums: there is no file {path}")
    found = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not (row.get("bytes") or "").isdigit() or len(row.get("sha256") or "") != 64:
                raise ManifestError(
                    f"{path.name}: expected a size in bytes and a sha256 of 64 digits for {row.get('path')!r}, got "
                    f"{row.get('bytes')!r} and {row.get('sha256')!r}"
                )
            found[row["path"]] = (int(row["bytes"]), row["sha256"])
    return found


def folder_of_manifests() -> Path:
    """Where the manifests lie in the checkout."""
    return project_root() / "data_manifests"


def data_root(root: str | os.PathLike | None = None, *, wanted_by: str) -> Path:
    """The folder that holds the data sets: `root`, else `$VKDLAB_DATA`.

    Raises:
        DataMissing: neither is given, or it is no readable folder.
    """
    given = root if root is not None else os.environ.get(ROOT_VARIABLE)
    if not given:
        raise DataMissing(
            f"{wanted_by} lies in the data root, and none is given: set {ROOT_VARIABLE} to the folder that holds "
            "your data sets, or pass --data-root (in Python: root=)"
        )
    path = Path(given).expanduser()
    if not path.is_dir():
        raise DataMissing(
            f"the data root {path} is no folder: correct {ROOT_VARIABLE} or --data-root (in Python: root=)"
        )
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataMissing(f"the data root {path} may not be read by you: change its permissions")
    return path


def package_folder(package: Package) -> Path | None:
    """Where an installed package lies, without importing it; None when it is not installed."""
    spec = importlib.util.find_spec(package.module)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None
