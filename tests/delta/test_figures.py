import copy
import dataclasses
import math

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from tests.delta.small_networks import randomise
from vkdlab.data.dense_batches import as_input
from vkdlab.delta import convert
from vkdlab.delta.curve_figures import PUBLISHED, against_cost, along, by_distance, published
from vkdlab.delta.curves import COPY, UNTRAINED
from vkdlab.delta.evaluate import Measured, cut, follow
from vkdlab.delta.figures import consistent, kept, masks, novelty
from vkdlab.delta.layer_figures import build_up, guess, guessed, move_to, worst_layer
from vkdlab.delta.marks import COLOURS, class_colours
from vkdlab.delta.points import Point
from vkdlab.delta.study import names_of
from vkdlab.delta.tasks import SEGMENTATION
from vkdlab.dense_metrics import Confusion


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return convert(randomise(SEGMENTATION.network(8, 9)))


@pytest.fixture(scope="module")
def inspection(network, dense):
    return network.inspect(as_input(dense.frame(i))[None] for i in range(5))


def _title(figure):
    return figure.layout.title.text


def _trace(figure, name):
    (found,) = [trace for trace in figure.data if trace.name == name and trace.x[0] is not None]
    return found


def test_novelty_says_what_a_slow_count_says(dense):
    figure = novelty(dense, range(9), period=4)
    frames = np.stack([dense.frame(i) for i in range(9)]).astype(float)
    energy, changed = [], []
    for place in range(9):
        key = frames[place - place % 4]
        energy.append(100 * ((frames[place] - key) ** 2).mean() / ((key - key.mean((0, 1))) ** 2).mean())
        pixels = zip(frames[place].reshape(-1, 3), key.reshape(-1, 3), strict=True)
        changed.append(100 * np.mean([abs(a - b).max() > 10 for a, b in pixels]))
    shown = [trace for trace in figure.data if trace.name == "since the key frame"]
    assert np.asarray(shown[0].y) == pytest.approx(energy, rel=1e-3)
    assert np.asarray(shown[1].y) == pytest.approx(changed)
    assert _title(figure).startswith(f"{np.mean([energy[3], energy[7]]):.0f} % of the energy")
    assert "3 frames after a key frame" in _title(figure)


def test_novelty_refuses_a_period_that_the_frames_do_not_fill(dense):
    for period in (1, 10):
        with pytest.raises(ValueError, match=f"a period from 2 to the number of frames, 9, got {period}"):
            novelty(dense, range(9), period=period)


def test_kept_shows_each_layers_students_beside_its_teacher(network):
    shape = (3, 32, 48)
    assert _title(kept(network, shape)).startswith("All students are small")
    searched = copy.deepcopy(network)
    full = searched.choose(0.6, frame_shape=shape, period=4)
    figure = kept(searched, shape, period=4)
    costs = searched.costs(shape, deployed=True)
    bars = {trace.name: dict(zip(trace.y, trace.x, strict=True)) for trace in figure.data}
    assert bars["teacher"] == {name: macs.teacher / 1e6 for name, macs in costs.layers.items()}
    assert bars["full student kept"] == {name: costs.layers[name].full / 1e6 for name in full}
    assert set(bars["small student"]) == set(costs.layers) - set(full)
    assert list(figure.layout.yaxis.categoryarray) == list(costs.layers)
    share = 100 * searched.deploy().macs_per_frame(shape, 4) / searched.costs(shape).teacher
    assert _title(figure) == (
        f"{len(full)} of 10 layers keep their full student: {share:.0f} % of the teacher's cost at period 4"
    )
    with pytest.raises(ValueError, match="show the network before it is deployed"):
        kept(searched.deploy(), shape)


def test_masks_count_the_pixels_that_differ():
    frames = np.zeros((2, 4, 5, 3), np.uint8)
    teacher = np.zeros((2, 4, 5), np.uint8)
    delta = teacher.copy()
    delta[1, :2] = 3
    figure = masks(
        frames, {"teacher": teacher, "delta": delta}, classes=["table", "cup", "bowl", "block"], names=["key", "after"]
    )
    assert _title(figure) == "Delta and teacher differ on 25.0 % of the pixels, most in “after” (50.0 %)"
    assert len(figure.layout.images) == 2 * 4
    assert list(figure.layout.yaxis.ticktext) == ["frame", "teacher", "delta", "differs"]
    assert list(figure.layout.xaxis.ticktext) == ["key<br>0.0 %", "after<br>50.0 %"]
    assert [trace.name for trace in figure.data if trace.name] == ["table", "block"]
    same = masks(frames, {"teacher": teacher, "delta": teacher}, classes=())
    assert _title(same) == "Delta and teacher differ on 0.0 % of the pixels"


