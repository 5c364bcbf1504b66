"""Cut-outs of frames, and what a network's layers last gave around them (ours)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from vkdlab.delta.layers import DeltaLayer
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.state import DeltaState

CALL_PIXELS = 6000
"""What a call costs beside its pixels, in pixels that a per-frame network computes: rectangles are joined where that is
cheaper."""


@dataclass(frozen=True)
class Box:
    """A rectangle of a frame or a map."""

    top: int
    """First row."""
    bottom: int
    """One past the last row."""
    left: int
    """First column."""
    right: int
    """One past the last column."""

    @property
    def area(self) -> int:
        """Pixels in it."""
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def of(self) -> tuple[object, slice, slice]:
        """Index of its part of a tensor (.., h, w)."""
        return ..., slice(self.top, self.bottom), slice(self.left, self.right)

    def within(self, ring: tuple[int, int], height: int, width: int) -> Box:
        """Without `ring` rows and columns on those sides where a picture of this height and width goes on."""
        rows, columns = ring
        return Box(
            self.top + rows * (self.top > 0),
            self.bottom - rows * (self.bottom < height),
            self.left + columns * (self.left > 0),
            self.right - columns * (self.right < width),
        )

    def less(self, top: int, left: int) -> Box:
        """As seen from a corner."""
        return Box(self.top - top, self.bottom - top, self.left - left, self.right - left)


def rectangles(
    changed: Bool[np.ndarray, "rows columns"], *, tile: int, grow: int, call_pixels: float | int = CALL_PIXELS
) -> list[Box]:
    """Few rectangles, pixels, that hold all changed tiles and `grow` tiles around each; they may overlap.

    A rectangle is cut in two, across or along, where that saves most, and more than another call costs. Sides are of
    few lengths, as a network's first call with a size costs as much as several more.
    """
    limits = np.array(changed.shape)
    lengths = [np.array([_length(tiles, limit) for tiles in range(limit + 1)]) for limit in changed.shape]

    def ends(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and one past the last of what holds tiles and all around them, with sides as they may be."""
        low, high = np.maximum(low - grow, 0), np.minimum(high + grow + 1, limits)
        sizes = np.stack([lengths[axis][(high - low)[..., axis]] for axis in (0, 1)], axis=-1)
        first = np.clip(low - (sizes - (high - low)) // 2, 0, limits - sizes)
        return first, first + sizes

    def area(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        first, last = ends(low, high)
        return (last - first).prod(axis=-1)

    boxes = []
    parts = [np.argwhere(changed)] if changed.any() else []
    while parts:
        part = parts.pop()
        least, cut = area(part.min(0, keepdims=True), part.max(0, keepdims=True)).item() - call_pixels / tile**2, None
        for axis in (0, 1):
            part = part[part[:, axis].argsort(kind="stable")]
            places = np.flatnonzero(np.diff(part[:, axis])) + 1
            low, high = np.minimum.accumulate(part), np.maximum.accumulate(part)
            low_after, high_after = (step.accumulate(part[::-1])[::-1] for step in (np.minimum, np.maximum))
            areas = area(low[places - 1], high[places - 1]) + area(low_after[places], high_after[places])
            if len(places) and areas.min() < least:
                least, place = areas.min(), places[areas.argmin()]
                cut = part[:place], part[place:]
        if cut:
            parts += cut
        else:
            (top, left), (bottom, right) = ((tile * end).tolist() for end in ends(part.min(0), part.max(0)))
            boxes.append(Box(top, bottom, left, right))
    return boxes


@lru_cache
def _length(tiles: int, limit: int) -> int:
    """The next of 0 to 6, 8, 10, 12, 16, 20, 24 .. tiles, or the frame's."""
    step = max(1 << max(tiles - 1, 0).bit_length(), 4) // 4
    length = next(length for length in (2 * step, 5 * step // 2, 3 * step, 4 * step) if length >= tiles)
    return min(tiles if tiles < 5 else length, limit)


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """What mixes places and is kept: delta layers as a whole, and all other convolutions."""
    found: dict[str, nn.Module] = {}
    within: list[str] = []
    # By the names that a delta network's layers go by in what it remembers.
    for name, module in (network.model if isinstance(network, DeltaNetwork) else network).named_modules():
        if any(name.startswith(f"{outer}.") for outer in within):
            continue
        if isinstance(module, DeltaLayer):
            within.append(name)
        if isinstance(module, DeltaLayer | nn.Conv2d | nn.ConvTranspose2d):
            found[name] = module
    return found


class KeptMaps:
    """What every layer of a network last gave, over a whole frame.

    Args:
        layers: of `layers_of`.

    Attributes:
        maps: (1, c, h, w) of each call; the second call of a shared layer is "name#2".
        margin: cells at the rim of a cut-out that cannot be trusted, beside those that a layer's own kernel touches.
        strayed: the first call that gave something else in a cut-out than is kept, where that was asked for.
    """

    def __init__(self, layers: dict[str, nn.Module]):
        self._rings = {name: _ring(layer) for name, layer in layers.items()}
        self.layers = layers
        self.maps: dict[str, Tensor] = {}
        self.margin = 0
        self.strayed: str | None = None
        self._height = self._width = 1

    @contextmanager
    def whole(self, frame: Tensor) -> Iterator[None]:
        """Keeps what the layers give to the whole frame in this block."""
        self._height, self._width = frame.shape[2:]
        calls: Counter[str] = Counter()

        def keep(name: str, z: Tensor) -> None:
            self.maps[_call(name, calls)] = z.clone()

        with self._hooked(keep):
            yield

    @contextmanager
    def cut(self, box: Box, *, compare: bool = False) -> Iterator[None]:
        """Layers that see a cut-out in this block go on at its rim with what is kept, and what they give is kept.

        Args:
            box: of the frame, pixels.
            compare: whether to keep nothing, and to say in `strayed` who gave something else than is kept.
        """
        calls: Counter[str] = Counter()
        places: dict[tuple, tuple] = {}  # of layers whose maps are alike
        self.strayed = None

        def mend(name: str, z: Tensor) -> None:
            call = _call(name, calls)
            kept, ring = self.maps[call], self.ring(name)
            geometry = box, kept.shape[2:], ring
            if geometry not in places:
                places[geometry] = self._places(kept, box, ring)
            place, inner, part, rims = places[geometry]
            if z.shape[2:] != (place.bottom - place.top, place.right - place.left):
                raise ValueError(f"the layer {name!r} gives a map of {tuple(z.shape[2:])} to a cut-out: {UNFIT}")
            if not compare:
                kept[inner] = z[part]
            elif self.strayed is None and not _close(z[part], kept[inner], like=kept):
                self.strayed = call
            around = kept[place.of]
            for rim in rims:
                z[rim] = around[rim]

        with self._hooked(mend):
            yield

    def _places(self, kept: Tensor, box: Box, ring: tuple[int, int]) -> tuple[Box, tuple, tuple, list[tuple]]:
        """Where a cut-out lies in a map, its trusted part there and in itself, and its rims where the map goes on."""
        place = self.place(kept, box)
        height, width = place.bottom - place.top, place.right - place.left
        inner = place.within(ring, *kept.shape[2:])
        part = inner.less(place.top, place.left)
        rims = (
            (np.s_[..., : part.top, :], part.top > 0),
            (np.s_[..., part.bottom :, :], part.bottom < height),
            (np.s_[..., : part.left], part.left > 0),
            (np.s_[..., part.right :], part.right < width),
        )
        return place, inner.of, part.of, [rim for rim, there in rims if there]

    def place(self, tensor: Tensor, box: Box) -> Box:
        """Where a frame's rectangle lies in a map.

        Raises:
            ValueError: between its cells.
        """
        height, width = tensor.shape[-2:]
        edges = [
            (edge * cells, pixels)
            for edge, cells, pixels in (
                (box.top, height, self._height), (box.bottom, height, self._height),
                (box.left, width, self._width), (box.right, width, self._width),
            )
        ]  # fmt: skip
        if any(edge % pixels for edge, pixels in edges):
            raise ValueError(f"a map of {height}x{width} cells has none where a tile ends: {UNFIT}")
        return Box(*(edge // pixels for edge, pixels in edges))

    def ring(self, name: str) -> tuple[int, int]:
        """Rows and columns of a layer's map, at the rim of a cut-out, that cannot be trusted."""
        rows, columns = self._rings[name]
        return rows + self.margin, columns + self.margin

    def ring_pixels(self, call: str) -> tuple[int, int]:
        """The same of one call, in the frame's pixels."""
        rows, columns = self.ring(call.partition("#")[0])
        height, width = self.maps[call].shape[2:]
        return math.ceil(rows * self._height / height), math.ceil(columns * self._width / width)

    def agree(self, kept: Tensor, part: Tensor, box: Box, ring: tuple[int, int]) -> bool:
        """Whether a cut-out gave what is kept, but for its rim; arguments as those of `put`."""
        place, inner = self._inner(kept, box, ring)
        return _close(part[inner.less(place.top, place.left).of], kept[inner.of], like=kept)

    def put(self, kept: Tensor, part: Tensor, box: Box, ring: tuple[int, int]) -> None:
        """Writes what a cut-out gave into what is kept, without its rim.

        Args:
            kept: (1, c, h, w) of the whole frame.
            part: of the cut-out.
            box: of the frame, pixels.
            ring: rows and columns of the rim, in the frame's pixels.
        """
        place, inner = self._inner(kept, box, ring)
        kept[inner.of] = part[inner.less(place.top, place.left).of]

    def cut_state(self, state: DeltaState, frame: Tensor, box: Box) -> DeltaState:
        """What is remembered of a key frame, of a rectangle alone."""
        caches = {
            call: tuple(tensor[self.place(tensor, box).of] for tensor in cache) for call, cache in state.caches.items()
        }
        shapes = {}
        for call, shape in state.shapes.items():
            place = self.place(torch.empty(shape, device="meta"), box)
            shapes[call] = torch.Size((*shape[:2], place.bottom - place.top, place.right - place.left))
        return replace(state, frame=frame, caches=caches, shapes=shapes)

    def put_state(self, state: DeltaState, part: DeltaState, box: Box) -> None:
        """Renews what is remembered of a key frame by what is remembered of a rectangle."""
        for call, cache in state.caches.items():
            for kept, new in zip(cache, part.caches[call], strict=True):
                self.put(kept, new, box, self.ring_pixels(call))

    def _inner(self, kept: Tensor, box: Box, ring: tuple[int, int]) -> tuple[Box, Box]:
        height, width = kept.shape[-2:]
        place = self.place(kept, box)
        cells = math.ceil(ring[0] * height / self._height), math.ceil(ring[1] * width / self._width)
        return place, place.within(cells, height, width)

    @contextmanager
    def _hooked(self, function) -> Iterator[None]:
        handles = []
        try:
            for name, module in self.layers.items():
                handles.append(module.register_forward_hook(lambda module, given, z, name=name: function(name, z)))
            yield
        finally:
            for handle in handles:
                handle.remove()


UNFIT = (
    "this network cannot run on parts of a frame. It may look at whole frames at once, have convolutions without "
    "padding, or need larger tiles"
)


def _close(a: Tensor, b: Tensor, *, like: Tensor) -> bool:
    """Whether two maps agree up to rounding, measured by the largest number in a third."""
    if not a.numel():
        return True
    limit = math.sqrt(torch.finfo(a.dtype).eps) * like.abs().max().item()
    return (a - b).abs().max().item() <= limit


def _call(name: str, calls: Counter[str]) -> str:
    calls[name] += 1
    return name if calls[name] == 1 else f"{name}#{calls[name]}"


def _ring(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.ConvTranspose2d):
        sizes = zip(module.kernel_size, module.stride, module.dilation, strict=True)
        return tuple(max(d * (k - 1) + 1 - s, 0) for k, s, d in sizes)
    if isinstance(module, nn.Conv2d):
        sizes = zip(module.kernel_size, module.stride, module.dilation, strict=True)
        return tuple(math.ceil(d * (k - 1) / 2 / s) for k, s, d in sizes)
    if isinstance(module.teacher, nn.Conv2d):
        return _ring(module.teacher)
    # A block: the cells of its convolutions add up; strides within would only make them fewer.
    rings = [[_ring(inner) for inner in part.modules() if isinstance(inner, nn.Conv2d)] for part in module.children()]
    return tuple(max(sum(ring[axis] for ring in part) for part in rings) for axis in (0, 1))
