"""Runs of notebooks that are stopped by a person or killed: real processes and signals."""

import signal
import subprocess
import sys
import time

import psutil

from vkdlab.notebooks import run

from .notebook_writing import write_notebook

FINISH = "from vkdlab.notebooks import finish\n"


def _kernels_below(pid):
    return [child for child in psutil.Process(pid).children(recursive=True) if "ipykernel_launcher" in child.cmdline()]


def _wait_for(condition, *, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def _start_and_stop(folder, *notebooks, how):
    """Runs notebooks of which the last waits, sends the signal then, and gives exit code, messages and kernels."""
    mark = folder / "started"
    wait = f"import pathlib, time\nmark = pathlib.Path({str(mark)!r})\nif not mark.exists():\n    mark.touch()"
    last = write_notebook(
        folder / "09_slow.ipynb", wait + "\n    time.sleep(600)", FINISH + "finish({'m': 2})", parameters=None
    )
    command = [sys.executable, "-m", "vkdlab.cli", "run", *notebooks, last, "--out", folder / "out", "--slots", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        _wait_for(mark.exists)
        kernels = _kernels_below(process.pid)
        assert len(kernels) == 1
        process.send_signal(how)
        _, messages = process.communicate(timeout=60)
    finally:
        process.kill()
    _wait_for(lambda: not any(kernel.is_running() for kernel in kernels))
    return process.returncode, messages


def test_ctrl_c_keeps_what_ended_leaves_no_kernel_and_the_next_call_goes_on(tmp_path):
    quick = write_notebook(tmp_path / "00_quick.ipynb", FINISH + "finish({'m': 1})", parameters=None)
    code, messages = _start_and_stop(tmp_path, quick, how=signal.SIGINT)
    assert code == 130
    assert "Stopped. What had ended is kept; the same command goes on from there." in messages
    assert "Traceback" not in messages
    (first,) = (tmp_path / "out" / "jobs").iterdir()
    assert first.name.startswith("00_quick")
    assert "1 waiting" in (tmp_path / "out" / "index.html").read_text()
    before = first.stat().st_mtime_ns
    report = run([quick, tmp_path / "09_slow.ipynb"], out=tmp_path / "out", slots=1, progress=False)
    assert report.passed
    assert first.stat().st_mtime_ns == before


def test_a_run_that_is_killed_leaves_no_kernel_and_nothing_half_written(tmp_path):
    _start_and_stop(tmp_path, how=signal.SIGKILL)
    _wait_for(lambda: not list((tmp_path / "out" / "jobs").iterdir()))
