"""Regression networks: one moment, read off the clips by attention.

After LGI (Mun et al., CVPR 2020): the words are fused into every clip, the clips look at their surroundings (local, by
convolutions) and at each other (global, by attention), a temporal attention pools them, the moment is regressed from
what is pooled, and a guidance loss puts the attention inside the true moment.

Ours: what is pooled is not a feature, from which a position can only be guessed, but what each clip says where the
moment is. With the centre `c_i` of clip `i` of `n` and attention `a`,

    m_i = [c_i - exp(x_i) / n, c_i + exp(y_i) / n],   best = argmax_i sum_j a_j IoU(m_i, m_j),
    m = sum_j w_j m_j / sum_j w_j,   w_j = a_j IoU(m_best, m_j),
    L = mean_{i inside} (10 |m_i - m*|_1 + 1 - IoU(m_i, m*)) - mean_{i inside} log a_i

so that the mean is one of clips that agree: that of two places that are both possible is neither (R1@0.5 0.28 in place
of 0.51 from the same weights on tabletop's validation split). The distances are learned clip by clip, because the loss
of a mean over all clips taught little while the attention was still everywhere. LGI's smooth L1 became L1 and IoU, its
sequence of query phrases the fusion that all networks here share, and its distinct-attention loss went with the
phrases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vkdlab.data.grounding import GroundingBatch
from vkdlab.emtm.networks import NetworkConfig
from vkdlab.emtm.outputs import RegressionOutput
from vkdlab.emtm.proposal_teacher import (
    ClipHead,
    ClipReader,
    clips_inside,
    distance_loss,
    guidance_loss,
    moments_around,
)
from vkdlab.metrics import temporal_iou


@dataclass(frozen=True)
class RegressionConfig(NetworkConfig):
    """What a regression network is made of."""

    dual_layers: int = 1
    """Rounds of dual attention between clips and words."""

    def __post_init__(self):
        super().__post_init__()
        if self.dual_layers < 0:
            raise ValueError(f"RegressionConfig.dual_layers must be 0 or more, got {self.dual_layers}")


@dataclass(frozen=True)
class AttendedMoment(RegressionOutput):
    """The answer of a regression network, and where it looked: the loss needs both."""

    clip_moments: Float[Tensor, "b l 2"]
    """Start and end that each clip says, shares of the video; (0, 0) on padding."""
    attention_logits: Float[Tensor, "b l"]
    """Of the temporal attention; -inf on padding."""
    inside_logits: Float[Tensor, "b l"]
    """Of the fused clips' attention, before they saw their surroundings; -inf on padding."""
    mask: Bool[Tensor, "b l"]
    """True on real clips."""


class RegressionNetwork(nn.Module):
    """Clips and words to one moment.

    Args:
        config: sizes; see `RegressionConfig`.
    """

    def __init__(self, config: RegressionConfig):
        super().__init__()
        self.config = config
        self.reader = ClipReader(config, dual_layers=config.dual_layers)
        self.distances = ClipHead(config.dim, 2)
        self.attention = ClipHead(config.dim, 1)

    def forward(
        self,
        video: Float[Tensor, "b l v"],
        video_mask: Bool[Tensor, "b l"],
        query: Float[Tensor, "b w e"],
        query_mask: Bool[Tensor, "b w"],
    ) -> AttendedMoment:
        """The moment that the attended clips agree on; arguments as for `Encoder`."""
        fused, context, inside_logits = self.reader(video, video_mask, query, query_mask)
        logits = self.attention(context, fused).squeeze(-1).masked_fill(~video_mask, -torch.inf)
        clip_moments = moments_around(self.distances(context, fused), video_mask)
        return AttendedMoment(
            moment=agreed_moment(clip_moments, logits.softmax(1)),
            clip_moments=clip_moments,
            attention_logits=logits,
            inside_logits=inside_logits,
            mask=video_mask,
        )

    def loss(self, output: AttendedMoment, batch: GroundingBatch) -> dict[str, Tensor]:
        """Distances of the clips inside and guidance of both attentions; "total" is their sum."""
        truth = batch.moment_s / batch.duration_s[:, None]  # shares
        inside = clips_inside(truth, output.mask)
        losses = {
            "distance": distance_loss(output.clip_moments, truth, inside),
            "guidance": guidance_loss(output.attention_logits, inside) + guidance_loss(output.inside_logits, inside),
        }
        return {"total": sum(losses.values()), **losses}

    def moments(
        self, output: RegressionOutput, batch: GroundingBatch, *, k: int
    ) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
        """The moment in seconds with score 1, then repeated with score 0: there is no second one."""
        moments_s = (output.moment * batch.duration_s[:, None])[:, None].repeat(1, k, 1)
        scores = torch.zeros_like(moments_s[..., 0])
        scores[:, 0] = 1
        return moments_s, scores


def agreed_moment(moments: Float[Tensor, "b l 2"], attention: Float[Tensor, "b l"]) -> Float[Tensor, "b 2"]:
    """The moment of the greatest expected IoU, averaged with those that overlap it.

    Args:
        moments: what each clip says, shares of the video.
        attention: weight of each clip; 0 on padding, sums to 1.
    """
    overlaps = temporal_iou(moments[:, :, None], moments[:, None])  # (b, l, l)
    best = (overlaps @ attention[..., None]).argmax(1, keepdim=True)  # (b, 1, 1)
    weights = attention * overlaps.take_along_dim(best, 1).squeeze(1)
    agreed = (weights[..., None] * moments).sum(1) / weights.sum(1, keepdim=True)
    return agreed.clamp(0, 1)  # rounding alone leaves the range
