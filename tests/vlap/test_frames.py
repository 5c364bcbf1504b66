"""Frames are decoded when they are asked for, once, and no others."""

import shutil

import cv2
import numpy as np
import pytest

from tests.data.media import pictures, write
from vkdlab.data import FrameReader, VideoError
from vkdlab.vlap.frames import VideoFrames


@pytest.fixture
def video(tmp_path, monkeypatch):
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "video.mp4", count=30)


def test_frames_lie_in_the_middle_of_equal_parts(video):
    looked = VideoFrames(video, count=3)
    assert looked.times_s == pytest.approx([0.5, 1.5, 2.5])
    assert looked.places == pytest.approx([1 / 6, 3 / 6, 5 / 6], abs=0.01)


def test_chosen_frames_are_those_of_the_video_and_no_other_is_decoded(video):
    looked = VideoFrames(video, count=10, size=(64, 48))
    found = looked.read([7, 2])
    assert looked.decoded == 2
    assert np.array_equal(found, FrameReader(video).frames([22, 7]))
    assert looked.read([]).shape == (0, 48, 64, 3)


def test_what_was_glanced_at_is_not_decoded_again(video):
    looked = VideoFrames(video, count=10, size=(64, 48), thumbnail=(16, 12))
    small = looked.glance()
    assert (small.shape, looked.decoded) == ((10, 12, 16, 3), 10)
    found = looked.read([4])
    assert looked.decoded == 10
    assert np.array_equal(cv2.resize(found[0], (16, 12), interpolation=cv2.INTER_AREA), small[4])


def test_with_kept_thumbnails_a_second_question_decodes_its_chosen_frames_alone(video):
    first = VideoFrames(video, count=10, kept=True)
    seen = first.glance()
    second = VideoFrames(video, count=10, kept=True)
    assert np.array_equal(second.glance(), seen)
    second.read([1, 3, 5, 7])
    assert second.decoded == 4


def test_kept_thumbnails_are_of_this_content_and_this_size(video, tmp_path):
    VideoFrames(video, count=5, kept=True).glance()
    other = VideoFrames(video, count=5, thumbnail=(16, 12), kept=True)
    assert other.glance().shape == (5, 12, 16, 3)
    shutil.copy(write(tmp_path / "longer.mp4", count=40), video)
    replaced = VideoFrames(video, count=5, kept=True)
    replaced.glance()
    assert replaced.decoded == 5


def test_a_video_with_fewer_frames_gives_each_of_them_once(tmp_path):
    looked = VideoFrames(write(tmp_path / "short.mp4", count=3), count=32, size=(64, 48))
    assert len(looked) == 3
    assert looked.glance().shape == (3, 48, 64, 3)
    assert np.abs(looked.read([0, 1, 2]).astype(int) - pictures(3)).mean() < 40
    one = VideoFrames(write(tmp_path / "one.mp4", count=1), count=32)
    assert one.read([0]).shape == (1, 96, 128, 3)


def test_what_is_not_there_is_an_error_that_names_the_file(video, tmp_path):
    with pytest.raises(IndexError, match=r"video\.mp4: frame 10 of 10"):
        VideoFrames(video, count=10).read([10])
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        VideoFrames(video, count=0)
    with pytest.raises(FileNotFoundError):
        VideoFrames(tmp_path / "none.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        VideoFrames(tmp_path / "broken.mp4")
