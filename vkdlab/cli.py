"""The `vkdlab` command: a thin face of the library (ours). Commands import the heavy modules that they need."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from . import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(no_args_is_help=True, help="Data sets: what there is, what is missing, what has to be built.")
app.add_typer(data_app, name="data")

DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", help="Folder with the real data sets; default $VKDLAB_DATA.", show_default=False),
]
Profile = Annotated[str, typer.Option(help="smoke (seconds), demo (minutes on two cores) or full (GPU).")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a data set, see `vkdlab data list`.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"vkdlab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False,
) -> None:
    """Video knowledge distillation in notebooks: run them, open them, look at their data."""


@app.command()
def run(
    notebook: Annotated[
        list[str] | None,
        typer.Argument(help="02, 02_teacher_training or a path; the whole series without.", show_default=False),
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Set a notebook's parameter.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES", help="Run for each value: seed=0..4 or data=tabletop,arid6. Several: product."
        ),
    ] = None,
    profile: Annotated[str | None, typer.Option(help="smoke, demo or full; default the notebooks' own.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run below reports/runs; default from the profile.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run, in place of reports/runs/NAME.")] = None,
    slots: Annotated[int | None, typer.Option(help="Notebooks at a time; default half the cores.")] = None,
    executor: Annotated[str, typer.Option(help="local, or ray for a Ray cluster.")] = "local",
    gpus: Annotated[float, typer.Option(help="GPUs per notebook, with --executor ray.")] = 0,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which a notebook is stopped.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Run notebooks and write their report. What has passed before is not run again. Exit code 1 when one failed."""
    from .notebooks import run as run_notebooks

    try:
        report = run_notebooks(
            notebook,
            parameters=parameter,
            sweep=sweep,
            profile=profile,
            name=name,
            out=out,
            slots=slots,
            executor=executor,
            gpus=gpus,
            timeout_s=timeout,
            data_root=data_root,
        )
    except KeyboardInterrupt:
        typer.echo("\nStopped. What had ended is kept; the same command goes on from there.", err=True)
        raise typer.Exit(130) from None
    for result in report.results:
        where = f" ({result.label})" if result.label else ""
        typer.echo(f"{result.status:7}  {result.notebook}{where}  {result.seconds:.1f} s")
        if result.error:
            first = (result.error["message"].strip().splitlines() or [""])[0]
            typer.echo(f"         {result.error['name']}: {first[:300]}")
    typer.echo(f"Report: {report.index}")
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def ground(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file.", show_default=False)],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for: one sentence.", show_default=False)],
    student: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained student; default the newest.", show_default=False),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many moments.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file of the timeline; default VIDEO-moments.html in this folder, written over.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Find the moments of a video that a sentence describes; prints them and writes a timeline to look at offline."""
    from .emtm.ground import ground as find
    from .emtm.student_files import latest_student, load_student
    from .files import write_text

    page = out or Path(f"{video.stem}-moments.html")
    if page.suffix != ".html":
        raise ValueError(f"--out is an HTML file, such as {page.stem}.html, got {page}")
    who = load_student(student or latest_student())
    found = find(video, query, student=who, k=k)
    typer.echo(f"Student: trained on {who.data} ({who.folder})")
    typer.echo("start (s)  end (s)  score")
    for (start_s, end_s), score in zip(found.moments_s, found.scores, strict=True):
        typer.echo(f"{start_s:9.2f}  {end_s:7.2f}  {score:.4f}")
    write_text(page, found.figure().to_html(include_plotlyjs=True))
    typer.echo(f"Timeline: {page}")


class _SeveralOptions(TyperCommand):
    """Takes `--options A B` for `--options A --options B`, which is all that the parser knows."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, several = [], False
        for place, word in enumerate(args):
            if word == "--":
                given += args[place:]
                break
            if word == "--options":
                several = True
                continue
            several = several and not re.match("-[-A-Za-z]", word)
            given += ["--options", word] if several else [word]
        return super().parse_args(ctx, given)


@app.command(cls=_SeveralOptions)
def ask(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file.", show_default=False)],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.", show_default=False)],
    options: Annotated[
        list[str] | None,
        typer.Option("--options", metavar="A B ...", help="What may be answered, 2 to 5 texts.", show_default=False),
    ] = None,
    student: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained student; default the newest.", show_default=False),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="How many frames to read; default as it was trained.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="PNG file of the frames; default VIDEO-answer.png in this folder, written over.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")] = False,
) -> None:
    """Answer a multiple-choice question about a video, and write a picture of the frames that the answer is from."""
    from .vlap.ask import ask as answer
    from .vlap.contact_sheet import sheet_path, write_contact_sheet

    sheet = sheet_path(video, out)
    asked = answer(video, question, options or [], student=student, select=frames)
    if not as_json:
        typer.echo(f"Student: trained on {asked.student.data} ({asked.student.folder})\n{asked.text()}")
    write_contact_sheet(asked, sheet)
    typer.echo(json.dumps(asked.plain() | {"sheet": str(sheet)}, indent=1) if as_json else f"Contact sheet: {sheet}")
    if asked.student.knows_built_in_world_only:
        typer.echo("Note: this student knows the built-in world only: of other videos it tells nothing.", err=True)


@app.command()
def delta(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file.", show_default=False)],
    student: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained delta network; default the newest.", show_default=False),
    ] = None,
    period: Annotated[
        int | None,
        typer.Option(help="Frames from one key frame to the next; default as it was trained.", show_default=False),
    ] = None,
    auto_key: Annotated[
        float | None,
        typer.Option(
            metavar="ENERGY",
            help="Make a key frame of a frame of which more is new; 1 finds cuts. Default: by the period alone.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="MP4 file of both networks side by side; default VIDEO-delta.mp4 in this folder, written over.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a teacher and its delta network over a video: what each frame costs, and both side by side to look at."""
    from .delta.student_files import latest_student, load_student
    from .delta.watch import watch

    who = load_student(student or latest_student())
    found = watch(video, student=who, period=period, threshold=auto_key, out=out or Path(f"{video.stem}-delta.mp4"))
    typer.echo(f"Delta network: {who.task.name}, trained on {who.data} ({who.folder})")
    typer.echo(f"Frames: {len(found.energy)} of {found.size[0]}x{found.size[1]} pixels; threads: {found.threads}")
    typer.echo(found.text())
    typer.echo(f"Video: {found.out}")


