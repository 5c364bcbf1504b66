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
SIGHT_FEATURES = 6
"""Numbers that `Sighting.features` gives of a thing."""
GAIN = 5.0
"""Brings `Sighting.features` to about the size of what else a layer is given."""
SHARPNESS = 16.0
"""Factor of the cosine of a cell and what is looked for before the softmax, in naming and in looking up."""
THRESHOLD = 0.7
"""Cosine below which a thing is rather nowhere than in a cell. On 100 frames of the built-in world an encoder that had
named 12,800 frames gave the best cell 0.69 to 0.95 where a thing was in sight, and 0.11 to 0.65 where it was not (5 %
and 95 % quantiles)."""


class Layer(nn.Module):
    """A transformer layer: tokens look at each other; normalised before each step."""

    def __init__(self, dim: int, *, heads: int, dropout: float):
        """
        Args:
            dim: size d of the tokens; a multiple of `heads`.
            heads: attention heads.
            dropout: share dropped of what each step adds.
        """
        super().__init__()
        self.heads = heads
        self.attention_norm, self.forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Where `mask` is False nothing is looked at; each row has something that is."""
        x = x + self.dropout(self._looked(self.attention_norm(x), mask))
        return x + self.dropout(self.feed_forward(self.forward_norm(x)))

    def _looked(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        q, k, v = (
            y.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (b, heads, n, d / heads)
            for y in self.query_key_value(x).chunk(3, dim=2)
        )
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
        weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(3)
        return self.out((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2))


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

    @property
    def features(self) -> Float[Tensor, "k m 6"]:
        """Where each thing is and how far it spreads, both 0 where it is not in sight, its mass and its best cosine."""
        mass = self.mass[..., None]
        return torch.cat([self.position * mass, self.spread * mass, mass, self.best[..., None]], 2)


def find(
    cells: Float[Tensor, "k n d"],
    wanted: Float[Tensor, "k m d"],
    *,
    positions: Float[Tensor, "n 2"],
    sharpness: float = SHARPNESS,
    threshold: float = THRESHOLD,
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
        cells, wanted = cells.float(), functional.normalize(wanted.float(), dim=2)
        cosines = wanted @ cells.transpose(1, 2) / cells.norm(dim=2).clamp_min(1e-12)[:, None]
        null = cosines.new_full((*cosines.shape[:2], 1), threshold)
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


def place_features(places: Float[Tensor, "*k"]) -> Float[Tensor, "*k 15"]:
    """Shares of a video, and their sines and cosines of a quarter of a period to 16 over it."""
    angles = places[..., None] * (torch.pi * 2.0 ** torch.arange(-1, 6, device=places.device))
    return torch.cat([places[..., None], angles.sin(), angles.cos()], -1)
