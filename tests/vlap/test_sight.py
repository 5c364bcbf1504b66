"""What the compact backbone sees of all that a prompt speaks of, which may be kept in place of a frame's cells."""

import pytest
import torch

from tests.vlap.small_compact import (
    ALWAYS,
    CUP,
    DIM,
    DUCK,
    HAND,
    OPTIONS,
    PROMPTS,
    THINGS,
    make,
    tokens_of,
)
from vkdlab.vlap.backbone import Prompt
from vkdlab.vlap.layers import cell_positions, find
from vkdlab.vlap.mentions import Mentioned, Mentions


@pytest.fixture(scope="module")
def memory():
    """One memory of texts for all tests: MiniLM is loaded once."""
    with torch.random.fork_rng():
        return make()._texts


@pytest.fixture
def backbone(memory):
    backbone = make()
    backbone._texts = memory
    return backbone


def test_what_mentions_find_is_what_is_looked_up(backbone):
    tokens, mask, _ = tokens_of(backbone, 3, 2)
    seen = backbone.sight(tokens, backbone.read(PROMPTS), mask)
    assert seen.shape == (3, 2, backbone.lookups, 7) == (3, 2, THINGS * (1 + OPTIONS) + ALWAYS, 7)
    for i, prompt in enumerate(PROMPTS):
        vectors, there = torch.zeros(backbone.lookups, DIM), torch.zeros(backbone.lookups)
        for j, text in enumerate((prompt.question, *prompt.options)):
            read = backbone.read([Prompt(text, ("a", "b"))])
            found = backbone.mentions(read.words, read.word_mask)
            vectors[2 * j : 2 * j + 2], there[2 * j : 2 * j + 2] = found.vectors[0], found.there[0]
        vectors[-ALWAYS:], there[-ALWAYS:] = backbone.always, 1
        found = find(tokens[i], vectors.expand(2, -1, -1), positions=cell_positions(4, 3)).features
        expected = torch.cat([found * there[:, None], there[:, None].expand(2, -1, 1)], 2)
        torch.testing.assert_close(seen[i], expected, rtol=1e-4, atol=1e-5)


def test_what_was_seen_stands_in_place_of_the_tokens(backbone):
    tokens, mask, places = tokens_of(backbone, 3, 4)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [False, True, True, False]])
    tokens[~mask], text = torch.nan, backbone.read(PROMPTS)
    seen = backbone.sight(tokens, text, mask)
    assert not seen.requires_grad
    assert not seen[~mask].any()
    assert torch.equal(backbone.look(seen, text, mask, places), backbone.look(tokens, text, mask, places))
    kept = backbone.look(seen.half(), text, mask, places)
    assert kept.dtype == torch.float32
    torch.testing.assert_close(kept, backbone.look(tokens, text, mask, places), rtol=1e-2, atol=1e-2)


def test_what_was_seen_on_padding_does_not_get_through(backbone):
    tokens, mask, places = tokens_of(backbone, 3, 2)
    mask[1, 1] = mask[2, 0] = False
    text = backbone.read(PROMPTS)
    seen = backbone.sight(tokens, text, mask)
    visual = backbone.look(seen, text, mask, places)
    seen[~mask] = torch.nan
    assert torch.equal(backbone.look(seen, text, mask, places.masked_fill(~mask, torch.nan)), visual)
    assert not visual[~mask].any()


def test_without_any_frame_nothing_is_seen(backbone):
    tokens, mask, places = tokens_of(backbone, 2, 3)
    text = backbone.read([CUP, DUCK])
    seen = backbone.sight(tokens, text, torch.zeros_like(mask))
    assert seen.shape == (2, 3, backbone.lookups, 7)
    assert not seen.any()
    none = backbone.sight(tokens[:, :0], text, mask[:, :0])
    assert none.shape == (2, 0, backbone.lookups, 7)
    assert backbone.look(none, text, mask[:, :0], places[:, :0]).shape == (2, 0, backbone.queries, 16)


@pytest.mark.parametrize("size", [(11, DIM), (12, DIM - 1), (14, 7), (15, 6)])
def test_neither_cells_nor_what_was_seen_of_another_backbone_is_taken(backbone, size):
    text, mask = backbone.read([CUP]), torch.ones(1, 2, dtype=torch.bool)
    message = rf"expected frames of 4 x 3 cells of 12 numbers, got \({size[0]}, {size[1]}\)"
    with pytest.raises(ValueError, match=message):
        backbone.sight(torch.zeros(1, 2, *size), text, mask)
    with pytest.raises(ValueError, match=message):
        backbone.look(torch.zeros(1, 2, *size), text, mask, torch.zeros(1, 2))


class Silent(Mentions):
    """A text of at most `short` word pieces speaks of nothing, any other of one thing."""

    short = 0

    def forward(self, words, mask):
        there = (mask.sum(1, keepdim=True) > self.short) & (torch.arange(self.things) < 1)
        return Mentioned(super().forward(words, mask).vectors, there.float())


def test_what_a_text_does_not_speak_of_is_not_seen(memory):
    backbone = make(Silent(DIM, hidden=8))
    backbone._texts, text = memory, memory.read([HAND])
    backbone.mentions.short = int(text.option_word_mask[0].sum(1).min())
    (tokens, mask, _), places = tokens_of(backbone, 1, 2), torch.full((1, 2), 0.5)
    silent = [i for i, count in enumerate(text.option_word_mask[0].sum(1).tolist()) if count == backbone.mentions.short]
    assert 0 < len(silent) < OPTIONS
    seen = backbone.sight(tokens, text, mask)[0]
    of_texts = seen[:, : THINGS * (1 + OPTIONS)].unflatten(1, (-1, THINGS))
    assert not of_texts[:, :, 1].any(), "the second thing"
    assert [i for i in range(OPTIONS) if not of_texts[:, 1 + i].any()] == silent
    frames = backbone.look(tokens, text, mask, places)[0]
    alike = frames.diff(dim=0)[0].abs().amax(1).lt(1e-6).nonzero().flatten().tolist()
    assert alike == [1, *(THINGS + i for i in silent)]
