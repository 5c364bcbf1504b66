"""Proposal networks: every clip proposes a moment around itself, and the best-rated ones are the answer.

The network is ours. It answers like Moment-DETR (Lei et al., NeurIPS 2021) and BAN-APR (in EMTM's released code): a few
scored intervals. It gets them as anchor-free detectors do (FCOS, Tian et al., ICCV 2019), because a set of learned
queries needs many more epochs than clips that already know where they are. With the centre `c_i` of clip `i` of `n`,

    moment_i = [c_i - exp(x_i) / n, c_i + exp(y_i) / n],   confidence_i = sigmoid(z_i) -> IoU(moment_i, truth)

so that distances are learned in clips, on a scale where a factor counts the same for short and for long moments. The
confidence is trained to be the IoU of the proposal as it stands (VarifocalNet, Zhang et al., CVPR 2021), the distances
by `10 L1 + 1 - IoU` (Moment-DETR's weights) on the clips inside the true moment, and the fused clips by a guidance
that puts attention inside it (LGI, Mun et al., CVPR 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vkdlab.data.grounding import GroundingBatch
from vkdlab.emtm.layers import Attention, DualAttention, FeatureDropout, Fusion, SequenceEncoder
from vkdlab.emtm.moments import non_maximum_suppression
from vkdlab.emtm.networks import Encoder, NetworkConfig
from vkdlab.emtm.outputs import ProposalOutput
from vkdlab.metrics import temporal_iou

L1_WEIGHT = 10.0
"""Of the distance between shares, beside `1 - IoU` (Moment-DETR, released code)."""


@dataclass(frozen=True)
class ProposalConfig(NetworkConfig):
    """What a proposal network is made of."""

    dual_layers: int = 1
    """Rounds of dual attention between clips and words."""
    proposals: int = 16
    """Moments in the answer; a video of fewer clips has fewer that count."""

    def __post_init__(self):
        super().__post_init__()
        if self.dual_layers < 0:
            raise ValueError(f"ProposalConfig.dual_layers must be 0 or more, got {self.dual_layers}")
        if self.proposals < 1:
            raise ValueError(f"ProposalConfig.proposals must be at least 1, got {self.proposals}")


@dataclass(frozen=True)
class DenseProposals(ProposalOutput):
    """The answer of a proposal network, and what every clip proposed: the loss needs all of it."""

    clip_moments: Float[Tensor, "b l 2"]
    """Start and end that each clip proposes, shares of the video."""
    clip_logits: Float[Tensor, "b l"]
    """Each clip's confidence before the sigmoid; -inf on padding."""
    inside_logits: Float[Tensor, "b l"]
    """Attention of the fused clips before the softmax; -inf on padding."""
    mask: Bool[Tensor, "b l"]
    """True on real clips."""


