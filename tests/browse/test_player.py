"""The player: what it carries, that copies show the same, and that a browser really plays the moment and stops."""

import base64
import re
import shutil

import cv2
import numpy as np
import pytest

from tests.data import media
from vkdlab.browse import player as module
from vkdlab.browse.player import playable, player
from vkdlab.data import FrameReader, load
from vkdlab.data.video import write_video
from vkdlab.data.video_index import read_index

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def film(tmp_path):
    """Three seconds of H.264."""
    return media.write(tmp_path / "film.mp4")


def _carried(written):
    kind, data = re.search(r'src="data:([^;]+);base64,([^"#]+)', written).groups()
    return kind, base64.b64decode(data)


def _middle(path, *, at_s=1.0):
    reader = FrameReader(path)
    return cv2.resize(reader.at([at_s])[0], (64, 48)).astype(float)


def test_a_file_that_browsers_play_travels_as_it_is(film):
    written = player(film, (0.5, 1.25))
    assert _carried(written) == ("video/mp4", film.read_bytes())
    assert '#t=0.500,1.250"' in written
    assert 'title="film.mp4, 0.50 to 1.25 s of 3.00 s"' in written


def test_without_a_moment_the_whole_video_is_meant(film):
    assert "#t=" not in player(film)


def test_the_name_of_a_file_is_no_markup(tmp_path):
    path = media.write(tmp_path / 'a"><script>alert(1)<.mp4')
    written = player(path)
    assert written.count("<") == 2
    assert written.count(">") == 2
    assert "&quot;&gt;&lt;script&gt;" in written


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("other_codec.avi", {"codec": "mpeg4"}),
        ("odd_sides.mp4", {"width": 63, "height": 47, "pixels": "yuv444p"}),
        ("ten_bits.mp4", {"pixels": "yuv420p10le"}),
        ("late_clock.mp4", {"offset_ms": 700, "b_frames": 0}),
        ("h264.mkv", {}),
    ],
)
def test_a_file_that_browsers_do_not_play_is_shown_by_a_copy_with_the_same_pictures(tmp_path, name, options):
    path = media.write(tmp_path / name, **options)
    copy = playable(path)
    assert copy != path
    kind, data = _carried(player(path))
    assert kind == "video/mp4"
    assert data == copy.read_bytes()
    assert read_index(copy).first_s == pytest.approx(0, abs=0.01)
    assert FrameReader(copy).duration_s == pytest.approx(FrameReader(path).duration_s, abs=0.1)
    # All three planes of the made-up pictures wrap around at 256, so a copy at lower quality differs at the edges.
    for at_s in (0.05, 1.05, 2.55):
        others = [np.abs(_middle(copy, at_s=at_s) - _middle(path, at_s=at_s + shift)).mean() for shift in (0, 0.3, -0.3)
                  if 0 <= at_s + shift < 3]  # fmt: skip
        assert others[0] == min(others)


def test_a_copy_is_itself_playable_and_written_once(tmp_path):
    path = media.write(tmp_path / "film.avi", codec="mpeg4")
    copy = playable(path)
    written_ns = copy.stat().st_mtime_ns
    assert playable(copy) == copy
    assert playable(path) == copy
    assert copy.stat().st_mtime_ns == written_ns


def test_a_file_that_changed_is_copied_again(tmp_path):
    path = media.write(tmp_path / "film.avi", codec="mpeg4")
    first = playable(path)
    media.write(path, codec="mpeg4", count=20)
    assert playable(path) != first
    assert FrameReader(playable(path)).num_frames == 20


def test_a_file_too_big_for_a_page_becomes_a_small_copy_with_its_sound(tmp_path, monkeypatch):
    frames = np.random.default_rng(0).integers(0, 256, (8, 480, 854, 3), np.uint8)
    path = tmp_path / "noise.mp4"
    write_video(path, frames, fps=8, audio=media.clicks(1.0), audio_rate_hz=16000, crf=1)
    monkeypatch.setattr(module, "LARGEST_BYTES", path.stat().st_size - 1)
    copy = playable(path)
    assert copy.stat().st_size < path.stat().st_size / 2
    reader = FrameReader(copy)
    assert (reader.width, reader.height, reader.num_frames, reader.has_audio) == (640, 360, 8, True)


def test_a_long_file_becomes_a_smaller_and_silent_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONG_S", 2.0)
    path = media.write(tmp_path / "film.avi", codec="mpeg4", width=480, height=360, sound_from_s=0.0)
    reader = FrameReader(playable(path))
    assert (reader.width, reader.height, reader.has_audio) == (240, 180, False)


def test_a_video_of_one_frame_is_copied(tmp_path):
    path = media.write(tmp_path / "one.avi", codec="mpeg4", count=1)
    assert FrameReader(playable(path)).num_frames == 1


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        ((3.5, 4), r"film\.mp4: the moment 3.5 to 4 s lies beyond the video, which is 3 s long"),
        ((2, 2), "ends at 2 s, not after its start"),
        ((-1, 2), "before the video"),
        ((float("nan"), 2), "not a pair of finite numbers"),
        ((1, 2, 3), r"a moment is its start and end in seconds, got \(1, 2, 3\)"),
    ],
)
def test_a_moment_that_the_video_does_not_have_is_refused(film, moment, told):
    with pytest.raises(ValueError, match=told):
        player(film, moment)


def test_a_moment_that_reaches_beyond_the_file_ends_with_it(film):
    assert '#t=2.000,3.000"' in player(film, (2, 4))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no video file .*gone\.mp4"):
        player(tmp_path / "gone.mp4")


def test_a_file_that_is_no_video_is_named(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4: cannot be read as a video"):
        player(path)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["as it is", "as a copy"])
def test_a_browser_stands_at_the_start_plays_the_moment_and_stops_at_its_end(browser, tmp_path, kind):
    dataset = load("tabletop", "test", profile="smoke", progress=False)
    query = min(dataset.queries, key=lambda query: query.end_s - query.start_s)
    path = dataset.videos[query.video].path
    if kind == "as a copy":
        reader = FrameReader(path)
        path = tmp_path / "odd.mp4"
        write_video(path, reader.frames(range(reader.num_frames))[:, :-1, :-1], fps=reader.fps)
        assert playable(path) != path
    page = browser.new_page(offline=True)
    asked = []
    page.on("request", lambda request: asked.append(request.url.split(";")[0]))
    page.set_content(player(path, (query.start_s, query.end_s)))
    video = page.locator("video")
    page.wait_for_function("document.querySelector('video').readyState >= 3")
    assert video.evaluate("it => it.currentTime") == pytest.approx(query.start_s, abs=0.01)
    assert video.evaluate("it => it.paused")
    video.evaluate("it => { it.muted = true; it.lowest = 1e9; it.ontimeupdate = () => "
                   "{ it.lowest = Math.min(it.lowest, it.currentTime) }; return it.play() }")  # fmt: skip
    page.wait_for_function("document.querySelector('video').paused", timeout=20_000)
    stopped_s = video.evaluate("it => it.currentTime")
    assert query.end_s <= stopped_s <= query.end_s + 0.4
    assert stopped_s < FrameReader(path).duration_s
    assert video.evaluate("it => it.lowest") >= query.start_s - 0.01
    assert set(asked) <= {"data:video/mp4", "about:blank"}
    page.close()
