"""The span teacher: start and end of a moment as two distributions over the clips of a video.

After SeqPAN (Zhang et al., ACL Findings 2021) as EMTM uses it (arXiv 2308.03725): one sequence encoder for
clips and words, dual attention between them, context-query attention, a matching head over {outside, start, inside,
end}, and a predictor that is applied once for the start and again, on the start's features, for the end:

    h_s = P(F),  h_e = P(h_s),  start = w_s [LN(h_s); F],  end = w_e [LN(h_e); F]

Where we differ: words are frozen MiniLM token vectors in place of GloVe and a character network (ours: they come
inside a package and work offline); dropout takes whole features from a sequence and nothing from attention weights;
normalisation and residuals are pre-norm throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class SpanConfig:
    """What a span network is made of."""

    video_dim: int
    """Numbers per clip that the video features have."""
    query_dim: int = 384
    """Numbers per word that the sentence features have (MiniLM: 384)."""
    dim: int = 128
    """Width of every hidden layer."""
    heads: int = 8
    """Attention heads; must divide `dim`."""
    conv_layers: int = 4
    """Depthwise-separable convolutions in the sequence encoder."""
    kernel: int = 7
    """Their kernel, in clips or words; odd."""
    dual_layers: int = 2
    """Rounds of dual attention between clips and words; 0 gives the student's light fusion."""
    max_clips: int = 64
    """Longest grid, in clips."""
    max_words: int = 64
    """Longest query, in tokens."""
    dropout: float = 0.2
    """Share of hidden units dropped while training, 0 to below 1."""

    def __post_init__(self):
        for name in ("video_dim", "query_dim", "dim", "heads", "conv_layers", "kernel", "max_clips", "max_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"SpanConfig.{name} must be at least 1, got {getattr(self, name)}")
        if self.dual_layers < 0:
            raise ValueError(f"SpanConfig.dual_layers must be 0 or more, got {self.dual_layers}")
        if self.dim % self.heads:
            raise ValueError(f"SpanConfig.dim must be a multiple of heads ({self.heads}), got {self.dim}")
        if self.kernel % 2 == 0:
            raise ValueError(f"SpanConfig.kernel must be odd, got {self.kernel}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"SpanConfig.dropout must be from 0 to below 1, got {self.dropout}")


@dataclass(frozen=True)
class SpanOutput:
    """What a span network says; nothing here is normalised."""

    start_logits: Float[Tensor, "b l"]
    """Start of the moment, per clip; -inf on padding."""
    end_logits: Float[Tensor, "b l"]
    """End of the moment, per clip; -inf on padding."""
    match_logits: Float[Tensor, "b l 4"]
    """Each clip's place: outside, at the start, inside, at the end."""
    mask: Bool[Tensor, "b l"]
    """True on real clips."""


class SpanTeacher(nn.Module):
    """Clips and words to start and end logits.

    Args:
        config: sizes; see `SpanConfig`.
    """

    def __init__(self, config: SpanConfig):
        super().__init__()
        self.config = config
        self.video_input = _Input(config.video_dim, config.dim, dropout=config.dropout)
        self.query_input = _Input(config.query_dim, config.dim, dropout=config.dropout)
        longest = max(config.max_clips, config.max_words)
        self.encoder = SequenceEncoder(
            config.dim, layers=config.conv_layers, kernel=config.kernel, longest=longest, dropout=config.dropout
        )
        self.video_attention = _dual_layers(config)
        self.query_attention = _dual_layers(config)
        self.fusion = Fusion(config.dim, dropout=config.dropout)
        self.match_head = nn.Linear(config.dim, 4)
        self.place_vectors = nn.Parameter(nn.init.orthogonal_(torch.empty(4, config.dim)))
        self.predictor = SpanPredictor(config, longest=config.max_clips)

    def forward(
        self,
        video: Float[Tensor, "b l d"],
        video_mask: Bool[Tensor, "b l"],
        query: Float[Tensor, "b w e"],
        query_mask: Bool[Tensor, "b w"],
    ) -> SpanOutput:
        """Scores every clip as start and as end of the moment that the query names.

        Args:
            video: features of the clips; what stands where `video_mask` is False has no influence.
            video_mask: True on real clips; at least one per video.
            query: features of the words; likewise.
            query_mask: True on real words; at least one per query.

        Raises:
            ValueError: more clips or words than the network has positions for, another width, or an empty row.
        """
        self._check(video, video_mask, query, query_mask)
        clips = self.encoder(self.video_input(video), video_mask)  # (b, l, d)
        words = self.encoder(self.query_input(query), query_mask)  # (b, w, d)
        for video_layer, query_layer in zip(self.video_attention, self.query_attention, strict=True):
            clips, words = (
                video_layer(clips, words, video_mask, query_mask),
                query_layer(words, clips, query_mask, video_mask),
            )
        fused = self.fusion(clips, words, video_mask, query_mask)  # (b, l, d)
        match_logits = self.match_head(fused)  # (b, l, 4)
        fused = (fused + match_logits.softmax(-1) @ self.place_vectors) * video_mask[..., None]
        start_logits, end_logits = self.predictor(fused, video_mask)
        hidden = ~video_mask
        return SpanOutput(
            start_logits=start_logits.masked_fill(hidden, -torch.inf),
            end_logits=end_logits.masked_fill(hidden, -torch.inf),
            match_logits=match_logits,
            mask=video_mask,
        )

    def _check(self, video: Tensor, video_mask: Tensor, query: Tensor, query_mask: Tensor) -> None:
        sizes = self.config
        for name, given, mask, width, longest in (
            ("video", video, video_mask, sizes.video_dim, sizes.max_clips),
            ("query", query, query_mask, sizes.query_dim, sizes.max_words),
        ):
            if given.shape[-1] != width:
                raise ValueError(f"{name} features have {given.shape[-1]} numbers a step, this network takes {width}")
            if given.shape[1] > longest:
                raise ValueError(f"{name} has {given.shape[1]} steps, this network has positions for {longest}")
            if not mask.any(1).all():
                raise ValueError(f"{name} of sample {int((~mask.any(1)).nonzero()[0])} in the batch is all padding")


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
            y = depthwise((norm(x) * keep).transpose(1, 2)).transpose(1, 2)
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

    def __init__(self, config: SpanConfig, *, longest: int):
        super().__init__()
        dim = config.dim
        self.encoder = SequenceEncoder(
            dim, layers=config.conv_layers, kernel=config.kernel, longest=longest, dropout=config.dropout
        )
        self.norm_attention, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads=config.heads)
        self.out = nn.Linear(dim, dim)
        self.dropout = FeatureDropout(config.dropout)
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
        return self.dropout(x.transpose(1, 2)).transpose(1, 2)


class _Input(nn.Module):
    """Frozen features to the network's width."""

    def __init__(self, given: int, dim: int, *, dropout: float):
        super().__init__()
        self.dropout, self.project, self.norm = FeatureDropout(dropout), nn.Linear(given, dim), nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "b n e"]) -> Float[Tensor, "b n d"]:
        return self.norm(self.project(self.dropout(x)))


def _dual_layers(config: SpanConfig) -> nn.ModuleList:
    return nn.ModuleList(
        DualAttention(config.dim, heads=config.heads, dropout=config.dropout) for _ in range(config.dual_layers)
    )
