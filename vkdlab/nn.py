"""The Knowledge Aggregation Unit: how much to believe each teacher, per sample and boundary (EMTM, released code).

    A = sum_{c in 3, 5, 7} ReLU(norm(Conv_c(V))),   g = ReLU(norm(W max_words Q)),   H = A * g
    z = ReLU(W' mean_clips H + b'),   u_t = W_t z + b_t,   weights_t = exp(u_t) / sum_t' exp(u_t')

with V the clips, Q the words, t a teacher, u_t two numbers, for start and for end. It serves every method that learns
from several teachers.

Where we differ: the mean runs over the real clips, where the released code takes that of the channels and ties W' to
one number of clips (`length` gives that form); the maximum runs over the real words; the norm is a LayerNorm over the
channels, which depends on no other sample (the released batch norm is built so that it most likely stays at its first
statistics); the last layer starts at zero, so that an untrained unit believes all teachers alike.

Numbers about how sure each teacher is can be given besides (ours): z is then one vector per teacher, of one hidden
layer that all share and that sees the teacher's numbers, and their mean over the teachers, so that nothing but W_t and
b_t (and the spread of its numbers) knows which teacher is which, and few samples are enough.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

INPUTS = ("video", "uncertainty", "both")


class KnowledgeAggregationUnit(nn.Module):
    """Weights of the teachers from a video and a query, from how sure the teachers are, or from both.

    Args:
        dim: numbers per clip; of no account to a unit that sees no video.
        teachers: k, at least 1.
        query_dim: numbers per word; by default `dim`.
        uncertainty: u, numbers about how sure the teachers are: as many for each, teacher by teacher.
        inputs: what the unit sees: "video" (and the query), "uncertainty" or "both".
        length: l, to tie the unit to this many clips as the released code is; by default any number will do.
        channels: width of the convolutions.
        hidden: width of the hidden layer.

    Raises:
        ValueError: a size below 1, inputs that are none, or a number of uncertainties that does not fit.
    """

    def __init__(
        self,
        dim: int,
        *,
        teachers: int,
        query_dim: int | None = None,
        uncertainty: int = 0,
        inputs: str = "video",
        length: int | None = None,
        channels: int = 16,
        hidden: int = 32,
    ):
        super().__init__()
        sizes = {"dim": dim, "teachers": teachers, "channels": channels, "hidden": hidden, "length": length}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if inputs not in INPUTS:
            raise ValueError(f"expected inputs {', '.join(INPUTS)}, got {inputs!r}")
        if (uncertainty == 0) != (inputs == "video") or uncertainty % teachers:
            raise ValueError(
                f"inputs {inputs!r} of {teachers} teachers cannot have uncertainty={uncertainty}: "
                "expected 0 for video, else as many numbers for each teacher"
            )
        self.inputs, self.num_teachers, self.length = inputs, teachers, length
        given = 2 * (uncertainty // teachers)
        if inputs != "uncertainty":
            kernels = (3, 5, 7)
            self.convolutions = nn.ModuleList(nn.Conv1d(dim, channels, k, padding=k // 2) for k in kernels)
            self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in kernels)
            self.query, self.query_norm = nn.Linear(query_dim or dim, channels), nn.LayerNorm(channels)
            given += length or channels
        self.hidden = nn.Linear(given, hidden)
        self.by_teacher = nn.Parameter(torch.zeros(teachers, 2, hidden))
        self.bias = nn.Parameter(torch.zeros(teachers, 2))
        if inputs != "video":
            self.shared = nn.Linear(hidden, 2, bias=False)
            nn.init.zeros_(self.shared.weight)
            self.register_buffer("mean", torch.zeros(teachers, uncertainty // teachers))
            self.register_buffer("std", torch.ones(teachers, uncertainty // teachers))

    def standardise(self, uncertainty: Float[Tensor, "n u"]) -> None:
        """Measures mean and spread of every teacher's numbers on the samples to train on; what never changes stays."""
        given = uncertainty.unflatten(1, self.mean.shape)
        std = given.std(0, correction=0)
        self.mean.copy_(given.mean(0))
        self.std.copy_(torch.where(std > 1e-4, std, 1.0))

    def forward(
        self,
        video: Float[Tensor, "b l d"] | None = None,
        query: Float[Tensor, "b w e"] | None = None,
        video_mask: Bool[Tensor, "b l"] | None = None,
        query_mask: Bool[Tensor, "b w"] | None = None,
        uncertainty: Float[Tensor, "b u"] | None = None,
    ) -> Float[Tensor, "b k 2"]:
        """The weight of each teacher for the start and for the end; over the teachers they sum to 1.

        Args:
            video: features of the clips; what stands where the mask is False has no influence.
            query: features of the words; likewise.
            video_mask: True on real clips; at least one per video.
            query_mask: True on real words; at least one per query.
            uncertainty: as many numbers per teacher as the unit was built for, teacher by teacher.

        Raises:
            ValueError: an input that the unit was built for is missing, or more clips than its `length`.
        """
        parts = []
        if self.inputs != "video":
            if uncertainty is None:
                raise ValueError(f"this unit sees {self.inputs}: uncertainty is missing")
            own = (uncertainty.unflatten(1, self.mean.shape) - self.mean) / self.std  # (b, k, u / k)
            parts += [own, own.mean(1, keepdim=True).expand_as(own)]
        if self.inputs != "uncertainty":
            if video is None or query is None or video_mask is None or query_mask is None:
                raise ValueError(f"this unit sees {self.inputs}: video, query or one of their masks is missing")
            seen = self._look(video, query, video_mask, query_mask)
            parts.append(seen[:, None].expand(-1, self.num_teachers, -1))
        z = functional.relu(self.hidden(torch.cat(parts, -1)))  # (b, k, hidden)
        scores = torch.einsum("bkh,kch->bkc", z, self.by_teacher) + self.bias
        if self.inputs != "video":
            scores = scores + self.shared(z)
        return scores.softmax(1)

    def _look(self, video: Tensor, query: Tensor, video_mask: Tensor, query_mask: Tensor) -> Tensor:
        keep = video_mask[..., None]
        clips = video.masked_fill(~keep, 0).transpose(1, 2)
        seen = sum(
            functional.relu(norm(convolution(clips).transpose(1, 2)))
            for convolution, norm in zip(self.convolutions, self.norms, strict=True)
        )  # (b, l, channels)
        strongest = query.masked_fill(~query_mask[..., None], -torch.inf).amax(1)
        gated = seen * functional.relu(self.query_norm(self.query(strongest)))[:, None] * keep
        if self.length is None:
            return gated.sum(1) / keep.sum(1)
        if gated.shape[1] > self.length:
            raise ValueError(f"this unit is tied to {self.length} clips, got {gated.shape[1]}")
        return functional.pad(gated.mean(2), (0, self.length - gated.shape[1]))
