"""Notebooks run without a browser: real kernels, real processes."""

import errno
import math
import os
import sys
import time
from pathlib import Path

import pytest

from vkdlab.data import ManifestError
from vkdlab.evidence import Claim, write_evidence
from vkdlab.files import read_json, write_json
from vkdlab.jobs import RaySlots
from vkdlab.notebooks import run
from vkdlab.series import find, read_source
from vkdlab.sweeps import ParameterError

from .notebook_writing import write_notebook

FINISH = "from vkdlab.notebooks import finish\n"


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Five notebooks, of which two pass."""
    folder = tmp_path_factory.mktemp("series")
    write_notebook(
        folder / "00_good.ipynb",
        "import os, sys\nimport plotly.graph_objects as go\nfigure = go.Figure(go.Scatter(y=[1, 2]))\nfigure",
        FINISH + "finish({'seed': seed, 'rate': rate, 'python': sys.executable, 'here': os.getcwd(), "
        "'threads': os.environ['OMP_NUM_THREADS']}, {'A <line>': figure})",
        title="Good & <i>short</i>",
    )
    write_notebook(folder / "01_raises.ipynb", "x = 1", "raise ValueError('<script>row</script> 3')")
    write_notebook(folder / "02_silent.ipynb", "x = 1")
    write_notebook(folder / "03_nan.ipynb", FINISH + "finish({'R1@0.5': float('nan')})")
    write_notebook(folder / "04_plain.ipynb", FINISH + "finish({'m': 1})", parameters=None)
    write_notebook(folder / "05_dies.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    return folder


@pytest.fixture(scope="module")
def report(series, tmp_path_factory):
    return run(folder=series, out=tmp_path_factory.mktemp("run") / "all", slots=2, progress=False)


def _by_name(report):
    return {result.notebook: result for result in report.results}


def test_a_failing_notebook_is_kept_with_its_error_and_the_others_go_on(report):
    assert {name: result.status for name, result in _by_name(report).items()} == {
        "00_good": "passed", "01_raises": "failed", "02_silent": "failed", "03_nan": "failed", "04_plain": "passed",
        "05_dies": "failed",
    }  # fmt: skip
    assert not report.passed
    failed = _by_name(report)["01_raises"]
    assert failed.error["name"] == "ValueError"
    assert failed.error["message"] == "<script>row</script> 3"
    assert failed.error["cell"] == 3
    assert failed.error["source"].startswith("raise ValueError")
    assert "\x1b" not in failed.error["traceback"]
    assert (failed.folder / "executed.ipynb").is_file()


def test_a_notebook_that_writes_no_metrics_failed(report):
    assert "its last cell must call vkdlab.notebooks.finish" in _by_name(report)["02_silent"].error["message"]


def test_a_metric_that_is_not_finite_fails_the_notebook_and_names_the_metric(report):
    assert "metric 'R1@0.5' is nan" in _by_name(report)["03_nan"].error["message"]
    assert not (_by_name(report)["03_nan"].folder / "metrics.json").exists()


def test_a_kernel_that_dies_is_a_failure_like_any_other(report):
    assert _by_name(report)["05_dies"].error["name"] == "DeadKernelError"


def test_a_notebook_runs_with_this_interpreter_in_its_own_folder_with_its_share_of_threads(report, series):
    metrics = _by_name(report)["00_good"].metrics
    assert metrics["python"] == sys.executable
    assert metrics["here"] == str(series)
    assert metrics["threads"] == os.environ["OMP_NUM_THREADS"]


def test_an_executed_notebook_is_small_and_carries_no_widget_state(report):
    path = _by_name(report)["00_good"].folder / "executed.ipynb"
    assert path.stat().st_size < 100_000
    assert "widgets" not in read_json(path)["metadata"]


def test_a_repeated_call_runs_only_what_did_not_pass(report, series):
    before = {name: result.finished for name, result in _by_name(report).items()}
    marks = {name: result.folder.stat().st_mtime_ns for name, result in _by_name(report).items()}
    again = run(["00", "02"], folder=series, out=report.folder, progress=False)
    assert [result.notebook for result in again.results] == ["00_good", "02_silent"]
    assert again.results[0].finished == before["00_good"]
    assert again.results[0].folder.stat().st_mtime_ns == marks["00_good"]
    assert again.results[1].folder.stat().st_mtime_ns != marks["02_silent"]
    assert set(read_json(report.folder / "run.json")["notebooks"]) == set(before)
    assert [path for path in (report.folder / "jobs").iterdir() if path.name.startswith(".")] == []


def test_a_default_that_is_given_is_the_same_job_and_another_value_is_not(report, series, tmp_path, monkeypatch):
    executed = []
    monkeypatch.setattr("vkdlab.jobs.Children.execute", lambda self, job, on_cell: executed.append(job))
    run(["00"], folder=series, out=report.folder, parameters={"seed": 0, "rate": 0.5}, progress=False)
    assert executed == []
    run(["00"], folder=series, out=report.folder, parameters=["seed=1"], progress=False)
    run(["00"], folder=series, out=report.folder, data_root=tmp_path, progress=False)
    folders = {job.folder for job in executed} | {str(_by_name(report)["00_good"].folder)}
    assert len(folders) == 3
    assert executed[0].given == {"seed": 1}
    assert executed[1].environment["VKDLAB_DATA"] == str(tmp_path)


def test_results_of_older_code_or_notebook_go_once_the_new_ones_passed(tmp_path, monkeypatch):
    def execute(self, job, on_cell):
        status = "failed" if "raise" in Path(job.notebook).read_text() else "passed"
        write_json(Path(job.folder) / "job.json", {"notebook": job.name, "status": status})

    monkeypatch.setattr("vkdlab.jobs.Children.execute", execute)
    path = write_notebook(tmp_path / "a.ipynb", FINISH + "finish({'m': seed})")
    other = write_notebook(tmp_path / "a-deadbeef.ipynb", FINISH + "finish({'m': seed})")
    options = {"out": tmp_path / "out", "progress": False}
    first = [run([path], parameters={"seed": seed}, **options).results[0].folder for seed in (0, 1)]
    neighbour = run([other], **options).results[0].folder
    assert all(folder.is_dir() for folder in first), "another parameter is no reason to remove anything"
    write_notebook(path, "raise ValueError")
    run([path], **options)
    assert all(folder.is_dir() for folder in first), "a run that failed removes nothing"
    write_notebook(path, FINISH + "finish({'m': -seed})")
    (last,) = run([path], **options).results
    assert sorted((tmp_path / "out" / "jobs").iterdir()) == sorted([last.folder, neighbour])
    monkeypatch.setattr("vkdlab.runs.code_hash", lambda: "another")
    (again,) = run([path], **options).results
    assert sorted((tmp_path / "out" / "jobs").iterdir()) == sorted([again.folder, neighbour])
    assert again.folder != last.folder


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ({"profile": "smoke"}, "vkdlab run --profile smoke"),
        (
            {"names": ["00", "02_teacher_training"], "profile": "smoke", "parameters": ["seed=3"], "name": "mine"},
            "vkdlab run 00_start_here 02_teacher_training --profile smoke --name mine -p seed=3",
        ),
        (
            {"parameters": {"seed": 3}, "sweep": {"data": ["tabletop", "arid6"]}, "data_root": "."},
            "vkdlab run --data-root . -p seed=3 --sweep data=tabletop,arid6",
        ),
    ],
)
def test_the_recorded_command_is_what_one_types_for_the_same_run(tmp_path, monkeypatch, typed, command):
    monkeypatch.setattr("vkdlab.jobs.Children.execute", lambda self, job, on_cell: None)
    found = run(out=tmp_path / "out of it", progress=False, **typed).command
    assert found.replace(f" --out '{tmp_path / 'out of it'}'", "") == command
    assert found != command


def test_a_sweep_runs_the_product_and_writes_tables_and_evidence(tmp_path):
    path = write_notebook(tmp_path / "06_sweep.ipynb", FINISH + "finish({'R1': seed + (10 if data == 'arid6' else 0)})")
    report = run([path], sweep=["seed=4..4", "data=tabletop,arid6"], out=tmp_path / "out", slots=2, progress=False)
    assert [(result.swept, result.metrics["R1"]) for result in report.results] == [
        ({"seed": 4, "data": "tabletop"}, 4),
        ({"seed": 4, "data": "arid6"}, 14),
    ]
    assert report.tables().means["mean"].tolist() == [4, 14]
    assert report.tables().differences["difference"].tolist() == [10]
    saved = tmp_path / "out" / "tables"
    assert (saved / "06_sweep-means.csv").read_text().splitlines()[:2] == [
        "data,metric,mean,sd,low,high,n",
        "tabletop,R1,4.0,,,,1",
    ]
    assert (saved / "06_sweep-differences.csv").is_file()
    options = f"--out {tmp_path / 'out'} --sweep seed=4..4 --sweep data=tabletop,arid6"
    assert report.command == f"vkdlab run {path} {options}"
    claim = Claim(name="gain", value=10.0, low=9.0, high=11.0, n_seeds=1, target="> 0", met=True)
    write_evidence(report, path=tmp_path / "evidence.json", claims=[claim])
    written = read_json(tmp_path / "evidence.json")
    assert list(written) == ["command", "data", "features", "versions", "machine", "date", "runs", "claims"]
    assert written["data"] == ["arid6", "tabletop"]
    assert written["runs"][1]["parameters"]["seed"] == 4
    assert written["runs"][1]["metrics"] == {"R1": 14}
    assert written["claims"][0]["target"] == "> 0"


def test_evidence_with_holes_is_refused(report, tmp_path):
    with pytest.raises(ValueError, match=r"4 jobs of .* did not pass, the first 01_raises"):
        write_evidence(report, path=tmp_path / "evidence.json", claims=[])
    assert not (tmp_path / "evidence.json").exists()
    with pytest.raises(ValueError, match="not met and has no note"):
        Claim(name="gain", value=0.0, low=None, high=None, n_seeds=1, target="> 0", met=False)
    with pytest.raises(ValueError, match="low is nan, expected a finite number"):
        Claim(name="gain", value=0.0, low=math.nan, high=1.0, n_seeds=1, target="> 0", met=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"parameters": ["sede=1"]}, ParameterError, r"00_good\.ipynb has no parameter 'sede'\. Did you mean 'seed'"),
        ({"parameters": {"seed": "one"}}, ParameterError, r"'seed' expects int \(default 0\), given 'one' \(str\)"),
        ({"sweep": ["seed=a"]}, ParameterError, "'seed' expects int"),
        ({"parameters": ["seed=1"], "sweep": ["seed=0..2"]}, ParameterError, "'seed' is set and swept; give it once"),
        ({"parameters": ["profile=full"], "profile": "demo"}, ParameterError, "'profile' is given twice"),
        ({"parameters": {"profile": "full"}, "profile": "demo"}, ParameterError, "profile is given twice"),
        ({"slots": 0}, ValueError, "slots must be at least 1, given 0"),
        ({"executor": "cloud"}, ValueError, "executor is 'local' or 'ray', given 'cloud'"),
        ({"data_root": "nowhere"}, FileNotFoundError, "data root nowhere is no folder; correct --data-root"),
        ({"parameters": ["data=tabeltop"]}, ManifestError, "no data set is named 'tabeltop'. Did you mean tabletop"),
        ({"sweep": ["data=tabletop,nowhere/at-all"]}, ManifestError, "nowhere/at-all"),
        ({"name": "../up"}, ValueError, r"a run's name is letters, digits .* given '\.\./up'"),
    ],
)
def test_a_wrong_call_stops_before_anything_starts(series, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        run(["00_good"], folder=series, out=tmp_path / "out", progress=False, **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_ones_own_is_found_from_where_the_call_is_made(series, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    report = run(["00_good"], folder=series, out=tmp_path / "out", parameters=["data=mine"], progress=False)
    assert report.results[0].parameters["data"] == str(tmp_path / "mine")


def test_every_folder_that_a_parameter_names_is_found_from_where_the_call_is_made(tmp_path, monkeypatch):
    from vkdlab.notebooks import FOLDERS, _located
    from vkdlab.series import find, read_source

    monkeypatch.chdir(tmp_path)
    named = {}
    for path in find():
        source = read_source(path)
        given = {name: "mine" for name in FOLDERS if name in source.parameters}
        assert _located(given, source) == {name: str(tmp_path / "mine") for name in given}
        assert _located(dict.fromkeys(given, ""), source) == {}
        named |= given
    assert set(named) == set(FOLDERS)


def test_a_run_is_named_by_what_sets_it_apart(series, tmp_path, monkeypatch):
    monkeypatch.setattr("vkdlab.notebooks.project_root", lambda: tmp_path)
    report = run(["00_good"], folder=series, parameters=["seed=3", "data=arid6"], profile="smoke", progress=False)
    assert report.folder == tmp_path / "reports" / "runs" / "smoke-seed-3-data-arid6"


def test_a_parameter_that_one_of_several_notebooks_lacks_is_refused(series, tmp_path):
    with pytest.raises(ParameterError, match=r"04_plain\.ipynb has no cell tagged `parameters`, so 'seed'"):
        run(["00", "04"], folder=series, out=tmp_path / "out", parameters=["seed=1"], progress=False)


def test_notebooks_are_found_by_number_name_and_path(series):
    assert [path.stem for path in find(folder=series)][:2] == ["00_good", "01_raises"]
    good = series / "00_good.ipynb"
    assert find(["00", "00_good", "00_good.ipynb", good], folder=series) == [good]
    with pytest.raises(
        FileNotFoundError, match=r"no notebook '01_raise'\. Did you mean '01_raises'\? In .*: 00_good, 01_"
    ):
        find(["01_raise"], folder=series)
    with pytest.raises(FileNotFoundError, match="there are no notebooks in"):
        find(folder=series / "nowhere")


def test_two_notebooks_of_one_name_are_refused(tmp_path):
    paths = [write_notebook(tmp_path / place / "a.ipynb") for place in ("x", "y")]
    with pytest.raises(ValueError, match="have the same name"):
        find(paths)


@pytest.mark.parametrize("content", ["", "no json", '{"cells": 3}', "[]"])
def test_a_file_that_is_no_notebook_is_named(tmp_path, content):
    path = tmp_path / "broken.ipynb"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"broken\.ipynb is no notebook that could be read"):
        read_source(path)


def test_a_folder_that_cannot_be_written_is_named_before_anything_starts(series, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/out cannot be written: .*Choose another folder"):
        run(["00"], folder=series, out=tmp_path / "file" / "out", progress=False)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for this user")
def test_a_read_only_folder_is_named_before_anything_starts(series, tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(OSError, match=r"cannot be written: Permission denied\. Choose another folder"):
        run(["00"], folder=series, out=tmp_path / "out", progress=False)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are told by /proc, a Linux thing")
def test_a_disk_that_fills_up_stops_the_run_and_the_next_call_goes_on(tmp_path, monkeypatch):
    path = write_notebook(tmp_path / "a.ipynb", FINISH + "finish({'m': 1})", parameters=None)
    fsync = os.fsync

    def full(handle):
        if "/.job." in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr("vkdlab.files.os.fsync", full)
        with pytest.raises(OSError, match=r"job\.json could not be written: .*The disk is full: free some room"):
            run([path], out=tmp_path / "out", progress=False)
    assert list((tmp_path / "out" / "jobs").iterdir()) == []
    assert "1 waiting" in (tmp_path / "out" / "index.html").read_text()
    assert run([path], out=tmp_path / "out", progress=False).passed


def test_two_runs_do_not_write_to_one_folder(series, tmp_path):
    from filelock import FileLock

    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(OSError, match=r"another run is writing to .*: wait until it has ended, or choose"),
    ):
        run(["00"], folder=series, out=tmp_path, progress=False)


def test_a_notebook_over_its_time_limit_is_stopped_and_failed(tmp_path):
    path = write_notebook(tmp_path / "slow.ipynb", "import time; time.sleep(600)", parameters=None)
    begun = time.monotonic()
    report = run([path], out=tmp_path / "out", timeout_s=4, progress=False)
    assert report.results[0].error["message"] == "stopped after 4 s, the limit for one notebook"
    assert time.monotonic() - begun < 30


def test_ray_that_is_not_installed_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"executor 'ray' needs Ray: pip install .*\[ray\]"):
        RaySlots(1)


def test_jobs_run_as_ray_tasks(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    path = write_notebook(tmp_path / "a.ipynb", FINISH + "finish({'m': seed})")
    report = run([path], sweep={"seed": [0, 1]}, out=tmp_path / "out", executor="ray", slots=2, progress=False)
    assert [result.metrics["m"] for result in report.results] == [0, 1]
