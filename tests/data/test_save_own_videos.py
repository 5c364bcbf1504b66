"""Moments of any data set are written as a CSV that is read back to the last digit and that a network trains on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vkdlab.data import Dataset, Query, Video, load, own_videos, save_own_videos
from vkdlab.data.grounding import GroundingDataset
from vkdlab.data.prepared import prepare_grounding
from vkdlab.data.video import FrameReader, write_video
from vkdlab.emtm import SpanConfig, SpanNetwork

AWKWARD = (('a, b; "c"\td', 0.1 + 0.2, 1.0 / 3 + 1), ("öffnet\ndie Tür", 1e-5, 2.9999999999999996))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three videos of three seconds, and a data set of them."""
    folder = tmp_path_factory.mktemp("videos")
    for name in "abc":
        write_video(folder / f"{name}.mp4", (np.full((48, 64, 3), 8 * i, np.uint8) for i in range(30)), fps=10)
    videos = {name: Video(name, folder / f"{name}.mp4", 3.0) for name in "abc"}
    queries = [Query(f"{name}{row}", name, *moment) for name in videos for row, moment in enumerate(AWKWARD)]
    return Dataset(name="made", split="all", profile="full", videos=videos, queries=queries, root=folder)


def moments(dataset):
    return [(q.sentence, q.start_s, q.end_s, dataset.videos[q.video].path.name) for q in dataset.queries]


def test_what_is_written_beside_the_videos_is_read_back_to_the_last_digit(made):
    path = save_own_videos(made, made.root)
    assert path == made.root / "moments.csv"
    assert path.read_text().splitlines()[0] == "file,start,end,sentence"
    data, bad = own_videos(made.root)
    assert bad == []
    assert moments(data) == moments(made)
    assert set(data.videos) == {"a.mp4", "b.mp4", "c.mp4"}


def test_videos_elsewhere_are_named_by_their_whole_path(made, tmp_path):
    save_own_videos(made, tmp_path / "new" / "folder")
    data = load(tmp_path / "new" / "folder", "all")
    assert moments(data) == moments(made)
    assert set(data.videos) == {str(made.root / f"{name}.mp4") for name in "abc"}


def test_a_relative_folder_and_relative_videos_are_understood(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made.root)
    videos = {name: replace(video, path=video.path.relative_to(made.root)) for name, video in made.videos.items()}
    save_own_videos(replace(made, videos=videos), tmp_path)
    save_own_videos(replace(made, videos=videos), ".")
    monkeypatch.chdir(tmp_path)
    assert moments(load(tmp_path, "all")) == moments(made)
    assert set(own_videos(made.root)[0].videos) == {"a.mp4", "b.mp4", "c.mp4"}


def test_several_splits_are_kept_apart(made, tmp_path):
    splits = [
        replace(made.of_videos([name]), split=split)
        for name, split in zip("abc", ("test", "train", "val"), strict=True)
    ]
    save_own_videos(splits, tmp_path)
    for split in splits:
        assert moments(load(tmp_path, split.split)) == moments(split)


@pytest.mark.slow
def test_a_network_trains_an_epoch_on_what_was_written(tmp_path):
    parts = [load("tabletop", split, profile="smoke", progress=False) for split in ("train", "val", "test")]
    save_own_videos(parts, tmp_path)
    splits = prepare_grounding(tmp_path, extractors=["dis-flow"], progress=False)
    assert [len(getattr(splits, part.split)) for part in parts] == [len(part.queries) for part in parts]
    assert isinstance(splits.train, GroundingDataset)
    size = {"dim": 8, "heads": 2, "conv_layers": 1, "dual_layers": 0}
    network = SpanNetwork(SpanConfig(video_dim=splits.train.dim, max_clips=splits.train.max_clips, **size))
    before = [weight.clone() for weight in network.parameters()]
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for batch in torch.utils.data.DataLoader(splits.train, batch_size=16, collate_fn=splits.train.collate):
        output = network(batch.video, batch.video_mask, batch.query, batch.query_mask)
        loss = network.loss(output, batch)["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        assert loss.isfinite()
    assert any(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


def test_what_cannot_be_written_is_refused_and_an_older_file_stays(made, tmp_path):
    older = save_own_videos(made, tmp_path).read_bytes()
    without = replace(made, videos=made.videos | {"b": Video("b", None, 3.0)})
    gone = replace(made, videos=made.videos | {"b": Video("b", tmp_path / "gone.mp4", 3.0)})
    longer = replace(
        made, videos=made.videos | {"b": replace(made.videos["b"], duration_s=9.0)},
        queries=[*made.queries, Query("late", "b", "late", 1.0, 8.0)],
    )  # fmt: skip
    for dataset, message in (
        (without, "b has no video file"),
        (gone, r"moments.csv is not written: 1 video files are missing: /.*/gone.mp4$"),
        (longer, r"1 of its rows could not be read back: .*1 to 8 s lies beyond the video, which is 3 s long"),
        (replace(longer, queries=longer.queries[-1:]), r"moments.csv is not written: .*moments.csv has no good row"),
        (replace(made, queries=()), "none of the videos has a query"),
        ([made, made], "have to be train, val and test of one, each once, got all, all"),
        ([], "none of the videos has a query"),
        ([replace(made, split="train"), replace(made, split="test")], "splits overlap"),
    ):
        with pytest.raises(ValueError, match=message):
            save_own_videos(dataset, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["moments.csv"]
    assert (tmp_path / "moments.csv").read_bytes() == older


def test_the_length_of_a_video_is_that_of_its_file(made):
    assert FrameReader(made.videos["a"].path).duration_s == pytest.approx(3.0)
