"""Runs that are kept with the code are found by method, data set and notebook."""

import pytest

from vkdlab import evidence
from vkdlab.evidence import committed_runs
from vkdlab.files import write_json


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A project with evidence of one method: three runs on two data sets."""
    runs = [
        {"notebook": notebook, "parameters": {"data": data, "seed": 0}, "metrics": {"accuracy": share}}
        for notebook, data, share in (("02_first", "a", 0.1), ("03_second", "a", 0.2), ("03_second", "b", 0.3))
    ]
    write_json(tmp_path / "reports" / "evidence" / "toy.json", {"runs": runs, "claims": []})
    monkeypatch.setattr(evidence, "project_root", lambda: tmp_path)
    return runs


def test_committed_runs_are_those_of_the_data_set(checkout):
    assert committed_runs("toy", data="a") == checkout[:2]
    assert committed_runs("toy", data="b") == checkout[2:]
    assert committed_runs("toy", data="no such set") == []


def test_committed_runs_may_be_asked_for_by_notebook(checkout):
    assert committed_runs("toy", data="a", notebook="03") == checkout[1:2]
    assert committed_runs("toy", data="b", notebook="02") == []


def test_before_a_sweep_there_are_no_committed_runs(checkout):
    assert committed_runs("another method", data="a") == []


def test_the_committed_runs_of_the_project_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = committed_runs("emtm", data="tabletop", notebook="03")
    assert {run["parameters"]["seed"] for run in found} == set(range(5))
    assert all("KAU R1@0.5" in run["metrics"] for run in found)
