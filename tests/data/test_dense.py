"""Frames with labels on every pixel: true to their source, whole in the cache, and changed as one."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vkdlab.data import FrameReader, load, tabletop, write_video
from vkdlab.data.dense import CAMVID_CLASSES, OBJECTS, VOID, load_dense
from vkdlab.data.dense_batches import Augmentation, Clips, TrainingFrames, as_input, moved_boxes
from vkdlab.data.dense_files import LEAST_PIXELS, create, put
from vkdlab.data.manifests import DataMissing
from vkdlab.data.tabletop import SEMANTICS
from vkdlab.training import Data

STILL = Augmentation(flip=0, zoom=(1, 1), shift=0, light=0, motion=0)


@pytest.fixture(scope="module")
def smoke():
    return load_dense("tabletop", "test", profile="smoke", workers=1, progress=False)


@pytest.fixture(scope="module")
def annotations(smoke):
    return {each.id: tabletop.annotations(each.id) for each in smoke.sequences}


def test_frames_and_labels_are_those_of_the_world(smoke, annotations):
    assert smoke.classes == SEMANTICS
    assert sum(each.count for each in smoke.sequences) == len(smoke)
    for each in smoke.sequences:
        video = annotations[each.id]
        assert (each.count, each.fps) == (len(video.masks), pytest.approx(video.fps))
        reader = FrameReader(video.path)
        for k in (0, each.count // 2, each.count - 1):
            i = each.frames[k]
            assert smoke.sequence_of(i) == each
            assert (smoke.frame(i) == reader.frames([k])[0]).all()
            assert (smoke.labels(i) == video.semantic(k)).all()


def test_objects_are_told_apart_by_colour(smoke, annotations):
    fine = load_dense("tabletop", "test", profile="smoke", classes="objects", progress=False)
    assert fine.classes == OBJECTS
    assert len(OBJECTS) == 51
    assert fine.fingerprint != smoke.fingerprint
    for each in fine.sequences:
        video = annotations[each.id]
        for thing in video.instances:
            name = thing.kind if thing.colour is None else f"{thing.colour} {thing.kind}"
            seen = video.masks[3] == thing.id
            assert (fine.labels(each.first + 3)[seen] == OBJECTS.index(name)).all()


def test_boxes_are_those_of_things_that_can_be_seen(smoke, annotations):
    for each in smoke.sequences:
        video = annotations[each.id]
        for k in (0, each.count - 1):
            boxes, labels = smoke.boxes(each.first + k)
            seen = [i for i in range(len(video.instances)) if (video.masks[k] == i + 1).sum() >= LEAST_PIXELS]
            np.testing.assert_array_equal(boxes, video.boxes[k][seen])
            assert labels.tolist() == [video.instances[i].semantic for i in seen]
            assert labels.min() > 0


def test_motion_is_the_worlds_flow_backwards(smoke, annotations):
    each = smoke.sequences[0]
    video = annotations[each.id]
    for k in (1, each.count // 2):
        motion, visible = smoke.motion(each.first + k)
        there = video.flow(k - 1)
        ys, xs = np.nonzero(visible)
        for y, x in list(zip(ys, xs, strict=True))[::97]:
            dx, dy = motion[y, x]
            from_x, from_y = int(np.floor(x + 0.5 + dx)), int(np.floor(y + 0.5 + dy))
            assert video.masks[k - 1, from_y, from_x] == video.masks[k, y, x]
            # Flow differs by what a fraction of a pixel makes within one moving plane.
            np.testing.assert_allclose(there[from_y, from_x], (-dx, -dy), atol=0.15)
        assert 0.9 < visible.mean() <= 1


def test_another_size_and_every_other_frame_keep_labels_and_boxes_in_place(smoke):
    half = load_dense("tabletop", "test", profile="smoke", size=(48, 36), every=2, workers=1, progress=False)
    assert half.size == (48, 36)
    assert half.fingerprint != smoke.fingerprint
    each, whole = half.sequences[1], smoke.sequences[1]
    assert (each.count, each.fps) == (-(-whole.count // 2), pytest.approx(whole.fps / 2))
    i, same = each.first + 4, whole.first + 8
    assert (half.labels(i) == smoke.labels(same)[1::2, 1::2]).all()
    assert (
        abs(half.frame(i).astype(int) - cv2.resize(smoke.frame(same), (48, 36), interpolation=cv2.INTER_AREA)).max()
        <= 1
    )
    np.testing.assert_allclose(half.boxes(i)[0] * 2, smoke.boxes(same)[0])
    motion, visible = half.motion(i)
    assert motion.shape == (36, 48, 2)
    assert visible.mean() > 0.8
    assert np.isfinite(motion).all()


def test_a_choice_of_videos_is_the_one_that_data_sets_make(smoke):
    one = load_dense("tabletop", "test", profile="smoke", videos=1, workers=1, progress=False)
    assert [each.id for each in one.sequences] == list(load("tabletop", "test", profile="smoke").subset(1).videos)
    assert one.fingerprint != smoke.fingerprint


def test_an_index_that_is_missing_has_the_frames_decoded_again(smoke):
    folder = Path(smoke.frames.filename).parent
    (folder / ".frames.leftover.npy").write_bytes(b"half")
    (folder / "index.json").unlink()
    again = load_dense("tabletop", "test", profile="smoke", workers=2, progress=False)
    assert not list(folder.glob(".*.npy"))
    assert again.fingerprint == smoke.fingerprint
    assert (again.frames[::37] == smoke.frames[::37]).all()
    assert (again.codes[::37] == smoke.codes[::37]).all()


def test_rows_are_written_where_they_belong(tmp_path):
    create(tmp_path / "a.npy", (5, 2, 3), np.uint8)
    values = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    put(tmp_path / "a.npy", 2, values)
    found = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert (found[2:4] == values).all()
    assert found[[0, 1, 4]].max() == 0


def test_frames_of_other_videos_come_without_labels(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("a", 9), ("b", 7)):
        write_video(tmp_path / f"{name}.mp4", rng.integers(0, 256, (count, 48, 64, 3), np.uint8), fps=10)
    (tmp_path / "moments.csv").write_text("file,start,end,sentence\na.mp4,0,0.5,noise\nb.mp4,0,0.5,noise\n")
    found = load_dense(tmp_path, "all", progress=False)
    assert [each.count for each in found.sequences] == [9, 7]
    assert found.classes == ()
    with pytest.raises(ValueError, match="has frames and no labels"):
        found.labels(0)
    with pytest.raises(ValueError, match="has no boxes"):
        found.boxes(0)
    motion, visible = found.motion(1)
    assert (motion.shape, visible.dtype) == ((48, 64, 2), bool)
    assert Clips(found, length=2)[0].labels is None
    write_video(tmp_path / "b.mp4", rng.integers(0, 256, (7, 32, 64, 3), np.uint8), fps=10)
    with pytest.raises(ValueError, match=r"several sizes \(\[\(64, 32\), \(64, 48\)\]\): give size"):
        load_dense(tmp_path, "all", progress=False)
    assert load_dense(tmp_path, "all", size=(32, 24), progress=False).size == (32, 24)


def test_bad_arguments_are_refused(smoke):
    with pytest.raises(ValueError, match='"objects" with tabletop'):
        load_dense("camvid", "test", classes="objects")
    with pytest.raises(ValueError, match="every is at least 1"):
        load_dense("tabletop", "test", profile="smoke", every=0)
    with pytest.raises(ValueError, match="size at least"):
        load_dense("tabletop", "test", profile="smoke", size=(4, 4))
    with pytest.raises(IndexError, match=f"frames 0 to {len(smoke) - 1}, was asked for {len(smoke)}"):
        smoke.labels(len(smoke))
    with pytest.raises(ValueError, match="is the first of"):
        smoke.motion(smoke.sequences[1].first)


def test_pairs_lie_in_one_video_and_within_the_gap(smoke):
    pairs = TrainingFrames(smoke, gaps=(2, 5), augmentation=None)
    assert len(pairs) == len(smoke) - 2 * len(smoke.sequences)
    where = {smoke.frame(i).tobytes(): i for i in range(len(smoke))}
    seen = set()
    for i in [*range(0, len(pairs), 11), len(pairs) - 1]:
        item = pairs[i]
        frames = (item.frames[0] * 255).round().byte().movedim(1, -1).numpy()
        key, later = (where[frame.tobytes()] for frame in frames)
        assert smoke.sequence_of(key) == smoke.sequence_of(later)
        seen.add(later - key)
        assert (item.labels[0, 1].numpy() == smoke.labels(later)).all()
    assert seen == {2, 3, 4, 5}


def test_samples_are_spread_over_all_frames(smoke):
    few = TrainingFrames(smoke, augmentation=None, samples=7)
    where = {smoke.frame(i).tobytes(): i for i in range(len(smoke))}
    found = [where[(few[i].frames[0, 0] * 255).round().byte().movedim(0, -1).numpy().tobytes()] for i in range(7)]
    assert [int(i * 7 / len(smoke)) for i in found] == list(range(7))


def test_the_same_seed_of_torch_gives_the_same_sample(smoke):
    pairs = TrainingFrames(smoke, gaps=(1, 7))
    torch.manual_seed(3)
    first = pairs[5]
    torch.manual_seed(3)
    assert torch.equal(pairs[5].frames, first.frames)
    assert not torch.equal(pairs[5].frames, first.frames)


def test_a_pair_of_one_frame_differs_by_its_motion_alone(smoke):
    still = TrainingFrames(smoke, stills=True, augmentation=STILL)[0]
    assert torch.equal(still.frames[0, 0], still.frames[0, 1])
    moved = TrainingFrames(smoke, stills=True, augmentation=Augmentation(motion=0.1))[0]
    assert not torch.equal(moved.frames[0, 0], moved.frames[0, 1])


def test_labels_and_boxes_move_with_the_picture(smoke):
    """A mirrored sample is the mirrored frame, its labels likewise, and its boxes are those around its labels."""
    mirror = TrainingFrames(smoke, augmentation=Augmentation(flip=1, zoom=(1, 1), shift=0, light=0), boxes=True)
    i = 40
    item = mirror[i]
    torch.testing.assert_close(item.frames[0, 0], as_input(smoke.frame(i)).flip(-1))
    assert (item.labels[0, 0].numpy() == smoke.labels(i)[:, ::-1]).all()
    boxes, labels = smoke.boxes(i)
    expected = boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [smoke.size[0], 0, smoke.size[0], 0]
    np.testing.assert_allclose(item.boxes[0][0].numpy(), expected)
    assert item.box_labels[0][0].tolist() == labels.tolist()


def test_zoomed_boxes_lie_around_the_zoomed_labels(smoke):
    boxes, labels = smoke.boxes(10)
    zoomed = TrainingFrames(smoke, augmentation=Augmentation(zoom=(0.5, 0.5), flip=0, shift=0), boxes=True)[10]
    np.testing.assert_allclose(zoomed.boxes[0][0], boxes / 2 + np.array([24, 18, 24, 18]), atol=1e-3)
    assert (zoomed.labels[0, 0, :17] == VOID).all()
    lone = next(k for k in labels.tolist() if labels.tolist().count(k) == 1)
    ys, xs = np.nonzero(zoomed.labels[0, 0].numpy() == lone)
    box = zoomed.boxes[0][0][labels.tolist().index(lone)].numpy()
    np.testing.assert_allclose(box, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1)


def test_boxes_cut_off_by_the_edge_are_clipped_or_dropped():
    boxes = np.array([[0, 0, 10, 10], [6, 0, 16, 10], [9, 0, 19, 10]], np.float32)
    kept, labels = moved_boxes(
        boxes, np.array([1, 2, 3], np.uint8), matrix=np.array([[1.0, 0, 0], [0, 1, 0]]), size=(10, 10)
    )
    np.testing.assert_allclose(kept, [[0, 0, 10, 10], [6, 0, 10, 10]])
    assert labels.tolist() == [1, 2]


def test_clips_run_through_every_sequence_in_order(smoke):
    clips = Clips(smoke, length=8, boxes=True)
    assert len(clips) == sum(each.count // 8 for each in smoke.sequences)
    batch = clips.collate([clips[0], clips[1]]).to("cpu")
    assert batch.frames.shape == (2, 8, 3, 72, 96)
    assert torch.equal(batch.frames[1, 0], as_input(smoke.frame(8)))
    assert (batch.labels[1, 3].numpy() == smoke.labels(11)).all()
    assert batch.boxes[1][2].tolist() == smoke.boxes(10)[0].tolist()


def test_fingerprints_tell_how_samples_are_drawn(smoke):
    ways = [
        TrainingFrames(smoke),
        TrainingFrames(smoke, gaps=(1, 7)),
        TrainingFrames(smoke, gaps=(1, 7), augmentation=None),
        TrainingFrames(smoke, stills=True),
        Clips(smoke),
        Clips(smoke, length=2),
        Clips(smoke, length=2, stride=1),
    ]
    assert len({way.fingerprint for way in ways}) == len(ways)
    assert TrainingFrames(smoke).fingerprint == ways[0].fingerprint


def test_training_refuses_to_choose_by_the_test_split_or_by_videos_it_learned_from(smoke):
    train = load_dense("tabletop", "train", profile="smoke", videos=2, workers=1, progress=False)
    assert train.videos == {each.id for each in train.sequences}
    with pytest.raises(ValueError, match="the val split is a test split"):
        Data(TrainingFrames(train), Clips(smoke))
    with pytest.raises(ValueError, match="share 2 of 2 videos"):
        Data(TrainingFrames(train), Clips(train))


def test_bad_samples_are_refused(smoke, tmp_path):
    longest = max(each.count for each in smoke.sequences)
    with pytest.raises(ValueError, match=f"no clip of 999 frames: the longest sequence has {longest}"):
        Clips(smoke, length=999)
    with pytest.raises(ValueError, match="gap of 999 frames: the longest sequence has"):
        TrainingFrames(smoke, gaps=(999, 1000))
    with pytest.raises(ValueError, match=r"gaps is \(least, greatest\)"):
        TrainingFrames(smoke, gaps=(0, 3))
    with pytest.raises(ValueError, match="not of both"):
        TrainingFrames(smoke, gaps=(1, 3), stills=True)
    with pytest.raises(ValueError, match="length and stride are at least 1"):
        Clips(smoke, length=0)
    with pytest.raises(ValueError, match="expected flip in"):
        Augmentation(zoom=(2, 1))
    with pytest.raises(ValueError, match="motion is from 0"):
        Augmentation(motion=1)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        TrainingFrames(smoke, samples=0)


@pytest.fixture
def small_camvid(tmp_path):
    """Five frames of one recording and three of another, one of them after a hole."""
    root = tmp_path / "data" / "camvid"
    (root / "val").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"0016E5_{n:05d}" for n in (100, 102, 104, 110, 112)]
    for name in names:
        cv2.imwrite(str(root / "val" / f"{name}.jpg"), rng.integers(0, 256, (24, 32, 3), np.uint8))
    labels = rng.integers(0, 12, (5, 24, 32)).astype(np.uint8)
    np.savez(root / "val_labels.npz", label=labels, name=np.array(names))
    (root / "val.txt").write_text(
        "".join(f"/SegNet/CamVid/val/{n}.png /SegNet/CamVid/valannot/{n}.png\n" for n in names)
    )
    return tmp_path / "data", labels


def test_camvids_frames_are_cut_at_holes_and_its_void_is_void(small_camvid):
    root, labels = small_camvid
    found = load_dense("camvid", "test", root=root, workers=1, progress=False)
    assert [(each.id, each.count, each.fps) for each in found.sequences] == [
        ("0016E5_00100", 3, 15.0),
        ("0016E5_00110", 2, 15.0),
    ]
    assert found.classes == CAMVID_CLASSES
    assert found.videos == {"0016E5"}
    for i in range(5):
        assert (found.labels(i) == np.where(labels[i] == 11, VOID, labels[i])).all()


def test_camvids_damaged_and_missing_files_are_named(small_camvid):
    root, _ = small_camvid
    picture = root / "camvid" / "val" / "0016E5_00104.jpg"
    picture.write_bytes(b"")
    with pytest.raises(ValueError, match=r"0016E5_00104.jpg is no picture that can be read"):
        load_dense("camvid", "test", root=root, workers=1, progress=False)
    cv2.imwrite(str(picture), np.zeros((12, 16, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"0016E5_00104.jpg is 16x12 and the labels in .*val_labels.npz are 32x24: resize both"
    ):
        load_dense("camvid", "test", root=root, workers=1, progress=False)
    picture.unlink()
    with pytest.raises(DataMissing, match=r"0016E5_00104.jpg and 0 more files are missing"):
        load_dense("camvid", "test", root=root, workers=1, progress=False)
    (root / "camvid" / "val_labels.npz").unlink()
    with pytest.raises(DataMissing, match=r"val_labels.npz is missing"):
        load_dense("camvid", "test", root=root, workers=1, progress=False)


@pytest.mark.data
def test_the_real_sets_have_their_frames_and_labels(data_root):
    camvid = load_dense("camvid", "test", root=data_root, progress=False)
    assert [(each.count, each.fps) for each in camvid.sequences] == [(101, 15.0)]
    assert camvid.size == (320, 240)
    assert set(np.unique(camvid.labels(0))) <= {*range(11), VOID}
    davis = load_dense("davis20", "test", root=data_root, size=(214, 120), progress=False)
    assert len(davis.sequences) == 15
    assert 0 < davis.labels(davis.sequences[0].first).mean() < 0.5
