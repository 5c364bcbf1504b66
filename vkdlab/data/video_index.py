"""What a video file holds, found by reading its packets once and decoding its first frame (ours).

The index is what makes every backend agree: frames are counted, ordered and timed here, from the presentation stamps
of the packets, with edit lists applied. Files whose packets do not tell the truth (no stamps, stamps twice, no key
frame at the start, codecs with hidden frames, containers without a frame table) are decoded once instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

_TABLE_CONTAINERS = {"mp4", "matroska"}
_PLAIN_CODECS = {"h264", "hevc", "av1", "libdav1d", "vp9", "mpeg4", "mjpeg", "prores", "ffv1"}
_MEND = "Play it in a video player, then copy it again from its source, convert it, or leave it out"


class VideoError(ValueError):
    """A video that cannot be read; the message names the file, what is wrong with it and what to do."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """Everything about a file that outlives its decoder; plain values, so that it travels to worker processes."""

    path: Path
    """The file, absolute."""
    size_bytes: int
    """Length of the file in bytes when it was read."""
    changed_ns: int
    """When the file was last changed before it was read, in nanoseconds."""
    width: int
    """Pixels of a row as displayed."""
    height: int
    """Rows as displayed."""
    quarter_turns: int
    """Counter-clockwise quarter turns from the stored to the displayed frame, 0 to 3."""
    fps: float
    """Frames per second: the file's rate where frames are evenly spaced, else the mean."""
    duration_s: float
    """Seconds from the first frame's start to the last one's end."""
    first_s: float
    """Stamp of the first frame on the container's clock, in seconds; the reader's clock starts there."""
    timestamps_s: np.ndarray
    """float64 (num_frames,): seconds from the first frame to each frame."""
    stamps: np.ndarray
    """int64 (num_frames,): presentation stamps in the stream's time base, rising."""
    keys: np.ndarray
    """int64 (keys, 2): presentation and decoding stamp (where it has one) of each key frame, rising."""
    counted: bool
    """Whether stamps cannot be used to find frames, so that a frame is found by counting from the start."""
    skippable: bool
    """Whether frames that no other frame needs may be left undecoded."""
    even: bool
    """Whether every packet makes one plain 8-bit frame, shown as it is stored: what decord takes for granted."""
    has_audio: bool
    """Whether there is a sound track."""


class _Packets(NamedTuple):
    """What the packets of a stream say, in decoding order, one entry a packet."""

    stamps: tuple[int | None, ...] = ()
    orders: tuple[int | None, ...] = ()
    durations: tuple[int | None, ...] = ()
    are_key: tuple[bool, ...] = ()
    are_hidden: tuple[bool, ...] = ()


