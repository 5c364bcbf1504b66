"""Questions with the tokens of their videos' frames, as batches (ours).

A mirrored sample has its cells in reverse order along the columns of their grid, and the words of its question and
options that tell sides apart exchanged. What an encoder gives for a mirrored frame is taken to be that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from vkdlab.data.datasets import Dataset, Question, first_of
from vkdlab.files import hash_of
from vkdlab.vlap.backbone import Prompt
from vkdlab.vlap.store import FrameStore

_SIDES = ("", "s", "ward", "wards", "most", "hand")
_OTHER = {f"left{end}": f"right{end}" for end in _SIDES} | {f"right{end}": f"left{end}" for end in _SIDES}
_SIDED = re.compile(rf"\b({'|'.join(_OTHER)})\b", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class QuestionBatch:
    """Questions with their videos, padded to the longest of the batch; tensors are zero on padding."""

    ids: tuple[str, ...]
    """The questions' ids."""
    kinds: tuple[str, ...]
    """Types of the questions; empty where the data set knows none."""
    prompts: tuple[Prompt, ...]
    """Questions and options."""
    answers: Int64[Tensor, " b"]
    """Index of the right option, from 0."""
    tokens: Float[Tensor, "b t n d"]
    """What the answerer's visual encoder gives for each frame that was looked at, or what is kept of it
    (`vkdlab.vlap.sightings`)."""
    glances: Float[Tensor, "b t n2 d2"]
    """What the prompter's encoder gives for the frames' thumbnails."""
    mask: Bool[Tensor, "b t"]
    """True on frames, which come first."""
    places: Float[Tensor, "b t"]
    """Where in its video each frame is, 0 to 1."""
    evidence: Float[Tensor, "b 2"]
    """Start and end of what answers the question, as shares of the video; nan where the data set does not tell."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> QuestionBatch:
        """The same batch on a device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})


