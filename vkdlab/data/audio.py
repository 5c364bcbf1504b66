"""The sound of a video on the clock of its pictures (ours).

Samples are first laid at their own rate on a time line that starts with the first frame, each decoded block where its
stamp says (the decoder has taken off the encoder's priming samples), silence elsewhere. Only then is the rate changed,
from a point where both rates have a sample: so a span sounds the same alone and as part of a longer one.
"""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float32

from vkdlab.data.video_index import VideoError, open_media

_MARGIN_S = 0.25
"""More than a resampling filter reaches, and than a codec needs to settle after a seek."""
_STAMP_JITTER_S = 0.005
"""Containers round stamps to milliseconds: blocks closer than this to the one before follow it without a seam."""


def read_audio(
    path: Path, start_s: float, end_s: float, *, rate_hz: int, zero_s: float = 0.0
) -> Float32[np.ndarray, "n channels"]:
    """Sound from `start_s` to `end_s`, in seconds after `zero_s` on the container's clock.

    Returns:
        float32 (round((end_s - start_s) * rate_hz), channels) in -1 to 1; silence where there is no sound.

    Raises:
        VideoError: the sound track cannot be decoded.
    """
    count = round((end_s - start_s) * rate_hz)
    with open_media(path) as container:
        stream = container.streams.audio[0]
        if stream.codec_context is None or not stream.codec_context.rate:
            raise VideoError(f"{path}: its sound track cannot be decoded. Convert it to AAC")
        native_hz = stream.codec_context.rate
        common = math.gcd(native_hz, rate_hz)
        first = (math.floor(start_s * common) - math.ceil(_MARGIN_S * common)) * (native_hz // common)
        last = math.ceil((end_s + _MARGIN_S) * native_hz)
        native = _native_samples(container, stream, first, last, zero_s=zero_s)
    changed = native if native_hz == rate_hz else _resample(native, native_hz, rate_hz)
    offset = round(start_s * rate_hz) - first * rate_hz // native_hz
    sound = np.zeros((count, native.shape[1]), np.float32)
    found = changed[offset : offset + count]
    sound[: len(found)] = found
    return np.clip(sound, -1.0, 1.0, out=sound)


def _native_samples(container, stream, first: int, last: int, *, zero_s: float) -> np.ndarray:
    """Samples `first` to `last`, counted at the track's own rate from `zero_s`: float32 (last - first, channels)."""
    native_hz = stream.codec_context.rate
    samples = np.zeros((last - first, stream.codec_context.channels), np.float32)
    to_float = av.AudioResampler(format="fltp", layout=stream.codec_context.layout, rate=native_hz)
    seek_s = zero_s + first / native_hz - _MARGIN_S
    if seek_s > _MARGIN_S:
        container.seek(int(seek_s / stream.time_base), stream=stream)
    position: int | None = None
    for decoded in container.decode(stream):
        stamped = None if decoded.pts is None else round((float(decoded.pts * decoded.time_base) - zero_s) * native_hz)
        if position is None or (stamped is not None and abs(stamped - position) > _STAMP_JITTER_S * native_hz):
            position = stamped or 0
        for block in to_float.resample(decoded):
            values = block.to_ndarray().T
            begin, end = max(position, first), min(position + len(values), last)
            if begin < end:
                samples[begin - first : end - first] = values[begin - position : end - position]
            position += len(values)
        if position >= last:
            break
    return samples


def _resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    layout = {1: "mono", 2: "stereo"}.get(samples.shape[1], f"{samples.shape[1]}c")
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
    frame.sample_rate = from_hz
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=to_hz)
    blocks = [block.to_ndarray().T for block in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(blocks) if blocks else samples[:0]
