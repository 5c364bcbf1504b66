import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from vkdlab.data.datasets import Dataset, Query, Video
from vkdlab.data.feature_store import FeatureManifest, FeatureMismatch, num_clips, open_features
from vkdlab.data.grounding import GroundingDataset, Standardisation, resample
from vkdlab.data.sentences import Sentences

DURATIONS_S = {"short": 0.4, "middle": 5.2, "long": 40.0}
SENTENCES = ("jump", "a person opens the door", "the red cup is lifted after the blue ball slides left")


def dataset(split="train", durations_s=DURATIONS_S):
    videos = {name: Video(id=name, path=None, duration_s=duration) for name, duration in durations_s.items()}
    queries = [
        Query(id=f"{name}-{i}", video=name, sentence=sentence, start_s=0.1 * duration, end_s=0.9 * duration)
        for name, duration in durations_s.items()
        for i, sentence in enumerate(SENTENCES)
    ]
    return Dataset(name="made", split=split, profile="smoke", videos=videos, queries=tuple(queries))


def store(folder, *, dim=6, stride_s=0.5, durations_s=DURATIONS_S, seed=0):
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir()
    FeatureManifest(extractor="made", stride_s=stride_s, dim=dim, order="any", input="none").save(folder)
    scale, shift = 1 + torch.arange(dim), 10 * torch.arange(dim)
    for name, duration in durations_s.items():
        clips = torch.randn(num_clips(duration, stride_s), dim, generator=generator) * scale + shift
        save_file({"clips": clips}, folder / f"{name}.safetensors")
    return open_features(folder)


def sentences():
    generator = torch.Generator().manual_seed(1)
    encoded = {s: (torch.randn(len(s.split()), 384, generator=generator), torch.ones(384)) for s in SENTENCES}
    queries = {query.id: query.sentence for query in dataset().queries}
    return Sentences(encoded, queries=queries, fingerprint="made")


def mean_over(clips, start, end):
    """Mean over [start, end) of a signal that holds clip i during [i, i + 1): clip by clip."""
    total = torch.zeros(clips.shape[1], dtype=torch.float64)
    for i, clip in enumerate(clips.double()):
        total += clip * max(0.0, min(end, i + 1) - max(start, i))
    return total / (end - start)


@pytest.mark.parametrize(("clips", "parts"), [(1, 1), (1, 4), (2, 1), (5, 5), (7, 3), (80, 64), (129, 64), (3, 7)])
def test_equal_parts_of_a_video_are_the_means_over_their_time(clips, parts):
    values = torch.randn(clips, 3)
    expected = [mean_over(values, j * clips / parts, (j + 1) * clips / parts) for j in range(parts)]
    torch.testing.assert_close(resample(values, parts), torch.stack(expected).float(), atol=1e-5, rtol=1e-5)


def test_resampling_keeps_the_mean_over_the_video():
    values = torch.randn(37, 4)
    for parts in (1, 5, 36, 64, 100):
        torch.testing.assert_close(resample(values, parts).mean(0), values.mean(0), atol=1e-5, rtol=1e-5)


def test_a_batch_holds_every_query_with_its_masks_and_zero_padding(tmp_path):
    data, words = dataset(), sentences()
    grounding = GroundingDataset(data, store(tmp_path / "a"), words, max_clips=16)
    batch = grounding.collate([grounding[i] for i in range(len(grounding))])
    assert len(batch) == 9
    assert batch.ids == [query.id for query in data.queries]
    assert batch.video.shape == (9, 16, 6)
    assert batch.query.shape == (9, 11, 384)
    assert batch.video_mask.sum(1).tolist() == [1] * 3 + [10] * 3 + [16] * 3
    assert batch.query_mask.sum(1).tolist() == [1, 5, 11] * 3
    assert batch.video[~batch.video_mask].abs().sum() == 0
    assert batch.query[~batch.query_mask].abs().sum() == 0
    for row, query in enumerate(data.queries):
        torch.testing.assert_close(batch.query[row][batch.query_mask[row]], words.tokens(query.sentence))
        torch.testing.assert_close(batch.moment_s[row], torch.tensor([query.start_s, query.end_s]))
        assert math.isclose(batch.duration_s[row], data.videos[query.video].duration_s, rel_tol=1e-6)