class QuestionDataset(torch.utils.data.Dataset):
    """The questions of a data set, each with its video's frames.

    Args:
        dataset: the split whose questions these are.
        store: frames of its videos.
        mirrored: whether half of the samples, drawn anew each time from torch's random numbers, are mirrored. For
            training, and only where "left" and "right" are sides wherever they are said: not "correct", "at once" or
            "went away".
        columns: of the grids in which a frame's tokens and a glance's lie row by row; only needed to mirror.

    Attributes:
        questions: those whose video could be decoded.
        without_video: why the video of each of the others could not, by the question's id.
        left_out: how many these are.

    Raises:
        ValueError: no question is left; one has fewer than 2 options or more than 5; columns are missing, or tokens
            form no grid of so many.
        KeyError: the store was built without a question's video.
    """

    def __init__(
        self,
        dataset: Dataset,
        store: FrameStore,
        *,
        mirrored: bool = False,
        columns: tuple[int, int] | None = None,
    ):
        self.dataset, self.store, self.mirrored, self.columns = dataset, store, mirrored, columns
        if unknown := sorted({row.video for row in dataset.questions} - store.videos - store.failed.keys()):
            raise KeyError(
                f"the store has no frames of {len(unknown)} videos of {dataset.name} {dataset.split}: "
                f"{first_of(unknown)}. Build it with frame_store from this data set"
            )
        self.without_video = {row.id: store.failed[row.video] for row in dataset.questions if row.video in store.failed}
        self.left_out = len(self.without_video)
        self.questions = tuple(row for row in dataset.questions if row.id not in self.without_video)
        if not self.questions:
            raise ValueError(
                f"{dataset.name} {dataset.split} has {len(dataset.questions)} questions, and the videos of "
                f"{self.left_out} of them cannot be decoded: none is left"
            )
        self._prompts = [_prompt(row) for row in self.questions]
        if mirrored:
            self._check_grids()

    @property
    def fingerprint(self) -> str:
        """Hash of the questions, of the encoders, and of how samples are made."""
        made = self.store.fingerprint, sorted(self.without_video), self.columns if self.mirrored else None
        return hash_of(self.dataset.fingerprint, *made)

    def __len__(self) -> int:
        return len(self.questions)

    def prompt(self, index: int) -> Prompt:
        """A question and its options, as they are."""
        return self._prompts[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, prompt = self.questions[index], self._prompts[index]
        mirrored = self.mirrored and bool(torch.rand(()) < 0.5)
        tokens, glances = self._tokens(index, mirrored=mirrored), self.store.glances(row.video)
        if mirrored:
            prompt, glances = mirrored_prompt(prompt), mirrored_cells(glances, columns=self.columns[1])
        return {
            "id": row.id,
            "kind": row.kind,
            "prompt": prompt,
            "answer": row.answer,
            "tokens": tokens,
            "glances": glances,
            "places": self.store.places(row.video),
            "evidence": self._evidence(row),
        }

    @staticmethod
    def collate(items: Sequence[dict[str, Any]]) -> QuestionBatch:
        """Joins items into a batch, padded to its longest video."""
        if not items:
            raise ValueError("a batch needs at least one item, got none")
        counts = torch.tensor([len(item["places"]) for item in items])
        return QuestionBatch(
            ids=tuple(item["id"] for item in items),
            kinds=tuple(item["kind"] for item in items),
            prompts=tuple(item["prompt"] for item in items),
            answers=torch.tensor([item["answer"] for item in items]),
            tokens=_padded([item["tokens"] for item in items]),
            glances=_padded([item["glances"] for item in items]),
            mask=torch.arange(int(counts.max())) < counts[:, None],
            places=_padded([item["places"] for item in items]),
            evidence=torch.stack([item["evidence"] for item in items]),
        )

    def _tokens(self, index: int, *, mirrored: bool) -> Tensor:
        """Of all frames of a question's video."""
        tokens = self.store.tokens(self.questions[index].video)
        return mirrored_cells(tokens, columns=self.columns[0]) if mirrored else tokens

    def _evidence(self, row: Question) -> Float[Tensor, " 2"]:
        if row.evidence_s is None:
            return torch.full((2,), torch.nan)
        return (torch.tensor(row.evidence_s) / self.dataset.videos[row.video].duration_s).clamp(max=1)

    def _check_grids(self) -> None:
        if self.columns is None:
            raise ValueError("to mirror frames, columns is needed: of the grid of a frame's tokens and of a glance's")
        video = self.questions[0].video
        for name, cells, columns in zip(
            ("a frame's tokens", "a glance's tokens"),
            (self.store.tokens(video), self.store.glances(video)),
            self.columns,
            strict=True,
        ):
            if columns < 1 or cells.shape[1] % columns:
                raise ValueError(f"{name} form no grid of {columns} columns: there are {cells.shape[1]} of them")


def mirrored_cells(cells: Float[Tensor, "t n d"], *, columns: int) -> Float[Tensor, "t n d"]:
    """Cells that lie row by row in a grid, its columns in reverse order."""
    return cells.unflatten(1, (-1, columns)).flip(2).flatten(1, 2)


def mirrored_prompt(prompt: Prompt) -> Prompt:
    """The same prompt with left and right exchanged, as whole words, and words made of them such as "leftwards"."""
    return Prompt(_other_side(prompt.question), tuple(map(_other_side, prompt.options)))


def _padded(rows: Sequence[Shaped[Tensor, ...]]) -> Float[Tensor, "b t ..."]:
    """Rows of any lengths, with zeros behind them; a megabyte a row, so written only once and in its own precision."""
    found = rows[0].new_empty(len(rows), max(map(len, rows)), *rows[0].shape[1:])
    for place, row in zip(found, rows, strict=True):
        place[: len(row)] = row
        place[len(row) :] = 0
    return found


def _other_side(text: str) -> str:
    return _SIDED.sub(lambda found: _in_case_of(found[0], _OTHER[found[0].lower()]), text)


def _in_case_of(word: str, other: str) -> str:
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def _prompt(row: Question) -> Prompt:
    try:
        return Prompt(row.question, tuple(row.options))
    except ValueError as error:
        raise ValueError(f"question {row.id!r}: {error}") from error
