"""Manifests, real videos, the built-in world, and features: everything from a file to a batch.

`load(name, split)` gives a `Dataset` for any manifest's name or any folder with a `moments.csv`; `FrameReader(path)`
reads a video; `own_videos(folder, csv)` takes one's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .check import CheckReport, check
    from .datasets import Action, Dataset, Problem, Query, Question, Video
    from .loading import load
    from .manifests import Manifest, ManifestError
    from .own_videos import BadRow, own_videos
    from .video import FrameReader, VideoError, write_video

# Reading a manifest must not cost the start-up time of the video decoders, so names are imported when first used.
_HOME = {
    "Action": "datasets",
    "BadRow": "own_videos",
    "CheckReport": "check",
    "Dataset": "datasets",
    "FrameReader": "video",
    "Manifest": "manifests",
    "ManifestError": "manifests",
    "Problem": "datasets",
    "Query": "datasets",
    "Question": "datasets",
    "Video": "datasets",
    "VideoError": "video",
    "load": "loading",
    "write_video": "video",
}

__all__ = [
    "Action",
    "BadRow",
    "CheckReport",
    "Dataset",
    "FrameReader",
    "Manifest",
    "ManifestError",
    "Problem",
    "Query",
    "Question",
    "Video",
    "VideoError",
    "check",
    "load",
    "own_videos",
    "write_video",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
