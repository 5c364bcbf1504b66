"""Map networks: one score for every pair of a first and a last clip, each an estimate of that moment's IoU.

After 2D-TAN (Zhang et al., AAAI 2020) and CCA (Wu et al.): moments are cells of a map, a cell sees what lies at its two
ends and between them, looks at its neighbours on the map, and is scored:

    c_ij = ReLU(W_s h_i + W_e h_j + W_c mean(h_i .. h_j)),   score_ij = w C(c)_ij,   i <= j

with `h` the clips that were fused with the words and saw each other, and `C` residual blocks of a depthwise 3 x 3
convolution over the map and a linear layer. Three losses, each with weight 1: every cell's score against its scaled IoU
with the true moment (2D-TAN), the choice among all cells of a video (ours), and a guidance that puts the attention of
the clips inside the moment (LGI, Mun et al., CVPR 2020); see `iou_target`, `overlap_loss` and `choice_loss`.

Where we differ:

- Clips meet the words before the map is made. With cells that meet one pooled vector of the query, cell losses alone
  found events and not which of them is meant (tabletop, validation: R1@0.5 0.21, R5@0.5 0.68 after eight epochs; the
  choice and dual attention brought 0.36, clips that see each other, guidance and the choice's scale 0.48).
- The map is narrow, and only cells that are moments of the video are computed: a training step costs on a CPU about
  what a span network's does.
- The mean of the clips between stands for their maximum.
- IoU is scaled from half to all of the best cell's and not of 1: a moment shorter than a clip has a cell of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vkdlab.data.grounding import GroundingBatch
from vkdlab.emtm.moments import non_maximum_suppression
from vkdlab.emtm.networks import NetworkConfig
from vkdlab.emtm.outputs import MapOutput
from vkdlab.emtm.proposal_teacher import ClipReader, clips_inside, guidance_loss

CHOICE_SCALE = 3.0
"""What logits are multiplied by where cells compete, see `choice_loss` (ours)."""


@dataclass(frozen=True)
class MapConfig(NetworkConfig):
    """What a map network is made of."""

    dual_layers: int = 1
    """Rounds of dual attention between clips and words; 0 or more."""
    map_clips: int = 64
    """Longest side of the map, in bins; a video of more clips is averaged into so many equal parts."""
    map_dim: int = 48
    """Width of a cell."""
    map_layers: int = 1
    """Blocks in which a cell looks at its eight neighbours on the map; 0 or more."""

    def __post_init__(self):
        super().__post_init__()
        for field, least in (("dual_layers", 0), ("map_clips", 1), ("map_dim", 1), ("map_layers", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"MapConfig.{field} must be at least {least}, got {getattr(self, field)}")


@dataclass(frozen=True)
class GuidedMap(MapOutput):
    """The answer of a map network, and where its clips' attention lies: the loss needs both."""

    inside_logits: Float[Tensor, "b l"]
    """Attention of the fused clips before the softmax; -inf on padding."""
    video_mask: Bool[Tensor, "b l"]
    """True on real clips of the batch's grid."""


