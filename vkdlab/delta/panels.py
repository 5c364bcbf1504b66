"""What a reader can turn in delta distillation: panels around the figures (ours)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import plotly.graph_objects as go

from vkdlab import widgets
from vkdlab.delta.inspection import Inspection
from vkdlab.delta.layer_figures import guess, move_to, worst_layer


def layers(inspection: Inspection, *, subtitle: str = "", live: bool | None = None) -> Any:
    """How well a student guesses the teacher's change: a list of the layers, and one slider for the frame.

    Args:
        inspection: of a key frame and frames after it.
        subtitle: data set, video, network.
        live: overrides the decision, for tests.

    Returns:
        A panel when live, else the figure of the layer of which the least is guessed, on the last frame.

    Raises:
        ValueError: there is no layer.
    """
    if not inspection.names:
        raise ValueError("no layer was inspected: the network has none that predicts a change")
    last, worst = inspection.output_drift.shape[0] - 1, worst_layer(inspection)
    if not (widgets.is_live() if live is None else live):
        return guess(inspection, worst, last, subtitle=subtitle)

    import ipywidgets

    chosen = widgets.dropdown({name: name for name in inspection.names}, "layer")
    chosen.value = worst
    slider = ipywidgets.IntSlider(
        value=last, min=0, max=last, description="frames since the key frame",
        style={"description_width": "initial"}, layout={"width": "480px"},
    )  # fmt: skip
    show = widgets.shown_in(picture := ipywidgets.Output())

    @lru_cache(maxsize=1)
    def drawn(name: str) -> go.Figure:
        """A layer's figure, in which the slider moves the frame."""
        return guess(inspection, name, slider.value, subtitle=subtitle)

    def redraw(_: Any = None) -> None:
        show(move_to(drawn(chosen.value), inspection, chosen.value, slider.value))

    chosen.observe(redraw, names="value")
    slider.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([chosen, slider, picture])
