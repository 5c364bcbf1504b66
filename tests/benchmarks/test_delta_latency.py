"""A frame of a stream: the deployed delta network beside its teacher and beside what costs as much, in turns."""

import pytest
import torch

from vkdlab.data.dense import OBJECTS
from vkdlab.delta.baselines import gamma_for, low_rank, width_for
from vkdlab.delta.convert import convert
from vkdlab.delta.latency import interleaved
from vkdlab.delta.recipes import recipe_for
from vkdlab.delta.tasks import TASKS

from .records import Figure, record

REPEATS = 40
PERIODS = (4, 8)
FASTER = {1: {4: 1.5, 8: 1.8}, 2: {4: 1.4, 8: 1.6}}
"""Threads to period to how many times faster than its teacher a delta network has to be."""


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_delta_network_is_faster_than_its_teacher_on_one_thread_and_on_two(name):
    torch.manual_seed(0)
    task, recipe = TASKS[name], recipe_for("tabletop", "full", name)
    width, height = recipe.size or (160, 120)
    shape, classes = (3, height, width), len(OBJECTS) if recipe.classes == "objects" else 9
    teacher = task.network(recipe.width, classes).eval()
    network = convert(teacher, gamma=4)
    macs = network.deploy().macs_per_frame(shape, 4)
    networks = {
        "teacher": teacher,
        "delta 4": network,
        "small (period 4)": task.network(width_for(macs, task, classes=classes, frame_shape=shape), classes).eval(),
        "low rank (period 4)": low_rank(teacher, gamma=gamma_for(macs, teacher, frame_shape=shape)),
    }
    frames = torch.rand(8, *shape)
    took = {
        threads: interleaved(networks, frames, periods=PERIODS, repeats=REPEATS, threads=threads) for threads in FASTER
    }
    figures = [
        Figure(
            f"delta 4, period {period}, beside its teacher, {threads} thread{'s' * (threads > 1)}",
            1 / took[threads]["delta 4"][period].faster_than(took[threads]["teacher"][1])[0], 1 / faster, "x",
        )
        for threads, by_period in FASTER.items()
        for period, faster in by_period.items()
    ]  # fmt: skip
    record(
        f"delta_latency_{name}",
        what=f"a frame of {width}x{height} in a stream, networks of the full recipe of {name} with random weights, in "
        f"turns: medians of {REPEATS} rounds; times do not depend on the weights",
        figures=figures,
        ms={
            f"{threads} threads": {
                f"{who}, period {period}": time.ms for who, times in by.items() for period, time in times.items()
            }
            for threads, by in took.items()
        },
        gmac={"teacher": network.costs(shape).teacher / 1e9, "delta 4, period 4": macs / 1e9},
    )
    # The clock of another machine may differ; that it is faster at all may not.
    assert took[1]["delta 4"][8].faster_than(took[1]["teacher"][1])[0] > 1, figures
