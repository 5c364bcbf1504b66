import dataclasses
import math

import pytest
import torch

from vkdlab.data.grounding import GroundingBatch
from vkdlab.emtm.map_teacher import (
    MapConfig,
    MapNetwork,
    choice_loss,
    iou_target,
    overlap_loss,
    pool_clips,
    valid_cells,
)
from vkdlab.emtm.outputs import MapOutput
from vkdlab.emtm.teacher import GroundingTeacher

CONFIG = MapConfig(video_dim=10, query_dim=6, dim=16, heads=4, max_clips=12, max_words=7, map_dim=8)
COARSE = dataclasses.replace(CONFIG, map_clips=5)


def _inputs(clips=(12, 7, 1), words=(7, 2, 1)):
    video, query = torch.randn(len(clips), max(clips), 10), torch.randn(len(words), max(words), 6)
    return (
        video,
        torch.arange(max(clips)) < torch.tensor(clips)[:, None],
        query,
        torch.arange(max(words)) < torch.tensor(words)[:, None],
    )


def _batch(inputs, moment_s=None):
    video, video_mask, query, query_mask = inputs
    duration_s = video_mask.sum(1) * 0.5
    moment_s = torch.stack([duration_s * 0.3, duration_s * 0.8], 1) if moment_s is None else moment_s
    return GroundingBatch(
        video, video_mask, query, query_mask, duration_s, moment_s, [str(i) for i in range(len(video))]
    )


def _map(values, lengths):
    values = torch.as_tensor(values)
    return MapOutput(logits=values, mask=torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None])


@pytest.fixture(params=[CONFIG, COARSE], ids=["fine", "coarse"])
def network(request):
    return MapNetwork(request.param).eval()


def test_pairs_in_order_on_real_clips_have_a_score_and_all_others_none(network):
    output = network(*_inputs())
    longest = min(12, network.config.map_clips)
    assert output.mask.sum(1).tolist() == [longest, min(7, longest), 1]
    for row, count in enumerate(output.mask.sum(1).tolist()):
        for first in range(longest):
            for last in range(longest):
                assert torch.isfinite(output.logits[row, first, last]) == (first <= last < count)
    assert (output.logits[~valid_cells(output.mask)] == -torch.inf).all()


def test_what_stands_in_the_padding_has_no_influence(network):
    video, video_mask, query, query_mask = _inputs()
    before = network(video, video_mask, query, query_mask)
    noisy_video = torch.where(video_mask[..., None], video, 1e3)
    noisy_query = torch.where(query_mask[..., None], query, -1e3)
    after = network(noisy_video, video_mask, noisy_query, query_mask)
    torch.testing.assert_close(after.logits, before.logits)


@pytest.mark.parametrize(("row", "clips", "words"), [(0, 12, 7), (1, 7, 2), (2, 1, 1)])
def test_a_sample_gets_the_same_answer_alone_as_in_a_padded_batch(network, row, clips, words):
    video, video_mask, query, query_mask = inputs = _inputs()
    together = network(*inputs)
    alone_inputs = (
        video[row : row + 1, :clips],
        video_mask[row : row + 1, :clips],
        query[row : row + 1, :words],
        query_mask[row : row + 1, :words],
    )
    alone = network(*alone_inputs)
    length = alone.logits.shape[1]
    torch.testing.assert_close(alone.logits[0], together.logits[row, :length, :length], rtol=1e-4, atol=1e-5)
    expected, _ = network.moments(together, _batch(inputs), k=3)
    moments, _ = network.moments(alone, _batch(alone_inputs), k=3)
    torch.testing.assert_close(moments[0], expected[row], rtol=1e-4, atol=1e-4)


def test_the_answer_depends_on_the_query(network):
    video, video_mask, query, query_mask = _inputs()
    before = network(video, video_mask, query, query_mask).logits
    after = network(video, video_mask, query.flip(0), query_mask).logits
    assert not torch.allclose(before[0], after[0])


@pytest.mark.parametrize("config", [CONFIG, COARSE], ids=["fine", "coarse"])
def test_every_weight_gets_a_gradient(config):
    network = MapNetwork(dataclasses.replace(config, dropout=0.0, map_layers=2))
    inputs = _inputs()
    network.loss(network(*inputs), _batch(inputs))["total"].backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A bias added to every key shifts all scores of a row alike: softmax cannot see it.
    assert [name for name in without if not name.endswith("key.bias")] == []
    assert all(torch.isfinite(weight.grad).all() for weight in network.parameters() if weight.grad is not None)


