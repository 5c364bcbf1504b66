import copy

import pytest
import torch

from vkdlab.nn import INPUTS, KnowledgeAggregationUnit


def given(*, batch=3, clips=(7, 4, 1), words=(5, 1, 3), dim=6, query_dim=6, teachers=3, padding=0):
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(batch, max(clips), dim, generator=generator)
    query = torch.randn(batch, max(words), query_dim, generator=generator)
    uncertainty = torch.rand(batch, 4 * teachers, generator=generator)
    masks = [torch.arange(max(n) + padding) < torch.tensor(n)[:, None] for n in (clips, words)]
    video, query = (
        torch.cat([x, torch.full((batch, padding, x.shape[2]), 77.0)], 1).masked_fill(~m[..., None], 77.0)
        for x, m in zip((video, query), masks, strict=True)
    )
    return {"video": video, "query": query, "video_mask": masks[0], "query_mask": masks[1], "uncertainty": uncertainty}


def unit_of(inputs="both", *, teachers=3, dim=6, trained=True, **sizes):
    torch.manual_seed(0)
    unit = KnowledgeAggregationUnit(
        dim, teachers=teachers, inputs=inputs, uncertainty=0 if inputs == "video" else 4 * teachers, **sizes
    )
    if trained:
        for parameter in unit.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        if inputs != "video":
            unit.standardise(torch.rand(20, 4 * teachers))
    return unit


@pytest.mark.parametrize("inputs", INPUTS)
def test_weights_sum_to_one_over_the_teachers_for_start_and_end(inputs):
    weights = unit_of(inputs)(**given())
    assert weights.shape == (3, 3, 2)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(3, 2))
    assert weights.std(1).min() > 1e-3


@pytest.mark.parametrize("inputs", INPUTS)
def test_an_untrained_unit_believes_all_teachers_alike(inputs):
    assert torch.equal(unit_of(inputs, trained=False)(**given()), torch.full((3, 3, 2), 1 / 3))


@pytest.mark.parametrize("inputs", INPUTS)
def test_a_single_teacher_gets_all_the_weight(inputs):
    assert torch.equal(unit_of(inputs, teachers=1)(**given(teachers=1)), torch.ones(3, 1, 2))


@pytest.mark.parametrize("inputs", INPUTS)
def test_permuting_the_teachers_permutes_the_weights(inputs):
    unit, order = unit_of(inputs), torch.tensor([2, 0, 1])
    moved = copy.deepcopy(unit)
    for name in ("bias", "by_teacher", "mean", "std"):
        if hasattr(unit, name):
            getattr(moved, name).data = getattr(unit, name).data[order]
    samples = given()
    permuted = samples | {"uncertainty": samples["uncertainty"].unflatten(1, (3, 4))[:, order].flatten(1)}
    torch.testing.assert_close(moved(**permuted), unit(**samples)[:, order])


@pytest.mark.parametrize("inputs", INPUTS)
def test_neither_padding_nor_what_stands_there_changes_the_weights(inputs):
    unit = unit_of(inputs)
    torch.testing.assert_close(unit(**given(padding=9)), unit(**given()))


def test_padding_changes_nothing_where_the_unit_is_tied_to_a_number_of_clips():
    unit = unit_of("video", length=12)
    torch.testing.assert_close(unit(**given(padding=5)), unit(**given()))


def test_a_sample_gets_the_same_weights_alone_and_in_a_batch():
    unit, samples = unit_of(), given()
    for row in range(3):
        alone = unit(**{name: value[row : row + 1] for name, value in samples.items()})
        torch.testing.assert_close(alone[0], unit(**samples)[row])


def test_the_mean_over_time_does_not_grow_with_the_length_of_a_video():
    unit = unit_of("video")
    still = torch.randn(6)
    heights = []
    for count in (20, 400):
        video = still.expand(1, count, 6)
        query, mask = torch.ones(1, 1, 6), torch.ones(1, count, dtype=torch.bool)
        heights.append(unit(video, query, mask, mask[:, :1]))
    torch.testing.assert_close(heights[0], heights[1], atol=0.05, rtol=0)


