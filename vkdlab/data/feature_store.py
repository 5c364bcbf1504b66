"""Features of a data set's videos: extracted once, one file a video, and never mistaken for those of another extractor.

A video of `duration_s` seconds has `num_clips(duration_s, stride_s)` clips, and clip `i` of `n` covers
`[i * duration_s / n, (i + 1) * duration_s / n)`: equal parts whose length is the stride up to rounding.

A folder of features holds `manifest.json` (a `FeatureManifest`) and one file a video, `<video id>.safetensors` with
the tensor "clips" (l, d), or `<video id>.npy` (l, d), the layout in which features of Charades-STA and ActivityNet
are published.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import hash_of, read_json, write_json
from .datasets import Dataset, Video, first_of

VERSION = 1
"""Goes up when extraction changes what it writes."""
SUFFIXES = {"safetensors": ".safetensors", "npy": ".npy"}
VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")


class FeatureMismatch(ValueError):
    """Features that are not those asked for: made otherwise, of another length or dimension, or not numbers."""


def num_clips(duration_s: float, stride_s: float) -> int:
    """Number of clips of a video: its length over the stride, rounded, at least one."""
    if not (math.isfinite(duration_s) and duration_s > 0 and math.isfinite(stride_s) and stride_s > 0):
        raise ValueError(f"a video's length and the stride are positive seconds, got {duration_s} and {stride_s}")
    return max(1, math.floor(duration_s / stride_s + 0.5))


@dataclass(frozen=True)
class FeatureManifest:
    """How the features of a folder were made."""

    extractor: str
    """Name of the encoder: "efficientnet-lite0", "dis-flow", or what somebody else's features come from."""
    stride_s: float
    """Seconds from one clip to the next, before rounding to equal clips: frames a stride over frames a second."""
    dim: int
    """Features a clip."""
    order: str
    """What the features are, in their order."""
    input: str
    """What was done to the frames before: size, normalisation."""
    gamma: float = 1.0
    """Exponent applied to the frames' values in [0, 1] before everything else; below 1 brightens."""
    weights_sha256: str = ""
    """SHA-256 of the extractor's weights; empty where it has none or nobody knows."""
    dtype: str = "float16"
    """Type on disk; in memory features are float32."""
    layout: str = "safetensors"
    """"safetensors" (ours) or "npy" (as published), one file a video."""
    length_tolerance: int = 0
    """Clips by which a file may differ from what its video's length says: 0 for ours, a few for published ones, many
    where these have one stride in frames for videos of different frame rates."""
    version: int = VERSION
    """Version of the extraction."""

    def __post_init__(self):
        if self.layout not in SUFFIXES:
            raise ValueError(f"a feature folder's layout is one of {', '.join(SUFFIXES)}, got {self.layout!r}")
        if not self.stride_s > 0 or self.dim < 1 or not self.gamma > 0 or self.length_tolerance < 0:
            raise ValueError(
                "stride_s, dim and gamma are positive and length_tolerance is not negative, got "
                f"{self.stride_s}, {self.dim}, {self.gamma} and {self.length_tolerance}"
            )

    @property
    def fingerprint(self) -> str:
        """Hash of all fields."""
        return hash_of(self)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `manifest.json` into `folder`: what makes features had from elsewhere readable here."""
        write_json(Path(folder) / "manifest.json", dataclasses.asdict(self))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> FeatureManifest:
        """Reads `manifest.json` of `folder`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no JSON, or a field is unknown, missing or of the wrong type.
        """
        path = Path(folder) / "manifest.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing, so nobody knows what these features are. "
                "For features had from elsewhere write it with FeatureManifest(...).save(folder)."
            )
        values = read_json(path)
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected the fields of a feature manifest, got a {type(values).__name__}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(fields)):
            raise ValueError(f"{path}: unknown field {', '.join(unknown)}; the fields are {', '.join(fields)}")
        required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
        if missing := [name for name in required if name not in values]:
            raise ValueError(f"{path}: the field {', '.join(missing)} is missing")
        for name, value in values.items():
            allowed = {"str": str, "int": int, "float": (int, float)}[fields[name].type]
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise ValueError(f"{path}: {name} has to be of type {fields[name].type}, got {value!r}")
        return cls(**values)

    def differences(self, other: FeatureManifest) -> list[str]:
        """Every field in which `other`, the one asked for, differs, with both values. The form on disk is left out."""
        fields = [f.name for f in dataclasses.fields(self) if f.name not in ("layout", "dtype", "length_tolerance")]
        return [
            f"{name}: the folder has {getattr(self, name)!r}, asked for was {getattr(other, name)!r}"
            for name in fields
            if getattr(self, name) != getattr(other, name)
        ]


class FeatureStore:
    """A folder of features that was opened with `open_features` or `extract`."""

    def __init__(self, folder: Path, *, manifest: FeatureManifest):
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, folder: str | os.PathLike) -> FeatureStore:
        """Opens a folder as it is; `open_features` also checks it against what is expected."""
        return cls(Path(folder), manifest=FeatureManifest.load(folder))

    def path(self, video_id: str) -> Path:
        """The video's file; characters that no file name may hold are percent-encoded.

        Published features of "s13-d21.avi" may also lie in "s13-d21.npy".
        """
        suffix = SUFFIXES[self.manifest.layout]
        path = self.folder / f"{quote(video_id, safe=' ')}{suffix}"
        name, dot, kind = video_id.rpartition(".")
        if self.manifest.layout == "npy" and dot and f".{kind.lower()}" in VIDEO_SUFFIXES and not path.is_file():
            bare = self.folder / f"{quote(name, safe=' ')}{suffix}"
            return bare if bare.is_file() else path
        return path

    def __contains__(self, video_id: str) -> bool:
        return self.path(video_id).is_file()

    def clips(self, video_id: str) -> Float32[Tensor, "l d"]:
        """Features of a video's clips.

        Raises:
            FileNotFoundError: there are none of this video.
            FeatureMismatch: the file is damaged, has another dimension than the manifest says, or holds not-a-number.
        """
        path = self.path(video_id)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: there are no {self.manifest.extractor} features of {video_id!r}"
            )
        features = torch.from_numpy(np.array(_read(path)))
        self._expect_dim(path, tuple(features.shape))
        features = features.float()
        if not bool(features.isfinite().all()):
            row = int((~features.isfinite()).any(1).nonzero()[0])
            raise FeatureMismatch(
                f"{path}: clip {row} holds not-a-number or infinity, expected finite features. "
                "Delete the file and extract the video again."
            )
        return features

    def length(self, video_id: str) -> int:
        """Number of clips in the video's file, from its header alone."""
        path = self.path(video_id)
        shape = _shape(path)
        self._expect_dim(path, shape)
        return shape[0]

    def _expect_dim(self, path: Path, shape: tuple[int, ...]) -> None:
        if len(shape) != 2 or shape[0] < 1 or shape[1] != self.manifest.dim:
            raise FeatureMismatch(
                f"{path} holds features of shape {shape}, the folder's manifest says (clips, {self.manifest.dim}). "
                "Delete the file and extract the video again, or correct manifest.json."
            )


