"""Span networks: start and end of a moment as two distributions over the clips of a video. The student is one.

After SeqPAN (Zhang et al., ACL Findings 2021) as EMTM uses it (arXiv 2308.03725): one sequence encoder for
clips and words, dual attention between them, context-query attention, a matching head over {outside, start, inside,
end}, and a predictor that is applied once for the start and again, on the start's features, for the end:

    h_s = P(F),  h_e = P(h_s),  start = w_s [LN(h_s); F],  end = w_e [LN(h_e); F]

The student has no dual attention. Encoder and branch are two modules, so that the branches of student and isomorphic
teacher can stand on one encoder.

Where we differ: words are frozen MiniLM token vectors in place of GloVe and a character network (ours: they come
inside a package and work offline); dropout takes whole features from a sequence and nothing from attention weights;
normalisation and residuals are pre-norm throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vkdlab.data.grounding import GroundingBatch
from vkdlab.emtm.layers import DualAttention, Fusion, Input, SequenceEncoder, SpanPredictor
from vkdlab.emtm.losses import location_loss, match_loss, place_overlap
from vkdlab.emtm.moments import best_moments, moment_to_clips
from vkdlab.emtm.outputs import SpanOutput


@dataclass(frozen=True)
class NetworkConfig:
    """What every grounding network has."""

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
    max_clips: int = 64
    """Longest grid, in clips."""
    max_words: int = 64
    """Longest query, in tokens."""
    dropout: float = 0.2
    """Share of hidden units dropped while training, 0 to below 1."""

    def __post_init__(self):
        name = type(self).__name__
        for field in ("video_dim", "query_dim", "dim", "heads", "conv_layers", "kernel", "max_clips", "max_words"):
            if getattr(self, field) < 1:
                raise ValueError(f"{name}.{field} must be at least 1, got {getattr(self, field)}")
        if self.dim % self.heads:
            raise ValueError(f"{name}.dim must be a multiple of heads ({self.heads}), got {self.dim}")
        if self.kernel % 2 == 0:
            raise ValueError(f"{name}.kernel must be odd, got {self.kernel}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{name}.dropout must be from 0 to below 1, got {self.dropout}")


@dataclass(frozen=True)
class SpanConfig(NetworkConfig):
    """What a span network is made of."""

    dual_layers: int = 2
    """Rounds of dual attention between clips and words; 0 gives the student's light fusion."""

    def __post_init__(self):
        super().__post_init__()
        if self.dual_layers < 0:
            raise ValueError(f"SpanConfig.dual_layers must be 0 or more, got {self.dual_layers}")


