"""Pictures of single things: six shapes, hands and a cloth, ray-marched once from distance functions (ours).

A `Sprite` holds what lighting needs (normals, occlusion, which part a pixel belongs to), so that a thing that turns in
the picture is lit again instead of carrying its highlight with it. Only sums, products, square roots, minima and maxima
enter the outline: they are correctly rounded everywhere, which makes the masks the same on every machine. Sphere
tracing as in Hart, "Sphere tracing", 1996.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from vkdlab.data.tabletop.solids import (
    FINGERS,
    PIXELS_PER_UNIT,
    SOLIDS,
    cloth,
    cloth_part,
    hand,
    hand_part,
)

COLOURS = {
    "red": (200, 32, 36),
    "orange": (240, 122, 18),
    "yellow": (245, 206, 40),
    "green": (44, 150, 62),
    "blue": (32, 84, 200),
    "purple": (124, 52, 164),
    "white": (252, 250, 246),
    "black": (40, 40, 46),
}
SKIN_TONES = ((226, 180, 152), (212, 158, 122), (190, 130, 92), (138, 88, 58), (94, 60, 42))
SLEEVES = ((60, 74, 104), (150, 44, 48), (70, 98, 74), (186, 176, 160), (48, 46, 52), (206, 150, 60))

ELEVATION_SIN, ELEVATION_COS = 0.7880, 0.6157  # the camera looks down at 52 degrees
LIGHT = np.array([-0.48, 0.42, 0.77])  # towards the light: right, up in the picture, towards the viewer


MOUTH_HEIGHT = {"cup": 0.78, "bottle": 0.74}  # of the opening above the anchor, in sprite units


@dataclass(frozen=True)
class Sprite:
    """One thing seen from the camera, before it has a colour."""

    outline: np.ndarray
    """bool (h, w): where the thing is."""
    coverage: np.ndarray
    """float32 (h, w), 0..1: the same with soft edges."""
    normals: np.ndarray
    """float32 (h, w, 3): unit vectors right, up, towards the viewer."""
    occlusion: np.ndarray
    """float32 (h, w), 0..1: 1 is open to the sky."""
    parts: np.ndarray
    """uint8 (h, w): which part of the thing a pixel shows."""
    anchor: tuple[float, float]
    """Pixel (x, y) of the point that stands on the table, or of the middle of a hand's grip."""
    gloss: float
    """Strength of the highlight, 0..1."""


@cache
def object_sprite(shape: str) -> Sprite:
    """The sprite of one of `SHAPES`, 100 pixels for a unit; things are about one unit wide."""
    distance, part, gloss = SOLIDS[shape]
    a, b = _pixel_grid(left=-0.8, right=0.8, bottom=-0.55, top=1.05)

    def in_camera(points: np.ndarray) -> np.ndarray:
        right, up, near = points
        return np.stack([right, up * ELEVATION_SIN - near * ELEVATION_COS, up * ELEVATION_COS + near * ELEVATION_SIN])

    return _march(
        lambda p: distance(*in_camera(p)),
        lambda p: part(*in_camera(p)),
        a,
        b,
        near=1.6,
        far=-1.6,
        anchor=(80.0, 105.0),
        gloss=gloss,
    )


@cache
def hand_sprite(pose: str) -> Sprite:
    """A hand with its forearm and sleeve pointing up in the picture; `pose` is "open" or "grip"."""
    fingers = FINGERS[pose]
    a, b = _pixel_grid(left=-0.6, right=0.6, bottom=-3.6, top=0.8)
    return _march(
        lambda p: hand(*p, fingers),
        lambda p: hand_part(*p, fingers),
        a,
        b,
        near=0.6,
        far=-0.5,
        anchor=(60.0, 30.0),
        gloss=0.12,
    )


@cache
def cloth_sprite() -> Sprite:
    """A napkin draped over something: what hides an object."""
    a, b = _pixel_grid(left=-0.8, right=0.8, bottom=-0.6, top=1.0)

    return _march(
        lambda p: cloth(*p), lambda p: cloth_part(*p), a, b, near=0.9, far=-0.6, anchor=(80.0, 100.0), gloss=0.02
    )


def shade(sprite: Sprite, colours: dict[int, tuple[int, int, int]], *, angle: float = 0.0) -> np.ndarray:
    """Lights a sprite that will be shown turned by `angle` radians (counter-clockwise in the picture).

    Returns:
        float32 (h, w, 4): red, green, blue in 0..255 multiplied by coverage, and coverage in 0..1.
    """
    cosine, sine = np.cos(angle), np.sin(angle)
    light = np.array([LIGHT[0] * cosine + LIGHT[1] * sine, LIGHT[1] * cosine - LIGHT[0] * sine, LIGHT[2]], np.float32)
    up = np.array([sine, cosine], np.float32)
    palette = np.zeros((8, 3), np.float32)
    for part, colour in colours.items():
        palette[part] = colour
    albedo = palette[sprite.parts]
    lit = np.clip(sprite.normals @ light, 0, 1)
    sky = 0.5 + 0.5 * (sprite.normals[..., 0] * up[0] + sprite.normals[..., 1] * up[1])
    fill = 0.33 * np.clip(sprite.normals[..., 2:], 0, 1)
    ambient = sprite.occlusion[..., None] * (
        fill + np.array([0.29, 0.26, 0.23], np.float32) + sky[..., None] * np.array([0.11, 0.14, 0.18], np.float32)
    )
    half = light + np.array([0, 0, 1], np.float32)
    half /= np.sqrt((half * half).sum())
    highlight = np.clip(sprite.normals @ half, 0, 1)
    shine = sprite.gloss * (0.75 * highlight**60 + 0.18 * highlight**9)
    rim = 0.10 * (1 - np.clip(sprite.normals[..., 2], 0, 1)) ** 3
    rgb = (
        albedo * (ambient + 0.68 * (lit * (0.55 + 0.45 * sprite.occlusion))[..., None])
        + 255 * (shine + rim * sky)[..., None]
    )
    rgb = np.clip(rgb, 0, 255) * sprite.coverage[..., None]
    return np.dstack([rgb, sprite.coverage]).astype(np.float32)


