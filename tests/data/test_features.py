import errno
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vkdlab import files
from vkdlab.data import encoders
from vkdlab.data.datasets import Dataset, Query, Video
from vkdlab.data.encoders import FlowEncoder, ImageEncoder
from vkdlab.data.features import (
    FeatureManifest,
    FeatureMismatch,
    encode_video,
    extract,
    manifest_of,
    num_clips,
    open_features,
    sentence_features,
)
from vkdlab.data.video import FrameReader, VideoError, write_video


def picture(step, *, height=48, width=64):
    y, x = np.mgrid[:height, :width]
    waves = 128 + 60 * np.sin((x - 2 * step) / 5) + 60 * np.cos((y + step) / 4)
    return np.stack([waves, np.roll(waves, 9, 0), np.full_like(waves, 10 * step % 256)], axis=2).astype(np.uint8)


def make(folder, lengths, *, split="train", size=(48, 64), fps=10):
    """Videos `v0`, `v1`, ... of so many frames, as a data set."""
    folder.mkdir(exist_ok=True)
    videos = {}
    for i, frames in enumerate(lengths):
        path = folder / f"v{i}.mp4"
        write_video(path, [picture(k + 7 * i, height=size[0], width=size[1]) for k in range(frames)], fps=fps)
        videos[f"v{i}"] = Video(id=f"v{i}", path=path, duration_s=FrameReader(path).duration_s)
    return Dataset(name="made", split=split, profile="smoke", videos=videos, root=folder)


def published(folder, lengths, **changes):
    """A folder of .npy files of dimension 5, as features are published."""
    folder.mkdir()
    values = {"extractor": "i3d", "stride_s": 0.5, "dim": 5, "order": "logits", "input": "224 px", "layout": "npy"}
    FeatureManifest(**{**values, **changes}).save(folder)
    for name, count in lengths.items():
        np.save(folder / f"{name}.npy", np.full((count, 5), 0.5, np.float32))
    return folder


@pytest.mark.parametrize(
    ("duration_s", "stride_s", "expected"),
    [(0.04, 0.5, 1), (0.74, 0.5, 1), (0.75, 0.5, 2), (16, 0.5, 32), (16.3, 0.5, 33)],
)
def test_a_video_has_its_length_over_the_stride_rounded_clips_and_at_least_one(duration_s, stride_s, expected):
    assert num_clips(duration_s, stride_s) == expected


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_video_without_a_length_has_no_clips(duration_s):
    with pytest.raises(ValueError, match="positive seconds"):
        num_clips(duration_s, 0.5)


@pytest.mark.parametrize("extractor", ["dis-flow", "efficientnet-lite0"])
def test_extracted_features_are_those_of_encoding_every_clip_by_hand(tmp_path, extractor):
    data = make(tmp_path / "videos", [23, 1, 9], size=(49, 67))
    store = extract(data, extractor, folder=tmp_path / "features", progress=False)
    encoder = encoders.clip_encoder(extractor)
    for video in data.videos.values():
        reader = FrameReader(video.path)
        frames = reader.frames(range(reader.num_frames))
        count = num_clips(video.duration_s, 0.5)
        expected = []
        for i in range(count):
            start, end = i * video.duration_s / count, (i + 1) * video.duration_s / count
            clip = encoder.pick(start, end, reader.timestamps_s)
            expected.append(encoder.encode(frames, reader.timestamps_s, clip[None])[0])
        found = store.clips(video.id)
        assert found.shape == (count, encoder.dim)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=2e-3, rtol=2e-3)


def test_a_long_video_is_decoded_in_pieces_without_changing_its_features(tmp_path, monkeypatch):
    data = make(tmp_path / "videos", [60])
    whole = encode_video(data.videos["v0"].path, FlowEncoder())
    monkeypatch.setattr("vkdlab.data.features.DECODED_BYTES", 48 * 64 * 3 * 6 * 2)
    np.testing.assert_array_equal(encode_video(data.videos["v0"].path, FlowEncoder()), whole)


def test_gamma_brightens_before_encoding_and_is_part_of_the_manifest(tmp_path):
    data = make(tmp_path / "videos", [8])
    plain = extract(data, "efficientnet-lite0", folder=tmp_path / "plain", progress=False)
    bright = extract(data, "efficientnet-lite0", folder=tmp_path / "bright", gamma=0.4, progress=False)
    assert (plain.clips("v0") - bright.clips("v0")).abs().max() > 0.05
    with pytest.raises(FeatureMismatch, match=r"gamma: the folder has 1\.0, asked for was 0\.4"):
        extract(data, "efficientnet-lite0", folder=tmp_path / "plain", gamma=0.4, progress=False)


