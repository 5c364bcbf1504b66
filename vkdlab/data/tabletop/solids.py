"""Signed distances to the six shapes, the hand and the cloth, and which part of them a point belongs to (ours).

Coordinates are right, away (for a hand: towards the finger tips) and up, in units of a thing's width; any array shape.
Formulas of single solids as collected by Quilez, "Distance functions".
"""

from __future__ import annotations

import numpy as np

PRIMARY, PALE, DARK, BEAK, SKIN, SLEEVE, INSIDE, NAIL = range(8)


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


SOLIDS = {
    "cup": (_cup, _cup_part, 0.8),
    "bowl": (_bowl, _bowl_part, 0.6),
    "block": (_block, _block_part, 0.15),
    "ball": (_ball, _ball_part, 0.9),
    "bottle": (_bottle, _bottle_part, 1.0),
    "duck": (_duck, _duck_part, 0.55),
}
SHAPES = tuple(SOLIDS)
PIXELS_PER_UNIT = 100

# Knuckle, middle joint and tip of each finger, then the thumb; right, towards the tips, towards the viewer.
FINGERS = {
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


def hand(x, y, z, fingers):
    """Distance to a hand with its sleeve, the arm pointing down the picture."""
    return np.minimum(_flesh(x, y, z, fingers), _cloth_arm(x, y, z))


def hand_part(x, y, z, fingers):
    """Which part of a hand a point belongs to."""
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


def cloth(x, y, z):
    """Distance to a napkin draped over something."""
    y = y - 0.2
    fold = 0.03 * _triangle(x * 3.1 + y * 1.3) + 0.022 * _triangle(y * 4.3 - x * 2.2)
    edge = np.maximum(np.abs(x * 0.96 + y * 0.28), np.abs(y * 0.96 - x * 0.28)) - 0.58 - fold * 0.8
    dome = z - (0.5 - 0.9 * (x * x + y * y)) - fold
    return np.maximum(np.maximum(edge, dome * 0.6), -z - 0.4)


def cloth_part(x, y, z):
    """Which part of the napkin a point belongs to."""
    y = y - 0.2
    u, v = x * 0.96 + y * 0.28, y * 0.96 - x * 0.28
    stripe = (np.abs(np.abs(u) - 0.46) < 0.035) | (np.abs(np.abs(v) - 0.46) < 0.035)
    return np.where(stripe, PALE, PRIMARY)
