"""From a scene to pictures and masks: warps sprites, throws shadows, lights and disturbs the picture (ours).

Pictures may differ in the last bit between machines (OpenCV chooses its own arithmetic); masks, boxes and affine maps
may not, so they are computed here with plain NumPy from rounded numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import cv2
import numpy as np

from vkdlab.data.tabletop import shapes, solids
from vkdlab.data.tabletop.events import Scene
from vkdlab.data.tabletop.stage import STAGE_WIDTH, Layer, compose, generator, layer_affine, nearness
from vkdlab.data.tabletop.textures import noise, table_top

_SUN = (0.555, -0.13)  # where a point one unit above the table throws its shadow, right and down the picture
_TURN_STEPS = 24


def sprite_of(layer: Layer, pose: int = 0) -> shapes.Sprite:
    """The sprite a layer shows."""
    if layer.kind == "hand":
        return shapes.hand_sprite("grip" if pose else "open")
    return shapes.cloth_sprite() if layer.kind == "cloth" else shapes.object_sprite(layer.kind)


def affines(scene: Scene) -> np.ndarray:
    """Where every instance is: float64 (t, 1 + n, 2, 3), thing to picture, pixel centres at half numbers.

    Row 0 maps the stage (the table, picture heights); row k maps the sprite pixels of instance k.
    """
    out = np.empty((scene.frames, 1 + len(scene.layers), 2, 3))
    out[:, 0] = scene.camera
    for k, layer in enumerate(scene.layers, 1):
        anchor = sprite_of(layer).anchor
        for i in range(scene.frames):
            out[i, k] = compose(scene.camera[i], layer_affine(layer, anchor, i))
    return out


def drawing_order(scene: Scene, frame: int) -> list[int]:
    """Instances present in a frame, farthest first; hands are above everything."""
    keyed = []
    for k, layer in enumerate(scene.layers, 1):
        track = layer.track
        if track.present[frame]:
            rank = 1 if layer.kind == "hand" else 0
            key = track.y[frame] + 1.6 * track.z[frame] + (0.03 if layer.kind == "cloth" else 0)
            keyed.append((rank, round(key, 6), k))
    return [k for *_, k in sorted(keyed)]


def masks(scene: Scene, maps: np.ndarray) -> np.ndarray:
    """Which instance each pixel shows: uint8 (t, h, w), 0 is the table."""
    height, width = scene.config.height, scene.config.width
    out = np.zeros((scene.frames, height, width), np.uint8)
    for i in range(scene.frames):
        for k in drawing_order(scene, i):
            layer = scene.layers[k - 1]
            outline = sprite_of(layer, int(layer.track.pose[i])).outline
            x0, y0, x1, y1 = _region(maps[i, k], outline.shape, width, height)
            if x1 <= x0 or y1 <= y0:
                continue
            a, b, c, d, e, f = _inverse(maps[i, k])
            xs, ys = np.arange(x0, x1) + 0.5, (np.arange(y0, y1) + 0.5)[:, None]
            u = np.floor(a * xs + (b * ys + c)).astype(np.int32)
            v = np.floor(d * xs + (e * ys + f)).astype(np.int32)
            inside = (u >= 0) & (u < outline.shape[1]) & (v >= 0) & (v < outline.shape[0])
            shown = inside & outline[np.where(inside, v, 0), np.where(inside, u, 0)]
            out[i, y0:y1, x0:x1][shown] = k
    return out


def boxes(mask: np.ndarray, instances: int) -> np.ndarray:
    """Tight boxes of what is visible: float32 (t, n, 4), x0 y0 x1 y1 in pixels, NaN where nothing is."""
    frames, height, width = mask.shape
    out = np.full((frames, instances, 4), np.nan, np.float32)
    ids = np.arange(1, instances + 1)
    for i in range(frames):
        seen = np.zeros((instances + 1, width), bool)
        seen[mask[i], np.arange(width)] = True
        rows = np.zeros((instances + 1, height), bool)
        rows[mask[i].T, np.arange(height)] = True
        for k in ids[seen[1:].any(1)]:
            x, y = np.flatnonzero(seen[k]), np.flatnonzero(rows[k])
            out[i, k - 1] = x[0], y[0], x[-1] + 1, y[-1] + 1
    return out


class Renderer:
    """Makes the pictures of one scene, one after another."""

    def __init__(self, scene: Scene, maps: np.ndarray):
        self.scene, self.maps = scene, maps
        self.rng = generator(scene.config, scene.split, scene.index, "pixels")
        config = scene.config
        self.width, self.height = config.width, config.height
        self.unit = 1.3 * config.height
        self.margin = 0.3
        extra = round(config.difficulty * 4) + int(self.rng.integers(0, 3))
        size = [round((side + 2 * self.margin) * self.unit) for side in (STAGE_WIDTH, 1.0)]
        self.top = table_top(self.rng, width=size[0], height=size[1], unit=self.unit, decorations=extra)
        self._lit: dict[tuple[int, int, int], list[np.ndarray]] = {}
        self._dark: dict[tuple, list[np.ndarray]] = {}

    def frames(self) -> Iterator[np.ndarray]:
        """The pictures, uint8 (h, w, 3), red green blue."""
        for i in range(self.scene.frames):
            yield self.frame(i)

    def frame(self, i: int) -> np.ndarray:
        """One picture; sensor noise is drawn anew on every call."""
        picture = self._table(i)
        order = drawing_order(self.scene, i)
        for k in order:
            self._shadow(picture, i, k)
        hands = [k for k in order if self.scene.layers[k - 1].kind == "hand"]
        for k in order[: len(order) - len(hands)]:
            self._draw(picture, i, k)
        self._pour(picture, i)
        for k in hands:
            self._draw(picture, i, k)
        return self._expose(picture, i)

    def _table(self, i: int) -> np.ndarray:
        camera = self.maps[i, 0]
        matrix = np.empty((2, 3))
        matrix[:, :2] = camera[:, :2] / self.unit
        matrix[:, 2] = camera[:, 2] - camera[:, :2] @ np.array([self.margin, self.margin])
        return cv2.warpAffine(
            self.top,
            _centred(matrix),
            (self.width, self.height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )

    def _draw(self, picture: np.ndarray, i: int, k: int) -> None:
        layer = self.scene.layers[k - 1]
        pose = int(layer.track.pose[i])
        # Hands keep their light: their turn is constant during a visit.
        step = round(layer.track.angle[i] / (2 * math.pi) * _TURN_STEPS) % _TURN_STEPS
        levels = self._lit.get((k, pose, step))
        if levels is None:
            image = shapes.shade(sprite_of(layer, pose), layer.colours, angle=step * 2 * math.pi / _TURN_STEPS)
            levels = self._lit[(k, pose, step)] = _smaller(image)
        warped = self._warp(levels, self.maps[i, k])
        if warped is not None:
            (x0, y0, x1, y1), image = warped
            region = picture[y0:y1, x0:x1]
            region *= 1 - image[..., 3:]
            region += image[..., :3]

    def _shadow(self, picture: np.ndarray, i: int, k: int) -> None:
        layer = self.scene.layers[k - 1]
        track = layer.track
        z = track.z[i]
        softness = 0 if z < 0.04 else 1 if z < 0.13 else 2
        height = z / shapes.ELEVATION_COS
        if layer.kind in solids.SHAPES:
            if (layer.kind, softness) not in self._dark:
                dark = shapes.shadow_of(layer.kind)[0]
                self._dark[layer.kind, softness] = _smaller(cv2.GaussianBlur(dark, (0, 0), 1 + 7 * softness))
            levels = self._dark[layer.kind, softness]
            ax, ay = shapes.shadow_of(layer.kind)[1]
            k_scale = track.extent * track.scale[i] * nearness(track.y[i]) / solids.PIXELS_PER_UNIT
            x, y = track.x[i] + _SUN[0] * height, track.y[i] + _SUN[1] * height
            affine = compose(self.maps[i, 0], (k_scale, 0, x - k_scale * ax, 0, k_scale, y - k_scale * ay))
            strength = 0.66 / (1 + 2.5 * z)
        else:
            pose = int(track.pose[i])
            key = (layer.kind, pose)
            if key not in self._dark:
                self._dark[key] = _smaller(cv2.GaussianBlur(sprite_of(layer, pose).coverage, (0, 0), 6))
            levels = self._dark[key]
            rise = (0.05 if layer.kind == "hand" else 0.02) + height
            affine = self.maps[i, k].copy()
            affine[:, 2] += self.height * rise * np.array([_SUN[0] * 1.2, 0.35])
            strength = 0.42
        warped = self._warp(levels, affine)
        if warped is not None:
            (x0, y0, x1, y1), dark = warped
            picture[y0:y1, x0:x1] *= 1 - strength * dark[..., None]

    def _warp(self, levels: list[np.ndarray], affine: np.ndarray):
        scale = math.sqrt(abs(affine[0, 0] * affine[1, 1] - affine[0, 1] * affine[1, 0]))
        level = min(max(0, math.floor(-math.log2(max(scale, 1e-3)) + 0.35)), len(levels) - 1)
        image = levels[level]
        region = _region(affine, levels[0].shape, self.width, self.height)
        x0, y0, x1, y1 = region
        if x1 <= x0 or y1 <= y0:
            return None
        matrix = affine.copy()
        matrix[:, 0] *= levels[0].shape[1] / image.shape[1]
        matrix[:, 1] *= levels[0].shape[0] / image.shape[0]
        matrix[:, 2] -= (x0, y0)
        return region, cv2.warpAffine(image, _centred(matrix), (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)

    def _pour(self, picture: np.ndarray, i: int) -> None:
        """What runs out of a tilted thing: drops on a thread that thins towards its ends."""
        for stream in self.scene.streams:
            if not stream.start_frame <= i <= stream.end_frame:
                continue
            target = self.scene.layers[stream.target - 1].track
            height = shapes.MOUTH_HEIGHT[self.scene.layers[stream.source - 1].kind]
            anchor = sprite_of(self.scene.layers[stream.source - 1]).anchor
            mouth = self.maps[i, stream.source] @ np.array(
                [anchor[0], anchor[1] - height * solids.PIXELS_PER_UNIT, 1.0]
            )
            gx, gy = target.x[i], target.y[i] - 0.30 * target.extent * target.scale[i] * nearness(target.y[i])
            goal = self.maps[i, 0] @ np.array([gx, gy, 1.0])
            thick = 0.030 * self.height * min(1.0, 0.4 + 0.3 * min(i - stream.start_frame, stream.end_frame - i))
            overlay = np.zeros((self.height, self.width), np.float32)
            for n in range(24):
                u = n / 23
                x = mouth[0] + (goal[0] - mouth[0]) * (1 - (1 - u) ** 1.7)
                y = mouth[1] + (goal[1] - mouth[1]) * u**1.5 + 0.004 * self.height * math.sin(9 * u - 2.2 * i)
                radius = thick * (1 - 0.45 * u + 0.18 * math.sin(14 * u - 2.6 * i))
                cv2.circle(overlay, (round(x * 16), round(y * 16)), max(8, round(radius * 16)), 1.0, -1, cv2.LINE_8, 4)
            cover = cv2.GaussianBlur(overlay, (0, 0), 0.7)[..., None]
            shine = cv2.GaussianBlur(np.roll(overlay, 1, 1) * overlay, (0, 0), 1.0)[..., None]
            picture *= 1 - 0.9 * cover
            picture += 0.9 * cover * (np.array((96, 186, 220), np.float32) + 60 * (shine - 0.6))

    @cached_property
    def _vignette(self) -> np.ndarray:
        y, x = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32)
        x, y = x / self.width - 0.5, y / self.height - 0.5
        falloff = 1.13 - 0.62 * (x * x + y * y) - 0.12 * x * (1 if self.rng.random() < 0.5 else -1) - 0.08 * y
        return falloff.astype(np.float32)

    @cached_property
    def _light(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Brightness (t,), colour (t, 3) and where a soft pool of light stands (t, 2)."""
        strength = 0.4 + 1.2 * self.scene.config.difficulty
        time = np.arange(self.scene.frames) / self.scene.config.fps
        wave = [np.sin(2 * np.pi * (time / (6 + 12 * self.rng.random()) + self.rng.random())) for _ in range(4)]
        gain = 1 + 0.08 * strength * wave[0] + 0.02 * strength * np.sin(2 * np.pi * time * 0.9)
        warm = 0.035 * strength * wave[1] + 0.06 * (self.rng.random() - 0.5)
        tint = np.stack([1 + warm, np.ones_like(warm), 1 - 1.2 * warm], 1)
        return gain, tint, np.stack([0.5 + 0.35 * wave[2], 0.45 + 0.3 * wave[3]], 1)

    @cached_property
    def _grain(self) -> np.ndarray:
        field = self.rng.standard_normal((6, self.height + 16, self.width + 16, 3), dtype=np.float32)
        return field * np.float32(1.2 + 4.2 * self.scene.config.difficulty)

    @cached_property
    def _clouds(self) -> np.ndarray:
        field = noise(self.rng, (self.height * 2, self.width * 2), cells=(3, 4), octaves=2)
        return (0.14 * self.scene.config.difficulty * field).astype(np.float32)

    def _expose(self, picture: np.ndarray, i: int) -> np.ndarray:
        gain, tint, pool = self._light
        x, y = (int(p * (size - 1)) for p, size in zip(pool[i], (self.width, self.height), strict=True))
        light = (self._vignette + self._clouds[y : y + self.height, x : x + self.width]) * np.float32(gain[i])
        picture *= light[..., None] * tint[i].astype(np.float32)
        dx, dy = self.rng.integers(0, 16, 2)
        picture += self._grain[i % 6, dy : dy + self.height, dx : dx + self.width]
        return np.clip(picture, 0, 255).astype(np.uint8)


