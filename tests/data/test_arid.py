"""Joined ARID clips: labels follow from the clips alone, and the files show what the labels say."""

from itertools import pairwise

import numpy as np
import pytest

from vkdlab.data import arid, manifests
from vkdlab.data.loading import load
from vkdlab.data.manifests import DataMissing
from vkdlab.data.video import FrameReader

SPLITS = ("train", "val", "test")


@pytest.fixture(params=["arid6", "arid6-random"])
def plans(request, data_root):
    manifest = manifests.get(request.param)
    return {split: arid.plan(manifest, manifest.at(data_root), split, profile="demo") for split in SPLITS}


@pytest.mark.data
def test_plans_have_the_sizes_that_the_manifest_says_and_share_no_clip(plans):
    assert {split: len(plan) for split, plan in plans.items()} == {"train": 240, "val": 48, "test": 96}
    clips = {split: {clip.path for video in plan for clip in video.clips} for split, plan in plans.items()}
    for one, two in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not clips[one] & clips[two]


@pytest.mark.data
@pytest.mark.parametrize("profile", ["smoke", "demo"])
@pytest.mark.parametrize("name", ["arid6", "arid6-random"])
def test_no_clip_is_in_two_groups_and_every_group_has_videos_and_clips_of_all_actions(name, profile, data_root):
    manifest = manifests.get(name)
    owner: dict[str, str] = {}
    # Where the validation split is of other recordings, it is what KAU learns on, and judged by halves.
    for split, groups in (("train", "abc"), ("val", "ab" if name == "arid6" else ""), ("test", "ab")):
        videos = arid.plan(manifest, manifest.at(data_root), split, profile=profile)
        expected = [f"{split}-{letter}" for letter in groups] or [split]
        assert [video.group for video in videos[: len(expected)]] == expected
        sizes = [sum(video.group == group for video in videos) for group in expected]
        assert sum(sizes) == len(videos)
        assert max(sizes) - min(sizes) <= 1
        for video in videos:
            for clip in video.clips:
                assert owner.setdefault(clip.path, video.group) == video.group
        for group in expected:
            shown = {clip.action for video in videos if video.group == group for clip in video.clips}
            assert shown == set(arid.ACTIONS)


def test_clips_are_dealt_out_evenly_by_action_whatever_their_order():
    clips = [arid.Clip(f"{action}/{index}.mp4", action, 30) for action in arid.ACTIONS for index in range(7)]
    dealt = arid.deal(clips, ("a", "b", "c"))
    assert sorted(clip.path for found in dealt.values() for clip in found) == sorted(clip.path for clip in clips)
    for found in dealt.values():
        assert len(found) == 14
        assert {sum(clip.action == action for clip in found) for action in arid.ACTIONS} == {2, 3}
    assert arid.deal(clips[::-1], ("a", "b", "c")) == dealt


def test_too_few_clips_for_the_groups_are_named():
    clips = [arid.Clip(f"{action}/{index}.mp4", action, 30) for action in arid.ACTIONS for index in range(4)]
    assert len(arid.deal(clips, ("a", "b"))) == 2
    with pytest.raises(ValueError, match="3 clips of Turn are too few for 2 groups: each needs two clips of every"):
        arid.deal([clip for clip in clips if clip.path != "Turn/0.mp4"], ("a", "b"))


@pytest.mark.data
def test_neighbours_differ_in_action_no_action_comes_three_times_and_lengths_are_in_range(plans):
    for video in (video for plan in plans.values() for video in plan):
        actions = [clip.action for clip in video.clips]
        assert 5 <= len(actions) <= 8
        assert all(one != two for one, two in pairwise(actions))
        assert max(actions.count(action) for action in actions) <= 2
        assert 10 <= sum(clip.frames for clip in video.clips) / 15 <= 20


@pytest.mark.data
def test_the_cross_scene_test_uses_official_clips_and_validation_holds_out_whole_groups(data_root):
    manifest = manifests.get("arid6")
    folder = manifest.at(data_root)
    plans = {split: arid.plan(manifest, folder, split, profile="full") for split in SPLITS}
    paths = {split: {clip.path for video in plan for clip in video.clips} for split, plan in plans.items()}
    assert {split: len(found) for split, found in paths.items()} == {"train": 109, "val": 41, "test": 96}
    assert all(path.startswith("validate/") for path in paths["test"])
    groups = {
        split: {path.rpartition("/")[2].rpartition("_")[0] for path in paths[split]} for split in ("train", "val")
    }
    assert not groups["train"] & groups["val"]


