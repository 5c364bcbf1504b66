"""Decodes videos with their per-pixel labels into plain arrays on disk, in several processes (ours).

One item is one video: its frames, and where the source has them labels, boxes and what is in the boxes, each written to
its rows of one .npy a kind. Numbers in the label arrays are the source's finest classes; see `vkdlab.data.dense`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vkdlab.data.tabletop import labels as tabletop_labels
from vkdlab.data.tabletop.shapes import COLOURS
from vkdlab.data.tabletop.solids import SHAPES
from vkdlab.data.video import FrameReader
from vkdlab.data.workers import Task

VOID = 255
"""Label of pixels that count neither in a loss nor in a metric."""
OBJECTS = ("table", *(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS), "hand", "cloth")
"""The built-in world's finest classes: what a thing is and which colour it has."""
LEAST_PIXELS = 16
"""Visible pixels below which a thing has no box: nobody could name it."""
_CHUNK = 256
"""Frames decoded at a time, so that a long video fits into memory."""
_CAMVID_VOID = 11


def create(path: Path, shape: tuple[int, ...], dtype: type) -> None:
    """An .npy file without content yet, for `put` to fill."""
    with open(path, "wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)


def put(path: Path, row: int, values: np.ndarray) -> None:
    """Writes rows of an .npy file; a plain write, because a memory map ends the process where the disk is full."""
    with open(path, "rb+") as file:
        np.lib.format.read_magic(file)
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
        values = np.ascontiguousarray(values, dtype)
        file.seek(row * values[:1].nbytes, 1)
        file.write(values.data)


def task(setup: dict[str, Any]) -> Task:
    """Does one video: `setup` has the arrays' paths, width, height and every; see `vkdlab.data.dense`."""
    paths = {name: Path(path) for name, path in setup["arrays"].items()}
    size = setup["width"], setup["height"]
    sources = {"tabletop": _tabletop, "camvid": _camvid, "davis20": _davis, "videos": _video}

    def run(name: str, item: dict[str, Any]) -> int:
        rows = range(item["begin"], item["end"], setup["every"])
        for first in range(0, len(rows), _CHUNK):
            for kind, values in sources[setup["source"]](item, rows[first : first + _CHUNK], size).items():
                put(paths[kind], item["row"] + first, values)
        return len(rows)

    return run


def nearest(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels (.., h, w) at another size (width, height): each pixel takes what lies under its centre."""
    height, width = picture.shape[-2:]
    if size == (width, height):
        return picture
    x = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(int)
    y = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(int)
    return picture[..., y[:, None], x]


def _resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if frames.shape[2:0:-1] == size:
        return frames
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def _video(item: dict[str, Any], rows: range, size: tuple[int, int]) -> dict[str, np.ndarray]:
    return {"frames": _resized(FrameReader(item["path"]).frames(list(rows)), size)}


def _davis(item: dict[str, Any], rows: range, size: tuple[int, int]) -> dict[str, np.ndarray]:
    found = _video(item, rows, size)
    path = Path(item["path"])
    path = path.parent.parent / "masks" / f"{path.stem}.npz"
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        masks = np.unpackbits(arrays["mask"][rows.start : rows.stop : rows.step], axis=-1)
    width = FrameReader(item["path"]).width
    if len(masks) != len(rows) or masks.shape[-1] < width:
        raise ValueError(f"{path} holds masks of shape {masks.shape}, which are not those of {item['path']}")
    return found | {"labels": nearest(masks[..., :width], size)}


def _camvid(item: dict[str, Any], rows: range, size: tuple[int, int]) -> dict[str, np.ndarray]:
    with open(item["labels"], "rb") as file, np.load(file, allow_pickle=False) as arrays:
        labels = arrays["label"][[item["places"][row] for row in rows]]
    frames = []
    for row, label in zip(rows, labels, strict=True):
        path = Path(item["path"]) / f"{item['names'][row]}.jpg"
        frames.append(read_picture(path))
        if frames[-1].shape[:2] != label.shape:
            height, width = frames[-1].shape[:2]
            raise ValueError(
                f"{path} is {width}x{height} and the labels in {item['labels']} are {label.shape[1]}x{label.shape[0]}: "
                "resize both to one size, labels without blending"
            )
    return {
        "frames": _resized(np.stack(frames), size),
        "labels": nearest(np.where(labels == _CAMVID_VOID, VOID, labels), size),
    }


def read_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 RGB (h, w, 3).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: copy the data set again")
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if picture is None:
        raise ValueError(f"{path} is no picture that can be read: copy the data set again")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _tabletop(item: dict[str, Any], rows: range, size: tuple[int, int]) -> dict[str, np.ndarray]:
    video = tabletop_labels.read(Path(item["folder"]), item["id"])
    masks = video.masks[rows.start : rows.stop : rows.step]
    codes = np.array([0, *map(object_class, video.instances)], np.uint8)
    boxes = np.full((len(rows), item["things"], 4), np.nan, np.float32)
    things = np.zeros((len(rows), item["things"]), np.uint8)
    scale = np.array(size * 2, np.float32) / np.array([masks.shape[2], masks.shape[1]] * 2, np.float32)
    for k in range(len(video.instances)):
        seen = (masks == k + 1).sum(axis=(1, 2)) >= LEAST_PIXELS
        boxes[seen, k] = video.boxes[rows.start : rows.stop : rows.step][seen, k] * scale
        things[seen, k] = codes[k + 1]
    return _video({"path": video.path}, rows, size) | {
        "labels": nearest(codes[masks], size), "boxes": boxes, "things": things,
    }  # fmt: skip


def object_class(instance: tabletop_labels.Instance) -> int:
    """Index into `OBJECTS` of one thing of the built-in world."""
    name = instance.kind if instance.colour is None else f"{instance.colour} {instance.kind}"
    return OBJECTS.index(name)
