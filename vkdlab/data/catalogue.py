"""The data sets at a glance: what `vkdlab data list`, `show` and `build` print and do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import manifests, tabletop
from .loading import load
from .manifests import Manifest


def list_sets(*, root: str | os.PathLike | None = None) -> list[dict[str, Any]]:
    """One row a data set: name, title, task, splits and state.

    State is "built in", "there", "not there", "no data root", or "named only" where vkdlab has no reader.
    """
    return [
        {
            "name": manifest.name,
            "title": manifest.title,
            "task": manifest.task,
            "splits": ", ".join(manifest.splits),
            "state": _state(manifest, root),
        }
        for manifest in map(manifests.get, manifests.names())
    ]


def show(name: str) -> str:
    """A manifest as text for people.

    Raises:
        ManifestError: no data set has the name, or its manifest is wrong.
    """
    manifest = manifests.get(name)
    lines = [f"{manifest.title} ({manifest.name})", manifest.summary, ""]
    facts = {
        "task": manifest.task,
        "source": manifest.source,
        "citation": manifest.citation,
        "licence": manifest.licence + (" (may be passed on)" if manifest.redistributable else " (not to be passed on)"),
        "version": manifest.version,
        "get it": manifest.where,
        "folder": f"{manifest.folder or '.'} below the data root"
        if not (manifest.packages or manifest.reader == "tabletop")
        else "",
        "frames per second": manifest.fps or "",
        "clip length": f"{manifest.clip_length_s:g} s" if manifest.clip_length_s else "",
    }
    lines += [f"{key:<18} {value}" for key, value in facts.items() if value]
    if manifest.layout:
        lines += ["", "layout", *(f"  {line}" for line in manifest.layout.rstrip().splitlines())]
    if manifest.splits:
        lines += ["", "splits"]
        lines += [f"  {split:<8} {_counts(manifest, split)}" for split in manifest.splits]
    if manifest.published_rows:
        lines += ["", "published rows", *(f"  {count:>7,}  {file}" for file, count in manifest.published_rows.items())]
    if manifest.features:
        lines += ["", "features"]
        lines += [
            f"  {each.extractor}: {each.dim} = {' + '.join(each.order)}. {each.note}" for each in manifest.features
        ]
    if manifest.traps:
        lines += ["", "traps", *(f"  - {trap}" for trap in manifest.traps)]
    return "\n".join(lines)


def build(
    name: str,
    *,
    profile: str = "demo",
    root: str | os.PathLike | None = None,
    progress: bool = True,
) -> list[Path]:
    """Makes the files of a set that vkdlab builds; what is there already is kept. Returns their folders.

    Raises:
        ManifestError: no data set has the name.
        ValueError: the set is not one that vkdlab builds.
    """
    manifest = manifests.get(name)
    if manifest.build is None:
        builds = ", ".join(known for known in manifests.names() if manifests.get(known).build)
        raise ValueError(f"{name} is not built by vkdlab; {builds} are. {manifest.cure}")
    if manifest.reader == "tabletop":
        return [tabletop.build(profile, progress=progress)]
    loaded = [load(name, split, profile=profile, root=root, progress=progress) for split in manifest.splits]
    return sorted({video.path.parent for data in loaded for video in data.videos.values() if video.path})


def _state(manifest: Manifest, root: str | os.PathLike | None) -> str:
    if manifest.reader == "tabletop":
        return "built in"
    if manifest.packages:
        return "there" if any(map(manifests.package_folder, manifest.packages)) else "not there"
    try:
        base = manifests.data_root(root, wanted_by=manifest.name)
    except manifests.DataMissing:
        return "no data root"
    there = (base / manifest.folder).is_dir()
    if manifest.reader is None:
        return "there, named only" if there else "named only"
    return "there" if there else "not there"


def _counts(manifest: Manifest, name: str) -> str:
    split = manifest.splits[name]
    parts = []
    for kind in ("videos", "queries", "actions", "questions"):
        count = getattr(split, kind)
        if isinstance(count, dict):
            parts.append(f"{' / '.join(f'{value:,} ({key})' for key, value in count.items())} {kind}")
        elif count is not None:
            parts.append(f"{count:,} {kind}")
    return "; ".join(filter(None, [", ".join(parts), split.note]))
