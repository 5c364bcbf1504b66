"""The detector: targets worked out by hand, what it says read back, and that it learns."""

import numpy as np
import pytest
import torch

from vkdlab.delta import convert
from vkdlab.delta.detector import DetectionConfig, DetectionNetwork, detection_loss, generalised_iou, sides, targets
from vkdlab.dense_metrics import AveragePrecision
from vkdlab.metrics import Mean


def perfect(boxes, labels, *, classes, height, width):
    """The map that says exactly these boxes."""
    output = torch.full((len(boxes), classes + 4, height, width), -9.0)
    y, x = (torch.arange(n) * 4 + 2.0 for n in (height, width))
    for b, (rows, kinds) in enumerate(zip(boxes, labels, strict=True)):
        for box, kind in zip(rows, kinds, strict=True):
            j, i = (int(value) for value in ((box[1] + box[3]) / 8, (box[0] + box[2]) / 8))
            output[b, kind - 1, j, i] = 9
            away = torch.stack([x[i] - box[0], y[j] - box[1], box[2] - x[i], box[3] - y[j]])
            output[b, classes:, j, i] = (away / 16).log()
    return output


BOXES = [torch.tensor([[4.0, 8, 28, 30], [40, 4, 60, 44]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([2, 1]), torch.zeros(0, dtype=torch.long)]


def test_what_a_perfect_map_says_is_read_back():
    network = DetectionNetwork(DetectionConfig(3, width=4))
    first, second = network.decode(perfect(BOXES, LABELS, classes=3, height=12, width=16))
    assert sorted(first.labels.tolist()) == [1, 2]
    order = first.labels.argsort(descending=True)
    torch.testing.assert_close(first.boxes[order], BOXES[0])
    assert first.scores.min() > 0.99
    assert len(second.boxes) == len(second.scores) == len(second.labels) == 0


def test_boxes_are_kept_within_the_picture_and_the_best_come_first():
    output = torch.full((1, 5, 4, 4), -9.0)
    output[0, 0, 0, 0], output[0, 0, 3, 3] = 1.0, 2.0
    output[0, 1:] = 0  # 16 pixels to every side
    network = DetectionNetwork(DetectionConfig(1, width=4))
    (found,) = network.decode(output)
    assert found.scores.tolist() == pytest.approx([0.8808, 0.7311], abs=1e-4)
    assert found.boxes.tolist() == [[0, 0, 16, 16], [0, 0, 16, 16]]
    assert len(network.decode(output, most=1)[0].scores) == 1
    assert len(network.decode(output, least=0.8)[0].scores) == 1


def test_a_peak_is_the_greatest_of_its_class_among_its_neighbours():
    output = torch.full((1, 6, 4, 4), -9.0)
    output[0, 0, 1, 1], output[0, 0, 1, 2], output[0, 1, 2, 2] = 3.0, 2.0, 1.0
    (found,) = DetectionNetwork(DetectionConfig(2, width=4)).decode(output)
    assert found.labels.tolist() == [1, 2]


def test_targets_are_a_gaussian_at_each_centre():
    heat, box, weight = targets(BOXES, LABELS, classes=3, height=12, width=16)
    assert heat[0, 1, 4, 4] == heat[0, 0, 6, 12] == 1
    spread = 24 * 0.15 / 4
    assert heat[0, 1, 4, 5].item() == pytest.approx(np.exp(-((1 / spread) ** 2) / 2), rel=1e-5)
    assert (box[0, :, 4, 4] == BOXES[0][0]).all()
    assert weight[0].sum().item() == pytest.approx(2)
    assert heat[1].max() == weight[1].max() == 0


def test_where_two_things_lie_upon_each_other_the_smaller_has_the_box():
    boxes = [torch.tensor([[14.0, 14, 26, 26], [0, 0, 40, 40]])]
    _, box, weight = targets(boxes, [torch.tensor([1, 1])], classes=1, height=10, width=10)
    assert (box[0, :, 5, 5] == boxes[0][0]).all()
    assert 1 < weight.sum() < 2


def test_the_loss_of_a_perfect_map_is_near_zero_and_of_a_shifted_one_is_not():
    right = perfect(BOXES, LABELS, classes=3, height=12, width=16)
    _, box, weight = targets(BOXES, LABELS, classes=3, height=12, width=16)
    for b, j, i in weight.nonzero().tolist():
        x0, y0, x1, y1 = box[b, :, j, i].tolist()
        x, y = 4 * i + 2, 4 * j + 2
        right[b, 3:, j, i] = (torch.tensor([x - x0, y - y0, x1 - x, y1 - y]) / 16).log()
    lost = detection_loss(right, BOXES, LABELS)
    assert lost["heat"] < 0.01
    assert lost["box"] < 1e-5
    assert lost["total"].item() == pytest.approx((lost["heat"] + 5 * lost["box"]).item())
    shifted = detection_loss(right.roll(3, dims=-1), BOXES, LABELS)
    assert shifted["heat"] > 1
    assert shifted["box"] > lost["box"]


def test_a_batch_without_things_has_a_loss_that_can_be_minimised():
    output = torch.zeros(2, 7, 4, 4, requires_grad=True)
    nothing = [torch.zeros(0, 4)] * 2
    lost = detection_loss(output, nothing, [torch.zeros(0, dtype=torch.long)] * 2)
    lost["total"].backward()
    assert lost["box"] == 0
    assert torch.isfinite(output.grad).all()
    assert (output.grad[:, :3] > 0).all()


def test_generalised_iou_is_worked_out_by_hand():
    """Equal: 1. Side by side, touching: 0. Two unit squares three apart: the hull is 4, the union 2."""
    a = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]])[:, :, None, None]
    b = torch.tensor([[0.0, 0, 1, 1], [1, 0, 2, 1], [3, 0, 4, 1]])[:, :, None, None]
    torch.testing.assert_close(generalised_iou(a, b).flatten(), torch.tensor([1, 0, -0.5]), atol=1e-5, rtol=0)