@app.command()
def report(
    name: Annotated[
        str | None, typer.Argument(help="Name or folder of the run; default the newest.", show_default=False)
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write the report of a run again from its results, and print where it is."""
    from .files import project_root
    from .report import RUN, build

    runs = project_root() / "reports" / "runs"
    if name is None:
        found = sorted(runs.glob(f"*/{RUN}"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise FileNotFoundError(f"there is no run in {runs} yet. Make one with `vkdlab run`")
        folder = found[-1].parent
    else:
        folder = Path(name) if Path(name, RUN).is_file() else runs / name
        if not (folder / RUN).is_file():
            known = ", ".join(sorted(path.parent.name for path in runs.glob(f"*/{RUN}"))) or "none"
            raise FileNotFoundError(f"there is no run {name!r} in {runs}; there are: {known}")
    page = build(folder)
    typer.echo(str(page))
    if show:
        import webbrowser

        webbrowser.open(page.as_uri())


@data_app.command("list")
def list_sets(data_root: DataRoot = None) -> None:
    """List the data sets: name, task, splits, and whether their files are here."""
    from .data import catalogue

    rows = catalogue.list_sets(root=data_root)
    columns = ("name", "state", "task", "splits", "title")
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    for row in [{column: column for column in columns}, *rows]:
        typer.echo("  ".join(f"{row[column]:{widths[column]}}" for column in columns).rstrip())


@data_app.command()
def show(name: Name) -> None:
    """Show a data set's manifest: source, licence, splits with counts, traps."""
    from .data import catalogue

    typer.echo(catalogue.show(name))


@data_app.command()
def check(name: Name, profile: Profile = "demo", data_root: DataRoot = None) -> None:
    """Hold a data set's files against its manifest. Exit code 1 when something is missing, damaged or out of range."""
    from .data.check import check as check_set

    found = check_set(name, root=data_root, profile=profile)
    typer.echo(found.text())
    raise typer.Exit(0 if found.ok else 1)


@data_app.command()
def build(name: Name, profile: Profile = "demo", data_root: DataRoot = None) -> None:
    """Make the files of a data set that vkdlab builds. What is there is kept; Ctrl-C and the same command go on."""
    from .data import catalogue

    for folder in catalogue.build(name, profile=profile, root=data_root):
        typer.echo(str(folder))


@app.command()
def lab(
    port: Annotated[int, typer.Option(help="Port on this machine; the next free one when it is taken.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open the browser.")] = True,
) -> None:
    """Open JupyterLab on the notebooks: on 127.0.0.1, with a token."""
    from .files import project_root, write_json

    try:
        import jupyterlab  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "`vkdlab lab` needs JupyterLab: pip install -c constraints.txt -e '.[notebooks]'"
        ) from None
    command = [
        sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={project_root()}", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        *([] if browser else ["--no-browser"]), *(["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as config:
        # The announcements open with a question about news from the internet.
        announcements = {"@jupyterlab/apputils-extension:announcements": True}
        write_json(Path(config, "labconfig", "page_config.json"), {"disabledExtensions": announcements})
        paths = os.pathsep.join(filter(None, [config, os.environ.get("JUPYTER_CONFIG_PATH")]))
        raise typer.Exit(_until_it_ends(command, environment={"JUPYTER_CONFIG_PATH": paths}))


@app.command()
def bench(
    select: Annotated[str | None, typer.Option("-k", help="Only the benchmarks whose name contains this.")] = None,
) -> None:
    """Measure speed on this machine, some 20 minutes; writes reports/benchmarks, a README.md and a JSON file each."""
    from .files import project_root

    root = project_root()
    options = ["-s", "-o", "addopts=", "-o", "timeout=1800", *(["-k", select] if select else [])]
    command = [sys.executable, "-m", "pytest", *options, str(root / "tests" / "benchmarks")]
    # What tests check of shapes and types would be measured as well.
    raise typer.Exit(_until_it_ends(command, cwd=root, environment={"JAXTYPING_DISABLE": "1"}))


def _until_it_ends(command: list[str], *, cwd: Path | None = None, environment: dict[str, str] | None = None) -> int:
    process = subprocess.Popen(command, cwd=cwd, env=os.environ | (environment or {}))
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal sent Ctrl-C to the child as well, which ends in its own way.
            continue


def main() -> None:
    """Runs the command; what a user did wrong ends as one message, without a traceback, and exit code 2."""
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("\nStopped.", err=True)
        sys.exit(130)
    except (ValueError, OSError, ImportError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        message = str(error) if not isinstance(error, OSError) else _os_message(error)
        typer.echo(f"vkdlab: {message}", err=True)
        sys.exit(2)


def _os_message(error: OSError) -> str:
    # Errors that the library worded say all in `strerror`; those of the system need their file.
    if error.strerror is None:
        return str(error)
    file = error.filename2 or error.filename
    return error.strerror if file is None else f"{file}: {error.strerror}"


if __name__ == "__main__":
    main()
