"""Table tops: wood, checked cloth, marble, slate and cork, with small things lying on them (ours)."""

from __future__ import annotations

import math

import cv2
import numpy as np

TEXTURES = ("wood", "gingham", "marble", "slate", "cork", "planks")


def table_top(rng: np.random.Generator, *, width: int, height: int, unit: float, decorations: int) -> np.ndarray:
    """A table top, float32 (height, width, 3) in 0..255; `unit` is the number of pixels in a picture height."""
    kind = TEXTURES[int(rng.integers(len(TEXTURES)))]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / unit
    top = _MAKERS[kind](rng, x, y)
    for _ in range(decorations):
        _DECORATIONS[int(rng.integers(len(_DECORATIONS)))](rng, top, unit)
    return np.clip(top, 0, 255).astype(np.float32)


def noise(
    rng: np.random.Generator, shape: tuple[int, int], *, cells: tuple[float, float], octaves: int = 4
) -> np.ndarray:
    """Smooth noise around 0, float32; `cells` is the number of grains down and across of the coarsest octave."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        rows, columns = (max(2, round(c * 2**octave)) + 3 for c in cells)
        if rows > shape[0] or columns > 2 * shape[1]:
            break
        grid = rng.random((rows, columns), dtype=np.float32) - 0.5
        total += cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total


def _mix(a, b, share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)[..., None]
    return np.array(a, np.float32) * (1 - share) + np.array(b, np.float32) * share


def _grain(rng, x, y):
    warp = noise(rng, x.shape, cells=(3, 1.4), octaves=3)
    rings = 0.5 + 0.5 * np.sin((y * 26 + warp * 9.0) * (1 + 0.15 * np.sin(x)))
    fibre = noise(rng, x.shape, cells=(90, 4), octaves=2)
    return 0.62 * rings**1.5 + 0.55 * fibre + 0.25 * warp + 0.15


def _wood(rng, x, y):
    light, dark = (((206, 160, 106), (146, 96, 54)), ((168, 114, 72), (98, 60, 36)), ((222, 190, 146), (178, 138, 92)))[
        int(rng.integers(3))
    ]
    return _mix(light, dark, _grain(rng, x, y))


def _planks(rng, x, y):
    light, dark = (((190, 150, 104), (122, 84, 52)), ((172, 160, 144), (112, 100, 88)), ((140, 92, 62), (84, 52, 34)))[
        int(rng.integers(3))
    ]
    width = 0.2 + 0.1 * rng.random()
    row = np.floor(y / width).astype(int)
    tone = rng.random(int(row.max()) + 1).astype(np.float32)[row]
    shift = rng.random(int(row.max()) + 1).astype(np.float32)[row]
    top = _mix(light, dark, 0.65 * _grain(rng, x + 3 * shift, y + shift) + 0.5 * (tone - 0.3))
    seam = np.abs(y / width - np.round(y / width)) * width
    joint = np.abs((x + 2 * shift) / 0.9 - np.round((x + 2 * shift) / 0.9)) * 0.9
    return top * (1 - 0.55 * np.exp(-((np.minimum(seam, joint) / 0.006) ** 2)))[..., None]


def _gingham(rng, x, y):
    colour = ((196, 62, 58), (70, 104, 160), (88, 136, 96), (206, 156, 70))[int(rng.integers(4))]
    turn, pitch = (rng.random() - 0.5) * 0.9, 0.13 + 0.07 * rng.random()
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    folds = noise(rng, x.shape, cells=(3, 3), octaves=3)
    u, v = u + 0.05 * folds, v + 0.04 * folds
    across, down = (np.clip(0.5 + 7 * np.sin(2 * np.pi * w / pitch), 0, 1) for w in (u, v))
    weave = 0.06 * (np.sin(u * 420) * np.sin(v * 420)) + 0.08 * noise(rng, x.shape, cells=(70, 90), octaves=1)
    top = _mix((234, 228, 214), colour, 0.42 * (across + down))
    return top * (0.84 + weave + 0.32 * folds)[..., None]


def _marble(rng, x, y):
    base, vein = (
        ((226, 222, 214), (128, 124, 126)),
        ((96, 112, 108), (190, 200, 192)),
        ((222, 200, 182), (150, 108, 88)),
    )[int(rng.integers(3))]
    swirl = noise(rng, x.shape, cells=(3, 4), octaves=5)
    thin = np.exp(-np.abs(np.sin(5 * x + 3 * y + 7 * swirl)) * 9)
    wide = np.exp(-np.abs(np.sin(2 * x - 4 * y + 6 * noise(rng, x.shape, cells=(2, 3), octaves=5))) * 4)
    return _mix(base, vein, 0.6 * thin + 0.3 * wide) * (0.97 + 0.14 * swirl)[..., None]


def _slate(rng, x, y):
    colour = ((104, 112, 122), (122, 108, 100), (88, 104, 98))[int(rng.integers(3))]
    rough = noise(rng, x.shape, cells=(5, 7), octaves=6)
    relief = np.gradient(noise(rng, x.shape, cells=(16, 22), octaves=4))[0]
    return np.array(colour, np.float32) * (1 + 0.36 * rough + np.clip(7 * relief, -0.3, 0.3))[..., None]


def _cork(rng, x, y):
    fine, blobs = noise(rng, x.shape, cells=(70, 90), octaves=2), noise(rng, x.shape, cells=(28, 36), octaves=2)
    top = _mix((204, 160, 112), (150, 104, 66), 0.5 + 0.9 * fine)
    return _mix((0, 0, 0), (1, 1, 1), 1 - 0.5 * np.clip(blobs * 3 - 0.8, 0, 1)) * top


_MAKERS = {"wood": _wood, "gingham": _gingham, "marble": _marble, "slate": _slate, "cork": _cork, "planks": _planks}


def _spot(rng, top, unit):
    return (0.15 + 0.7 * rng.random()) * top.shape[1], (0.2 + 0.65 * rng.random()) * top.shape[0], unit


def _paste(top, draw, colour, *, lift: float) -> None:
    """Draws a flat thing with `draw(mask)` and the shadow it throws."""
    mask = np.zeros(top.shape[:2], np.float32)
    draw(mask)
    mask = cv2.GaussianBlur(mask, (0, 0), 0.7)
    shadow = cv2.GaussianBlur(np.roll(mask, (round(lift), round(1.5 * lift)), (0, 1)), (0, 0), 0.6 + lift)
    top *= (1 - 0.45 * shadow * (1 - mask))[..., None]
    top *= (1 - mask)[..., None]
    top += mask[..., None] * colour


def _coin(rng, top, unit):
    x, y, _ = _spot(rng, top, unit)
    radius, metal = 0.028 * unit, ((206, 170, 96), (190, 190, 194), (176, 112, 72))[int(rng.integers(3))]
    centre = (round(x * 16), round(y * 16))
    axes = (round(radius * 16), round(radius * 12.6))
    for share, tone in ((1.0, 0.85), (0.8, 1.08), (0.68, 0.94)):
        size = tuple(round(a * share) for a in axes)
        draw = lambda m, size=size: cv2.ellipse(m, (*centre,), size, 0, 0, 360, 1.0, -1, cv2.LINE_8, 4)  # noqa: E731
        _paste(top, draw, np.array(metal, np.float32) * tone, lift=0.012 * unit if share == 1 else 0.0)


def _leaf(rng, top, unit):
    x, y, _ = _spot(rng, top, unit)
    turn, length = 2 * math.pi * rng.random(), (0.07 + 0.05 * rng.random()) * unit
    colour = np.array(((112, 142, 62), (186, 112, 44), (150, 60, 40), (170, 150, 60))[int(rng.integers(4))], np.float32)
    s = np.linspace(-1, 1, 25)
    side = 0.38 * (1 - s**2) * (1 - 0.35 * s)
    line = np.concatenate([np.stack([s, side], 1), np.stack([s[::-1], -side[::-1]], 1)]) * length
    spin = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    points = (line @ spin.T) * (1, 0.79) + (x, y)
    stem = (np.array([[-1.4, 0], [0.9, 0]]) * length @ spin.T) * (1, 0.79) + (x, y)
    _paste(
        top,
        lambda m: cv2.fillPoly(m, [np.round(points * 16).astype(np.int32)], 1.0, cv2.LINE_8, 4),
        colour,
        lift=0.014 * unit,
    )
    _paste(
        top,
        lambda m: cv2.polylines(
            m, [np.round(stem * 16).astype(np.int32)], False, 1.0, max(1, round(unit / 110)), cv2.LINE_8, 4
        ),
        colour * 0.72,
        lift=0,
    )


def _pencil(rng, top, unit):
    x, y, _ = _spot(rng, top, unit)
    turn, half = math.pi * (rng.random() - 0.5), 0.13 * unit
    dx, dy = math.cos(turn) * half, math.sin(turn) * half * 0.79
    body = np.array(((214, 160, 40), (60, 120, 90), (170, 50, 56))[int(rng.integers(3))], np.float32)
    thick = max(2, round(0.022 * unit))

    def bar(start: float, end: float, width: int):
        ends = np.round(np.array([[x + dx * start, y + dy * start], [x + dx * end, y + dy * end]]) * 16).astype(
            np.int32
        )
        return lambda m: cv2.polylines(m, [ends], False, 1.0, width, cv2.LINE_8, 4)

    _paste(top, bar(-1, 0.86, thick), body, lift=0.012 * unit)
    _paste(top, bar(0.84, 0.95, max(1, thick - 1)), np.array((226, 190, 146), np.float32), lift=0)
    _paste(top, bar(0.96, 1.02, max(1, thick // 2)), np.array((50, 46, 46), np.float32), lift=0)
    _paste(top, bar(-1, -0.9, thick), np.array((216, 130, 130), np.float32), lift=0)


def _note(rng, top, unit):
    x, y, _ = _spot(rng, top, unit)
    turn, half = (rng.random() - 0.5) * 1.2, 0.085 * unit
    spin = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    corners = (np.array([[-1, -0.8], [1, -0.8], [1, 0.8], [-1, 0.8]]) * half @ spin.T) * (1, 0.79) + (x, y)
    colour = np.array(((244, 240, 226), (250, 232, 140), (190, 220, 236))[int(rng.integers(3))], np.float32)
    _paste(
        top,
        lambda m: cv2.fillPoly(m, [np.round(corners * 16).astype(np.int32)], 1.0, cv2.LINE_8, 4),
        colour,
        lift=0.01 * unit,
    )
    for row in (-0.4, -0.1, 0.2, 0.5):
        line = (np.array([[-0.75, row], [0.2 + 0.5 * rng.random(), row]]) * half @ spin.T) * (1, 0.79) + (x, y)
        ends = [np.round(line * 16).astype(np.int32)]
        _paste(top, lambda m, ends=ends: cv2.polylines(m, ends, False, 0.6, 1, cv2.LINE_8, 4), colour * 0.5, lift=0)


_DECORATIONS = (_coin, _leaf, _pencil, _note)
