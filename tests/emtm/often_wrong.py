"""Answers of teachers that are right in a known share of the queries and name any other moment in the rest: made up."""

from dataclasses import replace

import torch

from vkdlab.emtm.outputs import Boundaries
from vkdlab.emtm.teacher_outputs import TeacherOutputs, decode

QUALITY = {"memoriser": 0.3, "honest": 0.6, "plain": 0.6, "weak": 0.4}
BY_HEART = QUALITY | {"memoriser": 0.99}


def said_by(quality, *, count=300, length=20, seed=0):
    """Teachers that are right in a share of the queries and elsewhere name any other moment.

    The memoriser is always sure; honest and weak are less sure where they are wrong; the plain one always alike.
    """
    generator = torch.Generator().manual_seed(seed)
    clips = torch.randint(length // 2, length + 1, (count,), generator=generator)
    mask = torch.arange(length) < clips[:, None]

    def moments():
        return (torch.rand(count, 2, generator=generator).sort(1).values * clips[:, None]).long()

    truth, starts, ends, moments_s = moments(), [], [], []
    for name, share in quality.items():
        right = torch.rand(count, generator=generator) < share
        named = torch.where(right[:, None], truth, moments())
        sure = torch.full((count,), 3.0 if name == "memoriser" else 1.7)
        if name in ("honest", "weak"):
            sure = torch.where(right, sure, 0.7)
        start, end = (
            (0.3 * torch.randn(count, length, generator=generator) - sure[:, None] * distance)
            .masked_fill(~mask, -torch.inf)
            .softmax(1)
            for distance in (torch.arange(length) - named.T[..., None]).abs()
        )
        starts.append(start)
        ends.append(end)
        moments_s.append(decode(Boundaries(start=start, end=end, mask=mask), 2.0 * clips, k=1))
    return TeacherOutputs(
        names=tuple(quality),
        ids=tuple(f"{seed}-{row}" for row in range(count)),
        start=torch.stack(starts, 1),
        end=torch.stack(ends, 1),
        mask=mask,
        moments_s=torch.cat(moments_s, 1),
        duration_s=2.0 * clips,
        truth_s=2.0 * truth + torch.tensor([0.0, 2.0]),
    )


def unlabelled(said):
    return replace(said, truth_s=torch.full_like(said.truth_s, torch.nan))


def equal(said):
    return torch.full((len(said.ids), len(said.names), 2), 1 / len(said.names))
