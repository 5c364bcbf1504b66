"""Quick convolutions give what plain ones give, and are counted and saved alike."""

import pytest
import torch
from torch import nn

from vkdlab import cost
from vkdlab.delta.quick import QuickConv2d, quicken

ODD = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 1), "padding": (1, 0), "stride": (2, 1), "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4},
    {"kernel_size": 1},
]


@pytest.mark.parametrize("form", ODD)
@pytest.mark.parametrize("count", [1, 3])
def test_it_gives_what_the_plain_convolution_gives(form, count):
    plain = nn.Conv2d(8, 12, **form)
    x = torch.randn(count, 8, 9, 11).contiguous(memory_format=torch.channels_last)
    quick = nn.Sequential(nn.Conv2d(8, 12, **form))
    quick.load_state_dict({f"0.{name}": value for name, value in plain.state_dict().items()})
    quicken(quick)
    assert isinstance(quick[0], QuickConv2d)
    with torch.inference_mode():
        torch.testing.assert_close(quick(x), plain(x), rtol=1e-5, atol=1e-5)


def test_a_map_without_an_axis_of_the_batch_is_convolved_too():
    plain = nn.Conv2d(3, 4, 3)
    x = torch.randn(3, 7, 9)
    with torch.inference_mode():
        torch.testing.assert_close(QuickConv2d(plain)(x), plain(x))


def test_weights_are_shared_and_keep_their_names():
    plain = nn.Conv2d(3, 4, 3)
    quick = QuickConv2d(plain)
    assert quick.weight is plain.weight
    assert list(quick.state_dict()) == ["weight", "bias"]


def test_gradients_go_through_it():
    quick = QuickConv2d(nn.Conv2d(3, 4, 3))
    quick(torch.randn(1, 3, 5, 5)).sum().backward()
    assert quick.weight.grad.abs().sum() > 0


def test_other_numbers_than_float32_are_convolved_too():
    quick = QuickConv2d(nn.Conv2d(3, 4, 3)).double()
    with torch.inference_mode():
        assert quick(torch.randn(1, 3, 5, 5, dtype=torch.float64)).dtype == torch.float64


def test_its_cost_is_counted():
    plain = nn.Conv2d(4, 6, 3, padding=1, groups=2)
    frame = torch.zeros(1, 4, 8, 10)
    assert cost.macs(QuickConv2d(plain), frame) == cost.macs(plain, frame) == 8 * 10 * 6 * 2 * 9


def test_what_is_no_plain_convolution_is_left():
    class Own(nn.Conv2d):
        pass

    network = nn.Sequential(
        Own(3, 3, 1), nn.Conv2d(3, 3, 3, padding="same"), nn.Conv2d(3, 3, 3, padding_mode="reflect")
    )
    before = list(network)
    quicken(network)
    assert list(network) == before
