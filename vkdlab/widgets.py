"""Live in JupyterLab a cell shows a panel; headless the same cell shows the panel's first picture. One place decides.

The panel redraws an ordinary figure: no widget state worth keeping, no JavaScript of our own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from .files import JOB_DIR_VARIABLE


def is_live() -> bool:
    """True in a notebook that somebody looks at: in a Jupyter kernel, and not under the runner."""
    if os.environ.get(JOB_DIR_VARIABLE):
        return False
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and shell.has_trait("kernel")


def choose(
    options: Mapping[str, Any] | Sequence[Any],
    draw: Callable[[Any], go.Figure],
    *,
    label: str,
    live: bool | None = None,
) -> Any:
    """A drop-down list with a figure under it; headless, the figure of the first option.

    Args:
        options: what may be chosen; a mapping shows its keys and hands over its values.
        draw: makes the figure of one choice.
        label: what is chosen, in a word or two.
        live: overrides the decision, for tests.

    Returns:
        A widget when live, else a figure: either is the last line of a cell.

    Raises:
        ValueError: nothing to choose from.
    """
    named = _named(options, label)
    first = next(iter(named.values()))
    if not (is_live() if live is None else live):
        return draw(first)

    import ipywidgets

    chosen = dropdown(named, label)
    show = shown_in(picture := ipywidgets.Output())
    chosen.observe(lambda change: show(draw(change["new"])), names="value")
    show(draw(first))
    return ipywidgets.VBox([chosen, picture])


def sliders(
    options: Mapping[str, Any] | Sequence[Any],
    places: Callable[[Any], Mapping[str, float]],
    draw: Callable[[Any, dict[str, float] | None], go.Figure],
    *,
    label: str,
    reset: str,
    live: bool | None = None,
) -> Any:
    """A drop-down list, one slider from 0 to 1 per name, and a figure that follows both; headless, its first state.

    Args:
        options: what may be chosen; a mapping shows its keys and hands over its values.
        places: where the sliders of one choice stand before anybody moves them, to two digits; the same names for every
            choice.
        draw: makes the figure of one choice and the sliders' places, or None while all stand where they stood.
        label: what is chosen, in a word or two.
        reset: words of the button that puts the sliders back.
        live: overrides the decision, for tests.

    Returns:
        A widget when live, else a figure: either is the last line of a cell.

    Raises:
        ValueError: nothing to choose from, or a slider that stands outside 0 to 1.
    """
    named = _named(options, label)
    first = next(iter(named.values()))
    at_first = _rounded(places(first))
    if outside := [f"{name} = {value}" for name, value in at_first.items() if not 0 <= value <= 1]:
        raise ValueError(f"a slider stands between 0 and 1, got {', '.join(outside)}")
    if not (is_live() if live is None else live):
        return draw(first, None)

    import ipywidgets

    chosen = dropdown(named, label)
    by_name = {
        name: ipywidgets.FloatSlider(
            value=value, min=0, max=1, step=0.01, description=name, style={"description_width": "initial"},
            layout={"width": "260px"},
        )
        for name, value in at_first.items()
    }  # fmt: skip
    button = ipywidgets.Button(description=reset, layout={"width": "auto"})
    show = shown_in(picture := ipywidgets.Output())

    def moved(_) -> None:
        # A browser sends a slider's place back, rounded, when it first shows it: that is no hand on it either.
        now = _rounded({name: slider.value for name, slider in by_name.items()})
        show(draw(chosen.value, None if now == _rounded(places(chosen.value)) else now))

    def put_back(_) -> None:
        for name, value in _rounded(places(chosen.value)).items():
            # A place set from here is no hand on a slider.
            by_name[name].unobserve(moved, names="value")
            by_name[name].value = value
            by_name[name].observe(moved, names="value")
        show(draw(chosen.value, None))

    button.on_click(put_back)
    chosen.observe(put_back, names="value")
    for slider in by_name.values():
        slider.observe(moved, names="value")
    show(draw(first, None))
    row = ipywidgets.HBox([*by_name.values(), button], layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([chosen, row, picture])


def _rounded(places: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in places.items()}


def _named(options: Mapping[str, Any] | Sequence[Any], label: str) -> dict[str, Any]:
    named = dict(options) if isinstance(options, Mapping) else {str(option): option for option in options}
    if not named:
        raise ValueError(f"there is no {label} to choose from")
    return named


def dropdown(named: Mapping[str, Any], label: str) -> Any:
    """A drop-down list as wide as its cell: its values by what it calls them, and in a word or two what is chosen."""
    import ipywidgets

    return ipywidgets.Dropdown(
        options=list(named.items()), description=label, style={"description_width": "initial"}, layout={"width": "95%"}
    )


def shown_in(picture: Any) -> Callable[[go.Figure], None]:
    """What puts a figure into an output widget, in the place of the one before."""
    from IPython.display import display

    def show(figure: go.Figure) -> None:
        picture.clear_output(wait=True)
        with picture:
            display(figure)

    return show
