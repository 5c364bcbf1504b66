import dataclasses
import math

import pytest
import torch

from vkdlab.data.grounding import GroundingBatch
from vkdlab.emtm import GroundingTeacher
from vkdlab.emtm.proposal_teacher import (
    ProposalConfig,
    ProposalNetwork,
    clips_inside,
    confidence_loss,
    distance_loss,
    guidance_loss,
    moments_around,
)

CONFIG = ProposalConfig(video_dim=10, query_dim=6, dim=16, heads=4, max_clips=12, max_words=7, proposals=4)


def _inputs(clips=(12, 5, 1), words=(7, 2, 1)):
    video, query = torch.randn(len(clips), max(clips), 10), torch.randn(len(words), max(words), 6)
    return video, _mask(clips), query, _mask(words)


def _mask(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def _batch(inputs, moment_s=((1.0, 4.0), (0.0, 3.0), (2.0, 2.5)), duration_s=(12.0, 5.0, 3.0)):
    video, video_mask, query, query_mask = inputs
    ids = [str(row) for row in range(len(video))]
    return GroundingBatch(video, video_mask, query, query_mask, torch.tensor(duration_s), torch.tensor(moment_s), ids)


@pytest.fixture
def network():
    return ProposalNetwork(CONFIG).eval()


def test_proposals_lie_in_the_video_and_come_best_first(network):
    output = network(*_inputs(clips=(12, 5, 6)))
    assert output.moments.shape == (3, 4, 2)
    assert output.logits.shape == (3, 4)
    start, end = output.moments.unbind(-1)
    assert (start >= 0).all()
    assert (start <= end).all()
    assert (end <= 1).all()
    assert (output.logits.diff(dim=1) <= 0).all()


def test_however_wild_the_distances_a_proposal_lies_in_the_video():
    distances = torch.tensor([[[1e30, 1e30], [-1e30, -1e30], [1e30, -1e30], [0.0, 0.0]]], requires_grad=True)
    moments = moments_around(distances, torch.ones(1, 4, dtype=torch.bool))
    assert moments.tolist() == [[[0, 1], [0.375, 0.375], [0, 0.625], [0.625, 1]]]
    moments.sum().backward()
    assert torch.isfinite(distances.grad).all()


def test_distances_are_counted_in_clips_from_the_centre_of_each_and_padding_proposes_nothing():
    distances = torch.tensor([[[0.5, 1.0], [1.5, 0.25], [1.0, 1.0], [3.0, 3.0]]])
    moments = moments_around(distances.log(), torch.tensor([[True, True, True, False]]))
    expected = [[0, 1.5 / 3], [0, 1.75 / 3], [1.5 / 3, 1], [0, 0]]
    torch.testing.assert_close(moments[0], torch.tensor(expected))


@pytest.mark.parametrize(("clips", "words"), [((1,), (7,)), ((12,), (1,)), ((1,), (1,)), ((3, 1, 2), (1, 2, 3))])
def test_a_video_with_fewer_clips_than_proposals_has_fewer_that_count(network, clips, words):
    inputs = _inputs(clips=clips, words=words)
    output = network(*inputs)
    assert output.moments.shape == (len(clips), 4, 2)
    assert torch.isfinite(output.logits).sum(1).tolist() == [min(count, 4) for count in clips]
    assert (output.moments[output.logits == -torch.inf] == 0).all()
    batch = _batch(inputs, moment_s=[(0.5, 1.5)] * len(clips), duration_s=[6.0] * len(clips))
    losses = network.loss(output, batch)
    assert torch.isfinite(losses["total"])
    moments_s, scores = network.moments(output, batch, k=5)
    assert moments_s.shape == (len(clips), 5, 2)
    assert (scores[:, 0] > 0).all()
    for row, count in enumerate(clips):
        assert (scores[row, min(count, 4) :] == 0).all()
        assert (moments_s[row, min(count, 4) :] == moments_s[row, min(count, 4) - 1]).all()


def test_what_stands_in_the_padding_has_no_influence(network):
    video, video_mask, query, query_mask = _inputs()
    noisy_video = torch.where(video_mask[..., None], video, 1e3)
    noisy_query = torch.where(query_mask[..., None], query, -1e3)
    before = network(video, video_mask, query, query_mask)
    after = network(noisy_video, video_mask, noisy_query, query_mask)
    for field in dataclasses.fields(before):
        torch.testing.assert_close(getattr(after, field.name), getattr(before, field.name))


def test_a_sample_gets_the_same_answer_and_loss_alone_as_in_a_padded_batch(network):
    inputs = _inputs()
    together, batch = network(*inputs), _batch(inputs)
    losses = []
    for row, (clips, words) in enumerate(zip((12, 5, 1), (7, 2, 1), strict=True)):
        video, video_mask, query, query_mask = (part[row : row + 1] for part in inputs)
        alone_inputs = video[:, :clips], video_mask[:, :clips], query[:, :words], query_mask[:, :words]
        alone = network(*alone_inputs)
        torch.testing.assert_close(alone.moments[0], together.moments[row], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.logits[0], together.logits[row], rtol=1e-4, atol=1e-5)
        one = _batch(alone_inputs, batch.moment_s[row : row + 1].tolist(), batch.duration_s[row : row + 1].tolist())
        losses.append(network.loss(alone, one)["total"])
    torch.testing.assert_close(torch.stack(losses).mean(), network.loss(together, batch)["total"])


def test_the_answer_depends_on_the_query(network):
    video, video_mask, query, query_mask = _inputs()
    before = network(video, video_mask, query, query_mask)
    after = network(video, video_mask, query.flip(0), query_mask)
    assert not torch.allclose(before.logits[0], after.logits[0])
    assert not torch.allclose(before.clip_moments[0], after.clip_moments[0])


def test_every_weight_gets_a_gradient_from_the_loss():
    network = ProposalNetwork(dataclasses.replace(CONFIG, dropout=0.0))
    inputs = _inputs()
    network.loss(network(*inputs), _batch(inputs))["total"].backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A bias added to every key shifts all scores of a row alike: softmax cannot see it.
    assert [name for name in without if not name.endswith("key.bias")] == []


def test_the_losses_are_those_of_a_slow_loop(network):
    inputs = _inputs(clips=(12, 5, 3), words=(7, 2, 1))
    batch = _batch(inputs)
    output = network(*inputs)
    confidence, distance, guidance = [], [], []
    for row, clips in enumerate((12, 5, 3)):
        start, end = (batch.moment_s[row] / batch.duration_s[row]).tolist()
        inside = [i for i in range(clips) if start <= (i + 0.5) / clips <= end]
        inside = inside or [math.floor((start + end) / 2 * clips)]
        ious = [_iou(output.clip_moments[row, i].tolist(), (start, end)) for i in range(clips)]
        sure = [1 / (1 + math.exp(-output.clip_logits[row, i].item())) for i in range(clips)]
        doubt = -sum(q * math.log(p) + (1 - q) * math.log(1 - p) for p, q in zip(sure, ious, strict=True))
        confidence.append(doubt / len(inside))
        total = sum(math.exp(output.inside_logits[row, i].item()) for i in range(clips))
        guidance.append(sum(math.log(total) - output.inside_logits[row, i].item() for i in inside) / len(inside))
        distance.append(0.0)
        for i in inside:
            a, b = output.clip_moments[row, i].tolist()
            distance[-1] += (10 * (abs(a - start) + abs(b - end)) + 1 - ious[i]) / len(inside)
    losses = network.loss(output, batch)
    assert losses["confidence"].item() == pytest.approx(sum(confidence) / 3, rel=1e-5)
    assert losses["distance"].item() == pytest.approx(sum(distance) / 3, rel=1e-5)
    assert losses["guidance"].item() == pytest.approx(sum(guidance) / 3, rel=1e-5)
    assert losses["total"].item() == pytest.approx(sum(confidence + distance + guidance) / 3, rel=1e-5)


def _iou(a, b):
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return overlap / (a[1] - a[0] + b[1] - b[0] - overlap)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ((0.0, 1.0), [0, 1, 2, 3]),
        ((0.3, 0.7), [1, 2]),
        ((0.3, 0.35), [1]),  # between two centres
        ((0.5, 0.5), [2]),
        ((1.0, 1.0), [3]),
    ],
)
def test_the_clips_inside_are_those_with_their_centre_in_the_moment_or_the_one_around_its_centre(truth, expected):
    inside = clips_inside(torch.tensor([truth]), _mask((4, 6))[:1])
    assert inside[0].nonzero().flatten().tolist() == expected


