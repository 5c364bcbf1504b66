"""The notebooks as code and as documents: they run at smoke size, say the same twice, and are laid out alike."""

import ast
import json
import os
import subprocess
import sys
from itertools import pairwise

import nbformat
import pytest

from vkdlab import notebooks
from vkdlab.files import project_root, read_json

SERIES = sorted((project_root() / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in SERIES]
COMMON = {"profile": "demo", "seed": 0, "data": "tabletop", "device": "auto", "runs_dir": ""}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """One smoke run of the whole series."""
    return notebooks.run(profile="smoke", out=tmp_path_factory.mktemp("series"), slots=1, progress=False)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_passes_at_smoke_size_and_leaves_numbers_and_pictures(report, name):
    (result,) = (each for each in report.results if each.notebook == name)
    assert result.status == "passed", result.error
    assert result.metrics
    assert read_json(result.folder / "figures.json")


@pytest.mark.timeout(900)
def test_the_report_lists_every_notebook_of_the_series(report):
    page = (report.folder / "index.html").read_text()
    assert all(name in page for name in NAMES)


@pytest.mark.timeout(900)
def test_cells_whose_output_is_checked_say_the_same_when_the_notebooks_run_again(report, tmp_path):
    """nbval runs what the smoke run left and compares the cells that are tagged for it with their outputs."""
    copies = []
    checked = 0
    for result in report.results:
        node = nbformat.read(result.folder / "executed.ipynb", as_version=4)
        checked += sum("nbval-check-output" in cell.metadata.get("tags", []) for cell in node.cells)
        copies.append(tmp_path / f"{result.notebook}.ipynb")
        nbformat.write(node, copies[-1])
    assert checked >= len(NAMES), "every notebook has at least one cell whose output is checked"
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", "-W", "default"]
    command += ["-p", "no:xdist", "--rootdir", str(tmp_path), "-c", os.devnull, *map(str, copies)]
    environment = os.environ | {"VKDLAB_JOB_DIR": str(tmp_path / "job"), "PLOTLY_RENDERER": "plotly_mimetype"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("path", SERIES, ids=NAMES)
def test_no_output_is_kept_in_git(path):
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.parametrize("path", SERIES, ids=NAMES)
def test_a_notebook_begins_with_what_it_is_for_and_its_parameters(path):
    node = nbformat.read(path, as_version=4)
    first, second = node.cells[:2]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert all(f"| {row} |" in first.source for row in ("Purpose", "Reads", "Writes", "Time"))
    assert second.metadata.get("tags") == ["parameters"]
    parameters = notebooks.read_source(path).parameters
    assert {name: parameters[name].default for name in COMMON} == COMMON
    assert all("  # " in line for line in second.source.splitlines()), "every parameter has its meaning behind it"


@pytest.mark.parametrize("path", SERIES, ids=NAMES)
def test_a_notebook_calls_the_library_and_defines_nothing(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        made = [
            node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.For | ast.While)
        ]
        assert not made, f"line {made[0].lineno} of: {cell.source}"
    assert "notebooks.finish(" in cell.source


@pytest.mark.parametrize("path", SERIES, ids=NAMES)
def test_every_question_is_followed_by_an_answer(path):
    cells = nbformat.read(path, as_version=4).cells
    for cell, following in pairwise(cells):
        if cell.cell_type == "markdown" and cell.source.rstrip().endswith("?"):
            assert following.cell_type == "code", cell.source