@contextmanager
def open_media(path: Path, *, probe: bool = True) -> Iterator[av.container.InputContainer]:
    """Opens a media file for reading and turns what goes wrong inside into a `VideoError` that names the file.

    With `probe=False`, an MP4 file is opened from its table alone, which spares decoding its first frames once more.
    """
    try:
        with _open(path, probe=probe) as container:
            yield container
    except (av.error.FFmpegError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(
            f"{path}: cannot be read as a video ({reason}). It is damaged, cut off before its index was written, or no "
            f"video at all. {_MEND}"
        ) from error


def _open(path: Path, *, probe: bool) -> av.container.InputContainer:
    # A playlist that is named like a video must not make us open network addresses.
    common = {"options": {"protocol_whitelist": "file"}, "metadata_errors": "replace"}
    if not probe and _is_mp4(path):
        quick = {**common, "options": {**common["options"], "probesize": "32"}}
        # PyAV refuses options for streams where the file has none.
        with suppress(ValueError):
            return av.open(os.fspath(path), format="mp4", stream_options=[{"skip_frame": "all"}] * 4, **quick)
    return av.open(os.fspath(path), **common)


def _is_mp4(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(8)[4:] == b"ftyp"


def choose_stream(
    path: Path, container: av.container.InputContainer, *, num_threads: int = 1
) -> av.video.stream.VideoStream:
    """The moving picture of a container, set to decode on so many threads; cover art does not count."""
    moving = [
        stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if not moving:
        kinds = " and ".join(sorted({stream.type for stream in container.streams if stream.type != "video"}))
        held = f"no video track, only {kinds}" if kinds else "no track at all"
        raise VideoError(f"{path}: holds {held}. Give a file with moving pictures")
    best = container.streams.best("video")
    stream = best if best in moving else moving[0]
    if stream.codec_context is None:
        raise VideoError(
            f"{path}: its codec is not known to this build of PyAV. Convert it to H.264, "
            "for example with `ffmpeg -i in.mp4 -c:v libx264 out.mp4`"
        )
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    stream.thread_type = "AUTO" if num_threads > 1 else "NONE"
    stream.codec_context.thread_count = num_threads
    return stream


def read_index(path: str | os.PathLike) -> VideoIndex:
    """Reads the index of a video file.

    Raises:
        FileNotFoundError: there is no such file.
        VideoError: it is a folder, empty, not to be read, no video, without a frame, or cut off.
    """
    path = Path(os.path.abspath(path))
    status = _check_file(path)
    with open_media(path, probe=False) as container:
        stream = choose_stream(path, container)
        codec, base = stream.codec_context.name, stream.time_base
        rate = stream.average_rate or stream.guessed_rate
        has_audio = bool(container.streams.audio)
        _refuse_cut_off(path, stream, status.st_size)
        packets = _Packets(
            *zip(
                *(
                    (packet.pts, packet.dts, packet.duration, packet.is_keyframe, packet.is_discard)
                    for packet in container.demux(stream)
                    if packet.size
                ),
                strict=True,
            )
        )
        plain = codec in _PLAIN_CODECS and not _TABLE_CONTAINERS.isdisjoint(container.format.name.split(","))
        truthful = plain and _truthful(packets)
        if truthful:
            container.seek(min(packets.orders[0] or 0, packets.stamps[0]), stream=stream)
            first = next(container.decode(stream), None)
            found = [stamp for stamp, hidden in zip(packets.stamps, packets.are_hidden, strict=True) if not hidden]
            last = packets.durations[packets.stamps.index(max(found))] or 0
            found.sort()
    if not truthful:
        first, found, last = *_decode_stamps(path), 0
    if first is None or not found:
        raise VideoError(f"{path}: holds no frame that can be decoded. {_MEND}")
    keys = sorted(
        (stamp, stamp if order is None else order)
        for stamp, order, key in zip(packets.stamps, packets.orders, packets.are_key, strict=True)
        if key and stamp is not None
    )
    counted = not keys or None in found or bool((np.diff(np.array(found, np.int64)) <= 0).any())
    if counted:
        base, found, last, keys = 1 / Fraction(rate or 25), range(len(found)), 1, []
    stamps = np.array(found, np.int64)
    times = (stamps - stamps[0]) * float(base)
    last_s = float(last * base) or (float(np.median(np.diff(times))) if len(times) > 1 else float(1 / (rate or 25)))
    duration_s = float(times[-1]) + last_s
    mean_fps = len(times) / duration_s
    turns = round(first.rotation / 90) % 4
    return VideoIndex(
        path=path,
        size_bytes=status.st_size,
        changed_ns=status.st_mtime_ns,
        width=first.height if turns % 2 else first.width,
        height=first.width if turns % 2 else first.height,
        quarter_turns=turns,
        fps=float(rate) if rate and abs(float(rate) / mean_fps - 1) < 0.005 else mean_fps,
        duration_s=duration_s,
        first_s=0.0 if counted else float(stamps[0] * base),
        timestamps_s=times,
        stamps=stamps,
        keys=np.array(keys, np.int64).reshape(-1, 2),
        counted=counted,
        skippable=codec == "h264" and not first.interlaced_frame,
        even=truthful and codec != "hevc" and not turns and not any(packets.are_hidden) and _plain_picture(first),
        has_audio=has_audio,
    )


def check_unchanged(index: VideoIndex) -> None:
    """Raises `VideoError` when the file is not the one whose index was read."""
    status = _check_file(index.path)
    if (status.st_size, status.st_mtime_ns) != (index.size_bytes, index.changed_ns):
        raise VideoError(f"{index.path}: was changed after its reader was made. Make a new FrameReader")


def _check_file(path: Path) -> os.stat_result:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such video. Check the path and the data root") from None
    except PermissionError:
        raise VideoError(f"{path}: may not be read by you. Change the permissions of its folder") from None
    if path.is_dir():
        raise VideoError(f"{path}: is a folder, expected a video file. Give one of the files in it")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path}: may not be read by you. Change its permissions, for example with `chmod +r`")
    if not status.st_size:
        raise VideoError(f"{path}: is empty (0 bytes), probably a download that failed. Copy it again from its source")
    return status


def _refuse_cut_off(path: Path, stream: av.video.stream.VideoStream, size_bytes: int) -> None:
    """Refuses a file whose frame table points beyond its end; containers without such a table pass."""
    entries = stream.index_entries
    if not len(entries) or entries[-1].pos + entries[-1].size <= size_bytes:
        return
    whole = [entry.timestamp for entry in entries if entry.pos + entry.size <= size_bytes]
    lost = [entry.timestamp for entry in entries if entry.pos + entry.size > size_bytes]
    at_s = float((min(lost) - entries[0].timestamp) * stream.time_base)
    raise VideoError(
        f"{path}: is cut off: its table lists {len(entries)} frames, but the file ends after {len(whole)} of them; the "
        f"first one that fails is frame {len(whole)}, at {at_s:.2f} s. Copy the file again from its source, or convert "
        "what is left with `ffmpeg -i in.mp4 -c:v libx264 out.mp4`"
    )


def _truthful(packets: _Packets) -> bool:
    """Whether each packet that is not hidden makes one frame, which can be found by its stamp."""
    stamps = packets.stamps
    if not stamps or None in stamps:
        return False
    # A frame before the first key frame refers to pictures that the file does not hold.
    decodable = packets.are_key[0] and min(stamps) == stamps[0]
    return decodable and len(set(stamps)) == len(stamps) and not all(packets.are_hidden)


def _plain_picture(frame: av.VideoFrame) -> bool:
    return not frame.interlaced_frame and all(component.bits == 8 for component in frame.format.components)


def _decode_stamps(path: Path) -> tuple[av.VideoFrame | None, list[int | None]]:
    """The first frame, and the stamps of all frames in the order in which a player shows them."""
    first, stamps = None, []
    with open_media(path) as container:
        for frame in container.decode(choose_stream(path, container)):
            first = first or frame
            stamps.append(frame.pts)
    return first, stamps