class MapNetwork(nn.Module):
    """Clips and words to a score of every moment on the grid: the map teacher.

    Args:
        config: sizes; see `MapConfig`.
    """

    def __init__(self, config: MapConfig):
        super().__init__()
        self.config = config
        self.reader = ClipReader(config, dual_layers=config.dual_layers)
        self.parts = nn.Linear(2 * config.dim, 3 * config.map_dim)  # at the start, at the end, between
        self.blocks = nn.ModuleList(_MapBlock(config.map_dim) for _ in range(config.map_layers))
        self.norm_out = nn.LayerNorm(config.map_dim)
        self.score = nn.Linear(config.map_dim, 1)
        # Nearly all cells are wrong: a network that says so from the start need not learn it first.
        nn.init.constant_(self.score.bias, -math.log(99.0))

    def forward(
        self,
        video: Float[Tensor, "b l v"],
        video_mask: Bool[Tensor, "b l"],
        query: Float[Tensor, "b w e"],
        query_mask: Bool[Tensor, "b w"],
    ) -> GuidedMap:
        """Scores every pair of clips as the moment that the query names; arguments as for `Encoder`.

        Returns:
            Logits of every pair, -inf where the last clip is before the first or one is padding. The map is as long as
            the longest video of the batch, at most `map_clips`.
        """
        fused, context, inside_logits = self.reader(video, video_mask, query, query_mask)
        clips = torch.cat([context, fused], dim=-1)
        bins, mask = pool_clips(clips, video_mask, longest=self.config.map_clips)
        valid = valid_cells(mask)
        row, first, last = valid.nonzero(as_tuple=True)
        cells = _cells(self.parts(bins), row, first, last)
        for block in self.blocks:
            cells = block(cells, valid)
        scores = self.score(self.norm_out(cells)).squeeze(-1)
        logits = scores.new_full(valid.shape, -torch.inf).index_put((row, first, last), scores)
        return GuidedMap(logits=logits, mask=mask, inside_logits=inside_logits, video_mask=video_mask)

    def loss(self, output: GuidedMap, batch: GroundingBatch) -> dict[str, Tensor]:
        """Hard-label losses: overlap and choice of the cells, guidance of the clips; "total" is their sum."""
        truth = batch.moment_s / batch.duration_s[:, None]  # shares
        target = iou_target(truth, output.mask)
        losses = {
            "overlap": overlap_loss(output, target),
            "choice": choice_loss(output, target),
            "guidance": guidance_loss(output.inside_logits, clips_inside(truth, output.video_mask)),
        }
        return {"total": sum(losses.values()), **losses}

    def moments(
        self, output: MapOutput, batch: GroundingBatch, *, k: int
    ) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
        """The k best moments in seconds, best first, and their scores (estimated IoU).

        None overlaps a better one by half; where fewer are left, the last is repeated with score 0.
        """
        length = output.mask.shape[1]
        scores = output.logits.sigmoid().masked_fill(~valid_cells(output.mask), -1.0).flatten(1)
        best, flat = scores.topk(min(max(k, 100), length * length), dim=1)
        first = flat // length
        last = torch.maximum(flat % length, first)  # a pair in the wrong order has score -1 and is never kept
        bin_s = (batch.duration_s / output.mask.sum(1))[:, None]
        return non_maximum_suppression(torch.stack([first * bin_s, (last + 1) * bin_s], dim=-1), best, k=k)


