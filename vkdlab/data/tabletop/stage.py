"""What stands on the table and how it is seen: configurations, objects, tracks, affine maps into the picture (ours).

Lengths are in picture heights: the stage is 4/3 wide and 1 high, x to the right and y down the picture (which is
towards the viewer on the table); z is height above the table, drawn as a shift up the picture.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np

from vkdlab.data.tabletop.solids import PIXELS_PER_UNIT, SHAPES

VERSION = 1
"""Grows whenever labels or pictures of the world change; part of every folder's name."""

SIZES = {"small": 0.21, "medium": 0.27, "large": 0.34}
SEMANTICS = ("table", *SHAPES, "hand", "cloth")
"""Semantic classes; the index is the class number."""
MATERIALS = {
    "cup": "china",
    "bowl": "metal",
    "block": "wood",
    "ball": "rubber",
    "bottle": "glass",
    "duck": "squeaky rubber",
}
STAGE_WIDTH = 4 / 3
HAND_SCALE = 0.36
GRIP_HEIGHT = 0.24


@dataclass(frozen=True)
class WorldConfig:
    """One size of the world. Two configurations that differ in anything make different folders."""

    profile: str
    """Name of the size."""
    videos: dict[str, int] = field(default_factory=dict)
    """Number of videos per split."""
    width: int = 160
    """Picture width, pixels."""
    height: int = 120
    """Picture height, pixels; three quarters of the width."""
    duration_s: tuple[float, float] = (10.0, 30.0)
    """Shortest and longest video, seconds."""
    duration_bend: float = 2.33
    """Exponent on a uniform draw between the two durations; larger means more short videos."""
    fps: float = 12.5
    """Frames per second."""
    seed: int = 20
    """Seed of everything random."""
    difficulty: float = 0.5
    """0..1: camera sway, sensor noise, lighting drift, idle hands and bystanders grow with it."""
    version: int = VERSION
    """Version of the world's code."""

    def __post_init__(self):
        if self.width * 3 != self.height * 4:
            raise ValueError(f"the picture must be 4:3, was given width={self.width} and height={self.height}")
        if not 0 <= self.difficulty <= 1:
            raise ValueError(f"difficulty must lie in 0..1, was given {self.difficulty}")
        if not 5 <= self.duration_s[0] <= self.duration_s[1]:
            raise ValueError(f"duration_s must be (shortest, longest) with at least 5 s, was given {self.duration_s}")


PROFILES = {
    "smoke": WorldConfig(
        "smoke", {"train": 10, "val": 3, "test": 3}, width=96, height=72, duration_s=(6.0, 8.0), duration_bend=1.0
    ),
    "demo": WorldConfig("demo", {"train": 180, "val": 30, "test": 30}),
    "full": WorldConfig("full", {"train": 1600, "val": 200, "test": 200}, width=320, height=240),
}


def config_of(profile: str, *, seed: int | None = None) -> WorldConfig:
    """The configuration of a profile.

    Raises:
        ValueError: there is no such profile; the message lists them.
    """
    if profile not in PROFILES:
        raise ValueError(f"tabletop has no profile {profile!r}: choose one of {', '.join(PROFILES)}")
    base = PROFILES[profile]
    return base if seed is None else WorldConfig(**{**vars(base), "seed": int(seed)})


def generator(config: WorldConfig, split: str, index: int, purpose: str) -> np.random.Generator:
    """A generator that depends on nothing but its arguments, so that videos can be made in any order."""
    text = f"tabletop/{config.version}/{config.seed}/{config.profile}/{split}/{index}/{purpose}"
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")))


def video_id(config: WorldConfig, split: str, index: int) -> str:
    """The name of a video: profile, split, number."""
    return f"{config.profile}-{split}-{index:04d}"


@dataclass(frozen=True)
class Object:
    """One thing on the table."""

    id: int
    """Instance number in the masks, from 1."""
    shape: str
    """One of the six shapes."""
    colour: str
    """One of the eight colours."""
    size: str
    """small, medium or large, before anything grows or shrinks."""

    @property
    def extent(self) -> float:
        """Width of the thing in picture heights, at the middle of the table."""
        return SIZES[self.size]


@dataclass(frozen=True)
class Event:
    """One thing that happens to one object."""

    id: int
    """Number within the video, by start."""
    verb: str
    """One of the sixteen verbs."""
    object: int
    """Instance number of the object it happens to."""
    other: int | None
    """The second object of collide and pour-into."""
    start_frame: int
    """First frame of the motion."""
    end_frame: int
    """First frame after which nothing moves any more."""
    hand: bool
    """Whether a hand does it."""
    also: tuple[str, ...] = ()
    """Verbs that a viewer could fairly use for it as well; no query counts on telling them apart."""


