"""A training that is stopped in any way goes on; what it left is never taken for something else."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.tiny import CONFIG, Classifier, Points, classifier, open_run, same_weights, train, without_times
from vkdlab.history import History
from vkdlab.training import Data, TrainConfig, fit
from vkdlab.weights import load_tensors, save_tensors

SCRIPT = """
import sys, torch
from tests.tiny import CONFIG, classifier, points
from vkdlab.runs import Run
from vkdlab.training import TrainConfig, fit

torch.set_num_threads(1)
folder, pause_s = sys.argv[1], float(sys.argv[2])
run = Run.open("tiny", {}, data="", runs_dir=folder)
config = TrainConfig(**CONFIG | {"checkpoint_every_s": 0.0})
print("ready", flush=True)
fit(classifier(pause_s=pause_s), points(), config, run=run, progress=False)
"""


def start(folder, *, pause_s=0.05):
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(folder), str(pause_s)]
    return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for_checkpoints(process, run, count):
    """Waits until `count` checkpoints were written since now; each replaces the file."""
    seen, last, deadline = 0, None, time.monotonic() + 60
    while seen < count and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint within a minute"
        try:
            number = run.checkpoint_path.stat().st_ino, run.checkpoint_path.stat().st_mtime_ns
        except FileNotFoundError:
            number = None
        if number != last:
            seen, last = seen + (number is not None), number
        time.sleep(0.002)


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_weights_bit_for_bit(tmp_path):
    expected, whole = train(tmp_path / "whole")
    run = open_run(tmp_path / "killed")
    chance = random.Random(3)
    kills = []
    for _ in range(3):
        process = start(tmp_path / "killed")
        wait_for_checkpoints(process, run, 1 + chance.randint(1, 7))
        time.sleep(chance.uniform(0, 0.06))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        state = load_tensors(run.checkpoint_path)[1]["state"]
        kills.append((state["epoch"], state["step"]))
    assert kills == sorted(kills)
    assert any(step for _, step in kills), "no kill met an epoch half way"
    found, history = train(tmp_path / "killed")
    assert same_weights(found, expected)
    assert without_times(history.rows) == without_times(whole.rows)
    assert [row["epoch"] for row in History.load(run.folder / "history.csv", best_epoch=1).rows] == [1, 2, 3, 4]
    assert not [path.name for path in run.folder.glob(".*.safetensors")]


def test_ctrl_c_keeps_the_state_and_the_next_call_goes_on(tmp_path):
    expected, whole = train(tmp_path / "whole")
    run = open_run(tmp_path / "stopped")
    process = start(tmp_path / "stopped")
    wait_for_checkpoints(process, run, 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert "the same call goes on from there" in errors.decode()
    assert run.info["status"] == "stopped"
    found, history = train(tmp_path / "stopped")
    assert same_weights(found, expected)
    assert without_times(history.rows) == without_times(whole.rows)
    assert run.done


class StopsItself(Classifier):
    """Sends Ctrl-C to its own process at one step or one validation batch."""

    stop_at = None

    def meet(self, place):
        self.places = [*getattr(self, "places", []), place]
        if self.stop_at == (place, self.places.count(place)):
            os.kill(os.getpid(), signal.SIGINT)

    def loss(self, batch):
        self.meet("loss")
        return super().loss(batch)

    def evaluate(self, batch):
        torch.rand(1)
        self.meet("evaluate")
        return super().evaluate(batch)


@pytest.mark.parametrize("stop_at", [("loss", 1), ("loss", 7), ("loss", 10), ("evaluate", 2), ("evaluate", 4)])
def test_ctrl_c_in_any_step_or_validation_leads_to_the_same_weights(tmp_path, stop_at):
    torch.manual_seed(0)
    expected, _ = train(tmp_path / "whole", method=StopsItself())
    torch.manual_seed(0)
    stopped = StopsItself()
    stopped.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt, match="stopped in epoch"):
        train(tmp_path / "stopped", method=stopped)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    found, _ = train(tmp_path / "stopped", method=StopsItself())
    assert same_weights(found, expected)


class Long(Points):
    """Points with a length each, so that batches are made by length."""

    lengths = tuple(1 + i * i % 7 for i in range(100))


@pytest.mark.parametrize("step", [3, 7, 12])
def test_a_training_with_batches_by_length_goes_on_with_the_same_batches(tmp_path, step):
    def run(name, method):
        data = Data(Long(100, seed=1), Points(40, seed=2))
        return fit(method, data, TrainConfig(**CONFIG), run=open_run(tmp_path / name), progress=False)

    torch.manual_seed(0)
    expected = StopsItself()
    whole = run("whole", expected)
    torch.manual_seed(0)
    stopped = StopsItself()
    stopped.stop_at = ("loss", step)
    with pytest.raises(KeyboardInterrupt, match="stopped in epoch"):
        run("stopped", stopped)
    found = StopsItself()
    history = run("stopped", found)
    assert same_weights(found, expected)
    assert without_times(history.rows) == without_times(whole.rows)
    assert not same_weights(expected, train(tmp_path / "plain")[0])


def interrupted(folder, **changes):
    """A run with a checkpoint of an unfinished training."""
    method = StopsItself()
    method.stop_at = ("loss", 9)
    with pytest.raises(KeyboardInterrupt):
        train(folder, method=method, **changes)
    return open_run(folder)


def test_a_checkpoint_that_is_a_pickle_is_refused_and_never_unpickled(tmp_path):
    run = interrupted(tmp_path)

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "unpickled",))

    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save({"method": Bomb()}, run.checkpoint_path, **options)
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors is a pickle .*Delete it to train again"):
            train(tmp_path)
    assert not (tmp_path / "unpickled").exists()


def test_a_truncated_or_changed_checkpoint_is_refused_with_a_cure(tmp_path):
    run = interrupted(tmp_path)
    content = run.checkpoint_path.read_bytes()
    for broken in (b"", content[:7], content[:300], content[:-1], b"not a checkpoint at all"):
        run.checkpoint_path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors is not a whole safetensors file.*Delete it"):
            train(tmp_path)
    flipped = bytearray(content)
    flipped[-100] ^= 1
    run.checkpoint_path.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"is damaged: its content does not match its checksum\. Delete it"):
        train(tmp_path)
    run.checkpoint_path.write_bytes(content)
    train(tmp_path, method=StopsItself())


def test_a_checkpoint_of_another_training_is_refused_naming_both_sides(tmp_path):
    interrupted(tmp_path)
    with pytest.raises(
        ValueError, match=r"of another training \(there -> here\): batch_size: 16 -> 8; lr: 0.02 -> 0.5"
    ):
        train(tmp_path, lr=0.5, batch_size=8)


def test_a_finished_run_of_another_training_is_refused_naming_both_sides(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match=r"of another training \(there -> here\): seed: 0 -> 1"):
        train(tmp_path, seed=1)


def test_a_checkpoint_of_another_architecture_is_refused_naming_the_tensors(tmp_path):
    run = interrupted(tmp_path)
    with pytest.raises(ValueError, match="method class: StopsItself -> Classifier"):
        train(tmp_path)
    with pytest.raises(ValueError, match=r"net.0.weight is \(16, 2\) in the file and \(8, 2\) in the module"):
        train(tmp_path, method=StopsItself(width=8))
    save_tensors(run.checkpoint_path, classifier().state_dict())
    with pytest.raises(ValueError, match="holds weights and not the state of a training"):
        train(tmp_path)


def test_a_full_disk_leaves_the_older_checkpoint_and_the_training_goes_on_from_it(tmp_path, monkeypatch):
    expected, _ = train(tmp_path / "whole")
    monkeypatch.setattr(Path, "write_bytes", full_disk_after(2))
    with pytest.raises(
        OSError, match=r"checkpoint\.safetensors could not be written: .*The disk is full: free some room"
    ):
        train(tmp_path / "full")
    run = open_run(tmp_path / "full")
    assert load_tensors(run.checkpoint_path)[1]["state"]["epoch"] == 2
    assert not list(run.folder.glob(".*.safetensors"))
    monkeypatch.undo()
    found, _ = train(tmp_path / "full")
    assert same_weights(found, expected)


def full_disk_after(count):
    """A `Path.write_bytes` that works `count` times, then writes half and meets a full disk."""
    calls, real = [], Path.write_bytes

    def write(path, content):
        calls.append(path)
        if len(calls) <= count:
            return real(path, content)
        real(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return write


def test_two_processes_that_ask_for_the_same_run_train_it_once(tmp_path):
    processes = [start(tmp_path, pause_s=0.02) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] is None and process.returncode for process in processes] == [0, 0]
    run = open_run(tmp_path)
    assert run.done
    assert len(list((run.folder / "tensorboard").glob("events*"))) == 1
