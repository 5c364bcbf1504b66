"""The notebooks, run without a browser: checked parameters, sweeps, resuming, a report (ours).

`run` executes notebooks through papermill, each in a process of its own. A job's folder is named by a hash of the
notebook's source and vkdlab's code, and one of its parameters and the data root: a repeated call does only what is
missing or failed. `finish`, of `vkdlab.summary`, ends a notebook.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .files import hash_of, project_root, read_json, write_json
from .series import Source, find, read_source
from .summary import Summary, finish
from .sweeps import ParameterError, product, settings, sweep_values

if TYPE_CHECKING:
    from .jobs import Executor, Job
    from .report import Report

__all__ = ["DATA_VARIABLE", "FOLDERS", "Summary", "finish", "run"]

DATA_VARIABLE = "VKDLAB_DATA"
FOLDERS = ("features", "runs_dir", "database", "against")
"""Parameters of notebooks that name a folder where they are not empty."""


def run(
    names: Iterable[str | os.PathLike] | None = None,
    *,
    parameters: Mapping[str, Any] | Sequence[str] | None = None,
    sweep: Mapping[str, Iterable] | Sequence[str] | None = None,
    profile: str | None = None,
    name: str | None = None,
    out: str | os.PathLike | None = None,
    executor: Literal["local", "ray"] = "local",
    slots: int | None = None,
    gpus: float = 0,
    timeout_s: float | None = None,
    data_root: str | os.PathLike | None = None,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> Report:
    """Runs notebooks, or a sweep of them, and writes their report; what has passed before is not run again.

    Everything is checked before the first notebook starts. A notebook that fails is kept with its error and the others
    go on. Ctrl-C stops the kernels and keeps what has ended; the same call goes on from there. When all jobs of a
    notebook passed, those that were made by other code or by another state of the notebook are removed.

    Args:
        names: as `vkdlab.series.find`; None for the whole series.
        parameters: values by name, or texts `name=value` that are read by the type of the default.
        sweep: lists of values by name, or texts `seed=0..4`, `data=tabletop,arid6`; the product of all is run.
        profile: short for the parameter of that name.
        name: name of the run, default the profile, other parameters with their values, and the swept ones.
        out: folder of the run, default `reports/runs/<name>`.
        executor: `local` for this machine, `ray` for a Ray cluster.
        slots: jobs at a time, default half the cores; every job gets its share of the threads.
        gpus: GPUs per job, with Ray.
        timeout_s: limit for one notebook, in seconds.
        data_root: folder of the real data sets, default `$VKDLAB_DATA`.
        folder: where the series lies, default the checkout's `notebooks`.
        progress: show a progress bar.

    Raises:
        ParameterError: a parameter that a notebook does not have, a value of the wrong type or none of its choices.
        ManifestError: no data set has the name that is given for `data`, and no folder the path.
        FileNotFoundError: no such notebook, or no such data root.
        ValueError: a file that is no notebook, fewer than one slot.
        ModuleNotFoundError: papermill or Ray is not installed.
        OSError: the folder of the run cannot be written, or another run is writing to it.
    """
    _require_papermill()
    from .report import Report, build, read_result
    from .runs import code_hash

    cores = _cores()
    slots = max(1, cores // 2) if slots is None else slots
    if slots < 1:
        raise ValueError(f"slots must be at least 1, given {slots}")
    data = data_root or os.environ.get(DATA_VARIABLE)
    if data and not Path(data).is_dir():
        raise FileNotFoundError(f"data root {data} is no folder; correct --data-root or {DATA_VARIABLE}")
    given = _with_profile(parameters, profile)
    sources = [read_source(path) for path in find(names, folder=folder)]
    combinations = {
        source.path.stem: product(sweep_values(sweep, source.parameters, where=source.path.name)) for source in sources
    }
    swept = list(next(iter(combinations.values()))[0])
    fixed = {source.path.stem: settings(given, source.parameters, where=source.path.name) for source in sources}
    for source in sources:
        for values in (fixed[source.path.stem], *combinations[source.path.stem]):
            values.update(_located(values, source))
    for stem in fixed:
        if both := set(fixed[stem]) & set(swept):
            raise ParameterError(f"parameter {min(both)!r} is set and swept; give it once")
    command = _command(
        sources if names or folder else [],
        parameters,
        sweep,
        {"profile": profile, "name": name, "out": out, "data-root": data_root},
    )
    name = name or _name_of(fixed[sources[0].path.stem], swept, sources[0])
    if not re.fullmatch(r"[\w][\w.+-]*", name):
        raise ValueError(f"a run's name is letters, digits and - _ . +, given {name!r}")
    out = Path(out) if out is not None else project_root() / "reports" / "runs" / name

    environment = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // slots)),
        # Spinning threads of one job would take the cores from the others.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY") or "PASSIVE",
        "PLOTLY_RENDERER": "plotly_mimetype",
    }
    if data:
        environment[DATA_VARIABLE] = os.path.abspath(data)
    code = code_hash()
    states = {source.path.stem: hash_of(source.cells, code, digits=8) for source in sources}
    planned = [
        (
            _job(source, {**fixed[source.path.stem], **values}, out, states[source.path.stem], environment, timeout_s),
            values,
        )
        for source in sources
        for values in combinations[source.path.stem]
    ]
    runner = _executor(executor, slots, gpus)
    with _alone_in(out):
        _record(out, name=name, command=command, planned=planned)
        build(out)
        jobs = {job.folder: (job, values) for job, values in planned}
        try:
            _execute(runner, jobs, out=out, progress=progress)
        finally:
            build(out)
        _remove_outdated(out / "jobs", states, [job for job, _ in planned])
    results = tuple(read_result(Path(job.folder), notebook=job.name, swept=values) for job, values in planned)
    return Report(folder=out, results=results, command=command)


def _execute(runner: Executor, planned: Mapping[str, tuple[Job, dict]], *, out: Path, progress: bool) -> None:
    from tqdm.auto import tqdm

    from .report import build, read_result

    missing = [job for job, _ in planned.values() if not job.passed]
    done = {job.folder: 0 for job in missing}
    ended = len(planned) - len(missing)
    with tqdm(total=sum(job.cells for job in missing), unit="cell", disable=not progress or not missing) as bar:

        def on_cell(job: Job, cells: int) -> None:
            cells = min(cells, job.cells)
            bar.set_description(f"{job.name} {cells}/{job.cells}", refresh=False)
            bar.update(cells - done[job.folder])
            done[job.folder] = cells

        if ended and progress:
            bar.write(f"{ended} of {len(planned)} passed before and are not run again")
        with contextlib.closing(runner.finished(missing, on_cell=on_cell)) as finished:
            for job in finished:
                ended += 1
                on_cell(job, job.cells)
                result = read_result(Path(job.folder), notebook=job.name, swept=planned[job.folder][1])
                if progress:
                    what = f"{job.name} {result.label}".strip()
                    bar.write(f"[{ended}/{len(planned)}] {what} {result.status} after {result.seconds:.1f} s")
                build(out)


def _remove_outdated(jobs: Path, states: Mapping[str, str], planned: Sequence[Job]) -> None:
    """Removes what no call can show or use again; a notebook that failed keeps it, to compare with."""
    failed = {job.name for job in planned if not job.passed}
    for stem, state in states.items():
        name = re.compile(re.escape(stem) + "-([0-9a-f]{8})-[0-9a-f]{12}")
        for folder in jobs.iterdir() if stem not in failed else ():
            if (found := name.fullmatch(folder.name)) and found[1] != state:
                shutil.rmtree(folder, ignore_errors=True)


def _job(
    source: Source, given: dict, out: Path, state: str, environment: dict[str, str], timeout_s: float | None
) -> Job:
    from .jobs import Job

    values = {name: given.get(name, parameter.default) for name, parameter in source.parameters.items()}
    # With a data root a notebook may do more, so that a result without it must not stand for one with it.
    digest = hash_of(values, environment.get(DATA_VARIABLE, ""), digits=12)
    return Job(
        notebook=str(source.path.resolve()),
        given=given,
        parameters=values,
        folder=str((out / "jobs" / f"{source.path.stem}-{state}-{digest}").resolve()),
        title=source.title,
        cells=len(source.cells),
        environment=environment,
        timeout_s=timeout_s,
    )


def _record(out: Path, *, name: str, command: str, planned: list) -> None:
    """Writes which jobs make up the run; notebooks that this call leaves alone keep their last entry."""
    from . import __version__
    from .report import RUN

    path = out / RUN
    entries = read_json(path)["notebooks"] if path.is_file() else {}
    for stem in {job.name for job, _ in planned}:
        entries[stem] = {"jobs": []}
    for job, values in planned:
        entries[job.name]["jobs"].append({"folder": f"jobs/{Path(job.folder).name}", "swept": values})
    write_json(path, {"name": name, "command": command, "version": __version__, "notebooks": entries})


@contextlib.contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        (out / "jobs").mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(f"another run is writing to {out}: wait until it has ended, or choose another --name") from None
    except OSError as error:
        raise OSError(
            error.errno, f"{out} cannot be written: {error.strerror}. Choose another folder with --out"
        ) from error
    try:
        for left_over in (out / "jobs").glob(".*.part"):
            shutil.rmtree(left_over, ignore_errors=True)
        yield
    finally:
        lock.release()


def _executor(executor: str, slots: int, gpus: float) -> Executor:
    from .jobs import LocalSlots, RaySlots

    if executor == "local":
        return LocalSlots(slots)
    if executor == "ray":
        return RaySlots(slots, gpus=gpus)
    raise ValueError(f"executor is 'local' or 'ray', given {executor!r}")


def _with_profile(parameters: Mapping | Sequence[str] | None, profile: str | None) -> Mapping | list[str]:
    parameters = dict(parameters) if isinstance(parameters, Mapping) else [*(parameters or [])]
    if profile is None:
        return parameters
    if isinstance(parameters, list):
        return [*parameters, f"profile={profile}"]
    if "profile" in parameters:
        raise ParameterError("profile is given twice, as a parameter and by itself; give it once")
    return parameters | {"profile": profile}


def _located(values: Mapping[str, Any], source: Source) -> dict[str, str]:
    """Folders that are given, as seen from here: a kernel works elsewhere. Other `data` must be names of data sets."""
    from .data import manifests

    found = {
        name: os.path.abspath(Path(values[name]).expanduser())
        for name in FOLDERS
        if name in source.parameters and isinstance(values.get(name), str) and values[name]
    }
    data = values.get("data")
    known = manifests.names()
    if not isinstance(data, str) or data in known or source.parameters["data"].default not in known:
        return found
    folder = Path(data).expanduser()
    if not folder.is_dir():
        manifests.get(data)  # says which names there are
    return found | {"data": os.path.abspath(folder)}


def _name_of(given: Mapping[str, Any], swept: Sequence[str], source: Source) -> str:
    profile = source.parameters["profile"].default if "profile" in source.parameters else source.path.stem
    others = [
        f"{name}-{Path(value).name if isinstance(value, str) else value}"
        for name, value in given.items()
        if name != "profile"
    ]
    parts = [str(given.get("profile", profile)), *others, "sweep" if swept else "", *swept]
    return re.sub(r"[^\w.+-]+", "_", "-".join(filter(None, parts)))


def _command(
    sources: Sequence[Source],
    parameters: Mapping | Sequence[str] | None,
    sweep: Mapping | Sequence[str] | None,
    options: Mapping[str, Any],
) -> str:
    """What a person types for the same run: notebooks of the series by name, others by path."""
    series = (project_root() / "notebooks").resolve()
    words = ["vkdlab", "run"]
    words += [each.path.stem if each.path.parent.resolve() == series else str(each.path) for each in sources]
    for option, value in options.items():
        words += [] if value is None else [f"--{option}", os.fspath(value)]
    if isinstance(parameters, Mapping):
        parameters = [f"{key}={value}" for key, value in parameters.items()]
    for text in parameters or []:
        words += ["-p", text]
    if isinstance(sweep, Mapping):
        sweep = [f"{key}={','.join(map(str, values))}" for key, values in sweep.items()]
    for text in sweep or []:
        words += ["--sweep", text]
    return shlex.join(words)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _require_papermill() -> None:
    for package in ("papermill", "nbconvert"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"running notebooks needs {package}: pip install -c constraints.txt -e '.[notebooks]'", name=package
            )
