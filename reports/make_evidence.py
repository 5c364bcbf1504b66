"""Repeats the sweeps behind what the README says: writes `reports/evidence/<method>.json` and the README's tables.

`VKDLAB_DATA=... python reports/make_evidence.py [emtm] [delta] [vlap]`, all of them by default: hours on two cores;
what was done before is not done again. `--study NAME` runs one of a method's studies, and keeps what is written of the
others.
"""

import argparse
import os
import sys
from pathlib import Path

import delta_evidence
import emtm_evidence
import vlap_evidence

from vkdlab.files import write_text

README = Path(__file__).parents[1] / "README.md"
METHODS = {"emtm": emtm_evidence, "delta": delta_evidence, "vlap": vlap_evidence}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--study", action="append", default=[], help="of delta; may be given several times")
    given = parser.parse_args(arguments)
    names = given.methods
    if unknown := sorted(set(names) - set(METHODS)):
        sys.exit(f"there is evidence of {', '.join(METHODS)}, not of {', '.join(unknown)}")
    if given.study and names != ["delta"]:
        sys.exit("the studies are those of delta: name it, and nothing else, before --study")
    os.environ["OMP_NUM_THREADS"] = "1"  # the rounding, and so the numbers, depend on the number of threads
    for name in names or METHODS:
        module = METHODS[name]
        table = module.readme_table(module.make(given.study) if given.study else module.make())
        begin, end = f"<!-- evidence of {name}: written by reports/make_evidence.py -->", "<!-- end of evidence -->"
        before, mark, rest = README.read_text().partition(begin)
        if not mark:
            sys.exit(f"{README} has no line {begin!r} to put the table after")
        write_text(README, f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main(sys.argv[1:])
