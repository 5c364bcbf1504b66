import plotly.graph_objects as go
import pytest

from vkdlab import widgets


def _draw(value):
    return go.Figure(layout_title_text=str(value))


def test_outside_a_notebook_nothing_is_live():
    assert not widgets.is_live()


def test_headless_the_panel_is_the_figure_of_its_first_option():
    shown = widgets.choose({"first": 1, "second": 2}, _draw, label="number")
    assert isinstance(shown, go.Figure)
    assert shown.layout.title.text == "1"


def test_live_the_panel_redraws_what_is_chosen():
    import ipywidgets

    drawn = []

    def draw(value):
        drawn.append(value)
        return _draw(value)

    panel = widgets.choose({"first": 1, "second": 2}, draw, label="number", live=True)
    assert isinstance(panel, ipywidgets.VBox)
    assert drawn == [1]
    panel.children[0].value = 2
    assert drawn == [1, 2]


def test_a_panel_without_options_is_refused_by_name():
    with pytest.raises(ValueError, match="no video to choose from"):
        widgets.choose([], _draw, label="video")


def test_a_job_of_the_runner_is_never_live(monkeypatch):
    monkeypatch.setenv("VKDLAB_JOB_DIR", "somewhere")
    assert not widgets.is_live()
