"""What the figures of this room share: a colour for every sort of network, and for every class of pixels (ours)."""

from __future__ import annotations

import colorsys

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
