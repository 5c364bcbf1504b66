"""A backbone of a few layers whose answers can be reckoned by hand, and questions for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vkdlab.data.datasets import Dataset, Question, Video
from vkdlab.vlap.backbone import Backbone, Prompt, Text
from vkdlab.vlap.batches import QuestionBatch, QuestionDataset
from vkdlab.vlap.store import FrameStore

OPTIONS = ("up", "down", "left", "right", "away")


@dataclass(frozen=True, eq=False)
class SmallText(Text):
    asked: Tensor
    lengths: Tensor


class SmallBackbone(Backbone):
    """A frame's two tokens are logits of the five options; those of all frames add up. Without a frame they are 0."""

    frame_dim, frame_tokens, queries, visual_dim, question_dim = 5, 2, 2, 5, 3

    def __init__(self):
        super().__init__()
        self.colours = nn.Linear(3, 5)
        self.mix = nn.Linear(5, 5, bias=False)
        self.dropout = nn.Dropout(0.5)
        nn.init.eye_(self.mix.weight)

    @torch.no_grad()
    def see(self, frames):
        halves = frames.float().unflatten(1, (2, -1)).mean((2, 3)) / 255  # (t, 2, 3)
        return self.colours(halves)

    def read(self, prompts):
        longest = max(len(prompt.options) for prompt in prompts)
        lengths = [[len(o) for o in p.options] + [0] * (longest - len(p.options)) for p in prompts]
        asked = [[len(p.question), p.question.count("e"), p.question.count("o")] for p in prompts]
        numbers = torch.tensor([len(prompt.options) for prompt in prompts])
        return SmallText(numbers, torch.tensor(asked).float(), torch.tensor(lengths))

    def look(self, tokens, text, mask, places):
        assert len(text) == len(tokens)
        assert places.shape == mask.shape == tokens.shape[:2]
        return self.dropout(self.mix(tokens.float())) * mask[..., None, None]

    def score(self, visual, text, mask):
        logits = visual.sum((1, 2))[:, : text.lengths.shape[1]]
        return logits.masked_fill(~text.option_mask, -torch.inf)

    def question(self, text):
        return text.asked


def batch_of(
    counts: list[int],
    *,
    length: int | None = None,
    evidence: list[tuple[float, float]] | None = None,
    options: list[int] | None = None,
    ids: list[str] | None = None,
    tokens: list[Tensor] | None = None,
) -> QuestionBatch:
    """Questions about videos with so many frames, each in the middle of one of equal parts, padded to `length`."""
    b, t = len(counts), length or max(counts)
    mask = torch.arange(t) < torch.tensor(counts)[:, None]
    places = (torch.arange(t) + 0.5) / torch.tensor(counts)[:, None]
    padded = torch.zeros(b, t, 2, 5)
    for row, of in enumerate(tokens or []):
        padded[row, : len(of)] = of
    return QuestionBatch(
        ids=tuple(ids or (f"q{i}" for i in range(b))),
        kinds=("order",) * b,
        prompts=tuple(Prompt(f"where to, {i}?", OPTIONS[:n]) for i, n in enumerate(options or [4] * b)),
        answers=torch.zeros(b, dtype=torch.int64),
        tokens=padded,
        glances=torch.zeros(b, t, 1, 3),
        mask=mask,
        places=torch.where(mask, places, 0.0),
        evidence=torch.tensor(evidence or [(torch.nan, torch.nan)] * b),
    )


def questions_of(
    folder: Path, rows: list[Question], *, counts: dict[str, int], failed: dict[str, str] | None = None
) -> QuestionDataset:
    """Questions about videos of 10 s with so many frames; tokens of a frame are a number drawn from its video."""
    folder.mkdir(exist_ok=True)
    files = {}
    for video, count in counts.items():
        generator = torch.Generator().manual_seed(sum(map(ord, video)))
        tensors = {
            "tokens": torch.randn(count, 2, 5, generator=generator).half(),
            "glances": torch.randn(count, 1, 3, generator=generator).half(),
            "places": (torch.arange(count) + 0.5) / count,
        }
        files[video] = folder / f"{video}.safetensors"
        save_file(tensors, files[video])
    videos = {name: Video(name, None, 10.0) for name in (*counts, *(failed or {}))}
    dataset = Dataset("made up", "test", "smoke", videos, questions=tuple(rows))
    return QuestionDataset(dataset, FrameStore(files, failed=failed or {}, fingerprint="made up"))
