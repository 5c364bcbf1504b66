"""The `vkdlab` command as a person types it."""

import subprocess
import sys

import pytest

from vkdlab import __version__
from vkdlab.cli import main

from .notebook_writing import write_notebook
from .test_report import write_run


def call(monkeypatch, *arguments):
    """Exit code of `vkdlab` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["vkdlab", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_the_version_is_printed(monkeypatch, capsys):
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"vkdlab {__version__}\n"


def test_help_names_every_command_and_loads_no_heavy_module():
    code = (
        "import sys, vkdlab.cli\n"
        "sys.argv = ['vkdlab', '--help']\n"
        "try:\n    vkdlab.cli.main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'pandas', 'plotly', 'papermill', 'numpy', 'yaml', 'cv2'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for command in ("run", "ground", "ask", "delta", "report", "lab", "bench", "data"):
        assert f"\n  {command} " in shown
    assert shown.splitlines()[-1] == "[]"


def test_a_run_prints_what_happened_and_its_exit_code_tells(monkeypatch, capsys, tmp_path):
    good = write_notebook(tmp_path / "a.ipynb", "from vkdlab.notebooks import finish\nfinish({'m': seed})")
    bad = write_notebook(tmp_path / "b.ipynb", "raise KeyError('row 3')")
    assert call(monkeypatch, "run", good, "-p", "seed=7", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "passed   a " in shown
    assert f"Report: {tmp_path / 'out' / 'index.html'}" in shown
    assert call(monkeypatch, "run", good, bad, "-p", "seed=7", "--out", tmp_path / "out") == 1
    shown = capsys.readouterr().out
    assert "1 of 2 passed before and are not run again" in shown
    assert "failed   b " in shown
    assert "KeyError: 'row 3'" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "{folder}/a.ipynb", "-p", "sede=1"], "vkdlab: a.ipynb has no parameter 'sede'. Did you mean 'seed'?"),
        (["run", "{folder}/a.ipynb", "-p", "seed=x"], "vkdlab: parameter 'seed' expects int (default 0), given 'x'"),
        (["run", "{folder}/a.ipynb", "--out", "{folder}/a.ipynb/out"], "a.ipynb/out cannot be written"),
        (["run", "no_such_notebook"], "vkdlab: there is no notebook 'no_such_notebook'."),
        (["run", "--slots", "none"], "Invalid value for '--slots'"),
        (["run", "{folder}/a.ipynb", "--data-root", "{folder}/no"], "is no folder; correct --data-root"),
        (["report", "no_such_run"], "vkdlab: there is no run 'no_such_run'"),
        (["data", "show", "no_such_set"], "vkdlab: no data set is named 'no_such_set'"),
        (["data", "check", "no_such_set"], "vkdlab: no data set is named 'no_such_set'"),
        (["data", "build", "no_such_set"], "vkdlab: no data set is named 'no_such_set'"),
        (["dato"], "No such command 'dato'"),
    ],
)
def test_what_a_user_did_wrong_is_one_message_without_a_traceback(monkeypatch, capsys, tmp_path, arguments, message):
    write_notebook(tmp_path / "a.ipynb")
    assert call(monkeypatch, *(argument.format(folder=tmp_path) for argument in arguments)) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_debug_shows_where_an_error_arose(monkeypatch, capsys):
    assert call(monkeypatch, "--debug", "run", "no_such_notebook") == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_error_of_the_system_names_its_file(monkeypatch, capsys, tmp_path):
    write_run(tmp_path, [("00_a", {}, {}, {"m": 1}, {})])
    (tmp_path / "index.html").mkdir()
    assert call(monkeypatch, "report", tmp_path) == 2
    assert "index.html" in capsys.readouterr().err


def test_a_report_is_written_again_from_its_results(monkeypatch, capsys, tmp_path):
    write_run(tmp_path, [("00_a", {}, {}, {"m": 1}, {})])
    assert call(monkeypatch, "report", tmp_path) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'index.html'}\n"
    assert "Title of 00_a" in (tmp_path / "index.html").read_text()


def test_data_sets_are_listed_and_shown(monkeypatch, capsys):
    assert call(monkeypatch, "data", "list") == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["name", "state", "task", "splits", "title"]
    assert any(row.startswith("tabletop ") and "built in" in row for row in rows)
    assert call(monkeypatch, "data", "show", "charades-sta") == 0
    assert "licence" in capsys.readouterr().out


def test_a_data_root_that_is_no_folder_is_named(monkeypatch, capsys, tmp_path):
    assert call(monkeypatch, "data", "check", "charades-sta", "--data-root", tmp_path / "no") == 2
    assert "is no folder: correct VKDLAB_DATA or --data-root" in capsys.readouterr().err


def test_a_data_set_with_missing_files_exits_with_one(monkeypatch, capsys, tmp_path):
    assert call(monkeypatch, "data", "check", "charades-sta", "--data-root", tmp_path) == 1
    assert "missing: 1" in capsys.readouterr().out
