"""The Frame-Prompter: which frames a question needs (Wang et al., ECCV 2024, section on the Frame-Prompter).

The T frames that were looked at fall into S consecutive segments of about T / S frames, and one frame of each is kept,
so that choices are spread over the video by construction. In training a segment's choice is a sample,

    y = onehot(argmax((log softmax(scores) + g) / temperature)),  g ~ Gumbel(0, 1),

forward, and backward the gradient of the softmax at that temperature (straight through). Where we differ:

- the scorer sees the question, as the paper's abstract says and its formula does not: `FramePrompter`;
- it sees the frames around each, for what happens is a change;
- without training there is no noise: the same video and question give the same frames;
- T need not be a multiple of S, nor as large as S.

`ReleasedPrompter` is the formula of the paper and of the released code: blind to the question, and noisy at inference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from vkdlab.vlap.layers import GAIN, SIGHT_FEATURES, cell_positions, find


@dataclass(frozen=True)
class Selection:
    """Frames that were chosen of each video of a batch, in the order of time."""

    indices: Int[Tensor, "b s"]
    """Numbers of the chosen frames; where `mask` is False, 0."""
    mask: Bool[Tensor, "b s"]
    """False where a segment has no frame, because the video has fewer frames than were asked for."""
    scores: Float[Tensor, "b t"]
    """Logits within segments; -inf where a video has no frame."""
    picks: Float[Tensor, "b s t"]
    """One-hot rows, zero where `mask` is False; their gradient is that of a softmax in each segment."""

    @property
    def probs(self) -> Float[Tensor, "b s t"]:
        """Of each segment's frames: the softmax of their scores; zero outside the segment."""
        return _softmax(self.scores, _members(self.scores.isfinite(), self.indices.shape[1]))

    @property
    def entropy(self) -> Float[Tensor, "b s"]:
        """Of `probs`, nats: 0 where the choice is sure."""
        probs = self.probs
        return -torch.where(probs > 0, probs * probs.clamp_min(1e-12).log(), 0.0).sum(2)

    def take(self, values: Shaped[Tensor, "b t *rest"]) -> Shaped[Tensor, "b s *rest"]:
        """What belongs to the chosen frames; zero where there is none. Scores get a gradient through it."""
        flat = (values.flatten(2) if values.ndim > 2 else values.unsqueeze(2)).to(self.picks.dtype)
        return (self.picks @ flat).reshape(*self.indices.shape, *values.shape[2:])


def segments(counts: Int[Tensor, " b"], *, select: int) -> Int[Tensor, "b s1"]:
    """First frames of the segments of videos, and behind the last of each: (b, select + 1).

    Segments differ by one frame at most; of a video with fewer frames than segments, some are empty.
    """
    steps = torch.arange(select + 1, device=counts.device)
    return (counts[:, None] * steps) // select


