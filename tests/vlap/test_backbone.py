"""What every backbone is given, and what it has to be able to do."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from vkdlab.vlap import Backbone, Prompt, Text


@dataclass(frozen=True, eq=False)
class WordText(Text):
    words: Tensor
    mask: Tensor | None = None


def test_a_prompt_has_a_question_and_two_to_five_options():
    for count in (2, 3, 4, 5):
        assert len(Prompt("why?", ("x",) * count).options) == count
    for count in (0, 1, 6):
        with pytest.raises(ValueError, match=f"expected 2 to 5 options, got {count} for the question 'why\\?'"):
            Prompt("why?", ("x",) * count)
    with pytest.raises(ValueError, match="needs a question, got ' '"):
        Prompt(" ", ("a", "b"))


def test_the_option_mask_is_as_wide_as_the_longest_list_of_options():
    text = Text(torch.tensor([2, 4, 3]))
    assert len(text) == 3
    assert text.option_mask.long().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]


def test_a_text_moves_with_all_tensors_that_a_backbone_adds():
    text = WordText(torch.tensor([2]), words=torch.zeros(1, 3))
    moved = text.to("meta")
    assert type(moved) is WordText
    assert (moved.num_options.device.type, moved.words.device.type, moved.mask) == ("meta", "meta", None)
    assert text.words.device.type == "cpu"


def test_a_backbone_without_all_five_steps_cannot_be_made():
    class Blind(Backbone):
        def read(self, prompts):
            return Text(torch.tensor([2]))

    with pytest.raises(TypeError, match=r"look.*question.*score.*see"):
        Blind()
