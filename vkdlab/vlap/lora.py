"""Low-rank changes to a frozen language model (LoRA; Hu et al., ICLR 2022), as ViLA's variant that fine-tunes Flan-T5.

    y = W x + alpha / rank * up down dropout(x)

with W frozen, and `up` zero at first, so that nothing has changed before the first step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

QUERIES_AND_VALUES = ("q", "v", "q_proj", "v_proj")
"""What T5, and what OPT and LLaMA call these layers of their attention."""


@dataclass(frozen=True)
class LoRA:
    """Low-rank changes to the queries and values of all attention; defaults are those of ViLA's released code."""

    rank: int = 16
    """Rank of a change."""
    alpha: float | int = 32
    """A change is multiplied by alpha / rank."""
    dropout: float | int = 0.05
    """Share of its input dropped while training, 0 to below 1."""

    def __post_init__(self):
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"LoRA needs a rank of at least 1, alpha above 0 and dropout from 0 to below 1, got {self}"
            )


class LowRank(nn.Module):
    """A linear layer with a change of low rank, which is float32 whatever the layer is.

    Args:
        layer: W; used, not copied.
        lora: rank, alpha and dropout.
    """

    def __init__(self, layer: nn.Linear, *, lora: LoRA):
        super().__init__()
        self.layer, self.factor, self.dropout = layer, lora.alpha / lora.rank, nn.Dropout(lora.dropout)
        device = layer.weight.device
        self.down = nn.Parameter(torch.empty(lora.rank, layer.in_features, device=device))
        self.up = nn.Parameter(torch.zeros(layer.out_features, lora.rank, device=device))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d2"]:
        change = linear(linear(self.dropout(x.float()), self.down), self.up)
        return self.layer(x) + (self.factor * change).to(x.dtype)


def add_lora(language_model: nn.Module, lora: LoRA) -> list[LowRank]:
    """Puts a `LowRank` in the place of every query and value layer, and returns them.

    Raises:
        ValueError: there is no layer of such a name.
    """
    added = []
    for module in list(language_model.modules()):
        for name, layer in list(module.named_children()):
            if name in QUERIES_AND_VALUES and isinstance(layer, nn.Linear):
                added.append(LowRank(layer, lora=lora))
                setattr(module, name, added[-1])
    if not added:
        raise ValueError(
            f"{type(language_model).__name__} has no linear layer called {', '.join(QUERIES_AND_VALUES)} to change"
        )
    return added
