"""Still tiles, skipped: where nothing changes, the answer to the frame before is kept (ours).

For fixed cameras, and for any network of convolutions. A tile has changed if its pixels differ from those that it was
last computed with:

    sqrt(mean((x_t - x_seen)^2)) > threshold

Changed tiles, grown by `reach` pixels, are cut out as a few rectangles, and the network runs on these alone. At the rim
of a cut-out, a convolution sees padding where the picture goes on; the cells that this touches take the value that the
layer had there before. So the one thing left out is what a change does further than `reach` away, and with a reach of
the whole receptive field (`receptive_reach`) nothing is.

A delta network's key frames, and what it remembers of them, are renewed by rectangles in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional

from vkdlab import cost
from vkdlab.delta.answers import mapped, tensors_in
from vkdlab.delta.cuts import CALL_PIXELS, UNFIT, Box, KeptMaps, layers_of, rectangles
from vkdlab.delta.frames import check_frame, check_period
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.state import DeltaState

MARGINS = (0, 1, 2, 4, 8)
"""Cells at the rim of a cut-out, and pixels at that of its answer, that are left out beside those that convolutions
touch, as few as do: what a network does between its convolutions, such as interpolation, may touch some as well."""
LARGEST_FIELD = 1024
"""Side of the largest frame, pixels, on which a receptive field is measured."""


@dataclass(frozen=True)
class TileStep:
    """One frame of a stream."""

    output: Any
    """What the network answers to the whole frame; what stays still is kept in it, so it is not to be written into."""
    changed: Bool[np.ndarray, "rows columns"]
    """Which tiles had changed."""
    boxes: tuple[Box, ...]
    """What was computed, pixels."""
    share: float
    """Pixels that were computed, over those of the frame: all that surrounds changes included, overlaps twice."""
    key: bool
    """Whether a delta network computed as on a key frame; True of any other network."""


class StillTiles:
    """A network that computes only what changes.

    Args:
        network: per-frame or delta network of convolutions, deployed or not; kept, and set to evaluation mode.
        tile: side of a tile, pixels; a multiple of the network's coarsest step.
        threshold: change of a tile's pixels (root mean square, in the frames' unit) from which it is computed anew.
        reach: how far away, pixels, a change is taken to matter; rounded up to whole tiles.
        period: frames from one key frame to the next, of a delta network; of others it says nothing.

    Raises:
        ValueError: a number out of range, or a network without convolutions.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        tile: int = 16,
        threshold: float | int = 0.05,
        reach: int = 16,
        period: int = 4,
    ):
        check_period(period)
        if tile < 1 or reach < 1 or not threshold >= 0:
            raise ValueError(
                f"tile and reach are at least 1 pixel and the threshold at least 0, got tile={tile}, reach={reach} and "
                f"threshold={threshold}"
            )
        self.network, self.tile, self.threshold, self.period = network.eval(), tile, threshold, period
        self.reach = math.ceil(reach / tile) * tile
        self._layers = layers_of(network)
        if not self._layers:
            raise ValueError(f"{type(network).__name__} has no convolution whose answer could be kept")
        self._macs: dict[tuple[int, ...], tuple[float, float]] = {}

    def stream(self, frames: Iterable[Tensor]) -> Iterator[Any]:
        """Answers to one video, frame by frame, without gradients.

        Args:
            frames: float (1, 3, h, w), all of one size, whole tiles high and wide; read one at a time.

        Raises:
            ValueError: frames that do not fit, or a network that cannot run on parts of a frame. The frame's number is
                named, and the layer where it is one.
        """
        return (step.output for step in self.steps(frames))

    def steps(self, frames: Iterable[Tensor]) -> Iterator[TileStep]:
        """As `stream`, with what was computed for each frame."""
        memory = None
        for number, frame in enumerate(frames):
            with torch.inference_mode():
                try:
                    self._check(frame, memory)
                    if memory is None:
                        memory, step = self._first(frame)
                    else:
                        step = self._next(frame, memory)
                except ValueError as error:
                    raise ValueError(f"frame {number} of the stream: {error}") from error
            yield step

    def macs(self, step: TileStep) -> float:
        """Multiply-accumulates of a step: they grow with the pixels that are computed."""
        rows, columns = step.changed.shape
        key, delta = self._costs((3, rows * self.tile, columns * self.tile))
        return step.share * (key if step.key else delta)

    def _costs(self, shape: tuple[int, int, int]) -> tuple[float, float]:
        """Multiply-accumulates of a whole frame of this shape, on a key frame and on others."""
        if shape not in self._macs:
            if isinstance(self.network, DeltaNetwork):
                costs = self.network.costs(shape)
                self._macs[shape] = float(costs.key), float(costs.delta(self.network.full_layers()))
            else:
                whole = float(cost.macs(self.network, _zeros(self.network, *shape[1:])))
                self._macs[shape] = whole, whole
        return self._macs[shape]

    def _lighter(self, frame: Tensor) -> float:
        key, delta = self._costs(tuple(frame.shape[1:]))
        return key / max(delta, 1.0)

    def _check(self, frame: Tensor, memory: _Memory | None) -> None:
        check_frame(frame)
        if memory is not None and (frame.shape, frame.dtype) != (memory.seen.shape, memory.seen.dtype):
            raise ValueError(
                f"the frames before were of shape {tuple(memory.seen.shape)} and {memory.seen.dtype}, this one is of "
                f"{tuple(frame.shape)} and {frame.dtype}: start a stream for each video"
            )
        height, width = frame.shape[2:]
        if len(frame) != 1 or height % self.tile or width % self.tile:
            raise ValueError(
                f"expected one frame (1, 3, h, w), height and width multiples of the tile's {self.tile} pixels, got "
                f"{tuple(frame.shape)}"
            )

    def _first(self, frame: Tensor) -> tuple[_Memory, TileStep]:
        memory = _Memory(KeptMaps(self._layers), frame.clone())
        self._whole(frame, memory, key=True)
        self._settle(frame, memory)
        whole = _all(frame)
        changed = np.ones((whole.bottom // self.tile, whole.right // self.tile), bool)
        return memory, _step(memory, changed, [whole], key=True)

    def _next(self, frame: Tensor, memory: _Memory) -> TileStep:
        is_delta = memory.state is not None
        memory.age += 1
        key = not is_delta or memory.age >= self.period
        changed = self._changed(frame, memory.seen)
        if is_delta and key:
            changed |= self._changed(frame, memory.state.frame)
        # On a delta frame a pixel costs less, and so a call as much as more of them.
        call_pixels = CALL_PIXELS * (1 if key else self._lighter(frame))
        boxes = rectangles(changed, tile=self.tile, grow=self.reach // self.tile, call_pixels=call_pixels)
        if sum(box.area + call_pixels for box in boxes) >= _all(frame).area + call_pixels:
            boxes = [_all(frame)]
            self._whole(frame, memory, key=key)
        elif boxes:
            memory.output = mapped(memory.output, torch.clone)  # who was given it keeps it as it is
            for box in boxes:
                self._cut(frame, memory, box, key=key)
        self._renew(memory.seen, frame, changed)
        if is_delta and key:
            memory.age = 0
            self._renew(memory.state.frame, frame, changed)
        return _step(memory, changed, boxes, key=key)

    def _whole(self, frame: Tensor, memory: _Memory, *, key: bool) -> None:
        with memory.kept.whole(frame):
            output, state = self._run(frame, None if key else memory.state)
        memory.output = output
        if key:
            memory.state = state

    def _cut(self, frame: Tensor, memory: _Memory, box: Box, *, key: bool) -> None:
        kept, part = memory.kept, frame[box.of]
        with kept.cut(box):
            output, state = self._run(part, None if key else kept.cut_state(memory.state, part, box))
        if key and memory.state is not None:
            kept.put_state(memory.state, state, box)
        for whole, new in zip(tensors_in(memory.output), tensors_in(output), strict=True):
            kept.put(whole, new, box, (memory.rim, memory.rim))

    def _run(self, frame: Tensor, state: DeltaState | None) -> tuple[Any, DeltaState | None]:
        if isinstance(self.network, DeltaNetwork):
            return self.network(frame, state)
        return self.network(frame.clone()), None  # which may change it in place

    def _changed(self, frame: Tensor, before: Tensor) -> Bool[np.ndarray, "rows columns"]:
        change = functional.avg_pool2d((frame - before).square_(), self.tile).float().mean(1)[0]
        return change.sqrt_().gt(self.threshold).cpu().numpy()

    def _renew(self, kept: Tensor, frame: Tensor, changed: Bool[np.ndarray, "rows columns"]) -> None:
        # Of changed tiles alone: what changes slowly elsewhere has to add up until it is seen.
        for row, column in (np.argwhere(changed) * self.tile).tolist():
            place = Box(row, row + self.tile, column, column + self.tile).of
            kept[place] = frame[place]

    def _settle(self, frame: Tensor, memory: _Memory) -> None:
        """Tries a cut-out of the first frame, which has to give what the whole frame gave, and finds the margin."""
        kept, outputs, (height, width) = memory.kept, tensors_in(memory.output), frame.shape[2:]
        for tensor in [*kept.maps.values(), *outputs]:
            if tensor.ndim != 4 or len(tensor) != 1:
                raise ValueError(f"the network gives a tensor of shape {tuple(tensor.shape)}: {UNFIT}")
            kept.place(tensor, Box(0, self.tile, 0, self.tile) if min(height, width) > self.tile else _all(frame))
        middle = np.zeros((height // self.tile, width // self.tile), bool)
        middle[middle.shape[0] // 2, middle.shape[1] // 2] = True
        (box,) = rectangles(middle, tile=self.tile, grow=self.reach // self.tile)
        if box == _all(frame):
            return
        for kept.margin in MARGINS:
            far = max(max(kept.ring_pixels(call)) for call in kept.maps)
            if far > self.reach:
                raise ValueError(
                    f"a layer of this network looks {far} pixels far, further than the reach of {self.reach}: "
                    f"StillTiles(..., reach={far})"
                )
            with kept.cut(box, compare=True):
                output, _ = self._run(frame[box.of], None)
            strayed = kept.strayed
            if strayed is None:
                break
        for memory.rim in (rim for rim in MARGINS if strayed is None and rim <= self.reach):
            rim = (memory.rim, memory.rim)
            if all(kept.agree(whole, new, box, rim) for whole, new in zip(outputs, tensors_in(output), strict=True)):
                return
        who = "network" if strayed is None else f"layer {strayed!r}"
        raise ValueError(f"the {who} gives other values to a part of the frame than to the whole: {UNFIT}")


def receptive_reach(network: nn.Module, *, tile: int = 16) -> int:
    """The reach, pixels, with which nothing is left out: how far a change of one tile is felt, rims included.

    Measured with not-a-number in one tile, which spreads to all that depends on it.

    Args:
        network: as `StillTiles` takes it.
        tile: side of a tile, pixels.

    Raises:
        ValueError: every place depends on the whole frame, or on more than it is measured on.
    """
    network, side = network.eval(), 8 * tile
    while side <= max(LARGEST_FIELD, 8 * tile):
        frame, kept = _zeros(network, side, side), KeptMaps(layers_of(network))
        centre = side // tile // 2 * tile
        frame[..., centre : centre + tile, centre : centre + tile] = math.nan
        with torch.inference_mode(), kept.whole(frame):
            output = network.reference(frame) if isinstance(network, DeltaNetwork) else network(frame)
        felt = [(kept.maps[call], kept.ring_pixels(call)) for call in kept.maps]
        reach = 0
        for tensor, ring in felt + [(tensor, (2, 2)) for tensor in tensors_in(output)]:
            for axis in (0, 1):
                places = tensor.isnan().any(1).any(2 - axis)[0].nonzero()[:, 0]
                if len(places):
                    step = side / tensor.shape[2 + axis]
                    first, last = places.min().item() * step, (places.max().item() + 1) * step
                    far = max(centre - first, last - centre - tile) + ring[axis]
                    reach = max(reach, math.inf if first == 0 or last == side else math.ceil(far))
        if reach < math.inf:
            return reach
        side *= 2
    raise ValueError(f"what this network says of a place depends on all that is {side // 4} pixels around, or on all")


class _Memory:
    """What is known of one video."""

    def __init__(self, kept: KeptMaps, seen: Tensor):
        self.kept, self.seen = kept, seen
        self.rim = 0
        self.output: Any = None
        self.state: DeltaState | None = None
        self.age = 0


def _step(memory: _Memory, changed: np.ndarray, boxes: list[Box], *, key: bool) -> TileStep:
    share = sum(box.area for box in boxes) / _all(memory.seen).area
    return TileStep(memory.output, changed, tuple(boxes), share, key)


def _all(frame: Tensor) -> Box:
    return Box(0, frame.shape[2], 0, frame.shape[3])


def _zeros(network: nn.Module, height: int, width: int) -> Tensor:
    like = next(network.parameters())
    return torch.zeros(1, 3, height, width, dtype=like.dtype, device=like.device)