def test_masks_refuse_what_cannot_be_compared():
    frames, answer = np.zeros((2, 4, 5, 3), np.uint8), np.zeros((2, 4, 5), np.uint8)
    with pytest.raises(ValueError, match="'teacher' before it"):
        masks(frames, {"delta": answer}, classes=())
    with pytest.raises(ValueError, match=r"shape \(2, 4, 5\).*'delta': \(2, 5, 5\)"):
        masks(frames, {"teacher": answer, "delta": np.zeros((2, 5, 5), np.uint8)}, classes=())


def test_class_colours_tell_classes_apart():
    for count in (2, 9, 51):
        assert len({tuple(colour) for colour in class_colours(count).tolist()}) == count


def _measured(*values, metric="mIoU"):
    """Two classes of 1000 pixels each, so many of them right that the mean IoU is about the value."""
    right = [round(1000 * 2 * value / (1 + value)) for value in values]
    return Measured(metric, tuple(Confusion(np.array([[r, 1000 - r, 0], [1000 - r, r, 0]])) for r in right))


def test_consistency_is_split_by_the_step_onto_a_key_frame():
    found = {"teacher": _measured(0.5, 0.5, 0.5), "delta": _measured(0.3, 0.6, 0.8)}
    figure = consistent(found)
    bars = {trace.name: dict(zip(trace.x, trace.y, strict=True)) for trace in figure.data}
    assert bars["delta"] == pytest.approx(
        {"all steps": 170 / 3, "onto a key frame": 30, "between key frames": 70}, abs=0.1
    )
    assert _title(figure).startswith("The delta network is 6.")
    assert _title(figure).endswith(" points more consistent than its teacher")
    assert (
        _title(consistent(found | {"delta": found["teacher"]})) == "The delta network is as consistent as its teacher"
    )
    with pytest.raises(ValueError, match=r"a teacher and of a delta network is compared, got \['delta'\]"):
        consistent({"delta": found["delta"]})


def test_the_share_guessed_is_one_less_the_errors_share_of_the_teachers_change(inspection):
    found = guessed(inspection)
    assert found.shape == (10, 5)
    assert np.isnan(found[:, 0]).all()
    k, t = 4, 3
    maps = inspection.maps[inspection.names[k]]
    expected = 1 - (maps.error[t] ** 2).sum() / (maps.teacher[t] ** 2).sum()
    assert found[k, t] == pytest.approx(expected.item(), abs=1e-4)


def test_one_layer_on_one_frame_shows_that_frames_maps(inspection):
    name = inspection.names[2]
    figure = guess(inspection, name, 3)
    heat = {trace.meta: np.asarray(trace.z) for trace in figure.data if trace.type == "heatmap"}
    assert set(heat) == {"input", "teacher", "predicted", "error"}
    for panel, shown in heat.items():
        assert np.array_equal(shown, getattr(inspection.maps[name], panel)[3].numpy())
    share = 100 * guessed(inspection)[2, 3]
    says = f"guesses {share:.0f} % of the change" if share >= 0 else "is worse than predicting no change"
    assert _title(figure) == f"3 frames after the key frame the student of {name} {says}"
    assert "nothing changes" in _title(guess(inspection, name, 0))


def test_a_figure_moved_to_another_frame_is_that_frames_figure(inspection):
    name = inspection.names[2]
    moved = move_to(guess(inspection, name, 1), inspection, name, 4)
    assert moved.to_json() == guess(inspection, name, 4).to_json()


def test_layers_and_frames_that_are_none_are_refused(inspection):
    with pytest.raises(ValueError, match="not frame 5 of"):
        guess(inspection, inspection.names[0], 5)
    with pytest.raises(ValueError, match="not frame 0 of 'down'"):
        guess(inspection, "down", 0)


def test_the_error_is_shown_by_layer_and_frame_with_the_drift_below(inspection, network, dense):
    figure = build_up(inspection)
    heat, drift = figure.data
    assert np.asarray(heat.z).shape == (10, 4)
    assert np.asarray(drift.y) == pytest.approx(100 * inspection.output_drift[1:].sqrt().numpy())
    shares = 100 * guessed(inspection)[:, 1:]
    assert f"{shares.mean():.0f} %" in _title(figure)
    energies = [inspection.error_energy.sum(1), inspection.teacher_energy.sum(1)]
    assert worst_layer(inspection) == inspection.names[int((energies[0] / energies[1]).argmax())]
    with pytest.raises(ValueError, match="two frames or more"):
        build_up(network.inspect([as_input(dense.frame(0))[None]]))