def _smaller(image: np.ndarray) -> list[np.ndarray]:
    levels = [np.ascontiguousarray(image, np.float32)]
    while min(levels[-1].shape[:2]) >= 24:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
    return levels


def _centred(matrix: np.ndarray) -> np.ndarray:
    """From pixel centres at half numbers to OpenCV's pixel centres at whole numbers."""
    out = matrix.copy()
    out[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1]) - 0.5
    return out


def _region(affine: np.ndarray, shape: tuple[int, ...], width: int, height: int) -> tuple[int, int, int, int]:
    """The part of the picture a sprite can reach: x0, y0, x1, y1, clipped."""
    (a, b, c), (d, e, f) = affine.tolist()
    h, w = shape[:2]
    xs = [c, a * w + c, b * h + c, a * w + b * h + c]
    ys = [f, d * w + f, e * h + f, d * w + e * h + f]
    return (
        max(0, math.floor(min(xs)) - 1),
        max(0, math.floor(min(ys)) - 1),
        min(width, math.ceil(max(xs)) + 1),
        min(height, math.ceil(max(ys)) + 1),
    )


def _inverse(affine: np.ndarray) -> tuple[float, ...]:
    (a, b, c), (d, e, f) = affine.tolist()
    det = a * e - b * d
    return e / det, -b / det, (b * f - c * e) / det, -d / det, a / det, (c * d - a * f) / det
