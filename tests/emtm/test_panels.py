import statistics
import time

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from tests.emtm import made_up
from vkdlab.data import load
from vkdlab.emtm import panels
from vkdlab.emtm.aggregate import AggregateConfig, Aggregator


@pytest.fixture(scope="module")
def world():
    said = made_up.outputs(queries=60, length=33)
    fixed = torch.tensor([[0.4, 0.1], [0.3, 0.2], [0.2, 0.3], [0.1, 0.4]])
    config, temperatures = AggregateConfig(mode="constant"), torch.tensor([1.0, 2.0, 1.5, 0.8])
    aggregator = Aggregator(config, names=said.names, temperatures=temperatures, fixed=fixed)
    return aggregator, said, aggregator.integrate(said)


@pytest.fixture
def live(world, monkeypatch):
    """A live panel, and every figure it sent to be displayed."""
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda figure: shown.append(go.Figure(figure)))
    aggregator, said, integrated = world
    panel = panels.what_if(aggregator, said, integrated, rows=[3, 7], sentences=list(said.ids), live=True)
    return panel, shown


def _mixture(figure):
    bar, start, end = (trace for trace in figure.data if trace.meta == "mixture")
    return (bar.base[0], bar.base[0] + bar.x[0]), np.asarray(start.y), np.asarray(end.y)


def _check(figure, expected, row):
    moment, start, end = _mixture(figure)
    valid = expected.mask[row]
    assert moment == pytest.approx(expected.moments_s[row, 0].tolist(), abs=1e-4)
    assert start == pytest.approx(expected.start[row][valid].numpy(), abs=1e-6)
    assert end == pytest.approx(expected.end[row][valid].numpy(), abs=1e-6)
    assert f"{expected.iou[row].item():.2f}" in figure.layout.title.text


def test_headless_the_panel_is_the_first_query_with_the_aggregators_own_weights(world):
    aggregator, said, integrated = world
    figure = panels.what_if(aggregator, said, integrated, rows=[3, 7])
    assert isinstance(figure, go.Figure)
    _check(figure, integrated, 3)
    assert figure.layout.title.text.startswith("KAU's own weights")


def test_sliders_stand_at_the_own_weights_and_a_move_mixes_with_their_places(world, live):
    aggregator, said, integrated = world
    panel, shown = live
    *sliders, _ = panel.children[1].children
    assert [slider.description for slider in sliders] == list(said.names)
    assert [slider.value for slider in sliders] == pytest.approx(integrated.weights[3].mean(1).tolist(), abs=0.006)
    for slider, value in zip(sliders, (0.2, 0.0, 0.0, 0.6), strict=True):
        slider.value = value
    asked = torch.tensor([0.25, 0, 0, 0.75])[None, :, None].expand(1, -1, 2)
    _check(shown[-1], aggregator.integrate(said.rows([3]), asked), 0)
    assert shown[-1].layout.title.text.startswith("Your weights give IoU")


def test_the_button_and_another_query_bring_the_own_weights_back(world, live):
    _, _, integrated = world
    panel, shown = live
    chosen, row, _ = panel.children
    row.children[0].value = 1.0
    before = len(shown)
    row.children[-1].click()
    assert len(shown) == before + 1  # putting four sliders back is one redraw
    _check(shown[-1], integrated, 3)
    row.children[0].value = 0.9
    chosen.value = 7
    _check(shown[-1], integrated, 7)
    assert [slider.value for slider in row.children[:-1]] == pytest.approx(
        integrated.weights[7].mean(1).tolist(), abs=0.006
    )
    row.children[1].value = 0.0
    assert shown[-1].layout.title.text.startswith("Your weights")  # sliders are still listened to


def test_all_sliders_at_zero_trust_every_teacher_alike(world, live):
    aggregator, said, _ = world
    panel, shown = live
    for slider in panel.children[1].children[:-1]:
        slider.value = 0.0
    _check(shown[-1], aggregator.integrate(said.rows([3]), torch.full((1, 4, 2), 0.25)), 0)


def test_a_move_of_a_slider_redraws_in_under_100_ms(live):
    panel, shown = live
    slider = panel.children[1].children[0]
    took = []
    for value in np.linspace(0.05, 0.95, 15):
        began = time.perf_counter()
        slider.value = float(value)
        shown[-1].to_json()
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.1


def test_the_frames_are_those_of_the_querys_own_video(world):
    aggregator, said, integrated = world
    video = next(iter(load("tabletop", "test", profile="smoke").videos.values()))
    scale = video.duration_s / said.duration_s.max() * 0.99
    said = type(said)(**{**vars(said), "duration_s": said.duration_s * scale})
    figure = panels.what_if(aggregator, said, integrated, rows={"first": 0}, videos=[video.path] * 60)
    grey = panels.what_if(aggregator, said, integrated, rows={"first": 0})
    assert figure.layout.images[0].source != grey.layout.images[0].source


def test_a_panel_without_queries_is_refused(world):
    aggregator, said, integrated = world
    with pytest.raises(ValueError, match="no query to choose from"):
        panels.what_if(aggregator, said, integrated, rows=[])
