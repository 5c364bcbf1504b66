"""How large networks are, on what they learn and for how long (ours)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vkdlab.data.dense import DenseDataset, load_dense
from vkdlab.data.dense_batches import Augmentation
from vkdlab.delta.tasks import MULTIPLES, task_of
from vkdlab.training import TrainConfig

AUGMENTATION = Augmentation()


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
    multiples: tuple[int, ...] = MULTIPLES
    """Channels of the levels of the teacher and of smaller networks, times their width."""
    augmentation: Augmentation = AUGMENTATION
    """How training frames are changed."""
    balanced: bool = False
    """Whether rare classes count more, as `rare_first` says, in all trainings; for segmentation."""
    stills: bool = False
    """Whether students learn from pairs made of one frame, for data whose training frames do not follow closely."""
    given: Literal["espnet"] | None = None
    """A teacher that others have trained; None for one that is trained here, of `width`."""
    soft: Literal["espnet"] | None = None
    """Whose answers the teacher and smaller networks learn, both alike, beside the labels; None for labels alone."""
    unlabelled: tuple[str, ...] = ()
    """Videos of the data set "clips" whose frames are learned from too: in them answers and changes are all there is to
    learn."""
    share: float = 0.25
    """Of these frames among all, where there are any."""
    every: int = 5
    """Every so many-th frame of the test split is measured."""

    def __post_init__(self):
        for name in ("width", "teacher_samples", "student_samples", "val_frames", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"Recipe.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("size", "crop"):
            size = getattr(self, name)
            if size is not None and (min(size) < 8 or size[0] % 8 or size[1] % 8):
                raise ValueError(f"Recipe.{name} is of multiples of 8, got {size}")
        if not 0 < self.share < 1:
            raise ValueError(f"Recipe.share is above 0 and below 1, got {self.share}")


DRIVING = ("carnd_driving_solidWhiteRight", "intel_car_detection", "opencv_vtest_pedestrians")
"""Streets, of the data set "clips"."""
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
        teacher=TrainConfig(epochs=8, batch_size=8, lr=3e-3, num_threads=1, precision="bf16-mixed"),
        student=TrainConfig(epochs=4, batch_size=4, lr=2e-3, num_threads=1, precision="bf16-mixed"),
        width=36,
        student_samples=300,
        classes="objects",
        size=(192, 144),
        crop=(128, 96),
        every=100,
    ),
}
"""Per profile: "smoke" takes seconds, "demo" the notebook's minutes, "full" is what evidence is made with."""
_BOXES = Recipe(
    teacher=TrainConfig(epochs=8, batch_size=8, lr=3e-3, num_threads=1, precision="bf16-mixed"),
    student=TrainConfig(epochs=4, batch_size=4, lr=2e-3, num_threads=1, precision="bf16-mixed"),
    width=80,
    student_samples=300,
    classes="objects",
    size=(64, 48),  # a thing is about three places of the answer wide
    every=25,
)
CAMVID: Mapping[str, Recipe] = {
    "smoke": replace(RECIPES["smoke"], size=(96, 72), stills=True, every=11),
    "demo": replace(
        RECIPES["demo"],
        size=(160, 120),
        crop=(96, 80),
        videos=None,
        stills=True,
        teacher_samples=1500,
    ),
    "full": Recipe(
        teacher=TrainConfig(epochs=8, batch_size=4, lr=2e-3, num_threads=1, precision="bf16-mixed"),
        student=TrainConfig(epochs=4, batch_size=4, lr=2e-3, num_threads=1, precision="bf16-mixed"),
        width=32,
        multiples=(1, 2, 4, 4),
        teacher_samples=4000,
        profile="full",
        crop=(160, 128),
        augmentation=Augmentation(zoom=(0.5, 1.25), shift=0.35),
        balanced=True,
        stills=True,
        soft="espnet",
        unlabelled=DRIVING,
        share=0.15,
        every=1,
    ),
}
"""Of CamVid, likewise. Its training frames are a second apart: pairs are made of one frame each."""


def recipe_for(data: str, profile: str, task: str = "segmentation", *, teacher: str = "unet") -> Recipe:
    """How networks for some data and task are trained: `RECIPES`, but for CamVid and for the full one of detection.

    Args:
        data: name of the data set.
        profile: "smoke", "demo" or "full".
        task: "segmentation" or "detection".
        teacher: "unet" is trained here. "espnet" is given with its authors' weights, which are CamVid's.

    Raises:
        ValueError: no such profile, task or teacher, detection on a data set without boxes, or ESPNet on other data.
    """
    if profile not in RECIPES:
        raise ValueError(f"profile is one of {', '.join(RECIPES)}, got {profile!r}")
    if teacher not in ("unet", "espnet"):
        raise ValueError(f"teacher is 'unet' or 'espnet', got {teacher!r}")
    if teacher == "espnet" and data != "camvid":
        raise ValueError(f"ESPNet's weights know CamVid's classes: take data='camvid', or teacher='unet' for {data}")
    recipe = _BOXES if task_of(task, data=data).boxes and profile == "full" else RECIPES[profile]
    recipe = CAMVID[profile] if data == "camvid" else recipe
    return recipe if teacher == "unet" else replace(recipe, given="espnet", soft=None)


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """A recipe from what `dataclasses.asdict` made of it, with lists in place of tuples where it went through JSON."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    given |= {part: TrainConfig(**given[part]) for part in ("teacher", "student")}
    changed = given["augmentation"]
    return Recipe(**given | {"augmentation": Augmentation(**changed | {"zoom": tuple(changed["zoom"])})})


@dataclass(frozen=True)
class DenseSplits:
    """One data set, ready to be trained on."""

    train: DenseDataset
    """What is learned from."""
    val: DenseDataset
    """What chooses the best epoch."""
    test: DenseDataset
    """What is reported, and nothing else."""
    unlabelled: DenseDataset | None = None
    """What is learned from beside `train`, without labels."""
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
        recipe: profile, classes, size, number of videos, and unlabelled ones; only tabletop has other classes than
            "kinds".
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
        "unlabelled": list(recipe.unlabelled),
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
    unlabelled = None
    if source.get("unlabelled"):
        unlabelled = load_dense(
            "clips", "test", size=parts["train"].size, videos=source["unlabelled"], root=source["root"],
            workers=workers, progress=progress,
        )  # fmt: skip
    return DenseSplits(**parts, unlabelled=unlabelled, source=dict(source))
