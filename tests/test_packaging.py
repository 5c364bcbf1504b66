"""What is declared in several places says the same: pyproject.toml, constraints.txt, environment.yml, carriers.txt."""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vkdlab.files import project_root

ROOT = project_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def _requirements(file):
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def test_every_declared_dependency_is_pinned_to_a_version_that_it_allows():
    pins = {canonicalize_name(pin.name): pin for pin in _requirements("constraints.txt")}
    for text in [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]:
        wanted = Requirement(text)
        pin = pins.get(canonicalize_name(wanted.name))
        assert pin is not None, f"{wanted.name} is not pinned in constraints.txt"
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert wanted.specifier.contains(exact.version), f"{wanted} does not allow the pinned {exact.version}"


def test_pins_name_no_build_of_one_platform():
    assert "+" not in (ROOT / "constraints.txt").read_text()
    assert all(len(pin.specifier) == 1 for pin in _requirements("carriers.txt"))


def test_the_extras_are_the_promised_ones():
    assert set(EXTRAS) == {"notebooks", "fiftyone", "ray", "real", "export", "dev"}


def test_conda_users_get_the_dependencies_of_pyproject():
    rattler = pytest.importorskip("rattler", reason="py-rattler reads conda's specs")
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    specs = {}
    for entry in environment["dependencies"]:
        if isinstance(entry, str):
            spec = rattler.MatchSpec(entry)
            specs[spec.name.normalized if hasattr(spec.name, "normalized") else str(spec.name)] = spec
    (by_pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert environment["channels"] == ["conda-forge"]
    assert set(specs) == {"python", "pip"}

    lowest = Requirement(f"python{PROJECT['requires-python']}").specifier
    allowed = Requirement("python" + str(specs["python"].version)).specifier
    assert lowest.contains("3.11")
    assert allowed.contains("3.11")
    assert not any(allowed.contains(older) and not lowest.contains(older) for older in ("3.9", "3.10"))

    assert by_pip[0] == "-c constraints.txt"
    (extras,) = re.fullmatch(r"-e \.\[(.+)\]", by_pip[1]).groups()
    makefile = (ROOT / "Makefile").read_text()
    assert f"'.[{extras}]'" in makefile, "conda users and `make` install the same extras"
    assert set(extras.split(",")) <= set(EXTRAS)


@pytest.fixture
def clone(tmp_path):
    """A folder with what make and continuous integration look at, and no environment yet."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "carriers.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / ".ci", tmp_path / "clone" / ".ci")
    return tmp_path


def _printed(*command, folder):
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "VKDLAB_DATA"}
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("run", "vkdlab run --profile demo"),
        ("lab", "vkdlab lab"),
        ("test", "python -m pytest -n 2"),
        ("bench", "vkdlab bench"),
    ],
)
def test_every_target_installs_when_there_is_no_environment_and_only_then(clone, target, last):
    first = _printed("make", "-n", target, folder=clone)
    assert "-m venv .venv" in first
    assert "--constraint constraints.txt" in first
    assert "--editable" in first
    assert f".venv/bin/{last}" in first.splitlines()[-1]
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".installed").touch()
    again = _printed("make", "-n", target, folder=clone)
    assert "pip install" not in again
    assert f".venv/bin/{last}" in again.splitlines()[-1]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_continuous_integration_runs_make_test_on_the_real_data_where_it_is(clone):
    (clone / "clone" / "Makefile").write_text("test:\n\t@echo testing with [$(VKDLAB_DATA)]\nrun:\n\tfalse\n")
    command = clone / "clone" / ".ci" / "run"
    assert "testing with []" in _printed(command, folder="/")
    (clone / "shared" / "data").mkdir(parents=True)
    assert f"testing with [{(clone / 'shared' / 'data').resolve()}]" in _printed(command, folder="/")


def test_importing_vkdlab_imports_no_heavy_companion():
    script = (
        "import sys, vkdlab, vkdlab.data, vkdlab.metrics, vkdlab.training, vkdlab.cli\n"
        "heavy = {'fiftyone', 'ray', 'jupyterlab', 'notebook', 'papermill', 'ipywidgets', 'IPython', 'transformers', "
        "'onnx', 'onnxruntime', 'onnxscript'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_a_trained_student_is_asked_without_tables_and_figures():
    script = (
        "import sys, vkdlab.emtm\n"
        "print(sorted({'pandas', 'plotly', 'ipywidgets', 'onnx'} & {name.split('.')[0] for name in sys.modules}))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_import_vkdlab_alone_does_not_even_import_torch():
    script = "import sys, vkdlab; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"