def test_a_video_in_which_nothing_moves_can_be_looked_at(network, dense):
    still = network.inspect([as_input(dense.frame(0))[None]] * 3)
    assert "nothing changes" in _title(guess(still, still.names[0], 2))
    assert isinstance(build_up(still), go.Figure)


def _points(seed=0, *, gain=0.0, ms=math.nan):
    point = lambda name, kind, period, value, gmac, ms=ms: Point(  # noqa: E731
        name, kind, 4.0, period, value, (value,) * period, gmac, ms, seed
    )
    return [
        point("teacher", "teacher", 1, 0.80, 10.0),
        point("delta", "delta", 2, 0.799, 6.0),
        point("delta", "delta", 4, 0.795 + gain, 4.0, ms / 2),
        point("delta", "delta", 8, 0.75, 3.0),
        point("copying", "copy", 2, 0.76, 5.0),
        point("copying", "copy", 4, 0.70, 2.5),
        point("smaller network", "small", 1, 0.77, 4.1),
    ]


def test_the_title_speaks_of_the_cheapest_delta_network_that_loses_a_point_at_most():
    figure = against_cost(_points())
    assert _title(figure) == "The delta network: −0.5 points of mIoU for 40 % of the arithmetic at period 4"
    # Copying at 4 GMAC lies on the line from (2.5, 70) to (5, 76): 73.6.
    assert figure.layout.title.subtitle.text.endswith(
        "points at the same cost: +5.9 to copying, +2.5 to a smaller network; "
        "not measured at this cost: a low-rank network"
    )
    assert len({trace.xaxis for trace in figure.data}) == 1


def test_time_is_a_panel_of_its_own_where_it_was_measured():
    figure = against_cost(_points(ms=20.0))
    assert "40 % of the arithmetic and 50 % of the time" in _title(figure)
    assert {trace.xaxis for trace in figure.data} == {"x", "x2"}
    (delta,) = [trace for trace in figure.data if trace.name == "delta" and trace.xaxis == "x2"]
    assert sorted(delta.x) == [10, 20, 20]


def test_seeds_of_a_point_are_one_mark_with_an_interval():
    figure = against_cost([*_points(), *_points(1, gain=-0.004), *_points(2, gain=0.004)])
    delta = _trace(figure, "delta")
    assert list(delta.text) == ["2", "4", "8"]
    assert delta.y[1] == pytest.approx(79.5)
    # t(2) at 97.5 % is 4.303; the deviation of -0.4, 0, 0.4 is 0.4.
    assert delta.error_y.array[1] == pytest.approx(4.303 * 0.4 / 3**0.5, rel=1e-3)
    assert delta.error_y.array[0] == pytest.approx(0, abs=1e-9)


def test_curves_without_a_teacher_or_a_cost_are_refused():
    with pytest.raises(ValueError, match="held against a teacher's"):
        against_cost(_points()[1:])
    with pytest.raises(ValueError, match="no cost of these points was measured"):
        against_cost(_points(), axes=("ms",))


def test_without_a_delta_network_the_curves_are_still_drawn():
    assert _title(against_cost([point for point in _points() if point.kind != "delta"])) == "mIoU against cost"


def test_the_title_names_the_network_and_never_one_that_nobody_trained():
    trained, untrained = (
        [dataclasses.replace(point, name=name) for point in _points() if point.kind == "delta"]
        for name in ("delta 8", UNTRAINED)
    )
    cheaper = [dataclasses.replace(point, gmac=point.gmac / 2, value=0.8) for point in untrained]
    others = [point for point in _points() if point.kind != "delta"]
    assert _title(against_cost([*others, *cheaper, *trained])).startswith("Delta 8: −0.5 points of mIoU for 40 %")
    assert _title(against_cost([*others, *cheaper])) == "mIoU against cost"


