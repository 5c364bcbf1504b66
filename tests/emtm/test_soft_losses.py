import math

import pytest
import torch

from vkdlab.emtm.losses import soft_target
from vkdlab.emtm.soft_losses import gradient_norms, released_label, released_soft_loss, soft_loss


def _random(valid=(6, 4, 1), length=6):
    mask = torch.arange(length) < torch.tensor(valid)[:, None]
    label = torch.randn(len(valid), length).masked_fill(~mask, -torch.inf).softmax(1)
    return torch.randn(len(valid), length).masked_fill(~mask, -torch.inf), label, mask


def _softmax(values):
    return [math.exp(value) / sum(math.exp(other) for other in values) for value in values]


def _kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 0.5])
def test_the_soft_loss_is_the_divergence_worked_out_clip_by_clip(temperature):
    logits, label, mask = _random()
    by_hand = 0.0
    for row in range(3):
        count = int(mask[row].sum())
        powers = [label[row, i].item() ** (1 / temperature) for i in range(count)]
        student = _softmax([logits[row, i].item() / temperature for i in range(count)])
        by_hand += temperature**2 * _kl([power / sum(powers) for power in powers], student) / 3
    assert soft_loss(logits, label, mask, temperature=temperature).item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("softmaxes", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_released_loss_is_a_softmax_of_a_softmax_over_padding_too(temperature, softmaxes):
    logits, label, mask = _random()

    def flattened(values):
        norm = math.sqrt(sum(value**2 for value in values))
        values = [value / norm / temperature for value in values]
        for _ in range(softmaxes):
            values = _softmax(values)
        return values

    by_hand = 0.0
    for row in range(3):
        student = [logits[row, i].item() if mask[row, i] else 0.0 for i in range(6)]
        by_hand += _kl(flattened(label[row].tolist()), flattened(student)) / 3
    given = released_soft_loss(logits.double(), label.double(), mask, temperature=temperature, softmaxes=softmaxes)
    assert given.item() == pytest.approx(by_hand, rel=1e-4)


def test_a_student_that_says_what_the_label_says_has_no_soft_loss_and_no_gradient():
    _, label, mask = _random()
    logits = label.clamp(min=1e-30).log().requires_grad_()
    loss = soft_loss(logits, label, mask, temperature=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


def test_a_label_may_be_sure_of_one_clip():
    label = torch.tensor([[0.0, 1.0, 0.0]])
    loss = soft_loss(torch.zeros(1, 3), label, torch.ones(1, 3, dtype=torch.bool), temperature=3.0)
    assert loss.item() == pytest.approx(9 * math.log(3), rel=1e-5)


def test_our_loss_teaches_the_student_alone_and_the_released_one_the_label_too():
    logits, _, mask = _random()
    logits = logits.masked_fill(~mask, 0).requires_grad_()
    for loss, reached in ((soft_loss, False), (released_soft_loss, True)):
        scores = torch.randn(3, 6, requires_grad=True)
        label = scores.masked_fill(~mask, -torch.inf).softmax(1)
        value = loss(logits, label, mask)
        value.backward()
        assert logits.grad.abs().sum() > 0
        assert (scores.grad is not None and bool(scores.grad.any())) == reached


def test_the_gradients_as_released_are_as_small_as_was_measured_and_ours_are_not():
    # Bumps of 5 % of 64 clips, as the released rule for proposals makes them, and logits of spread 2.
    centres = torch.randint(8, 56, (200, 1))
    label = torch.exp(-0.5 * ((torch.arange(64) - centres) / 3.2) ** 2)
    label = label / label.sum(1, keepdim=True)
    logits, mask = 2 * torch.randn(200, 64), torch.ones(200, 64, dtype=torch.bool)
    for temperature, one, released, ratio in ((1.0, 1e-3, 2.5e-7, 1.008), (3.0, 1e-4, 3e-8, 1.002)):
        norms = gradient_norms(logits, label, mask, temperature=temperature)
        assert norms.hard == pytest.approx(0.65, abs=0.1)
        assert norms.one_softmax == pytest.approx(one, rel=0.5)
        assert norms.released == pytest.approx(released, rel=0.5)
        assert norms.soft > 0.3
        seen = released_label(label, temperature=temperature)
        assert (seen.amax(1) / seen.amin(1)).mean().item() == pytest.approx(ratio, abs=5e-4)


def test_the_norm_of_our_gradient_is_that_of_the_difference_of_both_distributions():
    logits, label, mask = _random()
    norms = gradient_norms(logits, label, mask, temperature=2.0)
    powers = label**0.5
    apart = 2 * ((logits / 2).softmax(1) - powers / powers.sum(1, keepdim=True))  # T^2 / T (p - y)
    assert norms.soft == pytest.approx(apart.norm(dim=1).mean().item(), rel=1e-5)
    hard = logits.softmax(1) - soft_target(label.argmax(1), mask)
    assert norms.hard == pytest.approx(hard.norm(dim=1).mean().item(), rel=1e-5)
