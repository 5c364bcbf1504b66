"""Questions become batches whatever their options and their videos' lengths are, and can be mirrored."""

from dataclasses import replace

import pytest
import torch

from tests.vlap.small_questions import Glance, SmallBackbone, films
from vkdlab.data.datasets import Question
from vkdlab.vlap import Prompt
from vkdlab.vlap.batches import QuestionDataset, mirrored_cells, mirrored_prompt
from vkdlab.vlap.store import FrameStore, frame_store

GRIDS = (3, 1)
"""Columns of the small backbone's six tokens, and of the glance's two."""


def store_of(dataset, folder) -> FrameStore:
    torch.manual_seed(1)
    see, glance = SmallBackbone().see, Glance()
    return frame_store(dataset, see, glance, count=8, size=(32, 24), folder=folder / "store", progress=False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return films(tmp_path_factory.mktemp("films"), count=3)


@pytest.fixture(scope="module")
def store(dataset, tmp_path_factory):
    return store_of(dataset, tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def questions(dataset, store):
    return QuestionDataset(dataset, store)


def test_a_batch_is_padded_to_its_longest_video(questions, store):
    batch = questions.collate([questions[i] for i in (0, 3, 7)])
    assert len(batch) == 3
    assert batch.mask.sum(1).tolist() == [8, 5, 1]
    assert batch.tokens.shape == (3, 8, 6, 8)
    assert batch.glances.shape == (3, 8, 2, 5)
    kept = store.tokens("train-0").dtype, store.glances("train-0").dtype, torch.float32
    assert (batch.tokens.dtype, batch.glances.dtype, batch.places.dtype) == kept
    for i, video in enumerate(("train-0", "train-1", "train-2")):
        there = batch.mask[i]
        assert torch.equal(batch.tokens[i, there], store.tokens(video))
        assert torch.equal(batch.glances[i, there], store.glances(video))
        assert torch.equal(batch.places[i, there], store.places(video))
        assert not batch.tokens[i, ~there].any()


def test_a_batch_says_what_is_asked_and_answered_and_where_the_evidence_is(questions):
    batch = questions.collate([questions[i] for i in (0, 1, 2)])
    assert batch.ids == ("train-0-0", "train-0-1", "train-0-2")
    assert batch.kinds == ("a", "b", "")
    assert [len(prompt.options) for prompt in batch.prompts] == [2, 4, 3]
    assert batch.answers.tolist() == [0, 1, 0]
    assert batch.evidence[:2].tolist() == [[0.0, 0.5]] * 2
    assert batch.evidence[2].isnan().all()


def test_evidence_that_ends_a_trifle_behind_the_video_ends_with_it(dataset, store):
    row = Question("late", "train-1", "what?", ("a", "b"), 0, "", (0.1, 0.5005))
    (item,) = QuestionDataset(replace(dataset, questions=(row,)), store)
    assert item["evidence"].tolist() == pytest.approx([0.2, 1.0])


def test_a_batch_moves_with_all_its_tensors(questions):
    moved = questions.collate([questions[0]]).to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert [value.device.type for value in tensors] == ["meta"] * 6
    assert moved.ids == ("train-0-0",)


def test_questions_of_a_video_that_failed_are_left_out_counted_and_listed(tmp_path):
    dataset = films(tmp_path, count=3)
    dataset.videos["train-1"].path.write_bytes(b"no video")
    found = QuestionDataset(dataset, store_of(dataset, tmp_path))
    assert len(found) == found.left_out + 3 == 6
    assert list(found.without_video) == ["train-1-0", "train-1-1", "train-1-2"]
    assert "train-1.mp4: cannot be read" in found.without_video["train-1-0"]
    assert {found[i]["id"][:7] for i in range(6)} == {"train-0", "train-2"}


def test_a_data_set_of_which_no_video_can_be_decoded_is_refused(tmp_path):
    dataset = films(tmp_path, count=1)
    dataset.videos["train-0"].path.write_bytes(b"no video")
    with pytest.raises(ValueError, match="films train has 3 questions, and the videos of 3 of them cannot be decoded"):
        QuestionDataset(dataset, store_of(dataset, tmp_path))


def test_a_store_of_other_videos_is_refused(tmp_path, store):
    other = films(tmp_path, split="val", count=2)
    with pytest.raises(KeyError, match="no frames of 2 videos of films val: val-0, val-1"):
        QuestionDataset(other, store)


def test_a_question_that_cannot_be_asked_is_named(dataset, store):
    row = Question("odd", "train-0", "what?", ("a",), 0)
    with pytest.raises(ValueError, match="question 'odd': expected 2 to 5 options, got 1"):
        QuestionDataset(replace(dataset, questions=(row,)), store)
    with pytest.raises(ValueError, match="at least one item"):
        QuestionDataset.collate([])


@pytest.mark.parametrize(
    ("said", "mirrored"),
    [
        ("it slides left", "it slides right"),
        ("Left or right?", "Right or left?"),
        ("moves leftwards, then RIGHT", "moves rightwards, then LEFT"),
        ("the left-hand cup, leftmost", "the right-hand cup, rightmost"),
        ("the bright cleft of an upright copyright", "the bright cleft of an upright copyright"),
        ("nothing sided", "nothing sided"),
    ],
)
def test_words_of_sides_are_exchanged_and_no_others(said, mirrored):
    assert mirrored_prompt(Prompt(said, (said, "x"))) == Prompt(mirrored, (mirrored, "x"))
    assert mirrored_prompt(Prompt(mirrored, ("x", "y"))).question == said


def test_cells_are_mirrored_along_the_columns_of_their_grid():
    cells = torch.arange(6.0).reshape(1, 6, 1)
    assert mirrored_cells(cells, columns=3).flatten().tolist() == [2, 1, 0, 5, 4, 3]
    assert mirrored_cells(cells, columns=1).flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_half_of_the_samples_are_mirrored_frames_and_words_together(dataset, store, questions):
    mirrored = QuestionDataset(dataset, store, mirrored=True, columns=GRIDS)
    torch.manual_seed(0)
    drawn = [mirrored[1] for _ in range(200)]
    plain = questions[1]
    flipped = [item["prompt"] != plain["prompt"] for item in drawn]
    assert sum(flipped) == pytest.approx(100, abs=25)
    for item, other in zip(drawn, flipped, strict=True):
        expected = mirrored_cells(plain["tokens"], columns=3) if other else plain["tokens"]
        assert torch.equal(item["tokens"], expected)
        assert item["answer"] == plain["answer"]
    assert drawn[flipped.index(True)]["prompt"].options == ("far right", "far left", "near right", "near left")


def test_to_mirror_the_columns_have_to_be_known_and_to_fit(dataset, store):
    with pytest.raises(ValueError, match="columns is needed"):
        QuestionDataset(dataset, store, mirrored=True)
    with pytest.raises(ValueError, match="a frame's tokens form no grid of 4 columns: there are 6 of them"):
        QuestionDataset(dataset, store, mirrored=True, columns=(4, 1))
    with pytest.raises(ValueError, match="a glance's tokens form no grid of 0 columns"):
        QuestionDataset(dataset, store, mirrored=True, columns=(3, 0))


def test_the_fingerprint_is_of_questions_encoders_and_mirroring(dataset, store, questions, tmp_path):
    fewer = replace(dataset, questions=dataset.questions[:-1])
    found = {
        QuestionDataset(dataset, store).fingerprint,
        QuestionDataset(fewer, store).fingerprint,
        QuestionDataset(dataset, store, mirrored=True, columns=GRIDS).fingerprint,
        QuestionDataset(dataset, FrameStore(store._files, failed={}, fingerprint="other")).fingerprint,
    }
    assert len(found) == 4
    assert questions.fingerprint in found
