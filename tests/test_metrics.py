import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vkdlab.metrics import (
    Mean,
    expected_calibration_error,
    grid_ceiling,
    grounding_metrics,
    mean_interval,
    mean_iou,
    paired_interval,
    recall_at_iou,
    snap_to_grid,
    student_t_quantile,
    temporal_iou,
)


@st.composite
def moments(draw, count=None):
    """A list of [start_s, end_s] on a millisecond raster, some of zero length."""
    pair = st.tuples(st.integers(0, 60_000), st.integers(0, 20_000)).map(lambda p: [p[0] / 1000, (p[0] + p[1]) / 1000])
    return draw(st.lists(pair, min_size=count or 1, max_size=count or 12))


def random_moments(n, *, seed, duration_s=30.0):
    ends = np.sort(np.random.default_rng(seed).uniform(0, duration_s, (n, 2)), axis=1).round(2)
    return torch.from_numpy(ends)


def slow_iou(a, b, *, raster=1000):
    """IoU by counting the milliseconds that both or either cover."""
    cover_a = set(range(round(a[0] * raster), round(a[1] * raster)))
    cover_b = set(range(round(b[0] * raster), round(b[1] * raster)))
    return len(cover_a & cover_b) / len(cover_a | cover_b) if cover_a | cover_b else float(list(a) == list(b))


def slow_snap(moment, duration, clips):
    """SeqPAN's rule: the IoU with every pair of grid times, the first best one."""
    best, best_iou = None, -1.0
    for i in range(clips):
        for j in range(i, clips):
            start, end = i * duration / clips, (j + 1) * duration / clips
            shared = max(0.0, min(end, moment[1]) - max(start, moment[0]))
            iou = shared / (end - start + moment[1] - moment[0] - shared)
            if iou > best_iou + 1e-12:
                best, best_iou = (start, end), iou
    return best


@given(moments(), st.data())
@settings(max_examples=60, deadline=None)
def test_iou_equals_counting_shared_milliseconds(a, data):
    b = data.draw(moments(count=len(a)))
    expected = [slow_iou(x, y) for x, y in zip(a, b, strict=True)]
    found = temporal_iou(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0)


@given(moments(), st.data(), st.integers(1, 64), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_iou_is_symmetric_and_does_not_change_with_shift_and_scale(a, data, scale, shift):
    a, b = torch.tensor(a).double(), torch.tensor(data.draw(moments(count=len(a)))).double()
    iou = temporal_iou(a, b)
    assert ((iou >= 0) & (iou <= 1)).all()
    torch.testing.assert_close(temporal_iou(b, a), iou)
    torch.testing.assert_close(temporal_iou(a * scale, b * scale), iou)
    torch.testing.assert_close(temporal_iou(a + shift, b + shift), iou, atol=1e-9, rtol=1e-6)
    torch.testing.assert_close(temporal_iou(-a.flip(-1), -b.flip(-1)), iou)


def test_iou_broadcasts_and_keeps_its_type():
    pred = torch.tensor([[[0.0, 4.0], [2.0, 6.0]]])
    found = temporal_iou(pred, torch.tensor([[[0.0, 8.0]]]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5]]))
    assert temporal_iou(torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0,)


def test_moments_of_zero_length_overlap_only_their_equal():
    points = torch.tensor([[3.0, 3.0], [3.0, 3.0], [3.0, 3.0]])
    others = torch.tensor([[3.0, 3.0], [4.0, 4.0], [2.0, 5.0]])
    assert temporal_iou(points, others).tolist() == [1, 0, 0]


@pytest.mark.parametrize("bad", [[5.0, 4.0], [math.nan, 4.0], [0.0, math.inf]])
def test_a_moment_that_ends_before_it_starts_or_is_not_finite_is_named(bad):
    good = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"b_s\[1\] is \[.*does not end before it starts"):
        temporal_iou(good, torch.tensor([[0.0, 1.0], bad]))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_recall_equals_a_count_by_hand(k):
    pred = torch.stack([random_moments(40, seed=s) for s in range(5)], dim=1)
    true = random_moments(40, seed=9)
    found = recall_at_iou(pred, true, thresholds=(0.3, 0.5, 0.7), k=k)
    for threshold, recall in found.items():
        hits = 0
        for row in range(40):
            ious = [slow_iou(pred[row, j].tolist(), true[row].tolist(), raster=100) for j in range(k)]
            hits += any(iou >= threshold for iou in ious)
        assert (recall.sum, recall.count) == (hits, 40)


