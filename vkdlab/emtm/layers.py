"""The blocks that EMTM's student and its teachers are built of (EMTM and SeqPAN, released code).

Every sequence comes with a mask; what stands where the mask is False has no influence, and comes out as zero.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class Input(nn.Module):
    """Frozen features to the network's width."""

    def __init__(self, given: int, dim: int, *, dropout: float):
        super().__init__()
        self.dropout, self.project, self.norm = FeatureDropout(dropout), nn.Linear(given, dim), nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "b n v"]) -> Float[Tensor, "b n d"]:
        return self.norm(self.project(self.dropout(x)))


class SequenceEncoder(nn.Module):
    """Learned positions, then depthwise-separable convolutions, each pre-normalised and residual."""

    def __init__(self, dim: int, *, layers: int, kernel: int, longest: int, dropout: float):
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(longest, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.depthwise = nn.ModuleList(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False) for _ in range(layers)
        )
        self.pointwise = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))
        self.dropout = FeatureDropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        keep = mask[..., None].to(x.dtype)
        x = (x + self.positions[: x.shape[1]]) * keep
        for norm, depthwise, pointwise in zip(self.norms, self.depthwise, self.pointwise, strict=True):
            # As a picture of height one whose channels lie last, as they do here: half the time of a Conv1d on a CPU.
            picture = (norm(x) * keep)[:, None].permute(0, 3, 1, 2)
            padding = (0, *depthwise.padding)
            y = functional.conv2d(picture, depthwise.weight[:, :, None], padding=padding, groups=x.shape[2])
            y = y.permute(0, 2, 3, 1).squeeze(1)
            x = (x + self.dropout(functional.relu(pointwise(y)))) * keep
        return x


class DualAttention(nn.Module):
    """One stream looks at itself and at the other; each view gates what it lets through of the other (after SeqPAN)."""

    def __init__(self, dim: int, *, heads: int, dropout: float):
        super().__init__()
        self.norm_self, self.norm_other, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_attention = Attention(dim, heads=heads)
        self.cross_attention = Attention(dim, heads=heads)
        self.self_gate, self.cross_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.mix = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = FeatureDropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        other: Float[Tensor, "b m d"],
        mask: Bool[Tensor, "b n"],
        other_mask: Bool[Tensor, "b m"],
    ) -> Float[Tensor, "b n d"]:
        normed = self.norm_self(x)
        own = self.self_attention(normed, normed, mask)
        cross = self.cross_attention(normed, self.norm_other(other), other_mask)
        mixed = torch.sigmoid(self.cross_gate(cross)) * own + torch.sigmoid(self.self_gate(own)) * cross
        x = x + self.dropout(self.mix(mixed))
        x = x + self.dropout(functional.relu(self.out(self.norm_out(x))))
        return x * mask[..., None]


class Attention(nn.Module):
    """Multi-head attention without an output projection (EMTM's predictor has none)."""

    def __init__(self, dim: int, *, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "b n d"], other: Float[Tensor, "b m d"], other_mask: Bool[Tensor, "b m"]
    ) -> Float[Tensor, "b n d"]:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, n, d / heads)
            for y in (self.query(x), self.key(other), self.value(other))
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=other_mask[:, None, None, :])
        return mixed.transpose(1, 2).flatten(2)


class Fusion(nn.Module):
    """Context-query attention both ways, then the pooled query joined to every clip (EMTM, released code)."""

    def __init__(self, dim: int, *, dropout: float):
        super().__init__()
        self.video_to_query = ContextQueryAttention(dim, dropout=dropout)
        self.query_to_video = ContextQueryAttention(dim, dropout=dropout)
        self.pool = nn.Linear(dim, 1, bias=False)
        self.join = nn.Linear(2 * dim, dim)

    def forward(
        self,
        clips: Float[Tensor, "b l d"],
        words: Float[Tensor, "b w d"],
        video_mask: Bool[Tensor, "b l"],
        query_mask: Bool[Tensor, "b w"],
    ) -> Float[Tensor, "b l d"]:
        video_side = self.video_to_query(clips, words, video_mask, query_mask)
        query_side = self.query_to_video(words, clips, query_mask, video_mask)
        scores = self.pool(query_side).masked_fill(~query_mask[..., None], -torch.inf)
        pooled = (scores.softmax(1) * query_side).sum(1, keepdim=True)  # (b, 1, d)
        return self.join(torch.cat([video_side, pooled.expand_as(video_side)], dim=-1))


class ContextQueryAttention(nn.Module):
    """S_ij = w1 a_i + w2 b_j + w3 (a_i * b_j); out_i = W [a; A; a*A; a*C], A = S_r B, C = S_r S_c^T A_in."""

    def __init__(self, dim: int, *, dropout: float):
        super().__init__()
        self.context_weight, self.query_weight = nn.Linear(dim, 1, bias=False), nn.Linear(dim, 1, bias=False)
        self.product_weight = nn.Parameter(torch.empty(dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.dropout = FeatureDropout(dropout)
        self.out = nn.Linear(4 * dim, dim, bias=False)

    def forward(
        self,
        context: Float[Tensor, "b n d"],
        query: Float[Tensor, "b m d"],
        context_mask: Bool[Tensor, "b n"],
        query_mask: Bool[Tensor, "b m"],
    ) -> Float[Tensor, "b n d"]:
        a, b = self.dropout(context), self.dropout(query)
        similarity = (
            self.context_weight(a)
            + self.query_weight(b).transpose(1, 2)
            + (a * self.product_weight) @ b.transpose(1, 2)
        )  # (b, n, m)
        over_query = similarity.masked_fill(~query_mask[:, None, :], -torch.inf).softmax(2)
        over_context = similarity.masked_fill(~context_mask[:, :, None], -torch.inf).softmax(1)
        attended = over_query @ query
        back = over_query @ (over_context.transpose(1, 2) @ context)
        return self.out(torch.cat([context, attended, context * attended, context * back], dim=-1))


class SpanPredictor(nn.Module):
    """One block, applied for the start and again on the start's features for the end."""

    def __init__(self, dim: int, *, layers: int, kernel: int, heads: int, longest: int, dropout: float):
        super().__init__()
        self.encoder = SequenceEncoder(dim, layers=layers, kernel=kernel, longest=longest, dropout=dropout)
        self.norm_attention, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads=heads)
        self.out = nn.Linear(dim, dim)
        self.dropout = FeatureDropout(dropout)
        self.start_norm, self.end_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.start = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1))
        self.end = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(
        self, fused: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"]
    ) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b l"]]:
        start_features = self._block(fused, mask)
        end_features = self._block(start_features, mask)
        start = self.start(torch.cat([self.start_norm(start_features), fused], dim=-1))
        end = self.end(torch.cat([self.end_norm(end_features), fused], dim=-1))
        return start.squeeze(-1), end.squeeze(-1)

    def _block(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.encoder(x, mask)
        normed = self.norm_attention(x)
        x = x + self.dropout(self.attention(normed, normed, mask))
        return (x + self.dropout(self.out(self.norm_out(x)))) * mask[..., None]


class FeatureDropout(nn.Module):
    """Drops whole features from a sequence while training: one draw for all its steps (Gal and Ghahramani, NIPS 2016).

    Neighbouring clips are too alike for a feature that is hidden in one of them to be missed, and a draw for every
    number of every clip costs a quarter of a training step on a CPU.
    """

    def __init__(self, share: float):
        super().__init__()
        self.dropout = nn.Dropout1d(share)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.dropout(x.transpose(1, 2)).transpose(1, 2) if self.training else x
