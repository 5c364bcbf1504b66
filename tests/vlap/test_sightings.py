"""What is seen of each question is looked up once, kept, and answered from as from the cells."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tests.vlap.small_compact import ALWAYS, CONFIG, DIM, make
from tests.vlap.small_questions import films
from vkdlab.vlap import sightings
from vkdlab.vlap.batches import QuestionDataset, mirrored_cells, mirrored_prompt
from vkdlab.vlap.networks import CompactBackbone, FrameEncoder
from vkdlab.vlap.sightings import SightedQuestions, sighted
from vkdlab.vlap.store import FrameStore, frame_store

FRAMES = (8, 5, 1)
"""Of the three videos, of which 8 are looked at at most."""


@pytest.fixture(scope="module")
def backbone():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return films(tmp_path_factory.mktemp("films"), count=3)


@pytest.fixture(scope="module")
def store(dataset, backbone, tmp_path_factory):
    return store_of(dataset, backbone, tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def questions(dataset, store):
    return QuestionDataset(dataset, store)


def store_of(dataset, backbone, folder) -> FrameStore:
    glance = FrameEncoder(3, dim=DIM)
    sizes = {"count": 8, "size": (32, 24), "thumbnail": (16, 8)}
    return frame_store(dataset, backbone.see, glance, **sizes, folder=folder, progress=False)


def look_up(questions, backbone, folder) -> SightedQuestions:
    return sighted(questions, backbone, folder=folder, progress=False)


def batch_of(questions):
    return questions.collate([questions[i] for i in range(len(questions))])


def logits_of(backbone, batch):
    text = backbone.read(batch.prompts)
    return backbone.score(backbone.look(batch.tokens, text, batch.mask, batch.places), text, batch.mask)


def changed(backbone, *, mentions=None, always=None, config=CONFIG):
    """A backbone that differs in what is given."""
    mentions, always = (
        (backbone.mentions if mentions is None else mentions),
        backbone.always if always is None else always,
    )
    other = CompactBackbone(backbone.encoder, mentions, always=always, config=config).eval()
    other._texts = backbone._texts
    return other


def test_answers_are_those_from_the_cells_to_half_precision(questions, backbone, tmp_path):
    found = look_up(questions, backbone, tmp_path)
    cells, seen = batch_of(questions), batch_of(found)
    assert seen.tokens.shape == (9, 8, backbone.lookups, 7)
    assert seen.tokens.dtype == torch.float16
    assert (seen.ids, seen.kinds, seen.prompts) == (cells.ids, cells.kinds, cells.prompts)
    for name in ("answers", "glances", "mask", "places"):
        assert torch.equal(getattr(seen, name), getattr(cells, name)), name
    text = backbone.read(cells.prompts)
    sight = backbone.sight(cells.tokens, text, cells.mask)
    torch.testing.assert_close(seen.tokens.float(), sight, rtol=1e-3, atol=1e-4)
    expected, logits = logits_of(backbone, cells), logits_of(backbone, seen)
    assert expected[expected.isfinite()].std() > 1e-2
    torch.testing.assert_close(logits, expected, rtol=5e-3, atol=5e-3)


def test_videos_may_have_different_numbers_of_frames(questions, backbone, tmp_path):
    found = look_up(questions, backbone, tmp_path)
    assert [len(found[i]["tokens"]) for i in range(9)] == [count for count in FRAMES for _ in range(3)]
    batch = batch_of(found)
    assert batch.mask.sum(1).tolist() == [count for count in FRAMES for _ in range(3)]
    assert not batch.tokens[~batch.mask].any()


def test_many_questions_about_one_video_are_looked_up_in_parts(questions, backbone, tmp_path, monkeypatch):
    whole = look_up(questions, backbone, tmp_path / "whole")
    monkeypatch.setattr(sightings, "_AT_ONCE", 2)
    parts = look_up(questions, backbone, tmp_path / "parts")
    torch.testing.assert_close(batch_of(parts).tokens, batch_of(whole).tokens, rtol=1e-3, atol=1e-3)


def test_questions_that_do_not_stand_together_by_video_keep_their_order(dataset, store, questions, backbone, tmp_path):
    order = [4, 0, 8, 1, 3, 7, 2, 6, 5]
    mixed = replace(dataset, questions=tuple(dataset.questions[i] for i in order))
    plain, found = look_up(questions, backbone, tmp_path), look_up(QuestionDataset(mixed, store), backbone, tmp_path)
    for i, before in enumerate(order):
        assert found[i]["id"] == plain[before]["id"]
        torch.testing.assert_close(found[i]["tokens"], plain[before]["tokens"], rtol=1e-3, atol=1e-3)


def test_things_are_looked_up_once_and_then_read(questions, backbone, tmp_path, monkeypatch):
    first = look_up(questions, backbone, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    assert path.name.startswith("train-")
    written = path.stat().st_mtime_ns

    def refuse(*_, **__):
        raise AssertionError("looked up again")

    monkeypatch.setattr(sightings, "_looked_up", refuse)
    again = look_up(questions, backbone, tmp_path)
    assert torch.equal(batch_of(again).tokens, batch_of(first).tokens)
    assert again.fingerprint == first.fingerprint
    assert path.stat().st_mtime_ns == written
    assert list(tmp_path.glob("*.safetensors")) == [path]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other tensors"])
def test_a_damaged_file_is_made_anew(questions, backbone, tmp_path, damage):
    first = look_up(questions, backbone, tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    if damage == "other tensors":
        save_file({"seen": torch.zeros(1)}, path)
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"no tensors at all"}[damage])
    again = look_up(questions, backbone, tmp_path)
    assert torch.equal(batch_of(again).tokens, batch_of(first).tokens)
    assert path.read_bytes() == content


def test_what_a_killed_process_left_is_removed(questions, backbone, tmp_path):
    left = tmp_path / ".train-0.safetensors"
    left.write_bytes(b"half")
    look_up(questions, backbone, tmp_path)
    assert not left.exists()


def test_by_default_it_is_kept_in_the_cache(questions, backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path))
    sighted(questions, changed(backbone, config=replace(CONFIG, grid=(2, 6))), progress=False)
    assert len(list((tmp_path / "sightings" / "films-demo").glob("train-*.safetensors"))) == 1


def test_a_mirrored_sample_has_what_was_seen_on_the_other_side(dataset, store, questions, backbone, tmp_path):
    mirrored = QuestionDataset(dataset, store, mirrored=True, columns=(4, 2))
    found = look_up(mirrored, backbone, tmp_path)
    torch.manual_seed(0)
    drawn, plain = [found[1] for _ in range(40)], questions[1]
    flipped = [item["prompt"] != plain["prompt"] for item in drawn]
    assert 5 < sum(flipped) < 35
    text, mask = backbone.read([plain["prompt"]]), torch.ones(1, 8, dtype=torch.bool)
    for item in (drawn[flipped.index(False)], drawn[flipped.index(True)], drawn[flipped.index(False)]):
        other = item["prompt"] != plain["prompt"]
        cells = mirrored_cells(plain["tokens"], columns=4) if other else plain["tokens"]
        seen = backbone.sight(cells[None], text, mask)[0]
        torch.testing.assert_close(item["tokens"].float(), seen, rtol=1e-3, atol=1e-3)
        glances = mirrored_cells(plain["glances"], columns=2) if other else plain["glances"]
        assert torch.equal(item["glances"], glances)
        assert item["prompt"] == (mirrored_prompt(plain["prompt"]) if other else plain["prompt"])
    assert found[1]["tokens"][..., 0].abs().max() > 0.01


def test_whether_samples_are_mirrored_makes_another_fingerprint_of_one_file(
    dataset, store, questions, backbone, tmp_path
):
    mirrored = look_up(QuestionDataset(dataset, store, mirrored=True, columns=(4, 2)), backbone, tmp_path)
    plain = look_up(questions, backbone, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert len({mirrored.fingerprint, plain.fingerprint, questions.fingerprint}) == 3


def test_the_fingerprint_is_of_what_looks_things_up_and_not_of_what_learns(questions, backbone, tmp_path):
    always = backbone.always.clone()
    always[1, 2] += 1
    mentions = changed(backbone).mentions
    with torch.no_grad():
        mentions.out.weight[0, 0] += 1
    others = [
        changed(backbone, mentions=mentions),
        changed(backbone, always=always),
        changed(backbone, always=backbone.always[: ALWAYS - 1]),
        changed(backbone, config=replace(CONFIG, grid=(3, 4))),
    ]
    first = look_up(questions, backbone, tmp_path).fingerprint
    assert len({first, *(look_up(questions, other, tmp_path).fingerprint for other in others)}) == 5
    files = set(tmp_path.glob("*.safetensors"))
    assert len(files) == 5
    learned = changed(backbone, config=replace(CONFIG, score_layers=1))
    assert not torch.equal(learned.qformer.place.weight, backbone.qformer.place.weight)
    assert look_up(questions, learned, tmp_path).fingerprint == first
    assert set(tmp_path.glob("*.safetensors")) == files


def test_other_questions_or_frames_are_looked_up_anew(dataset, store, questions, backbone, tmp_path):
    fewer = QuestionDataset(replace(dataset, questions=dataset.questions[:-1]), store)
    other = QuestionDataset(dataset, FrameStore(store._files, failed={}, fingerprint="other"))
    found = {look_up(each, backbone, tmp_path).fingerprint for each in (questions, fewer, other)}
    assert len(found) == len(list(tmp_path.glob("*.safetensors"))) == 3


def test_questions_of_a_video_that_failed_are_left_out_here_too(backbone, tmp_path):
    dataset = films(tmp_path, count=3)
    dataset.videos["train-1"].path.write_bytes(b"no video")
    questions = QuestionDataset(dataset, store_of(dataset, backbone, tmp_path / "store"))
    found = look_up(questions, backbone, tmp_path / "seen")
    assert len(found) == found.left_out + 3 == 6
    assert found.without_video == questions.without_video
    assert [len(found[i]["tokens"]) for i in range(6)] == [8] * 3 + [1] * 3
    torch.testing.assert_close(
        logits_of(backbone, batch_of(found)), logits_of(backbone, batch_of(questions)), rtol=5e-3, atol=5e-3
    )


def test_frames_that_do_not_fit_the_backbone_are_refused_and_nothing_is_kept(questions, backbone, tmp_path):
    with pytest.raises(ValueError, match=r"expected frames of 4 x 4 cells of 12 numbers, got \(12, 12\)"):
        look_up(questions, changed(backbone, config=replace(CONFIG, grid=(4, 4))), tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