def test_a_batch_of_one_query_of_one_word_on_a_video_of_one_clip_works(tmp_path):
    grounding = GroundingDataset(dataset(), store(tmp_path / "a"), sentences())
    batch = grounding.collate([grounding[0]]).to("cpu")
    assert batch.video.shape == (1, 1, 6)
    assert batch.query.shape == (1, 1, 384)
    assert batch.video_mask.all()
    assert batch.query_mask.all()


def test_no_item_makes_no_batch(tmp_path):
    grounding = GroundingDataset(dataset(), store(tmp_path / "a"), sentences())
    with pytest.raises(ValueError, match="a batch needs at least one item"):
        grounding.collate([])


def test_a_torch_loader_takes_the_data_set_and_its_collate(tmp_path):
    grounding = GroundingDataset(dataset(), store(tmp_path / "a"), sentences())
    loader = torch.utils.data.DataLoader(grounding, batch_size=4, collate_fn=grounding.collate)
    assert sum(len(batch) for batch in loader) == 9


def test_a_videos_features_are_in_memory_once_for_all_its_queries(tmp_path):
    grounding = GroundingDataset(dataset(), store(tmp_path / "a"), sentences())
    assert grounding[3]["video"].data_ptr() == grounding[4]["video"].data_ptr()


def test_training_features_have_mean_zero_and_spread_one_over_clips(tmp_path):
    grounding = GroundingDataset(dataset(), store(tmp_path / "a"), sentences(), max_clips=1000)
    clips = torch.cat(list(grounding.videos.values()))
    torch.testing.assert_close(clips.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(clips.std(0, correction=0), torch.ones(6), atol=1e-4, rtol=0)


def test_a_feature_that_never_changes_becomes_zero_not_infinite(tmp_path):
    features = store(tmp_path / "a")
    for name in DURATIONS_S:
        clips = features.clips(name)
        clips[:, 2] = 7
        save_file({"clips": clips}, features.path(name))
    grounding = GroundingDataset(dataset(), features, sentences())
    assert all(clips[:, 2].abs().max() < 1e-5 for clips in grounding.videos.values())


def test_the_validation_split_takes_the_training_splits_standardisation_and_cannot_have_its_own(tmp_path):
    features = store(tmp_path / "a")
    train = GroundingDataset(dataset(), features, sentences())
    with pytest.raises(ValueError, match=r"the test split of made needs .*\s?.*standardisation=train\.standardisation"):
        GroundingDataset(dataset("test"), features, sentences())
    with pytest.raises(ValueError, match="measured on the training split alone, got the val split of made"):
        Standardisation.fit(dataset("val"), features)
    val = GroundingDataset(dataset("val"), features, sentences(), standardisation=train.standardisation)
    torch.testing.assert_close(val.videos["middle"], train.videos["middle"])
    fitted = Standardisation.fit(dataset(), features)
    assert fitted.fingerprint == train.standardisation.fingerprint
    raw = GroundingDataset(dataset("val"), features, sentences(), standardisation=Standardisation.none(6))
    torch.testing.assert_close(raw.videos["middle"], features.clips("middle"))


def test_a_standardisation_of_other_features_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the features have 6 dimensions, the standardisation was measured on 5"):
        GroundingDataset(dataset("val"), store(tmp_path / "a"), sentences(), standardisation=Standardisation.none(5))


def test_several_stores_are_joined_in_order_and_brought_to_the_finest_stride(tmp_path):
    fine, coarse = store(tmp_path / "a"), store(tmp_path / "b", dim=2, stride_s=1.0, seed=5)
    none = Standardisation.none(8)
    grounding = GroundingDataset(dataset("val"), [fine, coarse], sentences(), standardisation=none, max_clips=1000)
    assert grounding.dim == 8
    assert grounding.query_dim == 384
    for name in DURATIONS_S:
        torch.testing.assert_close(grounding.videos[name][:, :6], fine.clips(name))
        expected = resample(coarse.clips(name), len(fine.clips(name)))
        torch.testing.assert_close(grounding.videos[name][:, 6:], expected)


def test_columns_name_where_each_extractors_features_lie(tmp_path):
    first, second = store(tmp_path / "a"), store(tmp_path / "b", dim=2, seed=5)
    assert GroundingDataset(dataset(), first, sentences()).columns == {"made": (0, 6)}
    same = GroundingDataset(dataset(), [first, second, first], sentences())
    assert same.columns == {"made": (0, 6), "made, store 2": (6, 8), "made, store 3": (8, 14)}
    FeatureManifest(extractor="other", stride_s=0.5, dim=2, order="any", input="none").save(tmp_path / "b")
    both = GroundingDataset(dataset(), [open_features(tmp_path / "b"), first], sentences())
    assert list(both.columns.items()) == [("other", (0, 2)), ("made", (2, 8))]


def test_lengths_are_the_clips_of_every_querys_video(tmp_path):
    grounding = GroundingDataset(dataset(), store(tmp_path / "a"), sentences(), max_clips=16)
    assert grounding.lengths == [len(grounding[i]["video"]) for i in range(9)] == [1] * 3 + [10] * 3 + [16] * 3


def test_the_fingerprint_changes_with_data_features_and_settings_alone(tmp_path):
    features, other = store(tmp_path / "a"), store(tmp_path / "b", stride_s=0.25)
    same = GroundingDataset(dataset(), features, sentences()).fingerprint
    assert GroundingDataset(dataset(), open_features(tmp_path / "a"), sentences()).fingerprint == same
    changed = [
        GroundingDataset(dataset(), features, sentences(), max_clips=32),
        GroundingDataset(dataset(), other, sentences()),
        GroundingDataset(dataset(), [features, other], sentences()),
        GroundingDataset(dataset().subset(2), features, sentences()),
        GroundingDataset(dataset(), features, sentences(), standardisation=Standardisation.none(6)),
    ]
    assert len({same, *(each.fingerprint for each in changed)}) == 6


def test_features_of_other_videos_lengths_are_refused(tmp_path):
    wrong = store(tmp_path / "a", durations_s={**DURATIONS_S, "long": 20.0})
    with pytest.raises(FeatureMismatch, match=r"long: the folder has 40 clips, 80 are expected of 40 s"):
        GroundingDataset(dataset(), wrong, sentences())


def test_missing_videos_sentences_queries_and_stores_are_named(tmp_path):
    features = store(tmp_path / "a", durations_s={"middle": 5.2})
    with pytest.raises(FileNotFoundError, match="no features of 2 of 3 videos: short, long"):
        GroundingDataset(dataset(), features, sentences())
    features = store(tmp_path / "b")
    unknown = replace(dataset(), queries=(Query(id="q", video="long", sentence="swim", start_s=0, end_s=1),))
    with pytest.raises(KeyError, match="'swim' is neither the id of a query nor a sentence"):
        GroundingDataset(unknown, features, sentences())
    with pytest.raises(ValueError, match="made train has no query to ground"):
        GroundingDataset(replace(dataset(), queries=()), features, sentences())
    with pytest.raises(ValueError, match="at least one feature store"):
        GroundingDataset(dataset(), [], sentences())
    with pytest.raises(ValueError, match="max_clips is at least 1, got 0"):
        GroundingDataset(dataset(), features, sentences(), max_clips=0)


def test_videos_without_a_query_need_no_features(tmp_path):
    data = dataset()
    extra = {**data.videos, "unused": Video(id="unused", path=None, duration_s=3.0)}
    assert len(GroundingDataset(replace(data, videos=extra), store(tmp_path / "a"), sentences())) == 9