def test_sides_are_distances_from_the_middle_of_each_place():
    found = sides(torch.zeros(1, 4, 2, 3))
    assert found[0, :, 1, 2].tolist() == [10 - 16, 6 - 16, 10 + 16, 6 + 16]


def test_bad_things_and_configurations_are_refused():
    with pytest.raises(ValueError, match="labels from 1 to 3"):
        targets([torch.tensor([[0.0, 0, 4, 4]])], [torch.tensor([0])], classes=3, height=4, width=4)
    with pytest.raises(ValueError, match="boxes x0 < x1"):
        targets([torch.tensor([[4.0, 0, 4, 4]])], [torch.tensor([1])], classes=3, height=4, width=4)
    with pytest.raises(ValueError, match="classes and width must be at least 1"):
        DetectionConfig(0)
    with pytest.raises(ValueError, match="two or more numbers"):
        DetectionConfig(2, multiples=(1,))
    with pytest.raises(ValueError, match="multiples of 4, got 18 and 16"):
        DetectionNetwork(DetectionConfig(1, width=4, multiples=(1, 2)))(torch.rand(1, 3, 18, 16))


def test_it_can_be_converted_with_its_batch_norms_folded():
    network = DetectionNetwork(DetectionConfig(3, width=4, multiples=(1, 2, 2))).eval()
    converted = convert(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in converted.modules())
    frame = torch.rand(1, 3, 32, 24)
    torch.testing.assert_close(converted(frame)[0], network(frame), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_it_learns_to_find_two_kinds_of_squares():
    network = DetectionNetwork(DetectionConfig(2, width=8, multiples=(1, 2, 2)))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.005)

    def batch(count):
        frames, boxes, labels = torch.rand(count, 3, 48, 64) * 0.2, [], []
        for i in range(count):
            x, y = torch.randint(0, 40, ()).item(), torch.randint(0, 24, ()).item()
            side, kind = torch.randint(12, 24, ()).item(), torch.randint(1, 3, ()).item()
            frames[i, kind, y : y + side, x : x + side] += 0.7
            boxes.append(torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32))
            labels.append(torch.tensor([kind]))
        return frames, boxes, labels

    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.005 * (1 - step / 200)
        frames, boxes, labels = batch(8)
        optimiser.zero_grad()
        detection_loss(network(frames), boxes, labels)["total"].backward()
        optimiser.step()
    network.eval()
    frames, boxes, labels = batch(16)
    total = Mean()
    for found, box, label in zip(network.decode(network(frames)), boxes, labels, strict=True):
        total = total + AveragePrecision.of(
            found.boxes.numpy(),
            found.scores.numpy(),
            found.labels.numpy() - 1,
            true_boxes=box.numpy(),
            true_labels=label.numpy() - 1,
            classes=2,
        )
    assert total.value > 0.9