class Encoder(nn.Module):
    """Features of clips and words, each to the network's width, through one sequence encoder for both.

    Args:
        config: sizes.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        self.video_input = Input(config.video_dim, config.dim, dropout=config.dropout)
        self.query_input = Input(config.query_dim, config.dim, dropout=config.dropout)
        longest = max(config.max_clips, config.max_words)
        self.sequence = SequenceEncoder(
            config.dim, layers=config.conv_layers, kernel=config.kernel, longest=longest, dropout=config.dropout
        )

    def forward(
        self,
        video: Float[Tensor, "b l v"],
        video_mask: Bool[Tensor, "b l"],
        query: Float[Tensor, "b w e"],
        query_mask: Bool[Tensor, "b w"],
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b w d"]]:
        """Encoded clips and words; zero on padding.

        Args:
            video: features of the clips; what stands where `video_mask` is False has no influence.
            video_mask: True on real clips; at least one per video.
            query: features of the words; likewise.
            query_mask: True on real words; at least one per query.

        Raises:
            ValueError: more clips or words than the network has positions for, another width, or an empty row.
        """
        sizes = self.config
        _check("video", video, video_mask, width=sizes.video_dim, longest=sizes.max_clips)
        _check("query", query, query_mask, width=sizes.query_dim, longest=sizes.max_words)
        return (
            self.sequence(self.video_input(video), video_mask),
            self.sequence(self.query_input(query), query_mask),
        )


class SpanBranch(nn.Module):
    """From encoded clips and words to start and end logits.

    Args:
        config: sizes.
    """

    def __init__(self, config: SpanConfig):
        super().__init__()
        self.video_attention = _dual_layers(config)
        self.query_attention = _dual_layers(config)
        self.fusion = Fusion(config.dim, dropout=config.dropout)
        self.match_head = nn.Linear(config.dim, 4)
        self.place_vectors = nn.Parameter(nn.init.orthogonal_(torch.empty(4, config.dim)))
        self.predictor = SpanPredictor(
            config.dim,
            layers=config.conv_layers,
            kernel=config.kernel,
            heads=config.heads,
            longest=config.max_clips,
            dropout=config.dropout,
        )

    def forward(
        self,
        clips: Float[Tensor, "b l d"],
        video_mask: Bool[Tensor, "b l"],
        words: Float[Tensor, "b w d"],
        query_mask: Bool[Tensor, "b w"],
    ) -> SpanOutput:
        """Scores every clip as start and as end of the moment that the query names."""
        for video_layer, query_layer in zip(self.video_attention, self.query_attention, strict=True):
            clips, words = (
                video_layer(clips, words, video_mask, query_mask),
                query_layer(words, clips, query_mask, video_mask),
            )
        fused = self.fusion(clips, words, video_mask, query_mask)  # (b, l, d)
        match_logits = self.match_head(fused)  # (b, l, 4)
        fused = (fused + match_logits.softmax(-1) @ self.place_vectors) * video_mask[..., None]
        start_logits, end_logits = self.predictor(fused, video_mask)
        return SpanOutput(
            start_logits=start_logits.masked_fill(~video_mask, -torch.inf),
            end_logits=end_logits.masked_fill(~video_mask, -torch.inf),
            match_logits=match_logits,
            mask=video_mask,
        )

    def loss(self, output: SpanOutput, batch: GroundingBatch) -> dict[str, Tensor]:
        """Hard-label losses, `L = CE(start) + CE(end) + CE_match + ||E E^T o (1 - I)||_F`; "total" is their sum."""
        clips = moment_to_clips(batch.moment_s, batch.duration_s, output.mask.sum(1))
        location = location_loss(output, clips)
        match = match_loss(output, clips) + place_overlap(self.place_vectors)
        return {"total": location + match, "location": location, "match": match}


class SpanNetwork(nn.Module):
    """Clips and words to start and end logits: the span teacher, and, without dual attention, the student.

    Args:
        config: sizes; see `SpanConfig`.
    """

    def __init__(self, config: SpanConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.branch = SpanBranch(config)

    def forward(
        self,
        video: Float[Tensor, "b l v"],
        video_mask: Bool[Tensor, "b l"],
        query: Float[Tensor, "b w e"],
        query_mask: Bool[Tensor, "b w"],
    ) -> SpanOutput:
        """Scores every clip as start and as end of the moment that the query names; arguments as for `Encoder`."""
        clips, words = self.encoder(video, video_mask, query, query_mask)
        return self.branch(clips, video_mask, words, query_mask)

    def loss(self, output: SpanOutput, batch: GroundingBatch) -> dict[str, Tensor]:
        """Hard-label losses; "total" is minimised."""
        return self.branch.loss(output, batch)

    def moments(
        self, output: SpanOutput, batch: GroundingBatch, *, k: int
    ) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
        """The k best moments in seconds, best first, and their scores (product of start and end probability)."""
        return best_moments(
            output.start_logits.softmax(1),
            output.end_logits.softmax(1),
            duration_s=batch.duration_s,
            mask=output.mask,
            k=k,
        )


def _check(name: str, given: Tensor, mask: Tensor, *, width: int, longest: int) -> None:
    if given.shape[-1] != width:
        raise ValueError(f"{name} features have {given.shape[-1]} numbers a step, this network takes {width}")
    if given.shape[1] > longest:
        raise ValueError(f"{name} has {given.shape[1]} steps, this network has positions for {longest}")
    if not mask.any(1).all():
        raise ValueError(f"{name} of sample {int((~mask.any(1)).nonzero()[0])} in the batch is all padding")


def _dual_layers(config: SpanConfig) -> nn.ModuleList:
    return nn.ModuleList(
        DualAttention(config.dim, heads=config.heads, dropout=config.dropout) for _ in range(config.dual_layers)
    )
