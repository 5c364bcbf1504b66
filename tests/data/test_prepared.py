"""From annotations and a folder of ready-made features to a step of training; what does not match is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vkdlab.data.datasets import Dataset, Query, Video
from vkdlab.data.encoders import clip_encoder
from vkdlab.data.feature_store import FeatureManifest, FeatureMismatch, num_clips, open_features
from vkdlab.data.features import extract, manifest_of
from vkdlab.data.grounding import GroundingDataset, Standardisation
from vkdlab.data.loading import load
from vkdlab.data.prepared import prepare_grounding, prepare_transfer
from vkdlab.data.sentences import Sentences, sentence_features
from vkdlab.emtm.networks import SpanConfig, SpanNetwork
from vkdlab.emtm.teacher import GroundingTeacher

SENTENCES = ("a person opens the door", "someone sits down", "the person drinks")
STRIDE_S = 0.32
MAX_CLIPS = {"charades-sta": 64, "activitynet-captions": 100, "tacos": 256}


def charades(folder):
    """Thirty training videos, of which some are held out by a hash as the manifest says, and four test videos."""
    names = {"train": [f"T{i:04d}" for i in range(30)], "test": [f"E{i:04d}" for i in range(4)]}
    durations = {name: 9.0 + i for names in names.values() for i, name in enumerate(names)}
    folder.mkdir(parents=True)
    (folder / "charades.json").write_text(json.dumps({name: {"duration": each} for name, each in durations.items()}))
    for split, chosen in names.items():
        lines = [f"{name} 1.5 {4 + i / 9:.2f}##{SENTENCES[i % 3]}." for i, name in enumerate(chosen)]
        (folder / f"charades_sta_{split}.txt").write_text("\n".join(lines) + "\n")
    return durations


def activitynet(folder):
    folder.mkdir(parents=True)
    durations = {"train": {f"v_t{i}": 40.0 + 7 * i for i in range(6)}, "val_1": {f"v_e{i}": 55.5 for i in range(3)}}
    durations["val_2"] = durations["val_1"]
    for split, videos in durations.items():
        entries = {
            name: {"duration": each, "timestamps": [[0, each / 3], [1.25, each]], "sentences": list(SENTENCES[:2])}
            for name, each in videos.items()
        }
        (folder / f"{split}.json").write_text(json.dumps(entries))
    return durations["train"] | durations["val_1"]


def tacos(folder):
    folder.mkdir(parents=True)
    durations = {}
    for number, split in enumerate(("train", "val", "test")):
        entries = {}
        for i in range(3):
            frames, name = 3000 + 900 * i, f"s{number}{i}-d10.avi"
            moments = {"timestamps": [[100, 260], [700, 2900]], "sentences": list(SENTENCES[1:])}
            entries[name] = {"fps": 29.4, "num_frames": frames, **moments}
            durations[name] = frames / 29.4
        (folder / f"{split}.json").write_text(json.dumps(entries))
    return durations


WRITTEN = {
    "charades-sta": (charades, "charades_sta"),
    "activitynet-captions": (activitynet, "activitynet_captions"),
    "tacos": (tacos, "tacos"),
}


def i3d(folder, durations_s, *, dim=1024, dtype=np.float32, bare=False, **changes):
    """A folder as published: one array of (clips, dim) a video, never negative; the manifest is ours."""
    folder.mkdir(exist_ok=True)
    chance = np.random.default_rng(0)
    for name, duration in durations_s.items():
        clips = chance.gamma(0.6, 0.5, (num_clips(duration, STRIDE_S), dim)).astype(dtype)
        np.save(folder / f"{name.removesuffix('.avi') if bare else name}.npy", clips)
    values = {"extractor": "i3d-rgb", "stride_s": STRIDE_S, "dim": 1024, "order": "rgb", "input": "224 px"}
    FeatureManifest(**values | {"layout": "npy"} | changes).save(folder)
    return folder


@pytest.fixture
def written(tmp_path):
    """Annotations of the published form, and I3D features of all their videos."""

    def write(name, **options):
        writer, folder = WRITTEN[name]
        durations = writer(tmp_path / "root" / "annotations" / folder)
        return tmp_path / "root", i3d(tmp_path / "i3d", durations, **options), durations

    return write


def one_step(splits, *, max_clips):
    """Trains at the paper's width on one batch; the loss falls on the batch itself."""
    train = splits.train
    config = SpanConfig(video_dim=train.dim, query_dim=train.query_dim, dim=128, max_clips=max_clips, dropout=0.0)
    teacher = GroundingTeacher(SpanNetwork(config), columns=train.columns["i3d-rgb"])
    batch = train.collate([train[i] for i in range(min(4, len(train)))])
    optimiser = torch.optim.AdamW(teacher.parameters(), lr=1e-3)
    before = teacher.loss(batch)["total"]
    before.backward()
    assert all(parameter.grad.isfinite().all() for parameter in teacher.parameters() if parameter.grad is not None)
    optimiser.step()
    after = teacher.loss(batch)["total"]
    assert after.isfinite()
    assert after < before
    found = teacher.evaluate(splits.test.collate([splits.test[i] for i in range(len(splits.test))]))
    assert 0 <= found["mIoU"].value <= 1


