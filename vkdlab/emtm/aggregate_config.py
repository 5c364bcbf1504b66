"""The options of weighing and mixing teachers (ours)."""

from __future__ import annotations

from dataclasses import dataclass

from vkdlab.emtm.integration import POOLINGS
from vkdlab.nn import INPUTS

MODES = ("kau", "constant", "uniform", "best_held_out", "oracle")
OBJECTIVES = ("nll", "iou", "moments")


@dataclass(frozen=True)
class AggregateConfig:
    """How teachers are weighed and mixed."""

    mode: str = "kau"
    """"kau": a trained unit; "constant": fitted, one for all queries; "uniform": all alike; "best_held_out": all on the
    teacher with the best R1@0.5 in the fit; "oracle": per query, all on the teachers with the greatest true IoU."""
    calibrate: bool = True
    """Fit a temperature per teacher."""
    kau_inputs: str = "uncertainty"
    """What the unit sees: "video" (and the query), "uncertainty" of the teachers, or "both"."""
    pooling: str = "log_linear"
    """"linear": weighted mean of probabilities; "log_linear": weighted product."""
    as_released: bool = False
    """The naive unit: video inputs tied to the number of clips, linear pooling, no calibration, all epochs from uniform
    weights. It replaces those settings."""
    objective: str = "nll"
    """What fitting minimises: "nll", of the mixture; "iou", what a teacher drawn by the weights would miss; "moments",
    what the mixture's best moment misses, which only a search can: a unit then learns by "nll" from searched constant
    weights, and its number of epochs is found by the moments."""
    epochs: int = 60
    """Passes over the queries of the fit, at most."""
    batch_size: int = 256
    """Queries per step."""
    lr: float = 1e-2
    """Step size of AdamW."""
    weight_decay: float = 0.1
    """Of the unit's weights, not of its biases; and, a hundredth of it, the penalty on the logits of constant weights
    that are not searched for."""
    folds: int = 4
    """Parts of the queries that are held out in turn to find the number of epochs; 0 runs all of them."""
    patience: int = 10
    """Epochs without a better one after which the search for the number of epochs ends."""
    components: int = 64
    """Principal components of clips and of words that the unit sees, at most."""
    seed: int = 0
    """Of the unit's initial weights, the order of the queries and the folds."""

    def __post_init__(self):
        if self.as_released:
            naive = {"calibrate": False, "kau_inputs": "video", "pooling": "linear", "folds": 0}
            for field, value in naive.items():
                object.__setattr__(self, field, value)
        allowed = {"mode": MODES, "kau_inputs": INPUTS, "pooling": POOLINGS, "objective": OBJECTIVES}
        for field, values in allowed.items():
            if getattr(self, field) not in values:
                raise ValueError(
                    f"AggregateConfig.{field} must be one of {', '.join(values)}, got {getattr(self, field)!r}"
                )
        for field in ("epochs", "batch_size", "patience", "components"):
            if getattr(self, field) < 1:
                raise ValueError(f"AggregateConfig.{field} must be at least 1, got {getattr(self, field)}")
        if not (self.lr > 0 and self.weight_decay >= 0):
            raise ValueError(
                f"AggregateConfig.lr must be above 0 and weight_decay 0 or more, got {self.lr} and {self.weight_decay}"
            )
        if self.folds == 1 or self.folds < 0:
            raise ValueError(f"AggregateConfig.folds must be 0 or at least 2, got {self.folds}")

    @property
    def needs_features(self) -> bool:
        """Whether fitting and weighing look at videos and queries besides the teachers' outputs."""
        return self.mode == "kau" and self.kau_inputs != "uncertainty"
