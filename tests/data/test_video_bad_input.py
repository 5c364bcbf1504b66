"""Every way in which a video file is not one, each with the message that names the file and the cure."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data import media
from vkdlab.data.video import FrameReader, VideoError


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    noise = {"crf": "1", "preset": "ultrafast"}
    return media.write(tmp_path_factory.mktemp("whole") / "whole.mp4", count=60, gop=10, options=noise)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4: there is no such video. Check the path"):
        FrameReader(tmp_path / "nowhere.mp4")


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(
        VideoError, match=r"folder\.mp4: is a folder, expected a video file. Give one of the files in it"
    ):
        FrameReader(tmp_path / "folder.mp4")


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty\.mp4: is empty \(0 bytes\).*Copy it again"):
        FrameReader(tmp_path / "empty.mp4")


@pytest.mark.parametrize(
    "content",
    [
        b"this is a diary, not a video\n" * 200,
        np.random.default_rng(0).bytes(20_000),
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/part.ts\n#EXT-X-ENDLIST\n",
        b"\0" * 5000,
    ],
    ids=["text", "noise", "playlist", "zeros"],
)
def test_a_file_that_is_no_video_is_named(tmp_path, content):
    (tmp_path / "diary.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"diary\.mp4: cannot be read as a video .*Play it in a video player, then"):
        FrameReader(tmp_path / "diary.mp4")


def test_a_file_cut_before_its_table_is_named(tmp_path, whole):
    late_table = tmp_path / "late_table.mp4"
    with av.open(str(whole)) as read, av.open(str(late_table), "w") as container:
        copy = container.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                container.mux(packet)
    late_table.write_bytes(late_table.read_bytes()[: late_table.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"late_table\.mp4: cannot be read as a video .*cut off before its index"):
        FrameReader(late_table)


def test_a_file_cut_in_the_middle_is_named_with_the_first_frame_that_fails(tmp_path, whole):
    content = whole.read_bytes()
    for share in (0.3, 0.6, 0.999):
        (tmp_path / "cut.mp4").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(
            VideoError, match=r"cut\.mp4: is cut off: .* 60 frames.*first one that fails is frame \d+, at"
        ):
            FrameReader(tmp_path / "cut.mp4")


def test_a_cut_container_without_a_table_holds_the_frames_that_are_left(tmp_path):
    whole = media.write(tmp_path / "whole.mkv", count=60)
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    reader = FrameReader(tmp_path / "cut.mkv")
    assert 0 < reader.num_frames < 60
    np.testing.assert_array_equal(
        reader.frames(range(reader.num_frames)), FrameReader(whole).frames(range(reader.num_frames))
    )


def test_damage_inside_is_reported_with_the_frame_and_leaves_the_others_readable(tmp_path, whole):
    content = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        key = [entry for entry in container.streams.video[0].index_entries if entry.is_keyframe][3]
        content[key.pos : key.pos + key.size] = bytes(key.size)
    (tmp_path / "hole.mp4").write_bytes(content)
    for backend in ("pyav", "auto"):
        reader = FrameReader(tmp_path / "hole.mp4", backend=backend)
        with pytest.raises(
            VideoError, match=r"hole\.mp4: frame 30 \(at 3\.00 s of 6\.00 s\) cannot be decoded.*Copy it"
        ):
            reader.frames([2, 30, 50])
        np.testing.assert_array_equal(reader.frames([2, 50]), FrameReader(whole).frames([2, 50]))


def test_a_file_with_sound_alone_is_named(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(media.clicks(1)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(
        VideoError, match=r"song\.mp4: holds no video track, only audio. Give a file with moving pictures"
    ):
        FrameReader(path)


def test_cover_art_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    picture = media.write(tmp_path / "cover.avi", count=1, codec="mjpeg", pixels="yuvj420p")
    with av.open(str(picture)) as read, av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream_from_template(read.streams.video[0])
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in read.demux(video=0):
            if packet.size:
                packet.stream = cover
                container.mux(packet)
        frame = av.AudioFrame.from_ndarray(media.clicks(1)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(VideoError, match=r"song\.mp4: holds no video track, only audio\."):
        FrameReader(path)


@pytest.mark.parametrize("name", ["none.mp4", "none.avi", "none.mkv"])
def test_a_file_without_a_frame_is_named(tmp_path, name):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(VideoError, match=rf"{name}: holds no (frame|track|video)|{name}: cannot be read as a video"):
        FrameReader(path)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of this kind exist on Unix only")
def test_a_file_that_may_not_be_read_is_named(whole):
    code = (
        "import os, sys\n"
        "from vkdlab.data.video import FrameReader, VideoError\n"
        "import pathlib\n"
        "path = pathlib.Path(sys.argv[1]); path.chmod(0)\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: FrameReader(path)\n"
        "except VideoError as error: print(error)\n"
    )
    folder = whole.parent / "locked"
    folder.mkdir(mode=0o755)
    path = folder / "locked.mp4"
    path.write_bytes(whole.read_bytes())
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "locked.mp4: may not be read by you. Change" in done.stdout or "permissions" in done.stdout


def test_a_file_that_changed_after_the_reader_was_made_is_named(tmp_path, whole):
    path = tmp_path / "changing.mp4"
    path.write_bytes(whole.read_bytes())
    reader = FrameReader(path)
    media.write(path, count=20)
    with pytest.raises(
        VideoError, match=r"changing\.mp4: was changed after its reader was made. Make a new FrameReader"
    ):
        reader.frames([0])
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"changing\.mp4: there is no such video"):
        reader.frames([0])


def test_a_picture_size_that_changes_within_the_file_is_named(tmp_path):
    path = tmp_path / "growing.ts"
    small, large = (media.write(tmp_path / f"{width}.h264", count=5, width=width, height=48) for width in (64, 96))
    path.write_bytes(small.read_bytes() + large.read_bytes())
    reader = FrameReader(path)
    with pytest.raises(VideoError, match=r"growing\.ts: frame 5 is stored as 96x48, the first one as 64x48.*one size"):
        reader.frames(range(reader.num_frames))


def test_bad_files_make_no_noise(tmp_path, whole):
    content = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.mp4").write_text("no video" * 500)
    code = (
        "import sys\n"
        "from vkdlab.data.video import FrameReader, VideoError\n"
        "for path in sys.argv[1:]:\n"
        "    for backend in ('auto', 'pyav'):\n"
        "        try: FrameReader(path, backend=backend).frames([0])\n"
        "        except VideoError: print('refused')\n"
    )
    files = [tmp_path / "cut.mp4", tmp_path / "text.mp4"]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["refused"] * 4
    assert done.stderr == ""
