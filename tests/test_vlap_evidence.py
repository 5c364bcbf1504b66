"""VLAP's claims and table follow from a sweep's numbers; these here are made up."""

import dataclasses
import json

import pytest

from vkdlab.files import project_root
from vkdlab.metrics import Mean
from vkdlab.report import Report, Result
from vkdlab.vlap.evaluate import Results, Row
from vkdlab.vlap.latency import KEPT, Seconds, WayTime
from vkdlab.vlap.measure import Measured, time_metrics

ROOT = project_root()
COUNTS = (1, 2, 4, 8, 16, 32)
KINDS = ("count", "verb")
ACCURACY = {
    "uniform": 0.55, "at random": 0.5, "oracle": 0.9, "localizer": 0.6, "prompter": 0.7, "blind prompter": 0.56,
    "prompter, not distilled": 0.68, "as released": 0.52,
}  # fmt: skip
"""At 4 frames, on the common answerer."""
OWN = {"prompter": 0.76, "blind prompter": 0.6, "prompter, not distilled": 0.73, "as released": 0.58}
STEPS = (-0.02, -0.01, 0.0, 0.01, 0.02)
"""What a seed adds to all accuracies."""


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "reports"))
    import vlap_evidence

    monkeypatch.setattr(vlap_evidence, "EVIDENCE", tmp_path / "vlap.json")
    return vlap_evidence


def metrics(step: float = 0.0, **changed: float) -> dict[str, float]:
    """All numbers of a run by the notebook's names."""
    found = {}
    fixed = {"all frames": 0.74, "chance": 0.34, "teacher on all frames": 0.75, "language alone": 0.36}
    fixed["taught by the oracle"] = 0.96
    for way, value in {**fixed, **{f"{way} with its own answerer": value for way, value in OWN.items()}}.items():
        found |= {f"{way}: accuracy{kind}": value + step for kind in ("", *(f" {kind}" for kind in KINDS))}
    for way, value in ACCURACY.items():
        for frames in (4,) if way == "as released" else COUNTS:
            found[f"{way}, {frames} frames: accuracy"] = value + step + 0.001 * (frames - 4) * (way == "prompter")
            found[f"{way}, {frames} frames: evidence met"] = value / 2
        found[f"{way}, 4 frames: oracle's frames"] = value / 4
        found |= {f"{way}, 4 frames: accuracy {kind}": value + step for kind in KINDS}
    found["prompter, 4 frames: accuracy count"] -= 0.2
    found |= {f"{way}: ms": 120.0 for way in ("all frames", "localizer")}
    found |= {"uniform: ms": 30.0, "prompter: ms": 32.0, "prompter, kept thumbnails: ms": 20.0}
    for way, faster in {"prompter": 3.5, "prompter, kept thumbnails": 6.0}.items():
        found |= {f"{way} faster than {other}": faster + 10 * step for other in ("all frames", "localizer")}
    return found | changed


def results(tmp_path, **changed: float) -> tuple[Result, ...]:
    return tuple(
        Result("05_frame_selection", tmp_path, {"seed": seed}, "passed",
               parameters={"seed": seed, "data": "tabletop"}, metrics=metrics(step, **changed))
        for seed, step in enumerate(STEPS)
    )  # fmt: skip


def by_name(script, **changed: float):
    claims = script.claims_of([metrics(step, **changed) for step in STEPS])
    found = {claim.name.removeprefix("tabletop: "): claim for claim in claims}
    assert len(found) == len(claims)
    return found