def valid_cells(mask: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n n"]:
    """True on pairs of real clips of which the last is not before the first."""
    return (mask[:, :, None] & mask[:, None, :]).triu()


def pool_clips(
    clips: Float[Tensor, "b l d"], mask: Bool[Tensor, "b l"], *, longest: int
) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
    """Means over `longest` equal parts of every video that has more clips; a shorter one stays as it is.

    Args:
        clips: numbers of the clips, real ones first.
        mask: True on real clips.
        longest: parts at most.

    Returns:
        The bins, zero on padding, and their mask; a part that ends within a clip counts that clip by the share it
        covers.
    """
    if mask.shape[1] <= longest:
        return clips * mask[..., None], mask
    valid = mask.sum(1)[:, None, None]
    parts = valid.clamp(max=longest)
    step = torch.arange(mask.shape[1], device=mask.device)
    # Edges in units of 1 / (valid * parts) of the video are whole numbers: nothing is lost by rounding.
    part, clip = step[None, :longest, None], step[None, None, :]
    covered = torch.minimum((part + 1) * valid, (clip + 1) * parts) - torch.maximum(part * valid, clip * parts)
    shares = covered.clamp(min=0).to(clips.dtype) / valid  # (b, part, clip): rows sum to 1
    kept = part[..., 0] < parts[..., 0]
    return (shares * kept[..., None]) @ (clips * mask[..., None]), kept


def iou_target(shares: Float[Tensor, "b 2"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b n n"]:
    """What every cell should say: its IoU with the true moment, scaled.

    0 up to half the IoU that the best cell has, 1 at the best cell's, linear between (2D-TAN with limits 0.5 and 1,
    taken relative to what the grid allows).

    Args:
        shares: start and end of the true moments, shares of the video.
        mask: True on real clips of the map's grid.

    Returns:
        Targets, 0 to 1; 0 on cells that are no moment. Every row has a 1.
    """
    shortest = 1e-3  # a moment of no length has no IoU with anything
    start = shares[:, 0].clamp(0, 1 - shortest)[:, None, None]
    end = torch.maximum(shares[:, 1].clamp(max=1)[:, None, None], start + shortest)
    count = mask.sum(1)[:, None, None]
    step = torch.arange(mask.shape[1], device=mask.device)
    first, last = step[None, :, None] / count, (step[None, None, :] + 1) / count
    both = (torch.minimum(last, end) - torch.maximum(first, start)).clamp(min=0)
    either = torch.maximum(last, end) - torch.minimum(first, start)
    iou = (both / either).masked_fill(~valid_cells(mask), 0)
    best = iou.amax((1, 2), keepdim=True)
    return (2 * iou / best - 1).clamp(min=0)


def overlap_loss(output: MapOutput, target: Float[Tensor, "b n n"]) -> Float[Tensor, ""]:
    """Binary cross-entropy summed over a video's cells, over the sum of their targets; mean over the batch.

    Dividing by what there is to find, and not by how many cells there are, lets long and short videos count alike and
    keeps the many wrong cells of a long one from drowning the few right ones; within a video all cells weigh the same,
    so that a score stays an estimate of the target.

    Args:
        output: of a map network.
        target: of `iou_target`.
    """
    valid = valid_cells(output.mask)
    losses = functional.binary_cross_entropy_with_logits(output.logits[valid], target[valid], reduction="none")
    row = valid.nonzero(as_tuple=True)[0]
    summed = losses.new_zeros(len(target)).index_add(0, row, losses)
    return (summed / target.sum((1, 2))).mean()


def choice_loss(output: MapOutput, target: Float[Tensor, "b n n"]) -> Float[Tensor, ""]:
    """Cross-entropy of a softmax over all cells of a video against the targets as shares; mean over the batch.

    Before the softmax, logits are multiplied by `CHOICE_SCALE`: those that make good estimates of an IoU lie too close
    to each other for one cell to stand out among a thousand, and the two losses would pull against each other.

    Args:
        output: of a map network.
        target: of `iou_target`.
    """
    log_probs = (
        (CHOICE_SCALE * output.logits.flatten(1)).log_softmax(1).masked_fill(~valid_cells(output.mask).flatten(1), 0)
    )
    wanted = target.flatten(1)
    return -((wanted * log_probs).sum(1) / wanted.sum(1)).mean()


class _MapBlock(nn.Module):
    """Every cell sees its eight neighbours, one by one per feature, then mixes its features; residual."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.pointwise = nn.Linear(dim, dim)

    def forward(self, cells: Tensor, valid: Tensor) -> Tensor:
        where = valid.nonzero(as_tuple=True)
        # Features last in memory, as they come: for a depthwise convolution also the fastest order on a CPU.
        dense = cells.new_zeros(*valid.shape, cells.shape[1]).index_put(where, self.norm(cells))
        seen = self.depthwise(dense.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        flat = valid.flatten().nonzero().squeeze(1)
        return cells + functional.relu(self.pointwise(seen.flatten(0, 2).index_select(0, flat)))


def _cells(parts: Tensor, row: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """From what each bin adds at the start, at the end and between (b, n, 3m) to the cells (all of them, m)."""
    length = parts.shape[1]
    at_start, at_end, between = parts.chunk(3, dim=2)
    until = functional.pad(between.cumsum(1), (0, 0, 1, 0)).flatten(0, 1)  # (b * (n + 1), m)
    at_start, at_end = at_start.flatten(0, 1), at_end.flatten(0, 1)
    # index_select, as the gradient of indexing with tensors would sort all cells first.
    begin, stop = row * (length + 1) + first, row * (length + 1) + last + 1
    inside = (until.index_select(0, stop) - until.index_select(0, begin)) / (last - first + 1)[:, None]
    return functional.relu(
        at_start.index_select(0, row * length + first) + at_end.index_select(0, row * length + last) + inside
    )
