"""From moments in seconds to clips, and from scores over clips to moments (EMTM, released code; suppression: ours).

    best (i, j) = argmax_{i <= j} P_start(i) P_end(j),   start_s = i D / n,   end_s = (j + 1) D / n

with n clips on a video of D seconds.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vkdlab.metrics import temporal_iou


def moment_to_clips(
    moment_s: Float[Tensor, "b 2"], duration_s: Float[Tensor, " b"], num_clips: Int[Tensor, " b"]
) -> Int[Tensor, "b 2"]:
    """First and last clip that a moment touches.

    Args:
        moment_s: start and end in seconds, within the video.
        duration_s: length of the videos in seconds.
        num_clips: clips on each video's grid.
    """
    clip_s = (duration_s / num_clips)[:, None]
    # A boundary that lies on the grid must not fall into the next clip by rounding.
    tolerance = 1e-4
    first = torch.floor(moment_s[:, :1] / clip_s + tolerance)
    last = torch.ceil(moment_s[:, 1:] / clip_s - tolerance) - 1
    clips = torch.cat([first, torch.maximum(first, last)], dim=1).long()
    return torch.minimum(clips.clamp(min=0), num_clips[:, None] - 1)


def best_moments(
    start_probs: Float[Tensor, "b l"],
    end_probs: Float[Tensor, "b l"],
    *,
    duration_s: Float[Tensor, " b"],
    mask: Bool[Tensor, "b l"],
    k: int = 5,
    iou_limit: float = 0.5,
    candidates: int = 100,
) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
    """The k best moments that overlap each other by less than `iou_limit`.

    Args:
        start_probs: probability of each clip to hold the start; 0 on padding.
        end_probs: likewise for the end.
        duration_s: length of the videos in seconds.
        mask: True on real clips.
        k: how many moments.
        iou_limit: temporal IoU from which a worse moment is suppressed by a better one, above 0 to 1.
        candidates: how many (start, end) pairs are looked at, best first.

    Returns:
        Moments in seconds, best first, and their scores. Where fewer than k are left, the last one is repeated with
        score 0.
    """
    length = start_probs.shape[1]
    scores = start_probs[:, :, None] * end_probs[:, None, :]  # (b, start, end)
    ordered = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu()
    allowed = ordered & mask[:, :, None] & mask[:, None, :]
    scores = scores.masked_fill(~allowed, -1.0).flatten(1)
    best, flat = scores.topk(min(max(k, candidates), length * length), dim=1)
    clip_s = (duration_s / mask.sum(1))[:, None]
    first = flat // length
    last = torch.maximum(flat % length, first)  # a pair in the wrong order has score -1 and is never kept
    moments = torch.stack([first * clip_s, (last + 1) * clip_s], dim=-1)
    return non_maximum_suppression(moments, best, k=k, iou_limit=iou_limit)


def non_maximum_suppression(
    moments_s: Float[Tensor, "b n 2"], scores: Float[Tensor, "b n"], *, k: int, iou_limit: float = 0.5
) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
    """Keeps the k best of n moments, none overlapping a better kept one by `iou_limit` or more.

    Args:
        moments_s: candidates in seconds, best first.
        scores: their scores; a negative one marks a candidate that is none.
        k: how many to keep.
        iou_limit: temporal IoU, above 0 to 1; at 1 only exact repeats go.

    Raises:
        ValueError: k or `iou_limit` out of range.
    """
    if k < 1 or not 0 < iou_limit <= 1:
        raise ValueError(f"k must be at least 1 and iou_limit above 0 to 1, got k={k}, iou_limit={iou_limit}")
    alive = scores >= 0
    kept_moments, kept_scores = [], []
    last = moments_s[:, 0]
    for _ in range(k):
        any_left = alive.any(1)
        first = alive.float().argmax(1)  # candidates come best first
        chosen = moments_s.gather(1, first[:, None, None].expand(-1, 1, 2)).squeeze(1)
        chosen = last = torch.where(any_left[:, None], chosen, last)
        score = scores.gather(1, first[:, None]).squeeze(1)
        kept_moments.append(chosen)
        kept_scores.append(torch.where(any_left, score, torch.zeros_like(score)))
        alive = alive & (temporal_iou(moments_s, chosen[:, None].expand_as(moments_s)) < iou_limit)
    return torch.stack(kept_moments, 1), torch.stack(kept_scores, 1)
