"""What is seen in frames of all that questions speak of: looked up once, and kept in place of the frames' cells (ours).

All that a compact backbone does up to there is frozen, and what is seen is some hundred numbers a frame where cells are
tens of thousands. So whoever trains answerers looks things up once, and trains several times as fast.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import Float16
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from vkdlab.data.workers import only_one
from vkdlab.files import cache_dir, hash_of
from vkdlab.vlap.batches import QuestionDataset
from vkdlab.vlap.networks import CompactBackbone
from vkdlab.weights import weights_hash, write_safetensors

VERSION = 1
"""Goes up when other numbers are written for the same questions and weights."""
_AT_ONCE = 32


class SightedQuestions(QuestionDataset):
    """The questions of a data set, each with what is seen of it in its video's frames: made by `sighted`.

    A mirrored sample has what was seen at x at -x, of the words as they were before.
    """

    def __init__(
        self, questions: QuestionDataset, seen: Float16[Tensor, "f m 7"], counts: Sequence[int], *, frozen: str
    ):
        super().__init__(
            questions.dataset, questions.store, mirrored=questions.mirrored, columns=questions.columns
        )  # fmt: skip
        self._seen, self._frozen = seen.split(list(counts)), frozen

    @property
    def fingerprint(self) -> str:
        """Hash of the questions, of the encoders, of how samples are made, and of what looked things up."""
        return hash_of(super().fingerprint, self._frozen)

    def _tokens(self, index: int, *, mirrored: bool) -> Float16[Tensor, "t m 7"]:
        seen = self._seen[index]
        if mirrored:
            seen = seen.clone()
            seen[..., 0] *= -1
        return seen


def sighted(
    questions: QuestionDataset,
    backbone: CompactBackbone,
    *,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> SightedQuestions:
    """The same questions with what the backbone sees of them in place of cells: for training and measuring.

    A prompt that is changed afterwards needs the cells: the questions as they were.

    Args:
        questions: of any split, with the cells of their frames.
        backbone: who looks things up; what is frozen of it decides.
        folder: where what was seen is kept; by default below the cache.
        progress: shows a progress bar.
    """
    dataset = questions.dataset
    folder = Path(folder) if folder is not None else cache_dir("sightings", f"{dataset.name}-{dataset.profile}")
    frozen = _frozen(backbone)
    plain = QuestionDataset(dataset, questions.store)
    path = folder / f"{dataset.split}-{hash_of(VERSION, plain.fingerprint, frozen)}.safetensors"
    with only_one(folder, leftovers=(".*.safetensors",)):
        kept = _load(path)
        if kept is None:
            kept = _looked_up(plain, backbone, progress=progress)
            write_safetensors(path, kept)
    return SightedQuestions(questions, kept["seen"], kept["counts"].tolist(), frozen=frozen)


@torch.no_grad()
def _looked_up(questions: QuestionDataset, backbone: CompactBackbone, *, progress: bool) -> dict[str, Tensor]:
    found: dict[int, Tensor] = {}
    with tqdm(total=len(questions), desc="looking things up", unit="question", disable=not progress) as bar:
        for video, rows in _by_video(questions).items():
            tokens = questions.store.tokens(video).to(backbone.always.device)
            for first in range(0, len(rows), _AT_ONCE):
                some = rows[first : first + _AT_ONCE]
                each = tokens.expand(len(some), *tokens.shape)
                mask = each.new_ones(each.shape[:2], dtype=torch.bool)
                text = backbone.read([questions.prompt(index) for index in some])
                found |= zip(some, backbone.sight(each, text, mask).half().cpu(), strict=True)
            bar.update(len(rows))
    seen = [found[index] for index in range(len(questions))]
    return {"seen": torch.cat(seen), "counts": torch.tensor([len(each) for each in seen])}


def _by_video(questions: QuestionDataset) -> dict[str, list[int]]:
    """Numbers of the questions about each video, so that its cells are read once."""
    rows: dict[str, list[int]] = {}
    for index, row in enumerate(questions.questions):
        rows.setdefault(row.video, []).append(index)
    return rows


def _load(path: Path) -> dict[str, Tensor] | None:
    try:
        kept = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    return kept if {"seen", "counts"} <= kept.keys() else None


def _frozen(backbone: CompactBackbone) -> str:
    always = backbone.always.detach().cpu().contiguous().numpy().tobytes()
    return hash_of(weights_hash(backbone.mentions), sha256(always).hexdigest(), backbone.config.grid)