@cache
def shadow_of(shape: str) -> tuple[np.ndarray, tuple[float, float]]:
    """Soft shadow that a thing standing on the table throws: float32 (h, w) in 0..1 and its anchor pixel."""
    a, b = _pixel_grid(left=-1.0, right=1.4, bottom=-1.2, top=1.0)
    x, y = a[::2, ::2], b[::2, ::2] / ELEVATION_SIN
    world = np.array(
        [
            LIGHT[0],
            LIGHT[1] * ELEVATION_SIN - LIGHT[2] * ELEVATION_COS,
            LIGHT[1] * ELEVATION_COS + LIGHT[2] * ELEVATION_SIN,
        ],
        np.float32,
    )
    distance = SOLIDS[shape][0]
    light = np.ones_like(x)
    travelled = np.full_like(x, 0.03)
    for _ in range(28):
        step = distance(x + world[0] * travelled, y + world[1] * travelled, world[2] * travelled)
        light = np.minimum(light, np.clip(0.5 + 4.5 * step / travelled, 0, 1))
        travelled = travelled + np.clip(step, 0.03, 0.2)
    contact = np.clip(1 - np.clip(distance(x, y, np.full_like(x, 0.02)), 0, 1) / 0.18, 0, 1) ** 2
    dark = np.maximum(1 - light * light * (3 - 2 * light), 0.55 * contact)
    dark = cv2.resize(dark.astype(np.float32), (a.shape[1], a.shape[0]), interpolation=cv2.INTER_LINEAR)
    return cv2.GaussianBlur(dark, (0, 0), 4), (100.0, 100.0)


def _pixel_grid(*, left: float, right: float, bottom: float, top: float) -> tuple[np.ndarray, np.ndarray]:
    xs = left + (np.arange(round((right - left) * PIXELS_PER_UNIT)) + 0.5) / PIXELS_PER_UNIT
    ys = top - (np.arange(round((top - bottom) * PIXELS_PER_UNIT)) + 0.5) / PIXELS_PER_UNIT
    a, b = np.meshgrid(xs, ys)
    return a.astype(np.float32), b.astype(np.float32)


def _march(distance, part, a, b, *, near: float, far: float, anchor, gloss: float) -> Sprite:
    shape = a.shape
    rays = np.stack([a.ravel(), b.ravel(), np.full(a.size, near, np.float32)])
    closest = np.full(a.size, np.inf, np.float32)
    alive = np.arange(a.size)
    hit = np.zeros(a.size, bool)
    for _ in range(56):
        step = distance(rays[:, alive]).astype(np.float32)
        closest[alive] = np.minimum(closest[alive], step)
        landed = step < 0.004
        hit[alive[landed]] = True
        alive, step = alive[~landed], step[~landed]
        rays[2, alive] -= np.float32(0.9) * step
        alive = alive[rays[2, alive] > far]
        if not alive.size:
            break
    hits = np.flatnonzero(hit)
    points = rays[:, hits]
    normals = np.zeros((3, a.size), np.float32)
    gradient = np.zeros_like(points)
    for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        offset = np.array(corner, np.float32)[:, None]
        gradient += offset * distance(points + 0.006 * offset)
    gradient /= np.maximum(np.sqrt((gradient * gradient).sum(0)), 1e-6)
    normals[:, hits] = gradient
    occlusion = np.ones(a.size, np.float32)
    for reach, weight in ((0.04, 0.9), (0.1, 0.6), (0.22, 0.4)):
        occlusion[hits] -= weight * np.clip(0.88 * reach - distance(points + reach * gradient), 0, reach) / reach * 0.6
    parts = np.zeros(a.size, np.uint8)
    parts[hits] = part(points)
    outline = hit.reshape(shape)
    coverage = cv2.GaussianBlur(outline.astype(np.float32), (0, 0), 0.8)
    normals = _spread(normals.T.reshape(*shape, 3), outline)
    return Sprite(
        outline=outline,
        coverage=coverage,
        normals=normals,
        occlusion=np.clip(occlusion, 0.15, 1).reshape(shape),
        parts=_spread(parts.reshape(*shape, 1), outline)[..., 0],
        anchor=anchor,
        gloss=gloss,
    )


def _spread(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Carries values two pixels past the outline, so that soft edges take the thing's own colour."""
    values, known = values.copy(), known.copy()
    for _ in range(2):
        for axis, by in ((0, 1), (0, -1), (1, 1), (1, -1)):
            moved, there = np.roll(values, by, axis), np.roll(known, by, axis)
            take = there & ~known
            values[take] = moved[take]
            known = known | take
    return values
