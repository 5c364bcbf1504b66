import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from vkdlab.data.datasets import Dataset, Query, Video
from vkdlab.data.feature_store import FeatureManifest, open_features
from vkdlab.data.grounding import GroundingDataset, Standardisation
from vkdlab.data.sentences import Sentences
from vkdlab.emtm.integration import Integrated
from vkdlab.emtm.labelled import DistillationDataset, Part
from vkdlab.emtm.teacher_outputs import TeacherOutputs
from vkdlab.training import Data

MARKS = ("red", "blue one")
_WORDS = {
    sentence: torch.randn(len(sentence.split()), 384, generator=torch.Generator().manual_seed(7 + mark))
    for mark, sentence in enumerate(MARKS)
}


def queries_of(folder, *, videos=3, clips=(12, 7, 5), split="train", name="a", seed=0, truth=None, spread_s=0.0, dim=3):
    """Videos of one-second clips in which each of two features is raised for three clips; queries name the feature.

    `truth`, a pair of seconds, is written down in place of the true moments.
    """
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir()
    FeatureManifest(extractor="made", stride_s=1.0, dim=dim, order="any", input="none").save(folder)
    sizes, rows = {}, []
    for number in range(videos):
        video, count = f"{name}{number}", clips[number % len(clips)]
        features = 0.1 * torch.randn(count, dim, generator=generator)
        for mark, sentence in enumerate(MARKS):
            start = int(torch.randint(0, max(1, count - 2), (), generator=generator))
            features[start : start + 3, mark] += 1
            moment = truth or (float(start), float(min(start + 3, count)))
            rows.append(Query(id=f"{video}-{mark}", video=video, sentence=sentence, start_s=moment[0], end_s=moment[1]))
        save_file({"clips": features}, folder / f"{video}.safetensors")
        sizes[video] = Video(id=video, path=None, duration_s=float(count))
    data = Dataset(name=name, split=split, profile="smoke", videos=sizes, queries=tuple(rows))
    sentences = Sentences(
        {sentence: (words, torch.ones(384)) for sentence, words in _WORDS.items()},
        queries={row.id: row.sentence for row in rows},
        fingerprint="made",
    )
    return GroundingDataset(data, open_features(folder), sentences, standardisation=Standardisation.none(dim))


def ids_of(dataset):
    return [query.id for query in dataset.dataset.queries]


def counts_of(dataset):
    return [len(dataset.videos[query.video]) for query in dataset.dataset.queries]


def random_label(dataset, *, grid=None, teachers=None, seed=0):
    """Distributions over each query's clips, on a grid that may be longer than the longest video."""
    counts = torch.tensor(counts_of(dataset))
    shape = (len(counts), grid or int(counts.max())) if teachers is None else (len(counts), teachers, int(counts.max()))
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(shape[-1]) < counts[:, None]
    return logits.masked_fill(~(mask if teachers is None else mask[:, None]), -torch.inf).softmax(-1)


def part_of(dataset, *, grid=None, teachers=None, **changes):
    given = {"start": random_label(dataset, grid=grid, seed=1), "end": random_label(dataset, grid=grid, seed=2)}
    if teachers:
        given["teacher_start"] = random_label(dataset, teachers=teachers, seed=3)
        given["teacher_end"] = random_label(dataset, teachers=teachers, seed=4)
    return Part(**{"dataset": dataset, "ids": ids_of(dataset)} | given | changes)


def whole(dataset):
    return dataset.collate([dataset[row] for row in range(len(dataset))])


@pytest.fixture
def labelled(tmp_path):
    return queries_of(tmp_path / "a")


@pytest.fixture
def unlabelled(tmp_path):
    return queries_of(tmp_path / "b", name="b", split="test", clips=(9, 1), seed=1)