def test_every_claim_has_its_difference_and_its_target(script):
    claims = by_name(script)
    points = {
        "accuracy with 4 frames, prompter with its own answerer above all frames": (2, "0 or more"),
        "accuracy with 4 frames, prompter with its own answerer above teacher on all frames": (1, "0 or more"),
        "accuracy with 4 frames, prompter above all frames": (-4, "reported, no target"),
        "accuracy, language alone above chance": (2, "3 or less"),
        "accuracy with 4 frames, prompter above blind prompter": (14, "above 0, interval above zero"),
        "accuracy with 4 frames, prompter with its own answerer above blind prompter with its own answerer":
            (16, "above 0, interval above zero"),
        "accuracy with 4 frames, prompter with its own answerer above prompter, not distilled with its own answerer":
            (3, "above 0, interval above zero"),
        "accuracy with 4 frames, prompter above at random": (20, "reported, no target"),
        "accuracy with 4 frames, prompter above as released": (18, "reported, no target"),
        "accuracy with 4 frames, prompter above localizer": (10, "reported, no target"),
        "accuracy with 4 frames, oracle above prompter": (20, "reported, no target"),
        "accuracy with 4 frames, taught by the oracle above prompter with its own answerer":
            (20, "reported, no target"),
        "accuracy with 4 frames on 'count' questions, taught by the oracle above prompter with its own answerer":
            (20, "reported, no target"),
        "accuracy with 4 frames on 'verb' questions, taught by the oracle above prompter with its own answerer":
            (20, "reported, no target"),
        "accuracy with 1 frame, prompter above uniform": (14.7, "reported, no target"),
        "accuracy with 2 frames, prompter above uniform": (14.8, "reported, no target"),
        "accuracy with 4 frames, prompter above uniform": (15, "reported, no target"),
        "accuracy with 8 frames, prompter above uniform": (15.4, "reported, no target"),
        "accuracy with 16 frames, prompter above uniform": (16.2, "reported, no target"),
        "accuracy with 4 frames on 'count' questions, prompter above uniform": (-5, "reported, no target"),
        "accuracy with 4 frames on 'verb' questions, prompter above uniform": (15, "reported, no target"),
        "evidence met with 4 frames, prompter above uniform": (7.5, "reported, no target"),
        "evidence met with 4 frames, prompter above blind prompter": (7, "reported, no target"),
        "oracle's frames with 4 frames, prompter above uniform": (3.75, "reported, no target"),
        "oracle's frames with 4 frames, prompter above blind prompter": (3.5, "reported, no target"),
    }  # fmt: skip
    others = {
        "prompter, 4 frames, times faster than all frames": (3.5, "3 or more"),
        "prompter, 4 frames, times faster than localizer": (3.5, "4.2 or more"),
        "prompter, kept thumbnails, 4 frames, times faster than all frames": (6, "reported, no target"),
        "prompter, kept thumbnails, 4 frames, times faster than localizer": (6, "reported, no target"),
        "evidence met with 4 frames, prompter, per cent": (35, "reported, no target"),
        "oracle's frames with 4 frames, prompter, per cent": (17.5, "reported, no target"),
    }
    expected = {f"{name}, points": value for name, value in points.items()} | others
    assert {name: claim.target for name, claim in claims.items()} == {name: each[1] for name, each in expected.items()}
    assert {name: claim.value for name, claim in claims.items()} == pytest.approx(
        {name: value for name, (value, _) in expected.items()}
    )
    missed = [name for name, claim in claims.items() if not claim.met]
    assert missed == ["prompter, 4 frames, times faster than localizer"]
    assert all(claim.n_seeds == 5 and bool(claim.note) != claim.met for claim in claims.values())


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"all frames: accuracy": 0.80}, "prompter with its own answerer above all frames, points"),
        ({"language alone: accuracy": 0.41}, "language alone above chance, points"),
        ({"prompter faster than all frames": 2.9}, "prompter, 4 frames, times faster than all frames"),
        ({"blind prompter, 4 frames: accuracy": 0.69}, "prompter above blind prompter, points"),
        (
            {"prompter, not distilled with its own answerer: accuracy": 0.75},
            "not distilled with its own answerer, poin",
        ),
    ],
)
def test_what_is_missed_stays_with_a_note(script, changed, missed):
    """A mean of one point above with an interval that goes below zero is missed as well."""
    before, after = by_name(script), by_name(script, **changed)
    turned = [name for name in after if before[name].met and not after[name].met]
    assert len(turned) == 1
    assert missed in turned[0]
    assert after[turned[0]].note


