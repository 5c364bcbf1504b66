"""Multiply-accumulates of a delta network: in closed form for every layer, counted for the rest (ours).

    average of T frames = (key + (T - 1) delta) / T

The form that is trained and the one that runs differ: deployed, a small student has a narrow map to remember of a key
frame and less to subtract afterwards, and a full student that is still its teacher nothing of both.

An element-wise subtraction or addition counts as one multiply-accumulate per element. Published counts leave these out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one layer for one frame; of all its calls where it is called more than once."""

    teacher: int
    """The layer of the network that was converted."""
    key: int
    """On a key frame: the teacher, and what is computed to be remembered."""
    full: int
    """On any other frame with the full student, subtraction and addition included."""
    small: int
    """On any other frame with the compressed student, subtraction and addition included."""
    narrow: int = 0
    """On a key frame, on top, with the compressed student: what it remembers where it is not yet known which runs."""

    def __add__(self, other: Macs) -> Macs:
        return Macs(
            teacher=self.teacher + other.teacher,
            key=self.key + other.key,
            full=self.full + other.full,
            small=self.small + other.small,
            narrow=self.narrow + other.narrow,
        )


@dataclass(frozen=True)
class Costs:
    """Multiply-accumulates of a whole network for one frame of a given size."""

    dense: int
    """What is computed alike on every frame: layers that were not converted."""
    layers: Mapping[str, Macs]
    """Every delta layer, by name."""

    @property
    def teacher(self) -> int:
        """One frame of the network that was converted."""
        return self.dense + sum(macs.teacher for macs in self.layers.values())

    @property
    def key(self) -> int:
        """One key frame, without what is counted as `Macs.narrow`."""
        return self.dense + sum(macs.key for macs in self.layers.values())

    def delta(self, full: Collection[str]) -> int:
        """One frame after a key frame, when the layers named in `full` run their full student."""
        return self.dense + sum(macs.full if name in full else macs.small for name, macs in self.layers.items())

    def per_frame(self, period: int, full: Collection[str]) -> float:
        """The average over a key frame and the `period - 1` frames after it."""
        narrow = sum(macs.narrow for name, macs in self.layers.items() if name not in full)
        return (self.key + narrow + (period - 1) * self.delta(full)) / period
