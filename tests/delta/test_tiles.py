"""Still tiles: exact where the reach is, kept where nothing is felt, counted by their pixels, refused by name."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.delta.small_networks import UNet, randomise
from vkdlab import cost
from vkdlab.delta import convert
from vkdlab.delta.cuts import Box, rectangles
from vkdlab.delta.espnet import ESPNet, ESPNetConfig
from vkdlab.delta.layers import DeltaBlock
from vkdlab.delta.tasks import DETECTION, SEGMENTATION
from vkdlab.delta.tiles import StillTiles, receptive_reach


def moving(frames=7, *, size=(160, 192), patch=(7, 9)):
    """A still picture with a patch of noise that jumps; one frame is like the one before it."""
    shown = [torch.rand(1, 3, *size)]
    for i in range(1, frames):
        frame = shown[-1].clone()
        if i != 4:
            y, x = (37 * i) % (size[0] - patch[0]), (61 * i) % (size[1] - patch[1])
            frame[..., y : y + patch[0], x : x + patch[1]] = torch.rand(3, *patch)
        shown.append(frame)
    return shown


def networks():
    torch.manual_seed(0)
    return {
        "segmentation": SEGMENTATION.network(8, 5, multiples=(1, 2)),
        "detection": DETECTION.network(8, 5, multiples=(1, 2)),
        "unet": randomise(UNet()),
        "strided": nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(inplace=True), nn.ConvTranspose2d(8, 4, 4, 2, 1)
        ),
    }


class Shared(nn.Module):
    """One convolution, called twice, and a dictionary as answer."""

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.last = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 8), (8, 2)))

    def forward(self, x):
        x = self.conv(self.conv(self.first(x)).relu_())
        return {"maps": self.last(x), "features": (x,)}


def test_a_network_that_changes_its_frames_in_place_is_answered_for_alike():
    class Normalising(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)

        def forward(self, x):
            return self.last(self.first(x.sub_(0.5)))

    network, frames = Normalising().eval(), moving()
    kept = [frame.clone() for frame in frames]
    tiles = StillTiles(network, tile=8, threshold=0, reach=16)
    with torch.no_grad():
        for frame, output in zip(kept, tiles.stream(frames), strict=True):
            torch.testing.assert_close(output, network(frame.clone()), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(one, other) for one, other in zip(frames, kept, strict=True))


@pytest.mark.parametrize("name", ["segmentation", "detection", "unet", "strided"])
def test_with_the_whole_receptive_field_as_reach_nothing_is_left_out(name):
    network = networks()[name].eval()
    tiles = StillTiles(network, tile=8, threshold=0, reach=receptive_reach(network, tile=8))
    frames = moving()
    shares = []
    for frame, step in zip(frames, tiles.steps(frames), strict=True):
        torch.testing.assert_close(step.output, network(frame).detach(), rtol=1e-4, atol=1e-5)
        shares.append(step.share)
        assert step.key
    assert shares[0] == 1
    assert shares[4] == 0
    assert 0 < max(shares[1:]) < 0.5


@pytest.mark.parametrize("form", ["trained", "deployed", "blocks"])
def test_a_delta_network_answers_as_without_tiles(form):
    network = networks()["unet"]
    network = convert(network, blocks=("down2",)) if form == "blocks" else convert(network)
    for layer in network.layers.values():
        if isinstance(layer, DeltaBlock):
            nn.init.normal_(layer.student[-1].weight, std=0.05)
    network = network.deploy() if form == "deployed" else network
    reach = receptive_reach(network, tile=8) + 8  # beyond the teacher's, students of blocks look
    tiles = StillTiles(network, tile=8, threshold=0, reach=reach, period=3)
    frames = moving(9)
    keys = []
    for expected, step in zip(network.stream(frames, period=3), tiles.steps(frames), strict=True):
        torch.testing.assert_close(step.output, expected, rtol=1e-4, atol=1e-5)
        keys.append(step.key)
    assert keys == [True, False, False] * 3


def test_answers_in_dictionaries_and_shared_layers_are_kept_as_well():
    network = Shared().eval()
    tiles = StillTiles(network, tile=8, threshold=0, reach=16)
    frames = moving(4, size=(64, 80))
    for frame, step in zip(frames, tiles.steps(frames), strict=True):
        expected = network(frame)
        torch.testing.assert_close(step.output["maps"], expected["maps"].detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(step.output["features"][0], expected["features"][0].detach(), rtol=1e-4, atol=1e-5)


def test_a_short_reach_changes_nothing_where_nothing_is_felt():
    network = networks()["segmentation"].eval()
    reach = receptive_reach(network, tile=8)
    assert reach > 16
    first, later = moving(2)
    tiles = StillTiles(network, tile=8, threshold=0, reach=16)
    before, step = tiles.stream([first]), list(tiles.steps([first, later]))[1]
    before, now = next(before), network(later).detach()
    (box,) = step.boxes
    outside = torch.ones(now.shape, dtype=torch.bool)
    outside[box.of] = False
    assert torch.equal(step.output[outside], before[outside])
    unfelt = (now - network(first).detach()).abs() <= 1e-6
    torch.testing.assert_close(step.output[unfelt], now[unfelt], rtol=1e-3, atol=1e-4)
    assert (step.output - now).abs().max() < 0.2 * (before - now).abs().max()


def test_steps_leave_earlier_answers_and_the_frames_alone():
    network = networks()["unet"].eval()
    frames = moving(5)
    copies = [frame.clone() for frame in frames]
    shown = list(StillTiles(network, tile=8, threshold=0, reach=24).stream(frames))
    for frame, copy, output in zip(frames, copies, shown, strict=True):
        assert torch.equal(frame, copy)
        torch.testing.assert_close(output, network(frame).detach(), rtol=1e-4, atol=1e-4)
    assert not any(module._forward_hooks for module in network.modules())


def test_small_changes_add_up_until_they_are_seen():
    frames = [torch.full((1, 3, 64, 64), 0.5) for _ in range(8)]
    for i, frame in enumerate(frames):
        frame[..., 16:32, 16:32] += 0.01 * i
    tiles = StillTiles(nn.Conv2d(3, 2, 3, padding=1), threshold=0.025)
    changed = [step.changed.sum() for step in tiles.steps(frames)]
    assert changed == [16, 0, 0, 1, 0, 0, 1, 0]


def test_a_tile_changes_by_the_root_mean_square_of_its_pixels():
    before, after = torch.rand(2, 1, 3, 32, 48).unbind(0)
    after[..., :16, 16:32] = before[..., :16, 16:32]
    for threshold in (0.1, 0.4, 0.42):
        tiles = StillTiles(nn.Conv2d(3, 2, 1), threshold=threshold)
        step = list(tiles.steps([before, after]))[1]
        for row in range(2):
            for column in range(3):
                part = np.s_[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
                change = math.sqrt(((after[part] - before[part]) ** 2).mean().item())
                assert step.changed[row, column] == (change > threshold)


def test_a_new_picture_is_computed_as_a_whole():
    network = networks()["segmentation"].eval()
    frames = [torch.rand(1, 3, 64, 80) for _ in range(2)]
    steps = list(StillTiles(network).steps(frames))
    assert steps[1].boxes == (Box(0, 64, 0, 80),)
    assert torch.equal(steps[1].output, network(frames[1]).detach())


def test_multiply_accumulates_are_those_of_the_parts_that_ran():
    network = networks()["segmentation"].eval()
    tiles = StillTiles(network, tile=8, threshold=0)
    step = list(tiles.steps(moving(2)))[1]
    (box,) = step.boxes
    assert step.share == box.area / (160 * 192)
    part = torch.zeros(1, 3, box.bottom - box.top, box.right - box.left)
    assert tiles.macs(step) == pytest.approx(cost.macs(network, part))
    delta = convert(network).deploy()
    tiles = StillTiles(delta, tile=8, threshold=0, period=2)
    costs = delta.costs((3, 160, 192))
    key, later = list(tiles.steps(moving(2)))
    assert tiles.macs(key) == costs.key
    assert tiles.macs(later) == pytest.approx(later.share * costs.delta(()))


def test_rectangles_hold_every_changed_tile_and_all_around_it():
    rng = np.random.default_rng(0)
    for _ in range(50):
        changed = rng.random((rng.integers(1, 12), rng.integers(1, 16))) < rng.choice([0.02, 0.1, 0.5])
        grow = int(rng.integers(1, 3))
        boxes = rectangles(changed, tile=4, grow=grow)
        rows, columns = changed.shape
        held = np.zeros((4 * rows, 4 * columns), bool)
        for box in boxes:
            assert 0 <= box.top < box.bottom <= 4 * rows
            assert 0 <= box.left < box.right <= 4 * columns
            held[box.of] = True
        for row, column in np.argwhere(changed):
            near = np.s_[
                4 * max(row - grow, 0) : 4 * (row + grow + 1), 4 * max(column - grow, 0) : 4 * (column + grow + 1)
            ]
            assert held[near].all()
        assert bool(boxes) == changed.any()


def test_changes_far_apart_are_two_rectangles_and_near_ones_are_one():
    changed = np.zeros((40, 40), bool)
    changed[2, 2] = changed[37, 36] = True
    assert len(rectangles(changed, tile=16, grow=1)) == 2
    changed[:] = False
    changed[2, 2] = changed[2, 4] = True
    assert rectangles(changed, tile=16, grow=1) == [Box(16, 64, 16, 96)]


def test_the_more_a_call_costs_the_fewer_rectangles_there_are():
    changed = np.zeros((40, 40), bool)
    changed[2, 2] = changed[37, 36] = True
    counts = [len(rectangles(changed, tile=16, grow=1, call_pixels=pixels)) for pixels in (0, 16 * 16 * 1000, 10**6)]
    assert counts == [2, 2, 1]


def test_the_receptive_field_is_that_of_the_formula():
    def plain(*kernels):
        layers = [nn.Conv2d(3 if i == 0 else 4, 4, k, padding=k // 2) for i, k in enumerate(kernels)]
        return nn.Sequential(*layers)

    for kernels in ((1,), (3,), (3, 5), (3, 3, 7)):
        radius = sum(k // 2 for k in kernels)
        rim = max(2, sum(k // 2 for k in kernels[:-1]) + 2 * (kernels[-1] // 2) - radius)
        assert receptive_reach(plain(*kernels), tile=8) == radius + rim


class Pooled(nn.Module):
    """Every place depends on the whole frame."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(x * x.mean((2, 3), keepdim=True))


