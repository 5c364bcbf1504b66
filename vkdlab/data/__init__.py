"""Manifests, real videos, the built-in world, and features: everything from a file to a batch.

`load(name, split)` gives a `Dataset` for any manifest's name or any folder with a `moments.csv`;
`own_videos(folder)` takes one's own, and `save_own_videos` writes them; `FrameReader(path)` reads a video;
`check(name)` holds a data set against its manifest; `list_sets`, `show` and `build` are what `vkdlab data` offers.
"""

from .catalogue import build, list_sets, show
from .check import CheckReport, check
from .datasets import Action, Dataset, Problem, Query, Question, Video
from .loading import load
from .manifests import DataMissing, Manifest, ManifestError
from .own_videos import BadRow, own_videos, save_own_videos
from .video import FrameReader, VideoError, write_video

__all__ = [
    "Action",
    "BadRow",
    "CheckReport",
    "DataMissing",
    "Dataset",
    "FrameReader",
    "Manifest",
    "ManifestError",
    "Problem",
    "Query",
    "Question",
    "Video",
    "VideoError",
    "build",
    "check",
    "list_sets",
    "load",
    "own_videos",
    "save_own_videos",
    "show",
    "write_video",
]