class FramePrompter(nn.Module):
    """Scores frames by what they and their neighbours show of a question, and keeps one of each segment.

    In each frame several vectors are looked up: those that come with the question's embedding, where a backbone has
    found what the question speaks of, and a few that the question makes it look for. How much of them is there, where
    and how large, and how that changes over time, is weighed by the question.
    """

    def __init__(
        self,
        dim: int,
        *,
        question_dim: int,
        named: int = 0,
        grid: tuple[int, int] | None = None,
        hidden: int = 64,
        heads: int = 2,
        reach: int = 2,
        dropout: float = 0.1,
        question_aware: bool = True,
    ):
        """
        Args:
            dim: size d of a frame's tokens.
            question_dim: size of the question's embedding.
            named: how many of its last numbers, d each, are vectors to be looked up in a frame's tokens.
            grid: columns and rows of a frame's tokens; None where they do not lie in one.
            hidden: size inside.
            heads: things more that are looked up in each frame.
            reach: frames before and behind each that are seen with it, and as many around these.
            dropout: share dropped of the sentence's embedding while training, 0 to below 1.
            question_aware: False makes it blind: in place of the question stands one learned vector.

        Raises:
            ValueError: a size below 1, or a question's embedding that has no room for its vectors.
        """
        super().__init__()
        if min(dim, question_dim, hidden, heads) < 1 or min(reach, named) < 0:
            raise ValueError(
                f"dim, question_dim, hidden and heads must be at least 1, named and reach at least 0, got {dim}, "
                f"{question_dim}, {hidden}, {heads}, {named} and {reach}"
            )
        sentence_dim = question_dim - named * dim
        if sentence_dim < 1:
            raise ValueError(f"{named} vectors of {dim} numbers leave no sentence in {question_dim}: there must be one")
        if grid is not None and (len(grid) != 2 or min(grid) < 1):
            raise ValueError(f"grid is (columns, rows), 1 or more each, got {grid}")
        self.question_aware = question_aware
        self.dim, self.named, self.heads, self.grid, self.reach = dim, named, heads, grid, reach
        self.asked = nn.Linear(sentence_dim, heads * dim)
        self.seen = nn.Linear((named + heads) * (SIGHT_FEATURES + 1), hidden)
        self.light = nn.Sequential(nn.Dropout(dropout), nn.Linear(sentence_dim, 2 * hidden))
        self.around = nn.ModuleList(nn.Conv1d(hidden, hidden, 2 * reach + 1, padding=reach) for _ in range(2))
        self.out = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 1))
        self.anything = nn.Parameter(0.02 * torch.randn(question_dim))
        positions = cell_positions(*grid) if grid is not None else torch.zeros(1, 2)
        self.register_buffer("positions", positions, persistent=False)

    @property
    def question_dim(self) -> int:
        """Size of the question's embedding."""
        return self.anything.numel()

    def forward(
        self,
        frames: Float[Tensor, "b t n d"],
        question: Float[Tensor, "b dq"],
        *,
        select: int,
        mask: Bool[Tensor, "b t"] | None = None,
        temperature: float = 1.0,
    ) -> Selection:
        """Chooses frames; in training mode with noise.

        Args:
            frames: n tokens of each of the t frames that were looked at.
            question: one vector per video.
            select: how many frames to keep.
            mask: False behind the last frame of a shorter video; None where all have t frames.
            temperature: of the softmax whose gradient is used; above 0.

        Raises:
            ValueError: `select` or `temperature` is too small, a video has no frame, or its tokens are not of the grid.
        """
        mask = _checked(frames, mask, select=select, temperature=temperature)
        return choose(
            self.scores(frames, question, mask=mask),
            mask=mask, select=select, temperature=temperature, noise=gumbel if self.training else None,
        )  # fmt: skip

    def scores(
        self, frames: Float[Tensor, "b t n d"], question: Float[Tensor, "b dq"], *, mask: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b t"]:
        """How much each frame is worth keeping."""
        b, t, n, _ = frames.shape
        if self.grid is not None and n != len(self.positions):
            raise ValueError(f"expected frames of {self.grid[0]} x {self.grid[1]} tokens, got {n}")
        asked = question if self.question_aware else self.anything.expand_as(question)
        sentence, vectors = asked.split([self.asked.in_features, self.named * self.dim], 1)
        vectors = vectors.unflatten(1, (self.named, self.dim)) if self.named else vectors.new_zeros(b, 0, self.dim)
        wanted = torch.cat([vectors, self.asked(sentence).unflatten(1, (self.heads, self.dim))], 1)
        there = torch.cat([vectors.norm(dim=2).clamp(max=1), vectors.new_ones(b, self.heads)], 1)

        cells, each = frames.flatten(0, 1).float(), torch.arange(b, device=frames.device).repeat_interleave(t)
        found = find(cells, wanted[each], positions=self.positions.expand(n, 2))
        there = there[each][..., None]
        seen = torch.cat([found.features * there, there], 2)
        x = self.seen(GAIN * seen.flatten(1)).unflatten(0, (b, t))
        scale, shift = self.light(sentence)[:, None].chunk(2, 2)
        before, behind = self.around
        x = functional.gelu(_along(before, x, mask) * (1 + scale) + shift)
        return self.out(x + functional.gelu(_along(behind, x, mask))).squeeze(2)


class ReleasedPrompter(nn.Module):
    """The published formula: channels are averaged, a segment's patches are flattened, and two layers score its frames.

    It is blind to the question. As in the released code, Gumbel noise is added at inference too: with flat scores it
    chooses about at random, and not the same frames twice.
    """

    question_aware = False

    def __init__(self, tokens: int, *, frames: int, select: int, noisy: bool = True):
        """
        Args:
            tokens: tokens n of a frame.
            frames: frames T of a video; a multiple of `select`, for the layers' sizes depend on it.
            select: frames S that are kept.
            noisy: False leaves out the noise at inference.

        Raises:
            ValueError: T is no multiple of S.
        """
        super().__init__()
        if select < 1 or frames < 1 or frames % select:
            raise ValueError(
                f"the published prompter needs segments of one length: frames must be a multiple of select, got "
                f"{frames} and {select}"
            )
        self.frames, self.select, self.noisy = frames, select, noisy
        length = frames // select
        self.score = nn.Sequential(
            nn.Linear(length * tokens, length), nn.LayerNorm(length), nn.ReLU(), nn.Linear(length, length)
        )

    def forward(
        self,
        frames: Float[Tensor, "b t n d"],
        question: Float[Tensor, "b dq"] | None = None,
        *,
        select: int,
        mask: Bool[Tensor, "b t"] | None = None,
        temperature: float = 1.0,
    ) -> Selection:
        """As `FramePrompter.forward`; the question is not looked at.

        Raises:
            ValueError: other numbers of frames than it was made for.
        """
        mask = _checked(frames, mask, select=select, temperature=temperature)
        if frames.shape[1] != self.frames or select != self.select or not mask.all():
            raise ValueError(
                f"this prompter keeps {self.select} of {self.frames} frames, no other numbers, got {select} of "
                f"{int(mask.sum(1).min())} to {frames.shape[1]}"
            )
        patches = frames.float().mean(3).reshape(len(frames) * self.select, -1)
        noise = gumbel if self.training or self.noisy else None
        return choose(
            self.score(patches).reshape(len(frames), -1),
            mask=mask, select=select, temperature=temperature, noise=noise,
        )  # fmt: skip


def choose(
    scores: Float[Tensor, "b t"],
    *,
    mask: Bool[Tensor, "b t"],
    select: int,
    temperature: float = 1.0,
    noise: Callable[[Tensor], Tensor] | None = None,
) -> Selection:
    """One frame of each segment: the one of the highest score, after noise where there is any; of equals the first.

    Args:
        scores: logits.
        mask: False behind a video's last frame.
        select: number of segments.
        temperature: of the softmax whose gradient is used.
        noise: gives numbers to add to log-probabilities of the shape it is given.
    """
    members = _members(mask, select)
    scores = scores.float().masked_fill(~mask, float("-inf"))
    logits = torch.where(members, _softmax(scores, members).clamp_min(1e-12).log(), float("-inf"))
    if noise is not None:
        logits = logits + noise(logits[:, 0])[:, None]  # a frame is in one segment: one number each
    there = members.any(2)
    soft = _softmax(logits.masked_fill(~members, 0) / temperature, members, segmented=True)
    indices = logits.masked_fill(~members, float("-inf")).argmax(2).masked_fill(~there, 0)
    hard = functional.one_hot(indices, scores.shape[1]).to(soft) * there.unsqueeze(2)
    return Selection(indices=indices, mask=there, scores=scores, picks=hard + soft - soft.detach())


def gumbel(like: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Gumbel(0, 1) noise of a tensor's shape."""
    return -torch.empty_like(like).exponential_().clamp_min(1e-12).log()


def temperature_at(progress: float, *, first: float = 1.0, last: float = 0.1) -> float:
    """Falls exponentially and reaches `last` at the end of training (the released schedule stops at 0.40 of 0.01).

    Args:
        progress: share of the training that is done, 0 to 1.
    """
    return first * (last / first) ** min(max(progress, 0.0), 1.0)


def _members(mask: Tensor, select: int) -> Bool[Tensor, "b s t"]:
    """Which frames are in which segment."""
    bounds = segments(mask.sum(1), select=select)
    frames = torch.arange(mask.shape[1], device=mask.device)
    return (frames >= bounds[:, :-1, None]) & (frames < bounds[:, 1:, None])


def _softmax(scores: Tensor, members: Tensor, *, segmented: bool = False) -> Tensor:
    """Over each segment's frames; zero outside, and where a segment has none."""
    each = scores if segmented else scores.unsqueeze(1)
    lowest = torch.finfo(each.dtype).min
    probs = torch.where(members, each, lowest).softmax(2)
    return torch.where(members, probs, 0.0)


def _along(layer: nn.Conv1d, x: Float[Tensor, "b t h"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t h"]:
    """A convolution over time; behind a video's last frame it sees zeros."""
    return layer((x * mask[..., None]).transpose(1, 2)).transpose(1, 2)


def _checked(frames: Tensor, mask: Any, *, select: int, temperature: float) -> Tensor:
    if select < 1:
        raise ValueError(f"select must be at least 1, got {select}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    mask = frames.new_ones(frames.shape[:2], dtype=torch.bool) if mask is None else mask
    if not frames.shape[1] or not mask.any(1).all():
        raise ValueError("a video without any frame has none to choose from")
    return mask
