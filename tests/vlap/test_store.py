"""Videos are decoded and encoded once, and one that is damaged is named and never replaced."""

import re
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from torch import nn

from tests.data.media import write
from tests.vlap.small_questions import Glance, SmallBackbone, films
from vkdlab.data.datasets import Video
from vkdlab.vlap.frames import VideoFrames
from vkdlab.vlap.store import FrameStore, frame_store

SIZES = {"count": 8, "size": (32, 24), "thumbnail": (16, 12), "progress": False}


class Counting(SmallBackbone):
    """Counts the frames that it sees, and may be stopped after some."""

    seen = 0
    patience = 1000

    def see(self, frames):
        if self.seen > self.patience:
            raise KeyboardInterrupt
        self.seen += len(frames)
        return super().see(frames)


@pytest.fixture
def dataset(tmp_path):
    return films(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def build(dataset, folder, *, backbone=None, glance=None, **changed) -> FrameStore:
    backbone = backbone or SmallBackbone()
    torch.manual_seed(1)
    glance = glance or Glance()
    return frame_store(dataset, backbone.see, glance, folder=folder, **SIZES | changed)


def with_hole(path, *, key=1):
    """Overwrites the key frame with that number; the frames before it can still be decoded."""
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        place = [entry for entry in container.streams.video[0].index_entries if entry.is_keyframe][key]
        content[place.pos : place.pos + place.size] = bytes(place.size)
    path.write_bytes(content)


def test_the_store_has_what_the_encoders_give_for_the_videos_frames(dataset, folder):
    torch.manual_seed(3)
    backbone, glance = SmallBackbone(), Glance()
    store = build(dataset, folder, backbone=backbone, glance=glance)
    assert store.videos == set(dataset.videos)
    for name, video in dataset.videos.items():
        frames = VideoFrames(video.path, count=8, size=(32, 24), thumbnail=(16, 12))
        expected = backbone.see(torch.from_numpy(frames.read(range(len(frames)))))
        assert torch.equal(store.tokens(name), expected.half())
        assert torch.equal(store.glances(name), glance.eval()(torch.from_numpy(frames.glance())).half())
        np.testing.assert_allclose(store.places(name), frames.places, rtol=1e-6)
    assert [len(store.tokens(name)) for name in sorted(store.videos)] == [8, 5, 1, 8]


def test_a_video_in_the_store_is_neither_decoded_nor_encoded_again(dataset, folder):
    backbone = Counting()
    build(dataset, folder, backbone=backbone)
    before = backbone.seen
    again = Counting()
    build(dataset, folder, backbone=again)
    assert again.seen <= 1  # a blank frame, to know which weights count
    next(folder.glob("train-0-*.safetensors")).unlink()
    build(dataset, folder, backbone=again)
    assert 8 <= again.seen < before


def test_a_build_that_was_stopped_goes_on_with_the_videos_that_are_missing(dataset, folder):
    stopped = Counting()
    stopped.patience = 8
    with pytest.raises(KeyboardInterrupt):
        build(dataset, folder, backbone=stopped)
    finished = len(list(folder.glob("*.safetensors")))
    assert 0 < finished < len(dataset.videos)
    (folder / ".left-behind.abc.safetensors").write_bytes(b"half a file")
    again = Counting()
    store = build(dataset, folder, backbone=again)
    assert store.videos == set(dataset.videos)
    assert again.seen < 8 + 5 + 1 + 8
    assert len(list(folder.glob("*.safetensors"))) == len(dataset.videos)
    assert not list(folder.glob(".left-behind*"))


@pytest.mark.parametrize(
    "other",
    [
        {"backbone": SmallBackbone(seed=1)},
        {"glance": Glance()},
        {"count": 4},
        {"size": (48, 32)},
        {"thumbnail": (8, 6)},
    ],
    ids=["backbone", "glance", "count", "size", "thumbnail"],
)
def test_other_weights_counts_and_sizes_get_files_of_their_own(dataset, folder, other):
    first = build(dataset, folder)
    second = build(dataset, folder, **other)
    assert first.fingerprint != second.fingerprint
    assert len(list(folder.glob("*.safetensors"))) == 2 * len(dataset.videos)
    assert build(dataset, folder).fingerprint == first.fingerprint


def test_weights_that_seeing_does_not_use_have_no_influence(dataset, folder):
    backbone = SmallBackbone()
    first = build(dataset, folder, backbone=backbone)
    with torch.no_grad():
        backbone.found.weight.add_(1)
    assert build(dataset, folder, backbone=backbone).fingerprint == first.fingerprint
    with torch.no_grad():
        backbone.eye.bias.add_(1)
    assert build(dataset, folder, backbone=backbone).fingerprint != first.fingerprint


def test_a_replaced_video_is_encoded_again(dataset, folder):
    before = build(dataset, folder).tokens("train-0")
    write(dataset.videos["train-0"].path, count=20)
    assert not torch.equal(build(dataset, folder).tokens("train-0"), before)


def test_videos_that_cannot_be_decoded_are_named_with_the_reason_and_the_others_are_there(dataset, folder, tmp_path):
    with_hole(dataset.videos["train-0"].path)
    (tmp_path / "train-1.mp4").write_bytes(b"no video")
    videos = dict(dataset.videos) | {
        "text": Video("text", None, 5.0),
        "gone": Video("gone", tmp_path / "gone.mp4", 5.0),
    }
    store = build(replace(dataset, videos=videos), folder)
    assert store.videos == {"train-2", "train-3"}
    assert set(store.failed) == {"train-0", "train-1", "text", "gone"}
    assert re.search(r"train-0\.mp4: frame \d+ \(at .* cannot be decoded", store.failed["train-0"])
    assert "train-1.mp4: cannot be read as a video" in store.failed["train-1"]
    assert "without this video's file" in store.failed["text"]
    assert "gone.mp4: there is no such video" in store.failed["gone"]
    with pytest.raises(KeyError, match=r"no frames of 'train-0': .*frame \d+ \(at"):
        store.tokens("train-0")
    write(dataset.videos["train-0"].path, count=12)
    assert "train-0" in build(dataset, folder).videos


def test_encoders_run_in_evaluation_mode_and_keep_the_mode_that_each_part_had(dataset, folder):
    glance, backbone = Glance().train(), SmallBackbone().train()
    backbone.when.eval()
    build(dataset, folder, glance=glance, backbone=backbone)
    assert glance.norm.num_batches_tracked == 0
    assert glance.norm.training
    assert (backbone.eye.training, backbone.when.training) == (True, False)


def test_several_splits_are_one_store(tmp_path, folder):
    parts = [films(tmp_path, split=split, count=2) for split in ("train", "val")]
    assert build(parts, folder).videos == {"train-0", "train-1", "val-0", "val-1"}


def test_by_default_files_lie_in_the_cache_and_ids_may_hold_any_character(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path / "cache"))
    video = replace(dataset.videos["train-0"], id="show/season 1")
    store = build(replace(dataset, videos={video.id: video}, questions=()), None)
    assert store.videos == {"show/season 1"}
    (path,) = (tmp_path / "cache" / "frames" / "films-demo").glob("*.safetensors")
    assert path.name.startswith("show%2Fseason 1-")


def test_a_damaged_file_is_named_when_it_is_read_and_mended_by_building_again(dataset, folder):
    store = build(dataset, folder)
    (path,) = folder.glob("train-0-*.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"train-0-\w+\.safetensors cannot be read .*build the store again"):
        store.tokens("train-0")
    assert len(build(dataset, folder).tokens("train-0")) == 8


def test_what_cannot_be_an_encoder_or_a_count_is_refused(dataset, folder):
    with pytest.raises(TypeError, match=r"a module or a method of one, .* got function"):
        frame_store(dataset, lambda frames: frames, Glance(), folder=folder, progress=False)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        build(dataset, folder, count=0)

    class Endless(nn.Module):
        def forward(self, frames):
            return torch.full((len(frames), 1, 1), 1e9)

    with pytest.raises(ValueError, match=r"train-0: an encoder gives numbers that are not finite"):
        build(dataset, folder, glance=Endless())
