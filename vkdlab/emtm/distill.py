"""What a grounding network is trained on before anybody distils from it: hard labels (EMTM, released code).

    L = CE(start, y_start) + CE(end, y_end) + CE_match + ||E E^T o (1 - I)||_F

y has 0.5 on the true clip and 0.25 on each neighbour; what a missing neighbour would get goes to the true clip. The
matching target is 1 within two clips of the start, 3 within two clips of the end (which wins where both hold), 2
between, 0 outside.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vkdlab.data.grounding import GroundingBatch
from vkdlab.emtm.moments import best_moments, moment_to_clips
from vkdlab.emtm.networks import SpanConfig, SpanOutput, SpanTeacher
from vkdlab.metrics import Mean, grounding_metrics

OUTSIDE, START, INSIDE, END = range(4)


class GroundingTeacher(nn.Module):
    """A span teacher with its loss and its measures, as `vkdlab.training.fit` takes it.

    Args:
        config: sizes of the network.
        match_weight: weight of the matching loss beside the location loss (EMTM: 1).
    """

    def __init__(self, config: SpanConfig, *, match_weight: float = 1.0):
        super().__init__()
        self.network = SpanTeacher(config)
        self.match_weight = match_weight

    def forward(self, batch: GroundingBatch) -> SpanOutput:
        return self.network(batch.video, batch.video_mask, batch.query, batch.query_mask)

    def loss(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """Named scalar losses; `total` is what training minimises."""
        output = self(batch)
        num_clips = batch.video_mask.sum(1)
        clips = moment_to_clips(batch.moment_s, batch.duration_s, num_clips)
        location = location_loss(output, clips)
        match = match_loss(output, clips) + place_overlap(self.network.place_vectors)
        return {"total": location + self.match_weight * match, "location": location, "match": match}

    @torch.inference_mode()
    def predict(self, batch: GroundingBatch, *, k: int = 5) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
        """The k best moments in seconds, best first, and their scores (product of start and end probability)."""
        output = self(batch)
        return best_moments(
            output.start_logits.softmax(1),
            output.end_logits.softmax(1),
            duration_s=batch.duration_s,
            mask=batch.video_mask,
            k=k,
        )

    @torch.inference_mode()
    def evaluate(self, batch: GroundingBatch) -> dict[str, Mean]:
        """Recall and mean IoU of the batch, as sums that add up over batches."""
        moments_s, _ = self.predict(batch)
        return grounding_metrics(
            moments_s, batch.moment_s, duration_s=batch.duration_s, num_clips=batch.video_mask.sum(1)
        )


def location_loss(output: SpanOutput, clips: Int[Tensor, "b 2"]) -> Float[Tensor, ""]:
    """Cross-entropy of start and end against targets softened over the neighbouring clips, mean over the batch.

    Args:
        output: logits of a span network.
        clips: first and last clip of the true moment.
    """
    return sum(
        -(soft_target(clips[:, side], output.mask) * functional.log_softmax(logits, dim=1).masked_fill(~output.mask, 0))
        .sum(1)
        .mean()
        for side, logits in enumerate((output.start_logits, output.end_logits))
    )


def soft_target(clip: Int[Tensor, " b"], mask: Tensor) -> Float[Tensor, "b l"]:
    """0.5 on the clip, 0.25 on each neighbour; a missing neighbour's share goes to the clip. Rows sum to 1."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    neighbours = ((steps - clip[:, None]).abs() == 1) & mask
    target = 0.25 * neighbours
    return target + (steps == clip[:, None]) * (1 - target.sum(1, keepdim=True))


def match_loss(output: SpanOutput, clips: Int[Tensor, "b 2"]) -> Float[Tensor, ""]:
    """Cross-entropy of each clip's place, mean over the real clips of the batch."""
    losses = functional.cross_entropy(
        output.match_logits.flatten(0, 1), match_target(clips, output.mask).flatten(), reduction="none"
    )
    return losses[output.mask.flatten()].mean()


def match_target(clips: Int[Tensor, "b 2"], mask: Tensor, *, reach: int = 2) -> Int[Tensor, "b l"]:
    """Each clip's place: `OUTSIDE`, `START`, `INSIDE` or `END`; `reach` in clips."""
    steps = torch.arange(mask.shape[1], device=mask.device)
    first, last = clips[:, :1], clips[:, 1:]
    places = torch.where((steps > first) & (steps < last), INSIDE, OUTSIDE)
    places = torch.where((steps - first).abs() <= reach, START, places)
    return torch.where((steps - last).abs() <= reach, END, places)


def place_overlap(vectors: Float[Tensor, "4 d"]) -> Float[Tensor, ""]:
    """How far the place vectors are from being orthogonal: Frobenius norm of their off-diagonal products."""
    products = vectors @ vectors.T
    # The squared norm's root has no gradient at zero, where orthogonal initialisation starts.
    return (products - torch.diag(products.diagonal())).square().sum().add(1e-12).sqrt()
