"""An answerer learns from frames at random, of any number, and can then be asked about any number."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests.vlap.small_questions import SmallBackbone, batch_of
from vkdlab.vlap.answerer import AnswererTraining, look
from vkdlab.vlap.prompter import choose
from vkdlab.vlap.selectors import everything, uniform


def test_each_batch_gets_one_of_the_counts_and_one_frame_of_each_part(monkeypatch):
    method, batch, seen = AnswererTraining(SmallBackbone(), counts=(1, 3, 12)), batch_of([12, 12, 6]), []
    answered = AnswererTraining.forward

    def spy(self, batch, *, selection):
        seen.append(selection)
        return answered(self, batch, selection=selection)

    monkeypatch.setattr(AnswererTraining, "forward", spy)
    for _ in range(60):
        method.loss(batch)
    assert {selection.indices.shape[1] for selection in seen} == {1, 3, 12}
    for selection in seen:
        select = selection.indices.shape[1]
        assert selection.mask.sum(1).tolist() == [select, select, min(select, 6)]
        if select == 3:
            assert (selection.indices[:2] // 4).tolist() == [[0, 1, 2]] * 2
    thirds = torch.cat([selection.indices[0] % 4 for selection in seen if selection.indices.shape[1] == 3])
    assert set(thirds.tolist()) == {0, 1, 2, 3}


def test_with_all_frames_the_loss_is_the_cross_entropy_of_reading_them_all():
    backbone, batch = SmallBackbone(), batch_of([12, 5, 9])
    method = AnswererTraining(backbone, counts=(12,))
    text = backbone.read(batch.prompts)
    logits = backbone.score(backbone.look(batch.tokens, text, batch.mask, batch.places), text, batch.mask)
    expected = functional.cross_entropy(logits, batch.answers)
    torch.testing.assert_close(method.loss(batch)["total"], expected)
    torch.testing.assert_close(method(batch, selection=everything(batch.mask)).logits, logits)


def test_accuracy_is_that_of_frames_at_equal_distances_over_all_counts_and_of_each():
    method, batch = AnswererTraining(SmallBackbone(), counts=(1, 4)), batch_of([12] * 8)
    found = method.evaluate(batch)
    each = [
        (method(batch, selection=uniform(batch.mask, select=select)).logits.argmax(1) == batch.answers).sum().item()
        for select in (1, 4)
    ]
    assert [found[f"accuracy of {select} frames"].sum for select in (1, 4)] == each
    assert (found["accuracy"].sum, found["accuracy"].count) == (sum(each), 16)
    assert found["accuracy where"].count == 4
    alone = AnswererTraining(method.student, counts=(4,)).evaluate(batch)
    assert list(alone) == ["accuracy", "accuracy count", "accuracy what", "accuracy where"]
    assert alone["accuracy"].sum == each[1]


def test_the_answerer_learns_and_frames_that_are_not_there_are_zero():
    backbone, batch = SmallBackbone(), batch_of([2, 12])
    AnswererTraining(backbone, counts=(4,)).loss(batch)["total"].backward()
    assert backbone.found.weight.grad.any()
    text = backbone.read(batch.prompts)
    visual = look(backbone, batch, uniform(batch.mask, select=4), text)
    assert visual.shape == (2, 4, 2, 6)
    assert not visual[0, 2:].any()


def test_small_gradients_of_a_choice_do_not_vanish_where_frames_are_kept_in_half_precision():
    backbone, batch, grads = SmallBackbone(), batch_of([12, 12]), []
    for tokens in (batch.tokens.half(), batch.tokens.half().float()):
        scores = torch.randn(2, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        selection = choose(scores, mask=batch.mask, select=3)
        seen = look(backbone, replace(batch, tokens=tokens), selection, backbone.read(batch.prompts))
        (1e-9 * seen).sum().backward()
        grads.append(scores.grad)
    assert grads[0].any()
    torch.testing.assert_close(*grads, rtol=1e-4, atol=0)


@pytest.mark.parametrize("counts", [(), (-1, 4), (4, 4)])
def test_counts_of_no_meaning_are_refused(counts):
    with pytest.raises(ValueError, match="counts are different numbers of frames"):
        AnswererTraining(SmallBackbone(), counts=counts)


def test_who_learns_without_frames_sees_none():
    method, batch = AnswererTraining(SmallBackbone(), counts=(0,)), batch_of([2, 12])
    other = replace(batch, tokens=batch.tokens + 1)
    assert method.loss(batch)["total"] == method.loss(other)["total"]
    assert method.evaluate(batch)["accuracy"].count == 2
    assert AnswererTraining(method.student, counts=(4,)).loss(batch)["total"] != method.loss(batch)["total"]


def test_frames_that_a_way_chooses_are_learned_from_and_evaluated_on():
    asked = []

    def last(batch, *, select):
        asked.append(select)
        return choose(batch.places, mask=batch.mask, select=select)

    backbone, batch = SmallBackbone(), batch_of([12] * 8)
    method = AnswererTraining(backbone, counts=(3,), way=last)
    first, again = (method.loss(batch)["total"] for _ in range(2))
    assert first == again, "nothing is left to chance"
    logits = method(batch, selection=last(batch, select=3)).logits
    assert method.evaluate(batch)["accuracy"].sum == (logits.argmax(1) == batch.answers).sum().item()
    assert set(asked) == {3}
