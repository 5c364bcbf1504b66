"""`import vkdlab` costs at most 0.3 s beyond `import torch`."""

import statistics
import subprocess
import sys

from .records import Figure, record

ROUNDS = 9
LIMIT_S = 0.3
PROGRAM = """
import resource, time
started = time.perf_counter()
import {module}
spent = resource.getrusage(resource.RUSAGE_SELF)
print(time.perf_counter() - started, spent.ru_utime + spent.ru_stime)
"""


def test_importing_vkdlab_costs_at_most_three_tenths_of_a_second_beyond_torch():
    wall, cpu = {"torch": [], "torch, vkdlab": []}, {"torch": [], "torch, vkdlab": []}
    for round_ in range(ROUNDS + 1):
        for module in list(wall)[:: 1 if round_ % 2 else -1]:
            command = [sys.executable, "-c", PROGRAM.format(module=module)]
            spent = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            if round_ > 0:
                wall[module].append(float(spent[0]))
                cpu[module].append(float(spent[1]))
    beyond, beyond_cpu = (
        statistics.median(b - a for a, b in zip(*times.values(), strict=True)) for times in (wall, cpu)
    )
    record(
        "import_time",
        what="seconds of `import vkdlab` beyond `import torch`: median of the differences, in turns",
        figures=[
            Figure("waiting time", beyond, LIMIT_S, "s"),
            Figure("processor time", beyond_cpu, LIMIT_S, "s"),
        ],
        rounds=ROUNDS,
        torch_s=statistics.median(wall["torch"]),
    )
    assert beyond <= LIMIT_S
