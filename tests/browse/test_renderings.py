"""Renderings that run beside their source: frame by frame in step, on one scale, made once, never half."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data import media
from vkdlab.browse import renderings
from vkdlab.browse.renderings import SATURATED, flow_frames, render
from vkdlab.data import Dataset, FrameReader, Video, VideoError, load, write_video
from vkdlab.data.tabletop import annotations


@pytest.fixture(autouse=True)
def _cache_for_renderings(tmp_path, monkeypatch):
    monkeypatch.setattr(renderings, "cache_dir", tmp_path.joinpath)


@pytest.fixture(scope="module")
def world():
    return load("tabletop", "test", profile="smoke", progress=False)


def own(folder: Path, **paths: Path | None) -> Dataset:
    videos = {name: Video(name, path, FrameReader(path).duration_s if path else 1.0) for name, path in paths.items()}
    return Dataset("mine", "all", "full", videos, root=folder)


def moving(path: Path, *, dx: float, dy: float = 0.0, fps: float = 12.5, count: int = 12, width: int = 256) -> Path:
    """A textured picture that moves by (dx, dy) frame widths per second."""
    height = width * 3 // 4
    noise = np.random.default_rng(0).integers(0, 256, (height * 2, width * 2, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(noise, None, width / 64)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    step = width / fps

    def frame(number):
        shift = np.float32([[1, 0, dx * step * number - width / 2], [0, 1, dy * step * number - height / 2]])
        return cv2.warpAffine(picture, shift, (width, height), flags=cv2.INTER_CUBIC)

    write_video(path, (frame(number) for number in range(count)), fps=fps, crf=10)
    return path


def colour(path: Path, index: int = 3) -> tuple[float, float]:
    """Median hue in degrees and median saturation, 0 to 1, in the middle of a frame."""
    frame = FrameReader(path).frames([index])[0]
    height, width = frame.shape[:2]
    middle = frame[height // 4 : -height // 4, width // 4 : -width // 4]
    hsv = cv2.cvtColor(middle, cv2.COLOR_RGB2HSV).reshape(-1, 3)
    return 2 * float(np.median(hsv[:, 0])), float(np.median(hsv[:, 1])) / 255


@pytest.mark.parametrize("kind", ["flow", "boxes"])
def test_a_rendering_has_the_frames_and_the_rate_of_its_source_in_a_form_that_browsers_play(world, kind):
    paths = render(world, kind, progress=False)
    assert list(paths) == list(world.videos)
    for name, path in paths.items():
        source, reader = FrameReader(world.videos[name].path), FrameReader(path)
        assert (reader.num_frames, reader.fps) == (source.num_frames, source.fps)
        assert abs(reader.width / reader.height - source.width / source.height) < 0.02
        assert reader.width % 2 == reader.height % 2 == 0
        assert path.suffix == ".mp4"


@pytest.mark.parametrize(("dx", "dy", "hue"), [(1, 0, 0), (0, 1, 90), (-1, 0, 180), (0, -1, 270)])
def test_hue_is_the_direction_of_the_motion(tmp_path, dx, dy, hue):
    source = moving(tmp_path / "moving.mp4", dx=dx * SATURATED, dy=dy * SATURATED)
    shown = colour(render(own(tmp_path, a=source), "flow", progress=False)["a"])
    assert abs((shown[0] - hue + 180) % 360 - 180) < 12
    assert shown[1] > 0.85


@pytest.mark.parametrize(("fps", "width"), [(12.5, 256), (25, 256), (50, 256), (12.5, 128), (12.5, 512)])
def test_one_scale_serves_every_rate_and_size(tmp_path, fps, width):
    source = moving(tmp_path / "half.mp4", dx=SATURATED / 2, fps=fps, width=width)
    path = render(own(tmp_path, a=source), "flow", progress=False)["a"]
    assert abs(colour(path)[1] - 0.5) < 0.15


def test_what_stands_still_and_a_single_frame_are_white(tmp_path):
    still = moving(tmp_path / "still.mp4", dx=0)
    single = moving(tmp_path / "single.mp4", dx=0, count=1)
    paths = render(own(tmp_path, still=still, single=single), "flow", progress=False)
    assert FrameReader(paths["single"]).num_frames == 1
    for path in paths.values():
        assert FrameReader(path).frames([0]).min() > 235


def test_the_last_frames_look_back_and_are_no_gap(tmp_path):
    source = moving(tmp_path / "moving.mp4", dx=SATURATED, fps=50)
    path = render(own(tmp_path, a=source), "flow", progress=False)["a"]
    assert all(colour(path, index)[1] > 0.8 for index in range(12))


@pytest.mark.parametrize("shape", [(20, 400), (400, 20), (33, 47), (2, 2)])
def test_flat_narrow_odd_and_tiny_pictures_are_rendered(tmp_path, shape):
    pictures = np.random.default_rng(0).integers(0, 256, (4, *shape, 3), dtype=np.uint8)
    write_video(tmp_path / "odd.mp4", pictures, fps=5)
    path = render(own(tmp_path, a=tmp_path / "odd.mp4"), "flow", progress=False)["a"]
    assert FrameReader(path).num_frames == 4


def test_unevenly_spaced_frames_are_shown_when_their_source_shows_them(tmp_path):
    stamps_ms = [0, 100, 200, 300, 1100, 1200, 1300, 1400, 1500, 1600]
    source = media.write(tmp_path / "uneven.mp4", count=10, stamps_ms=stamps_ms)
    reader = FrameReader(source)
    middles_s = (np.arange(10) + 0.5) / reader.fps
    expected = [max(i for i in range(10) if reader.timestamps_s[i] <= middle) for middle in middles_s]
    assert renderings._shown(reader).tolist() == expected
    assert expected != list(range(10))
    assert len(list(flow_frames(reader))) == 10


def test_pieces_of_any_size_give_the_same_pictures(world, monkeypatch):
    reader = FrameReader(next(iter(world.videos.values())).path)
    whole = list(flow_frames(reader))
    monkeypatch.setattr(renderings, "DECODED_BYTES", reader.width * reader.height * 3 * 7)
    assert all(np.array_equal(a, b) for a, b in zip(whole, flow_frames(reader), strict=True))


def test_boxes_lie_where_the_world_knows_its_things(world):
    name = next(iter(world.videos))
    known, reader = annotations(name), FrameReader(render(world, "boxes", progress=False)[name])
    source = FrameReader(world.videos[name].path)
    scale = reader.width / source.width
    assert scale == round(scale)
    index = reader.num_frames // 2
    plain = cv2.resize(source.frames([index])[0], (reader.width, reader.height), interpolation=cv2.INTER_CUBIC)
    changed = np.abs(reader.frames([index])[0].astype(int) - plain).max(axis=2) > 60
    visible = [box for box in known.boxes[index] if np.isfinite(box).all()]
    assert visible
    allowed = np.zeros_like(changed)
    for box in visible:
        x0, y0, x1, y1 = (round(float(side) * scale) for side in box)
        edge = changed[y0:y1, max(x0 - 1, 0) : x0 + 2]
        assert edge.mean() > 0.4
        # The frame of a box and the name above it.
        allowed[max(y0 - 24, 0) : y1 + 4, max(x0 - 4, 0) : x1 + 4] = True
        allowed[max(y0 - 24, 0) : max(y0, 20) + 4, max(x0 - 140, 0) : x1 + 140] = True
    assert not (changed & ~allowed).any()


def test_a_video_is_rendered_once_and_again_when_it_changed(tmp_path):
    source = moving(tmp_path / "a.mp4", dx=0.05)
    data = own(tmp_path, a=source, same=source)
    paths = render(data, "flow", progress=False)
    assert paths["a"] == paths["same"]
    written = paths["a"].stat().st_mtime_ns
    assert render(data, "flow", progress=False) == paths
    assert paths["a"].stat().st_mtime_ns == written
    moving(source, dx=-0.05)
    assert render(data, "flow", progress=False)["a"] != paths["a"]


def test_an_empty_data_set_needs_no_rendering(world):
    assert render(replace(world, videos={}, queries=(), actions=(), questions=()), "flow", progress=False) == {}


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_files(world, tmp_path, monkeypatch):
    one = render(world, "flow", workers=1, progress=False)
    monkeypatch.setattr(renderings, "cache_dir", (tmp_path / "second").joinpath)
    two = render(world, "flow", workers=2, progress=False)
    assert {name: path.read_bytes() for name, path in one.items()} == {name: two[name].read_bytes() for name in two}


@pytest.mark.slow
def test_a_killed_rendering_goes_on_and_leaves_nothing_half_written(world, tmp_path):
    code = (
        "import sys; from vkdlab.data import load; from vkdlab.browse.renderings import render\n"
        "render(load('tabletop', 'train', profile='smoke', progress=False), 'flow', workers=1, progress=False)"
    )
    env = os.environ | {"VKDLAB_CACHE": str(tmp_path)}
    load("tabletop", "train", profile="smoke", progress=False)
    os.symlink(world.root.parent, tmp_path / "tabletop")
    process = subprocess.Popen([sys.executable, "-c", code], env=env)
    folder = tmp_path / "renderings" / "flow"
    until = time.monotonic() + 200
    while not list(folder.glob("[!.]*.mp4")) and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    data = load("tabletop", "train", profile="smoke", progress=False)
    first = {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*.mp4")}
    assert 0 < len(first) < len(data.videos)
    paths = render(data, "flow", progress=False)
    assert len(set(paths.values())) == len(data.videos)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert not list(folder.glob(".*.mp4"))


def test_an_unknown_kind_is_told_with_those_that_there_are(world):
    with pytest.raises(ValueError, match=r"^there is no rendering 'depth': choose one of flow, boxes$"):
        render(world, "depth")


def test_boxes_of_other_data_are_refused_with_what_can_be_done(tmp_path):
    data = own(tmp_path, a=moving(tmp_path / "a.mp4", dx=0))
    with pytest.raises(ValueError, match=r"^mine has no boxes: they are known of the built-in world alone.*'flow'"):
        render(data, "boxes")


def test_boxes_of_a_world_without_labels_are_refused(world, tmp_path):
    with pytest.raises(ValueError, match=r"^boxes of 3 of 3 videos are not known: .*smoke-test-0000.*Build the world"):
        render(replace(world, root=tmp_path), "boxes")


def test_videos_without_a_file_are_named(tmp_path):
    data = own(tmp_path, a=moving(tmp_path / "a.mp4", dx=0), none=None)
    gone = replace(data, videos=data.videos | {"gone": Video("gone", tmp_path / "gone.mp4", 1.0)})
    with pytest.raises(VideoError, match=r"^2 of 3 videos of mine have no file: .*none.*gone"):
        render(gone, "flow")


def test_videos_that_cannot_be_read_are_named_and_the_others_kept(tmp_path):
    good, bad = moving(tmp_path / "good.mp4", dx=0), tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes()[:2000])
    data = own(tmp_path, good=good)
    data = replace(data, videos={"bad": Video("bad", bad, 1.0), **data.videos})
    with pytest.raises(VideoError, match=r"(?s)^1 of 2 videos could not be rendered.*kept in .*\n  bad: .*bad\.mp4"):
        render(data, "flow", progress=False)
    assert render(data.of_videos(["good"]), "flow", progress=False)["good"].is_file()
    assert len(list((tmp_path / "renderings" / "flow").glob("*.mp4"))) == 1


def test_boxes_of_another_video_than_the_labels_speak_of_are_refused(world, tmp_path):
    name, video = next(iter(world.videos.items()))
    other = replace(video, path=moving(tmp_path / "other.mp4", dx=0))
    with pytest.raises(VideoError, match=r"other\.mp4 has 12 frames, its labels \d+\. Build the world again"):
        render(replace(world.of_videos([name]), videos={name: other}), "boxes", progress=False)
