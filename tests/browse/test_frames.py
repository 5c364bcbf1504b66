"""Frames are those that are on screen during a moment, and seconds of frames give the same frames back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkdlab.browse.frames import frame_at, seconds, support


def on_screen(start_s, end_s, *, rate, count):
    """Every frame asked one by one whether it shows more than a millionth of itself during the moment."""
    shown = [frame for frame in range(1, count + 1) if min(end_s * rate, frame) - max(start_s * rate, frame - 1) > 1e-6]
    return [shown[0], shown[-1]]


@pytest.mark.parametrize(
    ("moment_s", "expected"),
    [
        ((0.0, 3.0), [1, 30]),
        ((0.0, 0.1), [1, 1]),
        ((0.1, 0.2), [2, 2]),
        ((0.3, 0.6), [4, 6]),  # 0.3 * 10 is a little more than 3, 0.6 * 10 is 6
        ((0.7, 2.3), [8, 23]),
        ((0.25, 0.35), [3, 4]),
        ((2.95, 3.0), [30, 30]),
        ((1.0, 1.0), [11, 11]),
        ((3.0, 3.0), [30, 30]),
        ((-1.0, 9.0), [1, 30]),
        ((5.0, 9.0), [30, 30]),
        ((-2.0, -1.0), [1, 1]),
    ],
)
def test_frames_of_a_moment_are_those_on_screen(moment_s, expected):
    assert support(*moment_s, rate=10, count=30) == expected


@given(
    count=st.integers(1, 200),
    rate=st.sampled_from([1.0, 10.0, 23.976, 25.0, 30000 / 1001, 59.94]),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_frames_of_any_moment_are_those_that_an_independent_count_finds(count, rate, ends):
    start_s, end_s = (end * count / rate for end in sorted(ends))
    if (end_s - start_s) * rate > 1e-4:
        assert support(start_s, end_s, rate=rate, count=count) == on_screen(start_s, end_s, rate=rate, count=count)


@given(st.data())
def test_seconds_of_frames_give_the_same_frames_back(data):
    count = data.draw(st.integers(1, 5000))
    rate = data.draw(st.sampled_from([1.0, 10.0, 23.976, 25.0, 30000 / 1001, 59.94]))
    first = data.draw(st.integers(1, count))
    last = data.draw(st.integers(first, count))
    start_s, end_s = seconds([first, last], rate=rate, duration_s=count / rate)
    assert 0 <= start_s < end_s <= count / rate
    assert support(start_s, end_s, rate=rate, count=count) == [first, last]


def test_seconds_of_the_last_frame_end_with_the_video():
    assert seconds([30, 30], rate=10, duration_s=2.97) == (2.9, 2.97)
    assert seconds([1, 40], rate=10, duration_s=3.0) == (0.0, 3.0)


def test_a_video_of_one_frame_has_one_frame_whatever_the_moment():
    assert support(0.0, 0.04, rate=25, count=1) == [1, 1]
    assert seconds([1, 1], rate=25, duration_s=0.04) == (0.0, 0.04)


def test_a_time_is_shown_by_the_frame_that_began_last():
    assert [frame_at(time_s, rate=10, count=30) for time_s in (0.0, 0.099, 0.1, 0.3, 2.99, 3.0, 7.0)] == [
        1, 1, 2, 4, 30, 30, 30,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("moment_s", "rate", "count", "message"),
    [
        ((2.0, 1.0), 10, 30, "end at or after the start, got 2.0 to 1.0"),
        ((float("nan"), 1.0), 10, 30, "expected finite seconds"),
        ((0.0, float("inf")), 10, 30, "expected finite seconds"),
        ((0.0, 1.0), 0, 30, "positive number of frames a second, got 0"),
        ((0.0, 1.0), float("nan"), 30, "positive number of frames a second, got nan"),
        ((0.0, 1.0), 10, 0, "at least one frame, got 0"),
    ],
)
def test_what_is_no_moment_or_no_video_is_refused(moment_s, rate, count, message):
    with pytest.raises(ValueError, match=message):
        support(*moment_s, rate=rate, count=count)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([0, 3], r"counted from 1, got \[0, 3\]"),
        ([4, 3], r"counted from 1, got \[4, 3\]"),
        ([4], "a first and a last frame"),
        ([31, 35], "lie after the end of the video, which is 3 s long"),
    ],
)
def test_what_are_no_frames_of_the_video_is_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        seconds(frames, rate=10, duration_s=3.0)
