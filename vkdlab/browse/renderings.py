"""Other pictures of the same videos, to be watched beside them: motion as colour, and known boxes (ours).

* `flow`: dense inverse search optical flow (Kroeger et al., ECCV 2016), hue its direction and saturation its speed
  (Baker et al., IJCV 2011). As `vkdlab.data.encoders.FlowEncoder`, it looks about 0.08 s ahead and measures in frame
  widths per second, so that one scale serves every video whatever its rate and size. It is measured twice as wide,
  for outlines; finer presets were seen to invent motion where little is to be seen.
* `boxes`: what the built-in world knows about where its things are, with their names.

A rendering has as many frames as its source at the same mean rate. Where the source's frames are unevenly spaced, a
frame of the rendering shows what the source shows at that time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Int64, UInt8

from vkdlab.data.datasets import Dataset, Video, first_of
from vkdlab.data.encoders import FlowEncoder
from vkdlab.data.features import DECODED_BYTES, content_id
from vkdlab.data.tabletop import labels
from vkdlab.data.video import FrameReader, VideoError, write_video
from vkdlab.data.workers import Task, only_one, work
from vkdlab.files import cache_dir, hash_of
from vkdlab.plots import PALETTE, flow_picture

KINDS = ("flow", "boxes")
SATURATED = 0.12
"""Speed from which on colour is full, frame widths per second."""
VERSION = 1
"""Grows whenever the pictures change; part of every file's name."""

_FLOW_WIDTH = 256
_BOXES_WIDTH = 480
_WORTH_PROCESSES_S = 120.0
_NAME_SCALE = 0.42


def render(dataset: Dataset, kind: str, *, workers: int | None = None, progress: bool = True) -> dict[str, Path]:
    """Renders all videos that are not rendered yet.

    Files are kept in the cache by what they show: the same video is rendered once, whatever data set it belongs to, and
    a changed one again. Each is written whole or not at all; after a kill, or Ctrl-C, the same call goes on.

    Args:
        dataset: videos with their files.
        kind: "flow" or "boxes"; boxes are known of the built-in world alone.
        workers: processes of one thread each; by default one a core, and one for little work.
        progress: shows a progress bar.

    Returns:
        Video id to an MP4 file, in the order of the data set.

    Raises:
        ValueError: there is no such kind, or boxes of some videos are not known.
        VideoError: some videos have no file or cannot be read; they are named, and the others' renderings are kept.
        OSError: the disk is full or the cache cannot be written.
        ChildProcessError: a worker was killed; the next call goes on.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no rendering {kind!r}: choose one of {', '.join(KINDS)}")
    videos = dataset.videos
    if lost := [name for name, video in videos.items() if video.path is None or not video.path.is_file()]:
        raise VideoError(
            f"{len(lost)} of {len(videos)} videos of {dataset.name} have no file: {first_of(lost)}. "
            "Only what can be decoded can be rendered"
        )
    known = _boxes_of(dataset) if kind == "boxes" else dict.fromkeys(videos)
    folder = cache_dir("renderings", kind)
    with only_one(folder, leftovers=(".*.mp4",)):
        paths = {name: folder / f"{_content(video, known[name])}.mp4" for name, video in videos.items()}
        todo = {paths[name]: video for name, video in videos.items() if not paths[name].is_file()}
        if workers is None and sum(video.duration_s for video in todo.values()) < _WORTH_PROCESSES_S:
            workers = 1
        # The longest first, so that all processes end at about the same time.
        ordered = sorted(todo.items(), key=lambda item: -item[1].duration_s)
        problems = work(
            f"{__name__}:task",
            kind,
            {video.id: [str(video.path), str(path), *(known[video.id] or ())] for path, video in ordered},
            workers=workers,
            label=f"{kind} renderings",
            already=len(set(paths.values())) - len(todo),
            progress=progress,
        )
    if failed := sorted(filter(None, problems)):
        raise VideoError(
            f"{len(failed)} of {len(videos)} videos could not be rendered; those of the others are kept in {folder}:\n"
            "  " + "\n  ".join(failed)
        )
    return paths


def task(kind: str) -> Task:
    """What a worker does: source, target and, for boxes, folder and name of the labels, a video.

    A task answers why the video cannot be rendered, or "" when all went well.
    """
    cv2.setNumThreads(1)

    def render_one(name: str, given: list[str]) -> str:
        source, target, *where = given
        try:
            reader = FrameReader(source)
            frames = boxes_frames(reader, labels.read(Path(where[0]), where[1])) if where else flow_frames(reader)
            write_video(target, frames, fps=reader.fps)
        except (VideoError, FileNotFoundError) as error:
            return f"{name}: {error}"
        return ""

    return render_one


def flow_frames(reader: FrameReader) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The motion that begins at every frame as colour, 256 pixels wide; the last frames look back, one alone is white.

    Raises:
        VideoError: a frame cannot be decoded.
    """
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    # DIS crashes on less than about 32 rows.
    size = (_FLOW_WIDTH, 2 * round(min(max(reader.height / reader.width, 0.3), 4) * _FLOW_WIDTH / 2))
    how = cv2.INTER_AREA if reader.width > _FLOW_WIDTH else cv2.INTER_CUBIC
    first, second = _pairs(reader)
    for part in _parts(reader):
        wanted, places = np.unique([first[part], second[part]], return_inverse=True)
        grey = [
            cv2.resize(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), size, interpolation=how)
            for each in reader.frames(wanted)
        ]
        times_s = reader.timestamps_s[wanted]
        for a, b in places.reshape(2, -1).T.tolist():
            if a == b:
                yield np.full((size[1], size[0], 3), 255, np.uint8)
            else:
                largest = SATURATED * _FLOW_WIDTH * (times_s[b] - times_s[a])
                yield flow_picture(flow.calc(grey[a], grey[b], None), largest_px=largest)


