"""A backbone of a few linear layers, questions about made-up tokens, and questions about small video files."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.data.media import write
from vkdlab.data import Dataset
from vkdlab.data.datasets import Question, Video
from vkdlab.vlap import Backbone, Prompt, Text
from vkdlab.vlap.batches import QuestionBatch

WORDS = 24
"""Words that the small backbone tells apart, by a hash."""
TOKENS, DIM = 6, 8
GLANCES, GLANCE_DIM = 2, 5


@dataclass(frozen=True, eq=False)
class BagText(Text):
    """Words of questions (b, w) and of options (b, o, w), each row of sum 1."""

    asked: Tensor
    offered: Tensor


class SmallBackbone(Backbone):
    """Tokens are mean colours of parts of a frame; an option's logit is its product with what the frames showed."""

    frame_dim, frame_tokens, queries, visual_dim, question_dim = DIM, TOKENS, 2, 6, 7

    def __init__(self, *, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.eye = nn.Linear(3, DIM).requires_grad_(False)
        self.found = nn.Linear(TOKENS * DIM, self.queries * self.visual_dim)
        self.weighed = nn.Linear(WORDS, self.queries * self.visual_dim)
        self.when = nn.Linear(1, self.visual_dim)
        self.option = nn.Linear(WORDS, self.visual_dim)
        self.asked = nn.Linear(WORDS, self.question_dim)

    def see(self, frames):
        parts = frames.float().flatten(1, 2).unflatten(1, (TOKENS, -1)).mean(2) / 255
        return self.eye(parts)

    def read(self, prompts):
        counts = torch.tensor([len(prompt.options) for prompt in prompts])
        offered = torch.zeros(len(prompts), int(counts.max()), WORDS)
        for row, prompt in zip(offered, prompts, strict=True):
            row[: len(prompt.options)] = torch.stack([bag(option) for option in prompt.options])
        return BagText(counts, torch.stack([bag(prompt.question) for prompt in prompts]), offered)

    def look(self, tokens, text, mask, places):
        found = torch.tanh(self.found(tokens.float().flatten(2)) + self.weighed(text.asked)[:, None])
        found = found.unflatten(2, (self.queries, -1)) + self.when(places[..., None])[:, :, None]
        return found * mask[..., None, None]

    def score(self, visual, text, mask):
        seen = visual.sum((1, 2)) / mask.sum(1).clamp_min(1)[:, None]
        logits = (self.option(text.offered) @ seen[:, :, None]).squeeze(2)
        return logits.masked_fill(~text.option_mask, -torch.inf)

    def question(self, text):
        return self.asked(text.asked)


def bag(text: str) -> Tensor:
    words = text.lower().split()
    found = torch.zeros(WORDS)
    for word in words:
        found[zlib.crc32(word.encode()) % WORDS] += 1 / len(words)
    return found


PROMPTS = (
    Prompt("what moves?", ("the cup", "the ball")),
    Prompt("where is it?", ("far left", "far right", "near left", "near right")),
    Prompt("how often does it spin?", ("never", "once", "twice")),
    Prompt("which of them is it?", ("red", "green", "blue", "white", "black")),
)


def batch_of(lengths, *, seed=0, frames=None) -> QuestionBatch:
    """Random tokens of videos of so many frames, padded with other random numbers to `frames`."""
    generator = torch.Generator().manual_seed(seed)
    b, t = len(lengths), frames or max(lengths)
    counts = torch.tensor(lengths)
    prompts = tuple(PROMPTS[i % len(PROMPTS)] for i in range(b))
    # Drawn frame by frame, so that those of a video are the same whatever the padding.
    per_frame = TOKENS * DIM + GLANCES * GLANCE_DIM
    numbers = torch.stack([torch.randn(b, per_frame, generator=generator) for _ in range(t)], 1)
    places = (torch.arange(t) + 0.5) / counts[:, None]
    return QuestionBatch(
        ids=tuple(f"q{i}" for i in range(b)),
        kinds=tuple(("what", "where", "count", "")[i % 4] for i in range(b)),
        prompts=prompts,
        answers=torch.tensor([i % len(prompt.options) for i, prompt in enumerate(prompts)]),
        tokens=numbers[..., : TOKENS * DIM].unflatten(2, (TOKENS, DIM)),
        glances=numbers[..., TOKENS * DIM :].unflatten(2, (GLANCES, GLANCE_DIM)),
        mask=torch.arange(t) < counts[:, None],
        places=places.clamp(max=1),
        evidence=torch.tensor([[0.2, 0.4]] * b),
    )


class Glance(nn.Module):
    """Mean colours of the upper and the lower half of a thumbnail."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3, GLANCE_DIM)
        self.norm = nn.BatchNorm1d(GLANCES)

    def forward(self, frames):
        return self.norm(self.out(frames.float().flatten(1, 2).unflatten(1, (GLANCES, -1)).mean(2) / 255))


def films(folder, *, split="train", count=4, frames=(12, 5, 1)) -> Dataset:
    """Small video files with three questions each, one of them without evidence."""
    videos, questions = {}, []
    for i in range(count):
        name = f"{split}-{i}"
        path = write(folder / f"{name}.mp4", count=frames[i % len(frames)], gop=3)
        videos[name] = Video(name, path, frames[i % len(frames)] / 10)
        for j, prompt in enumerate(PROMPTS[:3]):
            evidence = None if j == 2 else (0.0, videos[name].duration_s / 2)
            questions.append(
                Question(f"{name}-{j}", name, prompt.question, prompt.options, (i + j) % 2, ("a", "b", "")[j], evidence)
            )
    return Dataset(name="films", split=split, profile="demo", videos=videos, questions=tuple(questions), root=folder)
