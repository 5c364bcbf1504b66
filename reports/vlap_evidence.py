"""What the README says of VLAP: sweep, claims, table. `make_evidence.py` runs it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from claims import Runs, limit, points_between

from vkdlab import notebooks
from vkdlab.evidence import Claim, write_evidence
from vkdlab.metrics import mean_interval
from vkdlab.report import Report
from vkdlab.vlap.evaluate import CHANCE
from vkdlab.vlap.latency import KEPT
from vkdlab.vlap.measure import OTHERS
from vkdlab.vlap.selectors import ALL, LOCALIZER, ORACLE, RANDOM, UNIFORM
from vkdlab.vlap.workshop import BLIND, KNOWING, LANGUAGE, OURS, RELEASED, STUDENTS, TEACHER, UNDISTILLED

EVIDENCE = Path(__file__).parent / "evidence" / "vlap.json"
SEEDS = range(5)
DATA = "tabletop"
FRAMES = 4
"""S that students are trained with, and that ways are compared at."""
COUNTS = (1, 2, 4, 8, 16)
"""S at which choosing is held against spreading evenly."""
ALONE, TAUGHT_ALL, TAUGHT_ORACLE = OTHERS[LANGUAGE], OTHERS[TEACHER], OTHERS[KNOWING]
"""Who has never seen a frame, who has learned from all frames alone, and who from the oracle's."""
OWN = " with its own answerer"
"""Ends the name of a student that answers by itself; without it the common answerer does."""
FASTER = {ALL: 3.0, LOCALIZER: 4.2}
"""Targets: how many times faster than these an answer about 4 frames is, from the video file."""
GIVEN_AWAY = 3
"""By how many points language alone may be above chance."""


def make() -> dict[str, Any]:
    """Runs what was never run, and writes the evidence.

    Raises:
        ValueError: a run did not pass.
    """
    report = replace(sweep(), command="python reports/make_evidence.py vlap")
    # Without all of the runs there is nothing to claim, and to write them is refused with the reason.
    claims = claims_of([each.metrics for each in report.results]) if report.passed else []
    return write_evidence(report, path=EVIDENCE, claims=claims)


def sweep() -> Report:
    """The notebook at every seed, in turns.

    What was trained before with these settings, two seeds at a time for instance, is only loaded.
    """
    return notebooks.run(
        ["05"],
        profile="full",
        parameters={"data": DATA},
        sweep={"seed": SEEDS},
        slots=1,
        name="vlap",
    )


def claims_of(runs: Runs) -> list[Claim]:
    """What this method has to show, met or not."""
    return [*against_all_frames(runs), *in_time(runs), *ingredients(runs), *against_rivals(runs), *evidence_met(runs)]


def against_all_frames(runs: Runs) -> list[Claim]:
    """A few frames beside all of them, and none beside chance."""
    own = OURS + OWN
    return [
        *(
            limit(
                [100 * (run[key_of(own)] - run[key_of(every)]) for run in runs],
                name=name_of(own, every),
                at_least=0,
                note=_note("all frames"),
            )
            for every in (ALL, TAUGHT_ALL)
        ),
        above(runs, OURS, ALL),
        limit(
            [100 * (run[key_of(ALONE)] - run[key_of(CHANCE)]) for run in runs],
            name=f"{DATA}: accuracy, {ALONE} above {CHANCE}, points",
            at_most=GIVEN_AWAY,
            note=_note("language"),
        ),
    ]


def in_time(runs: Runs) -> list[Claim]:
    """How many times faster an answer is: from the video file, and where thumbnails were kept."""
    return [
        limit(
            [run[f"{way} faster than {other}"] for run in runs],
            name=f"{DATA}: {way}, {FRAMES} frames, times faster than {other}",
            at_least=least if way == OURS else None,
            note=_note("faster"),
        )
        for way in (OURS, KEPT)
        for other, least in FASTER.items()
    ]


def ingredients(runs: Runs) -> list[Claim]:
    """What seeing the question and having a teacher are worth."""
    return [
        above(runs, OURS, BLIND, at_least=0, note=_note("blind")),
        above(runs, OURS + OWN, BLIND + OWN, at_least=0, note=_note("blind")),
        above(runs, OURS + OWN, UNDISTILLED + OWN, at_least=0, note=_note("distillation")),
    ]


def against_rivals(runs: Runs) -> list[Claim]:
    """Other ways to choose as many frames; against even spreading by number of frames and kind of question as well."""
    return [
        *(above(runs, OURS, rival) for rival in (RANDOM, RELEASED, LOCALIZER)),
        above(runs, ORACLE, OURS),
        above(runs, TAUGHT_ORACLE, OURS + OWN),
        *(above(runs, TAUGHT_ORACLE, OURS + OWN, kind=kind) for kind in kinds_of(runs)),
        *(above(runs, OURS, UNIFORM, frames=frames) for frames in COUNTS),
        *(above(runs, OURS, UNIFORM, kind=kind) for kind in kinds_of(runs)),
    ]


def evidence_met(runs: Runs) -> list[Claim]:
    """How often a chosen frame shows what the answer rests on, and is one of the oracle's."""
    claims = []
    for measure in ("evidence met", "oracle's frames"):
        claims.append(
            limit(
                [100 * run[key_of(OURS, measure)] for run in runs],
                name=f"{DATA}: {measure} with {FRAMES} frames, {OURS}, per cent",
            )
        )
        claims += [above(runs, OURS, rival, measure=measure) for rival in (UNIFORM, BLIND)]
    return claims


