"""What the compact backbone is built of: attention, and words looked up in the cells of a frame (ours).

Attention is written out as two matrix products and a softmax: on a CPU in bfloat16 the fused operation's backward takes
five times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

PLACE_FEATURES = 15
"""Numbers that `place_features` gives."""
CELL_FEATURES = 18
"""Numbers that `cell_features` gives."""


class Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, dim: int, *, heads: int, given: int | None = None):
        """
        Args:
            dim: size d of what looks; a multiple of `heads`.
            heads: how many.
            given: size e of what is looked at; by default `dim`.
        """
        super().__init__()
        self.heads = heads
        self.query, self.key_value, self.out = (
            nn.Linear(dim, dim),
            nn.Linear(given or dim, 2 * dim),
            nn.Linear(dim, dim),
        )

    def forward(
        self, x: Float[Tensor, "b n d"], other: Float[Tensor, "b m e"], mask: Bool[Tensor, "b m"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Where `mask` is False nothing is looked at; each row has something that is."""
        q, k, v = (
            y.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (b, heads, n or m, d / heads)
            for y in (self.query(x), *self.key_value(other).chunk(2, dim=2))
        )
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        return self.out((scores.softmax(3).to(v.dtype) @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A transformer layer: tokens look at each other, then at a memory if there is one; normalised before each."""

    def __init__(self, dim: int, *, heads: int, dropout: float, memory: int | None = None):
        """
        Args:
            dim: size d of the tokens.
            heads: attention heads.
            dropout: share dropped of what each step adds.
            memory: size e of the memory's tokens; None for a layer without.
        """
        super().__init__()
        self.self_norm, self.self_attention = nn.LayerNorm(dim), Attention(dim, heads=heads)
        if memory is not None:
            self.cross_norm, self.cross_attention = nn.LayerNorm(dim), Attention(dim, heads=heads, given=memory)
        self.forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b n"],
        memory: Float[Tensor, "b2 m e"] | None = None,
        memory_mask: Bool[Tensor, "b2 m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """A memory may serve several rows that follow one another: b is then a multiple of b2."""
        y = self.self_norm(x)
        x = x + self.dropout(self.self_attention(y, y, mask))
        if memory is not None:
            y = self.cross_norm(x).reshape(len(memory), -1, x.shape[2])
            x = x + self.dropout(self.cross_attention(y, memory, memory_mask).reshape(x.shape))
        return x + self.dropout(self.feed_forward(self.forward_norm(x)))


@dataclass(frozen=True)
class Sighting:
    """Where in each of k frames of n cells m things were found that were looked for."""

    shares: Float[Tensor, "k m n"]
    """How much of the look-up went to each cell; over the cells they sum to `mass`."""
    mass: Float[Tensor, "k m"]
    """0..1, near 0 where the thing is not in sight."""
    position: Float[Tensor, "k m 2"]
    """Expected x and y, where -1 is the frame's left and upper edge and 1 its right and lower one."""
    spread: Float[Tensor, "k m 2"]
    """Standard deviation of x and of y, at least 0.01."""
    best: Float[Tensor, "k m"]
    """Cosine of the most similar cell, -1..1."""


def find(
    cells: Float[Tensor, "k n d"],
    wanted: Float[Tensor, "k m d"],
    *,
    positions: Float[Tensor, "n 2"],
    sharpness: Float[Tensor, ""],
    threshold: Float[Tensor, ""],
) -> Sighting:
    """Looks things up in frames: softmax(sharpness [cos(wanted, cells); threshold]), the last of them a null cell.

    Args:
        cells: tokens of frames.
        wanted: what is looked for, aligned with cells; a vector of zeros finds every cell alike.
        positions: x and y of the cells, -1..1.
        sharpness: factor of the cosine; above 0.
        threshold: cosine of the null cell, which takes what is in no cell.
    """
    with torch.autocast(cells.device.type, enabled=False):  # a difference of squares needs all digits
        cells, wanted = functional.normalize(cells.float(), dim=2), functional.normalize(wanted.float(), dim=2)
        cosines = wanted @ cells.transpose(1, 2)
        null = threshold.expand(*cosines.shape[:2], 1)
        shares = (sharpness * torch.cat([cosines, null], 2)).softmax(2)[..., :-1]
        mass = shares.sum(2)
        of_found = shares / mass.clamp_min(1e-6)[..., None]
        position = of_found @ positions
        variance = (of_found @ positions**2 - position**2).clamp_min(0)
        return Sighting(shares, mass, position, (variance + 1e-4).sqrt(), cosines.amax(2))


def cell_positions(columns: int, rows: int) -> Float[Tensor, "n 2"]:
    """x and y of the middles of a grid's cells, row by row; -1 and 1 are the edges of the grid."""
    x = (torch.arange(columns) + 0.5) / columns * 2 - 1
    y = (torch.arange(rows) + 0.5) / rows * 2 - 1
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], 1)


def cell_features(positions: Float[Tensor, "n 2"]) -> Float[Tensor, "n 18"]:
    """Positions, and their sines and cosines of half a period to four over the grid."""
    return torch.cat([positions, _waves(positions, torch.arange(-1, 3)).flatten(1)], 1)


def place_features(places: Float[Tensor, " k"]) -> Float[Tensor, "k 15"]:
    """Shares of a video, and their sines and cosines of a quarter of a period to 16 over it."""
    return torch.cat([places[:, None], _waves(places[:, None], torch.arange(-1, 6)).flatten(1)], 1)


def _waves(values: Float[Tensor, "n c"], octaves: Tensor) -> Float[Tensor, "n c w"]:
    angles = values[..., None] * (torch.pi * 2.0 ** octaves.to(values.device))
    return torch.cat([angles.sin(), angles.cos()], -1)
