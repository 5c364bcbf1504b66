import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from vkdlab.delta import DeltaBlock, DeltaConv2d, svd_rank
from vkdlab.delta import spatial_svd as split
from vkdlab.delta.costs import Macs
from vkdlab.delta.layers import conv_macs, pair_macs


@pytest.mark.parametrize(
    ("c", "n", "gamma", "policy", "rank"),
    [
        (32, 64, 4, "out", 16),
        (32, 3, 4, "out", 3),
        (32, 4, 4, "out", 4),
        (32, 5, 4, "out", 1),
        (16, 64, 4, "min", 4),
        (4, 64, 4, "min", 1),
        (3, 64, 4, "min", 3),
        (64, 30, 16, "min", 1),
        (2, 64, 1, "out", 6),
    ],
)
def test_the_rank_follows_the_two_published_rules_and_never_exceeds_the_kernel(c, n, gamma, policy, rank):
    assert svd_rank(nn.Conv2d(c, n, 3), gamma=gamma, policy=policy) == rank


def test_a_rank_of_a_grouped_convolution_is_a_multiple_of_its_groups():
    assert svd_rank(nn.Conv2d(12, 18, 3, groups=3), gamma=4, policy="out") == 3
    assert svd_rank(nn.Conv2d(12, 12, 3, groups=6), gamma=8, policy="out") == 6


def test_a_gamma_below_one_and_an_unknown_policy_are_refused():
    with pytest.raises(ValueError, match=r"gamma must be at least 1, got 0\.5"):
        svd_rank(nn.Conv2d(4, 4, 3), gamma=0.5, policy="out")
    with pytest.raises(ValueError, match="gamma must be at least 1, got nan"):
        svd_rank(nn.Conv2d(4, 4, 3), gamma=float("nan"), policy="out")


def _composed(first, second):
    """The kernel of two convolutions one after the other, entry by entry."""
    n, r, _, w = second.shape
    c, h = first.shape[1:3]
    kernel = torch.zeros(n, c, h, w)
    for i in range(n):
        for j in range(c):
            for y in range(h):
                for x in range(w):
                    kernel[i, j, y, x] = sum(second[i, q, 0, x] * first[q, j, y, 0] for q in range(r))
    return kernel


def test_column_and_row_kernels_of_full_rank_compose_to_the_kernel():
    weight = torch.randn(5, 4, 3, 2)
    first, second = split(weight, 10)
    assert first.shape == (10, 4, 3, 1)
    assert second.shape == (5, 10, 1, 2)
    torch.testing.assert_close(_composed(first, second), weight, rtol=0, atol=1e-5)


def test_the_split_loses_what_the_smaller_singular_values_hold():
    weight = torch.randn(4, 3, 3, 3)
    matrix = torch.stack([weight[n, :, :, w].reshape(-1) for n in range(4) for w in range(3)], 1)
    values = torch.linalg.svdvals(matrix)
    for rank in range(1, 10):
        lost = (_composed(*split(weight, rank)) - weight).square().sum()
        assert lost.item() == pytest.approx(values[rank:].square().sum().item(), rel=1e-4, abs=1e-8)


def test_a_split_refuses_ranks_that_are_none_and_weights_that_are_not_finite():
    with pytest.raises(ValueError, match=r"ranks 1 to 9, not 10"):
        split(torch.randn(4, 3, 3, 3), 10)
    with pytest.raises(ValueError, match=r"ranks 1 to 9, not 0"):
        split(torch.randn(4, 3, 3, 3), 0)
    with pytest.raises(ValueError, match="not finite"):
        split(torch.full((4, 3, 3, 3), torch.nan), 1)


CONVS = {
    "plain": lambda: nn.Conv2d(6, 8, 3, padding=1),
    "stride": lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1),
    "uneven": lambda: nn.Conv2d(6, 8, (5, 3), stride=(1, 2), padding=(2, 0), dilation=(1, 2)),
    "dilated": lambda: nn.Conv2d(6, 8, 3, padding=2, dilation=2, bias=False),
    "same": lambda: nn.Conv2d(6, 8, 4, padding="same"),
    "valid": lambda: nn.Conv2d(6, 8, 3, padding="valid"),
    "reflect": lambda: nn.Conv2d(6, 8, 3, padding=2, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular"),
    "grouped": lambda: nn.Conv2d(6, 8, 3, padding=1, groups=2),
    "pointwise": lambda: nn.Conv2d(6, 8, 1),
}


