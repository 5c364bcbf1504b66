"""Decoding chosen frames with PyAV, decord or torchcodec, all with the same result (ours).

The PyAV way is fast because of three things: it seeks to the key frame before each group of wanted frames, it leaves
frames undecoded that no other frame refers to (`nal_ref_idc` 0 in H.264), and it drains the decoder as soon as the last
wanted packet of a group is in, instead of feeding it what follows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vkdlab.data.video_index import VideoError, VideoIndex, choose_stream, open_media

Decode = Callable[[VideoIndex, np.ndarray, int], np.ndarray]


def choose(backend: str) -> Decode:
    """The function (index, rising frame numbers, threads) -> uint8 (t, h, w, 3) of a backend.

    Raises:
        VideoError: the backend is not installed.
        ValueError: there is no such backend.
    """
    if backend in ("auto", "pyav"):
        return with_pyav
    if backend == "decord":
        try:
            import decord  # noqa: F401
        except ImportError as error:
            raise VideoError(
                f"backend 'decord' cannot be used here ({error}). Install it with `pip install decord2`, or leave "
                "backend='auto', which gives the same frames"
            ) from error
        return with_decord
    if backend == "torchcodec":
        try:
            import torchcodec.decoders  # noqa: F401
        except (ImportError, RuntimeError, OSError) as error:
            raise VideoError(
                f"backend 'torchcodec' cannot be used here ({str(error).strip().splitlines()[0]}). Install it with "
                "`pip install torchcodec==0.13.0` and FFmpeg's shared libraries (Debian: `apt install ffmpeg`), or "
                "leave backend='auto', which gives the same frames"
            ) from error
        return with_torchcodec
    raise ValueError(f"backend is {backend!r}, expected one of 'auto', 'decord', 'pyav', 'torchcodec'")


def with_pyav(index: VideoIndex, wanted: np.ndarray, num_threads: int) -> np.ndarray:
    """Decodes with PyAV; where seeking loses a frame that the file holds, again from the start, leaving none out."""
    frames = np.empty((len(wanted), index.height, index.width, 3), np.uint8)
    missing = np.ones(len(wanted), bool)
    passes = (_counted_frames,) if index.counted else (_sought_frames, _all_frames)
    failure: av.error.FFmpegError | None = None
    for decode in passes:
        convert = _Converter(index)
        try:
            with open_media(index.path, probe=decode is not _sought_frames) as container:
                stream = choose_stream(index.path, container, num_threads=num_threads)
                for place, frame in decode(container, stream, index, wanted):
                    convert(frame, out=frames[place], number=int(wanted[place]))
                    missing[place] = False
        except VideoError as error:
            failure = error.__cause__ if isinstance(error.__cause__, av.error.FFmpegError) else None
            if failure is None:
                raise
        if not missing.any():
            return frames
    number = int(wanted[missing.argmax()])
    raise VideoError(
        f"{index.path}: frame {number} (at {index.timestamps_s[number]:.2f} s of {index.duration_s:.2f} s) cannot be "
        f"decoded{f' ({failure.strerror})' if failure else ''}: the file is damaged there. Copy it again from its "
        "source, or convert what is left with `ffmpeg -i in.mp4 -c:v libx264 out.mp4`"
    )


class _Converter:
    """Turns decoded frames to RGB as displayed; keeps the scaler between frames."""

    def __init__(self, index: VideoIndex) -> None:
        self._index = index
        self._reformatter = VideoReformatter()
        turned = index.quarter_turns % 2
        self._stored = (index.height, index.width) if turned else (index.width, index.height)

    def __call__(self, frame: av.VideoFrame, *, out: np.ndarray, number: int) -> None:
        if (frame.width, frame.height) != self._stored:
            raise VideoError(
                f"{self._index.path}: frame {number} is stored as {frame.width}x{frame.height}, the first one as "
                f"{self._stored[0]}x{self._stored[1]}; one array cannot hold both. Convert the file to one size"
            )
        plane = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(frame.height, plane.line_size)
        picture = rows[:, : frame.width * 3].reshape(frame.height, frame.width, 3)
        out[:] = np.rot90(picture, self._index.quarter_turns) if self._index.quarter_turns else picture


def _sought_frames(container, stream, index: VideoIndex, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
    stamps = index.stamps[wanted]
    group_of = np.maximum(np.searchsorted(index.keys[:, 0], stamps, side="right") - 1, 0)
    places = dict(zip(stamps.tolist(), itertools.count()))
    for group in np.unique(group_of):
        left = set(stamps[group_of == group].tolist())
        for frame in _group_frames(container, stream, index, int(group), left):
            yield places[frame.pts], frame


def _group_frames(container, stream, index: VideoIndex, group: int, wanted: set[int]) -> Iterator[av.VideoFrame]:
    """Frames of one group of pictures, those with a wanted stamp only."""
    decoder = stream.codec_context
    to_send, to_receive = set(wanted), set(wanted)
    for packet in _packets_from(container, stream, index, group):
        if index.skippable:
            decoder.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        to_send.discard(packet.pts)
        decoded = decoder.decode(packet)
        if not to_send:
            decoded += decoder.decode(None)
        for frame in decoded:
            if frame.pts in to_receive:
                to_receive.discard(frame.pts)
                yield frame
        if not to_send:
            return


def _packets_from(container, stream, index: VideoIndex, group: int) -> Iterator[av.Packet]:
    """Packets from the key frame of a group on; from an earlier one where the container seeks inexactly."""
    stamp, order = index.keys[group].tolist()
    for target in (stamp, order, int(index.keys[0, 1])):
        container.seek(target, stream=stream)
        packets = container.demux(stream)
        first = next(packets, None)
        if first is not None and first.is_keyframe and first.pts is not None and first.pts <= stamp:
            return itertools.chain([first], packets)
    return iter(())


def _all_frames(container, stream, index: VideoIndex, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
    places = dict(zip(index.stamps[wanted].tolist(), itertools.count()))
    for frame in container.decode(stream):
        place = places.pop(frame.pts, None)
        if place is not None:
            yield place, frame
        if not places:
            return


def _counted_frames(container, stream, index: VideoIndex, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
    places = dict(zip(wanted.tolist(), itertools.count()))
    for number, frame in enumerate(container.decode(stream)):
        if number in places:
            yield places[number], frame
        if number >= wanted[-1]:
            return


def with_decord(index: VideoIndex, wanted: np.ndarray, num_threads: int) -> np.ndarray:
    """Decodes with decord or decord2, whichever is installed; PyAV takes the files that decord reads wrongly.

    decord takes every packet for one shown frame (edit lists, rotation and transport streams come out wrong), repeats
    frames around HEVC's open key frames, converts interlaced and deeper than 8-bit pictures otherwise, and 0.6.0 knows
    no AV1.
    """
    import decord

    if not index.even:
        return with_pyav(index, wanted, num_threads)
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(index.path), num_threads=num_threads)
        if len(reader) != len(index.stamps):
            return with_pyav(index, wanted, num_threads)
        return reader.get_batch(wanted.tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError):
        # PyAV reads it, or says which frame is damaged.
        return with_pyav(index, wanted, num_threads)


def with_torchcodec(index: VideoIndex, wanted: np.ndarray, num_threads: int) -> np.ndarray:
    """Decodes with torchcodec, frames found by an exact scan; PyAV takes the files that decord reads wrongly, too."""
    from torchcodec.decoders import VideoDecoder

    if not index.even:
        return with_pyav(index, wanted, num_threads)
    decoder = VideoDecoder(str(index.path), dimension_order="NHWC", num_ffmpeg_threads=num_threads)
    if len(decoder) != len(index.stamps):
        return with_pyav(index, wanted, num_threads)
    try:
        return decoder.get_frames_at(indices=wanted.tolist()).data.numpy()
    except RuntimeError:
        # It loses the last frames of a video with open groups of pictures, and damaged ones.
        return with_pyav(index, wanted, num_threads)
