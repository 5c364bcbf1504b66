"""Repeats the sweeps behind what the README says: writes `reports/evidence/<method>.json` and the README's tables.

`VKDLAB_DATA=... python reports/make_evidence.py [emtm] [delta]`, all of them by default: hours on two cores; what was
done before is not done again.
"""

import os
import sys
from pathlib import Path

import delta_evidence
import emtm_evidence

from vkdlab.files import write_text

README = Path(__file__).parents[1] / "README.md"
METHODS = {"emtm": emtm_evidence, "delta": delta_evidence}


def main(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(METHODS)):
        sys.exit(f"there is evidence of {' and '.join(METHODS)}, not of {', '.join(unknown)}")
    os.environ["OMP_NUM_THREADS"] = "1"  # the rounding, and so the numbers, depend on the number of threads
    for name in names or METHODS:
        table = METHODS[name].readme_table(METHODS[name].make())
        begin, end = f"<!-- evidence of {name}: written by reports/make_evidence.py -->", "<!-- end of evidence -->"
        before, mark, rest = README.read_text().partition(begin)
        if not mark:
            sys.exit(f"{README} has no line {begin!r} to put the table after")
        write_text(README, f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main(sys.argv[1:])