@pytest.mark.parametrize("name", MAX_CLIPS)
@pytest.mark.parametrize("bare", [False, True])
def test_published_annotations_and_a_folder_of_features_make_three_splits_to_train_on(written, name, bare):
    root, folder, durations = written(name, bare=bare, dtype=np.float64 if bare else np.float32)
    splits = prepare_grounding(
        name, profile="full", root=root, features=folder, max_clips=MAX_CLIPS[name], progress=False
    )
    parts = (splits.train, splits.val, splits.test)
    counts = {"charades-sta": (25, 5, 4), "activitynet-captions": (12, 6, 6), "tacos": (6, 6, 6)}[name]
    assert tuple(map(len, parts)) == counts
    for part in parts:
        assert part.columns == {"i3d-rgb": (0, 1024)}
        assert part.query_dim == 384
        for video, clips in part.videos.items():
            assert clips.shape == (min(num_clips(durations[video], STRIDE_S), MAX_CLIPS[name]), 1024)
    again = prepare_grounding(**splits.source | {"progress": False})
    assert again.train.fingerprint == splits.train.fingerprint
    one_step(splits, max_clips=MAX_CLIPS[name])


@pytest.mark.data
@pytest.mark.parametrize("name", MAX_CLIPS)
def test_the_real_annotations_of_a_few_videos_with_features_make_three_splits_to_train_on(name, data_root, tmp_path):
    durations, counted = {}, {}
    for split in ("train", "val", "test"):
        data = load(name, split, root=data_root)
        counted[split] = len(data.videos), len(data.queries)
        # One of TACoS' videos has as many queries as dozens of the others.
        few = data.subset(1 if name == "tacos" else 3)
        durations |= {video: each.duration_s for video, each in few.videos.items()}
    folder = i3d(tmp_path / "i3d", durations)
    with pytest.warns(UserWarning, match=r"videos have no features, so .* queries are left out") as caught:
        splits = prepare_grounding(
            name,
            profile="full",
            root=data_root,
            features=folder,
            missing="leave_out",
            max_clips=MAX_CLIPS[name],
            progress=False,
        )
    assert len(caught) == 3
    for split, part in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        videos, queries = counted[split]
        assert len(part.videos) >= 1
        assert set(part.videos) <= set(durations)
        lost = [problem for problem in part.dataset.problems if problem.file == "features"]
        assert len(lost) == videos - len(part.videos)
        message = next(str(each.message) for each in caught if f" {split}: " in str(each.message))
        assert f"{len(lost)} of {videos} videos" in message
        assert f"{queries - len(part)} of {queries} queries" in message
    one_step(splits, max_clips=MAX_CLIPS[name])


def test_missing_videos_of_all_splits_are_counted_together_unless_they_may_be_left_out(written):
    root, folder, _ = written("tacos")
    for name in ("s00-d10", "s11-d10", "s12-d10"):
        (folder / f"{name}.avi.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no features of 3 of 9 videos: s00-d10\.avi, s11-d10\.avi, s12-d10"):
        prepare_grounding("tacos", root=root, features=folder, progress=False)
    with pytest.warns(UserWarning, match="left out") as caught:
        splits = prepare_grounding("tacos", root=root, features=folder, missing="leave_out", progress=False)
    assert [str(each.message).partition(": s")[0] for each in caught] == [
        "tacos train: 1 of 3 videos have no features, so 2 of 6 queries are left out",
        "tacos val: 2 of 3 videos have no features, so 4 of 6 queries are left out",
    ]
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [4, 2, 6]
    with pytest.raises(ValueError, match='missing is "refuse" or "leave_out", got \'drop\''):
        prepare_grounding("tacos", root=root, features=folder, missing="drop", progress=False)


def test_a_folder_with_nothing_of_a_split_leaves_no_query(written):
    root, folder, _ = written("tacos")
    for path in folder.glob("s1*.npy"):
        path.unlink()
    with pytest.warns(UserWarning, match="3 of 3 videos"), pytest.raises(ValueError, match="tacos val has no query"):
        prepare_grounding("tacos", root=root, features=folder, missing="leave_out", progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 500}, r"\.npy holds features of shape \(\d+, 500\), the folder's manifest says \(clips, 1024\)"),
        ({"stride_s": 1.0}, r"the folder has \d+ clips, \d+ are expected of [\d.]+ s at a stride of 1 s"),
    ],
)
def test_features_of_another_dimension_or_stride_than_stated_are_refused(written, changes, message):
    root, folder, _ = written("tacos", **changes)
    with pytest.raises(FeatureMismatch, match=message):
        prepare_grounding("tacos", root=root, features=folder, progress=False)


