"""What the README says of Delta Distillation: sweeps, claims, table. `make_evidence.py` runs it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from claims import Runs, limit, points_between

from vkdlab import notebooks
from vkdlab.evidence import Claim, write_evidence
from vkdlab.files import read_json
from vkdlab.metrics import mean_interval
from vkdlab.report import Report, Result

EVIDENCE = Path(__file__).parent / "evidence" / "delta.json"
SEEDS = range(5)
STUDIES: Mapping[str, Mapping[str, Any]] = {
    "tabletop": {"data": "tabletop", "task": "segmentation", "teacher": "unet", "networks": "floors"},
    "tabletop, boxes": {"data": "tabletop", "task": "detection", "teacher": "unet", "networks": "floors"},
    "CamVid": {"data": "camvid", "task": "segmentation", "teacher": "unet", "networks": "few"},
    "CamVid, ESPNet": {"data": "camvid", "task": "segmentation", "teacher": "espnet", "networks": "few"},
}
"""Parameters of the notebook by what a study is called."""
DELTA = "delta 4"
CHEAPEST = ("delta 8", 16)
"""A network and its period, where little may be spent."""
SMALLER, LOW_RANK, COPY = "smaller networks", "low-rank networks", "copying the key frame"
SAME = 2.07
"""How many times fewer multiply-accumulates the published best needs for the same mIoU."""
PERIODS = {
    4: {"below": 1.0, "share": 0.40, "faster": 1.5, "on 2": 1.4},
    8: {"below": 1.5, "share": 0.30, "faster": 1.8, "on 2": 1.6},
}
"""Periods with targets: points below the teacher, share of its cost, times faster on one thread and on two."""


def make(studies: Sequence[str] = ()) -> dict[str, Any]:
    """Runs what was never run, and writes the evidence.

    Args:
        studies: names of `STUDIES` to run; of the others the committed runs are kept. None: all are run.

    Raises:
        SystemExit: there is no such study.
    """
    if unknown := sorted(set(studies) - STUDIES.keys()):
        sys.exit(f"there are the studies {', '.join(STUDIES)}, not {', '.join(unknown)}")
    kept = read_json(EVIDENCE) if EVIDENCE.is_file() else {"runs": []}
    results = {
        name: sweep(name).results if not studies or name in studies else committed(name, kept) for name in STUDIES
    }
    report = Report(
        folder=EVIDENCE.parent,
        results=tuple(result for some in results.values() for result in some),
        command="python reports/make_evidence.py delta",
    )
    claims = [
        claim for name, some in results.items() if some for claim in claims_of(name, [each.metrics for each in some])
    ]
    return write_evidence(report, path=EVIDENCE, claims=claims)


def sweep(name: str) -> Report:
    """One study at every seed, in turns, so that times are taken with nothing else running."""
    return notebooks.run(
        ["04"],
        profile="full",
        parameters={**STUDIES[name], "workers": 1},
        sweep={"seed": SEEDS},
        slots=1,
        name=f"delta-{name.replace(', ', '-').replace(' ', '-').lower()}",
    )


def committed(name: str, evidence: Mapping[str, Any]) -> tuple[Result, ...]:
    """A study's runs as they stand in the evidence."""
    return tuple(
        Result(
            notebook=run["notebook"], folder=EVIDENCE.parent, swept={"seed": run["parameters"]["seed"]},
            status="passed", parameters=run["parameters"], metrics=run["metrics"],
        )
        for run in evidence["runs"]
        if _is_of(name, run["parameters"])
    )  # fmt: skip


def claims_of(name: str, runs: Runs) -> list[Claim]:
    """What this method has to show on one data set, met or not; nothing without runs."""
    if not runs:
        return []
    metric = metric_of(runs)
    claims = deserving(name, runs, metric)
    for network, period in ((DELTA, 4), (DELTA, 8), (DELTA, 16), CHEAPEST):
        at = f"{network}, period {period}"
        if f"{at} {metric}" in runs[0]:
            claims += of_network(name, runs, metric, at, PERIODS.get(period, {}))
            claims += against_rivals(name, runs, metric, at, period)
    if name == "tabletop":
        claims.append(same_value(name, runs, metric))
    return claims + reported(name, runs)


def metric_of(runs: Runs) -> str:
    """What the runs were measured by: mIoU or mAP@0.5."""
    return next(key for key in runs[0] if key.startswith("teacher, period 1 m")).rpartition(" ")[2]


def deserving(name: str, runs: Runs, metric: str) -> list[Claim]:
    """The teacher above smaller per-frame networks that cost what delta networks cost on average."""
    smaller = [key for key in runs[0] if key.startswith("small (") and key.endswith(f", period 1 {metric}")]
    return [
        points_between(
            runs,
            f"teacher, period 1 {metric}",
            key,
            name=f"{name}: {metric} of the teacher above {key.removesuffix(f', period 1 {metric}')}, points",
            at_least=3,
            note=_note(name, "teacher"),
        )
        for key in smaller
    ]