def test_a_cell_sees_its_ends_and_the_mean_of_what_lies_between():
    network = MapNetwork(dataclasses.replace(CONFIG, map_layers=0)).eval()
    seen = {}
    network.parts.register_forward_hook(lambda module, given, parts: seen.update(parts=parts))
    output = network(*_inputs())
    start, end, between = seen["parts"].chunk(3, dim=2)
    for row, first, last in ((0, 0, 11), (0, 4, 4), (1, 2, 6), (2, 0, 0)):
        cell = (start[row, first] + end[row, last] + between[row, first : last + 1].mean(0)).relu()
        torch.testing.assert_close(output.logits[row, first, last], network.score(network.norm_out(cell))[0])


def test_pooled_clips_are_the_means_of_equal_parts_of_each_video():
    clips, mask = torch.randn(3, 9, 4, dtype=torch.float64).float(), torch.arange(9) < torch.tensor([[9], [7], [3]])
    bins, kept = pool_clips(clips, mask, longest=6)
    assert kept.sum(1).tolist() == [6, 6, 3]
    for row, (valid, parts) in enumerate(((9, 6), (7, 6), (3, 3))):
        fine = clips[row, :valid].repeat_interleave(parts, dim=0)  # valid * parts steps: a part is `valid` of them
        expected = torch.stack([fine[part * valid : (part + 1) * valid].mean(0) for part in range(parts)])
        torch.testing.assert_close(bins[row, :parts], expected)
        assert (bins[row, parts:] == 0).all()


def _slow_target(start, end, count):
    def overlap(first, last):
        a, b = first / count, (last + 1) / count
        both = max(0.0, min(b, end) - max(a, start))
        return both / (b - a + end - start - both)

    cells = {(first, last): overlap(first, last) for first in range(count) for last in range(first, count)}
    best = max(cells.values())
    return {cell: max(0.0, (iou / best - 0.5) / 0.5) for cell, iou in cells.items()}


@pytest.mark.parametrize("share", [(0.0, 1.0), (0.21, 0.64), (0.5, 0.52), (0.9, 1.0), (0.333, 0.666)])
def test_the_target_is_the_scaled_overlap_worked_out_pair_by_pair(share):
    lengths = (8, 5, 1)
    mask = torch.arange(8) < torch.tensor(lengths)[:, None]
    target = iou_target(torch.tensor([share]).repeat(3, 1), mask)
    for row, count in enumerate(lengths):
        slow = _slow_target(*share, count)
        for first in range(8):
            for last in range(8):
                expected = slow.get((first, last), 0.0)
                assert target[row, first, last].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("at", [0.0, 0.25, 0.6, 1.0])
def test_a_moment_of_no_length_has_the_cell_that_holds_it(at):
    target = iou_target(torch.tensor([[at, at]]), torch.ones(1, 4, dtype=torch.bool))
    clip = min(int(at * 4), 3)
    assert target.amax() == 1
    assert target[0, clip, clip] == 1