class ProposalNetwork(nn.Module):
    """Clips and words to scored moments.

    Args:
        config: sizes; see `ProposalConfig`.
    """

    def __init__(self, config: ProposalConfig):
        super().__init__()
        self.config = config
        self.reader = ClipReader(config, dual_layers=config.dual_layers)
        self.distances = ClipHead(config.dim, 2)
        self.confidence = ClipHead(config.dim, 1)

    def forward(
        self,
        video: Float[Tensor, "b l v"],
        video_mask: Bool[Tensor, "b l"],
        query: Float[Tensor, "b w e"],
        query_mask: Bool[Tensor, "b w"],
    ) -> DenseProposals:
        """The `config.proposals` surest clips' moments, best first; arguments as for `Encoder`."""
        fused, context, inside_logits = self.reader(video, video_mask, query, query_mask)
        clip_moments = moments_around(self.distances(context, fused), video_mask)
        clip_logits = self.confidence(context, fused).squeeze(-1).masked_fill(~video_mask, -torch.inf)
        logits, chosen = clip_logits.topk(min(self.config.proposals, clip_logits.shape[1]), dim=1)
        moments = clip_moments.gather(1, chosen[..., None].expand(-1, -1, 2))
        missing = self.config.proposals - logits.shape[1]
        return DenseProposals(
            moments=functional.pad(moments, (0, 0, 0, missing)),
            logits=functional.pad(logits, (0, missing), value=-torch.inf),
            clip_moments=clip_moments,
            clip_logits=clip_logits,
            inside_logits=inside_logits,
            mask=video_mask,
        )

    def loss(self, output: DenseProposals, batch: GroundingBatch) -> dict[str, Tensor]:
        """Confidence, distances and guidance of all clips; "total" is their sum."""
        truth = batch.moment_s / batch.duration_s[:, None]  # shares
        inside = clips_inside(truth, output.mask)
        losses = {
            "confidence": confidence_loss(output.clip_logits, output.clip_moments, truth, output.mask, inside),
            "distance": distance_loss(output.clip_moments, truth, inside),
            "guidance": guidance_loss(output.inside_logits, inside),
        }
        return {"total": sum(losses.values()), **losses}

    def moments(
        self, output: ProposalOutput, batch: GroundingBatch, *, k: int
    ) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
        """The k surest moments in seconds that overlap each other by less than IoU 0.5, and their confidences."""
        logits, order = output.logits.sort(dim=1, descending=True)
        moments = output.moments.gather(1, order[..., None].expand(-1, -1, 2))
        scores = logits.sigmoid().masked_fill(logits == -torch.inf, -1.0)
        return non_maximum_suppression(moments * batch.duration_s[:, None, None], scores, k=k)


class ClipReader(nn.Module):
    """Features to clips that know the query, what stands around them and how they are placed in the whole video.

    Args:
        config: sizes.
        dual_layers: rounds of dual attention between clips and words before their fusion.
    """

    def __init__(self, config: NetworkConfig, *, dual_layers: int):
        super().__init__()
        dim, dropout = config.dim, config.dropout
        self.encoder = Encoder(config)
        self.video_attention, self.query_attention = (
            nn.ModuleList(DualAttention(dim, heads=config.heads, dropout=dropout) for _ in range(dual_layers))
            for _ in range(2)
        )
        self.fusion = Fusion(dim, dropout=dropout)
        self.inside = nn.Linear(dim, 1)
        self.inside_vector = nn.Parameter(dim**-0.5 * torch.randn(dim))
        self.sequence = SequenceEncoder(
            dim, layers=config.conv_layers, kernel=config.kernel, longest=config.max_clips, dropout=dropout
        )
        self.norm_attention, self.norm_out, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads=config.heads)
        self.out = nn.Linear(dim, dim)
        self.dropout = FeatureDropout(dropout)

    def forward(
        self,
        video: Float[Tensor, "b l v"],
        video_mask: Bool[Tensor, "b l"],
        query: Float[Tensor, "b w e"],
        query_mask: Bool[Tensor, "b w"],
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b l d"], Float[Tensor, "b l"]]:
        """Clips fused with the words, the same in their context, and the logits of an attention over them."""
        clips, words = self.encoder(video, video_mask, query, query_mask)
        for video_layer, query_layer in zip(self.video_attention, self.query_attention, strict=True):
            clips, words = (
                video_layer(clips, words, video_mask, query_mask),
                query_layer(words, clips, query_mask, video_mask),
            )
        fused = self.fusion(clips, words, video_mask, query_mask)
        logits = self.inside(fused)  # (b, l, 1)
        fused = (fused + logits.sigmoid() * self.inside_vector) * video_mask[..., None]
        x = self.sequence(fused, video_mask)
        normed = self.norm_attention(x)
        x = x + self.dropout(self.attention(normed, normed, video_mask))
        x = x + self.dropout(self.out(self.norm_out(x)))
        return fused, self.norm(x), logits.squeeze(-1).masked_fill(~video_mask, -torch.inf)


class ClipHead(nn.Module):
    """A few numbers per clip, from the clip in its context and as it was before."""

    def __init__(self, dim: int, numbers: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, numbers))

    def forward(self, context: Float[Tensor, "b l d"], fused: Float[Tensor, "b l d"]) -> Float[Tensor, "b l n"]:
        return self.layers(torch.cat([context, fused], dim=-1))


