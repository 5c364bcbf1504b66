"""Evidence: a sweep of a notebook written down as the file that a claim of the README rests on (ours)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .files import project_root, read_json, write_json
from .report import Report


@dataclass(frozen=True)
class Claim:
    """One statement, with the figures that carry it; kept when it is not met."""

    name: str
    """What is claimed, in words."""
    value: float
    """The measured figure."""
    low: float | None
    """Lower end of its 95 % interval; None where there is none."""
    high: float | None
    """Upper end; likewise."""
    n_seeds: int
    """Number of seeds behind it."""
    target: str
    """What it is held against, in words or as a number."""
    met: bool
    """Whether the target is reached."""
    note: str = ""
    """What a reader has to know, above all when it is not met."""

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            figure = getattr(self, name)
            if figure is not None and not math.isfinite(figure):
                raise ValueError(f"claim {self.name!r}: {name} is {figure}, expected a finite number")
        if self.value is None or self.n_seeds < 1:
            raise ValueError(
                f"claim {self.name!r} needs a value and at least one seed, given {self.value}, {self.n_seeds}"
            )
        if not self.met and not self.note:
            raise ValueError(f"claim {self.name!r} is not met and has no note: say what was found")


def write_evidence(
    report: Report, *, path: str | os.PathLike, claims: Sequence[Claim], features: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Writes a run as evidence: command, data, features, versions, machine, date, every job's numbers, and the claims.

    Args:
        report: the run; all of its jobs passed.
        path: usually `reports/evidence/<method>.json`.
        claims: what the run shows.
        features: extractor, weights and stride that the run used, where it used any.

    Returns:
        What was written.

    Raises:
        ValueError: a job of the run did not pass: evidence with holes is none.
    """
    from .runs import machine

    if unfinished := [f"{each.notebook} ({each.label})" for each in report.results if each.status != "passed"]:
        raise ValueError(
            f"{len(unfinished)} jobs of {report.folder} did not pass, the first {unfinished[0]}: run it again"
        )
    here = machine()
    written = {
        "command": report.command,
        "data": sorted({str(each.parameters["data"]) for each in report.results if "data" in each.parameters}),
        "features": dict(features or {}),
        "versions": here["versions"],
        "machine": here["kind"],
        "date": here["date"],
        "runs": [
            {"notebook": each.notebook, "parameters": each.parameters, "metrics": each.metrics}
            for each in report.results
        ],
        "claims": [asdict(claim) for claim in claims],
    }
    write_json(Path(path), written)
    return written


def committed_runs(method: str, *, data: str, notebook: str = "") -> list[dict[str, Any]]:
    """Parameters and metrics of the runs on a data set that are kept with the code as evidence; none before a sweep.

    Args:
        method: whose evidence, `reports/evidence/<method>.json`.
        data: name of the data set.
        notebook: how the names of the notebooks begin whose runs are wanted; by default all.

    Raises:
        FileNotFoundError: vkdlab does not run from its checkout.
    """
    path = project_root() / "reports" / "evidence" / f"{method}.json"
    runs = read_json(path)["runs"] if path.exists() else []
    return [run for run in runs if run["parameters"]["data"] == data and run["notebook"].startswith(notebook)]