def test_recall_grows_with_k_and_falls_with_the_threshold():
    pred, true = torch.stack([random_moments(50, seed=s) for s in range(5)], dim=1), random_moments(50, seed=8)
    one, five = recall_at_iou(pred, true, k=1), recall_at_iou(pred, true, k=5)
    assert all(one[m].value <= five[m].value for m in one)
    assert one[0.3].value >= one[0.5].value >= one[0.7].value


def test_an_iou_exactly_at_the_threshold_counts():
    pred = torch.tensor([[[0.0, 3.0]], [[0.0, 5.0]], [[0.0, 7.0]]])
    true = torch.tensor([[0.0, 10.0]]).expand(3, 2)
    assert {m: r.sum for m, r in recall_at_iou(pred, true).items()} == {0.3: 3, 0.5: 2, 0.7: 1}


@pytest.mark.parametrize("k", [0, 3])
def test_recall_at_more_predictions_than_there_are_is_refused(k):
    with pytest.raises(ValueError, match=f"recall at k = {k} needs at least k predictions a query, pred_s has 2"):
        recall_at_iou(torch.rand(4, 2, 2).sort().values, torch.rand(4, 2).sort().values, k=k)


def test_metrics_of_batches_add_up_to_the_metrics_of_all_and_ignore_order():
    pred, true = torch.stack([random_moments(31, seed=s) for s in range(5)], dim=1), random_moments(31, seed=7)
    duration, clips = torch.full((31,), 30.0).double(), torch.randint(1, 64, (31,))

    def of(rows):
        return grounding_metrics(pred[rows], true[rows], duration_s=duration[rows], num_clips=clips[rows])

    whole, shuffled = of(torch.arange(31)), of(torch.randperm(31))
    parts = [of(rows) for rows in torch.arange(31).split(8)]
    for name, value in whole.items():
        total = sum((part[name] for part in parts), Mean())
        assert total.count == value.count == 31
        assert total.sum == pytest.approx(value.sum)
        assert shuffled[name].sum == pytest.approx(value.sum)


def test_grounding_metrics_have_their_published_names():
    five = {f"R{k}@{m}" for k in (1, 5) for m in (0.3, 0.5, 0.7)} | {"mIoU"}
    true, duration = random_moments(3, seed=1), torch.full((3,), 30.0).double()
    found = grounding_metrics(true[:, None].expand(3, 5, 2), true, duration_s=duration, num_clips=16)
    assert set(found) == five | {f"{name} (snapped)" for name in five}
    assert all(found[name].value == 1 for name in five)
    single = grounding_metrics(true[:, None], true, duration_s=duration, num_clips=16)
    assert "R5@0.5" not in single


@given(st.integers(1, 40), st.integers(1, 200_000), st.data())
@settings(max_examples=100, deadline=None)
def test_snapping_finds_the_best_of_all_grid_pairs(clips, duration_ms, data):
    duration = duration_ms / 1000
    start, end = sorted(data.draw(st.integers(0, duration_ms)) / 1000 for _ in range(2))
    end = max(end, min(duration, start + 0.001))
    start = min(start, end - 0.001)
    moment = torch.tensor([[start, end]], dtype=torch.float64)
    found = snap_to_grid(moment, torch.tensor([duration]).double(), clips)
    expected = torch.tensor([slow_snap((start, end), float(np.float32(duration)), clips)], dtype=torch.float64)
    torch.testing.assert_close(temporal_iou(found, moment), temporal_iou(expected, moment), atol=1e-9, rtol=0)
    torch.testing.assert_close(snap_to_grid(found, torch.tensor([duration]).double(), clips), found)


def test_snapping_on_a_grid_known_by_hand():
    moment = torch.tensor([[2.2, 6.1], [0.0, 0.3], [9.9, 10.0], [4.4, 4.4], [10.0, 10.0]])
    found = snap_to_grid(moment, torch.full((5,), 10.0), 5)
    assert found.tolist() == [[2, 6], [0, 2], [8, 10], [4, 6], [8, 10]]
    assert snap_to_grid(moment, torch.full((5,), 10.0), 1).tolist() == [[0, 10]] * 5
    different = snap_to_grid(moment[:2], torch.full((2,), 10.0), torch.tensor([5, 10]))
    assert different.tolist() == [[2, 6], [0, 1]]


