"""Frames with and without labels in one training."""

import numpy as np
import pytest
import torch

from vkdlab.data import write_video
from vkdlab.data.dense import VOID, load_dense
from vkdlab.data.dense_batches import Clips, TrainingFrames
from vkdlab.data.dense_mixed import MixedFrames
from vkdlab.training import Data

SIZE = (48, 40)


@pytest.fixture(scope="module")
def smoke():
    return load_dense("tabletop", "train", profile="smoke", videos=2, every=5, progress=False)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", rng.integers(0, 256, (9, 72, 96, 3), np.uint8), fps=10)
    (folder / "moments.csv").write_text("file,start,end,sentence\na.mp4,0,0.5,noise\nb.mp4,0,0.5,noise\n")
    return load_dense(folder, "all", progress=False)


def test_no_pixel_counts_in_frames_that_nobody_labelled(smoke, others):
    mixed = MixedFrames([TrainingFrames(smoke, size=SIZE, samples=3), TrainingFrames(others, size=SIZE, samples=2)])
    assert len(mixed) == 5
    batch = mixed.collate([mixed[i] for i in range(5)])
    assert batch.frames.shape == (5, 1, 3, 40, 48)
    assert batch.labels.shape == (5, 1, 40, 48)
    assert (batch.labels[3:] == VOID).all()
    assert all((labels != VOID).any() for labels in batch.labels[:3])
    with pytest.raises(IndexError, match="samples 0 to 4, was asked for 5"):
        mixed[5]


def test_samples_are_those_of_the_parts(smoke, others):
    parts = [TrainingFrames(smoke, stills=True, samples=3), TrainingFrames(others, gaps=(1, 4), samples=2)]
    mixed = MixedFrames(parts)
    for i, (part, place) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        torch.manual_seed(i)
        found = mixed[i]
        torch.manual_seed(i)
        assert torch.equal(found.frames, parts[part][place].frames)


def test_frames_that_all_have_no_labels_stay_without(others):
    mixed = MixedFrames([TrainingFrames(others, samples=2), TrainingFrames(others, samples=3)])
    assert mixed.collate([mixed[i] for i in range(5)]).labels is None


def test_another_share_is_another_training(smoke, others):
    val = Clips(load_dense("tabletop", "val", profile="smoke", every=5, progress=False))

    def key(samples):
        parts = [TrainingFrames(smoke, samples=3), TrainingFrames(others, samples=samples)]
        return Data(MixedFrames(parts), val).fingerprint

    assert key(2) == key(2) != key(1)


def test_what_cannot_be_one_batch_is_refused(smoke, others):
    with pytest.raises(ValueError, match=r"tabletop: pairs of \(96, 72\); .*: frames of \(96, 72\)"):
        MixedFrames([TrainingFrames(smoke, gaps=(1, 2)), TrainingFrames(others)])
    with pytest.raises(ValueError, match=r"frames of \(48, 40\); .*: frames of \(96, 72\)"):
        MixedFrames([TrainingFrames(smoke, size=SIZE), TrainingFrames(others)])
    with pytest.raises(ValueError, match="with boxes"):
        MixedFrames([TrainingFrames(smoke, boxes=True), TrainingFrames(others)])
    with pytest.raises(ValueError, match="at least one"):
        MixedFrames([])
