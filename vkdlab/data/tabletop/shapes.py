"""Pictures of single things: six shapes, hands and a cloth, ray-marched once from signed distance functions (ours).

A `Sprite` holds what lighting needs (normals, occlusion, which part a pixel belongs to), so that a thing that turns in the
picture is lit again instead of carrying its highlight with it. Only sums, products, square roots, minima and maxima enter the outline:
they are correctly rounded everywhere, which makes the masks the same on every machine. Sphere tracing as in Hart, 1996.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

SHAPES = ("cup", "bowl", "block", "ball", "bottle", "duck")
COLOURS = {
    "red": (200, 32, 36),
    "orange": (240, 122, 18),
    "yellow": (245, 206, 40),
    "green": (44, 150, 62),
    "blue": (32, 84, 200),
    "purple": (124, 52, 164),
    "white": (236, 234, 228),
    "black": (40, 40, 46),
}
SKIN_TONES = ((246, 205, 180), (226, 172, 136), (190, 130, 92), (138, 88, 58), (94, 60, 42))
SLEEVES = ((60, 74, 104), (150, 44, 48), (70, 98, 74), (186, 176, 160), (48, 46, 52), (206, 150, 60))

PIXELS_PER_UNIT = 100
ELEVATION_SIN, ELEVATION_COS = 0.7880, 0.6157  # the camera looks down at 52 degrees
LIGHT = np.array([-0.48, 0.42, 0.77])  # towards the light: right, up in the picture, towards the viewer
PRIMARY, PALE, DARK, BEAK, SKIN, SLEEVE, INSIDE, NAIL = range(8)


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
    distance, part, gloss = _SOLIDS[shape]
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
    fingers = _FINGERS[pose]
    a, b = _pixel_grid(left=-0.6, right=0.6, bottom=-3.6, top=0.8)
    return _march(
        lambda p: _hand(*p, fingers),
        lambda p: _hand_part(*p, fingers),
        a,
        b,
        near=0.6,
        far=-0.5,
        anchor=(60.0, 46.0),
        gloss=0.12,
    )


@cache
def cloth_sprite() -> Sprite:
    """A napkin draped over something: what hides an object."""
    a, b = _pixel_grid(left=-0.8, right=0.8, bottom=-0.6, top=1.0)

    def distance(x, y, z):
        y = y - 0.2
        fold = 0.03 * _triangle(x * 3.1 + y * 1.3) + 0.022 * _triangle(y * 4.3 - x * 2.2)
        edge = np.maximum(np.abs(x * 0.96 + y * 0.28), np.abs(y * 0.96 - x * 0.28)) - 0.58 - fold * 0.8
        dome = z - (0.5 - 0.9 * (x * x + y * y)) - fold
        return np.maximum(np.maximum(edge, dome * 0.6), -z - 0.4)

    def part(x, y, z):
        y = y - 0.2
        u, v = x * 0.96 + y * 0.28, y * 0.96 - x * 0.28
        stripe = (np.abs(np.abs(u) - 0.46) < 0.035) | (np.abs(np.abs(v) - 0.46) < 0.035)
        return np.where(stripe, PALE, PRIMARY)

    return _march(
        lambda p: distance(*p), lambda p: part(*p), a, b, near=0.9, far=-0.6, anchor=(80.0, 100.0), gloss=0.02
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
    ambient = sprite.occlusion[..., None] * (
        np.array([0.30, 0.27, 0.24], np.float32) + sky[..., None] * np.array([0.10, 0.13, 0.17], np.float32)
    )
    half = light + np.array([0, 0, 1], np.float32)
    half /= np.sqrt((half * half).sum())
    highlight = np.clip(sprite.normals @ half, 0, 1)
    shine = sprite.gloss * (0.75 * highlight**60 + 0.18 * highlight**9)
    rim = 0.10 * (1 - np.clip(sprite.normals[..., 2], 0, 1)) ** 3
    rgb = (
        albedo * (ambient + 0.78 * (lit * (0.55 + 0.45 * sprite.occlusion))[..., None])
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
    distance = _SOLIDS[shape][0]
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
        occlusion[hits] -= weight * np.clip(reach - distance(points + reach * gradient), 0, reach) / reach * 0.6
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


def _length(*parts: np.ndarray) -> np.ndarray:
    total = parts[0] * parts[0]
    for part in parts[1:]:
        total = total + part * part
    return np.sqrt(total)


def _blend(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    mix = np.maximum(width - np.abs(a - b), 0) / width
    return np.minimum(a, b) - mix * mix * (width * 0.25)


def _triangle(x: np.ndarray) -> np.ndarray:
    phase = np.abs(x - np.floor(x) - 0.5) * 4 - 1
    return phase * (1.5 - 0.5 * phase * phase)


def _capsule(x, y, z, start, end, start_radius: float, end_radius: float) -> np.ndarray:
    dx, dy, dz = end[0] - start[0], end[1] - start[1], end[2] - start[2]
    along = ((x - start[0]) * dx + (y - start[1]) * dy + (z - start[2]) * dz) / (dx * dx + dy * dy + dz * dz)
    along = np.minimum(np.maximum(along, 0), 1)
    return _length(x - start[0] - dx * along, y - start[1] - dy * along, z - start[2] - dz * along) - (
        start_radius + (end_radius - start_radius) * along
    )


def _ellipsoid(x, y, z, centre, radii) -> np.ndarray:
    x, y, z = x - centre[0], y - centre[1], z - centre[2]
    inner = _length(x / radii[0], y / radii[1], z / radii[2])
    outer = _length(x / radii[0] ** 2, y / radii[1] ** 2, z / radii[2] ** 2)
    return inner * (inner - 1) / np.maximum(outer, 1e-6)


def _disc(radius, z, *, at: float, bottom: float, top: float, rounding: float) -> np.ndarray:
    across, along = radius - at + rounding, np.abs(z - (bottom + top) / 2) - (top - bottom) / 2 + rounding
    return np.minimum(np.maximum(across, along), 0) + _length(np.maximum(across, 0), np.maximum(along, 0)) - rounding


def _cup(x, y, z):
    radius = _length(x, y)
    wall = _disc(radius - 0.07 * z, z, at=0.33, bottom=0, top=0.82, rounding=0.05)
    hollow = _disc(radius - 0.07 * z, z, at=0.275, bottom=0.08, top=1.2, rounding=0.04)
    hx, hy = x * 0.82 - y * 0.57, x * 0.57 + y * 0.82
    ring = _length(_length(hx - 0.41, z - 0.44) - 0.2, hy) - 0.052
    return np.maximum(_blend(wall, ring, 0.05), -hollow) * 0.9


def _cup_part(x, y, z):
    radius = _length(x, y) - 0.07 * z
    return np.where((z > 0.74) & (radius < 0.35), PALE, np.where((radius < 0.3) & (z > 0.05), INSIDE, PRIMARY))


def _bowl(x, y, z):
    radius = _length(x, y)
    shell = np.abs(_length(radius, z - 0.62) - 0.47) - 0.032
    foot = _disc(radius, z, at=0.24, bottom=0, top=0.2, rounding=0.02)
    return np.minimum(np.maximum(shell, z - 0.62), foot) * 0.9


def _bowl_part(x, y, z):
    radius = _length(x, y)
    inside = _length(radius, z - 0.62) < 0.47
    band = (z > 0.4) & (z < 0.48) & ~inside
    return np.where((z > 0.59) | band, PALE, np.where(inside & (z > 0.1), INSIDE, PRIMARY))


def _turned(x, y):
    return x * 0.866 + y * 0.5, y * 0.866 - x * 0.5


def _block(x, y, z):
    u, v = _turned(x, y)
    du, dv, dz = np.abs(u) - 0.3, np.abs(v) - 0.3, np.abs(z - 0.36) - 0.3
    outside = _length(np.maximum(du, 0), np.maximum(dv, 0), np.maximum(dz, 0))
    return outside + np.minimum(np.maximum(np.maximum(du, dv), dz), 0) - 0.06


def _block_part(x, y, z):
    u, v = _turned(x, y)
    w = z - 0.36
    pips = np.zeros(x.shape, bool)
    top, side, front = w > 0.33, v < -0.33, u < -0.33
    for du, dv in ((-0.17, -0.17), (0, 0), (0.17, 0.17), (-0.17, 0.17), (0.17, -0.17)):
        pips |= top & (_length(u - du, v - dv) < 0.062)
    for du, dw in ((-0.15, 0.15), (0, 0), (0.15, -0.15)):
        pips |= side & (_length(u - du, w - dw) < 0.065)
    for dv, dw in ((-0.14, -0.14), (0.14, 0.14)):
        pips |= front & (_length(v - dv, w - dw) < 0.065)
    return np.where(pips, PALE, PRIMARY)


def _ball(x, y, z):
    return _length(x, y, z - 0.42) - 0.42


def _ball_part(x, y, z):
    across = 0.55 * x - 0.35 * y + 0.75 * (z - 0.42)
    return np.where(np.abs(across) < 0.07, PALE, np.where(np.abs(np.abs(across) - 0.1) < 0.02, DARK, PRIMARY))


def _bottle(x, y, z):
    radius = _length(x, y)
    body = _disc(radius, z, at=0.27, bottom=0, top=0.72, rounding=0.07)
    neck = _disc(radius, z, at=0.09, bottom=0.5, top=1.12, rounding=0.02)
    cap = _disc(radius, z, at=0.115, bottom=1.05, top=1.22, rounding=0.03)
    return np.minimum(_blend(body, neck, 0.3), cap) * 0.95


def _bottle_part(x, y, z):
    return np.where(z > 1.045, DARK, np.where((z > 0.22) & (z < 0.52), PALE, PRIMARY))


def _duck(x, y, z):
    body = _ellipsoid(x - 0.06, y, z, (0, 0, 0.3), (0.46, 0.33, 0.3))
    tail = _capsule(x, y, z, (0.38, 0, 0.36), (0.55, 0, 0.56), 0.13, 0.04)
    head = _length(x + 0.2, y + 0.04, z - 0.72) - 0.235
    wing = _ellipsoid(x, y, z, (0.12, -0.29, 0.36), (0.23, 0.09, 0.14))
    bill = _ellipsoid(x, y, z, (-0.45, -0.1, 0.68), (0.13, 0.1, 0.05))
    eye = _length(x + 0.29, y + 0.22, z - 0.82) - 0.045
    solid = _blend(_blend(_blend(body, tail, 0.12), head, 0.1), wing, 0.03)
    return np.minimum(np.minimum(solid, bill), eye) * 0.85


def _duck_part(x, y, z):
    bill = _ellipsoid(x, y, z, (-0.45, -0.1, 0.68), (0.13, 0.1, 0.05)) < 0.012
    eye = _length(x + 0.29, y + 0.22, z - 0.82) < 0.055
    return np.where(eye, DARK, np.where(bill, BEAK, PRIMARY))


_SOLIDS = {
    "cup": (_cup, _cup_part, 0.8),
    "bowl": (_bowl, _bowl_part, 0.6),
    "block": (_block, _block_part, 0.15),
    "ball": (_ball, _ball_part, 0.9),
    "bottle": (_bottle, _bottle_part, 1.0),
    "duck": (_duck, _duck_part, 0.55),
}

# Knuckle, middle joint and tip of each finger, then the thumb; right, towards the tips, towards the viewer.
_FINGERS = {
    "open": (
        ((-0.15, 0.02, 0.02), (-0.2, 0.24, 0.07), (-0.23, 0.4, 0.0), 0.062),
        ((-0.055, 0.06, 0.03), (-0.075, 0.33, 0.09), (-0.085, 0.53, 0.0), 0.066),
        ((0.045, 0.06, 0.03), (0.05, 0.34, 0.09), (0.055, 0.56, 0.0), 0.066),
        ((0.14, 0.03, 0.02), (0.17, 0.28, 0.08), (0.19, 0.47, 0.0), 0.063),
        ((0.16, -0.18, 0.0), (0.3, -0.02, 0.04), (0.37, 0.14, 0.02), 0.068),
    ),
    "grip": (
        ((-0.15, 0.02, 0.02), (-0.29, 0.2, 0.1), (-0.25, 0.36, 0.02), 0.062),
        ((-0.06, 0.06, 0.04), (-0.21, 0.3, 0.14), (-0.15, 0.48, 0.05), 0.066),
        ((0.04, 0.06, 0.04), (-0.08, 0.36, 0.17), (-0.03, 0.53, 0.08), 0.066),
        ((0.13, 0.03, 0.03), (0.06, 0.33, 0.15), (0.1, 0.49, 0.06), 0.064),
        ((0.16, -0.16, 0.0), (0.31, 0.06, 0.08), (0.25, 0.24, 0.05), 0.07),
    ),
}


def _flesh(x, y, z, fingers):
    bx, by, bz = np.abs(x) - 0.14, np.abs(y + 0.13) - 0.15, np.abs(z) - 0.02
    palm = (
        _length(np.maximum(bx, 0), np.maximum(by, 0), np.maximum(bz, 0))
        + np.minimum(np.maximum(np.maximum(bx, by), bz), 0)
        - 0.06
    )
    flesh = _blend(palm, _capsule(x, y, z, (0, -0.3, 0), (0, -0.75, 0), 0.115, 0.125), 0.12)
    for knuckle, joint, tip, radius in fingers:
        finger = np.minimum(
            _capsule(x, y, z, knuckle, joint, radius * 1.08, radius),
            _capsule(x, y, z, joint, tip, radius, radius * 0.82),
        )
        flesh = _blend(flesh, finger, 0.035)
    return flesh


def _cloth_arm(x, y, z):
    wrinkle = 0.014 * _triangle(y * 2.3 + x * 1.1) + 0.008 * _triangle(y * 5.1 - x * 2.7)
    sleeve = _capsule(x, y, z, (0, -0.72, 0), (0, -4.2, 0), 0.165, 0.3) + wrinkle
    cuff = np.maximum(_capsule(x, y, z, (0, -0.62, 0), (0, -0.76, 0), 0.17, 0.18), np.abs(y + 0.69) - 0.075)
    return np.minimum(np.maximum(sleeve, y + 0.7), cuff) * 0.85


def _hand(x, y, z, fingers):
    return np.minimum(_flesh(x, y, z, fingers), _cloth_arm(x, y, z))


def _hand_part(x, y, z, fingers):
    sleeve = _cloth_arm(x, y, z) < _flesh(x, y, z, fingers)
    cuff = sleeve & (y > -0.78)
    nail = np.zeros(x.shape, bool)
    for _, joint, tip, radius in fingers:
        ax, ay = tip[0] - joint[0], tip[1] - joint[1]
        size = (ax * ax + ay * ay) ** 0.5
        nail |= (_length(x - tip[0] - 0.01 * ax / size, y - tip[1] - 0.01 * ay / size) < radius * 0.55) & (
            z > tip[2] + radius * 0.3
        )
    return np.where(cuff, PALE, np.where(sleeve, SLEEVE, np.where(nail, NAIL, SKIN)))