def test_a_perfect_model_on_the_grid_reaches_the_ceiling_and_is_perfect_when_snapped():
    true, duration = random_moments(60, seed=3), torch.full((60,), 30.0).double()
    perfect = snap_to_grid(true, duration, 16)
    ceiling = grid_ceiling(true, duration_s=duration, num_clips=16)
    found = grounding_metrics(perfect[:, None], true, duration_s=duration, num_clips=16)
    assert found["mIoU (snapped)"].value == 1
    assert ceiling == {name: found[name] for name in ceiling}
    assert 0.5 < ceiling["mIoU"].value < 1
    finer = grid_ceiling(true, duration_s=duration, num_clips=160)
    assert finer["mIoU"].value > ceiling["mIoU"].value


@pytest.mark.parametrize(
    ("duration", "clips", "name"), [(0.0, 4, "duration_s"), (math.nan, 4, "duration_s"), (5.0, 0, "num_clips")]
)
def test_a_grid_without_length_or_clips_is_refused(duration, clips, name):
    with pytest.raises(ValueError, match=f"{name} of moment 0 is .* has to be above 0"):
        snap_to_grid(torch.tensor([[0.0, 1.0]]), torch.tensor([duration]), clips)


def test_means_add_as_sums_and_counts_and_the_mean_of_nothing_is_not_a_number():
    first, second = Mean.of(torch.tensor([True, False, True])), Mean.of(torch.tensor([[4.0], [0.0]]))
    assert first + second == Mean(6.0, 5)
    assert (first + second).value == pytest.approx(1.2)
    assert math.isnan(Mean().value)
    assert math.isnan(mean_iou(torch.zeros(0, 2), torch.zeros(0, 2)).value)
    with pytest.raises(TypeError):
        first + 1


def slow_calibration_error(probs, labels, bins):
    total = 0.0
    for b in range(bins):
        inside = [
            (max(row), row.index(max(row)) == label)
            for row, label in zip(probs, labels, strict=True)
            if b / bins < max(row) <= (b + 1) / bins
        ]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_equals_a_loop_over_bins(bins):
    probs = torch.randn(200, 4).mul(3).double().softmax(dim=1)
    labels = torch.randint(0, 4, (200,))
    expected = slow_calibration_error(probs.tolist(), labels.tolist(), bins)
    assert expected_calibration_error(probs, labels, bins=bins) == pytest.approx(expected)


def test_calibration_error_at_its_ends():
    sure = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert expected_calibration_error(sure, torch.tensor([0, 0])) == 0
    assert expected_calibration_error(sure, torch.tensor([1, 1])) == 1
    assert expected_calibration_error(torch.ones(3, 1), torch.zeros(3, dtype=torch.long)) == 0
    assert math.isnan(expected_calibration_error(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)))


def test_calibration_error_refuses_logits_and_labels_out_of_range():
    with pytest.raises(ValueError, match=r"probs\[0\] sums to 5 .*apply softmax"):
        expected_calibration_error(torch.tensor([[2.0, 3.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"labels\[0\] is 2, expected 0..1"):
        expected_calibration_error(torch.tensor([[0.5, 0.5]]), torch.tensor([2]))


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.95, 5, 2.015),
        (0.975, 9, 2.262),
        (0.995, 10, 3.169),
        (0.975, 30, 2.042),
        (0.975, 120, 1.980),
        (0.025, 4, -2.776),
        (0.5, 3, 0.0),
    ],
)
def test_t_quantiles_equal_the_printed_table(probability, freedom, expected):
    assert student_t_quantile(probability, freedom=freedom) == pytest.approx(expected, abs=5.1e-4)


def test_an_interval_of_a_mean_equals_one_by_hand():
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert (found.mean, found.count) == (3, 5)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    wider = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0], level=0.99)
    assert wider.low < found.low


def test_a_single_value_has_a_mean_and_no_interval():
    found = mean_interval([0.4])
    assert found.mean == 0.4
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_paired_interval_sees_a_difference_that_hides_in_the_spread_over_seeds():
    base = [0.50, 0.60, 0.70, 0.55, 0.65]
    better = [value + gain for value, gain in zip(base, [0.02, 0.03, 0.02, 0.03, 0.025], strict=True)]
    paired = paired_interval(better, base)
    assert paired.mean == pytest.approx(0.025)
    assert paired.low > 0
    assert mean_interval(better).low < mean_interval(base).high
    swapped = paired_interval(base, better)
    assert (swapped.low, swapped.high) == pytest.approx((-paired.high, -paired.low))


def test_intervals_refuse_what_has_no_interval():
    with pytest.raises(ValueError, match="a has 2 values and b has 1"):
        paired_interval([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])
    with pytest.raises(ValueError, match="all of them finite"):
        mean_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="0 < probability < 1"):
        mean_interval([1.0, 2.0], level=1.0)
