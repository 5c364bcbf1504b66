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
    named = dict(options) if isinstance(options, Mapping) else {str(option): option for option in options}
    if not named:
        raise ValueError(f"there is no {label} to choose from")
    if not (is_live() if live is None else live):
        return draw(next(iter(named.values())))

    import ipywidgets
    from IPython.display import display

    chosen = ipywidgets.Dropdown(
        options=list(named.items()), description=label, style={"description_width": "initial"}, layout={"width": "95%"}
    )
    picture = ipywidgets.Output()

    def redraw(change: Mapping[str, Any]) -> None:
        figure = draw(change["new"])
        picture.clear_output(wait=True)
        with picture:
            display(figure)

    chosen.observe(redraw, names="value")
    redraw({"new": chosen.value})
    return ipywidgets.VBox([chosen, picture])
