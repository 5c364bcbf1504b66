"""Videos that nobody labelled: the teacher's answers as labels, copying, steadiness; what is left out or refused."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.delta.small_networks import randomise
from vkdlab.data.dense import DenseDataset, FrameSequence, load_dense
from vkdlab.data.dense_batches import as_input
from vkdlab.data.manifests import DataMissing, ManifestError
from vkdlab.data.video import write_video
from vkdlab.delta import convert
from vkdlab.delta.evaluate import agreement, consistency, evaluate
from vkdlab.delta.real import answered, load_videos, on_videos, per_video, steadiness
from vkdlab.delta.real_figures import RealVideo, measure_real
from vkdlab.delta.tasks import DETECTION, SEGMENTATION
from vkdlab.metrics import mean_interval

CLASSES = 5


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    model = varied(randomise(SEGMENTATION.network(8, CLASSES)), videos(1).frames)
    return convert(model)


@pytest.fixture(scope="module")
def finder():
    torch.manual_seed(1)
    return convert(randomise(DETECTION.network(8, CLASSES)))


def videos(*counts, still=False, size=(48, 32)):
    """Frames of noise, some of them moving, as a data set without labels."""
    rng = np.random.default_rng(0)
    parts, sequences = [], []
    for place, count in enumerate(counts):
        picture = rng.integers(0, 256, (1, *reversed(size), 3), np.uint8)
        shown = np.repeat(picture, count, axis=0)
        if not still:
            shown = np.stack([np.roll(frame, 2 * i, axis=1) for i, frame in enumerate(shown)])
        sequences.append(FrameSequence(f"v{place}", f"v{place}", sum(counts[:place]), count, 10.0))
        parts.append(shown)
    return DenseDataset(
        name="own", split="all", profile="demo", sequences=tuple(sequences), classes=(), fingerprint="x",
        frames=np.concatenate(parts),
    )  # fmt: skip


def varied(model, frames):
    """The network with classes that differ from place to place."""
    with torch.no_grad():
        model.head.bias -= model(as_input(frames)).mean((0, 2, 3))
    return model


def _frame(dense, i):
    return as_input(dense.frame(i))[None]


def test_in_a_static_video_nothing_is_new_and_all_agree(network):
    found = on_videos(network, {"own": videos(9, 12, still=True)}, period=4)
    assert [video.frames for video in found.videos] == [6, 9]
    for video in found.videos:
        assert video.energy == (0, 0, 0, 0)
        assert video.delta.by_distance == (1, 1, 1, 1)
        assert video.copying.by_distance == (1, 1, 1, 1)
    assert found.gain.mean == 0
    assert found.metrics()["real video: new energy after 3 frames"] == 0


def test_at_period_one_copying_is_the_delta_network_and_both_are_the_teacher(network):
    found = on_videos(network, {"own": videos(5)}, period=1)
    (video,) = found.videos
    assert video.delta.by_distance == video.copying.by_distance == (1,)
    assert found.gain.mean == 0
    assert math.isnan(found.gain.low)


def test_agreement_is_that_of_answers_to_every_frame_at_every_distance(network):
    dense = videos(7, 9)
    found = on_videos(network, {"own": dense}, period=3, frames=100)
    first, second = per_video(dense)
    for video, alone in zip(found.videos, (first, second), strict=True):
        expected = agreement(network, alone, period=3)
        assert video.delta.by_distance == pytest.approx(expected.by_distance, abs=1e-4)
        assert video.delta.metric == expected.metric == "mIoU with the teacher"
        teacher = [network.reference(_frame(alone, i)).argmax(1).numpy() for i in range(len(alone))]
        for distance in range(3):
            iou = []
            pairs = [(teacher[i - distance], teacher[i]) for i in range(2, len(alone))]
            answers, truth = (np.concatenate(each) for each in zip(*pairs, strict=True))
            for k in np.unique(truth):
                iou.append(((answers == k) & (truth == k)).sum() / ((answers == k) | (truth == k)).sum())
            assert video.copying.by_distance[distance] == pytest.approx(np.mean(iou), abs=1e-4)
    sums = [sum(each.counts.sum() for each in video.delta.sums) for video in found.videos]
    assert sum(each.counts.sum() for each in found.total("delta").sums) == sum(sums)
    gains = [np.mean(video.delta.by_distance[1:]) - np.mean(video.copying.by_distance[1:]) for video in found.videos]
    assert found.gain == mean_interval(gains)


def test_energy_is_the_change_since_the_key_frame_beside_the_key_frames_contrast(network):
    dense = videos(6)
    (video,) = on_videos(network, {"own": dense}, period=2, frames=100).videos
    frames = dense.frames.astype(float)
    expected = [
        ((frames[i] - frames[i - 1]) ** 2).mean() / ((frames[i - 1] - frames[i - 1].mean((0, 1))) ** 2).mean()
        for i in range(1, 6)
    ]
    assert video.energy == pytest.approx((0, np.mean(expected)), rel=1e-4)


def test_few_frames_are_spread_over_the_whole_video(network):
    (video,) = on_videos(network, {"own": videos(31)}, period=4, frames=5).videos
    assert video.frames == 5
    with pytest.raises(ValueError, match="at least one frame of a video is measured, got 0"):
        on_videos(network, {"own": videos(31)}, period=4, frames=0)


def test_a_video_shorter_than_the_period_is_left_out_and_named(network):
    found = on_videos(network, {"own": videos(3, 8)}, period=4)
    assert [video.video for video in found.videos] == ["v1"]
    assert found.left_out == {"own v0": "3 frames are fewer than the period of 4"}
    assert list(found.table().index) == ["own, v1"]
    with pytest.raises(ValueError, match="no video of own is long enough for a period of 9: the longest has 8 frames"):
        on_videos(network, {"own": videos(3, 8)}, period=9)
    with pytest.raises(ValueError, match="the longest has 0 frames"):
        on_videos(network, {}, period=4)
    with pytest.raises(ValueError, match="no video of own is long enough for a period of 8"):
        steadiness(network, videos(3, 8), period=8)


def test_frames_of_a_size_that_the_network_cannot_take_are_refused_with_their_size(network):
    dense = videos(9, size=(44, 30))
    for measure in (lambda: on_videos(network, {"own": dense}, period=4), lambda: steadiness(network, dense, period=4)):
        with pytest.raises(ValueError, match=r"does not take the frames of own, 44x30 pixels: .*multiples of 8"):
            measure()


def test_a_network_of_another_kind_says_why_it_does_not_take_frames():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.last = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 8), (16, 2)))

        def forward(self, x):
            x = self.first(x)
            return self.last(torch.cat([nn.functional.max_pool2d(self.inner(x), 2).repeat(1, 1, 2, 2), x], 1))

    with pytest.raises(ValueError, match="the network does not take the frames of own, 45x30 pixels: Sizes of tensors"):
        on_videos(convert(Joined()), {"own": videos(9, size=(45, 30))}, period=4)


def test_answers_stand_in_for_labels_and_other_frames_have_none(network, finder):
    dense = videos(6)
    labelled = answered(network, dense, [1, 4])
    assert (labelled.labels(1) == network.reference(_frame(dense, 1)).argmax(1)[0].numpy()).all()
    assert (labelled.labels(0) == 255).all()
    boxes = answered(finder, dense, [2], task=DETECTION)
    truth = DETECTION.answers(finder.reference(_frame(dense, 2)))
    np.testing.assert_allclose(boxes.boxes(2)[0], truth.boxes[0].numpy(), atol=1e-3)
    assert boxes.boxes(2)[1].tolist() == truth.box_labels[0].tolist()
    assert len(boxes.boxes(0)[0]) == 0
    if len(truth.boxes[0]):
        assert evaluate(finder, boxes, DETECTION, period=1, start=2, every=9).value == pytest.approx(1)


def test_a_detector_that_finds_nothing_leaves_no_number_behind(finder):
    silent = convert(randomise(DETECTION.network(8, CLASSES)))
    with torch.no_grad():
        last = [module for module in silent.modules() if isinstance(module, nn.Conv2d)][-1]
        last.weight.zero_()
        last.bias.fill_(-20.0)
    found = on_videos(silent, {"own": videos(6)}, task=DETECTION, period=2)
    assert math.isnan(found.videos[0].delta.value)
    assert found.gain.count == 0
    assert all(map(math.isfinite, found.metrics().values()))


def test_videos_of_a_data_set_are_views_of_its_frames():
    dense = videos(4, 7)
    first, second = per_video(dense)
    assert [len(first), len(second)] == [4, 7]
    assert np.shares_memory(second.frames, dense.frames)
    assert (second.frame(2) == dense.frame(6)).all()
    assert [len(each) for each in per_video(dense, frames=5)] == [4, 5]


def test_steadiness_is_consistency_sequence_by_sequence(network):
    dense = videos(9, 3, 7)
    found = steadiness(network, dense, period=3)
    assert found.sequences == ("v0", "v2")
    assert found.left_out == {"v1": "3 frames hold no step at every distance of period 3"}
    parts = per_video(dense)
    expected = [consistency(network, parts[place], period=3) for place in (0, 2)]
    for source in ("teacher", "delta", "copying"):
        values = [each.value for each in found.by_source[source]]
        assert values == pytest.approx([each[source].value for each in expected])
        assert found.total()[source].by_distance == (expected[0][source] + expected[1][source]).by_distance
    apart = [each["delta"].value - each["teacher"].value for each in expected]
    assert found.gain("delta") == mean_interval(apart)
    assert found.gain("delta", than="delta").mean == 0
    assert found.metrics("own")["own: consistency of delta above the teacher"] == pytest.approx(np.mean(apart))


def test_whatever_stands_still_is_consistent(network):
    found = steadiness(network, videos(6, still=True), period=2)
    assert {source: each.value for source, each in found.total().items()} == {"teacher": 1, "delta": 1, "copying": 1}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, count, size in (("a", 20, (64, 48)), ("b", 18, (64, 48)), ("c", 6, (48, 48))):
        frames = np.repeat(rng.integers(0, 256, (1, size[1] // 8, size[0] // 8, 3), np.uint8), 8, 1).repeat(8, 2)
        write_video(tmp_path / f"{name}.mp4", np.repeat(frames, count, axis=0), fps=10)
    rows = "".join(f"{name}.mp4,0,0.5,noise\n" for name in "abc")
    (tmp_path / "moments.csv").write_text(f"file,start,end,sentence\n{rows}")
    return tmp_path


def test_a_folder_of_ones_own_is_brought_to_one_size_in_its_middle_proportions(folder):
    (dense,) = load_videos(f" {folder} ,", size=(80, 60), workers=1, progress=False).values()
    assert dense.size == (80, 64)
    assert [each.count for each in dense.sequences] == [20, 18, 6]
    assert len(load_videos([str(folder)], videos=2, workers=1, progress=False)[str(folder)].sequences) == 2


def test_names_that_name_no_videos_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VKDLAB_DATA", str(tmp_path))
    for empty in ("", " , ", []):
        with pytest.raises(ValueError, match="no data set is named"):
            load_videos(empty)
    with pytest.raises(ManifestError, match="clisp"):
        load_videos("clisp")
    with pytest.raises(DataMissing):
        load_videos("clips")


def test_all_of_it_is_measured_of_a_folder_and_drawn(network, folder):
    found = measure_real(str(folder), network, period=4, size=(64, 48), profile="smoke", workers=1, progress=False)
    assert isinstance(found, RealVideo)
    assert list(found.figures()) == ["On real video", "Is it steady on real video", "Still tiles"]
    metrics = found.metrics()
    assert metrics["real video: videos"] == 3
    assert all(map(math.isfinite, metrics.values()))
    # Two videos stand still: one of them chooses the threshold, the other one is shown.
    assert metrics["still tiles: videos of fixed cameras"] == 1
    assert f"to choose the threshold: {folder}, a" in repr(found)
    assert "3 videos" in found.apart.layout.title.subtitle.text
    with pytest.raises(ValueError, match="profile is one of smoke, demo, full, got 'quick'"):
        measure_real(str(folder), network, profile="quick")


def test_a_detector_is_measured_by_its_boxes(finder, folder):
    found = measure_real(
        str(folder), finder, task=DETECTION, period=4, size=(64, 48), profile="smoke", workers=1, progress=False
    )  # fmt: skip
    assert found.agreed.videos[0].delta.metric == "mAP@0.5 with the teacher"
    (dense,) = load_videos(str(folder), size=(64, 48), workers=1, progress=False).values()
    expected = consistency(finder, per_video(dense)[1], period=4, task=DETECTION)
    (steady,) = found.steady.values()
    assert steady.by_source["delta"][1].by_distance == pytest.approx(expected["delta"].by_distance, nan_ok=True)


def test_without_a_name_nothing_is_measured_and_one_sentence_says_how(network):
    found = measure_real(" ", network)
    assert (found.metrics(), found.figures()) == ({}, {})
    assert found.apart is found.steadiness is found.still is None
    assert 'the parameter `real`, such as "clips,davis20"' in repr(found)


def test_a_teacher_that_sees_one_class_shows_nothing_and_that_is_said(network, monkeypatch):
    monkeypatch.setattr("vkdlab.delta.real_figures.load_videos", lambda *_, **__: {"own": videos(24)})
    assert "one class alone" not in repr(measure_real("own", network, period=4, profile="smoke"))
    model = SEGMENTATION.network(8, CLASSES)
    with torch.no_grad():
        model.head.weight.zero_()
    found = measure_real("own", convert(model), period=4, profile="smoke")
    assert found.metrics()["real video: delta, mIoU with the teacher"] == 1
    assert "In 1 of 1 videos the teacher answers with one class alone" in repr(found)


def test_one_video_of_a_moving_camera_has_no_still_tiles_and_that_is_said(network, monkeypatch):
    monkeypatch.setattr("vkdlab.delta.real_figures.load_videos", lambda *_, **__: {"own": videos(24)})
    found = measure_real("own", network, period=4, profile="smoke")
    assert found.tiles is None
    assert "0 videos are of fixed cameras" in repr(found)
    assert set(found.figures()) == {"On real video", "Is it steady on real video"}


def test_a_real_clip_is_read_and_measured(network, data_root):
    found = load_videos("davis20", size=(64, 48), videos=1, workers=1, progress=False)
    (dense,) = found.values()
    assert dense.size == (80, 48)
    assert dataclasses.replace(dense).classes == ("background", "object")
    assert per_video(dense)[0].classes == ()
    assert len(on_videos(network, found, period=4, frames=1).videos) == 1
    assert (
        load_dense("davis20", "test", size=(80, 48), videos=1, workers=1, progress=False).frames.shape
        == dense.frames.shape
    )