def test_losses_are_those_worked_out_by_hand():
    logits = torch.tensor([[[0.5, -1.0], [9.0, 2.0]], [[1.5, 9.0], [9.0, 9.0]]])
    output = _map(logits, [2, 1])
    target = torch.tensor([[[1.0, 0.5], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])

    def cross_entropy(logit, wanted):
        p = 1 / (1 + math.exp(-logit))
        return -wanted * math.log(p) - (1 - wanted) * math.log(1 - p)

    first = (cross_entropy(0.5, 1.0) + cross_entropy(-1.0, 0.5) + cross_entropy(2.0, 0.0)) / 1.5
    assert overlap_loss(output, target).item() == pytest.approx((first + cross_entropy(1.5, 1.0)) / 2, rel=1e-5)

    masked = MapOutput(logits=logits.masked_fill(~valid_cells(output.mask), -torch.inf), mask=output.mask)
    total = math.log(math.exp(1.5) + math.exp(-3.0) + math.exp(6.0))  # three times the logits
    by_hand = -(1.0 * (1.5 - total) + 0.5 * (-3.0 - total)) / 1.5
    assert choice_loss(masked, target).item() == pytest.approx(by_hand / 2, rel=1e-5)  # one cell is no choice
    assert overlap_loss(masked, target) == overlap_loss(output, target)


def test_pairs_in_the_wrong_order_and_padding_never_win():
    logits = torch.full((1, 4, 4), 9.0)
    logits[0, 1, 2], logits[0, 0, 0] = -5.0, -6.0
    for first, last in ((0, 1), (0, 2), (1, 1), (2, 2)):
        logits[0, first, last] = -8.0
    inputs = _inputs(clips=(3,), words=(2,))
    moments, scores = MapNetwork(CONFIG).moments(_map(logits, [3]), _batch(inputs), k=3)
    assert moments[0, :2].tolist() == [[0.5, 1.5], [0.0, 0.5]]
    assert scores[0, 0].item() == pytest.approx(1 / (1 + math.exp(5)), rel=1e-4)


def test_kept_moments_come_best_first_and_lie_apart(network):
    inputs = _inputs()
    moments, scores = network.moments(network(*inputs), _batch(inputs), k=4)
    assert moments.shape == (3, 4, 2)
    assert (scores.diff(dim=1) <= 0).all()
    assert (moments[..., 0] < moments[..., 1]).all()
    assert (moments[..., 1] <= _batch(inputs).duration_s[:, None] + 1e-5).all()
    for i in range(4):
        for j in range(i):
            low, high = torch.maximum(*moments[0, [i, j], 0]), torch.minimum(*moments[0, [i, j], 1])
            hull = torch.maximum(*moments[0, [i, j], 1]) - torch.minimum(*moments[0, [i, j], 0])
            assert scores[0, i] == 0 or (high - low).clamp(min=0) / hull < 0.5


def test_a_video_of_one_clip_is_one_moment_and_has_a_loss(network):
    inputs = _inputs(clips=(1,), words=(1,))
    batch = _batch(inputs)
    output = network(*inputs)
    moments, scores = network.moments(output, batch, k=5)
    assert moments[0].tolist() == [[0.0, 0.5]] * 5
    assert (scores[0, 1:] == 0).all()
    losses = network.loss(output, batch)
    assert torch.isfinite(losses["total"])
    assert losses["choice"] == losses["guidance"] == 0  # there is nothing to choose
    assert losses["total"] == losses["overlap"]


def test_a_map_coarser_than_the_video_says_its_moments_in_seconds_of_the_video():
    logits = torch.full((1, 5, 5), -9.0)
    logits[0, 1, 3] = 3.0
    inputs = _inputs(clips=(12,), words=(3,))
    moments, _ = MapNetwork(COARSE).moments(_map(logits, [5]), _batch(inputs), k=1)
    torch.testing.assert_close(moments, torch.tensor([[[1.2, 4.8]]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dual_layers": -1}, "MapConfig.dual_layers must be at least 0, got -1"),
        ({"map_clips": 0}, "MapConfig.map_clips must be at least 1, got 0"),
        ({"map_dim": 0}, "MapConfig.map_dim must be at least 1, got 0"),
        ({"map_layers": -2}, "MapConfig.map_layers must be at least 0, got -2"),
        ({"dim": 15}, "MapConfig.dim must be a multiple of heads"),
        ({"dropout": 1.0}, "MapConfig.dropout must be from 0 to below 1"),
    ],
)
def test_sizes_that_make_no_network_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v, vm, q, qm: (v[..., :9], vm, q, qm), "video features have 9 numbers a step, this network takes 10"),
        (lambda v, vm, q, qm: (v.repeat(1, 2, 1), vm.repeat(1, 2), q, qm), "video has 24 steps.*positions for 12"),
        (lambda v, vm, q, qm: (v, vm, q, qm & (torch.arange(3) != 2)[:, None]), "query of sample 2.*all padding"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(network, spoil, message):
    with pytest.raises(ValueError, match=message):
        network(*spoil(*_inputs()))


@pytest.mark.parametrize("map_clips", [10, 8])
def test_a_teacher_learns_to_find_what_the_query_names(map_clips):
    generator = torch.Generator().manual_seed(1)
    size, clips = 24, 10
    which = torch.arange(size) % 2
    starts = torch.stack([torch.randperm(clips - 2, generator=generator)[:2] for _ in range(size)])
    video = torch.zeros(size, clips, 2)
    for row in range(size):
        for mark in range(2):
            video[row, starts[row, mark] : starts[row, mark] + 3, mark] = 1.0
    start = starts[torch.arange(size), which].float() * 0.5
    query = torch.nn.functional.one_hot(which, 2).float()[:, None].repeat(1, 3, 1)
    masks = torch.ones(size, clips, dtype=torch.bool), torch.ones(size, 3, dtype=torch.bool)
    batch = _batch((video, masks[0], query, masks[1]), moment_s=torch.stack([start, start + 1.5], 1))
    config = MapConfig(
        video_dim=2, query_dim=2, dim=32, heads=4, max_clips=10, max_words=3, dropout=0.0, map_clips=map_clips
    )
    teacher = GroundingTeacher(MapNetwork(config))
    optimiser = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    before = teacher.evaluate(batch)["mIoU"].value
    for _ in range(100):
        optimiser.zero_grad()
        teacher.loss(batch)["total"].backward()
        optimiser.step()
    after = teacher.eval().evaluate(batch)
    assert before < 0.6
    assert after["R1@0.5"].value > 0.9
    assert after["mIoU"].value > (0.9 if map_clips == clips else 0.7)