def test_as_accurate_as_all_frames_needs_no_interval_above_zero(script):
    claim = by_name(script, **{"all frames: accuracy": 0.755})[
        "accuracy with 4 frames, prompter with its own answerer above all frames, points"
    ]
    assert claim.low < 0 < claim.value
    assert claim.met


def test_what_a_study_measures_has_the_names_that_claims_are_made_of(script):
    def answered(ways: dict[str, float]) -> Results:
        about = {"video": "v", "answer": 0, "predicted": 0, "probs": (1.0,), "frames": (0,), "times_s": (0.0,)}
        rows = [
            Row(id=kind, kind=kind, way=way, right=share, evidence=(0,), **about)
            for way, share in ways.items()
            for kind in KINDS
        ]
        return Results(tuple(rows), {}, {})

    levels = {"all frames": 0.74, "no frame": 0.36, "chance": 0.34}
    others = {"teacher": 0.75, "language alone": 0.36, "taught by the oracle": 0.96}
    times = {
        way: WayTime(total=Seconds((seconds,)), stages={}, decoded=Mean(1, 1), kept=Mean(1, 1))
        for way, seconds in {"all frames": 0.2, "localizer": 0.4, "prompter": 0.05, KEPT: 0.04}.items()
    }
    measured = Measured(
        4, dict.fromkeys(COUNTS, answered(ACCURACY | levels)), answered(OWN | others | {"chance": 0.34})
    )
    run = measured.metrics() | time_metrics(times)
    claims = {claim.name: claim.value for claim in script.claims_of([run])}
    assert claims["tabletop: accuracy, language alone above chance, points"] == pytest.approx(2)
    assert claims["tabletop: accuracy with 4 frames on 'verb' questions, prompter above uniform, points"] > 0
    assert claims["tabletop: prompter, kept thumbnails, 4 frames, times faster than localizer"] == pytest.approx(10)
    table = script.readme_table({"runs": [{"metrics": run}], "claims": [], "machine": "m", "date": "d"})
    assert "| **prompter**, 4 frames | 70.0 | 76.0 | 100.0 | 50 | 4.00 |" in table
    assert "| no frame, learned from language alone | 36.0 | - | - | - | - |" in table


def test_a_number_that_the_notebook_did_not_give_is_named(script):
    runs = [metrics()]
    del runs[0]["oracle, 4 frames: accuracy"]
    with pytest.raises(KeyError, match="oracle, 4 frames: accuracy"):
        script.claims_of(runs)


def test_the_evidence_holds_the_runs_and_the_claims_that_follow_from_them(script, monkeypatch, tmp_path):
    asked = {}

    def run(names, **given):
        asked.update(given, names=names)
        return Report(tmp_path, results(tmp_path))

    monkeypatch.setattr(script.notebooks, "run", run)
    written = script.make()
    assert json.loads(script.EVIDENCE.read_text()) == written
    assert written["command"] == "python reports/make_evidence.py vlap"
    assert written["data"] == ["tabletop"]
    assert [run["parameters"]["seed"] for run in written["runs"]] == [0, 1, 2, 3, 4]
    again = script.claims_of([run["metrics"] for run in written["runs"]])
    assert written["claims"] == [dataclasses.asdict(claim) for claim in again]
    assert (asked["names"], asked["profile"], asked["slots"]) == (["05"], "full", 1)
    assert list(asked["sweep"]["seed"]) == [0, 1, 2, 3, 4]


def test_a_sweep_with_a_failed_run_is_no_evidence(script, monkeypatch, tmp_path):
    *most, last = results(tmp_path)
    failed = dataclasses.replace(last, status="failed", metrics={})
    monkeypatch.setattr(script, "sweep", lambda: Report(tmp_path, (*most, failed)))
    with pytest.raises(ValueError, match=r"1 jobs .* did not pass"):
        script.make()
    assert not script.EVIDENCE.exists()


