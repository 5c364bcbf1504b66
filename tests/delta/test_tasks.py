import numpy as np
import pytest
import torch

from vkdlab.data.dense import load_dense
from vkdlab.data.dense_batches import DenseBatch
from vkdlab.delta.tasks import DETECTION, SEGMENTATION, TASKS, Truth, task_of


@pytest.fixture(scope="module")
def dense():
    return load_dense("tabletop", "val", profile="smoke", videos=1, progress=False)


def _one_hot(labels, classes):
    return torch.nn.functional.one_hot(labels, classes).permute(0, 3, 1, 2) * 10.0


def _perfect_map(boxes, labels, *, classes, height, width):
    """A detector's map whose every peak says exactly its box."""
    output = torch.full((1, classes + 4, height, width), -10.0)
    for (x0, y0, x1, y1), kind in zip(boxes.tolist(), labels.tolist(), strict=True):
        column, row = int((x0 + x1) / 2 / 4), int((y0 + y1) / 2 / 4)
        x, y = (column + 0.5) * 4, (row + 0.5) * 4
        output[0, kind - 1, row, column] = 5.0
        output[0, classes:, row, column] = torch.tensor([x - x0, y - y0, x1 - x, y1 - y]).div(16).log()
    return output


def test_answers_that_are_the_labels_have_mean_iou_1_and_others_less(dense):
    rows = [0, 7]
    truth = Truth.at(dense, rows)
    right = _one_hot(truth.labels, len(dense.classes))
    assert SEGMENTATION.measure(right, dense, rows).value == 1
    assert SEGMENTATION.measure(right.flip(0), dense, rows).value < 1


def test_values_of_two_calls_add_up_to_that_of_one(dense):
    rows = [0, 20, 40]
    output = torch.randn(3, len(dense.classes), *reversed(dense.size))
    together = SEGMENTATION.measure(output, dense, rows)
    parts = SEGMENTATION.measure(output[:1], dense, rows[:1]) + SEGMENTATION.measure(output[1:], dense, rows[1:])
    assert np.array_equal(together.counts, parts.counts)


def test_a_map_that_says_the_true_boxes_has_map_1_and_a_mirrored_one_less(dense):
    row = next(i for i in range(len(dense)) if len(dense.boxes(i)[1]) >= 2)
    boxes, labels = (torch.from_numpy(part) for part in dense.boxes(row))
    width, height = dense.size
    output = _perfect_map(boxes, labels.long(), classes=len(dense.classes) - 1, height=height // 4, width=width // 4)
    assert DETECTION.measure(output, dense, [row]).value == pytest.approx(1)
    assert DETECTION.measure(output.flip(3), dense, [row]).value < 0.9


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_divergence_from_a_teacher_is_0_for_its_own_answer_and_grows_with_distance(task):
    teacher = torch.randn(2, 9, 4, 5)
    near, far = (teacher + step * torch.randn_like(teacher) for step in (0.1, 1.0))
    assert task.soft(teacher, teacher).item() == pytest.approx(0, abs=1e-5)
    assert 0 < task.soft(near, teacher).item() < task.soft(far, teacher).item()


def test_the_divergence_of_pixels_is_that_of_their_distributions():
    ours, theirs = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    p, q = theirs.softmax(1).double(), ours.softmax(1).double()
    expected = sum(
        (p[n, k, y, x] * (p[n, k, y, x] / q[n, k, y, x]).log()).item()
        for n in range(2) for k in range(3) for y in range(2) for x in range(2)
    ) / 8  # fmt: skip
    assert SEGMENTATION.soft(ours, theirs).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_loss_is_0_and_not_an_error_where_nothing_is_known(task):
    assert task.loss(torch.randn(2, 9, 4, 5), Truth(None)).item() == 0


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_tasks_network_answers_frames_in_multiples_of_8(task):
    output = task.network(8, 9)(torch.rand(1, 3, 24, 40))
    assert output.shape == ((1, 9, 24, 40) if task is SEGMENTATION else (1, 12, 6, 10))


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_network_that_is_held_against_its_own_answers_is_always_right(task):
    output = torch.randn(3, 9, 8, 8) * 4
    if task is DETECTION:
        output[:, -4:] = 0.3 * torch.rand(3, 4, 8, 8)
    assert task.compare(output, task.answers(output), classes=9).value == pytest.approx(1, abs=0.05)


def test_a_metric_without_truth_says_what_is_missing():
    with pytest.raises(ValueError, match="needs a data set with labels"):
        SEGMENTATION.compare(torch.randn(1, 3, 2, 2), Truth(None), classes=3)
    with pytest.raises(ValueError, match="needs a data set with boxes"):
        DETECTION.compare(torch.randn(1, 7, 2, 2), Truth(None), classes=3)


def test_the_truth_of_a_batch_is_in_the_order_of_its_frames():
    labels = torch.arange(2 * 3).reshape(2, 3, 1, 1)
    boxes = tuple(tuple(torch.full((1, 4), 10.0 * b + t) for t in range(3)) for b in range(2))
    kinds = tuple(tuple(torch.tensor([b + t + 1]) for t in range(3)) for b in range(2))
    batch = DenseBatch(torch.rand(2, 3, 3, 1, 1), labels, boxes, kinds)
    every = Truth.of(batch)
    assert every.labels.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert [row[0, 0].item() for row in every.boxes] == [0, 1, 2, 10, 11, 12]
    last = Truth.of(batch, frame=-1)
    assert last.labels.flatten().tolist() == [2, 5]
    assert [row[0, 0].item() for row in last.boxes] == [2, 12]
    assert [row.item() for row in Truth.of(batch, frame=0).box_labels] == [1, 2]


def test_a_task_is_had_by_its_name_where_the_data_has_what_it_needs():
    assert task_of("detection", data="tabletop") is DETECTION
    assert task_of("segmentation", data="camvid") is SEGMENTATION
    with pytest.raises(ValueError, match='learns from boxes, which camvid does not have: take data "tabletop"'):
        task_of("detection", data="camvid")
    with pytest.raises(ValueError, match="task is one of segmentation, detection, got 'boxes'"):
        task_of("boxes", data="tabletop")