def test_a_batch_holds_labels_moments_and_which_of_both_there_are(labelled, unlabelled):
    annotated = Part(dataset=labelled)
    dropped = part_of(unlabelled, grid=20, has_moment=False)
    batch = whole(DistillationDataset([annotated, dropped]))
    assert batch.ids == ids_of(labelled) + ids_of(unlabelled)
    assert batch.has_moment.tolist() == [True] * 6 + [False] * 6
    assert batch.has_label.tolist() == [False] * 6 + [True] * 6
    assert batch.label_start.shape == batch.label_end.shape == batch.video_mask.shape == (12, 12)
    assert torch.equal(batch.moment_s[:6], whole(labelled).moment_s)
    assert batch.moment_s[6:].isnan().all()
    assert not batch.label_start[:6].any()
    assert torch.equal(batch.label_start[6:, :9], dropped.start[:, :9])
    assert torch.equal(batch.label_end[6:, :9], dropped.end[:, :9])
    assert not batch.label_end[~batch.video_mask].any()
    assert batch.teacher_start is None
    assert not batch.has_teachers.any()


def test_what_every_teacher_says_is_padded_to_the_batch_and_empty_where_nobody_was_asked(labelled, unlabelled):
    asked = part_of(labelled, teachers=4)
    batch = whole(DistillationDataset([part_of(unlabelled, has_moment=False), asked]))
    assert batch.teacher_start.shape == batch.teacher_end.shape == (12, 4, 12)
    assert torch.equal(batch.teacher_end[6:], asked.teacher_end)
    assert batch.has_teachers.tolist() == [False] * 6 + [True] * 6
    moved = batch.to("cpu")
    assert type(moved) is type(batch)
    assert torch.equal(moved.teacher_start, batch.teacher_start)


def test_the_moments_of_unlabelled_videos_reach_no_batch(tmp_path):
    batches = [
        whole(DistillationDataset([part_of(queries_of(tmp_path / f"{truth}", truth=truth), has_moment=False)]))
        for truth in ((0.0, 1.0), (2.0, 5.0))
    ]
    assert batches[0].moment_s.isnan().all()
    for name, value in vars(batches[0]).items():
        other = getattr(batches[1], name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value.nan_to_num(nan=-1), other.nan_to_num(nan=-1)), name
        else:
            assert value == other


def test_training_takes_it_with_a_plain_validation_split_of_other_videos(labelled, unlabelled, tmp_path):
    val = queries_of(tmp_path / "val", name="v", split="val")
    train = DistillationDataset([part_of(labelled), part_of(unlabelled, has_moment=False)])
    data = Data(train=train, val=val)
    assert data.fingerprint
    assert (train.dim, train.query_dim, train.max_clips, train.teachers) == (3, 384, 64, 0)
    with pytest.raises(ValueError, match="train and val share 3 of 3 videos"):
        Data(train=train, val=queries_of(tmp_path / "again", name="b", split="val"))


def test_moments_of_a_test_split_are_no_training_material(unlabelled):
    with pytest.raises(ValueError, match=r"b test: the moments of a test split.*Pass has_moment=False"):
        part_of(unlabelled)


def test_labels_are_found_by_id_among_more_and_in_another_order(labelled):
    names = ids_of(labelled)
    said = TeacherOutputs(
        names=("one", "two"),
        ids=("other", *reversed(names)),
        start=torch.cat([torch.full((1, 2, 12), 1 / 12), random_label(labelled, teachers=2, seed=1).flip(0)]),
        end=torch.cat([torch.full((1, 2, 12), 1 / 12), random_label(labelled, teachers=2, seed=2).flip(0)]),
        mask=torch.arange(12) < torch.tensor([12, *reversed(counts_of(labelled))])[:, None],
        moments_s=torch.zeros(7, 2, 2),
        duration_s=torch.full((7,), 12.0),
        truth_s=torch.zeros(7, 2),
    )
    rows = said.rows([6, 4, 5, 1, 2, 3, 0])
    together = Integrated(
        weights=torch.full((7, 2, 2), 0.5),
        start=rows.start.mean(1),
        end=rows.end.mean(1),
        mask=rows.mask,
        moments_s=torch.zeros(7, 5, 2),
        duration_s=rows.duration_s,
        truth_s=rows.truth_s,
        ids=rows.ids,
        names=rows.names,
    )
    part = Part.of(labelled, together, outputs=said)
    assert torch.equal(part.teacher_end, random_label(labelled, teachers=2, seed=2))
    torch.testing.assert_close(part.start, part.teacher_start.mean(1))
    torch.testing.assert_close(part.end, part.teacher_end.mean(1))
    fewer = said.rows([0, 1, 2, 3, 4, 6])  # the ids lie in reverse
    with pytest.raises(ValueError, match=r"a train: 1 of 6 queries have no label \(a0-1\)"):
        Part.of(labelled, outputs=fewer)


