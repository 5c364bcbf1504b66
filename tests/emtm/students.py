"""Students with random weights on the real features of the built-in world: what is asked of their files and answers."""

import torch

from vkdlab.data.prepared import prepare_grounding
from vkdlab.emtm import SpanConfig, SpanNetwork
from vkdlab.emtm.student_files import save_student

RECIPE = {"seed": 3, "epochs": 2, "lr": 1e-3}
METRICS = {"R1@0.5": 0.25, "mIoU": 0.3}


def world():
    return prepare_grounding("tabletop", profile="smoke", progress=False)


def network(dataset, *, columns=None, **changes):
    first, last = columns or (0, dataset.dim)
    sizes = {"dim": 8, "heads": 2, "conv_layers": 1, "dual_layers": 0, "max_clips": dataset.max_clips} | changes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SpanNetwork(SpanConfig(video_dim=last - first, **sizes)).eval()


def saved(folder, dataset, *, columns=None, **changes):
    """A folder with a student whose random logits are spread enough to tell moments apart."""
    made = network(dataset, columns=columns, **changes)
    with torch.no_grad():
        for head in (made.branch.predictor.start[-1], made.branch.predictor.end[-1]):
            head.weight.mul_(20)
    save_student(folder, made, dataset=dataset, columns=columns, metrics=METRICS, recipe=RECIPE)
    return made
