"""What the figures say in numbers and words, against sums done by hand; how they look is for eyes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.emtm import made_up
from vkdlab.emtm import kau_figures, teacher_figures
from vkdlab.emtm.kau_figures import over_queries
from vkdlab.emtm.marks import COLOURS, NAIVE, colours_of
from vkdlab.metrics import expected_calibration_error
from vkdlab.plots import TRUTH

FRAMES = np.zeros((4, 9, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def said():
    return made_up.outputs(queries=120, length=20)


@pytest.fixture(scope="module")
def kau(said):
    return made_up.sure(said)


@pytest.fixture(scope="module")
def constant(said):
    return made_up.integrated(said, [0.4, 0.3, 0.2, 0.1])


def _traces(figure, kind, **where):
    return [
        trace
        for trace in figure.data
        if trace.type == kind and all(getattr(trace, name) == value for name, value in where.items())
    ]


def _notes(figure):
    return [note.text for note in figure.layout.annotations]


def test_a_source_keeps_its_colour_whatever_stands_beside_it():
    assert colours_of(["span teacher", "map"])["span teacher"] == colours_of(["span"])["span"] == COLOURS["span"]
    assert colours_of(["KAU: + calibration"])["KAU: + calibration"] == COLOURS["kau"]
    assert colours_of(["naive KAU"])["naive KAU"] == NAIVE
    assert colours_of(["truth"])["truth"] == TRUTH
    assert colours_of(["student from map"])["student from map"] == COLOURS["map"]
    assert colours_of(["b", "a"]) == colours_of(["a", "b"])
    known = ("span", "map", "proposal", "regression", "isomorphic", "KAU", "naive KAU", "constant", "uniform", "oracle")
    assert len(set(colours_of([*known, "student", "mapper"]).values())) == len(known) + 2


def test_every_teacher_shows_its_moment_and_its_curves_on_real_clips_alone(said, kau):
    row = int(said.num_clips.argmin())
    figure = teacher_figures.what_teachers_say(said, row, video=FRAMES, sentence="a cup falls", integrated=kau)
    bars = {trace.y[0]: (trace.base[0], trace.base[0] + trace.x[0]) for trace in _traces(figure, "bar")}
    assert bars["truth"] == pytest.approx(said.truth_s[row].tolist(), abs=1e-4)
    for place, name in enumerate(said.names):
        label = f"{name}, IoU {said.iou[row, place]:.2f}"
        assert bars[label] == pytest.approx(said.moments_s[row, place].tolist(), abs=1e-4)
    assert bars[f"KAU, IoU {kau.iou[row]:.2f}"] == pytest.approx(kau.moments_s[row, 0].tolist(), abs=1e-4)
    valid = int(said.num_clips[row])
    starts, ends = (_traces(figure, "scatter", mode="lines", yaxis=axis) for axis in ("y3", "y4"))
    assert [trace.name for trace in starts] == [*said.names, "KAU"]
    for place, trace in enumerate(starts[:-1]):
        assert list(trace.y) == pytest.approx(said.start[row, place, :valid].tolist())
    assert list(ends[-1].y) == pytest.approx(kau.end[row, :valid].tolist())
    assert [shape.x0 for shape in figure.layout.shapes] == pytest.approx(said.truth_s[row].tolist())
    found = int((said.iou[row] >= 0.5).sum())
    assert figure.layout.title.text.startswith(f"{found} of 4 teachers")
    assert "a cup falls" in figure.layout.title.subtitle.text


def test_a_query_without_a_video_file_has_grey_pictures_and_all_the_rest(said):
    figure = teacher_figures.what_teachers_say(said, 0)
    assert len(figure.layout.images) == 8
    assert "query-0" in figure.layout.title.subtitle.text
    assert not [trace for trace in figure.data if trace.meta == "mixture"]


def test_one_teacher_and_one_clip_can_be_shown():
    said = made_up.outputs(queries=3, length=1, names=("span",), errors=(0.1,))
    sole = made_up.integrated(said, [1.0])
    figure = teacher_figures.what_teachers_say(said, 1, video=FRAMES, integrated=sole)
    assert "of 1 teachers" in figure.layout.title.text
    kau_figures.whom_kau_trusts(sole, said)
    kau_figures.weights_by(sole)
    kau_figures.weights_per_sample(sole)
    assert "nan" in kau_figures.is_trust_right(sole, said).layout.title.text


def test_the_most_trusted_and_the_best_teacher_are_named(said, constant):
    reached = 100 * (said.iou >= 0.5).float().mean(0)
    assert reached.argmax() == 0
    figure = kau_figures.whom_kau_trusts(constant, said)
    assert figure.layout.title.text == "KAU trusts span most (mean weight 0.40), and it is the best teacher"
    assert _notes(figure)[:4] == [f"{value:.1f}" for value in reached.tolist()]
    wrong = made_up.integrated(said, [0.1, 0.2, 0.2, 0.5])
    title = kau_figures.whom_kau_trusts(wrong, said, source="naive KAU").layout.title.text
    assert title == "naive KAU trusts regression most (mean weight 0.50), though span is the best teacher"
    violins = _traces(figure, "violin", name="map")
    assert [violin.side for violin in violins] == ["negative", "positive"]  # the axis runs down: the start is above
    assert all(list(violin.x) == pytest.approx([0.3] * 120) for violin in violins)


def test_naive_and_cross_fitted_weights_stand_beside_what_teachers_reach_on_which_samples(said, constant):
    naive = made_up.integrated(said, [0.05, 0.05, 0.1, 0.8])
    train_iou, held_out_iou = torch.full((7, 4), 0.9), torch.full((5, 4), 0.4)
    figure = kau_figures.naive_against_cross_fitted(
        naive, constant, said, train_iou=train_iou, held_out_iou=held_out_iou
    )
    assert figure.layout.title.text == (
        "The naive KAU gives 80 % of the weight to regression, number 4 of 4 on test; cross-fitted, 10 %"
    )
    shown = {trace.name: list(trace.x) for trace in _traces(figure, "scatter", mode="markers", showlegend=False)}
    assert shown["its own training samples"] == pytest.approx([0.9] * 4)
    assert shown["held-out queries"] == pytest.approx([0.4] * 4)
    assert shown["test"] == pytest.approx(said.iou.mean(0).tolist())
    bars = {trace.name: list(trace.x) for trace in _traces(figure, "bar")}
    assert bars["naive KAU"] == pytest.approx([0.05, 0.05, 0.1, 0.8], abs=1e-5)
    assert bars["cross-fitted KAU"] == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=1e-5)


def test_trust_is_compared_with_constant_weights_within_queries_and_alone_over_them(said, kau, constant):
    figure = kau_figures.is_trust_right(kau, said, control=constant)
    weights, ious = (pd.DataFrame(each.numpy()) for each in (kau.weights.mean(2), said.iou))
    within = [weights.loc[row].rank().corr(ious.loc[row].rank()) for row in range(120)]
    shown = {trace.name: trace.x[0] for trace in _traces(figure, "scatter", mode="markers")}
    assert shown["within a query, KAU"] == pytest.approx(np.nanmean(within), abs=1e-5)
    for place, name in enumerate(said.names):
        expected = weights[place].rank().corr(ious[place].rank())
        assert shown[f"over queries, {name}"] == pytest.approx(expected, abs=1e-5)
    assert "better than constant weights" in figure.layout.title.text
    (line,) = _traces(figure, "scatter", mode="lines+markers", name="map")
    order = np.argsort(weights[1].to_numpy(), kind="stable")
    assert list(line.y) == pytest.approx([ious[1].to_numpy()[part].mean() for part in np.split(order, 5)], abs=1e-5)


def test_a_kau_that_is_the_control_is_no_better_than_it_and_has_no_correlation_over_queries(said, constant):
    figure = kau_figures.is_trust_right(constant, said, control=constant)
    assert "no better than constant weights" in figure.layout.title.text
    assert _notes(figure)[2:] == ["–"] * 4


def test_an_interval_of_a_rank_correlation_holds_it_and_narrows_with_more_queries():
    values = torch.arange(10.0)
    mixed = torch.tensor([1.0, 0, 3, 2, 5, 4, 7, 6, 9, 8])
    few, many = over_queries(values, mixed), over_queries(values.repeat(10), mixed.repeat(10))
    assert -1 < few.low < few.mean < few.high < 1
    assert many.mean == pytest.approx(few.mean)
    assert many.high - many.low < few.high - few.low
    assert np.isnan(over_queries(values[:3], mixed[:3]).low)
    assert np.isfinite(over_queries(values, values).low)


def test_mean_weights_of_groups_add_up_over_the_teachers_and_name_the_group_that_differs(said):
    odd = torch.arange(120) % 2 == 1
    weights = torch.where(odd[:, None], torch.tensor([0.7, 0.1, 0.1, 0.1]), torch.tensor([0.1, 0.3, 0.3, 0.3]))
    mixed = made_up.integrated(said, weights[..., None].expand(-1, -1, 2).contiguous())
    figure = kau_figures.weights_by(mixed, {"kind of query": ["odd" if each else "even" for each in odd]})
    bars = {(trace.name, label): x for trace in figure.data for label, x in zip(trace.y, trace.x, strict=True)}
    assert bars["span", "odd (n = 60)"] == pytest.approx(0.7)
    assert bars["span", "even (n = 60)"] == pytest.approx(0.1)
    assert bars["span", "all (n = 120)"] == pytest.approx(0.4)
    assert "gives span" in figure.layout.title.text
    assert figure.layout.title.text.endswith("0.40 over all queries")
    lengths = [label for name, label in bars if name == "span" and " s" in label]
    assert [label.split(" (")[0] for label in lengths] == ["under 2 s", "2 to 4 s", "4 s and more"]


def test_constant_weights_are_called_alike_for_all_groups_and_queries(constant):
    assert kau_figures.weights_by(constant).layout.title.text == "KAU weighs all groups of queries alike"
    figure = kau_figures.weights_per_sample(constant, source="constant")
    assert figure.layout.title.text == "constant gives every query the same weights"


def test_groups_that_are_not_one_per_query_are_refused(kau):
    with pytest.raises(ValueError, match="'kind' has 2 groups for 120 queries"):
        kau_figures.weights_by(kau, {"kind": ["a", "b"]})


def test_single_queries_are_stacked_in_the_order_asked_for(kau):
    figure = kau_figures.weights_per_sample(kau, [5, 2])
    (start, end) = _traces(figure, "bar", name="map")
    assert list(start.x) == ["query-5", "query-2"]
    assert list(start.y) == pytest.approx(kau.weights[[5, 2], 1, 0].tolist())
    assert list(end.y) == pytest.approx(kau.weights[[5, 2], 1, 1].tolist())
    assert sum(trace.y[0] for trace in _traces(figure, "bar", yaxis="y")) == pytest.approx(1)


def test_calibration_is_judged_by_the_same_error_as_in_the_metrics(said):
    sharp = [side**1.25 / (side**1.25).sum(2, keepdim=True) for side in (said.start, said.end)]
    too_sure = replace(said, start=sharp[0], end=sharp[1])
    figure = teacher_figures.reliability(too_sure, [1.25] * 4)
    clips = torch.stack([too_sure.truth_s[:, 0], too_sure.truth_s[:, 1] - 1e-4], 1)
    clips = (clips / (too_sure.duration_s / too_sure.num_clips)[:, None]).floor().long()
    probs = torch.cat([said.start[:, 0], said.end[:, 0]])
    expected = expected_calibration_error(probs, torch.cat([clips[:, 0], clips[:, 1]]))
    assert f"→ {expected:.3f}" in _notes(figure)[0]
    assert "temperature 1.25" in _notes(figure)[0]
    assert figure.layout.title.text.startswith("Calibration brings the calibration error")
    unchanged = teacher_figures.reliability(said, torch.ones(4))
    assert unchanged.layout.title.text.startswith("Calibration does not lower")
