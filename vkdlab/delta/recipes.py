"""How large networks are, on what they learn and for how long (ours)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vkdlab.data.dense import DenseDataset, load_dense
from vkdlab.delta.tasks import task_of
from vkdlab.training import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """One way to train everything of a study; `teacher.monitor` and seeds are set by the study."""

    teacher: TrainConfig
    """How the teacher is trained."""
    student: TrainConfig
    """How delta networks and low-rank networks are tuned. Smaller networks get the teacher's epochs and, in samples, as
    much again as these."""
    width: int = 32
    """Channels at the teacher's first level."""
    teacher_samples: int = 2000
    """Frames an epoch of the teacher."""
    student_samples: int = 600
    """Pairs of frames an epoch of students."""
    val_frames: int = 240
    """Frames by which the best epoch is chosen, about."""
    profile: str = "demo"
    """Of the data."""
    classes: Literal["kinds", "objects"] = "kinds"
    """Of the built-in world; "objects" (shapes by colour) is hard enough to tell large networks from small ones."""
    size: tuple[int, int] | None = None
    """Width and height of frames, pixels, multiples of 8; None for the data's own."""
    crop: tuple[int, int] | None = None
    """Width and height of the cuts of training frames, pixels, likewise; None for whole frames."""
    videos: int | None = None
    """How many training videos, None for all; of the other splits a third as many."""

    def __post_init__(self):
        for name in ("width", "teacher_samples", "student_samples", "val_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"Recipe.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("size", "crop"):
            size = getattr(self, name)
            if size is not None and (min(size) < 8 or size[0] % 8 or size[1] % 8):
                raise ValueError(f"Recipe.{name} is of multiples of 8, got {size}")


RECIPES: Mapping[str, Recipe] = {
    "smoke": Recipe(
        teacher=TrainConfig(epochs=1, batch_size=4, lr=3e-3, num_threads=1),
        student=TrainConfig(epochs=1, batch_size=2, lr=2e-3, num_threads=1),
        width=8,
        teacher_samples=16,
        student_samples=8,
        val_frames=16,
        profile="smoke",
    ),
    "demo": Recipe(
        teacher=TrainConfig(epochs=6, batch_size=8, lr=3e-3, num_threads=1, precision="bf16-mixed"),
        student=TrainConfig(epochs=2, batch_size=4, lr=2e-3, num_threads=1, precision="bf16-mixed"),
        teacher_samples=1000,
        student_samples=200,
        val_frames=120,
        size=(96, 72),
        videos=30,
    ),
    "full": Recipe(
        teacher=TrainConfig(epochs=5, batch_size=8, lr=3e-3, num_threads=1, precision="bf16-mixed"),
        student=TrainConfig(epochs=4, batch_size=4, lr=2e-3, num_threads=1, precision="bf16-mixed"),
        width=40,
        student_samples=300,
        classes="objects",
    ),
}
"""Per profile: "smoke" takes seconds, "demo" the notebook's minutes, "full" is what evidence is made with."""
_BOXES = Recipe(
    teacher=TrainConfig(epochs=8, batch_size=8, lr=3e-3, num_threads=1, precision="bf16-mixed"),
    student=TrainConfig(epochs=4, batch_size=4, lr=2e-3, num_threads=1, precision="bf16-mixed"),
    width=80,
    student_samples=300,
    classes="objects",
    size=(64, 48),  # in larger pictures a small detector finds nearly all, and a wide one has no purpose
)


def recipe_for(data: str, profile: str, task: str = "segmentation") -> Recipe:
    """How networks for some data and task are trained: `RECIPES`, but for the full one of detection.

    Args:
        data: name of the data set.
        profile: "smoke", "demo" or "full".
        task: "segmentation" or "detection".

    Raises:
        ValueError: no such profile or task, or detection on a data set without boxes.
    """
    if profile not in RECIPES:
        raise ValueError(f"profile is one of {', '.join(RECIPES)}, got {profile!r}")
    return _BOXES if task_of(task, data=data).boxes and profile == "full" else RECIPES[profile]


@dataclass(frozen=True)
class DenseSplits:
    """One data set, ready to be trained on."""

    train: DenseDataset
    """What is learned from."""
    val: DenseDataset
    """What chooses the best epoch."""
    test: DenseDataset
    """What is reported, and nothing else."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """The arguments that `load_splits` makes these splits again from, in another process too."""

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Of a frame: (3, h, w)."""
        width, height = self.train.size
        return 3, height, width


def load_splits(
    name: str = "tabletop",
    *,
    recipe: Recipe,
    root: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> DenseSplits:
    """The three splits of a data set as a recipe wants them.

    Args:
        name: "tabletop", or any other that `load_dense` takes.
        recipe: profile, classes, size and number of videos; only tabletop has other classes than "kinds".
        root: the data root, default `$VKDLAB_DATA`.
        workers: processes that decode, default one a core.
        progress: shows progress bars.

    Raises:
        ValueError, DataMissing: as `load_dense`.
    """
    source = {
        "name": name,
        "profile": recipe.profile,
        "classes": recipe.classes if name == "tabletop" else "kinds",
        "size": None if recipe.size is None else list(recipe.size),
        "videos": recipe.videos,
        "root": None if root is None else os.fspath(root),
    }
    return splits_from(source, workers=workers, progress=progress)


def splits_from(source: Mapping[str, Any], *, workers: int | None = None, progress: bool = True) -> DenseSplits:
    """The splits of `DenseSplits.source`."""
    few = source["videos"]
    parts = {
        split: load_dense(
            source["name"],
            split,
            profile=source["profile"],
            size=None if source["size"] is None else tuple(source["size"]),
            classes=source["classes"],
            videos=few if few is None or split == "train" else max(1, few // 3),
            root=source["root"],
            workers=workers,
            progress=progress,
        )
        for split in ("train", "val", "test")
    }
    return DenseSplits(**parts, source=dict(source))
