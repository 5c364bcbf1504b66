"""The verbs of the world, how long they take, and which of them a hand does (ours)."""

from __future__ import annotations

SECONDS = {
    "slide left": (1.2, 2.8),
    "slide right": (1.2, 2.8),
    "slide up": (1.2, 2.8),
    "slide down": (1.2, 2.8),
    "lift": (1.0, 2.2),
    "drop": (1.0, 1.4),
    "spin": (1.2, 3.0),
    "grow": (1.2, 3.0),
    "shrink": (1.2, 3.0),
    "hide": (1.2, 2.4),
    "reveal": (1.2, 2.4),
    "collide": (1.4, 2.4),
    "shake": (1.2, 3.0),
    "pour-into": (2.6, 4.4),
    "pick-up": (1.2, 2.4),
    "put-down": (1.2, 2.4),
}
"""Shortest and longest event of each verb, seconds."""
VERBS = tuple(SECONDS)
DIRECTIONS = {"slide left": (-1, 0), "slide right": (1, 0), "slide up": (0, -1), "slide down": (0, 1)}
NEEDS_HAND = ("lift", "drop", "hide", "reveal", "pour-into", "pick-up", "put-down")
MAY_HAVE_HAND = ("slide left", "slide right", "slide up", "slide down", "shake")
WEIGHT = {
    "slide left": 2.4,
    "slide right": 2.4,
    "slide up": 2.4,
    "slide down": 2.4,
    "drop": 6.0,
    "pour-into": 6.0,
    "reveal": 2.2,
    "put-down": 1.8,
    "collide": 2.0,
    "spin": 0.6,
    "shake": 0.7,
    "lift": 0.9,
}
"""How readily a verb is chosen, default 1: evens out how often each happens, as some rarely find room or an object."""
