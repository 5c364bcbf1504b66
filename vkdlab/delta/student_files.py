"""A trained delta network as files: all that it takes to run it over a new video, and its model card (ours).

```
<folder>/
    student.safetensors    weights of teacher and students, as `vkdlab.delta.save` writes them
    student.json           task, classes, size of the frames, the teacher's configuration
    README.md              the model card
```
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from vkdlab import cost
from vkdlab.cards import model_card
from vkdlab.data import manifests
from vkdlab.data.dense import DenseDataset
from vkdlab.delta.deployment import load, save
from vkdlab.delta.detector import DetectionConfig, DetectionNetwork
from vkdlab.delta.espnet import ESPNet, ESPNetConfig
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.networks import SegmentationConfig, SegmentationNetwork
from vkdlab.delta.tasks import TASKS, Task
from vkdlab.student_files import WEIGHTS, StudentFiles

FILES = StudentFiles(
    what="delta network", runs="delta-*", train_one="Train one: vkdlab run 04_delta_features", version=1
)
_NETWORKS = {
    "segmentation": (SegmentationNetwork, SegmentationConfig),
    "detection": (DetectionNetwork, DetectionConfig),
    "espnet": (ESPNet, ESPNetConfig),
}


@dataclass(frozen=True)
class Student:
    """A trained delta network and what it was trained for."""

    network: DeltaNetwork
    """As it was saved, in evaluation mode; its `reference` is the teacher."""
    task: Task
    """What it answers."""
    classes: tuple[str, ...]
    """Names of the classes; the first is what is no thing, where things are found."""
    size: tuple[int, int]
    """Width and height of the frames that it was trained on, pixels."""
    period: int
    """Frames from one key frame to the next that it was trained for."""
    data: str
    """The data set that it was trained on."""
    folder: Path
    """Where its files lie."""

    @cached_property
    def deployed(self) -> DeltaNetwork:
        """The form that runs."""
        return self.network if self.network.recipe.get("forms") is not None else self.network.deploy()

    @property
    def multiple(self) -> int:
        """What height and width of a frame have to be multiples of."""
        return multiple_of(self.network.model)


def multiple_of(model: nn.Module) -> int:
    """What height and width of the frames of one of this room's networks have to be multiples of."""
    return getattr(model.config, "multiple", 8)  # ESPNet's is fixed


def save_student(
    folder: str | os.PathLike,
    network: DeltaNetwork,
    *,
    task: Task,
    dataset: DenseDataset,
    period: int = 4,
    metrics: Mapping[str, float],
    measured_on: str = "",
    recipe: Mapping[str, Any],
) -> None:
    """Writes into a folder, of a run first of all, what `load_student` reads, and a model card.

    Args:
        folder: made where there is none; files of the same names are replaced.
        network: converted from one of this room's networks, trained, deployed or not; left as it is.
        task: what it answers.
        dataset: what it was trained on.
        period: frames from one key frame to the next, for the card and as the default of who runs it.
        metrics: name to share of 1, for the card.
        measured_on: what the metrics are of; by default the test split.
        recipe: how it was trained, for the card; "seed" is named as the metrics' seed.

    Raises:
        ValueError: a network of another kind, or no metric is given.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    kind = next((name for name, (form, _) in _NETWORKS.items() if type(network.model) is form), None)
    if kind is None:
        known = ", ".join(form.__name__ for form, _ in _NETWORKS.values())
        raise ValueError(
            f"a student is made from one of {known}, not from {type(network.model).__name__}: keep others with "
            "vkdlab.delta.save, which does not need to know how to build them"
        )
    settings = {
        "version": FILES.version,
        "network": kind,
        "config": dataclasses.asdict(network.model.config),
        "task": task.name,
        "classes": list(dataset.classes),
        "size": list(dataset.size),
        "period": period,
        "data": f"{dataset.name} {dataset.profile}",
    }
    card = _card(
        network, task=task, dataset=dataset, period=period, metrics=metrics, measured_on=measured_on, recipe=recipe
    )
    save(network, folder / WEIGHTS)
    FILES.complete(folder, settings, card=card)


def load_student(folder: str | os.PathLike) -> Student:
    """Reads what `save_student` wrote; the network is on the CPU and in evaluation mode.

    Raises:
        FileNotFoundError: no such folder, or it holds no student.
        ValueError: a file is damaged, of another method or training, or of another version of vkdlab; the message says
            which.
    """
    folder = Path(folder)
    settings = FILES.read(folder)
    with FILES.explained(folder):
        form, config = _NETWORKS[settings["network"]]
        model = form(config(**{name: _value(value) for name, value in settings["config"].items()}))
        task, classes, (width, height) = TASKS[settings["task"]], tuple(settings["classes"]), settings["size"]
        period, data = settings["period"], settings["data"]
    network = load(folder / WEIGHTS, model).eval().requires_grad_(False)
    return Student(network, task, classes, (width, height), period, data, folder)


def latest_student(runs_dir: str | os.PathLike | None = None) -> Path:
    """Folder of the delta network that was trained last.

    Args:
        runs_dir: folder of all runs; by default in the cache.

    Raises:
        FileNotFoundError: no run of one has ended there.
    """
    return FILES.latest(runs_dir)


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _card(
    network: DeltaNetwork,
    *,
    task: Task,
    dataset: DenseDataset,
    period: int,
    metrics: Mapping[str, float],
    measured_on: str,
    recipe: Mapping[str, Any],
) -> str:
    name, (width, height) = type(network.model).__name__, dataset.size
    known = manifests.get(dataset.name) if dataset.name in manifests.names() else None
    costs, full = network.costs((3, height, width), deployed=True), network.full_layers()
    average = costs.per_frame(period, full)
    return model_card(
        f"Delta network of a {name}, trained on {dataset.name}",
        what=f"Does {task.name} on every frame of a video. It computes key frames as its teacher does; on the frames "
        "between, small students predict how the teacher's features change (Habibian et al., ECCV 2022, as vkdlab "
        "builds it).",
        use="```\nvkdlab delta VIDEO --student THIS_FOLDER\n```",
        data={
            "data set": f"{dataset.name}, profile {dataset.profile}",
            "split": f"{dataset.split}: {len(dataset)} frames of {len(dataset.sequences)} videos",
            "frames": f"{width}x{height} pixels, RGB",
            "classes": f"{len(dataset.classes)}: {', '.join(dataset.classes)}",
        },
        features={},
        training={what: value if value not in ("", ()) else "–" for what, value in recipe.items()},
        metrics=metrics,
        measured_on=measured_on or f"the test split of {dataset.name}",
        seeds=[recipe.get("seed", 0)],
        cost={
            "parameters of teacher and students": f"{cost.parameters(network) / 1e6:.3f} million",
            "layers": f"{len(network.layers)} with a student, {len(network.left)} as they were",
            "multiply-accumulates of a frame, teacher": f"{costs.teacher / 1e9:.3f} billion",
            f"the same as it runs, on average, a key frame every {period} frames": f"{average / 1e9:.3f} billion "
            f"({100 * average / costs.teacher:.0f} % of the teacher's)",
        },
        licences={f"{dataset.name} (data)": known.licence if known else "yours, of your own videos"},
        limits=[
            f"It knows what {dataset.name} shows; elsewhere it answers all the same, and so does its teacher.",
            "It is no better than its teacher, and the further a frame is from its key frame, the worse.",
            "After a cut, all frames up to the next key frame are wrong unless key frames follow the picture "
            "(--auto-key).",
            f"Frames are brought to about {width * height} pixels: what is small in them is lost.",
        ],
    )  # fmt: skip