def open_features(
    folder: str | os.PathLike,
    *,
    expect: FeatureManifest | None = None,
    dataset: Dataset | Sequence[Dataset] | None = None,
) -> FeatureStore:
    """Opens a folder of features.

    Args:
        expect: how the features have to have been made; None takes them as they are.
        dataset: the data set (or several splits of it) whose videos all have to be there, with as many clips as their
            length says.

    Raises:
        FileNotFoundError: the folder or its manifest is missing, or videos are; how many and which is said.
        FeatureMismatch: what is there is not what was asked for; both sides are named.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of features. Extract them, or correct the path.")
    store = FeatureStore.open(folder)
    if expect is not None and (differences := store.manifest.differences(expect)):
        raise FeatureMismatch(
            f"the features in {folder} are not those asked for:\n  "
            + "\n  ".join(differences)
            + "\nName another folder, or extract them anew into an empty one."
        )
    videos = videos_of(dataset) if dataset is not None else {}
    if missing := [name for name in videos if name not in store]:
        raise FileNotFoundError(
            f"{folder} has no features of {len(missing)} of {len(videos)} videos: "
            f"{first_of(missing)}. Extract these first."
        )
    wrong = []
    for video in videos.values():
        expected, found = num_clips(video.duration_s, store.manifest.stride_s), store.length(video.id)
        if abs(expected - found) > store.manifest.length_tolerance:
            wrong.append(
                f"{video.id}: the folder has {found} clips, {expected} are expected of {video.duration_s:g} s "
                f"at a stride of {store.manifest.stride_s:g} s"
            )
    if wrong:
        raise FeatureMismatch(
            f"the features in {folder} have another length than their videos:\n  "
            + first_of(wrong, separator="\n  ")
            + "\nThey belong to other videos or another stride: delete these files and extract them again, "
            "or correct manifest.json."
        )
    return store


def _read(path: Path) -> np.ndarray:
    try:
        # Unlike np.load this can open neither pickles nor archives.
        if path.suffix == ".npy":
            return np.array(np.lib.format.open_memmap(path, mode="r"))
        with safe_open(path, framework="np") as file:
            return file.get_tensor("clips")
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _shape(path: Path) -> tuple[int, ...]:
    try:
        if path.suffix == ".npy":
            return np.lib.format.open_memmap(path, mode="r").shape
        with safe_open(path, framework="np") as file:
            return tuple(file.get_slice("clips").get_shape())
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> FeatureMismatch:
    return FeatureMismatch(f"{path} is no file of features ({error}). Delete it and extract the video again.")


def videos_of(dataset: Dataset | Sequence[Dataset]) -> Mapping[str, Video]:
    """The videos of one or several splits, by id."""
    splits = [dataset] if isinstance(dataset, Dataset) else list(dataset)
    return {name: video for split in splits for name, video in split.videos.items()}
