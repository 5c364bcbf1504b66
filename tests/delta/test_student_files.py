import os

import pytest
import torch

from tests.delta.small_networks import Residual, video
from tests.delta.students import DETECTION, RECIPE, SEGMENTATION, network, saved, world
from vkdlab.delta import convert
from vkdlab.delta.espnet import ESPNet, ESPNetConfig
from vkdlab.delta.student_files import latest_student, load_student, save_student
from vkdlab.files import read_json, write_json
from vkdlab.runs import Run


@pytest.fixture(scope="module")
def dataset():
    return world()


@pytest.fixture
def folder(dataset, tmp_path):
    saved(tmp_path / "run", dataset)
    return tmp_path / "run"


@pytest.mark.parametrize("task", [SEGMENTATION, DETECTION], ids=["segmentation", "detection"])
@pytest.mark.parametrize("deployed", [False, True])
def test_a_saved_student_answers_as_before(dataset, tmp_path, task, deployed):
    made = network(dataset, task=task)
    made = made.deploy() if deployed else made
    save_student(tmp_path, made, task=task, dataset=dataset, period=3, metrics={"m": 0.5}, recipe=RECIPE)
    student = load_student(tmp_path)
    frames = video(4, size=(32, 48))
    for expected, found in zip(made.stream(frames), student.network.stream(frames), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(student.network.reference(frames[0]), made.reference(frames[0]))
    assert (student.task, student.classes, student.size, student.period) == (task, dataset.classes, (96, 72), 3)
    assert student.data == "tabletop smoke"
    assert student.multiple == 8
    assert not student.network.training
    assert not any(parameter.requires_grad for parameter in student.network.parameters())
    for expected, found in zip(made.stream(frames), student.deployed.stream(frames), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_an_espnet_is_kept_as_well(dataset, tmp_path):
    made = convert(ESPNet(ESPNetConfig(classes=9, second=1, third=1)))
    save_student(tmp_path, made, task=SEGMENTATION, dataset=dataset, metrics={"mIoU": 0.5}, recipe=RECIPE)
    student = load_student(tmp_path)
    frame = torch.rand(1, 3, 24, 32)
    assert torch.equal(student.network(frame)[0], made(frame)[0])
    assert student.multiple == 8


def test_a_network_of_another_kind_is_refused_and_nothing_written(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"made from one of SegmentationNetwork, .* not from Residual"):
        save_student(
            tmp_path, convert(Residual()), task=SEGMENTATION, dataset=dataset, metrics={"m": 1.0}, recipe=RECIPE
        )
    assert not any(tmp_path.iterdir())


def test_a_student_without_a_metric_is_refused_and_nothing_written(dataset, tmp_path):
    with pytest.raises(ValueError, match="a model card needs a seed and a metric"):
        save_student(tmp_path, network(dataset), task=SEGMENTATION, dataset=dataset, metrics={}, recipe=RECIPE)
    assert not any(tmp_path.iterdir())


def test_the_card_tells_data_classes_metric_cost_and_limits(dataset, folder):
    card = (folder / "README.md").read_text()
    made = load_student(folder).network
    share = 100 * made.deploy().macs_per_frame((3, 72, 96), 3) / made.costs((3, 72, 96)).teacher
    for expected in (
        "# Delta network of a SegmentationNetwork, trained on tabletop",
        f"| split | train: {len(dataset)} frames of 2 videos |",
        "| frames | 96x72 pixels, RGB |",
        "| classes | 9: table, cup,",
        "| seed | 3 |",
        "On the test split of tabletop, in per cent. One seed (3)",
        "| mIoU | 62.5 |",
        "a key frame every 3 frames | 0.0",
        f"({share:.0f} % of the teacher's)",
        "| tabletop (data) | Apache-2.0, as vkdlab |",
        "After a cut",
    ):
        assert expected in card, expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "is of version 0, this vkdlab reads version 1"),
        ({"network": "hrnet"}, "not as this vkdlab writes it"),
        ({"task": "depth"}, "not as this vkdlab writes it"),
        ({"size": 7}, "not as this vkdlab writes it"),
        ({"config": {"classes": 1}}, "classes must be at least 2"),
        ({"config": {"classes": 9, "width": 16, "multiples": [1, 2, 4]}}, "does not fit"),
    ],
)
def test_settings_that_are_not_ours_are_refused(folder, change, message):
    path = folder / "student.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(ValueError, match=message):
        load_student(folder)


def test_the_latest_student_is_of_the_run_that_ended_last(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no trained delta network in .*Train one: vkdlab run 04_delta"):
        latest_student(tmp_path)
    for place, (name, status) in enumerate(
        [("delta-a-1", "done"), ("delta-b-1", "done"), ("delta-c-1", "training"), ("emtm-student-1", "done")]
    ):
        saved(tmp_path / name, dataset)
        Run(tmp_path / name).note(status=status)
        os.utime(tmp_path / name / "student.json", (1e9 + place, 1e9 + place))
    assert latest_student(tmp_path) == tmp_path / "delta-b-1"
