"""Who plays: draws a video's objects, and dresses objects, cloths and hands in colours (ours)."""

from __future__ import annotations

import numpy as np

from vkdlab.data.tabletop import shapes, solids
from vkdlab.data.tabletop.stage import Layer, Object, Track, WorldConfig

_FABRICS = ((96, 128, 150), (150, 96, 84), (206, 196, 172), (96, 124, 96), (120, 104, 140))


def draw_objects(rng: np.random.Generator, config: WorldConfig) -> list[Object]:
    """Four to six things of which no two share shape and colour, one of them a vessel; many share one of the two."""

    def pick(items):
        return items[int(rng.integers(len(items)))]

    count = int(rng.integers(4, 6)) + int(rng.random() < 0.3 + 0.5 * config.difficulty)
    taken, objects = set(), []
    while len(objects) < count:
        shape, colour = pick(solids.SHAPES), pick(tuple(shapes.COLOURS))
        if objects and rng.random() < 0.45:
            if rng.random() < 0.5:
                shape = pick(objects).shape
            else:
                colour = pick(objects).colour
        size = pick(("small", "medium", "large"))
        if (shape, colour) not in taken:
            taken.add((shape, colour))
            objects.append(Object(len(objects) + 1, shape, colour, size))
    if not any(o.shape in ("cup", "bowl") for o in objects):
        first = objects[0]
        objects[0] = Object(first.id, pick(("cup", "bowl")), first.colour, first.size)
        if len({(o.shape, o.colour) for o in objects}) < len(objects):
            return draw_objects(rng, config)
    return objects


def dressed(
    objects: list[Object], tracks: list[Track], cloths: list[Track], hands: list[Track], rng: np.random.Generator
) -> tuple[Layer, ...]:
    """Gives every track its picture: objects first, in the order of their numbers, then cloths, then hands."""
    layers = [
        Layer(o.shape, _object_colours(o.shape, o.colour), track, pivot=0.4)
        for o, track in zip(objects, tracks, strict=True)
    ]
    first = int(rng.integers(len(_FABRICS)))
    for n, track in enumerate(cloths):
        fabric = _FABRICS[(first + n) % len(_FABRICS)]
        layers.append(Layer("cloth", {solids.PRIMARY: fabric, solids.PALE: (238, 232, 220)}, track))
    for track in hands:
        skin = shapes.SKIN_TONES[int(rng.integers(len(shapes.SKIN_TONES)))]
        sleeve = shapes.SLEEVES[int(rng.integers(len(shapes.SLEEVES)))]
        nail = tuple(min(255, int(0.72 * v + 0.28 * w)) for v, w in zip(skin, (255, 214, 204), strict=True))
        cuff = tuple(min(255, int(1.25 * v + 24)) for v in sleeve)
        colours = {solids.SKIN: skin, solids.NAIL: nail, solids.SLEEVE: sleeve, solids.PALE: cuff}
        layers.append(Layer("hand", colours, track))
    return tuple(layers)


def _object_colours(shape: str, colour: str) -> dict[int, tuple[int, int, int]]:
    rgb = shapes.COLOURS[colour]
    pale = (70, 70, 78) if colour == "white" else (240, 234, 222)
    return {
        solids.PRIMARY: rgb,
        solids.INSIDE: tuple(int(0.85 * v) for v in rgb),
        solids.PALE: pale,
        solids.DARK: (36, 36, 40) if colour != "black" else (150, 150, 156),
        solids.BEAK: (238, 132, 24) if colour not in ("orange", "red") else (250, 205, 60),
    }