def _spoilt(label, row, column, value):
    label = label.clone()
    label[row, column] = value
    return label


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: {"ids": part.ids[:5]}, "a train: it has 6 queries, the labels are for 5 ids"),
        (lambda part: {"ids": ()}, "a train: it has 6 queries, the labels are for 0 ids"),
        (lambda part: {"ids": part.ids[::-1]}, "query 0 is 'a0-0', the label in that row is for 'a2-1'"),
        (
            lambda part: {"start": part.start[:4], "end": part.end[:4], "teacher_start": None, "teacher_end": None},
            "it has 6 queries, start has 4 rows",
        ),
        (lambda part: {"start": part.start[:, :9], "end": part.end[:, :9]}, "'a0-0' has 12 clips, start has 9"),
        (lambda part: {"end": None}, "start and end come together"),
        (lambda part: {"teacher_end": None}, "teacher_start and teacher_end come together"),
        (lambda part: {"start": _spoilt(part.start, 3, 0, 0.0)}, "start of query 'a1-1' is no distribution over the 7"),
        (lambda part: {"end": _spoilt(part.end, 2, 0, torch.nan)}, "end of query 'a1-0' is no distribution over the 7"),
        (lambda part: {"start": part.start.roll(3, 1)}, "start of query 'a1-0' is no distribution over the 7 clips"),
        (lambda part: {"teacher_end": -part.teacher_end}, "teacher_end of query 'a0-0' is no distribution"),
    ],
)
def test_labels_that_are_not_those_of_the_queries_are_refused(labelled, change, message):
    part = part_of(labelled, teachers=2)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(part, **change(part))


def test_queries_without_moments_and_without_labels_teach_nothing(labelled):
    with pytest.raises(ValueError, match="without moments and without labels there is nothing to learn from"):
        Part(dataset=labelled, has_moment=False)


def test_parts_that_do_not_go_together_are_refused(labelled, tmp_path):
    part = part_of(labelled, teachers=2)
    wider = queries_of(tmp_path / "wider", dim=4)
    shifted = queries_of(tmp_path / "shifted")
    shifted.standardisation = Standardisation(torch.ones(3), torch.ones(3))
    for parts, message in (
        ([], "at least one part is needed"),
        ([part, part_of(wider)], "part 1 has 4 features a clip and 384 a word, part 0 has 3 and 384"),
        ([part, part_of(shifted)], "part 1 is standardised otherwise"),
        ([part_of(labelled, teachers=3), part], "part 1 has the outputs of 2 teachers, another one of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            DistillationDataset(parts)
    with pytest.raises(IndexError, match="there are 6 queries, 6 was asked for"):
        DistillationDataset([part])[6]


def test_the_fingerprint_knows_labels_flags_and_teachers_but_no_rounding(labelled):
    def fingerprint(**changes):
        return DistillationDataset([part_of(labelled, **changes)]).fingerprint

    start = random_label(labelled, seed=1).double().mul(1e5).round().div(1e5)
    moved = _spoilt(start, 0, slice(0, 2), start[0, :2] + torch.tensor([1e-4, -1e-4], dtype=torch.double))
    base = fingerprint(start=start)
    assert fingerprint(start=start + 1e-9 * (start > 0)) == base
    others = [
        fingerprint(start=moved),
        fingerprint(start=start, has_moment=False),
        fingerprint(start=start, teachers=2),
        DistillationDataset([Part(dataset=labelled)]).fingerprint,
    ]
    assert len({base, *others}) == 5
