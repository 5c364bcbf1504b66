"""How large VLAP's networks are, on what they learn and for how long (ours)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vkdlab.training import TrainConfig
from vkdlab.vlap.distill import Config
from vkdlab.vlap.networks import STRIDE, CompactConfig


@dataclass(frozen=True)
class Recipe:
    """One way to train everything of a study; seeds and what chooses the best epoch are set by the study."""

    naming: TrainConfig
    """How frame encoders learn to name what they see."""
    mentions: TrainConfig
    """How it is learned what texts speak of."""
    teacher: TrainConfig
    """How the teacher learns to answer, from all frames."""
    answerer: TrainConfig
    """How the common answerer does, from fewer."""
    student: TrainConfig
    """How a prompter learns to choose, and the answerer with it."""
    profile: str = "demo"
    """Of tabletop."""
    videos: int | None = None
    """How many training videos are asked about, None for all; of the other splits a third as many."""
    draws: int = 4
    """How often each training video is asked about anew, beside the world's own questions; 0 for those alone."""
    named_videos: int | None = None
    """How many training videos frame encoders learn from, None for all; of the validation split a third as many."""
    encoder_seed: int = 0
    """Of the frame encoders and of what finds things in texts, whatever the seed of a study."""
    named_samples: int = 8000
    """Frames an epoch of naming."""
    frames: int = 32
    """T, frames of a video that are glanced at."""
    size: tuple[int, int] = (128, 96)
    """Width and height of frames that are read, pixels, multiples of 8."""
    thumbnail: tuple[int, int] = (64, 48)
    """Likewise of frames that are glanced at."""
    width: int = 24
    """Channels of the frame encoder's first convolution."""
    glance_width: int = 12
    """Likewise of the one that glances."""
    dim: int = 96
    """Numbers of a cell that either gives."""
    compact: CompactConfig = field(default_factory=CompactConfig)
    """Sizes of the answerer; its grid is that of `size`."""
    method: Config = field(default_factory=partial(Config, backbone_lr=0.25, distillation=0.1))
    """How many frames are chosen, and what is distilled: with a tenth of the paper's weight, for that one lost two
    points in a trial. The answerer has learned before, and learns on more slowly."""
    counts: tuple[int, ...] = (1, 2, 4, 8, 32)
    """Numbers of frames from which the common answerer learns to answer; `frames` is among
    these, so that to read all frames is something that it has learned."""

    def __post_init__(self):
        for name in ("named_samples", "frames", "width", "glance_width", "dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"Recipe.{name} must be at least 1, got {getattr(self, name)}")
        if self.draws < 0:
            raise ValueError(f"Recipe.draws must be at least 0, got {self.draws}")
        for name in ("size", "thumbnail"):
            size = getattr(self, name)
            if min(size) < STRIDE or size[0] % STRIDE or size[1] % STRIDE:
                raise ValueError(f"Recipe.{name} is of multiples of {STRIDE}, got {size}")
        if self.compact.grid != self.grid(self.size):
            raise ValueError(f"frames of {self.size} have a grid of {self.grid(self.size)}, got {self.compact.grid}")
        if self.method.frames != self.frames:
            raise ValueError(f"Recipe.frames is {self.frames} and Recipe.method.frames {self.method.frames}")

    @staticmethod
    def grid(size: tuple[int, int]) -> tuple[int, int]:
        """Columns and rows of cells of a picture of some width and height."""
        return size[0] // STRIDE, size[1] // STRIDE

    def steps(self, questions: int) -> int:
        """Of a student's training on so many questions."""
        return self.student.epochs * math.ceil(questions / self.student.batch_size)


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """A recipe from what `dataclasses.asdict` made of it, with lists in place of tuples where it went through JSON."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    given |= {part: TrainConfig(**given[part]) for part in ("naming", "mentions", "teacher", "answerer", "student")}
    compact = CompactConfig(**given["compact"] | {"grid": tuple(given["compact"]["grid"])})
    return Recipe(**given | {"compact": compact, "method": Config(**given["method"])})


_FAST = {"num_threads": 1, "precision": "bf16-mixed"}
RECIPES: Mapping[str, Recipe] = {
    "smoke": Recipe(
        naming=TrainConfig(epochs=1, batch_size=8, lr=3e-3, num_threads=1),
        mentions=TrainConfig(epochs=1, batch_size=32, lr=2e-3, num_threads=1),
        teacher=TrainConfig(epochs=1, batch_size=8, lr=1e-3, num_threads=1),
        answerer=TrainConfig(epochs=1, batch_size=8, lr=1e-3, num_threads=1),
        student=TrainConfig(epochs=1, batch_size=8, lr=1e-3, num_threads=1),
        profile="smoke",
        draws=1,
        named_samples=32,
        frames=8,
        size=(48, 40),
        thumbnail=(32, 24),
        width=4,
        glance_width=4,
        dim=16,
        compact=CompactConfig(grid=(6, 5), hidden=16, score_layers=1, heads=2),
        method=Config(select=2, frames=8),
        counts=(1, 2, 8),
    ),
    "demo": Recipe(
        naming=TrainConfig(epochs=1, batch_size=16, lr=3e-3, **_FAST),
        mentions=TrainConfig(epochs=2, batch_size=64, lr=2e-3, num_threads=1),
        teacher=TrainConfig(epochs=2, batch_size=32, lr=2e-3, weight_decay=0.05, num_threads=1),
        answerer=TrainConfig(epochs=4, batch_size=32, lr=2e-3, weight_decay=0.05, num_threads=1),
        student=TrainConfig(epochs=2, batch_size=32, lr=2e-3, weight_decay=0.05, num_threads=1),
        named_samples=5000,
    ),
    "full": Recipe(
        naming=TrainConfig(epochs=4, batch_size=16, lr=3e-3, **_FAST),
        mentions=TrainConfig(epochs=1, batch_size=64, lr=2e-3, num_threads=1),
        teacher=TrainConfig(epochs=3, batch_size=64, lr=2e-3, weight_decay=0.05, num_threads=1),
        answerer=TrainConfig(epochs=4, batch_size=64, lr=2e-3, weight_decay=0.05, num_threads=1),
        student=TrainConfig(epochs=2, batch_size=64, lr=2e-3, weight_decay=0.05, num_threads=1),
        profile="full",
        draws=4,
        named_videos=180,
        width=32,
        glance_width=16,
    ),
}
"""Per profile: "smoke" takes seconds."""
