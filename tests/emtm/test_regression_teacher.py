import dataclasses
import math

import pytest
import torch

from vkdlab.data.grounding import GroundingBatch
from vkdlab.emtm import GroundingTeacher
from vkdlab.emtm.regression_teacher import RegressionConfig, RegressionNetwork, agreed_moment

CONFIG = RegressionConfig(video_dim=10, query_dim=6, dim=16, heads=4, max_clips=12, max_words=7)


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
    return RegressionNetwork(CONFIG).eval()


@pytest.mark.parametrize(
    ("clips", "words"), [((12, 5, 1), (7, 2, 1)), ((1,), (7,)), ((12,), (1,)), ((1,), (1,)), ((3, 1, 2), (1, 2, 3))]
)
def test_one_moment_lies_in_the_video_however_short_it_and_the_query_are(network, clips, words):
    inputs = _inputs(clips=clips, words=words)
    output = network(*inputs)
    assert output.moment.shape == (len(clips), 2)
    start, end = output.moment.unbind(-1)
    assert (start >= 0).all()
    assert (start <= end).all()
    assert (end <= 1).all()
    batch = _batch(inputs, moment_s=[(0.5, 1.5)] * len(clips), duration_s=[6.0] * len(clips))
    assert torch.isfinite(network.loss(output, batch)["total"])


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_features_of_any_size_give_a_moment_whose_end_is_not_before_its_start(network, size):
    video, video_mask, query, query_mask = _inputs(clips=(12,) * 50, words=(7,) * 50)
    with torch.no_grad():
        network.distances.layers[-1].weight.mul_(size)
        start, end = network(video, video_mask, query, query_mask).moment.unbind(-1)
    assert (start >= 0).all()
    assert (start <= end).all()
    assert (end <= 1).all()


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
        torch.testing.assert_close(alone.moment[0], together.moment[row], rtol=1e-4, atol=1e-5)
        one = _batch(alone_inputs, batch.moment_s[row : row + 1].tolist(), batch.duration_s[row : row + 1].tolist())
        losses.append(network.loss(alone, one)["total"])
    torch.testing.assert_close(torch.stack(losses).mean(), network.loss(together, batch)["total"])


def test_the_answer_depends_on_the_query(network):
    video, video_mask, query, query_mask = _inputs()
    before = network(video, video_mask, query, query_mask).moment
    after = network(video, video_mask, query.flip(0), query_mask).moment
    assert not torch.allclose(before[0], after[0])


def test_every_weight_gets_a_gradient_from_the_loss():
    network = RegressionNetwork(dataclasses.replace(CONFIG, dropout=0.0))
    inputs = _inputs()
    network.loss(network(*inputs), _batch(inputs))["total"].backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A bias added to every key shifts all scores of a row alike: softmax cannot see it.
    assert [name for name in without if not name.endswith("key.bias")] == []


def test_the_losses_are_those_of_a_slow_loop(network):
    inputs = _inputs(clips=(12, 5, 3), words=(7, 2, 1))
    batch = _batch(inputs)
    output = network(*inputs)
    distance, guidance = 0.0, 0.0
    for row, clips in enumerate((12, 5, 3)):
        start, end = (batch.moment_s[row] / batch.duration_s[row]).tolist()
        inside = [i for i in range(clips) if start <= (i + 0.5) / clips <= end]
        inside = inside or [math.floor((start + end) / 2 * clips)]
        for a, b in output.clip_moments[row, inside].tolist():
            distance += (10 * (abs(a - start) + abs(b - end)) + 1 - _iou((a, b), (start, end))) / len(inside)
        for logits in (output.attention_logits[row].tolist(), output.inside_logits[row].tolist()):
            total = sum(math.exp(logits[i]) for i in range(clips))
            guidance += sum(math.log(total) - logits[i] for i in inside) / len(inside)
    losses = network.loss(output, batch)
    assert losses["distance"].item() == pytest.approx(distance / 3, rel=1e-5)
    assert losses["guidance"].item() == pytest.approx(guidance / 3, rel=1e-5)
    assert losses["total"].item() == pytest.approx((distance + guidance) / 3, rel=1e-5)


def test_the_moment_is_the_mean_of_the_clips_that_agree_and_not_of_two_places():
    moments = torch.tensor([[[0.1, 0.3], [0.1, 0.3], [0.2, 0.3], [0.8, 0.9], [0.0, 0.0]]])
    attention = torch.tensor([[0.2, 0.2, 0.2, 0.4, 0.0]])
    agreed = agreed_moment(moments, attention)
    torch.testing.assert_close(agreed, torch.tensor([[(0.2 * 0.1 + 0.2 * 0.1 + 0.1 * 0.2) / 0.5, 0.3]]))


def test_the_agreed_moment_is_that_of_a_slow_loop(network):
    output = network(*_inputs())
    attention = output.attention_logits.softmax(1)
    for row, clips in enumerate((12, 5, 1)):
        said, weights = output.clip_moments[row, :clips].tolist(), attention[row, :clips].tolist()
        best = max(said, key=lambda one: sum(w * _iou(one, other) for w, other in zip(weights, said, strict=True)))
        weights = [w * _iou(best, other) for w, other in zip(weights, said, strict=True)]
        mean = [sum(w * one[side] for w, one in zip(weights, said, strict=True)) / sum(weights) for side in range(2)]
        assert output.moment[row].tolist() == pytest.approx(mean, abs=1e-6)


def _iou(a, b):
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return overlap / (a[1] - a[0] + b[1] - b[0] - overlap)


def test_the_one_moment_comes_first_and_is_repeated_with_score_zero(network):
    inputs = _inputs()
    output = dataclasses.replace(network(*inputs), moment=torch.tensor([[0.0, 0.5], [0.25, 0.75], [1.0, 1.0]]))
    moments_s, scores = network.moments(output, _batch(inputs), k=3)
    assert moments_s[:, 0].tolist() == [[0, 6], [1.25, 3.75], [3, 3]]
    assert (moments_s == moments_s[:, :1]).all()
    assert scores.tolist() == [[1, 0, 0]] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dual_layers": -1}, "RegressionConfig.dual_layers must be 0 or more, got -1"),
        ({"kernel": 4}, "RegressionConfig.kernel must be odd"),
    ],
)
def test_sizes_that_make_no_network_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_a_teacher_learns_to_find_what_the_query_names():
    batch = _planted()
    sizes = {"video_dim": 2, "query_dim": 2, "dim": 32, "heads": 4, "max_clips": 10, "max_words": 3, "conv_layers": 1}
    teacher = GroundingTeacher(RegressionNetwork(RegressionConfig(**sizes, dropout=0.0)))
    optimiser = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    before = teacher.evaluate(batch)["mIoU"].value
    for _ in range(50):
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
