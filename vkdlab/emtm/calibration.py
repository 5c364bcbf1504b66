"""One temperature per teacher, so that what it calls 80 % happens in 80 % (Guo et al., ICML 2017).

    T* = argmin_T  -mean sum_x y(x) log p(x)^(1 / T) / sum_x' p(x')^(1 / T)

over start and end, with y the target of `vkdlab.emtm.losses.soft_target`. In 1 / T the loss is convex, and its slope is
sum_x (p_T(x) - y(x)) log p(x): one bisection finds the minimum of all teachers at once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vkdlab.emtm.integration import log_calibrated
from vkdlab.emtm.losses import soft_target
from vkdlab.emtm.moments import moment_to_clips
from vkdlab.emtm.teacher_outputs import TeacherOutputs, require_truth


def fit_temperatures(
    outputs: TeacherOutputs, *, least: float = 0.2, greatest: float = 20.0, steps: int = 25
) -> Float[Tensor, " k"]:
    """The temperature of each teacher at which its start and end are most likely; above 1 where it is too sure.

    Args:
        outputs: on queries that no teacher was trained on, or all look too sure of what they learnt by heart.
        least: bound from below.
        greatest: bound from above.
        steps: halvings of the range of 1 / T.

    Raises:
        ValueError: a query whose true moment is not known.
    """
    boundaries = list(zip((outputs.start, outputs.end), soft_targets(outputs), strict=True))
    boundaries = [(log_calibrated(p, outputs.mask).clamp(min=-1e4), target[:, None]) for p, target in boundaries]
    low = torch.full((len(outputs.names),), 1 / greatest)
    high = torch.full_like(low, 1 / least)
    for _ in range(steps):
        sharpness = (low + high) / 2
        slope = sum(
            (((logs * sharpness[:, None]).softmax(2) - target) * logs).sum(2).mean(0) for logs, target in boundaries
        )
        low, high = torch.where(slope < 0, sharpness, low), torch.where(slope < 0, high, sharpness)
    return 2 / (low + high)


def soft_targets(outputs: TeacherOutputs) -> tuple[Float[Tensor, "n l"], Float[Tensor, "n l"]]:
    """Targets of start and end: half on the true clip, a quarter on each neighbour.

    Raises:
        ValueError: a query whose true moment is not known.
    """
    require_truth(outputs.truth_s, outputs.ids)
    clips = moment_to_clips(outputs.truth_s, outputs.duration_s, outputs.num_clips)
    return soft_target(clips[:, 0], outputs.mask), soft_target(clips[:, 1], outputs.mask)