def test_processes_write_the_same_features_as_one(tmp_path):
    data = make(tmp_path / "videos", [12, 30, 8, 21])
    one = extract(data, "dis-flow", folder=tmp_path / "one", workers=1, progress=False)
    two = extract(data, "dis-flow", folder=tmp_path / "two", workers=2, progress=False)
    for name in data.videos:
        torch.testing.assert_close(one.clips(name), two.clips(name), atol=0, rtol=0)


def test_the_splits_of_a_data_set_share_a_folder_in_the_cache(tmp_path):
    train, val = make(tmp_path / "a", [8], split="train"), make(tmp_path / "a", [8, 9], split="val")
    assert extract(train, "dis-flow", progress=False).folder == extract(val, "dis-flow", progress=False).folder
    other = make(tmp_path / "b", [8])
    assert extract(other, "dis-flow", progress=False).folder != extract(train, "dis-flow", progress=False).folder
    assert "v1" in extract([train, val], "dis-flow", progress=False)


def test_finished_videos_are_not_done_again_and_changed_ones_are(tmp_path):
    data = make(tmp_path / "videos", [8, 8])
    store = extract(data, "dis-flow", folder=tmp_path / "features", progress=False)
    before = {name: store.path(name).stat().st_mtime_ns for name in data.videos}
    write_video(data.videos["v1"].path, [picture(3 * k) for k in range(8)], fps=10)
    extract(data, "dis-flow", folder=tmp_path / "features", progress=False)
    after = {name: store.path(name).stat().st_mtime_ns for name in data.videos}
    assert after["v0"] == before["v0"]
    assert after["v1"] > before["v1"]


