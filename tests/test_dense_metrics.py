"""Mean IoU, mAP and temporal consistency against slow loops and numbers worked out by hand."""

import math

import numpy as np
import pytest

from vkdlab.dense_metrics import AveragePrecision, Confusion, box_iou, carried, temporal_consistency
from vkdlab.metrics import Mean


def slow_iou(answers, labels, k):
    pairs = [(a, b) for a, b in zip(answers.ravel().tolist(), labels.ravel().tolist(), strict=True) if b != 255]
    both = sum(a == k and b == k for a, b in pairs)
    either = sum(a == k or b == k for a, b in pairs)
    return both / either if any(b == k for _, b in pairs) else math.nan


def test_iou_is_that_of_a_loop_over_pixels_void_left_out():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 4, 255], (3, 7, 5)).astype(np.uint8)
    answers = rng.integers(0, 5, (3, 7, 5)).astype(np.int64)
    found = Confusion.of(answers, labels, classes=5)
    expected = [slow_iou(answers, labels, k) for k in range(5)]
    np.testing.assert_allclose(found.iou, expected)
    assert math.isnan(expected[3])
    assert found.value == pytest.approx(np.nanmean(expected))
    counted = labels != 255
    assert found.accuracy == pytest.approx((answers == labels)[counted].mean())


def test_confusions_of_parts_add_up_to_that_of_the_whole_and_start_from_an_empty_mean():
    rng = np.random.default_rng(1)
    labels, answers = (rng.integers(0, 3, (4, 6)).astype(np.uint8) for _ in range(2))
    parts = [Confusion.of(answers[i], labels[i], classes=3) for i in range(4)]
    total = sum(parts[1:], Mean() + parts[0])
    assert (total.counts == Confusion.of(answers, labels, classes=3).counts).all()


def test_an_answer_beyond_the_classes_is_a_miss_and_no_error():
    found = Confusion.of(np.array([0, 1, 2]), np.array([0, 1, 1]), classes=2)
    np.testing.assert_allclose(found.iou, [1, 0.5])
    assert found.accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize("labels", [np.zeros((0, 0), np.uint8), np.full((2, 2), 255, np.uint8)])
def test_nothing_counted_is_not_a_number_and_no_warning(labels):
    found = Confusion.of(np.zeros(labels.shape, int), labels, classes=2)
    assert math.isnan(found.value)
    assert math.isnan(found.accuracy)


def test_bad_labels_and_answers_are_refused():
    with pytest.raises(ValueError, match=r"labels are from 0 to 1, or 255; got 0 to 2"):
        Confusion.of(np.zeros(2, int), np.array([0, 2]), classes=2)
    with pytest.raises(ValueError, match=r"answers are classes from 0, got -1"):
        Confusion.of(np.array([-1]), np.array([0]), classes=2)
    with pytest.raises(ValueError, match="one has 2 classes and the other 3"):
        Confusion.of(np.zeros(1, int), np.zeros(1, int), classes=2) + Confusion.of(
            np.zeros(1, int), np.zeros(1, int), classes=3
        )
    with pytest.raises(TypeError):
        Confusion.of(np.zeros(1, int), np.zeros(1, int), classes=2) + 1


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def picture(rows, scores, labels, true_rows, true_labels, classes=2):
    return AveragePrecision.of(
        boxes(*rows),
        np.array(scores, np.float32),
        np.array(labels, int),
        true_boxes=boxes(*true_rows),
        true_labels=np.array(true_labels, int),
        classes=classes,
    )


def test_box_iou_is_worked_out_by_hand():
    found = box_iou(boxes((0, 0, 2, 2), (1, 1, 1, 3)), boxes((1, 0, 3, 2), (5, 5, 6, 6), (1, 1, 1, 3)))
    np.testing.assert_allclose(found, [[1 / 3, 0, 0], [0, 0, 0]])


def test_average_precision_is_the_area_under_the_envelope():
    """Right, wrong, right, of three things: precision 1 to recall 1/3, then 2/3 to recall 2/3."""
    here, there, nowhere = (0, 0, 10, 10), (20, 0, 30, 10), (50, 50, 60, 60)
    found = picture([here, nowhere, there], [0.9, 0.8, 0.7], [0, 0, 0], [here, there, (80, 0, 90, 9)], [0, 0, 0])
    assert found.by_class[0] == pytest.approx(1 / 3 + 2 / 9)
    assert math.isnan(found.by_class[1])
    assert found.value == pytest.approx(5 / 9)


def test_a_thing_is_found_once_and_by_the_surest_answer():
    here = (0, 0, 10, 10)
    found = picture([here, here], [0.3, 0.6], [0, 0], [here], [0])
    assert found.scores.tolist() == pytest.approx([0.6, 0.3])
    assert found.right.tolist() == [True, False]


def test_an_answer_takes_the_free_thing_that_it_overlaps_most():
    """Two answers lie best on the same thing; the second one goes to the other, which it still overlaps by half."""
    found = picture([(0, 0, 10, 10), (0, 0, 10, 9)], [0.9, 0.8], [0, 0], [(0, 0, 10, 10), (0, 0, 10, 6)], [0, 0])
    assert found.right.tolist() == [True, True]


