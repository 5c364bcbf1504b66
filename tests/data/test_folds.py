"""Parts of a split: every query held out once, no group on both sides, held against counting by hand."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from vkdlab.data.datasets import Dataset, Query, Video
from vkdlab.data.feature_store import FeatureManifest, open_features
from vkdlab.data.folds import folds, halves
from vkdlab.data.grounding import GroundingDataset
from vkdlab.data.sentences import Sentences


@pytest.fixture(scope="module")
def grounding(tmp_path_factory):
    return lambda queries, groups=(): made(tmp_path_factory.mktemp("folds"), queries, groups)


def made(folder, queries, groups):
    """Video i has queries[i] queries and is of groups[i]."""
    videos, rows = {}, []
    FeatureManifest(extractor="made", stride_s=1, dim=3, order="any", input="none").save(folder)
    for index, count in enumerate(queries):
        name = f"v{index}"
        videos[name] = Video(name, None, 4.0, group=groups[index] if groups else "")
        rows += [Query(f"{name}:{i}", name, "someone waves", 1.0, 2.0 + i / 10) for i in range(count)]
        save_file({"clips": torch.randn(4, 3)}, folder / f"{name}.safetensors")
    dataset = Dataset(name="made", split="train", profile="smoke", videos=videos, queries=tuple(rows))
    words = Sentences({"someone waves": (torch.ones(2, 4), torch.ones(4))}, queries={}, fingerprint="made")
    return GroundingDataset(dataset, open_features(folder), words)


def ids(part):
    return [query.id for query in part.dataset.queries]


def groups_of(part):
    videos = part.dataset.videos
    return {videos[query.video].group or query.video for query in part.dataset.queries}


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("groups", ["", "aabbccddeeabc"])
def test_every_query_is_held_out_once_and_no_group_is_on_both_sides(grounding, k, groups):
    whole = grounding([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9], groups)
    cut = folds(whole, k)
    assert len(cut) == k
    assert Counter(name for _, held_out in cut for name in ids(held_out)) == Counter(ids(whole))
    for rest, held_out in cut:
        assert Counter(ids(rest) + ids(held_out)) == Counter(ids(whole))
        assert not groups_of(rest) & groups_of(held_out)
        assert set(rest.videos) | set(held_out.videos) == set(whole.videos)
        assert [name for name in ids(whole) if name in ids(held_out)] == ids(held_out)
    videos = whole.dataset.videos
    largest = max(Counter(videos[query.video].group or query.video for query in whole.dataset.queries).values())
    sizes = [len(held_out) for _, held_out in cut]
    assert max(sizes) - min(sizes) <= largest
    assert len({part.fingerprint for pair in cut for part in pair} | {whole.fingerprint}) == (
        3 if k == 2 else 2 * k + 1
    )


def test_equal_videos_make_equal_parts_that_are_the_same_wherever_they_are_cut(grounding):
    whole, again = grounding([2] * 30), grounding([2] * 30)
    cut = folds(whole, 5)
    assert [len(held_out) for _, held_out in cut] == [12] * 5
    assert [ids(held_out) for _, held_out in cut] == [ids(held_out) for _, held_out in folds(again, 5)]
    assert all(len(held_out.videos) == 6 for _, held_out in cut)
    assert list(cut[0][1].videos) != [f"v{index}" for index in range(6)]


def test_halves_are_the_two_held_out_parts(grounding):
    whole = grounding([4, 4, 4, 4, 2, 2], "xyxyxy")
    first, second = halves(whole)
    assert {frozenset(groups_of(first)), frozenset(groups_of(second))} == {frozenset("x"), frozenset("y")}
    assert [ids(first), ids(second)] == [ids(held_out) for _, held_out in folds(whole, 2)]


def test_a_group_and_a_lone_video_of_the_same_name_are_two(grounding):
    first, second = halves(grounding([1, 1, 1], ["", "v0", "v0"]))
    assert {tuple(first.videos), tuple(second.videos)} == {("v0",), ("v1", "v2")}


def test_videos_without_a_query_are_in_no_part(grounding):
    whole = grounding([2, 0, 2, 0, 1])
    assert sorted(name for _, held_out in folds(whole, 3) for name in held_out.dataset.videos) == ["v0", "v2", "v4"]


def test_too_few_parts_or_groups_are_refused(grounding):
    with pytest.raises(ValueError, match="at least 2 parts, got 1"):
        folds(grounding([1, 1]), 1)
    with pytest.raises(ValueError, match=r"made train has 2 groups of videos \(a, b\), 3 parts were asked for"):
        folds(grounding([1, 2, 3, 4], "abab"), 3)
    with pytest.raises(ValueError, match=r"made train has 1 groups of videos \(a\), 2 parts"):
        halves(grounding([1, 2], "aa"))


def test_a_subset_has_the_queries_of_its_videos_and_shares_their_features(grounding):
    whole = grounding([2, 1, 3, 2])
    part = whole.subset(["v2", "v0"])
    assert ids(part) == ["v0:0", "v0:1", "v2:0", "v2:1", "v2:2"]
    assert len(part) == 5
    assert list(part.dataset.videos) == ["v0", "v2"]
    for name, clips in part.videos.items():
        assert clips is whole.videos[name]
    assert part.standardisation is whole.standardisation
    assert (part.dim, part.query_dim, part.columns) == (whole.dim, whole.query_dim, whole.columns)
    batch = part.collate([part[i] for i in range(5)])
    assert batch.ids == ids(part)
    torch.testing.assert_close(batch.video[2], whole.videos["v2"])
    assert len(whole) == 8
    assert part.lengths == [4] * 5


def test_a_subsets_fingerprint_depends_on_what_it_is_cut_from_and_on_its_videos(grounding):
    whole = grounding([2, 1, 3, 2])
    same = whole.subset(["v0", "v2"]).fingerprint
    assert whole.subset(["v2", "v0", "v2"]).fingerprint == same
    other = replace(whole.dataset, version="2")
    assert other.fingerprint != whole.dataset.fingerprint
    assert len({same, whole.fingerprint, whole.subset(["v0"]).fingerprint, grounding([2, 1, 4]).subset(["v0"])}) == 4


def test_a_subset_of_unknown_videos_or_without_queries_is_refused(grounding):
    whole = grounding([2, 0])
    with pytest.raises(KeyError, match="made train has no video 'v7'"):
        whole.subset(["v0", "v7"])
    with pytest.raises(ValueError, match="none of the 1 chosen videos of made has a query"):
        whole.subset(["v1"])