@dataclass
class Track:
    """Where one thing is in each frame."""

    frames: int
    """Number of frames."""
    extent: float
    """Width in picture heights."""

    def __post_init__(self):
        self.x = np.zeros(self.frames)
        self.y = np.zeros(self.frames)
        self.z = np.zeros(self.frames)
        self.scale = np.ones(self.frames)
        self.angle = np.zeros(self.frames)
        self.present = np.zeros(self.frames, bool)
        self.pose = np.zeros(self.frames, np.uint8)

    def hold(self, start: int, **values: float) -> None:
        """Sets values from a frame on to the end."""
        for name, value in values.items():
            getattr(self, name)[max(0, start) :] = value

    def grip(self, frame: int) -> tuple[float, float]:
        """Where a hand takes hold of the thing, x and y in the picture."""
        reach = GRIP_HEIGHT * self.extent * self.scale[frame] * nearness(self.y[frame])
        return self.x[frame], self.y[frame] - self.z[frame] - reach


@dataclass(frozen=True)
class Layer:
    """One instance: what is drawn, in which colours, and where it is."""

    kind: str
    """A shape, "hand" or "cloth"."""
    colours: dict[int, tuple[int, int, int]]
    """Colour of each part, red, green, blue."""
    track: Track
    """Where it is."""
    pivot: float = 0.0
    """Height above the anchor, in units of the thing, of the point it turns about."""


def nearness(y: float) -> float:
    """Perspective: how much larger a thing looks at this height of the picture."""
    return 0.80 + 0.40 * (min(max(y, 0.2), 1.2) - 0.3) / 0.65


def layer_affine(layer: Layer, sprite_anchor: tuple[float, float], frame: int) -> tuple[float, ...]:
    """Sprite pixels to stage: (a, b, c, d, e, f) of x' = a x + b y + c, y' = d x + e y + f."""
    track = layer.track
    k = track.extent * track.scale[frame] * nearness(track.y[frame]) / PIXELS_PER_UNIT
    cosine, sine = math.cos(track.angle[frame]), math.sin(track.angle[frame])
    lift = layer.pivot * PIXELS_PER_UNIT
    px, py = sprite_anchor[0], sprite_anchor[1] - lift
    x, y = track.x[frame], track.y[frame] - track.z[frame] - lift * k
    return (
        k * cosine,
        k * sine,
        x - k * (cosine * px + sine * py),
        -k * sine,
        k * cosine,
        y - k * (-sine * px + cosine * py),
    )


def camera_path(rng: np.random.Generator, config: WorldConfig, frames: int) -> np.ndarray:
    """Stage to picture in each frame: float64 (t, 2, 3), pixels. A hand-held sway on a slow pan."""
    time = np.arange(frames) / config.fps
    strength = 0.3 + 1.4 * config.difficulty

    def wander(amount: float) -> np.ndarray:
        total = np.zeros(frames)
        for period, share in ((11.0, 1.0), (4.3, 0.45), (1.7, 0.12)):
            total += share * np.sin(2 * np.pi * (time / (period * (0.8 + 0.4 * rng.random())) + rng.random()))
        return amount * strength * total

    dx, dy, turn, zoom = wander(0.016), wander(0.013), wander(0.009), 1.0 + wander(0.009)
    path = np.empty((frames, 2, 3))
    path[:, 0, 0] = path[:, 1, 1] = config.height * zoom * np.cos(turn)
    path[:, 0, 1] = config.height * zoom * np.sin(turn)
    path[:, 1, 0] = -path[:, 0, 1]
    middle = (STAGE_WIDTH / 2, 0.5)
    for axis, offset in ((0, dx), (1, dy)):
        centre = (config.width, config.height)[axis] / 2 + offset * config.height
        path[:, axis, 2] = centre - path[:, axis, 0] * middle[0] - path[:, axis, 1] * middle[1]
    return np.round(path, 5)


def compose(camera: np.ndarray, affine: tuple[float, ...]) -> np.ndarray:
    """Sprite to picture, float64 (2, 3), rounded so that it is the same on every machine."""
    a, b, c, d, e, f = affine
    out = np.empty((2, 3))
    for row in range(2):
        m, n, o = (float(value) for value in camera[row])
        out[row] = m * a + n * d, m * b + n * e, m * c + n * f + o
    return np.round(out, 5)