def test_an_answer_of_another_class_or_under_half_an_overlap_is_wrong():
    found = picture([(0, 0, 10, 10), (0, 0, 10, 4.9)], [0.9, 0.8], [1, 0], [(0, 0, 10, 10)], [0])
    assert not found.right.any()
    assert found.value == 0


def test_pictures_add_up_in_any_order():
    rng = np.random.default_rng(2)

    def one():
        low = rng.uniform(0, 30, (6, 2))
        rows = np.concatenate([low, low + rng.uniform(3, 15, (6, 2))], axis=1)
        return picture(
            rows + rng.normal(0, 1, (6, 4)), rng.random(6), rng.integers(0, 2, 6), rows, rng.integers(0, 2, 6)
        )

    parts = [one() for _ in range(5)]
    forward, backward = sum(parts, Mean()), sum(parts[::-1], Mean())
    assert forward.value == pytest.approx(backward.value)
    assert forward.things.sum() == 30
    assert 0 < forward.value < 1


def slow_ap(found, k):
    """Precision at every recall reached, the best of what comes after, times the step in recall."""
    rows = sorted((-s, r) for s, r, label in zip(found.scores, found.right, found.labels, strict=True) if label == k)
    points, hits = [], 0
    for i, (_, right) in enumerate(rows):
        hits += right
        points.append((hits / found.things[k], hits / (i + 1)))
    area, reached = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        area += (recall - reached) * max(precision for _, precision in points[i:])
        reached = recall
    return area


def test_average_precision_is_that_of_a_slow_sum():
    rng = np.random.default_rng(3)
    found = AveragePrecision(
        rng.random(40).astype(np.float32), rng.random(40) < 0.4, rng.integers(0, 3, 40), np.array([12, 9, 20])
    )
    np.testing.assert_allclose(found.by_class, [slow_ap(found, k) for k in range(3)])


def test_no_answer_is_zero_and_no_thing_is_not_a_number():
    assert picture([], [], [], [(0, 0, 5, 5)], [1]).value == 0
    assert math.isnan(picture([(0, 0, 5, 5)], [0.9], [1], [], []).value)


def test_bad_answers_are_refused():
    with pytest.raises(ValueError, match="labels are from 0 to 1, got 2 to 2"):
        picture([(0, 0, 5, 5)], [0.5], [2], [], [])
    with pytest.raises(ValueError, match="true_labels are from 0 to 1, got -1"):
        picture([], [], [], [(0, 0, 5, 5)], [-1])
    with pytest.raises(ValueError, match="not-a-number"):
        picture([(0, 0, 5, 5)], [math.nan], [0], [], [])
    with pytest.raises(ValueError, match="threshold is above 0"):
        AveragePrecision.of(
            boxes(), np.zeros(0, np.float32), np.zeros(0, int), true_boxes=boxes(), true_labels=np.zeros(0, int),
            classes=1, threshold=0,
        )  # fmt: skip
    with pytest.raises(ValueError, match="one has 2 classes and the other 1"):
        picture([], [], [], [], []) + picture([], [], [], [], [], classes=1)


def test_labels_are_carried_along_the_motion():
    before = np.arange(12, dtype=np.uint8).reshape(3, 4)
    motion = np.zeros((3, 4, 2), np.float32)
    motion[..., 0] = -1  # the picture moved one pixel to the right
    found = carried(before, motion, np.ones((3, 4), bool))
    assert found.tolist() == [[255, 0, 1, 2], [255, 4, 5, 6], [255, 8, 9, 10]]
    hidden = np.ones((3, 4), bool)
    hidden[1] = False
    assert (carried(before, motion, hidden)[1] == 255).all()


def test_answers_that_move_with_the_picture_are_consistent_and_others_are_not():
    rng = np.random.default_rng(4)
    before = rng.integers(0, 3, (8, 9)).astype(np.uint8)
    now = np.roll(before, 2, axis=0)
    motion = np.zeros((8, 9, 2), np.float32)
    motion[..., 1] = -2
    how = {"visible": np.ones((8, 9), bool), "classes": 3}
    assert temporal_consistency(now, before, motion=motion, **how).value == 1
    still = temporal_consistency(now, before, motion=np.zeros_like(motion), **how)
    assert still.value == pytest.approx(Confusion.of(now, before, classes=3).value)
    assert still.value < 1


def test_pixels_that_nobody_labelled_in_either_frame_do_not_count_as_inconsistent():
    labels = np.random.default_rng(4).integers(0, 3, (8, 9)).astype(np.uint8)
    now, before = labels.copy(), labels.copy()
    now[:3], before[:, :2] = 255, 255
    how = {"motion": np.zeros((8, 9, 2), np.float32), "visible": np.ones((8, 9), bool), "classes": 3}
    found = temporal_consistency(now, before, **how)
    assert found.value == 1
    assert found.counts.sum() == 5 * 7
    now[4, 4] = (now[4, 4] + 1) % 3
    assert temporal_consistency(now, before, **how).value < 1
