"""Work in several processes that may stop at any time and goes on with the next call (ours).

A worker is a plain `python` process that is told what to do through a pipe: nothing of the caller's main module is
imported again, so work runs from notebooks and unguarded scripts. It ends when its caller is done, stops or is killed,
after at most the item that it has in hand, and leaves no half-written file unless it is killed itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import filelock
from tqdm.auto import tqdm

Task = Callable[[str, Any], Any]
"""Does one item, given its name and value, and returns something that JSON can hold."""
_PATIENCE_S = 10
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


@contextlib.contextmanager
def only_one(folder: Path, *, leftovers: tuple[str, ...]) -> Iterator[None]:
    """Makes `folder`, waits until nobody else works in it, and removes what a killed process left half-written.

    Args:
        folder: where the work's files go; a `.lock` stays in it.
        leftovers: patterns below `folder` of files in the making.

    Raises:
        OSError: the folder cannot be made or written; the message names it and the cure.
    """
    lock = filelock.FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder} cannot be written to: {error.strerror}. Choose another folder, or another cache with "
            "the environment variable VKDLAB_CACHE",
        ) from error
    try:
        for pattern in leftovers:
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def work(
    start: str,
    setup: Any,
    items: Mapping[str, Any],
    *,
    workers: int | None = None,
    label: str,
    unit: str = "video",
    already: int = 0,
    progress: bool = True,
) -> list[Any]:
    """Does all items, each in one of several processes.

    Args:
        start: "module:function" whose function takes `setup` and gives the `Task`; called once a process.
        setup: what JSON can hold.
        items: by name; values are what JSON can hold. They are begun in their order.
        workers: processes of one thread each, by default one a core; 1 works in this process.
        label: what the progress bar is called.
        unit: what an item is.
        already: items that were done before, for the progress bar.
        progress: shows a progress bar.

    Returns:
        What the task returned for each item, in any order.

    Raises:
        ValueError: `workers` is below 1, or as the task raises it.
        OSError: as the task raises it.
        ChildProcessError: a process ended before its work was done.
        RuntimeError: the task raised anything else; the message names the item.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, was given {workers}")
    workers = min(workers or os.cpu_count() or 1, len(items))
    answers = _in_processes(start, setup, items, workers) if workers > 1 else _here(start, setup, items)
    with contextlib.closing(answers):
        total, hidden = already + len(items), not (progress and items)
        return list(tqdm(answers, desc=label, unit=unit, initial=already, total=total, disable=hidden))


def _here(start: str, setup: Any, items: Mapping[str, Any]) -> Iterator[Any]:
    task = _task(start, setup) if items else None
    for name, value in items.items():
        yield task(name, value)


def _in_processes(start: str, setup: Any, items: Mapping[str, Any], workers: int) -> Iterator[Any]:
    processes: list[subprocess.Popen] = []
    idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
    pool = ThreadPoolExecutor(workers)

    def ask(name: str, value: Any) -> Any:
        process = idle.get()
        try:
            return _ask(process, name, value)
        finally:
            idle.put(process)

    try:
        for _ in range(workers):
            processes.append(_start(start, setup))
            idle.put(processes[-1])
        for job in as_completed([pool.submit(ask, name, value) for name, value in items.items()]):
            yield job.result()
    finally:
        for process in processes:
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            _end(process)
        pool.shutdown()


def _start(start: str, setup: Any) -> subprocess.Popen:
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = dict.fromkeys(_ONE_THREAD, "1") | {"PYTHONPATH": os.pathsep.join(paths)}
    code = "from vkdlab.data.workers import serve; serve()"
    return subprocess.Popen(
        # -P keeps modules of the caller's folder that are named like ours or the library's out of the way.
        [sys.executable, "-P", "-c", code, start, json.dumps(setup)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches this process, which then stops its workers
        env=os.environ | environment,
    )


def _ask(process: subprocess.Popen, name: str, value: Any) -> Any:
    try:
        process.stdin.write(json.dumps([name, value]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        line = ""
    if not line:
        raise ChildProcessError(
            f"a process ended while it worked on {name!r}. What was finished is kept: the same call goes on; "
            "if the memory is short, pass workers=1"
        )
    answer = json.loads(line)
    match answer["error"]:
        case None:
            return answer["value"]
        case "OSError":
            raise OSError(answer["errno"], answer["text"]) if answer["errno"] else OSError(answer["text"])
        case "ValueError":
            raise ValueError(answer["text"])
    raise RuntimeError(f"{name}: {answer['error']}: {answer['text']}. What was finished is kept")


def _end(process: subprocess.Popen) -> None:
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.stdout.close()


def _task(start: str, setup: Any) -> Task:
    module, _, function = start.partition(":")
    return getattr(importlib.import_module(module), function)(setup)


def serve() -> None:
    """A worker's side: does an item a line until the pipe closes; being told to stop leaves no half-written file."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    task = None
    for line in sys.stdin:
        try:
            task = task or _task(sys.argv[1], json.loads(sys.argv[2]))
            answer = {"error": None, "value": task(*json.loads(line))}
        except OSError as error:
            answer = {"error": "OSError", "errno": error.errno, "text": error.strerror or str(error)}
        except ValueError as error:
            answer = {"error": "ValueError", "text": str(error)}
        except Exception as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        try:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        except BrokenPipeError:
            os._exit(1)  # whoever asked is gone; closing the pipe in the ordinary way would only complain
