"""What the README says of EMTM: sweeps, claims, table. `make_evidence.py` runs it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from claims import Runs, finite, limit, points_between

from vkdlab import notebooks
from vkdlab.data.prepared import EXTRACTORS
from vkdlab.emtm.study import BEST, CONSTANT, KAU, NAIVE, ORACLE, UNIFORM
from vkdlab.emtm.study_report import ALONE, EMTM_STUDENT
from vkdlab.emtm.teachers import TEACHERS
from vkdlab.evidence import Claim, write_evidence
from vkdlab.metrics import mean_interval
from vkdlab.report import Report

EVIDENCE = Path(__file__).parent / "evidence" / "emtm.json"
TITLES = {
    "tabletop": "`tabletop`",
    "arid6-random": "ARID-6 joined, random split",
    "arid6": "ARID-6 joined, cross-scene split",
}
DATA = tuple(TITLES)
SEEDS = range(5)
METRIC = "R1@0.5"
HINDSIGHT = "best teacher in hindsight"


def make() -> dict[str, Any]:
    """Runs what was never run, and writes the evidence."""
    studies = [
        notebooks.run(
            ["03"],
            parameters={"students": students, "workers": 1},
            sweep={"seed": SEEDS, "data": data},
            slots=2,
            name=f"emtm-studies-{students}",
        )
        for students, data in (("all", ["arid6"]), ("labels", ["tabletop", "arid6-random"]))
    ]
    results = [result for report in studies for result in report.results]
    teachers = notebooks.run(["02"], parameters={"workers": 1}, sweep={"seed": SEEDS}, slots=2, name="emtm-teachers")
    report = Report(
        folder=teachers.folder, results=(*results, *teachers.results), command="python reports/make_evidence.py emtm"
    )
    by_data = {data: [each.metrics for each in results if each.parameters["data"] == data] for data in DATA}
    claims = [claim for data, runs in by_data.items() for claim in claims_of(data, runs)]
    claims += transfer_claims([each.metrics for each in teachers.results])
    features = {"clips": " + ".join(EXTRACTORS), "stride_s": 0.5, "words": "minilm"}
    return write_evidence(report, path=EVIDENCE, claims=claims, features=features)


def claims_of(data: str, runs: Runs) -> list[Claim]:
    """What this method has to show on one data set, met or not."""
    claims = [
        gap(data, runs, KAU, CONSTANT, at_least=0, note="per-sample weights are not told from constant ones"),
        gap(
            data,
            runs,
            KAU,
            UNIFORM,
            at_least={"arid6-random": 3, "arid6": 6}.get(data, 0),
            note=NOTES.get((data, UNIFORM), ""),
        ),
        gap(data, runs, NAIVE, UNIFORM, at_least=None),
        gap(data, runs, ORACLE, KAU, at_least=None),
        gap(data, runs, BEST, HINDSIGHT, at_least=None),
        gap(
            data, runs, EMTM_STUDENT, ALONE, at_least=3 if data == "tabletop" else 0, note=NOTES.get((data, ALONE), "")
        ),
        gap(
            data,
            runs,
            f"student from {KAU}",
            ALONE,
            at_least=3 if data == "tabletop" else 0,
            note=NOTES.get((data, ALONE), ""),
        ),
        gap(
            data,
            runs,
            "unlabelled, KAU, hard",
            ALONE,
            at_least=0,
            note="few videos are unlabelled here, and of scenes that are known",
        ),
        *number(data, runs, f"{KAU} rank correlation", "rank correlation of KAU's weights with the teachers' IoU"),
        *number(data, runs, f"{KAU} of the oracle's gain", "share of the oracle's gain over the plain mean by KAU"),
    ]
    if data == "arid6-random":
        claims.append(gap(data, runs, KAU, HINDSIGHT, at_least=2, note=NOTES.get((data, HINDSIGHT), "")))
    if data == "arid6":
        claims += [
            gap(data, runs, KAU, HINDSIGHT, at_least=-1, note=NOTES.get((data, HINDSIGHT), "")),
            level(data, runs, f"{KAU} {METRIC}", 0.54, note=NOTES.get((data, "level"), "")),
            level(data, runs, f"unlabelled, KAU, hard {METRIC}", 0.45, note=NOTES.get((data, "level"), "")),
            level(data, runs, f"unlabelled, KAU, hard, RGB {METRIC}", 0.38, note=NOTES.get((data, "level"), "")),
        ]
    return claims


NOTES: dict[tuple[str, str], str] = {
    (
        "tabletop",
        UNIFORM,
    ): "the teachers of a fold learn from half of the videos and rank otherwise than those that learn "
    "from all of them, so what is learned of the former misleads",
    ("tabletop", ALONE): "a label on videos whose moments the student knows anyway adds little, whoever mixes it",
    ("arid6", UNIFORM): "see the note on the best teacher",
    ("arid6", HINDSIGHT): "other recordings tell which teacher to trust, and not how much to trust the others",
    (
        "arid6",
        ALONE,
    ): "teachers remember the training videos, so their label is the truth there; what is new comes from "
    "unlabelled videos of the new scenes",
    ("arid6", "level"): "the best teacher finds a third of the moments, all together half: a student of their label "
    "cannot know more",
    (
        "arid6-random",
        ALONE,
    ): "alone it is above every single teacher here, and a label on videos whose moments it knows adds nothing",
}
"""What a reader has to know of a target that is not met: by data set and control."""


def gap(data: str, runs: Runs, one: str, other: str, *, at_least: float | None, note: str = "") -> Claim:
    """R1@0.5 of one source above another on the same seeds, in points; without a target it is reported only."""
    return points_between(
        runs, f"{one} {METRIC}", f"{other} {METRIC}", name=f"{data}: {METRIC} of {one} above {other}, points",
        at_least=at_least, note=note,
    )  # fmt: skip


def number(data: str, runs: Runs, metric: str, name: str) -> list[Claim]:
    """A number that has no target, over the runs where it is defined; nothing where it is in none."""
    values = [run[metric] for run in runs if metric in run]
    if not values:
        return []
    found = mean_interval(values)
    note = "" if len(values) == len(runs) else f"defined in {len(values)} of {len(runs)} runs: weights were constant"
    return [
        Claim(
            name=f"{data}: {name}", value=found.mean, low=finite(found.low), high=finite(found.high),
            n_seeds=found.count, target="reported, no target", met=True, note=note,
        )
    ]  # fmt: skip


def level(data: str, runs: Runs, metric: str, least: float, *, note: str) -> Claim:
    """A metric against an absolute target."""
    return limit([run[metric] for run in runs], name=f"{data}: {metric}", at_least=least, note=note)


def transfer_claims(runs: Runs) -> list[Claim]:
    """What teachers of `tabletop` reach on the 48 queries of GMDCSA-24, above a guess without looking."""
    guess = f"guess without looking {METRIC} on GMDCSA-24"
    claims = []
    for name in TEACHERS:
        found = mean_interval([100 * (run[f"{name} {METRIC} on GMDCSA-24"] - run[guess]) for run in runs])
        claims.append(
            Claim(
                name=f"GMDCSA-24, 48 queries: {METRIC} of the {name} teacher of tabletop above a guess, points",
                value=found.mean, low=found.low, high=found.high, n_seeds=found.count,
                target="reported, a small transfer test", met=True,
            )
        )  # fmt: skip
    return claims


def readme_table(evidence: Mapping[str, Any]) -> str:
    """What the README shows of the evidence."""
    rows: dict[str, Callable[[Mapping[str, float]], float]] = {
        "best teacher, known only afterwards": lambda run: run[f"{HINDSIGHT} {METRIC}"],
        "plain mean of the teachers": lambda run: run[f"{UNIFORM} {METRIC}"],
        "best teacher by held-out choice": lambda run: run[f"{BEST} {METRIC}"],
        "KAU as released, naive": lambda run: run[f"{NAIVE} {METRIC}"],
        "constant weights (the control)": lambda run: run[f"{CONSTANT} {METRIC}"],
        "**KAU** as built here": lambda run: run[f"{KAU} {METRIC}"],
        "oracle, the ceiling": lambda run: run[f"{ORACLE} {METRIC}"],
        "student alone": lambda run: run[f"{ALONE} {METRIC}"],
        "student from the plain mean": lambda run: run[f"student from {UNIFORM} {METRIC}"],
        "student from KAU": lambda run: run[f"student from {KAU} {METRIC}"],
        "**EMTM's student** (KAU and shared encoder)": lambda run: run[f"{EMTM_STUDENT} {METRIC}"],
        "student also on unlabelled videos of the test scenes": lambda run: run[f"unlabelled, KAU, hard {METRIC}"],
    }
    by_data = {data: runs_of(evidence, data) for data in DATA}
    lines = [f"| {METRIC} | {' | '.join(TITLES[data] for data in DATA)} |", "|---" * (len(DATA) + 1) + "|"]
    for title, value in rows.items():
        cells = []
        for data in DATA:
            interval = mean_interval([100 * value(run) for run in by_data[data]])
            cells.append(f"{interval.mean:.1f} ± {interval.high - interval.mean:.1f}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    seeds = len(by_data[DATA[0]])
    lines += ["", f"In per cent; mean over {seeds} seeds and 95 % interval of that mean, demo profile, test splits of "]
    lines[-1] += f"291, 603 and 580 queries; {evidence['machine']}, {evidence['date']}; features "
    lines[-1] += f"{evidence['features']['clips']}; from"
    missed = [claim for claim in evidence["claims"] if not claim["met"]]
    lines += [
        "`reports/evidence/emtm.json`, by `python reports/make_evidence.py emtm`. Differences on the same seeds and",
        f"their intervals are its claims; {len(missed)} of {len(evidence['claims'])} miss their target and",
        "say why.",
    ]
    return "\n".join(lines)


def runs_of(evidence: Mapping[str, Any], data: str) -> list[Mapping[str, float]]:
    """Metrics of the studies of one data set."""
    return [
        run["metrics"]
        for run in evidence["runs"]
        if run["notebook"].startswith("03") and run["parameters"]["data"] == data
    ]
