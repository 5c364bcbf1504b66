"""Still tiles, measured: which cameras are fixed, what is timed, how the threshold is chosen, what is refused."""

import math

import numpy as np
import pytest
import torch

from tests.delta.small_networks import randomise
from tests.delta.test_real import varied, videos
from vkdlab.data.dense_batches import as_input
from vkdlab.delta import convert
from vkdlab.delta.real import per_video
from vkdlab.delta.real_figures import still_tiles
from vkdlab.delta.still import (
    Tiled,
    TiledVideos,
    camera_motion,
    choose_threshold,
    fixed_cameras,
    on_fixed_cameras,
    tiled,
)
from vkdlab.delta.tasks import DETECTION, SEGMENTATION
from vkdlab.delta.tiles import StillTiles
from vkdlab.dense_metrics import Confusion
from vkdlab.metrics import mean_interval

SIZE = (96, 64)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return convert(varied(randomise(SEGMENTATION.network(8, 4, multiples=(1, 2))), with_patch(1)))


def smooth(shift, count=20, *, size=SIZE):
    """A picture of waves that moves `shift` pixels to the right from frame to frame."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    waves = [
        np.stack([np.sin((x - shift * i) / 5 + phase) + np.cos(y / 6 + phase) for phase in (0, 1, 2)], axis=-1)
        for i in range(count)
    ]
    return (60 * np.stack(waves) + 125).astype(np.uint8)


def shown(frames):
    (video,) = per_video(videos(len(frames), size=SIZE))
    object.__setattr__(video, "frames", frames)
    return video


def with_patch(count=20):
    """A still picture in which a patch jumps."""
    frames = smooth(0, count)
    for i in range(count):
        place = 8 * (i % 5)
        frames[i, 8:20, place : place + 12] = 255 - frames[i, 8:20, place : place + 12]
    return frames


def test_the_motion_of_the_whole_picture_is_its_shift_as_a_share_of_the_width():
    assert camera_motion(shown(smooth(0))) == 0
    assert camera_motion(shown(smooth(2))) == pytest.approx(2 / 96, rel=0.1)
    assert camera_motion(shown(with_patch())) == pytest.approx(0, abs=1e-4)


def test_a_camera_that_moves_in_a_fifth_of_the_time_is_not_fixed():
    frames = np.concatenate([smooth(0, 16), smooth(2, 4)])
    assert camera_motion(shown(frames)) > 0.01
    with pytest.raises(ValueError, match="v0 has 1 frame: motion is from one frame to the next"):
        camera_motion(shown(smooth(0, 1)))


def test_fixed_cameras_are_those_whose_picture_stays():
    dense = videos(20, 20, still=True, size=SIZE)
    object.__setattr__(dense, "frames", np.concatenate([smooth(2), with_patch()]))
    assert list(fixed_cameras({"own": dense})) == [("own", "v1")]
    assert fixed_cameras({"own": dense}, least_frames=21) == {}
    assert len(fixed_cameras({"own": dense}, most=1)) == 2


def test_every_frame_is_answered_as_by_teacher_delta_network_and_still_tiles(network):
    video, period = shown(with_patch(11)), 4
    found = tiled(network, video, threshold=0.02, period=period)
    frames = [as_input(video.frame(i))[None].contiguous(memory_format=torch.channels_last) for i in range(11)]
    deployed = network.deploy()
    steps = list(StillTiles(deployed, threshold=0.02, period=period).steps(frames))
    answers = {"delta": list(deployed.stream(frames, period=period)), "tiles": [step.output for step in steps]}
    for source, outputs in answers.items():
        expected = sum(
            (
                Confusion.of(a.argmax(1).numpy(), network.reference(frame).argmax(1).numpy(), classes=4)
                for a, frame in zip(outputs[1:], frames[1:], strict=True)
            ),
            start=Confusion.of(outputs[0].argmax(1).numpy(), network.reference(frames[0]).argmax(1).numpy(), classes=4),
        )
        assert 0.3 < expected.value < 1
        assert found.agreement[source].value == pytest.approx(expected.value, abs=2e-3)
        assert found.same(source) == pytest.approx(expected.accuracy, abs=2e-3)
    assert found.changed == pytest.approx(np.mean([step.changed.mean() for step in steps[1:]]))
    assert found.share == pytest.approx(np.mean([step.share for step in steps[1:]]))
    assert found.frames == 11
    assert set(found.ms) == set(found.cpu_ms) == {"teacher", "delta", "tiles"}
    assert min(*found.ms.values(), *found.cpu_ms.values()) > 0
    assert found.times_faster == found.ms["teacher"] / found.ms["tiles"]


def test_in_a_static_video_no_tile_changes_and_all_agree(network):
    found = tiled(network, shown(smooth(0, 9)), threshold=0.01)
    assert (found.changed, found.share) == (0, 0)
    assert found.agreement["tiles"].value == pytest.approx(1, abs=1e-3)
    assert found.same("tiles") == pytest.approx(1, abs=1e-3)


def test_any_teacher_is_called_once_a_frame_and_a_detector_is_measured_by_its_metric(network):
    calls = []

    def teacher(frame):
        calls.append(torch.is_inference_mode_enabled())
        return network.reference(frame)

    before = torch.get_num_threads()
    tiled(network, shown(with_patch(9)), threshold=0.05, teacher=teacher, frames=6)
    assert calls == [True] * 6
    assert torch.get_num_threads() == before
    finder = DETECTION.network(8, 5, multiples=(1, 2))
    found = tiled(convert(finder), shown(with_patch(6)), threshold=0.05, teacher=finder, task=DETECTION)
    assert math.isnan(found.same("tiles")) or 0 <= found.same("tiles") <= 1


def test_what_cannot_be_timed_or_cut_is_refused(network):
    with pytest.raises(ValueError, match="v0: at least 4 frames are needed to time two, got 3"):
        tiled(network, shown(smooth(0, 3)), threshold=0.05)
    with pytest.raises(ValueError, match="a period is a whole number of frames, at least 1"):
        tiled(network, shown(smooth(0, 9)), threshold=0.05, period=0)
    (odd,) = per_video(videos(9, size=(88, 64)))
    with pytest.raises(ValueError, match="multiples of the tile's 16 pixels"):
        tiled(network, odd, threshold=0.05)


def test_the_largest_threshold_that_loses_little_is_chosen(network, monkeypatch):
    right = {0.02: 100, 0.03: 99, 0.05: 97, 0.08: 90}

    def fake(_network, _video, *, threshold, **_):
        sums = {source: Confusion(np.array([[n, 100 - n, 0], [0, 0, 0]])) for source, n in
                (("delta", 98), ("tiles", right[threshold]))}  # fmt: skip
        return Tiled("own", "v0", 9, 0.1, 0.2, {}, {}, sums)

    monkeypatch.setattr("vkdlab.delta.still.tiled", fake)
    video = shown(smooth(0, 4))
    assert choose_threshold(network, [video]) == 0.05
    assert choose_threshold(network, [video], loss=0.0) == 0.03
    assert choose_threshold(network, [video], loss=0.5) == 0.08
    assert choose_threshold(network, [video], thresholds=(0.05, 0.08), loss=0.0) == 0.05
    with pytest.raises(ValueError, match="chosen on a video at least, got 0 and 4 to try"):
        choose_threshold(network, [])


def test_the_threshold_is_chosen_on_videos_that_are_not_reported(network):
    cameras = {("own", f"v{place}"): shown(with_patch(9)) for place in range(3)}
    found = on_fixed_cameras(network, cameras, period=4)
    assert found.chosen_on == ("own, v0", "own, v2")
    assert len(found.videos) == 1
    assert found.metrics()["still tiles: videos of fixed cameras"] == 1
    given = on_fixed_cameras(network, cameras, threshold=0.05, frames=6)
    assert (len(given.videos), given.chosen_on, given.threshold) == (3, (), 0.05)
    assert given.metrics()["still tiles: times faster"] == given.times_faster.mean
    assert given.times_faster == mean_interval([video.times_faster for video in given.videos])
    assert len(given.table()) == 3 - 2  # all of them have one name here
    with pytest.raises(ValueError, match="1 videos are of fixed cameras: at least one is needed, and another one"):
        on_fixed_cameras(network, {("own", "v0"): shown(with_patch(9))})
    with pytest.raises(ValueError, match="0 videos are of fixed cameras"):
        on_fixed_cameras(network, {}, threshold=0.05)


def test_the_figure_shows_every_video_by_its_share_of_tiles_that_change():
    def one(name, changed, fast):
        sums = {"delta": Confusion(np.array([[98, 2, 0], [0, 0, 0]])),
                "tiles": Confusion(np.array([[97, 3, 0], [0, 0, 0]]))}  # fmt: skip
        return Tiled("own", name, 9, changed, 0.2, {"teacher": 12.0, "delta": 6.0, "tiles": 12 / fast}, {}, sums)

    tiles = TiledVideos((one("a", 0.05, 4), one("b", 0.1, 3)), 0.05, ("own, c",), 8, "mIoU")
    figure = still_tiles(tiles, subtitle="own")
    assert figure.layout.title.text == (
        "Still tiles under fixed cameras: 3.5 times faster than the teacher, 1.0 points less agreement"
    )
    assert list(figure.data[0].x) == [5, 10]
    assert list(figure.data[0].y) == pytest.approx([4, 3])
    assert list(figure.data[1].y) == [2, 2]
    assert list(figure.data[2].y) == pytest.approx([97, 97])
    assert figure.layout.title.subtitle.text == "own; 2 videos, one thread, period 8, threshold 0.05"
