"""A video in a page or a notebook's cell, that shows one moment: an HTML5 player that needs no server (ours).

The file travels inside the page as a data URI; a media fragment (`#t=start,end`, W3C Media Fragments 1.0) makes the
browser stand at the moment's start and stop at its end, to within a quarter of a second. Files that browsers do not
play, that start on another clock, or that are too big for a page, are shown by a small copy that is written once.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from vkdlab.data.datasets import moment_error
from vkdlab.data.video import FrameReader, write_video
from vkdlab.data.video_index import choose_stream, open_media, read_index
from vkdlab.files import cache_dir, hash_of

LARGEST_BYTES = 15_000_000
LONG_S = 240.0
_CLOCK_S = 0.1
_PLAYED = {
    "mp4": ("video/mp4", {"h264", "av1", "libdav1d", "vp9"}, {"aac", "mp3", "mp3float", "opus", "flac"}),
    "webm": ("video/webm", {"vp8", "vp9", "av1", "libdav1d"}, {"opus", "libopus", "vorbis", "libvorbis"}),
}
"""Container, as PyAV calls it, to its type and the codecs of picture and sound that every current browser plays."""


def player(path: str | os.PathLike, moment_s: Sequence[float] | None = None, *, height: int = 240) -> str:
    """HTML of a player for a video file, standing at a moment's start and stopping at its end.

    The controls reach the whole video; pressing play again after the moment goes on behind it.

    Args:
        path: the video file.
        moment_s: start and end, seconds from the first frame; an end beyond the file is the file's own. The whole
            video when None.
        height: of the player, pixels.

    Returns:
        A `<video>` element that carries the file: about 1.4 times its bytes. Of a file that browsers do not play, or of
        more than 15 MB, it carries a copy of 360 lines and 25 frames a second at most; for videos of more than four
        minutes of 180 lines and 10 frames a second, without sound. Copies are kept in the cache.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read as a video, or the moment lies outside it; the message names the file.
    """
    path = Path(os.path.abspath(path))
    duration_s = _facts(path, _stamp(path))[0]
    fragment, told = "", f"{path.name}, {duration_s:.2f} s"
    if moment_s is not None:
        if len(moment_s) != 2:
            raise ValueError(f"{path}: a moment is its start and end in seconds, got {moment_s!r}")
        start_s, end_s = map(float, moment_s)
        # Labels were often timed on another copy of the video, and reach a little beyond this one.
        end_s = min(end_s, duration_s) if start_s < duration_s else end_s
        if reason := moment_error(start_s, end_s, duration_s):
            raise ValueError(f"{path}: {reason}")
        fragment = f"#t={start_s:.3f},{end_s:.3f}"
        told = f"{path.name}, {start_s:.2f} to {end_s:.2f} s of {duration_s:.2f} s"
    told = html.escape(told)
    return (
        f'<video controls playsinline preload="auto" height="{int(height)}" style="max-width: 100%" '
        f'title="{told}" aria-label="{told}" src="{_uri(path, _stamp(path))}{fragment}"></video>'
    )


def playable(path: str | os.PathLike) -> Path:
    """The file itself where a page can carry and every browser play it, else a small copy, written on first use.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as a video.
    """
    path = Path(os.path.abspath(path))
    stamp = _stamp(path)
    if _facts(path, stamp)[1] and stamp[0] <= LARGEST_BYTES:
        return path
    copy = cache_dir("players", f"{hash_of(path, stamp, LONG_S)}.mp4")
    if not copy.is_file():
        _write_copy(path, copy)
    return copy


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change: what is remembered of a file is forgotten when they change."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no video file {path}")
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4096)
def _facts(path: Path, stamp: tuple[int, int]) -> tuple[float, str]:
    """Length in seconds, and the type under which browsers play the file; empty where they do not."""
    index = read_index(path)
    with open_media(path) as container:
        sound = [each.codec_context.name for each in container.streams.audio if each.codec_context]
        stream = choose_stream(path, container)
        codec = stream.codec_context
        kinds = container.format.name.split(",")
        name = next((kind for kind in _PLAYED if kind in kinds), None)
        if name is None or abs(index.first_s) > _CLOCK_S or codec.pix_fmt not in ("yuv420p", "yuvj420p"):
            return index.duration_s, ""
        played, pictures, sounds = _PLAYED[name]
        fits = codec.name in pictures and set(sound) <= sounds
    return index.duration_s, played if fits else ""


@lru_cache(maxsize=4)
def _uri(path: Path, stamp: tuple[int, int]) -> str:
    shown = playable(path)
    kind = _facts(path, stamp)[1] if shown == path else "video/mp4"
    return f"data:{kind};base64,{base64.b64encode(shown.read_bytes()).decode()}"


def _write_copy(path: Path, copy: Path) -> None:
    reader = FrameReader(path)
    is_long = reader.duration_s > LONG_S
    lines, fps = (180, 10.0) if is_long else (360, 25.0)
    fps = min(fps, reader.fps)
    sound = None
    if reader.has_audio and not is_long:
        sound = reader.audio(rate_hz=16000)
        sound = sound if sound.shape[1] <= 2 else sound.mean(axis=1)
        sound = sound.clip(-1, 1)
    write_video(
        copy, _small_frames(reader, lines=lines, fps=fps), fps=fps, crf=28, audio=sound,
        audio_rate_hz=None if sound is None else 16000,
    )  # fmt: skip


def _small_frames(reader: FrameReader, *, lines: int, fps: float) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames on screen at an even rate, of even sides, read in blocks that fit in memory."""
    scale = min(1, lines / reader.height, lines * 16 / 9 / reader.width)
    size = tuple(max(2, 2 * round(side * scale / 2)) for side in (reader.width, reader.height))
    times_s = np.arange(max(1, round(reader.duration_s * fps))) / fps
    times_s = times_s[times_s <= reader.duration_s]
    block = max(1, 2**27 // (reader.width * reader.height * 3))
    for first in range(0, len(times_s), block):
        for frame in reader.at(times_s[first : first + block]):
            yield frame if frame.shape[1::-1] == size else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
