import json
import re
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import vkdlab
from vkdlab.runs import Run, code_hash, machine
from vkdlab.weights import load_tensors, load_weights, save_tensors, save_weights


@dataclass(frozen=True)
class Config:
    lr: float = 0.1
    layers: tuple[int, ...] = (1, 2)


def test_a_run_is_found_again_by_name_configuration_data_and_version(tmp_path):
    first = Run.open("teacher", Config(), data="abc", runs_dir=tmp_path)
    assert re.fullmatch("teacher-[0-9a-f]{12}", first.folder.name)
    assert Run.open("teacher", {"layers": [1, 2], "lr": 0.1}, data="abc", runs_dir=tmp_path).folder == first.folder
    others = [
        Run.open("student", Config(), data="abc", runs_dir=tmp_path),
        Run.open("teacher", Config(lr=0.2), data="abc", runs_dir=tmp_path),
        Run.open("teacher", Config(), data="abd", runs_dir=tmp_path),
        Run.open("teacher", Config(), data="abc", runs_dir=tmp_path, version="2"),
    ]
    assert len({first.folder, *(run.folder for run in others)}) == 5
    assert first.config == {"name": "teacher", "config": {"lr": 0.1, "layers": [1, 2]}, "data": "abc", "version": ""}


def test_runs_lie_in_the_cache_when_no_folder_is_given(monkeypatch, tmp_path):
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path))
    assert Run.open("a", {}, data="").folder.parent == tmp_path / "runs"


def test_a_new_run_is_open_and_has_no_metrics(tmp_path):
    run = Run.open("a-b", {}, data="", runs_dir=tmp_path)
    assert (run.done, run.info, run.metrics, run.name) == (False, {}, {}, "a-b")
    assert repr(run).endswith(", open)")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        run.load_model(nn.Linear(1, 1))


def test_metrics_are_added_by_name(tmp_path):
    run = Run.open("a", {}, data="", runs_dir=tmp_path)
    run.save_metrics({"val/mIoU": 0.5, "test/mIoU": 0.1})
    run.save_metrics({"test/mIoU": 0.4})
    assert run.metrics == {"val/mIoU": 0.5, "test/mIoU": 0.4}
    run.save_metrics({"test/R5@0.5": float("nan")})
    assert run.metrics["test/R5@0.5"] is None


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a b"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="a run's name has letters, digits"):
        Run.open(name, {}, data="", runs_dir=tmp_path)


def test_a_configuration_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(TypeError, match="has no plain form"):
        Run.open("a", {"loss": nn.Linear}, data="", runs_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_come_back_bit_for_bit_whatever_their_type_and_shape(tmp_path):
    tensors = {
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(1.5),
        "half": torch.rand(3).bfloat16(),
        "whole": torch.arange(4),
        "flags": torch.tensor([True, False]),
        "strided": torch.rand(3, 4).t(),
    }
    tensors["tied"] = tensors["strided"]
    save_tensors(tmp_path / "x.safetensors", tensors, state={"epoch": 1, "loss": 0.1})
    found, state = load_tensors(tmp_path / "x.safetensors")
    assert state == {"epoch": 1, "loss": 0.1}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_tied_weights_are_saved_and_stay_tied(tmp_path):
    def tied():
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        module[1].weight = module[0].weight
        return module

    first, second = tied(), tied()
    save_weights(first, tmp_path / "x.safetensors")
    load_weights(second, tmp_path / "x.safetensors")
    assert torch.equal(second[1].weight, first[0].weight)
    assert second[0].weight is second[1].weight


def test_weights_that_do_not_fit_are_named_with_both_sides(tmp_path):
    path = tmp_path / "x.safetensors"
    save_weights(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), path)
    other = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    before = other[0].bias.clone()
    with pytest.raises(ValueError, match="does not fit Sequential") as caught:
        load_weights(other, path)
    for part in (
        "x.safetensors",
        "0.weight is (4, 3) in the file and (4, 5) in the module",
        "1.weight is (2, 4) in the file and (4,) in the module",
        "missing 1.running_mean (4,)",
        "Build the module with the configuration",
    ):
        assert part in str(caught.value)
    assert torch.equal(other[0].bias, before), "nothing was copied"
    with pytest.raises(ValueError, match=r"unexpected 1\.weight \(2, 4\)"):
        load_weights(nn.Sequential(nn.Linear(3, 4)), path)


def test_weights_in_a_pickle_are_refused_and_never_unpickled(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(ValueError, match=r"model\.pt is a pickle .*not unpickled.*safetensors\.torch\.save_file"):
        load_weights(nn.Linear(2, 2), path)


def test_safetensors_of_another_writer_are_refused(tmp_path):
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "x.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"was not written by vkdlab: its header has \['format'\]"):
        load_weights(nn.Linear(2, 2), tmp_path / "x.safetensors")


def test_a_header_as_long_as_a_pickle_begins_is_still_safetensors(tmp_path):
    for length in range(0, 600):
        save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)}, state="x" * length)
        assert load_tensors(tmp_path / "x.safetensors")[1] == "x" * length
        if (tmp_path / "x.safetensors").read_bytes()[:1] == b"\x80":
            return
    pytest.fail("no header began like a pickle")


def test_the_machine_is_described_in_words_that_can_be_written(tmp_path):
    found = machine()
    assert re.fullmatch(r"\d+-core \S+, \S+, .+", found["kind"])
    assert found["versions"]["vkdlab"] == vkdlab.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    json.dumps(found)


def test_the_code_hash_is_stable():
    assert code_hash() == code_hash()
    assert re.fullmatch("[0-9a-f]{16}", code_hash())
