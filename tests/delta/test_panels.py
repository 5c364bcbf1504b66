import json
import statistics
import time

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from tests.delta.small_networks import randomise, video
from vkdlab.delta import convert
from vkdlab.delta.layer_figures import guess, worst_layer
from vkdlab.delta.panels import layers
from vkdlab.delta.tasks import SEGMENTATION


@pytest.fixture(scope="module")
def inspection():
    torch.manual_seed(1)
    return convert(randomise(SEGMENTATION.network(8, 9))).inspect(video(5, size=(64, 80)))


@pytest.fixture
def live(inspection, monkeypatch):
    """A live panel, and every figure it sent to be displayed."""
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda figure: shown.append(go.Figure(figure)))
    return layers(inspection, live=True), shown


def _same(a, b):
    return json.loads(a.to_json()) == json.loads(b.to_json())


def test_headless_the_panel_is_the_layer_guessed_least_on_the_last_frame(inspection):
    figure = layers(inspection)
    assert _same(figure, guess(inspection, worst_layer(inspection), 4))


def test_the_slider_moves_the_frame_and_the_list_changes_the_layer(inspection, live):
    panel, shown = live
    chosen, slider, _ = panel.children
    assert (chosen.value, slider.value, slider.max) == (worst_layer(inspection), 4, 4)
    slider.value = 2
    assert _same(shown[-1], guess(inspection, worst_layer(inspection), 2))
    chosen.value = inspection.names[1]
    assert _same(shown[-1], guess(inspection, inspection.names[1], 2))
    slider.value = 0
    (heat,) = [trace for trace in shown[-1].data if trace.meta == "error"]
    assert not np.asarray(heat.z).any()
    assert len(shown) == 4


def test_a_moved_slider_is_redrawn_in_a_tenth_of_a_second(live):
    panel, _ = live
    slider = panel.children[1]
    took = []
    for frame in (1, 2, 3, 1, 2):
        started = time.perf_counter()
        slider.value = frame
        took.append(time.perf_counter() - started)
    assert statistics.median(took) < 0.1


def test_nothing_inspected_is_nothing_to_show(inspection):
    empty = type(inspection)((), *(torch.zeros(0, 1),) * 4, torch.zeros(1), {}, [], [])
    with pytest.raises(ValueError, match="no layer was inspected"):
        layers(empty)
