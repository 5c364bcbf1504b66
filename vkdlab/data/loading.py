"""`load`: from the name of a data set, or a folder of one's own videos, to a `Dataset`."""

from __future__ import annotations

import os
from pathlib import Path

from . import arid, manifests, tabletop
from .datasets import Dataset
from .manifests import ManifestError
from .own_videos import MOMENTS_FILE, own_videos
from .readers import READERS, Request

PROFILES = ("smoke", "demo", "full")


def load(
    name: str,
    split: str,
    *,
    profile: str = "demo",
    root: str | os.PathLike | None = None,
    progress: bool = True,
) -> Dataset:
    """One split of a data set.

    Sets that vkdlab makes itself ("tabletop", "arid6", "arid6-random") are built on first use.

    Args:
        name: a manifest's name, or the path of a folder that holds videos and a `moments.csv`.
        split: "train", "val" or "test"; a folder of one's own has "all" too. Where a set comes without a validation
            split, the manifest says what is held out of train.
        profile: "smoke", "demo" or "full"; sets that exist in one size ignore it.
        root: the data root, default `$VKDLAB_DATA`.
        progress: whether a build shows its progress.

    Returns:
        The data set; rows that could not be used are in its `problems`.

    Raises:
        ManifestError: no data set has the name; the message suggests the closest.
        DataMissing: its files are not there; the message says where a person gets them.
        ValueError: there is no such split or profile, or a label file is damaged; the message names file and row.
    """
    if profile not in PROFILES:
        raise ValueError(f"expected profile {', '.join(PROFILES)}, got {profile!r}")
    name = os.fspath(name)
    folder = Path(name).expanduser()
    if (folder / MOMENTS_FILE).is_file():
        return own_videos(folder, split=split)[0]
    if folder.is_dir() and folder.name != name:
        raise ManifestError(
            f"the folder {folder} holds no {MOMENTS_FILE}: put one there with the columns file, start, end, sentence"
        )
    manifest = manifests.get(name)
    if manifest.reader is None:
        raise manifests.DataMissing(f"vkdlab only names {manifest.title} and has no reader for it yet. {manifest.cure}")
    manifest.split(split)
    if manifest.reader == "tabletop":
        return tabletop.dataset(split, profile=profile, progress=progress)
    if manifest.reader == "arid":
        return arid.dataset(manifest, split, profile=profile, root=root, progress=progress)
    if manifest.packages:
        base = folder = Path()
    else:
        folder = manifest.at(root)
        base = manifests.data_root(root, wanted_by=name)
    request = Request(manifest, split, profile, folder, base)
    with request.explained():
        return READERS[manifest.reader](request)
