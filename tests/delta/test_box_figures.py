"""Boxes drawn over frames: what is on the sheet, worked out by hand."""

import numpy as np
import pytest
import torch

from vkdlab.data.dense import load_dense
from vkdlab.delta import convert, found_boxes
from vkdlab.delta.box_figures import boxes
from vkdlab.delta.boxes import boxes_of
from vkdlab.delta.detector import Detections
from vkdlab.delta.evaluate import Measured
from vkdlab.delta.figures import consistent
from vkdlab.delta.tasks import DETECTION
from vkdlab.metrics import Mean

CLASSES = ("table", "cup", "ball", "block")
FRAMES = np.zeros((2, 40, 60, 3), np.uint8)


def found(*rows):
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


CUP, BALL = (0, 0, 10, 10), (30, 20, 50, 40)
SEEN = {
    "truth": [found((*CUP, 1, 1), (*BALL, 1, 2)), found((*CUP, 1, 1))],
    "teacher": [found((*CUP, 0.9, 1), (*BALL, 0.8, 2)), found((*CUP, 0.7, 1))],
    "delta": [found((*CUP, 0.6, 1), (*BALL, 0.5, 3)), found((2, 0, 12, 10, 0.4, 1))],
}


def trace(figure, name):
    (one,) = [each for each in figure.data if each.name == name]
    return one


def test_a_box_lies_where_its_picture_lies_and_a_click_hides_its_class():
    figure = boxes(FRAMES, SEEN, classes=CLASSES)
    assert [each.name for each in figure.data if each.name] == ["cup", "ball", "block", "teacher alone", "delta alone"]
    ball = trace(figure, "ball")  # in the first picture of the first and of the second row
    left, right, top, bottom = (0.02 + 0.96 * edge for edge in (30 / 60, 50 / 60, 20 / 40, 40 / 40))
    assert ball.x[:5] == pytest.approx([left, right, right, left, left])
    assert ball.y[:5] == pytest.approx([top, top, bottom, bottom, top])
    assert ball.y[6:11] == pytest.approx([1 + y for y in ball.y[:5]])
    assert len(ball.x) == 12
    assert ball.text[6] == "ball, score 0.80"
    assert len({trace(figure, name).line.color for name in ("cup", "ball", "block")}) == 3
    assert all(image.layer == "below" for image in figure.layout.images)


def test_truth_is_named_and_what_was_found_carries_its_score():
    figure = boxes(FRAMES, SEEN, classes=CLASSES)
    said = [each.text for each in figure.layout.annotations]
    assert sorted(said) == sorted(
        ["cup", "cup", "ball", "0.90", "0.70", "0.80", "0.60", "0.40", "0.50", "ball", "block"]
    )


def test_what_one_source_sees_alone_is_marked_and_counted():
    figure = boxes(FRAMES, SEEN, classes=CLASSES, names=["key frame", "1 after"], subtitle="here")
    assert figure.layout.title.text.startswith("Delta and teacher agree on 67 % of their 6 boxes, least in “key frame”")
    assert figure.layout.title.subtitle.text.startswith("here; numbers: scores")
    assert figure.layout.xaxis.ticktext == ("key frame<br>2 alone", "1 after<br>0 alone")
    assert figure.layout.yaxis.ticktext == ("truth", "teacher", "delta", "differ")
    for name, label in (("teacher alone", "ball"), ("delta alone", "block")):
        alone = trace(figure, name)
        assert len(alone.x) == 6
        assert min(y for y in alone.y if y is not None) > 3  # the last row
        assert alone.text[0].startswith(label)


def test_nothing_seen_is_said_and_all_agreeing_has_no_least():
    nothing = {"teacher": [found(), found()], "delta": [found(), found()]}
    figure = boxes(FRAMES, nothing, classes=CLASSES)
    assert figure.layout.title.text.startswith("Neither delta nor teacher sees a thing")
    same = boxes(FRAMES, {"teacher": SEEN["teacher"], "delta": SEEN["teacher"]}, classes=CLASSES)
    assert same.layout.title.text == "Delta and teacher agree on 100 % of their 6 boxes"


def test_of_many_classes_the_frequent_ones_are_told_apart():
    classes = ("table", *(f"thing {k}" for k in range(1, 31)))
    many = found(*[(0, 0, 9, 9, 0.9, k) for k in range(1, 31)], *[(0, 0, 9, 9, 0.9, k) for k in range(20, 31)])
    figure = boxes(FRAMES[:1], {"teacher": [many], "delta": [many]}, classes=classes)
    names = [each.name for each in figure.data if each.name]
    assert len(names) == 15
    assert {f"thing {k}" for k in range(20, 31)} <= set(names)
    assert names[-1] == "other classes"


def test_sources_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="'teacher' before it"):
        boxes(FRAMES, {"delta": SEEN["delta"]}, classes=CLASSES)
    with pytest.raises(ValueError, match=r"expected 2 answers from every source.*'delta': 1"):
        boxes(FRAMES, {"teacher": SEEN["teacher"], "delta": SEEN["delta"][:1]}, classes=CLASSES)
    with pytest.raises(ValueError, match="as many names"):
        boxes(FRAMES, SEEN, classes=CLASSES, names=["one"])


def test_found_boxes_are_those_of_the_networks_run_by_hand():
    dense = load_dense("tabletop", "test", profile="smoke", size=(48, 32), every=8, progress=False)
    torch.manual_seed(0)
    teacher = DETECTION.network(8, 9).eval()
    torch.nn.init.zeros_(teacher.head.bias)  # unlike a new one's, sure enough of everything
    network = convert(teacher)
    seen = found_boxes(network, dense, [3, 4])
    frame = [torch.from_numpy(dense.frame(i)).permute(2, 0, 1)[None] / 255 for i in (3, 4)]
    with torch.inference_mode():
        streamed = [boxes_of(each)[0] for each in network.stream(frame, period=9)]
        alone = [boxes_of(network.reference(each))[0] for each in frame]
    for source, expected in (("delta", streamed), ("teacher", alone)):
        assert len(seen[source]) == 2
        assert len(seen[source][0].labels)
        for one, other in zip(seen[source], expected, strict=True):
            assert torch.equal(one.labels, other.labels)
            assert torch.allclose(one.boxes, other.boxes, atol=1e-3)
    np.testing.assert_array_equal(seen["truth"][1].boxes, dense.boxes(4)[0])


def test_consistency_of_boxes_is_not_called_an_iou():
    measured = {
        name: Measured("boxes that meet one", (Mean(3, 4), Mean(hits, 4)))
        for name, hits in (("teacher", 3), ("delta", 4))
    }
    figure = consistent(measured)
    assert "12.5 points more consistent" in figure.layout.title.text
    assert "IoU" not in figure.layout.title.text
    assert figure.layout.yaxis.title.text == "boxes that meet one (%)"


def test_detectors_that_find_nothing_are_not_compared():
    measured = {name: Measured("boxes that meet one", (Mean(), Mean())) for name in ("teacher", "delta")}
    assert consistent(measured).layout.title.text.startswith("Nothing was found")
