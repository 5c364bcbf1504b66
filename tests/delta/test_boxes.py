"""Boxes of one thing, and how steady they are: against answers worked out by hand, and a slow count."""

import numpy as np
import pytest
import torch

from tests.delta.small_networks import randomise
from vkdlab.data.dense_batches import as_input
from vkdlab.delta import convert
from vkdlab.delta.boxes import LEAST_SCORE, box_consistency, boxes_of, met, true_boxes
from vkdlab.delta.detector import Detections, decode
from vkdlab.delta.evaluate import consistency
from vkdlab.delta.tasks import DETECTION
from vkdlab.metrics import Mean


@pytest.fixture(scope="module")
def network():
    """Untrained, and sure of something everywhere."""
    torch.manual_seed(1)
    teacher = randomise(DETECTION.network(8, 9))
    with torch.no_grad():
        teacher.head.bias[:8] = 0.0
    return convert(teacher)


def found(*rows):
    boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.ones(len(rows)), torch.tensor([row[4] for row in rows], dtype=torch.long))


def still(height=40, width=60):
    return {"motion": np.zeros((height, width, 2), np.float32), "visible": np.ones((height, width), bool)}


def test_boxes_meet_from_an_iou_of_a_half_on_and_only_of_one_class():
    a = found((0, 0, 10, 10, 1), (20, 0, 30, 10, 2), (40, 0, 50, 10, 3), (0, 20, 10, 30, 1))
    half = found((0, 0, 10, 5, 1), (20, 0, 30, 4.9, 2), (40, 0, 50, 10, 4))  # IoU 0.5, 0.49, another class
    assert met(a, half).tolist() == [True, False, False, False]
    assert met(a, found()).tolist() == [False] * 4
    assert met(found(), a).tolist() == []


def test_the_truth_is_surely_found(dense):
    boxes, labels = dense.boxes(3)
    truth = true_boxes(dense, 3)
    np.testing.assert_array_equal(truth.boxes, boxes)
    np.testing.assert_array_equal(truth.labels, labels)
    assert truth.scores.tolist() == [1.0] * len(labels)


def test_what_stands_still_is_met_and_what_appears_is_not():
    before = found((0, 0, 10, 10, 1), (20, 20, 30, 30, 2))
    assert box_consistency(before, before, **still()) == Mean(2, 2)
    assert box_consistency(found((0, 0, 10, 10, 1), (40, 0, 50, 10, 3)), before, **still()) == Mean(1, 2)
    assert box_consistency(found(), before, **still()) == Mean(0, 0)


def test_a_box_goes_with_the_thing_in_its_middle_whatever_moves_around_it():
    given = still()
    given["motion"][:] = (-30, 0)  # the ground, which fills the corners of the box
    given["motion"][13:27, 33:47] = (20, 4)
    now = found((30, 10, 50, 30, 1))
    assert box_consistency(now, found((50, 14, 70, 34, 1)), **given) == Mean(1, 1)
    assert box_consistency(now, now, **given) == Mean(0, 1)


def test_what_could_not_be_seen_before_does_not_count():
    given = still()
    given["visible"][:, 30:] = False
    now = found((0, 0, 20, 20, 1), (40, 0, 60, 20, 1))
    assert box_consistency(now, found((0, 0, 20, 20, 1)), **given) == Mean(1, 1)


def test_a_box_narrower_than_a_pixel_at_the_rim_has_a_middle():
    now = found((59.5, 39.5, 60, 40, 1))
    assert box_consistency(now, now, **still()) == Mean(1, 1)


def test_consistency_of_detectors_is_counted_step_by_step(dense, network):
    period = 4
    measured = consistency(network, dense, period=period, task=DETECTION)
    counts = {name: [[0, 0] for _ in range(period)] for name in ("teacher", "delta", "copying", "labels")}
    for sequence in dense.sequences:
        frames = [as_input(dense.frame(i))[None] for i in sequence.frames]
        with torch.inference_mode():
            teacher = [decode(network.reference(x), classes=8, least=LEAST_SCORE)[0] for x in frames]
            delta = [decode(x, classes=8, least=LEAST_SCORE)[0] for x in network.stream(frames, period=period)]
        seen = {
            "teacher": teacher,
            "delta": delta,
            "copying": [teacher[t - t % period] for t in range(len(frames))],
            "labels": [true_boxes(dense, i) for i in sequence.frames],
        }
        for t in range(1, len(frames)):
            motion, visible = dense.motion(sequence.first + t)
            for name, each in seen.items():
                part = box_consistency(each[t], each[t - 1], motion=motion, visible=visible)
                counts[name][t % period][0] += part.sum
                counts[name][t % period][1] += part.count
    assert {name: [[each.sum, each.count] for each in row.sums] for name, row in measured.items()} == counts
    assert counts["delta"][1][1] > 10
    assert {row.metric for row in measured.values()} == {"boxes that meet one"}
    assert measured["labels"].value > 0.9


def test_only_what_a_detector_is_sure_of_is_shown():
    output = torch.full((1, 5, 6, 8), -9.0)
    output[:, 1:] = 0.0
    output[0, 0, 2, 3], output[0, 0, 4, 6] = torch.logit(torch.tensor([0.29, 0.31]))
    (shown,) = boxes_of(output)
    assert shown.scores.tolist() == pytest.approx([0.31])
    assert shown.labels.tolist() == [1]