@pytest.mark.data
def test_the_random_split_uses_every_clip_and_every_action_in_each_part(data_root):
    manifest = manifests.get("arid6-random")
    plans = {split: arid.plan(manifest, manifest.at(data_root), split, profile="full") for split in SPLITS}
    clips = {split: {clip for video in plan for clip in video.clips} for split, plan in plans.items()}
    assert sum(map(len, clips.values())) == 246
    for found in clips.values():
        counts = [sum(clip.action == action for clip in found) for action in arid.ACTIONS]
        assert max(counts) - min(counts) <= 2


@pytest.mark.data
@pytest.mark.parametrize("name", ["arid6", "arid6-random"])
def test_a_smaller_profile_is_the_beginning_of_a_larger_one(name, data_root):
    manifest = manifests.get(name)
    small, large = (
        arid.plan(manifest, manifest.at(data_root), "val", profile=profile) for profile in ("smoke", "demo")
    )
    assert small == large[: len(small)]


@pytest.mark.data
def test_the_built_videos_show_the_clips_at_the_moments_that_the_labels_say(data_root, capfd):
    data = load("arid6", "val", profile="smoke", root=data_root, progress=False)
    assert len(data.videos) == 6
    again = load("arid6", "val", profile="smoke", root=data_root, progress=False)
    assert again.fingerprint == data.fingerprint
    assert {video.group for video in data.videos.values()} == {"val-a", "val-b"}
    manifest = manifests.get("arid6")
    plan = arid.plan(manifest, manifest.at(data_root), "val", profile="smoke")
    for joined in plan[:2]:
        video = data.videos[joined.id]
        reader = FrameReader(video.path)
        assert (reader.width, reader.height, reader.fps) == (256, 192, 15)
        assert reader.num_frames == sum(clip.frames for clip in joined.clips)
        actions = [action for action in data.actions if action.video == joined.id]
        assert actions[-1].end_s == pytest.approx(video.duration_s)
        for clip, action in zip(joined.clips, actions, strict=True):
            assert action.label == clip.action
            shown = reader.at([(action.start_s + action.end_s) / 2 + 1e-3])[0].astype(float)
            source = FrameReader(manifest.at(data_root) / clip.path).frames([int(clip.frames / 2 + 0.015)])[0]
            expected = 255 * (source / 255.0) ** 0.4
            assert np.abs(shown - expected).mean() < 8


@pytest.mark.data
def test_a_query_names_one_moment_within_its_video(data_root):
    data = load("arid6", "val", profile="smoke", root=data_root, progress=False)
    for video in data.videos:
        queries = [query for query in data.queries if query.video == video]
        labels = {(action.start_s, action.end_s): action.label for action in data.actions if action.video == video}
        asked = [(labels[query.start_s, query.end_s], query.sentence.partition(" for the ")[2]) for query in queries]
        assert len(set(asked)) == len(asked)
        for label, ordinal in asked:
            assert bool(ordinal) == (list(labels.values()).count(label) == 2)
    firsts = [query for query in data.queries if query.sentence.endswith("first time")]
    seconds = [query for query in data.queries if query.sentence.endswith("second time")]
    assert len(firsts) == len(seconds) > 0


@pytest.mark.data
def test_a_stopped_build_goes_on_where_it_was(data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path))
    manifest = manifests.get("arid6")
    folder = manifest.at(data_root)
    plan = arid.plan(manifest, folder, "val", profile="smoke")[:3]
    arid.build(plan[:1], folder, progress=False)
    first = arid.file_of(plan[0])
    before = first.stat().st_mtime_ns
    arid.build(plan, folder, workers=1, progress=False)
    assert first.stat().st_mtime_ns == before
    assert all(arid.file_of(video).is_file() for video in plan)
    content = arid.file_of(plan[2]).read_bytes()
    arid.file_of(plan[2]).unlink()
    arid.build(plan, folder, workers=1, progress=False)
    assert arid.file_of(plan[2]).read_bytes() == content
    assert sorted(path.name for path in first.parent.iterdir()) == [
        ".lock",
        *(arid.file_of(video).name for video in plan),
    ]


def test_a_line_of_the_split_that_is_none_is_named(tmp_path):
    (tmp_path / "arid6").mkdir()
    (tmp_path / "arid6" / "validate.txt").write_text("0\t0\t24.mp4\n1\tJump\t25.mp4\n")
    with pytest.raises(ValueError, match=r"validate\.txt, row 2: ValueError: .*'Jump'.* Get it: ask for ARID"):
        load("arid6", "test", root=tmp_path)


@pytest.mark.data
def test_a_missing_clip_is_named(data_root, tmp_path):
    folder = tmp_path / "arid6"
    folder.mkdir()
    (folder / "validate.txt").write_text("0\t0\t24.mp4\n")
    with pytest.raises(DataMissing, match=r"validate/24.mp4 is missing. Get it: ask for ARID"):
        load("arid6", "test", root=tmp_path)