def of_network(name: str, runs: Runs, metric: str, at: str, targets: Mapping[str, float]) -> list[Claim]:
    """A delta network beside its teacher: what it loses, costs and wins in time."""
    cost = [run[f"{at} GMAC"] / run["teacher, period 1 GMAC"] for run in runs]
    claims = [
        points_between(
            runs,
            f"{at} {metric}",
            f"teacher, period 1 {metric}",
            name=f"{name}: {metric} of {at} above the teacher, points",
            at_least=-targets["below"] if targets else None,
            note=_note(name, "below"),
        ),
        limit(
            cost,
            name=f"{name}: cost of {at}, share of the teacher's",
            at_most=targets.get("share"),
            note=_note(name, "share"),
        ),
    ]
    for threads in (1, 2):
        key = f"{at} times faster" + (" on 2 threads" if threads == 2 else "")
        if all(key in run for run in runs):
            claims.append(
                limit(
                    [run[key] for run in runs],
                    name=f"{name}: {at}, times faster than the teacher, {threads} thread{'s' * (threads > 1)}",
                    at_least=targets.get("faster" if threads == 1 else "on 2"),
                    note=_note(name, "faster"),
                )
            )
    return claims


def against_rivals(name: str, runs: Runs, metric: str, at: str, period: int) -> list[Claim]:
    """A delta network above copying at its period, and above each rival at its cost and at its time."""
    mine = f"{at} {metric}"
    claims = [
        points_between(
            runs,
            mine,
            f"{COPY}, period {period} {metric}",
            name=f"{name}: {metric} of {at} above copying at the same period, points",
            at_least=3,
            note=_note(name, "copying"),
        )
    ]
    for rival in (COPY, SMALLER, LOW_RANK):
        for cost, words in _COSTS.items():
            key = f"{rival}, {cost} of {at} {metric}"
            if all(key in run for run in runs):
                claims.append(
                    points_between(
                        runs,
                        mine,
                        key,
                        name=f"{name}: {metric} of {at} above {rival} {words}, points",
                        at_least=0,
                        note=_note(name, rival if cost == "at the cost" else "time"),
                    )
                )
    return claims


def reported(name: str, runs: Runs) -> list[Claim]:
    """What is measured beside: steadiness, and real video."""
    return [
        limit(
            [run[key] for run in runs],
            name=f"{name}: {key}",
            note=_note(name, "still"),
            at_least=3 if key == STILL else None,
        )
        for key in sorted(runs[0])
        if key.startswith(REPORTED) and all(key in run for run in runs)
    ]


REPORTED = ("temporal consistency", "real video: ", "still tiles: ", "davis20: ")
"""How metrics begin that are reported as they are."""
STILL = "still tiles: times faster"
"""What has a target of three among them."""
_COSTS = {"at the cost": "at the same cost", "at the ms": "at the same time"}
NOTES: dict[Any, str] = {
    "teacher": "how far a smaller network has come after as many frames differs much between seeds",
    "copying": "at period 4 copying loses less than three points itself, for in three frames little moves; students of "
    "gamma 8 lose more than half of what copying loses at period 16",
    COPY: "a narrow student loses more by its rank than copying loses by its age",
    SMALLER: "how far a smaller network has come after as many frames differs much between seeds",
    LOW_RANK: "the same small kernels on every frame, tuned for as long, need no key frame: they are the serious rival "
    "while their rank is not too low",
    "time": "a frame of a delta network takes more time than its arithmetic says: memory is read for every layer, and "
    "copying takes none between key frames",
    "faster": "timed while other work ran on the second core; `reports/benchmarks/delta_latency_*.json` has times of "
    "one thread and of two with little else running",
    ("tabletop, boxes", "copying"): "at period 4 copying itself loses two points",
    ("CamVid, ESPNet", "below"): "even its low-rank form, tuned on every frame, loses 24 points: its convolutions are "
    "narrow and factorised already",
    ("CamVid, ESPNet", "share"): "a frame between key frames costs a third of the teacher's, a fifth of the U-Net's",
    ("CamVid, ESPNet", "faster"): "slower than its arithmetic says; why was not looked into",
    ("CamVid, ESPNet", "copying"): "at period 4 students win back 1.8 of the 6.1 points that copying loses",
    ("CamVid, ESPNet", COPY): "at this cost copying takes a key frame every second or third frame",
}
"""What a reader has to know of a target that is not met: by study and what was missed, or by the latter alone."""


def _note(name: str, what: str) -> str:
    return NOTES.get((name, what), NOTES.get(what, "missed; not explained"))


