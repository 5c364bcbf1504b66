"""A data set says the same thing on every machine, and refuses what cannot be."""

import hashlib
import math
import pickle
from pathlib import Path

import pytest

from vkdlab.data.datasets import Dataset, Query, Question, Video, moment_error, spread


def _dataset(**changes):
    fields = {
        "name": "set",
        "split": "train",
        "profile": "demo",
        "videos": {f"v{index}": Video(f"v{index}", None, 10.0) for index in range(20)},
        "queries": tuple(Query(f"q{index}", f"v{index % 20}", "someone waves", 1.0, 4.0) for index in range(40)),
    }
    return Dataset(**(fields | changes))


def test_the_fingerprint_ignores_where_files_lie_and_in_which_order_videos_come():
    here = _dataset()
    moved = {name: Video(name, Path("elsewhere") / name, 10.0) for name in reversed(here.videos)}
    assert _dataset(videos=moved, root=Path("elsewhere")).fingerprint == here.fingerprint


@pytest.mark.parametrize("changes", [{"version": "2"}, {"split": "val"}, {"queries": ()}])
def test_the_fingerprint_changes_with_the_labels(changes):
    assert _dataset(**changes).fingerprint != _dataset().fingerprint


def test_choices_by_hash_are_the_same_on_every_machine():
    assert spread("v0") == int(hashlib.sha256(b"v0").hexdigest()[:12], 16) / 2**48
    by_hash = sorted(_dataset().videos, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert set(_dataset().subset(3).videos) == set(by_hash[:3])


def test_a_smaller_subset_lies_within_a_larger_one_and_keeps_only_its_own_queries():
    whole = _dataset()
    small, large = whole.subset(5), whole.subset(0.5)
    assert len(small.videos) == 5
    assert len(large.videos) == 10
    assert set(small.videos) < set(large.videos)
    assert {query.video for query in small.queries} == set(small.videos)
    assert len(small.queries) == 10
    assert whole.subset(1.0).fingerprint == whole.fingerprint


def test_a_tiny_fraction_keeps_one_video():
    assert len(_dataset().subset(1e-6).videos) == 1


@pytest.mark.parametrize("wrong", [0, 21, -1, 0.0, 1.5])
def test_a_subset_of_an_impossible_size_is_refused(wrong):
    with pytest.raises(ValueError, match=r"20 videos|\(0, 1\]"):
        _dataset().subset(wrong)


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        ((2.0, 2.0), "not after its start"),
        ((3.0, 2.0), "not after its start"),
        ((-1.0, 2.0), "before the video"),
        ((1.0, 11.0), "beyond the video, which is 10 s long"),
        ((math.nan, 2.0), "finite"),
    ],
)
def test_a_moment_outside_its_video_is_refused_by_name(moment, reason):
    assert reason in moment_error(*moment, 10.0)
    with pytest.raises(ValueError, match=f"set train: queries 'odd': .*{reason}"):
        _dataset(queries=(Query("odd", "v0", "someone waves", *moment),))


def test_a_moment_may_be_the_whole_video():
    assert moment_error(0.0, 10.0, 10.0) == ""


def test_every_window_of_a_query_must_lie_within_the_video():
    query = Query("q", "v0", "someone waves", 1.0, 2.0, windows_s=((1.0, 2.0), (9.0, 12.0)))
    with pytest.raises(ValueError, match="9 to 12 s lies beyond"):
        _dataset(queries=(query,))


def test_double_ids_unknown_videos_and_impossible_answers_are_refused():
    query = Query("q", "v0", "someone waves", 1.0, 2.0)
    with pytest.raises(ValueError, match="'q' occurs twice among its queries"):
        _dataset(queries=(query, query))
    with pytest.raises(ValueError, match="unknown video 'v99'"):
        _dataset(queries=(Query("q", "v99", "someone waves", 1.0, 2.0),))
    with pytest.raises(ValueError, match="2 options, its answer is 2"):
        _dataset(questions=(Question("q", "v0", "why?", ("a", "b"), 2),))


def test_a_data_set_travels_to_another_process():
    assert pickle.loads(pickle.dumps(_dataset())) == _dataset()  # noqa: S301 - our own bytes