def test_features_of_another_extractor_or_stride_than_asked_for_are_refused(written):
    root, folder, _ = written("tacos")
    with pytest.raises(FeatureMismatch, match="the folders hold features of i3d-rgb, asked for were c3d: name other"):
        prepare_grounding("tacos", root=root, features=folder, extractors=["c3d"], progress=False)
    with pytest.raises(FeatureMismatch, match=r"have a stride of 0\.32 s, asked for were 0\.5 s"):
        prepare_grounding("tacos", root=root, features=[folder], stride_s=0.5, progress=False)
    with pytest.raises(ValueError, match="features is a folder or several, got none"):
        prepare_grounding("tacos", root=root, features=[], progress=False)
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing.*FeatureManifest"):
        prepare_grounding("tacos", root=root, features=folder, progress=False)


def test_a_feature_that_is_no_number_is_named_by_file_and_clip(written):
    root, folder, _ = written("tacos")
    path = folder / "s20-d10.avi.npy"
    clips = np.load(path)
    clips[7, 3] = np.nan
    np.save(path, clips)
    with pytest.raises(FeatureMismatch, match=r"s20-d10\.avi\.npy: clip 7 holds not-a-number or infinity"):
        prepare_grounding("tacos", root=root, features=folder, progress=False)


def test_our_own_files_and_several_folders_are_joined(written, tmp_path):
    root, folder, durations = written("tacos")
    ours = tmp_path / "ours"
    ours.mkdir()
    FeatureManifest(extractor="flow", stride_s=1.0, dim=6, order="bins", input="none").save(ours)
    for name, duration in durations.items():
        save_file({"clips": torch.randn(num_clips(duration, 1.0), 6).half()}, ours / f"{name}.safetensors")
    splits = prepare_grounding("tacos", root=root, features=[ours, folder], progress=False)
    assert list(splits.test.columns.items()) == [("flow", (0, 6)), ("i3d-rgb", (6, 1030))]
    assert splits.source["features"] == [str(ours), str(folder)]
    assert splits.source["extractors"] == ["flow", "i3d-rgb"]
    json.dumps(splits.source)


def trained_on(folder, manifest, *, max_clips=9):
    """A training split whose features were made as `manifest` says."""
    manifest.save(folder)
    save_file({"clips": torch.randn(12, manifest.dim) * 3 + 1}, folder / "v.safetensors")
    videos = {"v": Video("v", None, 12 * manifest.stride_s)}
    queries = (Query("q", "v", "someone waves", 0.0, 1.0),)
    dataset = Dataset(name="made", split="train", profile="smoke", videos=videos, queries=queries)
    words = Sentences({"someone waves": (torch.ones(2, 384), torch.ones(384))}, queries={}, fingerprint="made")
    return GroundingDataset(dataset, open_features(folder), words, max_clips=max_clips)


@pytest.mark.data
def test_another_set_is_made_as_the_training_split_was(data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path))
    (tmp_path / "train").mkdir()
    manifest = manifest_of(clip_encoder("dis-flow"), stride_s=1.0)
    train = trained_on(tmp_path / "train", manifest)
    found = prepare_transfer("gmdcsa24", train=train, root=data_root, progress=False)
    assert (len(found), len(found.videos)) == (48, 23)
    assert found.dataset.split == "test"
    assert found.standardisation is train.standardisation
    assert (found.columns, found.max_clips, found.manifests) == (train.columns, 9, (manifest,))
    data = load("gmdcsa24", "test", root=data_root)
    store = extract(data, "dis-flow", stride_s=1.0, progress=False)
    assert max(found.lengths) == 9 < max(store.length(name) for name in data.videos)
    short = next(name for name in data.videos if store.length(name) < 9)
    torch.testing.assert_close(found.videos[short], train.standardisation(store.clips(short)))
    raw = GroundingDataset(
        data, store, sentence_features(data, progress=False), standardisation=Standardisation.none(train.dim)
    )
    assert raw.fingerprint != found.fingerprint
    again = prepare_transfer("gmdcsa24", train=train, root=data_root, features=store.folder, progress=False)
    assert again.fingerprint == found.fingerprint


def test_ready_made_features_transfer_from_a_folder_made_the_same_way_alone(written, tmp_path):
    root, folder, _ = written("tacos")
    train = prepare_grounding("tacos", root=root, features=folder, progress=False).train
    other = tmp_path / "other"
    activitynet(other / "annotations" / "activitynet_captions")
    with pytest.raises(
        ValueError, match="the training features are i3d-rgb, which no encoder here makes: pass feature"
    ):
        prepare_transfer("activitynet-captions", train=train, root=other, progress=False)
    with pytest.raises(ValueError, match=r"joins 1 kinds of features \(i3d-rgb\), 2 folders were given"):
        prepare_transfer("activitynet-captions", train=train, root=other, features=[folder, folder], progress=False)
    videos = load("activitynet-captions", "test", root=other).videos
    lengths = {name: video.duration_s for name, video in videos.items()}
    theirs = i3d(tmp_path / "theirs", lengths)
    found = prepare_transfer("activitynet-captions", train=train, root=other, features=theirs, progress=False)
    assert len(found) == 6
    i3d(theirs, lengths, order="flow")
    with pytest.raises(FeatureMismatch, match="order: the folder has 'flow', asked for was 'rgb'"):
        prepare_transfer("activitynet-captions", train=train, root=other, features=theirs, progress=False)
