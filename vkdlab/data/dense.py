"""Frames with a label on every pixel: the built-in world, CamVid, DAVIS; and frames of any other videos without (ours).

Frames are decoded once, to one size, into memory-mapped uint8 arrays in the cache, whole or absent: reading a frame
afterwards costs a copy, and processes share the pages. What the built-in world knows exactly comes along: boxes, and
for every pixel where its point was one frame ago.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from vkdlab.data.datasets import Dataset
from vkdlab.data.dense_files import OBJECTS, VOID, create, nearest, read_picture
from vkdlab.data.loading import load
from vkdlab.data.manifests import DataMissing
from vkdlab.data.tabletop import SEMANTICS
from vkdlab.data.tabletop import labels as tabletop_labels
from vkdlab.data.video import FrameReader
from vkdlab.data.workers import only_one, work
from vkdlab.files import atomic_path, cache_dir, hash_of, read_json, sha256_of, write_json

__all__ = ["CAMVID_CLASSES", "OBJECTS", "VOID", "DenseDataset", "FrameSequence", "load_dense"]

CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
_FORMAT = 1
_KINDS = np.array([0, *(SEMANTICS.index(name.split()[-1]) for name in OBJECTS[1:])], np.uint8)


@dataclass(frozen=True)
class FrameSequence:
    """Frames that follow one another in one video."""

    id: str
    """Name, unique within the data set."""
    video: str
    """The video that it is a part of, or the whole of."""
    first: int
    """Number of its first frame in the data set."""
    count: int
    """How many frames it has."""
    fps: float
    """Frames per second between them."""

    @property
    def frames(self) -> range:
        """Numbers of its frames in the data set."""
        return range(self.first, self.first + self.count)


@dataclass(frozen=True)
class DenseDataset:
    """Frames of one split, in order of their videos, and the labels of their pixels."""

    name: str
    """The data set."""
    split: str
    """"train", "val" or "test"."""
    profile: str
    """"smoke", "demo" or "full"."""
    sequences: tuple[FrameSequence, ...] = field(repr=False)
    """Which frames belong together."""
    classes: tuple[str, ...]
    """Names of the classes; empty where there are no labels."""
    fingerprint: str
    """Hash of frames' source, labels, size and choice of frames; the same on every machine."""
    frames: np.ndarray = field(repr=False)
    """uint8 (n, h, w, 3) RGB, mapped into memory, not to be written."""
    codes: np.ndarray | None = field(repr=False, default=None)
    """uint8 (n, h, w) as they lie on disk: the source's finest classes. Read `labels` instead."""
    to_class: np.ndarray | None = field(repr=False, default=None)
    """uint8 (256,): the class of each code."""
    box_rows: np.ndarray | None = field(repr=False, default=None)
    """float32 (n, m, 4), not-a-number where there is none; `boxes` reads them."""
    box_codes: np.ndarray | None = field(repr=False, default=None)
    """uint8 (n, m): what is in each box."""
    source: Path | None = field(repr=False, default=None, compare=False)
    """Folder of the built-in world, for its exact motion."""
    every: int = 1
    """Every how many-th frame of the videos was taken."""

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def videos(self) -> set[str]:
        """Names of the videos that the frames are from."""
        return {sequence.video for sequence in self.sequences}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.frames.shape[2], self.frames.shape[1]

    def frame(self, i: int) -> np.ndarray:
        """Frame `i`: uint8 (h, w, 3) RGB."""
        return np.array(self.frames[self._checked(i)])

    def labels(self, i: int) -> np.ndarray:
        """Classes of frame `i`: uint8 (h, w), indices into `classes`, 255 where none is known.

        Raises:
            ValueError: the data set has no labels.
        """
        if self.codes is None:
            raise ValueError(f"{self.name} has frames and no labels: use the teacher's answers as the reference")
        return self.to_class[self.codes[self._checked(i)]]

    def boxes(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes of frame `i` around what can be seen of each thing.

        Returns:
            float32 (n, 4): x0, y0, x1, y1, pixels; and uint8 (n,): indices into `classes`, never 0.

        Raises:
            ValueError: the data set has no boxes.
        """
        if self.box_rows is None:
            raise ValueError(f"{self.name} has no boxes; tabletop has")
        codes = self.box_codes[self._checked(i)]
        return np.array(self.box_rows[i][codes > 0]), self.to_class[codes[codes > 0]]

    def motion(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel of frame `i` was in the frame before it.

        Exact in the built-in world; estimated by dense inverse search elsewhere, and then trusted where going there
        and back ends within a pixel.

        Returns:
            float32 (h, w, 2): motion right and down, pixels, from a pixel of frame `i` to the same point in frame
            `i - 1`; and bool (h, w): whether that point could be seen there.

        Raises:
            ValueError: frame `i` is the first of its sequence.
        """
        sequence = self.sequence_of(i)
        if i == sequence.first:
            raise ValueError(f"frame {i} is the first of {sequence.id}: nothing comes before it")
        if self.source is None:
            return _estimated_motion(self.frames[i], self.frames[i - 1])
        return self._true_motion(sequence, i)

    def sequence_of(self, i: int) -> FrameSequence:
        """The sequence that frame `i` belongs to."""
        return self.sequences[int(np.searchsorted(self._starts, self._checked(i), side="right")) - 1]

    @cached_property
    def _starts(self) -> list[int]:
        return [sequence.first for sequence in self.sequences]

    def _checked(self, i: int) -> int:
        if not 0 <= i < len(self.frames):
            raise IndexError(f"{self.name} {self.split} has frames 0 to {len(self.frames) - 1}, was asked for {i}")
        return int(i)

    def _true_motion(self, sequence: FrameSequence, i: int) -> tuple[np.ndarray, np.ndarray]:
        video = self._annotations(sequence.id)
        now, before = (i - sequence.first) * self.every, (i - 1 - sequence.first) * self.every
        (width, height), (_, full_height, full_width) = self.size, video.masks.shape
        shown = nearest(video.masks[now], self.size)
        y, x = np.mgrid[0:height, 0:width] + 0.5
        scale = full_width / width, full_height / height
        x, y = x * scale[0], y * scale[1]
        m = _from_to(video.affines[now], video.affines[before])[shown]
        to_x, to_y = (m[..., axis, 0] * x + m[..., axis, 1] * y + m[..., axis, 2] for axis in (0, 1))
        inside = (to_x >= 0) & (to_x < full_width) & (to_y >= 0) & (to_y < full_height)
        there = video.masks[before][np.where(inside, to_y, 0).astype(int), np.where(inside, to_x, 0).astype(int)]
        motion = np.stack([(to_x - x) / scale[0], (to_y - y) / scale[1]], axis=-1).astype(np.float32)
        return motion, inside & (there == shown)

    def _annotations(self, video: str) -> tabletop_labels.VideoAnnotations:
        last = self.__dict__.get("_last")
        if last is None or last.id != video:
            last = self.__dict__["_last"] = tabletop_labels.read(self.source, video)
        return last


def load_dense(
    name: str,
    split: str,
    *,
    profile: str = "demo",
    size: tuple[int, int] | None = None,
    classes: Literal["kinds", "objects"] = "kinds",
    videos: float | int | Sequence[str] | None = None,
    every: int = 1,
    root: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> DenseDataset:
    """Frames of one split with their labels, decoded into the cache on first use.

    Args:
        name: "tabletop", "camvid" or "davis20" with labels; any other name that `load` takes, or a folder of one's
            own, as frames without labels.
        split: "train", "val" or "test".
        profile: "smoke", "demo" or "full".
        size: (width, height) to bring all frames to, pixels; by default their own. Labels are never blended.
        classes: of tabletop: "kinds" (9: table, six shapes, hand, cloth) or "objects" (51: shapes by colour).
        videos: a fraction (float) or a number (int) of the split's videos, as `Dataset.subset` chooses them; or names.
        every: takes every so many-th frame of each video.
        root: the data root, default `$VKDLAB_DATA`.
        workers: processes that decode, default one a core.
        progress: shows a progress bar.

    Raises:
        ValueError: the videos have several sizes and none is given, an argument is out of range, or a file is damaged.
        DataMissing: files are missing; the message names the first.
        KeyError: no video has one of the names.
    """
    if classes not in ("kinds", "objects") or (classes == "objects" and name != "tabletop"):
        raise ValueError(f'classes is "kinds", or "objects" with tabletop; got {classes!r} with {name}')
    if every < 1 or (size is not None and min(size) < 8):
        raise ValueError(f"every is at least 1 and size at least (8, 8), got every={every}, size={size}")
    dataset = load(name, split, profile=profile, root=root, progress=progress)
    if videos is not None:
        dataset = dataset.subset(videos) if isinstance(videos, int | float) else dataset.of_videos(videos)
    source = name if name in ("tabletop", "camvid", "davis20") else "videos"
    items, files = _camvid_items(dataset) if source == "camvid" else _video_items(dataset, source)
    size = size or _common_size(name, items)
    row = 0
    for item in items:
        item["row"] = row
        row += len(range(item["begin"], item["end"], every))
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    if source == "tabletop":
        stamps = [read_json(dataset.root / "world.json")["labels_sha256"]]
    key = hash_of(_FORMAT, dataset.fingerprint, list(size), every, stamps)
    folder = cache_dir("dense", f"{Path(name).name}-{split}-{key}")
    if not (folder / "index.json").is_file():
        _decode(
            folder, source, items, rows=row, size=size, every=every, files=files, workers=workers, progress=progress
        )
    index = read_json(folder / "index.json")
    arrays = {
        kind: np.load(folder / f"{kind}.npy", mmap_mode="r") if (folder / f"{kind}.npy").is_file() else None
        for kind in ("frames", "labels", "boxes", "things")
    }
    names = {
        "tabletop": OBJECTS if classes == "objects" else SEMANTICS,
        "camvid": CAMVID_CLASSES,
        "davis20": ("background", "object"),
        "videos": (),
    }[source]
    to_class = np.full(256, VOID, np.uint8)
    coarser = source == "tabletop" and classes == "kinds"
    to_class[: len(OBJECTS) if coarser else len(names)] = _KINDS if coarser else np.arange(len(names))
    return DenseDataset(
        name=dataset.name,
        split=split,
        profile=profile,
        sequences=tuple(
            FrameSequence(
                item["id"],
                item["video"],
                item["row"],
                len(range(item["begin"], item["end"], every)),
                item["fps"] / every,
            )
            for item in items
        ),
        classes=names,
        fingerprint=hash_of(dataset.fingerprint, index["content"], list(size), every, names),
        frames=arrays["frames"],
        codes=arrays["labels"],
        to_class=to_class if names else None,
        box_rows=arrays["boxes"],
        box_codes=arrays["things"],
        source=dataset.root if source == "tabletop" else None,
        every=every,
    )


def _decode(
    folder: Path,
    source: str,
    items: list[dict[str, Any]],
    *,
    rows: int,
    size: tuple[int, int],
    every: int,
    files: list[Path],
    workers: int | None,
    progress: bool,
) -> None:
    shapes: dict[str, tuple[tuple[int, ...], type]] = {"frames": ((rows, size[1], size[0], 3), np.uint8)}
    if source != "videos":
        shapes["labels"] = (rows, size[1], size[0]), np.uint8
    if source == "tabletop":
        shapes["boxes"] = (rows, items[0]["things"], 4), np.float32
        shapes["things"] = (rows, items[0]["things"]), np.uint8
    with only_one(folder, leftovers=(".*.npy",)):
        if (folder / "index.json").is_file():
            return
        with ExitStack() as stack:
            paths = {kind: stack.enter_context(atomic_path(folder / f"{kind}.npy")) for kind in shapes}
            for kind, (shape, dtype) in shapes.items():
                create(paths[kind], shape, dtype)
            arrays = {kind: str(path) for kind, path in paths.items()}
            work(
                "vkdlab.data.dense_files:task",
                {"source": source, "arrays": arrays, "width": size[0], "height": size[1], "every": every},
                {item["id"]: item for item in items},
                workers=workers,
                label="decoding frames",
                progress=progress,
            )
        content = hash_of([sha256_of(path) for path in files]) if source != "tabletop" else "exact"
        write_json(folder / "index.json", {"content": content, "items": items})


def _video_items(dataset: Dataset, source: str) -> tuple[list[dict[str, Any]], list[Path]]:
    missing = [video.id for video in dataset.videos.values() if video.path is None or not video.path.is_file()]
    if missing or not dataset.videos:
        raise DataMissing(f"{dataset.name} {dataset.split}: {len(missing)} videos have no file: {missing[:5]}")
    items, files = [], []
    for video in dataset.videos.values():
        reader = FrameReader(video.path)
        files.append(video.path)
        items.append(
            {"id": video.id, "video": video.id, "path": str(video.path), "begin": 0, "end": reader.num_frames,
             "fps": reader.fps, "size": [reader.width, reader.height]}
        )  # fmt: skip
    if source == "tabletop":
        kinds = [read_json(dataset.root / "labels" / f"{item['id']}.json")["instances"] for item in items]
        most = max(map(len, kinds))
        items = [item | {"folder": str(dataset.root), "things": most} for item in items]
    if source == "davis20":
        files += [path.parent.parent / "masks" / f"{path.stem}.npz" for path in files]
        if absent := [path for path in files if not path.is_file()]:
            raise DataMissing(f"davis20: {absent[0]} is missing: copy the data set again")
    return items, files


def _camvid_items(dataset: Dataset) -> tuple[list[dict[str, Any]], list[Path]]:
    """Frames of each recording, cut where numbers leave out a step: what follows one another is one item."""
    folder = next(iter(dataset.videos.values())).path
    labels = folder.parent / f"{folder.name}_labels.npz"
    if not labels.is_file():
        raise DataMissing(f"camvid: {labels} is missing: copy the data set again")
    with open(labels, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        names = [str(name) for name in arrays["name"]]
    items, files = [], [labels]
    for recording in dataset.videos:
        wanted = [(name, place) for place, name in enumerate(names) if name.rpartition("_")[0] == recording]
        numbers = np.array([int(name.rpartition("_")[2].removeprefix("f")) for name, _ in wanted])
        steps = np.diff(numbers)
        step = float(np.median(steps)) if len(steps) else 1.0
        # A recording's numbers are uneven by one here and there; what is cut are holes.
        cuts = [0, *(int(place) + 1 for place in np.flatnonzero(abs(steps - step) > 0.1 * step)), len(wanted)]
        for begin, end in pairwise(cuts):
            part = wanted[begin:end]
            items.append(
                {"id": part[0][0] if len(cuts) > 2 else recording, "video": recording, "path": str(folder),
                 "labels": str(labels), "names": [name for name, _ in part], "places": [place for _, place in part],
                 "begin": 0, "end": len(part), "fps": 30 / step}
            )  # fmt: skip
            files += [folder / f"{name}.jpg" for name, _ in part]
    if absent := [path for path in files if not path.is_file()]:
        raise DataMissing(f"camvid: {absent[0]} and {len(absent) - 1} more files are missing: copy the data set again")
    height, width = read_picture(files[1]).shape[:2]
    return [item | {"size": [width, height]} for item in items], files


def _common_size(name: str, items: list[dict[str, Any]]) -> tuple[int, int]:
    sizes = sorted({tuple(item["size"]) for item in items})
    if len(sizes) > 1:
        raise ValueError(f"the videos of {name} have several sizes ({sizes[:4]}): give size=(width, height)")
    return sizes[0]


def _from_to(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The maps (k, 2, 3) that take the pictures of k planes in one frame to their pictures in another."""
    turn = second[:, :, :2] @ np.linalg.inv(first[:, :, :2])
    return np.concatenate([turn, second[:, :, 2:] - turn @ first[:, :, 2:]], axis=2)


def _estimated_motion(now: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (now, before)]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there, back = search.calc(*grey, None), search.calc(*grey[::-1], None)
    height, width = grey[0].shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    to_x, to_y = x + there[..., 0], y + there[..., 1]
    returned = there + cv2.remap(back, to_x, to_y, cv2.INTER_LINEAR)
    inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
    return there, inside & (np.hypot(returned[..., 0], returned[..., 1]) < 1)
