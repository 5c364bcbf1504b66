"""What the figures of this room share: a colour for everything that says where a moment is, and a few marks (ours)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import plotly.graph_objects as go

from vkdlab.metrics import Interval
from vkdlab.plots import PALETTE, TRUTH

KAU = PALETTE[1]
NAIVE = "#F2B48C"
CONTROL = "#7f7f7f"
COLOURS = {
    "truth": TRUTH,
    "span": PALETTE[0],
    "map": PALETTE[2],
    "proposal": PALETTE[3],
    "regression": PALETTE[4],
    "isomorphic": PALETTE[5],
    "kau": KAU,
    "naive kau": NAIVE,
    "constant": PALETTE[6],
    "uniform": CONTROL,
    "best held-out": "#4d4d4d",
    "best_held_out": "#4d4d4d",
    "oracle": "#c4c4c4",
    "student": PALETTE[7],
}
"""First words of a source's name, in small letters, to its colour."""
OTHERS = ("#882255", "#44AA99", "#999933", "#117733", "#AA4499", "#6699CC")


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for every source, by the words that its name begins with: "span teacher" is coloured as "span" is.

    Sources that are known by none of `COLOURS` take the `OTHERS` in the order of their names, so that the same sources
    get the same colours in every figure, in whatever order they come. A "student from" a source has its colour.
    """
    names = list(names)
    found = {name: _known(name.removeprefix("student from ")) for name in names}
    unknown = sorted(name for name, colour in found.items() if colour is None)
    others = {name: OTHERS[place % len(OTHERS)] for place, name in enumerate(unknown)}
    return {name: colour or others[name] for name, colour in found.items()}


def _known(name: str) -> str | None:
    words = f"{name.lower()} "
    fitting = [known for known in COLOURS if words.startswith((f"{known} ", f"{known}:", f"{known},"))]
    return COLOURS[max(fitting, key=len)] if fitting else None


def dot(
    figure: go.Figure,
    value: Interval,
    name: str | int,
    *,
    colour: str,
    row: int = 1,
    col: int = 1,
    digits: int = 1,
    sign: str = "",
) -> None:
    """A value with its interval on the horizontal axis, at the height of its name; its number stands at the right."""
    figure.add_trace(
        go.Scatter(
            x=[value.mean], y=[name], error_x={"array": [half(value)], "thickness": 2, "width": 5}, mode="markers",
            marker={"size": 11, "color": colour}, name=str(name), showlegend=False, cliponaxis=False,
        ),
        row=row, col=col,
    )  # fmt: skip
    number(figure, f"{value.mean:{sign}.{digits}f}" if np.isfinite(value.mean) else "–", name, row=row, col=col)


def number(figure: go.Figure, text: str, name: str | int, *, row: int = 1, col: int = 1) -> None:
    """A text at the right of a panel, at the height of a name."""
    figure.add_annotation(
        text=text.replace("-", "−"),
        x=1,
        xref="x domain",
        y=name,
        xanchor="left",
        xshift=8,
        showarrow=False,
        row=row,
        col=col,
    )


def half(interval: Interval) -> float:
    """Half the width of an interval; 0 where one value says nothing about its spread."""
    width = interval.high - interval.mean
    return width if np.isfinite(width) else 0.0


def joined(*parts: str) -> str:
    """The parts of a subtitle that are not empty."""
    return "; ".join(part for part in parts if part)
