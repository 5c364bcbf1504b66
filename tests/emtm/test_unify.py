import math

import pytest
import torch

from vkdlab.emtm.moments import best_moments
from vkdlab.emtm.outputs import MapOutput, ProposalOutput, RegressionOutput, SpanOutput
from vkdlab.emtm.unify import resample_mass, unify

VALID = (9, 4, 1)


def mask_of(counts, length):
    return torch.arange(length) < torch.tensor(counts)[:, None]


def span(counts=VALID, length=9, seed=0):
    logits = torch.randn(2, len(counts), length, generator=torch.Generator().manual_seed(seed)) * 3
    mask = mask_of(counts, length)
    start, end = logits.masked_fill(~mask, -torch.inf)
    return SpanOutput(start_logits=start, end_logits=end, match_logits=torch.zeros(*mask.shape, 4), mask=mask)


def table(counts=VALID, length=9, seed=0, scale=3.0):
    logits = torch.randn(len(counts), length, length, generator=torch.Generator().manual_seed(seed)) * scale
    return MapOutput(logits=logits, mask=mask_of(counts, length))


def proposals(rows=3, count=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    moments = torch.rand(rows, count, 2, generator=generator).sort(-1).values
    return ProposalOutput(moments=moments, logits=torch.randn(rows, count, generator=generator))


def regression(moments):
    return RegressionOutput(moment=torch.tensor(moments))


OUTPUTS = {
    "span": span(),
    "span on a grid of its own": span(counts=(16, 3, 5), length=16),
    "map": table(),
    "map on a grid of its own": table(counts=(16, 2, 7), length=16),
    "map whose scores are all tiny": MapOutput(logits=table().logits - 500, mask=table().mask),
    "proposals": proposals(),
    "one proposal": proposals(count=1),
    "regression": regression([[0.2, 0.6], [0.5, 0.5], [0.0, 1.0]]),
    "moments of no length at the ends": regression([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]),
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("width", [0.05, 0.001, 1.0])
def test_whatever_a_teacher_says_becomes_two_distributions_over_the_real_clips(name, width):
    mask = mask_of(VALID, 9)
    found = unify(OUTPUTS[name], length=9, mask=mask, width=width)
    for probs in (found.start, found.end):
        assert (probs >= 0).all()
        assert (probs[~mask] == 0).all()
        torch.testing.assert_close(probs.sum(1), torch.ones(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", OUTPUTS)
def test_padding_changes_nothing(name):
    short = unify(OUTPUTS[name], length=9, mask=mask_of(VALID, 9))
    long = unify(OUTPUTS[name], length=20, mask=mask_of(VALID, 20))
    torch.testing.assert_close(long.start[:, :9], short.start, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(long.end[:, :9], short.end, atol=1e-7, rtol=1e-5)
    assert not long.start[:, 9:].any()


def test_a_span_is_the_softmax_of_its_logits():
    output = span()
    found = unify(output, length=9, mask=output.mask)
    for row, count in enumerate(VALID):
        torch.testing.assert_close(found.start[row, :count], output.start_logits[row, :count].softmax(0))
        torch.testing.assert_close(found.end[row, :count], output.end_logits[row, :count].softmax(0))


def test_a_map_gives_the_best_moment_from_and_to_each_clip_as_a_slow_loop_does():
    output = table()
    found = unify(output, length=9, mask=output.mask)
    for row, count in enumerate(VALID):
        score = output.logits[row].sigmoid().tolist()
        start = [max(score[i][j] for j in range(i, count)) for i in range(count)]
        end = [max(score[i][j] for i in range(j + 1)) for j in range(count)]
        assert found.start[row, :count].tolist() == pytest.approx([s / sum(start) for s in start], rel=1e-5)
        assert found.end[row, :count].tolist() == pytest.approx([e / sum(end) for e in end], rel=1e-5)


def test_cells_that_end_before_they_start_or_lie_on_padding_count_for_nothing():
    output = table()
    changed = output.logits.clone()
    changed[:, torch.ones(9, 9).tril(-1).bool()] = 99.0
    changed[1, :, 4:] = 99.0
    first, second = (unify(MapOutput(x, output.mask), length=9, mask=output.mask) for x in (output.logits, changed))
    assert torch.equal(first.start, second.start)
    assert torch.equal(first.end, second.end)


def test_proposals_are_a_sum_of_gaussians_as_a_slow_loop_finds():
    output, mask = proposals(), mask_of(VALID, 9)
    found = unify(output, length=9, mask=mask, width=0.1)
    for row, count in enumerate(VALID):
        for side, probs in enumerate((found.start, found.end)):
            values = []
            for clip in range(count):
                edge = (clip + side) / count
                values.append(
                    sum(
                        1 / (1 + math.exp(-logit)) * math.exp(-((edge - moment[side]) ** 2) / (2 * 0.1**2))
                        for moment, logit in zip(output.moments[row].tolist(), output.logits[row].tolist(), strict=True)
                    )
                )
            assert probs[row, :count].tolist() == pytest.approx([v / sum(values) for v in values], rel=1e-3, abs=1e-6)


def test_the_order_of_proposals_does_not_matter():
    output, mask = proposals(), mask_of(VALID, 9)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = ProposalOutput(moments=output.moments[:, order], logits=output.logits[:, order])
    first, second = (unify(x, length=9, mask=mask) for x in (output, moved))
    torch.testing.assert_close(first.start, second.start)
    torch.testing.assert_close(first.end, second.end)


def test_a_proposal_that_is_none_counts_for_nothing():
    output, mask = proposals(count=2), mask_of(VALID, 9)
    without = ProposalOutput(moments=output.moments[:, :1], logits=output.logits[:, :1])
    hidden = output.logits.clone()
    hidden[:, 1] = -torch.inf
    found = unify(ProposalOutput(moments=output.moments, logits=hidden), length=9, mask=mask)
    torch.testing.assert_close(found.start, unify(without, length=9, mask=mask).start)


def test_one_proposal_says_the_same_whatever_its_score_and_as_a_regression():
    mask = mask_of(VALID, 9)
    moments = proposals(count=1).moments
    said = unify(RegressionOutput(moment=moments[:, 0]), length=9, mask=mask)
    for logit in (-60.0, 0.0, 60.0):
        found = unify(ProposalOutput(moments=moments, logits=torch.full((3, 1), logit)), length=9, mask=mask)
        torch.testing.assert_close(found.start, said.start, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.end, said.end, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("width", [0.001, 0.05])
def test_a_moment_on_the_grid_is_found_again(width):
    mask = mask_of((10,), 12)
    for first, last in ((0, 0), (0, 9), (3, 5), (9, 9)):
        found = unify(regression([[first / 10, (last + 1) / 10]]), length=12, mask=mask, width=width)
        moments, _ = best_moments(found.start, found.end, duration_s=torch.tensor([10.0]), mask=mask, k=1)
        assert moments[0, 0].tolist() == pytest.approx([first, last + 1])


def test_a_moment_of_no_length_or_shorter_than_a_clip_stays_near_its_place():
    mask = mask_of((10, 10), 10)
    found = unify(regression([[0.5, 0.5], [0.51, 0.52]]), length=10, mask=mask, width=0.001)
    assert found.start.argmax(1).tolist() == [5, 5]
    assert found.end.argmax(1).tolist() == [4, 4]


def test_unifying_lets_gradients_through_where_masses_underflow():
    moment = torch.tensor([[0.21, 0.77]], requires_grad=True)
    found = unify(RegressionOutput(moment=moment), length=6, mask=mask_of((5,), 6), width=0.002)
    (found.start[0, 1] + found.end[0, 3]).backward()
    assert moment.grad.isfinite().all()


def overlaps(probs, source, target):
    """By the time that every pair of clips shares."""
    moved = []
    for j in range(target):
        share = 0.0
        for i in range(source):
            shared = min((i + 1) / source, (j + 1) / target) - max(i / source, j / target)
            share += probs[i] * max(0.0, shared) * source
        moved.append(share)
    return moved


@pytest.mark.parametrize(("source", "target"), [(1, 1), (1, 7), (7, 1), (16, 24), (24, 16), (5, 7), (64, 9)])
def test_resampling_moves_mass_by_overlap_in_time_and_keeps_it(source, target):
    probs = torch.rand(1, source + 2).masked_fill(~mask_of((source,), source + 2), 0)
    found = resample_mass(probs, source_mask=mask_of((source,), source + 2), mask=mask_of((target,), target + 3))
    assert found.sum().item() == pytest.approx(probs.sum().item(), rel=1e-5)
    assert found[0, :target].tolist() == pytest.approx(overlaps(probs[0].tolist(), source, target), rel=1e-4, abs=1e-6)
    assert not found[0, target:].any()


def test_resampling_to_an_equal_grid_changes_no_bit():
    probs = torch.rand(3, 64).masked_fill(~mask_of((64, 37, 1), 64), 0)
    found = resample_mass(probs, source_mask=mask_of((64, 37, 1), 64), mask=mask_of((64, 37, 1), 70))
    assert torch.equal(found[:, :64], probs)


def test_resampling_ignores_what_stands_on_padding():
    probs = torch.tensor([[0.5, 0.5, torch.nan]])
    found = resample_mass(probs, source_mask=mask_of((2,), 3), mask=mask_of((4,), 4))
    assert found.tolist() == [[0.25] * 4]


def test_what_cannot_be_unified_is_refused_with_the_reason():
    mask = mask_of(VALID, 9)
    with pytest.raises(ValueError, match="length is 12, the mask has 9 clips"):
        unify(proposals(), length=12, mask=mask)
    with pytest.raises(ValueError, match=r"from 0\.001 to 1, got 0\.0"):
        unify(proposals(), length=9, mask=mask, width=0.0)
    with pytest.raises(ValueError, match="mask of row 1 has no clip"):
        unify(proposals(), length=9, mask=mask_of((9, 0, 1), 9))
    none = proposals()
    none.logits[2] = -torch.inf
    with pytest.raises(ValueError, match="row 2 has no proposal"):
        unify(none, length=9, mask=mask)
    with pytest.raises(ValueError, match="source_mask of row 0 has no clip"):
        resample_mass(torch.ones(1, 2), source_mask=mask_of((0,), 2), mask=mask_of((1,), 2))
