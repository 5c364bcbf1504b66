"""How a notebook ends: numbers and figures in the job's folder, and a small table."""

import json
import math
import subprocess
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest
import torch

from vkdlab.metrics import Mean
from vkdlab.notebooks import finish


def test_finish_writes_numbers_and_figures_into_the_job_and_shows_them(tmp_path, monkeypatch):
    monkeypatch.setenv("VKDLAB_JOB_DIR", str(tmp_path))
    mean = Mean.of(torch.tensor([0.25, 0.75]))
    summary = finish({"R1": mean, "n": torch.tensor(3), "set": "<a>", "none": None}, {"T": go.Figure(go.Bar(y=[1]))})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"R1": 0.5, "n": 3, "set": "<a>", "none": None}
    assert json.loads((tmp_path / "figures.json").read_text())["T"]["data"][0]["y"] == [1]
    assert repr(summary) == "R1    0.5\nn     3\nset   <a>\nnone  –"
    assert "<td>&lt;a&gt;</td>" in summary._repr_html_()


@pytest.mark.parametrize(
    ("metrics", "figures", "error", "message"),
    [
        ({}, {}, ValueError, "at least one metric"),
        ({"a": math.inf}, {}, ValueError, "metric 'a' is inf, expected a finite number; give None"),
        ({"a": Mean.of(torch.zeros(0))}, {}, ValueError, "metric 'a' is nan"),
        ({"a": [1, 2]}, {}, TypeError, "metric 'a' is a list, expected a number, a text or None"),
        ({"a": 1}, {"f": "plot"}, TypeError, "figure 'f' is a str, expected a plotly figure"),
    ],
)
def test_finish_refuses_what_cannot_be_compared(tmp_path, monkeypatch, metrics, figures, error, message):
    monkeypatch.setenv("VKDLAB_JOB_DIR", str(tmp_path))
    with pytest.raises(error, match=message):
        finish(metrics, figures)
    assert list(tmp_path.iterdir()) == []


def test_finish_needs_neither_papermill_nor_jupyter():
    code = (
        "import sys; from vkdlab.notebooks import finish; "
        "print({'papermill', 'nbformat', 'jupyter_client', 'torch', 'plotly'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home())
    assert found.stdout.strip() == "set()"
