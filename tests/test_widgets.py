import plotly.graph_objects as go
import pytest

from vkdlab import widgets


def _draw(value):
    return go.Figure(layout_title_text=str(value))


def _told(option, moved):
    return _draw(f"{option} {moved}")


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


def test_headless_sliders_are_the_figure_of_the_first_option_untouched():
    shown = widgets.sliders([1, 2], lambda option: {"a": 0.5}, _told, label="number", reset="back")
    assert shown.layout.title.text == "1 None"


def test_live_sliders_redraw_what_is_moved_and_go_back_with_one_redraw():
    drawn = []

    def draw(option, moved):
        drawn.append((option, moved))
        return _told(option, moved)

    panel = widgets.sliders(
        {"first": 1, "second": 2}, lambda option: {"a": 0.1 * option, "b": 0.5}, draw, label="number", reset="back",
        live=True,
    )  # fmt: skip
    chosen, row, _ = panel.children
    a, b, button = row.children
    assert drawn == [(1, None)]
    a.value = 0.7
    assert drawn[1:] == [(1, {"a": 0.7, "b": 0.5})]
    button.click()
    assert drawn[2:] == [(1, None)]
    assert (a.value, b.value) == pytest.approx((0.1, 0.5))
    chosen.value = 2
    assert drawn[3:] == [(2, None)]
    assert a.value == pytest.approx(0.2)
    b.value = 0.0
    assert drawn[4:] == [(2, {"a": 0.2, "b": 0.0})]
    b.value = 0.5
    assert drawn[5:] == [(2, None)]


def test_a_place_that_the_browser_rounds_is_not_taken_for_a_move():
    drawn = []

    def draw(option, moved):
        drawn.append(moved)
        return _told(option, moved)

    panel = widgets.sliders([1], lambda option: {"a": 0.4000000059}, draw, label="number", reset="back", live=True)
    panel.children[1].children[0].value = 0.4
    assert set(drawn) == {None}


def test_sliders_without_options_or_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="no query to choose from"):
        widgets.sliders([], lambda option: {"a": 0.5}, _told, label="query", reset="back")
    with pytest.raises(ValueError, match=r"between 0 and 1, got a = 1\.5"):
        widgets.sliders([1], lambda option: {"a": 1.5, "b": 0}, _told, label="query", reset="back")