def test_every_network_of_a_study_is_drawn_in_a_way_of_its_own():
    kinds = {"teacher": "teacher", "small": "small", "low rank": "low rank", "features": "feature distillation"}
    points = []
    names = [*names_of(), COPY, UNTRAINED]
    for place, name in enumerate(names):
        kind = kinds.get(name.partition(" (")[0], "copy" if name == COPY else "delta")
        gamma = float(name.split()[1].strip(",")) if name.startswith("delta") else 4.0
        periods = (2, 4) if kind in ("delta", "copy") else (1,)
        points += [Point(name, kind, gamma, n, 0.7, (0.7,) * n, 10.0 - place / 2 - n) for n in periods]
    figure = against_cost(points)
    drawn = {trace.name: (trace.line.color, trace.marker.symbol, trace.line.dash) for trace in figure.data}
    assert len(drawn) == len(names)
    assert len(set(drawn.values())) == len(names)
    alone = {name: each[:2] for name, each in drawn.items()}  # what is a single mark has no line
    assert len(set(alone.values())) == len(names)
    numbered = {trace.name for trace in figure.data if trace.text is not None}
    assert numbered == {"delta 2", COPY}  # seven curves' numbers would cover each other
    same = [{drawn[f"{name} (period {n})"][0] for n in (4, 8)} for name in ("small", "low rank")]
    assert [len(colours) for colours in same] == [1, 1]
    assert drawn["delta 4"][0] == drawn["searched"][0] == drawn[UNTRAINED][0] != drawn["delta 8"][0]
    assert drawn["delta 4"][1:] == ("circle", "solid")


def test_published_rows_stand_alone_and_say_that_they_are_others():
    figure = published()
    assert _title(figure).startswith("Published")
    assert "other data, networks and ways to count than ours" in figure.layout.title.subtitle.text
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(marks) == 2 * len(PUBLISHED)
    ratios = [round(row.gmac / row.delta_gmac, 2) for row in PUBLISHED]
    assert ratios == [2.07, 2.01, 2.02, 1.81, 3.97, 5.18]


def test_the_metric_by_distance_tells_what_is_lost():
    found = {
        "teacher": _measured(0.8),
        UNTRAINED: _measured(0.8, 0.7, 0.65),
        "delta 4": _measured(0.8, 0.78, 0.75),
        COPY: _measured(0.8, 0.7, 0.6),
    }
    figure = by_distance(found)
    assert _title(figure) == "2 frames after the key frame delta 4 has lost 5.0 points of mIoU, copying has lost 20.0"
    assert list(_trace(figure, "teacher").x) == [0, 1, 2]
    assert list(_trace(figure, "delta 4").y) == pytest.approx([80, 78, 75], abs=0.1)
    lines = {trace.name: (trace.line.color, trace.line.dash) for trace in figure.data}
    assert lines[COPY][0] == COLOURS["copy"]
    assert lines["delta 4"][0] == lines[UNTRAINED][0] == COLOURS["delta"]
    assert len(set(lines.values())) == 4
    plain = by_distance({"delta": found["delta 4"], "copying": found[COPY]})
    assert "the delta network has lost 5.0 points of mIoU, copying has lost 20.0" in _title(plain)
    assert "copying" not in _title(by_distance({"delta 4": found["delta 4"]}))
    with pytest.raises(ValueError, match="from the second frame on"):
        by_distance({"teacher": found["teacher"]})


def test_a_cut_and_the_key_frame_that_mends_it_are_marked(network, dense):
    frames = cut(dense, before=3, after=5)
    plain = follow(network, dense, frames, period=6, task=SEGMENTATION)
    mended = follow(network, dense, frames, period=6, threshold=1.0, task=SEGMENTATION)
    assert plain.cuts == (3,)
    figure = along({"every 6 frames": plain, "and where much is new": mended})
    assert any(shape.x0 == 2.5 for shape in figure.layout.shapes)
    assert any(note.text == "cut" for note in figure.layout.annotations)
    first = next(trace for trace in figure.data if trace.name == "and where much is new")
    assert [size > 5 for size in first.marker.size] == list(mended.key)
    assert np.asarray(first.y) == pytest.approx(100 * np.sqrt(mended.drift))
    off = 100 * np.sqrt(plain.drift)[3:8].mean()
    assert _title(figure).startswith(f"After the cut the answer is {off:.0f} % off, with an automatic key frame ")
    assert [axis.title.text for axis in (figure.layout.yaxis2, figure.layout.yaxis3)] == ["new energy (%)", "mIoU (%)"]


def test_runs_over_other_frames_are_not_compared(network, dense):
    one = follow(network, dense, [0, 1], period=2)
    with pytest.raises(ValueError, match="runs over the same frames"):
        along({"a": one, "b": dataclasses.replace(one, frames=(0, 2))})
    with pytest.raises(ValueError, match="at least one"):
        along({})
    assert _title(along({"a": one})) == "How far the answer drifts from the teacher's"