def same_value(name: str, runs: Runs, metric: str) -> Claim:
    """How far from the teacher a delta network is that needs less than 1 / 2.07 of its cost: delta 4 at period 4."""
    at, teacher = f"{DELTA}, period 4", "teacher, period 1"
    fewer = runs[0][f"{teacher} GMAC"] / runs[0][f"{at} GMAC"]
    if fewer < SAME:
        raise ValueError(f"{at} needs {fewer:.2f} times fewer multiply-accumulates, expected {SAME} or more")
    return limit(
        [100 * (run[f"{at} {metric}"] - run[f"{teacher} {metric}"]) for run in runs],
        name=f"{name}: {metric} of {at} above the teacher at {fewer:.2f} times fewer multiply-accumulates, points",
        at_least=0,
        note=_note(name, "same"),
    )


def readme_table(evidence: Mapping[str, Any]) -> str:
    """What the README shows of the evidence."""
    names = [name for name in STUDIES if runs_of(evidence, name)]
    rows = (
        ("teacher, every frame", "teacher, period 1", "value"),
        ("**delta network**, period 4", f"{DELTA}, period 4", "value"),
        ("of the teacher's multiply-accumulates", f"{DELTA}, period 4", "share"),
        ("times faster, one thread", f"{DELTA}, period 4", "faster"),
        ("**delta network**, period 8", f"{DELTA}, period 8", "value"),
        ("of the teacher's multiply-accumulates", f"{DELTA}, period 8", "share"),
        ("times faster, one thread", f"{DELTA}, period 8", "faster"),
        ("**delta network**, period 16", f"{DELTA}, period 16", "value"),
        ("of the teacher's multiply-accumulates", f"{DELTA}, period 16", "share"),
        ("times faster, one thread", f"{DELTA}, period 16", "faster"),
        ("released recipe, period 4", "as released, period 4", "value"),
        ("released recipe, period 16", "as released, period 16", "value"),
        ("smaller network on every frame, cost of period 4", "small (period 4), period 1", "value"),
        ("smaller network on every frame, cost of period 8", "small (period 8), period 1", "value"),
        ("smaller networks, at the cost of period 16", f"{SMALLER}, at the cost of {DELTA}, period 16", "value"),
        ("low-rank network on every frame, cost of period 4", "low rank (period 4), period 1", "value"),
        ("low-rank network on every frame, cost of period 8", "low rank (period 8), period 1", "value"),
        ("low-rank networks, at the cost of period 16", f"{LOW_RANK}, at the cost of {DELTA}, period 16", "value"),
        ("copying the key frame's answer, period 4", f"{COPY}, period 4", "value"),
        ("copying, period 8", f"{COPY}, period 8", "value"),
        ("copying, period 16", f"{COPY}, period 16", "value"),
    )
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for title, network, what in rows:
        cells = [_cell(runs_of(evidence, name), network, what) for name in names]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    missed = [claim for claim in evidence["claims"] if not claim["met"]]
    seeds = ", ".join(f"{len(runs_of(evidence, name))} on {name}" for name in names)
    lines += [
        "",
        "mIoU (boxes: mAP@0.5) and share of cost in per cent, mean over seeds and 95 % interval of that mean; seeds: "
        f"{seeds}. Test splits, profile `full`; {evidence['machine']}, {evidence['date']}; from",
        "`reports/evidence/delta.json`, by `python reports/make_evidence.py delta`. Differences on the same seeds and",
        f"their intervals are its claims; {len(missed)} of {len(evidence['claims'])} miss their target and",
        "say why.",
    ]
    return "\n".join(lines)


def _cell(runs: Sequence[Mapping[str, float]], network: str, what: str) -> str:
    metric = metric_of(runs)
    if what == "faster":
        values, digits = [run.get(f"{network} times faster") for run in runs], 2
    elif what == "share":
        values, digits = [run.get(f"{network} GMAC") for run in runs], 0
        shares = zip(values, runs, strict=True)
        values = [None if cost is None else 100 * cost / run["teacher, period 1 GMAC"] for cost, run in shares]
    else:
        values, digits = [run.get(f"{network} {metric}") for run in runs], 1
        values = [None if value is None else 100 * value for value in values]
    if any(value is None for value in values):
        return "-"
    found = mean_interval(values)
    spread = found.high - found.mean
    return f"{found.mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if len(values) > 1 and what != "share" else "")


def runs_of(evidence: Mapping[str, Any], name: str) -> list[Mapping[str, float]]:
    """Metrics of the runs of one study."""
    return [run["metrics"] for run in evidence["runs"] if _is_of(name, run["parameters"])]


def _is_of(name: str, parameters: Mapping[str, Any]) -> bool:
    return all(parameters.get(key) == value for key, value in STUDIES[name].items())
