import time

import pytest
import torch
from torch import nn

from vkdlab.cost import latency, macs, parameters


def test_parameters_are_counted_once_and_frozen_ones_on_request():
    first, second = nn.Linear(4, 3), nn.Linear(4, 3)
    second.weight = first.weight
    module = nn.Sequential(first, nn.BatchNorm1d(3), second)
    first.bias.requires_grad_(False)
    assert parameters(module) == 12 + 3 + 3 + 6
    assert parameters(module, trainable_only=True) == 12 + 3 + 6
    assert parameters(nn.ReLU()) == 0


def test_multiply_accumulates_equal_the_textbook_formulas():
    assert macs(nn.Linear(128, 64), torch.rand(5, 128)) == 5 * 128 * 64
    convolution = nn.Conv2d(8, 16, 3, padding=1, stride=2)
    assert macs(convolution, torch.rand(2, 8, 32, 32)) == 2 * 16 * 16 * 16 * 8 * 9
    depthwise = nn.Conv1d(128, 128, 7, padding=3, groups=128)
    assert macs(depthwise, torch.rand(1, 128, 64)) == 64 * 128 * 7
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    x = torch.rand(1, 10, 32)
    assert macs(lambda x: attention(x, x, x), x) == 4 * 10 * 32 * 32 + 2 * 10 * 10 * 32
    assert macs(nn.ReLU(), x) == 0


@pytest.mark.parametrize(("queries", "keys"), [(10, 7), (1, 1), (64, 64)])
def test_fused_attention_is_counted_as_its_two_products(queries, keys):
    q, k = torch.rand(2, 4, queries, 8), torch.rand(2, 4, keys, 8)
    expected = 2 * (2 * 4 * queries * keys * 8)
    attention = nn.functional.scaled_dot_product_attention
    assert macs(attention, q, k, k) == expected
    mask = torch.ones(2, 1, 1, keys, dtype=torch.bool)
    assert macs(attention, q, k, k, mask) == expected
    assert macs(attention, q.bfloat16(), k.bfloat16(), k.bfloat16()) == expected
    assert macs(attention, q.clone().requires_grad_(), k, k) == expected


@pytest.mark.parametrize("training", [True, False])
def test_torchs_own_attention_modules_are_counted_in_either_mode(training):
    n, d, hidden, x = 10, 32, 64, torch.rand(1, 10, 32)
    products = 4 * n * d * d + 2 * n * n * d
    attention = nn.MultiheadAttention(d, 4, batch_first=True).train(training)
    for need_weights in (True, False):
        assert macs(lambda x, need=need_weights: attention(x, x, x, need_weights=need), x) == products
    layer = nn.TransformerEncoderLayer(d, 4, hidden, batch_first=True).train(training)
    assert macs(layer, x) == products + 2 * n * d * hidden
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()


def test_counting_leaves_the_module_as_it_was():
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    mean = module[1].running_mean.clone()
    macs(module, torch.rand(8, 4) + 5)
    assert module.training
    assert torch.equal(module[1].running_mean, mean)
    assert module[0].weight.grad is None


def test_latency_is_measured_in_turns():
    calls = []
    found = latency({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=1)
    assert "".join(calls) == "abbaabba"
    assert len(found["a"].times_s) == 3


def test_latency_tells_a_slow_function_from_a_fast_one_and_waiting_from_computing():
    found = latency({"slow": lambda: time.sleep(0.02), "fast": lambda: None}, repeats=5)
    assert 0.02 <= found["slow"].low_s <= found["slow"].median_s <= found["slow"].high_s < 0.2
    assert found["fast"].median_s < 0.002
    assert found["slow"].cpu_median_s < 0.01
    single = latency({"one": lambda: None}, repeats=1, warmup=0)["one"]
    assert single.low_s == single.median_s == single.high_s


def test_timing_nothing_is_refused():
    with pytest.raises(ValueError, match="given 0 functions"):
        latency({})
    with pytest.raises(ValueError, match="0 repeats"):
        latency({"a": lambda: None}, repeats=0)
