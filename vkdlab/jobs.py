"""One notebook executed with one set of parameters, in a process of its own, and the executors that run many (ours).

papermill's working directory and a kernel's environment belong to a process, so every job gets one: the runner starts
`python -m vkdlab.jobs`, which reads the job from its standard input, reports cells on its standard output, and stops
with its kernel when its standard input closes, which happens however the runner ends. The job writes into a hidden
folder beside its own, renamed at the end: a job's folder is whole or absent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .files import JOB_DIR_VARIABLE, read_json, write_json, write_text

RECORD = "job.json"
NOTEBOOK = "executed.ipynb"
PAGE = "executed.html"
METRICS = "metrics.json"
FIGURES = "figures.json"


@dataclass(frozen=True)
class Job:
    """A notebook, its parameters, and where the result goes."""

    notebook: str
    """Path of the notebook."""
    given: dict[str, Any]
    """Parameters set, by name: what papermill writes into the notebook."""
    parameters: dict[str, Any]
    """All parameters, defaults filled in."""
    folder: str
    """Folder that holds the result; its name is unique to notebook, code, parameters and data root."""
    title: str
    """The notebook's first heading."""
    cells: int
    """Number of cells."""
    environment: dict[str, str]
    """Variables added to the job's environment."""
    timeout_s: float | None = None
    """Seconds after which the job is stopped and counts as failed; None for no limit."""

    @property
    def name(self) -> str:
        """The notebook's name without folder and suffix."""
        return Path(self.notebook).stem

    @property
    def passed(self) -> bool:
        """Whether the result is there and good, so that nothing is left to do."""
        record = Path(self.folder, RECORD)
        return record.is_file() and read_json(record)["status"] == "passed"


class Executor(Protocol):
    """What runs jobs: local slots, or a cluster."""

    def finished(self, jobs: Sequence[Job], *, on_cell: Callable[[Job, int], None]) -> Iterator[Job]:
        """Runs all jobs and gives each when its folder is there, in the order in which they end.

        Closing the iterator stops what still runs. `on_cell(job, n)` is called, from any thread, when n cells are done.
        """
        ...


class LocalSlots:
    """Jobs on this machine, a fixed number at a time."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def finished(self, jobs: Sequence[Job], *, on_cell: Callable[[Job, int], None]) -> Iterator[Job]:
        """See `Executor.finished`."""
        children = Children()
        pool = ThreadPoolExecutor(self.slots, thread_name_prefix="vkdlab-job")
        try:
            futures = {pool.submit(children.execute, job, on_cell=on_cell): job for job in jobs}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:
            children.stop()
            pool.shutdown(cancel_futures=True)


class RaySlots:
    """Jobs as Ray Core tasks: on every machine of a cluster whose nodes see the same folders, each with its own GPUs.

    Connects to the cluster of `RAY_ADDRESS`, else starts Ray on this machine. A task whose worker died starts again.

    Args:
        slots: CPU cores of the cluster are shared so that about this many jobs run at a time on each machine.
        gpus: GPUs that each job gets for itself.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """

    def __init__(self, slots: int, *, gpus: float = 0) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "executor 'ray' needs Ray: pip install -c constraints.txt -e '.[ray]', or use --executor local"
            ) from None
        self.ray, self.slots, self.gpus = ray, slots, gpus

    def finished(self, jobs: Sequence[Job], *, on_cell: Callable[[Job, int], None]) -> Iterator[Job]:
        """See `Executor.finished`; cells are reported when their job ends."""
        ray = self.ray
        if started := not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(include_dashboard=False, log_to_driver=False)
        cores = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
        task = ray.remote(num_cpus=max(1, cores // self.slots), num_gpus=self.gpus, max_retries=2)(_execute_as_task)
        waiting = {}
        try:
            waiting = {task.remote(job): job for job in jobs}
            while waiting:
                (reference,), _ = ray.wait(list(waiting), num_returns=1)
                job = waiting.pop(reference)
                ray.get(reference)
                on_cell(job, job.cells)
                yield job
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)
            if started:
                ray.shutdown()


def _execute_as_task(job: Job) -> None:
    Children().execute(job, on_cell=lambda job, done: None)


class Children:
    """The child processes of a runner, so that all of them can be stopped at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[subprocess.Popen] = set()
        self._stopped = False

    def execute(self, job: Job, *, on_cell: Callable[[Job, int], None]) -> None:
        """Runs one job in a child process and leaves its folder, with the record of how it went.

        A notebook that fails leaves a folder as well, with its error; a job that is stopped leaves none.
        """
        folder = Path(job.folder)
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        begun = time.monotonic()
        with self._lock:
            if self._stopped:
                shutil.rmtree(part)
                return
            child = subprocess.Popen(
                [sys.executable, "-m", "vkdlab.jobs"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                cwd=part,
                env=os.environ | job.environment | {JOB_DIR_VARIABLE: str(part)},
                # Ctrl-C in the terminal must reach the runner alone, which then stops the children in order.
                start_new_session=True,
            )
            self._live.add(child)
        timed_out = threading.Event()
        timer = threading.Timer(job.timeout_s or 0, lambda: (timed_out.set(), kill_tree(child.pid)))
        try:
            if job.timeout_s is not None:
                timer.start()
            outcome = None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps(dataclasses.asdict(job)) + "\n")
                child.stdin.flush()
            for line in child.stdout:
                message = json.loads(line)
                if "cell" in message:
                    on_cell(job, message["cell"])
                else:
                    outcome = message
            code = child.wait()
            if self._stopped:
                shutil.rmtree(part, ignore_errors=True)
                return
            if timed_out.is_set():
                outcome = _failure("TimeoutError", f"stopped after {job.timeout_s:g} s, the limit for one notebook")
            elif outcome is None:
                log = (part / "log.txt").read_text(errors="replace")[-4000:] if (part / "log.txt").exists() else ""
                how = (
                    f"signal {-code}" + (", often for lack of memory" if code == -9 else "")
                    if code < 0
                    else f"code {code}"
                )
                outcome = _failure("ChildProcessError", f"the notebook's process ended with {how}", traceback=log)
            record = {
                "notebook": job.name,
                "title": job.title,
                "parameters": job.parameters,
                "seconds": round(time.monotonic() - begun, 2),
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                **outcome,
            }
            write_json(part / RECORD, record)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(part, folder)
        except BaseException:
            kill_tree(child.pid)
            shutil.rmtree(part, ignore_errors=True)
            raise
        finally:
            timer.cancel()
            with self._lock:
                self._live.discard(child)
            child.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
            child.wait()

    def stop(self) -> None:
        """Ends every child with its kernel; no further one starts."""
        with self._lock:
            self._stopped = True
            for child in self._live:
                kill_tree(child.pid)