# Even kernels padded to the same size make torch copy its input, of which it warns.
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", CONVS)
def test_a_small_student_of_full_rank_is_the_full_student_is_the_teacher(kind):
    conv = CONVS[kind]()
    groups, (h, w) = conv.groups, conv.kernel_size
    rank = min(6 // groups * h, 8 // groups * w) * groups
    layer = DeltaConv2d(conv, rank=rank)
    x_0, x = torch.randn(2, 2, 6, 13, 12)
    z_0, cache = layer.key(x_0)
    torch.testing.assert_close(z_0, conv(x_0), rtol=0, atol=0)
    assert layer.lost_energy() < 1e-10
    with torch.no_grad():
        for logit in (1.0, -1.0):
            layer.gate_logit.fill_(logit)
            torch.testing.assert_close(layer.delta(x, cache), conv(x), rtol=0, atol=1e-5)


def test_what_does_not_change_is_predicted_not_to_change_though_the_teacher_has_a_bias():
    conv = nn.Conv2d(6, 8, 3, padding=1)
    nn.init.constant_(conv.bias, 5.0)
    layer = DeltaConv2d(conv, rank=2)
    assert all(student.bias is None for student in (layer.full, *layer.small))
    x = torch.randn(1, 6, 9, 9)
    z_0, cache = layer.key(x)
    for logit in (1.0, -1.0):
        layer.gate_logit.data.fill_(logit)
        assert torch.equal(layer.delta(x.clone(), cache), z_0)


def test_the_branch_is_chosen_at_every_call_and_not_when_evaluation_begins():
    layer = DeltaConv2d(nn.Conv2d(6, 8, 3), rank=1).eval()
    x = torch.randn(1, 6, 9, 9)
    before = layer.change(x)
    with torch.no_grad():
        layer.gate_logit.fill_(1.0)
    after = layer.change(x)
    assert torch.equal(before, layer.small(x))
    assert torch.equal(after, layer.full(x))


def test_no_weight_is_held_twice():
    layer = DeltaConv2d(nn.Conv2d(6, 8, 3), rank=2).eval()
    layer.change(torch.randn(1, 6, 9, 9))
    names = ["gate_logit", "teacher.weight", "teacher.bias", "full.weight", "small.0.weight", "small.1.weight"]
    assert list(layer.state_dict()) == names


def test_the_gate_starts_closed():
    layer = DeltaConv2d(nn.Conv2d(6, 8, 3), rank=2)
    assert layer.gate_logit.item() == -1
    assert not layer.keeps_full


def test_a_layer_passes_for_the_convolution_that_it_replaces():
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1)
    layer = DeltaConv2d(conv, rank=2)
    assert layer.weight is conv.weight
    assert layer.bias is conv.bias
    assert (layer.in_channels, layer.out_channels, layer.stride) == (6, 8, (2, 2))
    with pytest.raises(AttributeError, match="colour"):
        _ = layer.colour


def test_a_layer_called_by_itself_says_what_to_call():
    layer = DeltaConv2d(nn.Conv2d(6, 8, 3), rank=2)
    with pytest.raises(RuntimeError, match=r"called by itself.*Call the DeltaNetwork"):
        layer(torch.randn(1, 6, 9, 9))


def test_a_rank_that_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="a multiple of the 2 groups, got 3"):
        DeltaConv2d(nn.Conv2d(6, 8, 3, groups=2), rank=3)


def test_multiply_accumulates_are_the_closed_form():
    layer = DeltaConv2d(nn.Conv2d(6, 8, (5, 3), stride=2, padding=(2, 1)), rank=2)
    x = torch.randn(1, 6, 12, 16)
    shapes = x.shape, layer.dense(x).shape
    full = 8 * 6 * 5 * 3 * 6 * 8
    column, row = 2 * 6 * 5 * 6 * 16, 8 * 2 * 3 * 6 * 8
    elementwise = 6 * 12 * 16 + 8 * 6 * 8
    assert layer.macs_of(*shapes) == Macs(full, full, full + elementwise, column + row + elementwise)
    narrow = 2 * 6 * 16 + 8 * 6 * 8
    assert layer.deployed_macs_of(*shapes) == Macs(full, full, full, column + row + narrow, narrow=column)
    layer.full.weight.data.mul_(2)
    assert layer.deployed_macs_of(*shapes).full == full + elementwise
    assert pair_macs(layer.teacher, 2) == pytest.approx((column + row) / full)


def test_multiply_accumulates_of_groups_count_what_each_group_sees():
    conv = nn.Conv2d(6, 8, 3, groups=2, padding=1)
    assert conv_macs(conv, conv(torch.zeros(1, 6, 5, 5)).shape) == 8 * 3 * 9 * 25


def test_gradients_reach_both_students_and_the_gate_by_a_mixture():
    layer = DeltaConv2d(nn.Conv2d(6, 8, 3), rank=2)
    gate = layer.gate_logit.sigmoid()
    x = torch.randn(1, 6, 9, 9)
    mixed = layer.change(x, gate=gate)
    torch.testing.assert_close(mixed, gate * layer.full(x) + (1 - gate) * layer.small(x))
    mixed.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (layer.full.weight, layer.small[0].weight, layer.gate_logit))
    assert layer.teacher.weight.grad is None


def _block():
    return nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1))


def test_a_block_that_was_not_trained_predicts_no_change():
    layer = DeltaBlock(_block(), in_channels=4, out_channels=6, stride=2, hidden=3)
    z_0, cache = layer.key(torch.randn(1, 4, 8, 8))
    assert torch.equal(layer.delta(torch.randn(1, 4, 8, 8), cache), z_0)


def test_a_block_whose_input_does_not_change_does_not_change_whatever_its_student_is():
    layer = DeltaBlock(_block(), in_channels=4, out_channels=6, stride=2, hidden=3)
    for parameter in layer.student.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 4, 8, 8)
    z_0, cache = layer.key(x)
    assert torch.equal(layer.delta(x.clone(), cache), z_0)
    assert not torch.equal(layer.delta(x + 1, cache), z_0)


def test_a_block_learns_a_change_that_depends_on_where_it_starts():
    """|x_t| - |x_0| is no function of x_t - x_0: a linear student cannot learn it."""
    layer = DeltaBlock(Magnitude(), in_channels=1, out_channels=1, hidden=16)
    optimiser = torch.optim.Adam(layer.student.parameters(), 1e-2)
    for _ in range(300):
        x_0, x = torch.randn(2, 8, 1, 6, 6)
        _, cache = layer.key(x_0)
        loss = functional.mse_loss(layer.delta(x, cache), x.abs())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    change = (x.abs() - x_0.abs()).square().mean()
    assert loss < 0.1 * change


class Magnitude(nn.Module):
    def forward(self, x):
        return x.abs()


def test_a_block_may_have_a_student_of_ones_own():
    student = nn.Conv2d(8, 6, 1)
    layer = DeltaBlock(copy.deepcopy(_block())[2:], in_channels=6, out_channels=6, hidden=1, student=student)
    assert layer.student is student