def slow(unit, video, query):
    """One sample of a unit with video inputs, clip by clip."""
    count, channels = len(video), unit.convolutions[0].out_channels

    def normed(values, norm):
        return torch.relu(
            (values - values.mean()) / (values.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
        )

    seen = torch.zeros(count, channels)
    for convolution, norm in zip(unit.convolutions, unit.norms, strict=True):
        size = convolution.kernel_size[0]
        for clip in range(count):
            value = convolution.bias.clone()
            for tap in range(size):
                at = clip + tap - size // 2
                if 0 <= at < count:
                    value = value + convolution.weight[:, :, tap] @ video[at]
            seen[clip] += normed(value, norm)
    gate = normed(unit.query.weight @ query.max(0).values + unit.query.bias, unit.query_norm)
    z = torch.relu(unit.hidden.weight @ (seen * gate).mean(0) + unit.hidden.bias)
    scores = torch.stack([unit.by_teacher[t] @ z + unit.bias[t] for t in range(unit.num_teachers)])
    return scores.exp() / scores.exp().sum(0)


def test_weights_are_those_of_a_slow_loop():
    unit, samples = unit_of("video"), given()
    with torch.no_grad():
        weights = unit(**samples)
        for row in range(3):
            video = samples["video"][row][samples["video_mask"][row]]
            query = samples["query"][row][samples["query_mask"][row]]
            torch.testing.assert_close(weights[row], slow(unit, video, query), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("length", "thousands"), [(64, 35.2), (100, 36.4), (256, 41.4)])
def test_as_released_it_has_as_many_parameters_as_the_released_one(length, thousands):
    unit = KnowledgeAggregationUnit(128, teachers=3, length=length)
    assert sum(p.numel() for p in unit.parameters()) / 1000 == pytest.approx(thousands, abs=0.05)


def test_a_query_may_have_another_width_than_the_video():
    samples = given(query_dim=11)
    assert unit_of("both", query_dim=11)(**samples).shape == (3, 3, 2)


def test_numbers_are_standardised_by_teacher_and_one_that_never_changes_is_left():
    unit = unit_of("uncertainty", trained=False)
    numbers = torch.randn(50, 12) * 3 + 5
    numbers[:, 7] = 0.25
    unit.standardise(numbers)
    standard = (numbers.unflatten(1, (3, 4)) - unit.mean) / unit.std
    assert standard.mean(0).abs().max() < 1e-5
    spread = standard.std(0, correction=0)
    assert spread[1, 3] == 0
    spread[1, 3] = 1
    torch.testing.assert_close(spread, torch.ones(3, 4))


def test_every_parameter_learns_once_the_last_layer_has():
    unit = unit_of("both")
    (unit(**given())[:, 0] * torch.arange(3.0)[:, None]).sum().backward()
    for name, parameter in unit.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"teachers": 0}, "teachers must be at least 1, got 0"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"inputs": "sound"}, "expected inputs video, uncertainty, both, got 'sound'"),
        ({"uncertainty": 3}, "inputs 'video' of 3 teachers cannot have uncertainty=3"),
        ({"inputs": "both"}, "inputs 'both' of 3 teachers cannot have uncertainty=0"),
        ({"inputs": "both", "uncertainty": 4}, "inputs 'both' of 3 teachers cannot have uncertainty=4"),
    ],
)
def test_a_unit_that_makes_no_sense_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        KnowledgeAggregationUnit(6, **({"teachers": 3} | sizes))


def test_inputs_that_are_missing_or_too_long_are_named():
    samples = given()
    with pytest.raises(ValueError, match="sees both: uncertainty is missing"):
        unit_of("both")(**samples | {"uncertainty": None})
    with pytest.raises(ValueError, match="sees video: video, query or one of their masks is missing"):
        unit_of("video")(**samples | {"query_mask": None})
    with pytest.raises(ValueError, match="tied to 5 clips, got 7"):
        unit_of("video", length=5)(**samples)
