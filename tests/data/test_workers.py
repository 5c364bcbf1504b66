"""Work in processes: the same answers as in one, errors that name the item, and nobody left behind."""

import errno
import os
import subprocess
import sys
import time
import warnings

import pytest

from vkdlab.data import workers
from vkdlab.data.workers import only_one, work

JOBS = """
import os, signal, time

def begin(setup):
    def task(name, value):
        print("what a library prints is no answer")
        os.system("echo neither is what a program prints")
        if value == "damaged":
            raise ValueError(f"{name}: cannot be decoded")
        if value == "full":
            raise OSError(28, "No space left on device")
        if value == "mistake":
            raise ZeroDivisionError("a mistake")
        if value == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if value == "slow":
            time.sleep(600)
        return [setup["folder"], name, value, os.environ["OMP_NUM_THREADS"]]
    return task

def broken(setup):
    raise OSError(13, f"{setup} cannot be opened")
"""


@pytest.fixture(autouse=True)
def jobs(tmp_path, monkeypatch):
    """A module `jobs_of_test` that this process and its workers can import, and one thread."""
    (tmp_path / "jobs_of_test.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    sys.modules.pop("jobs_of_test", None)


def do(items, *, count=2, start="begin"):
    return work(f"jobs_of_test:{start}", {"folder": "f ä"}, items, workers=count, label="test", progress=False)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_item_is_answered_once_with_any_number_of_processes(count):
    items = {f"item {number} é": number for number in range(4)}
    expected = [["f ä", name, value, "1"] for name, value in items.items()]
    assert sorted(do(items, count=count)) == expected


def test_no_item_starts_nothing():
    assert do({}) == []


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [("damaged", ValueError, "^item: cannot be decoded$"), ("full", OSError, "No space left on device")],
)
def test_what_a_user_has_to_mend_comes_back_as_it_was_raised(count, value, kind, message):
    with pytest.raises(kind, match=message) as caught:
        do({"first": 1, "item": value, "third": 3}, count=count)
    if kind is OSError:
        assert caught.value.errno == errno.ENOSPC


def test_a_mistake_of_ours_names_the_item():
    with pytest.raises(RuntimeError, match=r"item: ZeroDivisionError: a mistake\. What was finished is kept"):
        do({"first": 1, "item": "mistake"})


def test_a_process_that_cannot_begin_says_why():
    with pytest.raises(PermissionError, match="cannot be opened"):
        do({"first": 1, "second": 2}, start="broken")


def test_a_killed_process_is_told_with_its_item_and_the_cure():
    with pytest.raises(ChildProcessError, match=r"'item'.*the same call goes on.*pass workers=1"):
        do({"item": "killed", "other": 1})


def test_an_error_ends_the_other_processes_at_once_and_leaves_none(monkeypatch):
    started = []
    start = workers._start
    monkeypatch.setattr(workers, "_start", lambda *given: started.append(start(*given)) or started[-1])
    before = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="cannot be decoded"):
            do({"waits": "slow", "item": "damaged"})
    assert time.monotonic() - before < 30
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)
    assert all(process.stdin.closed and process.stdout.closed for process in started)


def test_a_process_that_does_not_stop_when_told_is_killed(tmp_path, monkeypatch):
    (tmp_path / "jobs_of_test.py").write_text(
        JOBS.replace("def begin(setup):", "def begin(setup):\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    )
    monkeypatch.setattr(workers, "_PATIENCE_S", 0.5)
    with pytest.raises(ValueError, match="cannot be decoded"):
        do({"waits": "slow", "item": "damaged"})


def test_files_beside_the_caller_that_are_named_like_modules_are_not_imported(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("json", "vkdlab", "queue"):
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(folder)
    assert len(do({"first": 1, "second": 2})) == 2


@pytest.mark.parametrize("count", [0, -1])
def test_the_number_of_processes_is_positive(count):
    with pytest.raises(ValueError, match=f"workers must be at least 1, was given {count}"):
        do({"first": 1}, count=count)


def test_a_folder_is_cleared_of_files_in_the_making_and_of_nothing_else(tmp_path):
    folder = tmp_path / "new" / "folder"
    folder.mkdir(parents=True)
    for name in (".half.mp4", "whole.mp4", ".gitignore"):
        (folder / name).write_text("")
    with only_one(folder, leftovers=(".*.mp4",)):
        assert {path.name for path in folder.iterdir()} == {".lock", ".gitignore", "whole.mp4"}


def test_two_processes_take_turns_in_a_folder(tmp_path):
    code = (
        "import sys; from pathlib import Path; from vkdlab.data.workers import only_one\n"
        "with only_one(Path(sys.argv[1]), leftovers=()): print('mine', flush=True)"
    )
    with only_one(tmp_path / "folder", leftovers=()):
        other = subprocess.Popen([sys.executable, "-c", code, tmp_path / "folder"], stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(3)
    said, _ = other.communicate(timeout=30)
    assert said == "mine\n"


def test_a_folder_that_cannot_be_made_is_named_with_the_cure(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(OSError, match=r"file.*folder cannot be written to: .*Choose another folder.*VKDLAB_CACHE"),
        only_one(tmp_path / "file" / "folder", leftovers=()),
    ):
        pass


def test_an_interrupted_caller_leaves_no_process(monkeypatch):
    started = []
    start = workers._start
    monkeypatch.setattr(workers, "_start", lambda *given: started.append(start(*given)) or started[-1])
    answers = workers._in_processes("jobs_of_test:begin", {"folder": ""}, {"a": 1, "b": "slow", "c": 2}, 2)
    assert next(answers)[1] == "a"
    answers.close()
    assert all(process.poll() is not None for process in started)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)