def kill_tree(pid: int) -> None:
    """Ends a process and all that it started, kernels and their workers included."""
    import psutil

    try:
        process = psutil.Process(pid)
        doomed = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for each in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def _failure(name: str, message: str, *, cell: int | None = None, source: str = "", traceback: str = "") -> dict:
    error = {"name": name, "message": message, "cell": cell, "source": source, "traceback": traceback}
    return {"status": "failed", "error": error}


def main() -> None:
    """The child: executes the job given on standard input in the current folder."""
    job = Job(**json.loads(sys.stdin.readline()))
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open("log.txt", "wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    here = Path.cwd()

    def send(message: dict) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    def stop_with_the_runner() -> None:
        sys.stdin.read()
        if not done.is_set():
            import psutil

            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            shutil.rmtree(here, ignore_errors=True)
            os._exit(1)

    done = threading.Event()
    threading.Thread(target=stop_with_the_runner, daemon=True).start()
    outcome = _execute(job, send)
    done.set()
    send(outcome)
    # A library's exit hooks must not hold up or fail a job whose result is there.
    os._exit(0)


def _execute(job: Job, send: Callable[[dict], None]) -> dict:
    import nbformat
    import papermill

    from .report import notebook_page

    with tempfile.TemporaryDirectory() as jupyter:
        # The kernel must be this interpreter, whatever kernels the user has registered under the same name.
        write_json(
            Path(jupyter, "kernels", "python3", "kernel.json"),
            {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "Python 3 (ipykernel)",
                "language": "python",
            },
        )
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [jupyter, os.environ.get("JUPYTER_PATH")]))
        notebook = nbformat.read(job.notebook, as_version=4)
        outcome = {"status": "passed", "error": None}
        try:
            papermill.execute_notebook(
                notebook,
                NOTEBOOK,
                job.given,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                cwd=Path(job.notebook).parent,
                store_widget_state=False,
                on_cell_complete=lambda cell, cell_index: send({"cell": cell_index + 1}),
            )
        except papermill.PapermillExecutionError as error:
            traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
            outcome = _failure(
                error.ename, error.evalue, cell=error.exec_count, source=error.source.strip(), traceback=traceback
            )
        except Exception as error:
            outcome = _failure(type(error).__name__, str(error))
    if outcome["status"] == "passed" and not Path(METRICS).is_file():
        outcome = _failure(
            "FileNotFoundError",
            "the notebook ran to its end and wrote no metrics: its last cell must call "
            "vkdlab.notebooks.finish(metrics, figures)",
        )
    if Path(NOTEBOOK).is_file():
        write_text(PAGE, notebook_page(NOTEBOOK, title=job.title))
    return outcome


if __name__ == "__main__":
    main()
