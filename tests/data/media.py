"""Small video files with every oddity, written with PyAV alone, so that reading is not tested on our own writing."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def pictures(count: int, *, width: int = 64, height: int = 48) -> np.ndarray:
    """uint8 (count, height, width, 3): moving ramps; no picture is like another, and none has a symmetry."""
    y, x = np.mgrid[:height, :width]
    frames = [np.stack([x * 3 + i * 5, y * 3 + i * 9, x + y + i * 17], -1) % 256 for i in range(count)]
    return np.array(frames, np.uint8)


def write(
    path: Path,
    *,
    count: int = 30,
    width: int = 64,
    height: int = 48,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    stamps_ms: list[int] | None = None,
    offset_ms: int = 0,
    gop: int = 12,
    b_frames: int = 2,
    rotation: int = 0,
    colours: tuple[int, int] | None = None,
    options: dict[str, str] | None = None,
    sound_from_s: float | None = None,
) -> Path:
    """Writes `count` pictures at 10 frames a second, or at the stamps given; `colours` are space and range of H.273."""
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        context = stream.codec_context
        context.time_base, context.gop_size, context.thread_count = Fraction(1, 1000), gop, 1
        if codec == "libx264":
            context.max_b_frames = b_frames
        if colours:
            context.colorspace, context.color_range = colours
        if rotation:
            stream.set_display_rotation(rotation)
        sound = None if sound_from_s is None else container.add_stream("aac", rate=16000, layout="mono")
        for number, picture in enumerate(pictures(count, width=width, height=height)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = (stamps_ms[number] if stamps_ms else number * 100) + offset_ms
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            frame = av.AudioFrame.from_ndarray(clicks(count / 10 - sound_from_s)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, round(sound_from_s * 16000), Fraction(1, 16000)
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


def clicks(seconds: float, *, rate_hz: int = 16000, first_s: float = 0.5) -> np.ndarray:
    """float32 (n,): short bursts of a 1 kHz tone, one a second from `first_s` on."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return (np.sin(2 * np.pi * 1000 * time) * ((time - first_s) % 1 < 0.02) * (time >= first_s) * 0.8).astype(
        np.float32
    )


def cut_without_encoding(source: Path, target: Path, *, start_s: float) -> Path:
    """Copies packets from the key frame before `start_s` on; an edit list hides the frames before it."""
    with av.open(str(source)) as read, av.open(str(target), "w") as container:
        stream = read.streams.video[0]
        start = int(start_s / stream.time_base)
        copy = container.add_stream_from_template(stream)
        read.seek(start, stream=stream)
        for packet in read.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
                container.mux(packet)
    return target


def decoded(path: Path) -> tuple[np.ndarray, list[float]]:
    """All frames as displayed, decoded one by one with PyAV, nothing left out, and their times in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        shown = [np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)) for frame in frames]
        return np.array(shown), [float(frame.pts * frame.time_base) for frame in frames]
