"""A folder with a delta network of random weights, as a training would leave it."""

import torch

from vkdlab.data.dense import load_dense
from vkdlab.delta import convert
from vkdlab.delta.student_files import save_student
from vkdlab.delta.tasks import DETECTION, SEGMENTATION

RECIPE = {"seed": 3, "epochs": 2, "gamma": 4}


def world():
    """Frames of the built-in world, 96x72 pixels."""
    return load_dense("tabletop", "train", profile="smoke", videos=2, every=5, progress=False)


def network(dataset, *, task=SEGMENTATION, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = task.network(width, len(dataset.classes))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name == "head.weight":
                    parameter.mul_(20)  # so that classes differ from place to place
    return convert(model)


def saved(folder, dataset, *, task=SEGMENTATION, width=8):
    made = network(dataset, task=task, width=width)
    metrics = {task.metric: 0.625}
    save_student(folder, made, task=task, dataset=dataset, period=3, metrics=metrics, recipe=RECIPE)
    return made


__all__ = ["DETECTION", "RECIPE", "SEGMENTATION", "network", "saved", "world"]
