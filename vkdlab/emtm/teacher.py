"""A teacher as `vkdlab.training.fit` takes it: a grounding network of any family on some of the features (ours)."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vkdlab.data.grounding import GroundingBatch
from vkdlab.metrics import Mean, grounding_metrics


class GroundingNetwork(Protocol):
    """What every family of networks offers; `output` is one of `vkdlab.emtm.outputs`."""

    def __call__(self, video: Tensor, video_mask: Tensor, query: Tensor, query_mask: Tensor):
        """The network's answer, in its own shape."""

    def loss(self, output, batch: GroundingBatch) -> dict[str, Tensor]:
        """Named scalar hard-label losses; "total" is minimised."""

    def moments(self, output, batch: GroundingBatch, *, k: int) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
        """The k best moments in seconds, best first, and their scores; the last is repeated where there are fewer."""


class GroundingTeacher(nn.Module):
    """A grounding network with the features that it looks at, its loss and its measures.

    Args:
        network: of any family.
        columns: first and one past the last of the video features that it sees; all of them when None.
    """

    def __init__(self, network: nn.Module, *, columns: tuple[int, int] | None = None):
        super().__init__()
        self.network = network
        self.columns = slice(*columns) if columns else slice(None)

    def forward(self, batch: GroundingBatch):
        return self.network(batch.video[..., self.columns], batch.video_mask, batch.query, batch.query_mask)

    def loss(self, batch: GroundingBatch) -> dict[str, Tensor]:
        """Named scalar losses; `total` is what training minimises."""
        return self.network.loss(self(batch), batch)

    @torch.inference_mode()
    def predict(self, batch: GroundingBatch, *, k: int = 5) -> tuple[Float[Tensor, "b k 2"], Float[Tensor, "b k"]]:
        """The k best moments in seconds, best first, and their scores."""
        return self.network.moments(self(batch), batch, k=k)

    @torch.inference_mode()
    def evaluate(self, batch: GroundingBatch) -> dict[str, Mean]:
        """Recall and mean IoU of the batch, as sums that add up over batches."""
        moments_s, _ = self.predict(batch)
        return grounding_metrics(
            moments_s, batch.moment_s, duration_s=batch.duration_s, num_clips=batch.video_mask.sum(1)
        )
