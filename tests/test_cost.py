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
