"""Texts as the compact backbone reads them: the same vectors wherever they come from."""

import copy

import pytest
import torch

from vkdlab.vlap.backbone import Prompt
from vkdlab.vlap.texts import TextMemory


@pytest.fixture(scope="module")
def memory():
    """One for all tests: MiniLM is loaded once."""
    return TextMemory()


def test_prompts_of_a_batch_are_padded_with_zeros_and_their_options_stay_apart(memory):
    long, short = Prompt("What is done to the red cup?", ("it spins", "it", "the cup grows")), Prompt("why", ("a", "b"))
    both, alone = memory.read([long, short]), memory.read([short])
    assert both.num_options.tolist() == [3, 2]
    assert both.option_word_mask.sum(2).tolist() == [[2, 1, 3], [1, 1, 0]]
    assert both.word_mask.sum(1)[1] == alone.word_mask.sum() == 1
    assert both.word_mask[0].all()
    torch.testing.assert_close(both.words[1:, :1], alone.words)
    torch.testing.assert_close(both.options[1, :2, :1], alone.options[0])
    torch.testing.assert_close(both.question[1:], alone.question)
    assert not both.words[~both.word_mask].any()
    assert not both.options[~both.option_word_mask].any()
    for vectors in (both.question, both.words[both.word_mask], both.options[both.option_word_mask]):
        torch.testing.assert_close(vectors.square().mean(1), torch.ones(len(vectors)))


def test_texts_give_the_same_vectors_remembered_or_read_and_are_shared_by_copies(memory):
    prompt = Prompt("Which duck sleeps?", ("the toy duck", "no duck at all"))
    by_hand = memory.read([prompt])
    fresh = TextMemory()
    fresh.remember([prompt.question, *prompt.options], progress=False)
    remembered = copy.deepcopy(fresh).read([prompt])
    assert fresh._encoder is None  # nothing had to be encoded
    for name in ("question", "words", "options"):
        torch.testing.assert_close(getattr(remembered, name), getattr(by_hand, name), rtol=2e-3, atol=2e-3)
    assert torch.equal(remembered.word_mask, by_hand.word_mask)


def test_texts_that_cannot_be_read_are_refused(memory):
    with pytest.raises(ValueError, match="no prompt"):
        memory.read([])
    with pytest.raises(ValueError, match="'' has no word"):
        memory.read([Prompt("why?", ("yes", ""))])
    long = " ".join(["cup"] * 64)
    with pytest.raises(ValueError, match="at most 63 word pieces"):
        memory.read([Prompt(long, ("yes", "no"))])
    with pytest.raises(ValueError, match="at most 63 word pieces"):
        memory.remember([long], progress=False)
    memory.read([Prompt(long[4:], ("yes", "no"))])