def test_a_perfect_proposal_costs_nothing_but_its_doubt():
    truth, mask = torch.tensor([[0.25, 0.5]]), torch.ones(1, 4, dtype=torch.bool)
    moments = truth[:, None].repeat(1, 4, 1)
    assert distance_loss(moments, truth, mask).item() == 0
    assert confidence_loss(torch.full((1, 4), 20.0), moments, truth, mask, mask).item() == pytest.approx(0, abs=1e-6)
    logits = torch.tensor([[0.0, 30.0, 0.0, 0.0]])
    assert guidance_loss(logits, torch.tensor([[False, True, False, False]])).item() == pytest.approx(0, abs=1e-6)


def test_the_confidence_does_not_pull_on_the_moments():
    moments = torch.tensor([[[0.1, 0.4]]], requires_grad=True)
    logits, mask = torch.zeros(1, 1, requires_grad=True), torch.ones(1, 1, dtype=torch.bool)
    confidence_loss(logits, moments, torch.tensor([[0.2, 0.6]]), mask, mask).backward()
    assert moments.grad is None
    assert logits.grad.item() == pytest.approx(0.5 - 0.2 / 0.5, rel=1e-5)


def test_the_best_moments_are_the_surest_that_do_not_repeat_each_other(network):
    inputs = _inputs()
    batch = _batch(inputs, duration_s=(10.0, 10.0, 10.0), moment_s=[(1.0, 2.0)] * 3)
    moments = torch.tensor([[[0.6, 0.8], [0.1, 0.3], [0.1, 0.29], [0.0, 0.0]]]).repeat(3, 1, 1)
    logits = torch.tensor([[0.5, 2.0, 1.0, -torch.inf]]).repeat(3, 1)
    output = dataclasses.replace(network(*inputs), moments=moments, logits=logits)
    found, scores = network.moments(output, batch, k=3)
    torch.testing.assert_close(found[0], torch.tensor([[1.0, 3.0], [6.0, 8.0], [6.0, 8.0]]))
    torch.testing.assert_close(scores[0], torch.tensor([2.0, 0.5, -torch.inf]).sigmoid())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proposals": 0}, "ProposalConfig.proposals must be at least 1, got 0"),
        ({"dual_layers": -1}, "ProposalConfig.dual_layers must be 0 or more, got -1"),
        ({"dim": 15}, "ProposalConfig.dim must be a multiple of heads"),
        ({"dropout": 1.0}, "ProposalConfig.dropout must be from 0 to below 1"),
    ],
)
def test_sizes_that_make_no_network_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_a_teacher_learns_to_find_what_the_query_names():
    batch = _planted()
    sizes = {"video_dim": 2, "query_dim": 2, "dim": 32, "heads": 4, "max_clips": 10, "max_words": 3, "conv_layers": 1}
    teacher = GroundingTeacher(ProposalNetwork(ProposalConfig(**sizes, dropout=0.0)))
    optimiser = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    before = teacher.evaluate(batch)["mIoU"].value
    for _ in range(60):
        optimiser.zero_grad()
        teacher.loss(batch)["total"].backward()
        optimiser.step()
    after = teacher.eval().evaluate(batch)
    assert before < 0.6 < 0.85 < after["mIoU"].value
    assert after["R1@0.7"].value > 0.9


def _planted(size=24, clips=10):
    """Videos with a mark of each of two kinds, three clips long; the query names the kind that is meant."""
    generator = torch.Generator().manual_seed(1)
    which = torch.arange(size) % 2
    starts = torch.stack([torch.randperm(clips - 2, generator=generator)[:2] for _ in range(size)])
    video = torch.zeros(size, clips, 2)
    for row in range(size):
        for mark in range(2):
            video[row, starts[row, mark] : starts[row, mark] + 3, mark] = 1.0
    start = starts[torch.arange(size), which].float()
    return GroundingBatch(
        video=video,
        video_mask=torch.ones(size, clips, dtype=torch.bool),
        query=torch.nn.functional.one_hot(which, 2).float()[:, None].repeat(1, 3, 1),
        query_mask=torch.ones(size, 3, dtype=torch.bool),
        duration_s=torch.full((size,), float(clips)),
        moment_s=torch.stack([start, start + 3], 1),
        ids=[str(row) for row in range(size)],
    )
