"""The README's claims are those of the files they come from, and its pictures and names are there."""

import dataclasses
import json
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest

from vkdlab.data import manifests
from vkdlab.files import project_root
from vkdlab.report import Report

ROOT = project_root()
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "reports" / "evidence").glob("*.json")), ids=lambda path: path.stem)
def test_the_table_of_results_is_that_of_the_evidence(path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "reports"))
    script = runpy.run_path(str(ROOT / "reports" / f"{path.stem}_evidence.py"))
    assert script["readme_table"](json.loads(path.read_text())) in README


def test_the_claims_of_delta_distillation_follow_from_its_runs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "reports"))
    script = runpy.run_path(str(ROOT / "reports" / "delta_evidence.py"))
    evidence = json.loads((ROOT / "reports" / "evidence" / "delta.json").read_text())
    claims = [
        dataclasses.asdict(claim)
        for name in script["STUDIES"]
        for claim in script["claims_of"](name, script["runs_of"](evidence, name))
    ]
    assert claims == evidence["claims"]


def test_one_study_is_run_anew_while_the_runs_of_the_others_are_kept(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "reports"))
    import delta_evidence

    evidence = json.loads(delta_evidence.EVIDENCE.read_text())
    again = [run for run in evidence["runs"] if run["parameters"]["task"] == "detection"]
    results = delta_evidence.committed("tabletop, boxes", evidence)
    monkeypatch.setattr(delta_evidence, "EVIDENCE", tmp_path / "delta.json")
    (tmp_path / "delta.json").write_text(json.dumps(evidence | {"runs": [*evidence["runs"][::-1]]}))
    monkeypatch.setattr(delta_evidence, "sweep", lambda name: Report(tmp_path, results[: len(results) - 1]))
    made = delta_evidence.make(["tabletop, boxes"])
    assert len(made["runs"]) == len(evidence["runs"]) - 1
    assert [run for run in made["runs"] if run["parameters"]["task"] == "detection"] == again[:-1]
    with pytest.raises(SystemExit, match=r"there are the studies tabletop, .* not tabletops"):
        delta_evidence.make(["tabletops"])


def test_evidence_has_the_form_that_every_method_keeps():
    for path in (ROOT / "reports" / "evidence").glob("*.json"):
        evidence = json.loads(path.read_text())
        assert list(evidence) == ["command", "data", "features", "versions", "machine", "date", "runs", "claims"]
        for claim in evidence["claims"]:
            assert set(claim) == {"name", "value", "low", "high", "n_seeds", "target", "met", "note"}
            assert claim["met"] or claim["note"]


def test_every_notebook_has_a_picture():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"reports/pictures/{path.stem}.png" in README


@pytest.mark.parametrize("target", sorted(set(re.findall(r"!?\[[^]]*\]\(([^)]+)\)", README))))
def test_what_the_readme_links_to_is_there(target):
    assert (ROOT / target).exists()


def test_every_make_target_and_manifest_that_the_readme_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
    for name in ("tabletop", "pypi-clips"):
        assert name in manifests.names()
        assert name in README


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    """With its paths put where this test made them."""
    from vkdlab import emtm
    from vkdlab.data import write_video

    folder = tmp_path / "my" / "folder"
    frames = np.zeros((40, 32, 48, 3), np.uint8)
    for name in ("clip.mp4", "my/folder/kitchen.mp4"):
        write_video(tmp_path / name, frames, fps=10)
    (folder / "moments.csv").write_text("file,start,end,sentence\nkitchen.mp4,0:00,0:02.5,an egg\n")
    monkeypatch.chdir(tmp_path)
    own, browsing, library = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    names = {}
    exec(own, names)
    assert len(names["dataset"].queries) == len(names["train"].queries) == 1
    assert names["bad_rows"] == []
    exec(library, names)
    student = names["students"]["EMTM"]
    assert 0 <= student.metrics["R1@0.5"].value <= 1
    emtm.predictions_of(names["study"], {"student": student}, name="mine").save(tmp_path / "runs" / "emtm-student-0123")
    # A process browses one database, and this one may browse that of other tests.
    check = "assert corrected.fingerprint == predictions.dataset.fingerprint\nassert '127.0.0.1' in app.url"
    done = subprocess.run([sys.executable, "-c", browsing + check], capture_output=True, text=True)
    if "BrowseUnavailable" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
