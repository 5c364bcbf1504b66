"""Repeats the sweep behind what the README says of the span teacher: writes `reports/evidence/emtm.json` and the table.

`VKDLAB_DATA=... python reports/make_evidence.py`: about half an hour on two cores; what was done before is not done
again.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from vkdlab import notebooks
from vkdlab.data.prepared import EXTRACTORS
from vkdlab.evidence import Claim, write_evidence
from vkdlab.files import write_text
from vkdlab.metrics import mean_interval

README = Path(__file__).parents[1] / "README.md"
EVIDENCE = Path(__file__).parent / "evidence" / "emtm.json"
BEGIN, END = "<!-- evidence: written by reports/make_evidence.py -->", "<!-- end of evidence -->"
TITLES = {
    "tabletop": "`tabletop`",
    "arid6-random": "ARID-6 joined clips, random split",
    "arid6": "ARID-6 joined clips, cross-scene split",
}
DATA = tuple(TITLES)
GUESS = "R1@0.5, guess without looking"


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # the rounding, and so the numbers, depend on the number of threads
    report = notebooks.run(
        ["02"], parameters={"real": "no"}, sweep={"seed": range(5), "data": DATA}, slots=2, name="span-teacher"
    )
    claims = []
    for data in DATA:
        runs = [each.metrics for each in report.results if each.parameters["data"] == data]
        gain = mean_interval([run["R1@0.5"] - run[GUESS] for run in runs])
        claims.append(
            Claim(
                name=f"{data}: R1@0.5 of the span teacher above a guess without looking",
                value=gain.mean,
                low=gain.low,
                high=gain.high,
                n_seeds=gain.count,
                target="above 0, with its interval",
                met=gain.low > 0,
                note="" if gain.low > 0 else "what this teacher learned does not carry over to this test split",
            )
        )
    features = {"clips": " + ".join(EXTRACTORS), "stride_s": 0.5, "words": "minilm"}
    evidence = write_evidence(report, path=EVIDENCE, claims=claims, features=features)
    before, _, rest = README.read_text().partition(BEGIN)
    write_text(README, f"{before}{BEGIN}\n{readme_table(evidence)}\n{END}{rest.partition(END)[2]}")


def readme_table(evidence: Mapping) -> str:
    """What the README shows of the evidence."""
    lines = [
        "| test split of | R1@0.3 | R1@0.5 | R1@0.7 | mIoU | a guess without looking, R1@0.5 |",
        "|---|---|---|---|---|---|",
    ]
    for data in DATA:
        runs = [run["metrics"] for run in evidence["runs"] if run["parameters"]["data"] == data]
        cells = []
        for name in ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU"):
            interval = mean_interval([100 * run[name] for run in runs])
            cells.append(f"{interval.mean:.1f} ± {interval.high - interval.mean:.1f}")
        lines.append(f"| {TITLES[data]} | {' | '.join(cells)} | {100 * runs[0][GUESS]:.1f} |")
    seeds = len(runs)
    lines += ["", f"In per cent; mean over {seeds} seeds and 95 % interval of that mean. Span teacher, demo profile, "]
    lines[-1] += f"{evidence['machine']}, {evidence['date']}; features {evidence['features']['clips']}; from"
    return "\n".join([*lines, "`reports/evidence/emtm.json`, by `python reports/make_evidence.py`."])


if __name__ == "__main__":
    main()
