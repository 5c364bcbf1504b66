"""A student's folder is used only when it is whole, of its method and version; the rooms test what is their own."""

import os
from dataclasses import replace

import pytest
import torch

from vkdlab.files import read_json, write_json
from vkdlab.runs import Run
from vkdlab.student_files import StudentFiles
from vkdlab.weights import save_tensors

FILES = StudentFiles(what="toy network", runs="toy-student-*", train_one="Train one: vkdlab run toys", version=3)
METHODICAL = replace(FILES, method="toy")
CURE = r"\. Train one: vkdlab run toys$"


def saved(folder, *, files=FILES, value=1.0, **settings):
    """A folder with a student, as a room would leave it."""
    save_tensors(folder / "student.safetensors", {"weight": torch.full((2,), value)})
    given = {"version": files.version, "size": 7} | ({"method": files.method} if files.method else {}) | settings
    files.complete(folder, given, card="# A toy\n")
    return folder


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path / "student")


@pytest.mark.parametrize("files", [FILES, METHODICAL], ids=["without a method", "with one"])
def test_what_was_written_is_read(tmp_path, files):
    folder = saved(tmp_path, files=files)
    settings = files.read(folder)
    assert (settings["version"], settings["size"], settings.get("method")) == (3, 7, files.method)
    assert files.read(str(folder)) == settings
    assert (folder / "README.md").read_text() == "# A toy\n"


def test_a_student_is_replaced_by_a_newer_one(folder):
    assert FILES.read(saved(folder, value=2.0, size=8))["size"] == 8


def test_without_weights_nothing_is_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        FILES.complete(tmp_path, {"version": 3}, card="# A toy\n")
    assert not any(tmp_path.iterdir())


def test_a_training_that_is_killed_before_the_settings_leaves_no_student(tmp_path):
    save_tensors(tmp_path / "student.safetensors", {"weight": torch.ones(2)})
    with pytest.raises(TypeError, match="no plain form"):
        FILES.complete(tmp_path, {"version": 3, "size": object()}, card="# A toy\n")
    with pytest.raises(FileNotFoundError, match=r"student\.json is missing"):
        FILES.read(tmp_path)


def test_a_folder_that_is_none_says_how_to_get_a_student(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no is no folder of a student{CURE}"):
        FILES.read(tmp_path / "no")


@pytest.mark.parametrize("name", ["student.json", "student.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"student holds no trained toy network: {name} is missing{CURE}"):
        FILES.read(folder)


def test_damaged_weights_are_refused(folder):
    path = folder / "student.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"student\.safetensors is damaged, or not what student\.json was written with{CURE}"
    ):
        FILES.read(folder)


def test_weights_of_another_training_are_refused(folder, tmp_path):
    other = saved(tmp_path / "other", value=2.0)
    os.replace(other / "student.safetensors", folder / "student.safetensors")
    with pytest.raises(ValueError, match=rf"not what student\.json was written with{CURE}"):
        FILES.read(folder)


def test_settings_without_a_hash_are_refused(folder):
    settings = read_json(folder / "student.json")
    del settings["weights_sha256"]
    write_json(folder / "student.json", settings)
    with pytest.raises(ValueError, match=rf"not what student\.json was written with{CURE}"):
        FILES.read(folder)


@pytest.mark.parametrize("content", ["{", '{"version": 3, "si', ""])
def test_settings_that_are_no_json_are_refused(folder, content):
    (folder / "student.json").write_text(content)
    with pytest.raises(ValueError, match=r"student\.json is not valid JSON"):
        FILES.read(folder)


@pytest.mark.parametrize("version", [2, 4, "3", None])
def test_another_version_is_refused(folder, version):
    path = folder / "student.json"
    write_json(path, read_json(path) | {"version": version})
    with pytest.raises(ValueError, match=rf"student\.json is of version {version}, this vkdlab reads version 3{CURE}"):
        FILES.read(folder)


@pytest.mark.parametrize(
    ("written", "read"),
    [(FILES, METHODICAL), (METHODICAL, FILES), (replace(FILES, method="doll"), METHODICAL)],
    ids=["none", "one where none is meant", "another"],
)
def test_a_student_of_another_method_is_refused(tmp_path, written, read):
    folder = saved(tmp_path / "student", files=written)
    with pytest.raises(ValueError, match=f"student holds a student of another method, no toy network{CURE}"):
        read.read(folder)


@pytest.mark.parametrize(
    ("files", "message"), [(FILES, "student.json is of version None"), (METHODICAL, "of another method")]
)
def test_settings_that_are_no_mapping_are_refused(folder, files, message):
    write_json(folder / "student.json", [1])
    with pytest.raises(ValueError, match=message):
        files.read(folder)


@pytest.mark.parametrize(
    "fault", [lambda: {}["size"], lambda: int([]), lambda: (1).size, lambda: int("x")],
    ids=["KeyError", "TypeError", "AttributeError", "ValueError"],
)  # fmt: skip
def test_what_settings_of_another_form_lead_to_is_one_error(request, tmp_path, fault):
    name = request.node.callspec.id
    with (
        pytest.raises(ValueError, match=rf"student\.json is not as this vkdlab writes it \({name}\(.*\)\){CURE}"),
        FILES.explained(tmp_path),
    ):
        fault()


def test_other_faults_than_those_of_settings_pass_through(tmp_path):
    with pytest.raises(MemoryError), FILES.explained(tmp_path):
        raise MemoryError


def test_the_latest_student_is_that_of_these_runs_whose_training_ended_last(tmp_path):
    for place, (name, status) in enumerate(
        [
            ("toy-student-old", "done"),
            ("toy-student-new", "done"),
            ("toy-student-open", "training"),
            ("toy-teacher", "done"),
        ]
    ):
        run = Run.open(name, {}, data="", runs_dir=tmp_path)
        run.note(status=status)
        os.utime(saved(run.folder) / "student.json", (1e9 + place, 1e9 + place))
    Run.open("toy-student-bare", {}, data="", runs_dir=tmp_path).note(status="done")
    assert FILES.latest(tmp_path).name.startswith("toy-student-new-")


def test_where_no_student_was_trained_the_cure_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no trained toy network in {tmp_path}{CURE}"):
        FILES.latest(tmp_path)


def test_runs_are_looked_for_in_the_cache_where_no_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path))
    run = Run.open("toy-student", {}, data="")
    saved(run.folder)
    run.note(status="done")
    assert FILES.latest() == run.folder