EXTRACT = """
    import sys
    from pathlib import Path
    from vkdlab.data import features
    from vkdlab.data.datasets import Dataset, Video
    from vkdlab.data.video import FrameReader

    root = Path(sys.argv[1])
    videos = {p.stem: Video(id=p.stem, path=p, duration_s=FrameReader(p).duration_s) for p in root.glob("*.mp4")}
    data = Dataset(name="made", split="train", profile="smoke", videos=videos, root=root)
    features.extract(data, "dis-flow", folder=sys.argv[2], workers=2, progress=False)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_extraction_goes_on_where_a_kill_or_ctrl_c_stopped_it(tmp_path, how):
    lengths = [40] * 40
    data, folder = make(tmp_path / "videos", lengths, size=(48, 64)), tmp_path / "features"
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(EXTRACT))
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "videos", folder],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    patience = time.monotonic() + 60
    while not (finished := list(folder.glob("v*.safetensors"))) and time.monotonic() < patience:
        time.sleep(0.01)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0, said.decode()
    patience = time.monotonic() + 30
    while _alive(process.pid) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not _alive(process.pid), "a worker outlived the process that was killed"
    finished = list(folder.glob("v*.safetensors"))
    assert 0 < len(finished) < len(lengths)
    for path in finished:
        assert load_file(path)["clips"].shape == (8, 320)
    before = {path: path.stat().st_mtime_ns for path in finished}
    store = extract(data, "dis-flow", folder=folder, workers=1, progress=False)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert sum(1 for name in data.videos if name in store) == len(lengths)
    assert not list(folder.glob(".*.safetensors"))


def _alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_videos_that_cannot_be_read_are_all_named_and_the_others_are_kept(tmp_path):
    data = make(tmp_path / "videos", [8, 8, 8, 8])
    data.videos["v1"].path.write_bytes(b"not a video")
    data.videos["v2"].path.unlink()
    data.videos["v3"] = Video(id="v3", path=data.videos["v3"].path, duration_s=30.0)
    with pytest.raises(VideoError, match=r"3 of 4 videos could not be encoded") as caught:
        extract(data, "dis-flow", folder=tmp_path / "features", progress=False)
    for part in ("v1: ", "v2: ", "v3: ", "is 0.8 s long, the data set says 30.0 s"):
        assert part in str(caught.value)
    assert open_features(tmp_path / "features").clips("v0").shape == (2, 320)


def test_videos_without_a_file_cannot_be_extracted(tmp_path):
    data = Dataset(name="made", split="train", profile="smoke", videos={"v": Video(id="v", path=None, duration_s=9.0)})
    with pytest.raises(VideoError, match=r"1 of 1 videos come without a file: v\. .*open_features"):
        extract(data, "dis-flow", folder=tmp_path)


def test_a_full_disk_leaves_nothing_half_written_and_says_what_to_do(tmp_path, monkeypatch):
    data = make(tmp_path / "videos", [8, 8])
    store = extract(data.subset(1), "dis-flow", folder=tmp_path / "features", progress=False)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="The disk is full: free some room"):
        extract(data, "dis-flow", folder=tmp_path / "features", progress=False)
    monkeypatch.undo()
    assert len(list(store.folder.glob("*.safetensors"))) == 1
    assert not list(store.folder.glob(".*.safetensors"))
    extract(data, "dis-flow", folder=tmp_path / "features", progress=False)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    data = make(tmp_path / "videos", [8])
    with pytest.raises(OSError, match="file"):
        extract(data, "dis-flow", folder=tmp_path / "file" / "features", progress=False)


def test_another_extractor_weights_and_stride_are_refused_and_both_sides_named(tmp_path):
    data = make(tmp_path / "videos", [8])
    extract(data, "dis-flow", folder=tmp_path / "features", progress=False)
    expect = manifest_of(ImageEncoder(), stride_s=0.25)
    with pytest.raises(FeatureMismatch) as caught:
        open_features(tmp_path / "features", expect=expect)
    for part in (
        "extractor: the folder has 'dis-flow', asked for was 'efficientnet-lite0'",
        "stride_s: the folder has 0.5, asked for was 0.25",
        "dim: the folder has 320, asked for was 1280",
        f"weights_sha256: the folder has '', asked for was '{encoders.LITE0_SHA256}'",
        "into an empty one",
    ):
        assert part in str(caught.value)
    with pytest.raises(FeatureMismatch, match="extractor: the folder has 'dis-flow'"):
        extract(data, "efficientnet-lite0", folder=tmp_path / "features", progress=False)


def test_features_of_another_length_are_refused_with_both_lengths(tmp_path):
    videos = {"a": Video(id="a", path=None, duration_s=10.0), "b": Video(id="b", path=None, duration_s=4.0)}
    data = Dataset(name="made", split="train", profile="smoke", videos=videos)
    folder = published(tmp_path / "features", {"a": 20, "b": 11})
    with pytest.raises(
        FeatureMismatch, match=r"b: the folder has 11 clips, 8 are expected of 4 s at a stride of 0\.5 s"
    ):
        open_features(folder, dataset=data)
    tolerant = published(tmp_path / "tolerant", {"a": 20, "b": 11}, length_tolerance=3)
    assert open_features(tolerant, dataset=data).length("b") == 11


def test_missing_videos_are_counted_and_the_first_named(tmp_path):
    videos = {f"v{i}": Video(id=f"v{i}", path=None, duration_s=1.0) for i in range(9)}
    data = Dataset(name="made", split="train", profile="smoke", videos=videos)
    folder = published(tmp_path / "features", {"v0": 2})
    with pytest.raises(FileNotFoundError, match=r"no features of 8 of 9 videos: v1, v2, v3, v4, v5, and 3 more"):
        open_features(folder, dataset=data)
    with pytest.raises(FileNotFoundError, match=r"there are no i3d features of 'v7'"):
        open_features(folder).clips("v7")
    with pytest.raises(FileNotFoundError, match="is no folder of features"):
        open_features(tmp_path / "nowhere")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("layout", ["npy", "safetensors"])
def test_features_that_are_no_numbers_are_refused_by_file_and_clip(tmp_path, bad, layout):
    folder = published(tmp_path / "features", {}, layout=layout)
    clips = np.ones((4, 5), np.float32)
    clips[2, 3] = bad
    if layout == "npy":
        np.save(folder / "v.npy", clips)
    else:
        save_file({"clips": torch.from_numpy(clips)}, folder / "v.safetensors")
    with pytest.raises(FeatureMismatch, match=rf"v\.{layout}: clip 2 holds not-a-number or infinity.*Delete the file"):
        open_features(folder).clips("v")


def test_features_of_another_dimension_than_the_manifest_says_are_refused(tmp_path):
    folder = published(tmp_path / "features", {"v": 4}, dim=1024)
    with pytest.raises(FeatureMismatch, match=r"v\.npy holds features of shape \(4, 5\).*says \(clips, 1024\)"):
        open_features(folder).clips("v")


def test_damaged_and_pickled_files_are_refused_and_never_unpickled(tmp_path):
    folder = published(tmp_path / "features", {})
    np.save(folder / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (folder / "empty.npy").write_bytes(b"")
    (folder / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.savez(folder / "archive.npz", a=np.zeros((2, 5)))
    (folder / "archive.npz").rename(folder / "archive.npy")
    for name in ("pickled", "empty", "cut", "archive"):
        for read in (open_features(folder).clips, open_features(folder).length):
            with pytest.raises(FeatureMismatch, match=rf"{name}\.npy is no file of features .*Delete it"):
                read(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"manifest\.json is not valid JSON"),
        ("[]", r"manifest\.json: expected the fields of a feature manifest, got a list"),
        ('{"extractor": "x"}', r"the field stride_s, dim, order, input is missing"),
        ('{"extractor": "x", "colour": 1}', r"unknown field colour; the fields are extractor, stride_s"),
        (
            '{"extractor": "x", "stride_s": "1", "dim": 5, "order": "", "input": ""}',
            r"stride_s has to be of type float, got '1'",
        ),
        (
            '{"extractor": "x", "stride_s": 0, "dim": 5, "order": "", "input": ""}',
            r"stride_s, dim and gamma are positive",
        ),
        (
            '{"extractor": "x", "stride_s": 1, "dim": 5, "order": "", "input": "", "layout": "pkl"}',
            r"layout is one of safetensors, npy, got 'pkl'",
        ),
    ],
)
def test_an_unreadable_manifest_says_which_field_is_wrong(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_features(tmp_path)


def test_a_folder_without_a_manifest_says_how_to_write_one(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"manifest\.json is missing.*FeatureManifest\(\.\.\.\)\.save\(folder\)"
    ):
        open_features(tmp_path)


def test_video_ids_with_any_characters_have_a_file_inside_the_folder(tmp_path):
    folder = published(tmp_path / "features", {})
    for name in ("../outside", "a/b", "s 1.é", "CON:"):
        path = open_features(folder).path(name)
        assert path.parent == folder
        np.save(path, np.zeros((1, 5), np.float32))
        assert open_features(folder).clips(name).shape == (1, 5)


def sentences_of(*texts):
    videos = {"v": Video(id="v", path=None, duration_s=9.0)}
    queries = tuple(Query(id=f"q{i}", video="v", sentence=text, start_s=0, end_s=1) for i, text in enumerate(texts))
    return Dataset(name="made", split="train", profile="smoke", videos=videos, queries=queries)


def test_sentences_are_found_by_query_and_by_text_and_read_from_the_cache_the_second_time(tmp_path, monkeypatch):
    data = sentences_of("a person jumps", "jump", "a person jumps")
    first = sentence_features(data, folder=tmp_path, progress=False)
    monkeypatch.setattr("vkdlab.data.sentences.SentenceEncoder", None)
    second = sentence_features(data, folder=tmp_path, progress=False)
    assert first.fingerprint == second.fingerprint
    assert len(list(tmp_path.iterdir())) == 1
    for query, words in (("q0", 3), ("q1", 1), ("q2", 3), ("a person jumps", 3)):
        assert second.tokens(query).shape == (words, 384)
        assert second.tokens(query).dtype == torch.float32
        torch.testing.assert_close(first.tokens(query), second.tokens(query))
        torch.testing.assert_close(second.embedding(query).norm(), torch.tensor(1.0), atol=1e-3, rtol=0)
    with pytest.raises(KeyError, match="'swim' is neither the id of a query nor a sentence among the 2 encoded ones"):
        second.tokens("swim")


def test_splits_whose_queries_share_ids_have_all_their_sentences_encoded_and_such_an_id_names_none(tmp_path):
    first, second = sentences_of("a person jumps", "jump"), sentences_of("a person runs", "jump")
    found = sentence_features([first, second, first], folder=tmp_path, progress=False)
    for text in ("a person jumps", "a person runs", "jump"):
        assert len(found.tokens(text))
    assert torch.equal(found.tokens("q1"), found.tokens("jump"))
    with pytest.raises(KeyError, match="'q0' is neither the id of a query nor a sentence"):
        found.tokens("q0")


def test_a_damaged_cache_of_sentences_is_written_again(tmp_path):
    sentence_features(["jump"], folder=tmp_path, progress=False)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"nonsense")
    assert sentence_features(["jump"], folder=tmp_path, progress=False).tokens("jump").shape == (1, 384)
    assert sentence_features([], folder=tmp_path, progress=False).fingerprint


def test_an_empty_sentence_is_refused_by_its_query(tmp_path):
    with pytest.raises(ValueError, match="query 'q1' has an empty sentence"):
        sentence_features(sentences_of("jump", "  "), folder=tmp_path)
