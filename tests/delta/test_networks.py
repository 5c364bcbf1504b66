"""The U-Net: its sizes, its cost, what it refuses, and that it learns."""

import pytest
import torch
from torch.nn import functional

from vkdlab import cost
from vkdlab.delta import convert
from vkdlab.delta.networks import SegmentationConfig, SegmentationNetwork, check_size, segmentation_loss


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("multiples", [(1,), (1, 2), (1, 2, 4)])
def test_logits_have_the_size_of_the_frame(stride, multiples):
    config = SegmentationConfig(5, width=4, multiples=multiples, stride=stride)
    network = SegmentationNetwork(config)
    side = config.multiple
    assert config.multiple == stride * 2 ** (len(multiples) - 1)
    for size in ((side, side), (3 * side, 2 * side)):
        assert network(torch.rand(2, 3, *size)).shape == (2, 5, *size)


def test_multiply_accumulates_are_those_of_its_convolutions():
    """Counted by hand at 16x16: the stem at 8x8, two levels, one way up, the head."""
    network = SegmentationNetwork(SegmentationConfig(5, width=4, multiples=(1, 2)))
    half, quarter = 64, 16
    by_hand = half * 9 * (3 * 4 + 4 * 4 + 4 * 4) + quarter * 9 * (4 * 8 + 8 * 8)
    by_hand += half * 9 * (12 * 4 + 4 * 4) + half * 4 * 5
    assert cost.macs(network, torch.rand(1, 3, 16, 16)) == by_hand


def test_a_frame_of_another_size_is_refused_with_one_that_would_do():
    network = SegmentationNetwork(SegmentationConfig(2, width=2, multiples=(1, 1, 1)))
    with pytest.raises(ValueError, match=r"multiples of 8, got 30 and 40: bring frames to another size, 32 and 40"):
        network(torch.rand(1, 3, 30, 40))
    with pytest.raises(ValueError, match="got 0 and 8"):
        check_size(torch.rand(1, 3, 0, 8), 8)


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="classes must be at least 2, got 1"):
        SegmentationConfig(1)
    with pytest.raises(ValueError, match="width and multiples must be at least 1"):
        SegmentationConfig(2, width=0)
    with pytest.raises(ValueError, match="width and multiples must be at least 1"):
        SegmentationConfig(2, multiples=())
    with pytest.raises(ValueError, match="stride is 1 or 2, got 4"):
        SegmentationConfig(2, stride=4)


def test_it_can_be_traced_so_that_its_batch_norms_fold():
    network = SegmentationNetwork(SegmentationConfig(3, width=4, multiples=(1, 2))).eval()
    converted = convert(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in converted.modules())
    frame = torch.rand(1, 3, 16, 24)
    torch.testing.assert_close(converted(frame)[0], network(frame), rtol=1e-4, atol=1e-5)


def test_the_loss_is_cross_entropy_over_the_pixels_that_count():
    logits, labels = torch.randn(2, 4, 3, 5), torch.randint(0, 4, (2, 3, 5))
    labels[0, 1] = 255
    counted = labels != 255
    expected = functional.cross_entropy(logits.movedim(1, -1)[counted], labels[counted])
    torch.testing.assert_close(segmentation_loss(logits, labels), expected)
    nothing = segmentation_loss(logits.requires_grad_(), torch.full((2, 3, 5), 255))
    assert nothing.item() == 0
    nothing.backward()
    assert not logits.grad.any()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_coarse_place_answers_for_all_pixels_that_it_covers(step):
    logits, labels = torch.randn(2, 4, 3, 5), torch.randint(0, 4, (2, 3 * step, 5 * step))
    labels[:, 1] = 255
    spread = logits.repeat_interleave(step, 2).repeat_interleave(step, 3)
    torch.testing.assert_close(
        segmentation_loss(logits, labels), functional.cross_entropy(spread, labels, ignore_index=255)
    )


def test_labels_of_another_size_are_refused():
    for size in ((4, 5), (6, 5), (1, 2)):
        with pytest.raises(ValueError, match=r"do not fit logits of \(3, 5\)"):
            segmentation_loss(torch.randn(1, 2, 3, 5), torch.zeros(1, *size, dtype=torch.long))


def test_logits_are_the_coarse_ones_made_larger():
    network = SegmentationNetwork(SegmentationConfig(3, width=4, multiples=(1, 2))).eval()
    frame = torch.rand(1, 3, 16, 24)
    coarse = network.coarse(frame)
    assert coarse.shape == (1, 3, 8, 12)
    larger = functional.interpolate(coarse, size=(16, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(network(frame), larger)


def test_it_learns_where_a_bright_square_is():
    network = SegmentationNetwork(SegmentationConfig(2, width=8, multiples=(1, 2)))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)

    def batch(count):
        frames, labels = torch.rand(count, 3, 16, 16) * 0.3, torch.zeros(count, 16, 16, dtype=torch.long)
        for i, (y, x) in enumerate(torch.randint(0, 10, (count, 2)).tolist()):
            frames[i, :, y : y + 6, x : x + 6] += 0.5
            labels[i, y : y + 6, x : x + 6] = 1
        return frames, labels

    for _ in range(40):
        frames, labels = batch(8)
        optimiser.zero_grad()
        segmentation_loss(network.coarse(frames), labels).backward()
        optimiser.step()
    network.eval()
    frames, labels = batch(16)
    assert (network(frames).argmax(1) == labels).float().mean() > 0.97
