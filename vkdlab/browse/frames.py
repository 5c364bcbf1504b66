"""Seconds to the frames of FiftyOne's timelines, and back (ours).

FiftyOne counts frames from 1 and marks a moment by its first and last frame, both inside. Of a video with `count`
frames at `rate` a second, frame `f` is on screen during `[(f - 1) / rate, f / rate)`; the App's player seeks by the
same rule. `rate` is therefore `count / duration_s`, also where frames are unevenly spaced. Frames are coarser than
seconds: what has to be exact is kept in seconds beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_SAME_FRAME = 1e-6
"""Part of a frame that a moment may reach into a neighbour without showing it: what rounding of seconds leaves."""


def support(start_s: float, end_s: float, *, rate: float, count: int) -> list[int]:
    """The frames that are on screen during `[start_s, end_s)`.

    Args:
        start_s: first second.
        end_s: last second, at least `start_s`.
        rate: frames a second.
        count: frames of the video; what lies outside is moved to the nearest frame.

    Returns:
        First and last frame, from 1 to `count`, both inside; never empty.

    Raises:
        ValueError: the seconds are not finite or end before they start, the rate is not positive, or there is no frame.
    """
    _check(rate, count)
    if not (math.isfinite(start_s) and math.isfinite(end_s)) or end_s < start_s:
        raise ValueError(f"expected finite seconds with an end at or after the start, got {start_s} to {end_s}")
    first = min(max(math.floor(start_s * rate + _SAME_FRAME) + 1, 1), count)
    last = min(max(math.ceil(end_s * rate - _SAME_FRAME), first), count)
    return [first, last]


def seconds(support: Sequence[int], *, rate: float, duration_s: float) -> tuple[float, float]:
    """When the first of the frames appears and the last one ends.

    Args:
        support: first and last frame, from 1, both inside.
        rate: frames a second.
        duration_s: length of the video, seconds; no frame ends later.

    Returns:
        Start and end, seconds. `support` of them gives the same frames back.

    Raises:
        ValueError: the frames are no pair, start before 1 or end before they start, or start after the video's end.
    """
    _check(rate, 1)
    if len(support) != 2 or not 1 <= support[0] <= support[1]:
        raise ValueError(f"expected a first and a last frame, counted from 1, got {list(support)}")
    start_s, end_s = (support[0] - 1) / rate, min(support[1] / rate, duration_s)
    if start_s >= end_s:
        raise ValueError(
            f"frames {support[0]} to {support[1]} lie after the end of the video, which is {duration_s:g} s long"
        )
    return start_s, end_s


def frame_at(time_s: float, *, rate: float, count: int) -> int:
    """The frame that is on screen at a time, from 1 to `count`."""
    return support(time_s, time_s, rate=rate, count=count)[0]


def _check(rate: float, count: int) -> None:
    if not rate > 0 or not math.isfinite(rate):
        raise ValueError(f"the frame rate is a positive number of frames a second, got {rate}")
    if count < 1:
        raise ValueError(f"a video has at least one frame, got {count}")
