"""Runs one program that may not outlive the process that started it, however that process ends (ours).

`python -S -E keeper.py FOLDER PROGRAM ARGUMENT...` starts the program, writes its process id as a line, and waits. When
its standard input closes, or the process that started it is gone, the program is asked to stop, is killed after
`PATIENCE_S`, and FOLDER is removed. When the program ends by itself, FOLDER stays. It imports nothing but the standard
library, so that it is there in milliseconds and takes little memory. `start` is for the starter.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass

PATIENCE_S = 20
"""A database that is asked to stop writes down what it holds: seconds, rarely."""
LOOK_S = 1
"""Seconds between looks whether the starter is still there: a forked child of it may hold the pipe open."""


@dataclass(frozen=True)
class Kept:
    """A program that ends with the process that started it."""

    keeper: subprocess.Popen
    """Lives as long as the program does."""
    pid: int
    """Process id of the program."""
    folder: str
    """Removed when the program is stopped."""
    starter: int
    """Process id of the process that started it."""

    @property
    def runs(self) -> bool:
        """False once the program has ended."""
        return self.keeper.poll() is None

    def stop(self) -> None:
        """Stops the program in order, and removes its folder; what has ended before is left as it is."""
        if self.starter != os.getpid():
            return  # this process was forked from the one that needs it
        if not self.keeper.stdin.closed:
            self.keeper.stdin.close()
        try:
            self.keeper.wait(PATIENCE_S + 5)
        except subprocess.TimeoutExpired:
            self.keeper.kill()
            self.keeper.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def start(command: list, *, folder: str | os.PathLike, log: str | os.PathLike) -> Kept:
    """Starts a program that ends with this process.

    Args:
        command: the program and its arguments.
        folder: exists for the program's life: made here, open to its user alone, and removed when the program is not
            needed any more.
        log: the file that gets all that the program writes.

    Raises:
        OSError: the program cannot be started.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and os.stat(folder).st_uid != os.getuid():
        raise OSError(f"{os.fspath(folder)} belongs to somebody else, who could stand in for {os.fspath(command[0])}")
    arguments = [sys.executable, "-S", "-E", __file__, folder, *command]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with open(log, "wb") as written:
        # In a session of its own, Ctrl-C in a terminal or a notebook does not reach it.
        keeper = subprocess.Popen(
            [os.fspath(each) for each in arguments], stderr=written, start_new_session=True, **pipes
        )
    with keeper.stdout as first:
        pid = first.readline().strip()
    kept = Kept(keeper=keeper, pid=int(pid or 0), folder=os.fspath(folder), starter=os.getpid())
    if not pid:
        kept.stop()
        raise OSError(f"{os.fspath(command[0])} could not be started: see {os.fspath(log)}")
    return kept


def main(folder: str, *command: str) -> int:
    """Keeps the program until it ends or nobody needs it.

    Returns:
        The program's exit status.
    """
    starter = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=_die_with(os.getpid()))
    print(program.pid, flush=True)  # noqa: T201 - read by the starter
    over = threading.Event()
    for wait in (lambda: sys.stdin.buffer.read(), program.wait):
        threading.Thread(target=lambda wait=wait: (wait(), over.set()), daemon=True).start()
    while not over.wait(LOOK_S) and os.getppid() == starter:
        pass
    if program.poll() is None:
        program.terminate()
        try:
            program.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
        shutil.rmtree(folder, ignore_errors=True)
    # The thread that reads may still wait for its pipe, which an interpreter that ends in order would wait for too.
    os._exit(program.returncode if program.returncode >= 0 else 1)


def _die_with(keeper: int):
    """What the program does before it starts, so that even a killed keeper takes it along; on Linux only."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl

    def ask():
        prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != keeper:
            os._exit(1)

    return ask


if __name__ == "__main__":
    main(*sys.argv[1:])
