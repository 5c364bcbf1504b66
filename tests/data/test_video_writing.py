import os
import signal
import subprocess
import sys
import time
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.data import media
from vkdlab.data.video import FrameReader, write_video


@pytest.mark.parametrize("fps", [1, 10, 12.5, 29.97, Fraction(30000, 1001), 60])
def test_rate_and_length_come_back(tmp_path, fps):
    write_video(tmp_path / "rate.mp4", media.pictures(24), fps=fps)
    reader = FrameReader(tmp_path / "rate.mp4")
    assert reader.num_frames == 24
    assert reader.fps == pytest.approx(float(fps), rel=1e-6)
    np.testing.assert_allclose(reader.timestamps_s, np.arange(24) / float(fps), atol=1e-4)
    assert reader.duration_s == pytest.approx(24 / float(fps), abs=1e-4)


@pytest.mark.parametrize(
    ("width", "height"), [(64, 48), (63, 48), (64, 47), (33, 25), (16, 16), (2, 2), (1, 1), (5, 200)]
)
def test_any_size_comes_back_even_an_odd_one(tmp_path, width, height):
    write_video(tmp_path / "size.mp4", media.pictures(3, width=width, height=height), fps=10)
    reader = FrameReader(tmp_path / "size.mp4")
    assert (reader.width, reader.height) == (width, height)
    assert reader.frames([0, 2]).shape == (2, height, width, 3)


def test_colours_come_back_close(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (120, 60, 200)]
    frames = [np.full((32, 32, 3), colour, np.uint8) for colour in colours]
    write_video(tmp_path / "colours.mp4", frames, fps=1, crf=10)
    back = FrameReader(tmp_path / "colours.mp4").frames(range(len(colours)))
    assert np.abs(back.astype(int) - np.array(frames)).max() <= 6


def test_the_same_frames_give_the_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, iter(media.pictures(20)), fps=12.5)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_same_frames_and_sound_give_the_same_sound_and_pictures_within_a_few_levels(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, iter(media.pictures(20)), fps=12.5, audio=media.clicks(1.6), audio_rate_hz=16000)
    one, other = FrameReader(tmp_path / "a.mp4"), FrameReader(tmp_path / "b.mp4")
    np.testing.assert_array_equal(one.audio(), other.audio())
    np.testing.assert_array_equal(one.timestamps_s, other.timestamps_s)
    assert np.abs(one.frames(range(20)).astype(int) - other.frames(range(20))).mean() < 1


def test_sound_and_pictures_lie_beside_each_other_in_the_file(tmp_path):
    write_video(tmp_path / "both.mp4", media.pictures(60), fps=10, audio=media.clicks(6.0), audio_rate_hz=16000)
    with av.open(str(tmp_path / "both.mp4")) as container:
        times = [
            (float(packet.dts * packet.time_base), packet.stream.type) for packet in container.demux() if packet.size
        ]
    latest = {"video": -1.0, "audio": -1.0}
    for seconds, kind in times:
        latest[kind] = seconds
        if min(latest.values()) >= 0:
            assert abs(latest["video"] - latest["audio"]) < 1.2


@pytest.mark.parametrize(("gop", "keys"), [(None, 3), (5, 12), (60, 1)])
def test_key_frames_come_as_often_as_asked(tmp_path, gop, keys):
    write_video(tmp_path / "keys.mp4", media.pictures(1).repeat(60, axis=0), fps=10, gop=gop)
    with av.open(str(tmp_path / "keys.mp4")) as container:
        assert sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size) == keys


def test_nothing_is_written_where_there_is_no_frame(tmp_path):
    with pytest.raises(ValueError, match=r"none\.mp4: no frame was given. Give at least one"):
        write_video(tmp_path / "none.mp4", [], fps=10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((48, 66, 3), np.uint8), r"frame 3 has height and width \(48, 66\), the first one \(48, 64\)"),
        (np.zeros((48, 64, 3), np.float32), r"frame 3 is float32 of shape \(48, 64, 3\), expected uint8 .*astype"),
        (np.zeros((48, 64), np.uint8), r"frame 3 is uint8 of shape \(48, 64\), expected uint8 \(height, width, 3\)"),
        (np.zeros((48, 64, 4), np.uint8), r"frame 3 is uint8 of shape \(48, 64, 4\)"),
    ],
)
def test_a_wrong_frame_is_named_and_leaves_no_file(tmp_path, frame, message):
    with pytest.raises(ValueError, match=r"wrong\.mp4: " + message):
        write_video(tmp_path / "wrong.mp4", [*media.pictures(3), frame], fps=10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps is 0, expected"),
        ({"fps": -5}, "fps is -5, expected"),
        ({"fps": float("nan")}, "fps is nan, expected"),
        ({"fps": 10, "crf": 70}, r"crf is 70, expected 0 \(best\) to 51"),
        ({"fps": 10, "gop": 0}, "gop is 0, expected at least 1 frame"),
        ({"fps": 10, "audio": media.clicks(1)}, "sound was given without audio_rate_hz"),
        ({"fps": 10, "audio": media.clicks(1), "audio_rate_hz": 12345}, "audio_rate_hz is 12345, expected one of"),
        ({"fps": 10, "audio": np.full(9, 2.0), "audio_rate_hz": 16000}, "sound goes beyond -1 to 1"),
        (
            {"fps": 10, "audio": np.full(9, np.nan), "audio_rate_hz": 16000},
            "sound goes beyond -1 to 1 or is not a number",
        ),
        ({"fps": 10, "audio": np.zeros((9, 3)), "audio_rate_hz": 16000}, r"float64 of shape \(9, 3\), expected floats"),
        (
            {"fps": 10, "audio": np.zeros(9, np.int16), "audio_rate_hz": 16000},
            r"int16 of shape \(9,\), expected floats",
        ),
    ],
)
def test_wrong_settings_are_refused_with_the_right_ones(tmp_path, options, message):
    with pytest.raises(ValueError, match=r"set\.mp4: .*" + message):
        write_video(tmp_path / "set.mp4", media.pictures(2), **options)
    assert not list(tmp_path.iterdir())


def test_an_older_file_survives_a_writing_that_fails(tmp_path):
    path = tmp_path / "kept.mp4"
    write_video(path, media.pictures(3), fps=10)
    before = path.read_bytes()

    def failing():
        yield from media.pictures(3)
        raise RuntimeError("the renderer failed")

    with pytest.raises(RuntimeError, match="the renderer failed"):
        write_video(path, failing(), fps=10)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.mp4"]
    assert path.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise on Windows")
def test_ctrl_c_leaves_nothing(tmp_path):
    code = (
        "import sys, time, numpy as np\n"
        "from vkdlab.data.video import write_video\n"
        "def frames():\n"
        "    for number in range(10_000):\n"
        "        if number == 20: print('writing', flush=True)\n"
        "        time.sleep(0.001); yield np.full((48, 64, 3), number % 256, np.uint8)\n"
        "write_video(sys.argv[1], frames(), fps=10)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "broken.mp4"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"writing\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=30)[1]
    assert b"KeyboardInterrupt" in errors
    assert os.listdir(tmp_path) == []