def above(
    runs: Runs,
    one: str,
    other: str,
    *,
    measure: str = "accuracy",
    frames: int = FRAMES,
    kind: str = "",
    at_least: float | None = None,
    note: str = "",
) -> Claim:
    """One way above another on the same seeds, in points; without a target it is reported only.

    Args:
        runs: one per seed.
        one: name of a way; of a student `OWN` may follow, which says who answers.
        other: what it is held against, likewise.
        measure: such as "accuracy".
        frames: S, of ways that choose.
        kind: of questions; empty for all.
        at_least: as in `points_between`.
        note: likewise.
    """
    return points_between(
        runs,
        key_of(one, measure, frames=frames, kind=kind),
        key_of(other, measure, frames=frames, kind=kind),
        name=name_of(one, other, measure=measure, frames=frames, kind=kind),
        at_least=at_least,
        note=note,
    )


def key_of(way: str, measure: str = "accuracy", *, frames: int = FRAMES, kind: str = "") -> str:
    """Name of the notebook's metric."""
    fixed = way in (ALL, CHANCE, *OTHERS.values()) or way.endswith(OWN)
    return f"{way}: {measure} {kind}".rstrip() if fixed else f"{way}, {frames} frames: {measure} {kind}".rstrip()


def name_of(one: str, other: str, *, measure: str = "accuracy", frames: int = FRAMES, kind: str = "") -> str:
    """Name of the claim that one way is above another."""
    about = f" on {kind!r} questions" if kind else ""
    return f"{DATA}: {measure} with {frames} frame{'s' * (frames > 1)}{about}, {one} above {other}, points"


def kinds_of(runs: Runs) -> list[str]:
    """Kinds of questions that the runs tell apart, sorted."""
    start = key_of(OURS) + " "
    return sorted(key.removeprefix(start) for key in runs[0] if key.startswith(start))


NOTES: Mapping[str, str] = {
    "language": "a network that learns as long as the answerer finds what is answered more often than offered: see the "
    "runs, by kind of question",
    "faster": "decoding the frames of the glance is more than half of the prompter's time, and all frames and the "
    "localizer decode no more; see the stages in the runs, and the claims with kept thumbnails",
    "blind": "both choose frames before and after what happens rather than during it (see evidence met), presumably "
    "because most of it stays to be seen, and such frames need no question. The oracle's frames are worth more to who "
    "has learned from them, though where they lie tells something by itself; the gradient through a choice does not "
    "find them",
    "distillation": "not told from none over these seeds; with the paper's weight of 1, ten times ours, one trial lost "
    "two points on validation",
}
"""What a reader has to know of a target that is not met, by what was missed: "language", "faster", "blind" or
"distillation"; another one is written "not explained"."""


def _note(what: str) -> str:
    return NOTES.get(what, "missed; not explained")


def readme_table(evidence: Mapping[str, Any]) -> str:
    """What the README shows of the evidence."""
    rows = (
        ("all frames", ALL),
        ("all frames, learned from these alone: the teacher", TAUGHT_ALL),
        (f"**prompter**, {FRAMES} frames", OURS),
        ("the same, thumbnails kept from an earlier question", KEPT),
        (f"prompter without a teacher, {FRAMES} frames", UNDISTILLED),
        (f"prompter that does not see the question, {FRAMES} frames", BLIND),
        (f"prompter as released, {FRAMES} frames", RELEASED),
        (f"spread evenly, {FRAMES} frames", UNIFORM),
        (f"at random, {FRAMES} frames", RANDOM),
        (f"those of which the answerer is surest, {FRAMES} frames", LOCALIZER),
        (f"oracle that knows the evidence, {FRAMES} frames", ORACLE),
        ("the oracle, by who has learned from its frames", TAUGHT_ORACLE),
        ("no frame, learned from language alone", ALONE),
        ("chance", CHANCE),
    )
    runs = [run["metrics"] for run in evidence["runs"]]
    lines = [
        "| | accuracy | accuracy, its own answerer | evidence met | ms | times faster than all frames |",
        "|---|---|---|---|---|---|",
    ]
    for title, way in rows:
        chosen_by = OURS if way == KEPT else way
        cells = (
            _cell(runs, key_of(chosen_by), scale=100, digits=1),
            _cell(runs, key_of(chosen_by + OWN), scale=100, digits=1) if chosen_by in STUDENTS else "-",
            _cell(runs, key_of(chosen_by, "evidence met"), scale=100, digits=1),
            _cell(runs, f"{way}: ms"),
            "1" if way == ALL else _cell(runs, f"{way} faster than {ALL}", digits=2),
        )
        lines.append(f"| {title} | {' | '.join(cells)} |")
    missed = [claim for claim in evidence["claims"] if not claim["met"]]
    lines += [
        "",
        f"Accuracy and evidence in per cent, mean over {len(runs)} seeds and 95 % interval of that mean. One answerer "
        "serves all ways; a student has its own as well. Evidence is met where a chosen frame lies within it; where "
        'the oracle\'s frames lie gives much of "count" and "order" away. Times are',
        "medians from the video file to the answer, one question at a time. Test split of "
        f"`{DATA}`, profile `full`; {evidence['machine']}, {evidence['date']}; from",
        "`reports/evidence/vlap.json`, by `python reports/make_evidence.py vlap`. Differences on the same seeds and",
        f"their intervals are its claims; {len(missed)} of {len(evidence['claims'])} miss their target and",
        "say why.",
    ]
    return "\n".join(lines)


def _cell(runs: Runs, key: str, *, scale: float = 1, digits: int = 0) -> str:
    if any(run.get(key) is None for run in runs):
        return "-"
    found = mean_interval([scale * run[key] for run in runs])
    spread = f" ± {found.high - found.mean:.{digits}f}" if found.count > 1 else ""
    return f"{found.mean:.{digits}f}{spread}"