def boxes_frames(reader: FrameReader, known: labels.VideoAnnotations) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Every frame with a named box around each thing that can be seen, at least 480 pixels wide.

    Raises:
        VideoError: a frame cannot be decoded, or the video has another number of frames than its labels.
    """
    if len(known.boxes) != reader.num_frames:
        raise VideoError(
            f"{reader.path} has {reader.num_frames} frames, its labels {len(known.boxes)}. Build the world again"
        )
    scale = max(1, -(-_BOXES_WIDTH // reader.width))
    names = [" ".join(filter(None, (thing.colour, thing.kind))) for thing in known.instances]
    shown = _shown(reader)
    for part in _parts(reader):
        wanted, places = np.unique(shown[part], return_inverse=True)
        frames = reader.frames(wanted)
        for place in places.tolist():
            picture = cv2.resize(frames[place], None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            boxes = known.boxes[wanted[place]] * scale
            # Names last, so that no box crosses one out.
            for draw in (_draw_box, _draw_name):
                for number, (name, box) in enumerate(zip(names, boxes, strict=True)):
                    if np.isfinite(box).all():
                        draw(picture, box, name, _rgb(PALETTE[number % len(PALETTE)]))
            yield picture


def _boxes_of(dataset: Dataset) -> dict[str, tuple[str, str]]:
    """Video id to folder and name of its labels."""
    if dataset.name != "tabletop":
        raise ValueError(
            f"{dataset.name} has no boxes: they are known of the built-in world alone, load('tabletop', ...). "
            "Render 'flow' instead"
        )
    root = dataset.root.resolve()
    if lost := [name for name in dataset.videos if not (root / "labels" / f"{name}.npz").is_file()]:
        raise ValueError(
            f"boxes of {len(lost)} of {len(dataset.videos)} videos are not known: {first_of(lost)}; "
            f"{root / 'labels'} does not have them. Build the world again"
        )
    return {name: (str(root), name) for name in dataset.videos}


def _content(video: Video, where: tuple[str, str] | None) -> str:
    """What a rendering depends on, as a name."""
    known = content_id(Path(where[0]) / "labels" / f"{where[1]}.npz") if where else ""
    return hash_of(VERSION, content_id(video.path), known)


def _shown(reader: FrameReader) -> Int64[np.ndarray, " t"]:
    """The source's frame that is on screen in the middle of each frame of the rendering."""
    middles_s = (np.arange(reader.num_frames) + 0.5) / reader.fps
    return np.maximum(np.searchsorted(reader.timestamps_s, middles_s, side="right") - 1, 0)


def _pairs(reader: FrameReader) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " t"]]:
    """Two frames for each frame of the rendering, about `FlowEncoder.gap_s` apart and at least one frame."""
    times_s, last = reader.timestamps_s, reader.num_frames - 1
    first = _shown(reader)
    ahead_s = times_s[first] + FlowEncoder.gap_s
    after = np.searchsorted(times_s, ahead_s).clip(1, max(last, 1))
    nearest = after - (ahead_s - times_s[after - 1] < times_s[np.minimum(after, last)] - ahead_s)
    second = np.maximum(nearest, first + 1)
    back = np.maximum(second - last, 0)
    return np.maximum(first - back, 0), second - back


def _parts(reader: FrameReader) -> Iterator[slice]:
    """Stretches of frames that fit into the memory decoded."""
    at_once = max(1, DECODED_BYTES // (reader.width * reader.height * 3))
    for start in range(0, reader.num_frames, at_once):
        yield slice(start, start + at_once)


def _draw_box(picture: np.ndarray, box: Float[np.ndarray, " 4"], name: str, colour: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = (round(float(side)) for side in box)
    cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), colour, 2)


def _draw_name(picture: np.ndarray, box: Float[np.ndarray, " 4"], name: str, colour: tuple[int, int, int]) -> None:
    font, height, width = cv2.FONT_HERSHEY_SIMPLEX, *picture.shape[:2]
    (wide, high), _ = cv2.getTextSize(name, font, _NAME_SCALE, 1)
    x = max(0, min(round(float(box[0])), width - wide - 6))
    y = max(0, min(round(float(box[1])) - high - 6, height - high - 6))
    cv2.rectangle(picture, (x, y), (x + wide + 6, y + high + 6), colour, -1)
    cv2.putText(picture, name, (x + 3, y + high + 3), font, _NAME_SCALE, (255, 255, 255), 1, cv2.LINE_AA)


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))
