"""A study measured as a whole, the frames it is looked at by, and which layers a budget keeps whole."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.delta.small_networks import randomise
from vkdlab import delta
from vkdlab.data.dense import load_dense
from vkdlab.delta.curve_figures import against_cost
from vkdlab.delta.floors import per_frame
from vkdlab.delta.layers import DeltaConv2d
from vkdlab.delta.study import BUDGET, names_of
from vkdlab.delta.tasks import SEGMENTATION

RECIPE = replace(delta.RECIPES["smoke"], videos=3, teacher_samples=8, student_samples=4, val_frames=8)
PERIODS = (1, 2, 4)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    splits = delta.load_splits(recipe=RECIPE, progress=False)
    return delta.train_study(splits, recipe=RECIPE, runs_dir=tmp_path_factory.mktemp("runs"), workers=1, progress=False)


@pytest.fixture(scope="module")
def curves(study):
    return delta.measure_study(study, periods=PERIODS, every=20, repeats=2, threads=(1, 2), progress=False)


@pytest.fixture(scope="module")
def dense():
    return load_dense("tabletop", "test", profile="smoke", size=(48, 32), every=4, progress=False)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return delta.convert(randomise(SEGMENTATION.network(8, 9)))


def test_every_network_has_its_points_and_per_frame_networks_have_one(study, curves):
    found = {}
    for point in curves.points:
        found.setdefault(point.name, []).append(point.period)
    later = [period for period in PERIODS if period > 1]
    assert found == {
        "teacher": [1],
        "delta 4": later,
        "as released": later,
        "small (period 4)": [1],
        "low rank (period 4)": [1],
        "copying the key frame": list(PERIODS),
        "delta 4, untrained": later,
    }
    assert [point.period for point in curves.of("delta 4")] == later


@pytest.mark.slow
def test_a_whole_study_is_measured_and_drawn_and_no_network_costs_less_than_what_it_competes_with(tmp_path):
    given = {"recipe": RECIPE, "runs_dir": tmp_path, "workers": 1, "progress": False}
    study = delta.train_study(delta.load_splits(recipe=RECIPE, progress=False), which="all", gammas=(2, 4), **given)
    curves = delta.measure_study(study, periods=(1, 4, 8), every=40, repeats=0, progress=False)
    names = [*names_of(which="all", gammas=(2, 4)), "copying the key frame", "delta 4, untrained"]
    assert list(dict.fromkeys(point.name for point in curves.points)) == names
    assert all(0 <= point.value <= 1 and point.gmac > 0 and math.isnan(point.ms) for point in curves.points)
    (four, eight) = curves.of("delta 4")
    for name, point in ((name, {"4": four, "8": eight}[name[-2]]) for name in names if "(period" in name):
        assert curves.of(name)[0].gmac >= 0.99 * point.gmac, name
    teacher = curves.of("teacher")[0].gmac
    assert curves.of("searched")[0].gmac <= BUDGET * teacher
    figure = against_cost(curves.points)
    assert {trace.name for trace in figure.data if trace.showlegend} == set(names)


def test_costs_are_those_of_the_form_that_runs(study, curves):
    shape = study.setting.splits.frame_shape
    teacher = study.macs("teacher") / 1e9
    for point in curves.of("delta 4"):
        deployed = study["delta 4"].network.deploy()
        assert point.gmac == pytest.approx(deployed.macs_per_frame(shape, point.period) / 1e9)
        assert math.isfinite(point.ms)
    for point in curves.of("copying the key frame"):
        assert point.gmac == pytest.approx(teacher / point.period)


def test_every_network_is_measured_on_the_same_frames(study, curves):
    dense, task = study.setting.splits.test, study.setting.task
    alone = per_frame(study.teacher.network, dense, task, start=max(PERIODS) - 1, every=20)
    assert curves.of("teacher")[0].value == alone.value
    # What is copied at period 1, and a delta network on its key frame, is the teacher's answer.
    assert curves.of("copying the key frame")[0].value == pytest.approx(alone.value)
    assert curves.measured["delta 4"].by_distance[0] == pytest.approx(alone.value, abs=1e-6)


def test_the_report_holds_every_point_and_what_copying_reaches_at_the_same_cost(curves):
    found = curves.metrics("mIoU")
    (first,) = [point for point in curves.of("delta 4") if point.period == 2]
    assert found["delta 4, period 2 mIoU"] == first.value
    assert found["delta 4, period 2 ms"] == first.ms
    assert found["delta 4, period 2 times faster"] > 0
    copies = curves.of("copying the key frame")
    low, high = sorted(copies, key=lambda point: abs(point.gmac - first.gmac))[:2]
    expected = sorted((low.value, high.value))
    assert (
        expected[0] - 1e-9
        <= found["copying the key frame, at the cost of delta 4, period 2 mIoU"]
        <= expected[1] + 1e-9
    )


def test_a_rival_of_the_same_cost_lies_between_the_small_network_and_the_teacher(study, curves):
    (point,) = [point for point in curves.of("delta 4") if point.period == 2]
    (teacher,), (small,) = curves.of("teacher"), curves.of("small (period 4)")
    share = (point.gmac - small.gmac) / (teacher.gmac - small.gmac)
    assert 0 < share < 1
    expected = small.value + share * (teacher.value - small.value)
    found = curves.metrics("mIoU")
    assert found["smaller networks, at the cost of delta 4, period 2 mIoU"] == pytest.approx(expected)
    assert set(curves.rivals()) == {"copying the key frame", "smaller networks", "low-rank networks"}


def test_times_are_kept_for_every_number_of_threads(curves):
    assert set(curves.times_by_threads) == {1, 2}
    assert curves.times == curves.times_by_threads[1]
    found = curves.metrics("mIoU")
    faster = curves.times_by_threads[2]["delta 4"][2].faster_than(curves.times_by_threads[2]["teacher"][1])[0]
    assert found["delta 4, period 2 times faster on 2 threads"] == faster
    (copied,) = [point for point in curves.of("copying the key frame") if point.period == 4]
    assert copied.ms == pytest.approx(curves.of("teacher")[0].ms / 4)


def test_what_was_not_timed_has_no_times(study):
    untimed = delta.measure_study(study, periods=(1, 2), every=20, repeats=0, progress=False)
    assert not [name for name in untimed.metrics("mIoU") if " ms" in name or "faster" in name]


def test_the_busiest_stretch_is_the_one_that_moves_most(dense):
    found = delta.busiest(dense, count=4)
    assert found == list(range(found[0], found[0] + 4))
    assert dense.sequence_of(found[0]) == dense.sequence_of(found[-1])

    def moved(frames):
        pictures = [dense.frame(i)[::4, ::4].astype(float) for i in frames]
        return np.mean([np.abs(each - pictures[0]).mean() for each in pictures[1:]])

    others = [range(first, first + 4) for each in dense.sequences for first in each.frames[: each.count - 3 : 2]]
    assert moved(found) == pytest.approx(max(map(moved, others)), rel=1e-5)
    with pytest.raises(ValueError, match="no sequence of tabletop test has 1000 frames"):
        delta.busiest(dense, count=1000)


def test_what_is_shown_is_what_the_networks_answer(dense, network):
    frames = list(dense.sequences[0].frames[:3])
    maps = delta.class_maps(network, dense, frames)
    assert list(maps) == ["truth", "teacher", "delta"]
    np.testing.assert_array_equal(maps["truth"][2], dense.labels(frames[2]))
    np.testing.assert_array_equal(maps["teacher"][0], maps["delta"][0])
    shown = delta.frames_of(dense, frames)
    with torch.inference_mode():
        streamed = [output[0].argmax(0).numpy() for output in network.stream(shown, period=3)]
        np.testing.assert_array_equal(maps["teacher"][1], network.reference(shown[1])[0].argmax(0).numpy())
    np.testing.assert_array_equal(maps["delta"], np.stack(streamed))
    np.testing.assert_array_equal(delta.pictures_of(dense, frames)[1], dense.frame(frames[1]))


def test_the_layers_that_err_most_are_kept_whole_and_the_network_given_stays(dense, network):
    frames = list(dense.sequences[0].frames[:4])
    shape = (3, dense.size[1], dense.size[0])
    before = network.full_layers()
    dear = delta.chosen(network, dense, frames, budget=1.2)
    cheap = delta.chosen(network, dense, frames, budget=0.75)
    assert network.full_layers() == before
    assert set(cheap.full_layers()) < set(dear.full_layers())
    assert cheap.deploy().macs_per_frame(shape, 4) <= 0.75 * delta.convert(_teacher(network)).macs_per_frame(shape, 1)
    names = [name for name, each in network.layers.items() if isinstance(each, DeltaConv2d)]
    assert set(cheap.full_layers()) <= set(names)
    with pytest.raises(ValueError, match="budget"):
        delta.chosen(network, dense, frames, budget=0.01)


def _teacher(network):
    torch.manual_seed(1)
    return randomise(SEGMENTATION.network(8, 9))
