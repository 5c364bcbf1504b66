"""Answers of four teachers who are right, and sure of it, to different degrees: made up, so that the truth is known."""

from __future__ import annotations

import torch

from vkdlab.emtm.integration import Integrated, integrate
from vkdlab.emtm.outputs import Boundaries
from vkdlab.emtm.teacher_outputs import TeacherOutputs, decode

NAMES = ("span", "map", "proposal", "regression")


def outputs(*, queries=300, length=33, seed=0, errors=(0.05, 0.08, 0.12, 0.2), names=NAMES):
    """Each teacher misses the truth by its own typical share of the video; a sharp distribution is a sure one."""
    generator = torch.Generator().manual_seed(seed)
    duration_s = 10 + 20 * torch.rand(queries, generator=generator)
    clips = torch.randint(max(1, length - 8), length + 1, (queries,), generator=generator)
    clips[0] = length
    mask = torch.arange(length) < clips[:, None]
    share = torch.rand(queries, 2, generator=generator).sort(1).values * 0.9
    share[:, 1] += 0.1
    error = torch.tensor(errors)[:, None] * torch.rand(queries, len(names), 1, generator=generator) * 2
    missed = error * torch.randn(queries, len(names), 2, generator=generator)
    wide = (0.6 * error + 0.01).expand(-1, -1, 2)
    places = torch.arange(length) / clips[:, None]
    boundaries = []
    for side in (0, 1):
        middle = (share[:, None, side] + missed[..., side]).clamp(0, 1)[..., None]
        x = (places + side / clips[:, None])[:, None]
        logits = -((x - middle) ** 2) / (2 * wide[..., side, None] ** 2)
        boundaries.append(logits.masked_fill(~mask[:, None], -torch.inf).softmax(2))
    start, end = boundaries
    moments = [
        decode(Boundaries(start=start[:, place], end=end[:, place], mask=mask), duration_s, k=1)
        for place in range(len(names))
    ]
    return TeacherOutputs(
        names=tuple(names),
        ids=tuple(f"query-{row}" for row in range(queries)),
        start=start,
        end=end,
        mask=mask,
        moments_s=torch.cat(moments, 1),
        duration_s=duration_s,
        truth_s=share * duration_s[:, None],
    )


def integrated(said, weights):
    """The mixture with these weights: (k,) for all queries alike, or (n, k, 2)."""
    weights = torch.as_tensor(weights, dtype=torch.float32)
    if weights.ndim == 1:
        weights = weights[None, :, None].expand(len(said.ids), -1, 2).contiguous()
    start, end = integrate(said, weights)
    boundaries = Boundaries(start=start, end=end, mask=said.mask)
    return Integrated(
        weights=weights,
        start=start,
        end=end,
        mask=said.mask,
        moments_s=decode(boundaries, said.duration_s, k=5),
        duration_s=said.duration_s,
        truth_s=said.truth_s,
        ids=said.ids,
        names=said.names,
    )


def sure(said, *, noise=0.5, seed=0):
    """Weights by how sure each teacher is, with noise: what a unit might have learnt."""
    generator = torch.Generator().manual_seed(seed)
    peaks = torch.stack([said.start.amax(2), said.end.amax(2)], 2).log()
    return integrated(said, (2 * peaks + noise * torch.randn(peaks.shape, generator=generator)).softmax(1))