def test_the_table_has_a_row_a_way(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "sweep", lambda: Report(tmp_path, results(tmp_path)))
    lines = script.readme_table(script.make()).splitlines()
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (line.split("|") for line in lines[2:16])
    }
    assert lines[16] == ""
    assert rows["all frames"] == ["74.0 ± 2.0", "-", "-", "120 ± 0", "1"]
    assert rows["**prompter**, 4 frames"] == ["70.0 ± 2.0", "76.0 ± 2.0", "35.0 ± 0.0", "32 ± 0", "3.50 ± 0.20"]
    kept = rows["the same, thumbnails kept from an earlier question"]
    assert kept == ["70.0 ± 2.0", "76.0 ± 2.0", "35.0 ± 0.0", "20 ± 0", "6.00 ± 0.20"]
    assert rows["spread evenly, 4 frames"] == ["55.0 ± 2.0", "-", "27.5 ± 0.0", "30 ± 0", "-"]
    assert rows["no frame, learned from language alone"] == ["36.0 ± 2.0", "-", "-", "-", "-"]
    assert rows["chance"][0] == "34.0 ± 2.0"
    assert [row[0].split()[0] for row in rows.values()] == [
        "74.0", "75.0", "70.0", "70.0", "68.0", "56.0", "52.0", "55.0", "50.0", "60.0", "90.0", "96.0", "36.0", "34.0",
    ]  # fmt: skip
    assert any("mean over 5 seeds" in line for line in lines[17:])
    assert any("1 of 31 miss their target" in line for line in lines[17:])


def test_one_seed_has_no_interval(script):
    evidence = {"runs": [{"metrics": metrics()}], "claims": [], "machine": "m", "date": "d"}
    assert "| **prompter**, 4 frames | 70.0 | 76.0 | 35.0 | 32 | 3.50 |" in script.readme_table(evidence)


def test_the_readme_has_a_place_for_every_table_and_claims_nothing_without_evidence(script):
    import make_evidence

    readme = (ROOT / "README.md").read_text()
    for name in make_evidence.METHODS:
        _, mark, rest = readme.partition(f"<!-- evidence of {name}: written by reports/make_evidence.py -->\n")
        table, end, _ = rest.partition("<!-- end of evidence -->")
        assert mark, name
        assert end, name
        assert bool(table) == (ROOT / "reports" / "evidence" / f"{name}.json").is_file(), name


def test_the_table_is_put_between_its_marks(script, monkeypatch, tmp_path):
    import make_evidence

    readme = tmp_path / "README.md"
    before, mark, rest = (ROOT / "README.md").read_text().partition("<!-- evidence of vlap: written by")
    readme.write_text(before + mark + rest)
    monkeypatch.setattr(make_evidence, "README", readme)
    monkeypatch.setattr(script, "sweep", lambda: Report(tmp_path, results(tmp_path)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_evidence.main(["vlap"])
    table = script.readme_table(json.loads(script.EVIDENCE.read_text()))
    written = readme.read_text()
    assert f"make_evidence.py -->\n{table}\n<!-- end of evidence -->" in written
    assert written.startswith(before)
    assert written.endswith(rest.partition("<!-- end of evidence -->")[2])
    with pytest.raises(SystemExit, match="evidence of emtm, delta, vlap, not of gamma"):
        make_evidence.main(["gamma"])


@pytest.mark.skipif(
    not (ROOT / "reports" / "evidence" / "vlap.json").is_file(), reason="there is no evidence of VLAP yet"
)
def test_the_claims_of_vlap_follow_from_its_runs(script):
    evidence = json.loads((ROOT / "reports" / "evidence" / "vlap.json").read_text())
    claims = script.claims_of([run["metrics"] for run in evidence["runs"]])
    assert [dataclasses.asdict(claim) for claim in claims] == evidence["claims"]
