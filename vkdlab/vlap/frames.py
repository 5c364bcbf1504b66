"""Frames of a video, decoded when asked for and never twice: small ones to glance at, large ones to read (ours).

A prompter that glances at a video has its frames decoded for it, so the chosen ones are there already. Where nothing
needs to be glanced at (frames at equal distances, or thumbnails that were kept from an earlier question) only the
chosen ones are decoded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from vkdlab.data.features import content_id
from vkdlab.data.video import FrameReader
from vkdlab.files import atomic_path, cache_dir, hash_of


class VideoFrames:
    """At most t frames of one video, each in the middle of one of t parts of equal length.

    `times_s` (t,) is when they are on screen, seconds; `places` (t,) the same as shares of the video, 0 to 1. `decoded`
    says how many frames have been decoded so far. A video with fewer frames gives each of them once.

    Args:
        path: the video file.
        count: t.
        size: width and height of frames that are read, pixels.
        thumbnail: width and height of frames that are glanced at, pixels.
        kept: whether thumbnails are kept in the cache, or taken from there: another question about the same file then
            has nothing decoded but its chosen frames.

    Raises:
        ValueError: `count` is below 1.
        FileNotFoundError, VideoError: as `FrameReader`.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        count: int = 32,
        size: tuple[int, int] = (128, 96),
        thumbnail: tuple[int, int] = (64, 48),
        kept: bool = False,
    ):
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        self._reader = FrameReader(path)
        self._size, self._thumbnail, self._kept = size, thumbnail, kept
        total = self._reader.num_frames
        count = min(count, total)
        self._numbers = ((2 * np.arange(count) + 1) * total) // (2 * count)
        self.times_s: Float64[np.ndarray, " t"] = self._reader.timestamps_s[self._numbers]
        self.duration_s = self._reader.duration_s
        self.places: Float64[np.ndarray, " t"] = self.times_s / self.duration_s
        self._frames: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def decoded(self) -> int:
        """How many frames were decoded so far; the decoder itself may have had to pass others on its way."""
        return len(self._frames)

    def read(self, indices: Sequence[int]) -> UInt8[np.ndarray, "s h w 3"]:
        """Frames of full size; those that were not decoded before are.

        Args:
            indices: from 0 to t - 1.

        Raises:
            IndexError: there is no such frame.
            VideoError: a frame cannot be decoded.
        """
        indices = [int(index) for index in indices]
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"{self._reader.path}: frame {index} of {len(self)} that are looked at")
        if missing := sorted(set(indices) - self._frames.keys()):
            frames = self._reader.frames(self._numbers[missing].tolist())
            self._frames |= {index: _resized(frame, self._size) for index, frame in zip(missing, frames, strict=True)}
        width, height = self._size
        found = [self._frames[index] for index in indices]
        return np.stack(found) if found else np.empty((0, height, width, 3), np.uint8)

    def glance(self) -> UInt8[np.ndarray, "t h w 3"]:
        """Thumbnails of all t frames.

        Raises:
            VideoError: a frame cannot be decoded.
        """
        path = self._thumbnails_path() if self._kept else None
        if path is not None and path.is_file():
            found = np.load(path, allow_pickle=False)
            if found.shape == (len(self), self._thumbnail[1], self._thumbnail[0], 3):
                return found
        found = np.stack([_resized(frame, self._thumbnail) for frame in self.read(range(len(self)))])
        if path is not None:
            with atomic_path(path) as being_written, open(being_written, "wb") as file:
                np.save(file, found, allow_pickle=False)
        return found

    def _thumbnails_path(self) -> Path:
        file = self._reader.path
        return cache_dir("thumbnails") / f"{hash_of(content_id(file), self._numbers.tolist(), self._thumbnail)}.npy"


def _resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (frame.shape[1], frame.shape[0]) == size:
        return frame
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
