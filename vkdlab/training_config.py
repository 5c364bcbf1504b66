"""How a method is trained and on what: the configuration of a training, and its two splits (ours)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from torch.utils.data import Dataset

from .files import hash_of


@dataclass(frozen=True)
class TrainConfig:
    """How to train. What decides the result is part of a run's key."""

    epochs: int = 20
    """Passes over the training split, at least 1."""
    batch_size: int = 32
    """Samples a step at most; the samples of an epoch are spread evenly over its steps."""
    lr: float = 1e-3
    """Learning rate of AdamW after warm-up."""
    weight_decay: int | float = 0.01
    """Of weights with two axes or more; norms and biases are never decayed."""
    warmup_epochs: int | float = 0.5
    """Epochs over which the learning rate rises linearly from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes after warm-up; cosine and linear end at 0."""
    clip_norm: int | float | None = 1.0
    """Greatest norm of all gradients together; None for no limit."""
    patience: int | None = None
    """Epochs without a better `monitor` after which training stops; None to train all epochs."""
    monitor: str = "R1@0.5"
    """The validation metric that chooses the best epoch: a key of what the method's `evaluate` returns."""
    maximise: bool = True
    """Whether a higher `monitor` is better."""
    seed: int = 0
    """Of the order of samples and of dropout. The weights the method starts from are seeded by who builds it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto is the GPU where there is one."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Arithmetic: all in 32 bits, or matrix products in bfloat16."""
    num_threads: int | None = None
    """CPU threads while training; None for torch's setting. Another number gives other rounding."""
    workers: int = 0
    """Processes that load batches ahead; 0 loads in the loop."""
    checkpoint_every_epochs: int = 1
    """Epochs between checkpoints; 0 for none at the end of an epoch."""
    checkpoint_every_s: int | float = 60.0
    """Seconds between checkpoints within an epoch."""

    def __post_init__(self) -> None:
        for name, allowed in get_type_hints(type(self)).items():
            value, options = getattr(self, name), get_args(allowed) or (allowed,)
            if isinstance(options[0], str):
                if value not in options:
                    raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, options))}")
            elif not (value is None and type(None) in options):
                accepted = (int, float) if float in options else options[0]
                if not isinstance(value, accepted) or isinstance(value, bool) != (options[0] is bool):
                    kind = "a number" if float in options else options[0].__name__
                    raise TypeError(f"{name} is {value!r}, a {type(value).__name__}; expected {kind}")
                if name in _LEAST and not _LEAST[name] <= value < math.inf:
                    raise ValueError(f"{name} is {value}, expected a finite number, {_LEAST[name]} or more")
                if name in ("lr", "clip_norm") and not 0 < value < math.inf:
                    raise ValueError(f"{name} is {value}, expected a finite number above 0")


_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "patience": 1,
    "num_threads": 1,
    "weight_decay": 0,
    "warmup_epochs": 0,
    "seed": 0,
    "workers": 0,
    "checkpoint_every_epochs": 0,
    "checkpoint_every_s": 0,
}


@dataclass(frozen=True)
class Data:
    """What a method learns from and what chooses its best epoch: never a test split."""

    train: Dataset
    """Map-style dataset with `collate(items) -> batch`."""
    val: Dataset
    """Likewise; shares no sample with `train`, and no video where each has a `dataset` that knows its `videos`."""

    def __post_init__(self) -> None:
        for name, part in (("train", self.train), ("val", self.val)):
            if part is None or not len(part):
                raise ValueError(
                    f"the {name} split is {'missing' if part is None else 'empty'}: training needs samples to learn "
                    "from and others to choose the best epoch by. Hold some out of the training split"
                )
            if not callable(getattr(part, "collate", None)):
                raise ValueError(f"the {name} split, a {type(part).__name__}, has no collate(items) that makes a batch")
            if "test" in (getattr(part, "split", None), getattr(getattr(part, "dataset", None), "split", None)):
                raise ValueError(
                    f"the {name} split is a test split: early stopping on it would make its numbers worthless"
                )
        if self.val is self.train or (self.fingerprints[0] is not None and len(set(self.fingerprints)) == 1):
            raise ValueError("train and val are the same samples: the best epoch would be the most overfitted one")
        train, val = (set(getattr(getattr(part, "dataset", None), "videos", ())) for part in (self.train, self.val))
        if shared := sorted(train & val):
            raise ValueError(
                f"train and val share {len(shared)} of {len(val)} videos ({', '.join(map(str, shared[:3]))}"
                f"{', ..' if len(shared) > 3 else ''}): validation would reward what was learned by heart. "
                "Deal out whole videos to the splits, not their queries"
            )

    @property
    def fingerprints(self) -> tuple[str | None, str | None]:
        """Of train and val; None where a dataset has none."""
        return getattr(self.train, "fingerprint", None), getattr(self.val, "fingerprint", None)

    @property
    def fingerprint(self) -> str | None:
        """Of both together, the key of a run; None where a dataset has none."""
        return None if None in self.fingerprints else hash_of(*self.fingerprints)