class Squeezed(Pooled):
    """As above, with a convolution of one place."""

    def forward(self, x):
        x = self.first(x)
        return self.last(functional.adaptive_avg_pool2d(x, 1))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Pooled(), "the layer 'last' gives other values to a part of the frame than to the whole"),
        (Squeezed(), "a map of 1x1 cells has none where a tile ends"),
        (nn.Conv2d(3, 2, 3), "a map of 62x94 cells has none where a tile ends"),
        (nn.Conv2d(3, 2, 41, padding=20), r"looks 20 pixels far, further than the reach of 16: .*reach=20\)"),
        (nn.Sequential(nn.Conv2d(3, 2, 32, stride=32), nn.Conv2d(2, 2, 1)), "need larger tiles"),
        (ESPNet(ESPNetConfig(classes=5)), r"looks 128 pixels far, further than the reach of 16"),
    ],
    ids=["pooled", "squeezed", "unpadded", "far", "coarse", "dilated"],
)
def test_a_network_that_cannot_run_on_parts_of_a_frame_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        list(StillTiles(network.eval()).stream([torch.rand(1, 3, 64, 96)]))


def test_a_network_that_looks_at_all_has_no_receptive_field():
    with pytest.raises(ValueError, match="depends on all that is 512 pixels around, or on all"):
        receptive_reach(Pooled(), tile=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile": 0}, "tile and reach are at least 1 pixel"),
        ({"reach": 0}, "tile and reach are at least 1 pixel"),
        ({"threshold": -0.1}, "threshold=-0.1"),
        ({"threshold": math.nan}, "threshold=nan"),
        ({"period": 0}, "a period is a whole number of frames, at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        StillTiles(nn.Conv2d(3, 2, 1), **changes)


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(ValueError, match="ReLU has no convolution whose answer could be kept"):
        StillTiles(nn.ReLU())


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (
            [torch.rand(1, 3, 64, 72)],
            r"frame 0 of the stream: .*multiples of the tile's 16 pixels, got \(1, 3, 64, 72\)",
        ),
        ([torch.rand(2, 3, 64, 64)], "frame 0 of the stream: expected one frame"),
        ([torch.rand(1, 1, 64, 64)], "a grey frame"),
        (
            [torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 80)],
            "frame 1 of the stream: the frames before were of shape",
        ),
        ([torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64).double()], "frame 1 .*torch.float64"),
    ],
)
def test_frames_that_do_not_fit_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        list(StillTiles(nn.Conv2d(3, 2, 1)).stream(frames))


def test_a_video_without_frames_has_no_answers():
    assert list(StillTiles(nn.Conv2d(3, 2, 1)).stream([])) == []
