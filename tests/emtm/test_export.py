"""The exports, run as a stranger runs them: by torch and by onnxruntime alone, on several sizes."""

import importlib.util

import pytest
import torch

from tests.emtm.students import saved, world
from vkdlab.emtm.export import INPUTS, export_student
from vkdlab.emtm.student_files import load_student
from vkdlab.files import read_json

SIZES = [(1, 1, 1), (1, 64, 64), (3, 20, 9), (5, 33, 1), (1, 2, 40)]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    dataset = world().train
    saved(folder, dataset, columns=dataset.columns["dis-flow"])
    return load_student(folder)


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return export_student(student, folder), folder


def inputs(batch, clips, words):
    """Features as extracted, and masks that leave every row another number of steps."""
    rows = torch.arange(batch)[:, None]
    return (
        torch.randn(batch, clips, 320),
        torch.arange(clips) < (clips - 3 * rows).clamp(min=1),
        torch.randn(batch, words, 384),
        torch.arange(words) < (words - 2 * rows).clamp(min=1),
    )


def eager(student, video, video_mask, query, query_mask):
    """The student itself, on features standardised by hand."""
    first, last = student.seen
    video = (video - student.standardisation.mean[first:last]) / student.standardisation.std[first:last]
    with torch.no_grad():
        output = student.network(video, video_mask, query, query_mask)
    return output.start_logits.softmax(1), output.end_logits.softmax(1)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_torch_runs_the_export_at_any_size_with_the_students_answer(student, exported, size):
    program = torch.export.load(exported[0]["torch"]).module()
    given = inputs(*size)
    for theirs, ours in zip(program(*given), eager(student, *given), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_onnxruntime_runs_the_export_at_any_size_with_the_students_answer(student, exported, size):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported[0]["onnx"], providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == list(INPUTS)
    assert [given.name for given in session.get_outputs()] == ["start_probs", "end_probs"]
    given = inputs(*size)
    found = session.run(None, {name: value.numpy() for name, value in zip(INPUTS, given, strict=True)})
    for theirs, ours in zip(found, eager(student, *given), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-6)
        assert (theirs[~given[1].numpy()] == 0).all()


def test_what_was_compared_and_how_far_it_was_is_recorded(exported):
    paths, folder = exported
    record = read_json(folder / "export.json")
    assert set(record["greatest_difference"]) == set(paths) == {"torch", "onnx"}
    assert all(0 <= difference <= 1e-5 for difference in record["greatest_difference"].values())
    assert {"b": 1, "l": 64, "w": 64} in record["compared"]
    assert any(shape["b"] > 1 for shape in record["compared"])
    assert record["inputs"]["video"].startswith("float32 (b, l, 320)")
    assert record["features"] == ["dis-flow"]


def test_another_format_is_refused(student, tmp_path):
    with pytest.raises(ValueError, match="a student is exported as torch or onnx, not as 'tflite'"):
        export_student(student, tmp_path, formats=["torch", "tflite"])


def test_without_the_packages_for_onnx_the_command_that_installs_them_is_named(student, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else find(name, *rest))
    with pytest.raises(ModuleNotFoundError, match=r"needs onnx: pip install -c constraints.txt -e '\.\[export\]'"):
        export_student(student, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_student_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="Train one: vkdlab run 03_kau_weights"):
        export_student(tmp_path, tmp_path / "out")
