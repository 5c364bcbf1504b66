"""Writing videos that any player shows: H.264 and AAC in MP4 (ours).

The encoder runs on one thread, so that the same frames give the same bytes; of files with sound, one in about a
thousand was measured to differ in a few pictures, by a few levels. Colours are BT.601 in limited range, and the file
says so. 4:2:0 pictures have even sides; a picture with an odd side is written as 4:4:4, which keeps its size.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable
from fractions import Fraction
from numbers import Rational
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float, UInt8

from vkdlab.files import atomic_path

_KEY_FRAME_EVERY_S = 2.0
_AAC_RATES_HZ = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)


def write_video(
    path: str | os.PathLike,
    frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    *,
    fps: float | Fraction,
    audio: Float[np.ndarray, n * c] | None = None,
    audio_rate_hz: int | None = None,
    crf: int = 20,
    gop: int | None = None,
) -> None:
    """Writes frames, and sound where there is some, as an MP4 file; the file is whole or absent.

    Args:
        path: the file to write, ending in .mp4.
        frames: uint8 RGB pictures of one size; an iterator is consumed frame by frame.
        fps: frames per second, 12.5 and `Fraction(30000, 1001)` too.
        audio: float samples in -1 to 1, (n,) or (n, channels) with one or two channels; starts with the first frame.
        audio_rate_hz: samples per second of `audio`, one of the rates that AAC knows, such as 16000 or 48000.
        crf: quality, 0 is lossless but for the colour conversion, 51 the worst.
        gop: frames from one key frame to the next at most, two seconds of them when it is not given.

    Raises:
        ValueError: no frame, a frame of another size or type than the first, sound without a rate or out of range.
        OSError: the disk is full or the folder cannot be written.
    """
    rate = _rate(path, fps)
    sound = None if audio is None else _checked_sound(path, audio, audio_rate_hz)
    if not 0 <= crf <= 51:
        raise ValueError(f"{path}: crf is {crf}, expected 0 (best) to 51 (worst)")
    if gop is not None and gop < 1:
        raise ValueError(f"{path}: gop is {gop}, expected at least 1 frame")
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{path}: no frame was given. Give at least one")
    height, width = _checked_frame(path, first, 0, None).shape[:2]
    encoding = _Encoding(rate, width, height, crf, gop or max(1, round(_KEY_FRAME_EVERY_S * rate)), audio_rate_hz)
    with atomic_path(path) as temporary, _Muxer(temporary, encoding, sound) as muxer:
        for number, frame in enumerate(itertools.chain([first], frames)):
            muxer.write(_checked_frame(path, frame, number, (height, width)), number)


class _Encoding(NamedTuple):
    rate: Fraction
    width: int
    height: int
    crf: int
    gop: int
    audio_rate_hz: int | None


class _Muxer:
    """An open MP4 file that takes frames in order and lays the sound between them."""

    def __init__(self, path: Path, encoding: _Encoding, sound: np.ndarray | None) -> None:
        self._encoding, self._sound, self._written = encoding, sound, 0
        # With the index in front, a browser plays before the whole file is there, and a cut-off file shows that it is.
        self._container = av.open(os.fspath(path), "w", format="mp4", options={"movflags": "+faststart"})
        options = {"crf": str(encoding.crf), "preset": "veryfast"}
        video = self._container.add_stream("libx264", rate=encoding.rate, options=options)
        video.width, video.height = encoding.width, encoding.height
        video.pix_fmt = "yuv444p" if encoding.width % 2 or encoding.height % 2 else "yuv420p"
        video.codec_context.gop_size = encoding.gop
        video.codec_context.thread_count = 1
        video.codec_context.colorspace = Colorspace.SMPTE170M
        video.codec_context.color_range = ColorRange.MPEG
        self._video = video
        if sound is not None:
            self._layout = "mono" if len(sound) == 1 else "stereo"
            self._audio = self._container.add_stream("aac", rate=encoding.audio_rate_hz, layout=self._layout)

    def __enter__(self) -> _Muxer:
        return self

    def write(self, picture: np.ndarray, number: int) -> None:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = number, 1 / self._encoding.rate
        self._container.mux(self._video.encode(frame))
        if self._sound is not None:
            self._write_sound(math.ceil((number + 1) * self._encoding.audio_rate_hz / self._encoding.rate))

    def _write_sound(self, end: int) -> None:
        block = np.ascontiguousarray(self._sound[:, self._written : end])
        if not block.shape[1]:
            return
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=self._layout)
        frame.sample_rate, frame.pts = self._encoding.audio_rate_hz, self._written
        frame.time_base = Fraction(1, self._encoding.audio_rate_hz)
        self._written += block.shape[1]
        self._container.mux(self._audio.encode(frame))

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._container.mux(self._video.encode())
                if self._sound is not None:
                    self._write_sound(self._sound.shape[1])
                    self._container.mux(self._audio.encode())
        finally:
            self._container.close()


def _rate(path, fps: float | Fraction) -> Fraction:
    if not 0 < fps <= 1000:
        raise ValueError(f"{path}: fps is {fps}, expected a number of frames per second above 0 and at most 1000")
    return Fraction(fps) if isinstance(fps, Rational) else Fraction(float(fps)).limit_denominator(1001)


def _checked_frame(path, frame: np.ndarray, number: int, size: tuple[int, int] | None) -> np.ndarray:
    picture = np.asarray(frame)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(
            f"{path}: frame {number} is {picture.dtype} of shape {picture.shape}, expected uint8 (height, width, 3) "
            "RGB. Scale to 0..255 and convert with `.astype(np.uint8)`"
        )
    if size is not None and picture.shape[:2] != size:
        raise ValueError(
            f"{path}: frame {number} has height and width {picture.shape[:2]}, the first one {size}. "
            "Bring all frames to one size"
        )
    return picture


def _checked_sound(path, audio: np.ndarray, rate_hz: int | None) -> np.ndarray:
    """Channels first, float32 (channels, n)."""
    if rate_hz is None:
        raise ValueError(f"{path}: sound was given without audio_rate_hz. Give its samples per second, such as 16000")
    if rate_hz not in _AAC_RATES_HZ:
        known = ", ".join(map(str, _AAC_RATES_HZ))
        raise ValueError(f"{path}: audio_rate_hz is {rate_hz}, expected one of those that AAC knows: {known}")
    sound = np.asarray(audio)
    sound = sound[:, None] if sound.ndim == 1 else sound
    if sound.dtype.kind != "f" or sound.ndim != 2 or sound.shape[1] not in (1, 2):
        raise ValueError(
            f"{path}: sound is {np.asarray(audio).dtype} of shape {np.shape(audio)}, expected floats of shape (n,), "
            "(n, 1) or (n, 2) in -1 to 1"
        )
    if not np.isfinite(sound).all() or (len(sound) and np.abs(sound).max() > 1):
        raise ValueError(f"{path}: sound goes beyond -1 to 1 or is not a number. Scale it into that range")
    return np.ascontiguousarray(sound.T, np.float32)