def moments_around(log_distances: Float[Tensor, "b l 2"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l 2"]:
    """Moments around the centres of the clips, as shares of the video; (0, 0) on padding.

    Args:
        log_distances: from the centre to start and end, logarithms of numbers of clips.
        mask: True on real clips.
    """
    num_clips = mask.sum(1)[:, None]
    # No moment is longer than the video; without a limit one wild number makes infinity and its gradient none at all.
    distances = log_distances.clamp(max=math.log(mask.shape[1])).exp() / num_clips[..., None]
    centres = _centres(mask)
    moments = torch.stack([centres - distances[..., 0], centres + distances[..., 1]], dim=-1)
    return moments.clamp(0, 1) * mask[..., None]


def clips_inside(truth: Float[Tensor, "b 2"], mask: Bool[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
    """Clips whose centre lies in the moment; where there is none, the one clip that holds the moment's centre.

    Args:
        truth: start and end, shares of the video.
        mask: True on real clips.
    """
    centres = _centres(mask)
    inside = (centres >= truth[:, :1]) & (centres <= truth[:, 1:]) & mask
    num_clips = mask.sum(1)
    nearest = torch.minimum((truth.mean(1) * num_clips).long(), num_clips - 1)
    holder = torch.arange(mask.shape[1], device=mask.device) == nearest[:, None]
    return torch.where(inside.any(1, keepdim=True), inside, holder)


def confidence_loss(
    logits: Float[Tensor, "b l"],
    moments: Float[Tensor, "b l 2"],
    truth: Float[Tensor, "b 2"],
    mask: Bool[Tensor, "b l"],
    inside: Bool[Tensor, "b l"],
) -> Float[Tensor, ""]:
    """Binary cross-entropy of every clip's confidence against its proposal's IoU, per clip inside, mean over the batch.

    Args:
        logits: of the confidence.
        moments: what the clips propose, shares of the video; no gradient goes here.
        truth: start and end, shares of the video.
        mask: True on real clips; all of them count in the sum over a video's clips.
        inside: the clips whose number that sum is divided by.
    """
    target = temporal_iou(moments.detach(), truth[:, None].expand_as(moments))
    losses = functional.binary_cross_entropy_with_logits(logits.masked_fill(~mask, 0), target, reduction="none")
    return ((losses * mask).sum(1) / inside.sum(1)).mean()


def distance_loss(
    moments: Float[Tensor, "b l 2"], truth: Float[Tensor, "b 2"], inside: Bool[Tensor, "b l"]
) -> Float[Tensor, ""]:
    """`10 L1 + 1 - IoU` between moments and truth, mean over a video's clips inside, then over the batch.

    Args:
        moments: what the clips propose, shares of the video.
        truth: start and end, shares of the video; L1 is the sum over both.
        inside: the clips that count, at least one per video.
    """
    truth = truth[:, None].expand_as(moments)
    losses = L1_WEIGHT * (moments - truth).abs().sum(-1) + 1 - temporal_iou(moments, truth)
    return ((losses * inside).sum(1) / inside.sum(1)).mean()


def guidance_loss(logits: Float[Tensor, "b l"], inside: Bool[Tensor, "b l"]) -> Float[Tensor, ""]:
    """Minus the mean log-attention of the clips inside the true moment, mean over the batch (LGI)."""
    log_attention = logits.log_softmax(1).masked_fill(~inside, 0)
    return -(log_attention.sum(1) / inside.sum(1)).mean()


def _centres(mask: Tensor) -> Tensor:
    """Of the clips, shares of the video; beyond 1 on padding."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    return (steps + 0.5) / mask.sum(1)[:, None]
