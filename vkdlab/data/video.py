"""Reading and writing video files: exact frames by number or time, in seconds on the video's own clock (ours).

A reader holds no decoder between calls: a decoder that is kept decodes ahead into memory. Each call opens the file,
seeks to the key frame before each group of wanted frames, leaves out what no wanted frame needs, and closes the file.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from vkdlab.data import video_backends
from vkdlab.data.audio import read_audio
from vkdlab.data.video_index import VideoError, check_unchanged, read_index
from vkdlab.data.video_writing import write_video

__all__ = ["FrameReader", "VideoError", "write_video"]

_SAME_TIME_S = 1e-6


class FrameReader:
    """One video file: its metadata, any of its frames, and its sound.

    `width` and `height` are as displayed: the rotation that a phone wrote into the file is applied, to them and to the
    frames. `timestamps_s` is float64 (num_frames,), the time in seconds at which each frame appears; the clock starts
    at the first frame, and the sound is on the same clock. `duration_s` is when the last frame ends. `num_frames` is
    the number of frames that a player shows: an edit list hides the others. `fps` is the mean rate where frames are
    unevenly spaced. A file that is cut off is refused when it is opened, if its container says how long it should be
    (MP4 does); damage inside is reported, with the frame's number, when that frame is asked for.

    All backends give the same frames, on any number of threads. `auto` and `pyav` decode with PyAV, the fastest in
    every access pattern measured; `decord` uses decord or decord2, whichever is installed, and PyAV for files that
    decord shows otherwise than a player does; `torchcodec` is taken only on request.

    Args:
        path: the video file.
        backend: what decodes the frames.
        num_threads: threads that decode. One is best where several readers work side by side, in loader workers or
            parallel jobs; more may help a single reader of large pictures or long stretches.

    Raises:
        FileNotFoundError: there is no such file.
        VideoError: the file is empty, a folder, cut off, not to be read, no video, without a frame; or the backend is
            not installed. The message names the file and the cure.
    """

    path: Path
    num_frames: int
    fps: float
    duration_s: float
    width: int
    height: int
    timestamps_s: Float64[np.ndarray, " t"]
    has_audio: bool

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        backend: Literal["auto", "decord", "pyav", "torchcodec"] = "auto",
        num_threads: int = 1,
    ) -> None:
        self._decode = video_backends.choose(backend)
        if operator.index(num_threads) < 1:
            raise ValueError(f"num_threads is {num_threads}, expected at least 1")
        self._num_threads = num_threads
        self._index = index = read_index(path)
        self.path = Path(path)
        self.num_frames = len(index.stamps)
        self.fps, self.duration_s = index.fps, index.duration_s
        self.width, self.height = index.width, index.height
        self.timestamps_s, self.has_audio = index.timestamps_s, index.has_audio

    def __repr__(self) -> str:
        return (
            f"FrameReader({str(self.path)!r}: {self.num_frames} frames, {self.duration_s:.2f} s, "
            f"{self.width}x{self.height}, {self.fps:.4g} fps)"
        )

    def frames(self, indices: Sequence[int]) -> UInt8[np.ndarray, "t h w 3"]:
        """Frames by number, in the order asked for; repeats are allowed.

        Args:
            indices: whole numbers from 0 to `num_frames - 1`; none gives an array of no frames.

        Returns:
            uint8 RGB (t, h, w, 3) in 0 to 255, as displayed.

        Raises:
            IndexError: a number is outside the video; negative ones are.
            TypeError: a number is not whole.
            VideoError: a frame cannot be decoded, or the file changed since the reader was made.
        """
        numbers = self._checked(indices)
        wanted, places = np.unique(numbers, return_inverse=True)
        if not len(wanted):
            return np.empty((0, self.height, self.width, 3), np.uint8)
        check_unchanged(self._index)
        found = self._decode(self._index, wanted, self._num_threads)
        return found if np.array_equal(wanted, numbers) else found[places]

    def at(self, times_s: Sequence[float]) -> UInt8[np.ndarray, "t h w 3"]:
        """The frame that is on screen at each time.

        Args:
            times_s: seconds from 0 to `duration_s`, in any order.

        Returns:
            uint8 RGB (t, h, w, 3).

        Raises:
            ValueError: a time is outside the video or not a number.
        """
        times = np.asarray(times_s, np.float64)
        if times.ndim != 1:
            raise TypeError(f"{self.path}: expected a sequence of times in seconds, given {times_s!r}. Write at([1.5])")
        outside = times[~((times >= -_SAME_TIME_S) & (times <= self.duration_s + _SAME_TIME_S))]
        if len(outside):
            raise ValueError(
                f"{self.path}: time {outside[0]:g} s is outside the video, which lasts {self.duration_s:.3f} s. "
                f"Give times from 0 to {self.duration_s:.3f}"
            )
        shown = np.searchsorted(self.timestamps_s, times + _SAME_TIME_S, side="right") - 1
        return self.frames(np.maximum(shown, 0))

    def audio(
        self, start_s: float = 0.0, end_s: float | None = None, *, rate_hz: int = 16000
    ) -> Float32[np.ndarray, "n channels"]:
        """The sound between two times of the video's clock; silence where the sound track does not reach.

        Args:
            start_s: where to begin, in seconds from the first frame.
            end_s: where to end, at most `duration_s`, which is taken when it is not given.
            rate_hz: samples per second.

        Returns:
            float32 (round((end_s - start_s) * rate_hz), channels) in -1 to 1.

        Raises:
            VideoError: the file has no sound track, or it is damaged.
            ValueError: the span is empty or outside the video, or the rate is not positive.
        """
        end_s = self.duration_s if end_s is None else end_s
        if not 0 <= start_s < end_s <= self.duration_s + _SAME_TIME_S:
            raise ValueError(
                f"{self.path}: sound from {start_s:g} s to {end_s:g} s was asked for. Give a start before the end, "
                f"both from 0 to {self.duration_s:.3f} s"
            )
        if operator.index(rate_hz) < 1:
            raise ValueError(f"{self.path}: rate_hz is {rate_hz}, expected a positive number such as 16000")
        if not self.has_audio:
            raise VideoError(f"{self.path}: has no sound track. Check `has_audio` before asking for sound")
        check_unchanged(self._index)
        return read_audio(self._index.path, start_s, end_s, rate_hz=rate_hz, zero_s=self._index.first_s)

    def _checked(self, indices: Sequence[int]) -> np.ndarray:
        numbers = np.asarray(indices)
        if numbers.ndim == 1 and not len(numbers):
            return numbers.astype(np.int64)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise TypeError(
                f"{self.path}: expected a sequence of whole frame numbers, given {type(indices).__name__} of "
                f"{numbers.dtype} with shape {numbers.shape}. Write frames([0, 10]); for times use at([1.5])"
            )
        outside = numbers[(numbers < 0) | (numbers >= self.num_frames)]
        if len(outside):
            raise IndexError(
                f"{self.path}: frame {outside[0]} was asked for, the video has frames 0 to {self.num_frames - 1}. "
                "Frames are counted from 0; negative numbers do not count from the end"
            )
        return numbers.astype(np.int64)
