"""What the figures of this room share: how every network is drawn, a colour for every class of pixels, words (ours)."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from vkdlab.plots import PALETTE, TRUTH

COLOURS = {
    "teacher": TRUTH,
    "delta": PALETTE[0],
    "copy": "#9a9a9a",
    "copying": "#9a9a9a",
    "small": PALETTE[1],
    "low rank": PALETTE[2],
    "feature distillation": PALETTE[3],
    "labels": "#d0d0d0",
}
"""Kind of a point, or name of a source, to its colour."""
DELTAS = ("#56B4E9", "#0072B2", "#5E4FA2", "#001D4A")
"""Of several delta networks, by rising gamma."""
_SYMBOLS = {"teacher": "star", "delta": "circle", "copy": "x", "small": "diamond", "low rank": "square"}
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SIGNS = ("{}", "{}-open", "triangle-up", "triangle-up-open", "triangle-down")


@dataclass(frozen=True)
class Style:
    """How a network is drawn."""

    colour: str
    """Of its kind; of a delta network, of its gamma."""
    symbol: str
    """Of its kind; open, or another one, where several networks have one colour."""
    dash: str
    """Of its line, likewise."""


def styles_of(networks: Mapping[str, tuple[str, float]]) -> dict[str, Style]:
    """A style for every network, no two the same among those of one colour.

    Args:
        networks: name to kind, one of `COLOURS`, and gamma, which counts for delta networks alone.

    Returns:
        In the order of the kinds, delta networks by rising gamma.
    """
    gammas = sorted({gamma for kind, gamma in networks.values() if kind == "delta"})
    found: dict[str, Style] = {}
    for name, (kind, gamma) in sorted(
        networks.items(), key=lambda each: (list(COLOURS).index(each[1][0]), each[1][1] * (each[1][0] == "delta"))
    ):
        colour = COLOURS[kind]
        if kind == "delta" and len(gammas) > 1:
            colour = DELTAS[gammas.index(gamma) % len(DELTAS)]
        place = sum(style.colour == colour for style in found.values()) % len(_DASHES)
        found[name] = Style(colour, _SIGNS[place].format(_SYMBOLS.get(kind, "hexagon")), _DASHES[place])
    return found


def class_colours(count: int) -> UInt8[np.ndarray, "k 3"]:
    """RGB of `count` classes: the first is pale, for it is the background in most data sets."""
    known = [tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in PALETTE]
    turned = (colorsys.hsv_to_rgb(k * 0.618 % 1, (0.55, 0.85)[k % 2], (0.95, 0.7, 0.5)[k % 3]) for k in range(count))
    others = [tuple(round(255 * part) for part in colour) for colour in turned]
    return np.array([(232, 232, 232), *(known if count <= 1 + len(known) else others)][:count], np.uint8)


def hex_of(colour: UInt8[np.ndarray, " rgb"]) -> str:
    """RGB as plotly takes it."""
    return "#" + "".join(f"{int(part):02x}" for part in colour)


def signed(points: float, digits: int = 1) -> str:
    """A difference in points, with a true minus."""
    return f"{points:+.{digits}f}".replace("-", "−")


def joined(*parts: str) -> str:
    """What is not empty, as one line of a figure."""
    return "; ".join(part for part in parts if part)
