"""Training frames of several data sets in one training, some of which nobody labelled (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vkdlab.data.dense_batches import DenseBatch, TrainingFrames
from vkdlab.data.dense_files import VOID
from vkdlab.files import hash_of


class MixedFrames(torch.utils.data.Dataset):
    """All samples of several sets of training frames; whoever trains shuffles them.

    Where only some have labels, no pixel of the others counts: their labels are 255.

    Args:
        parts: at least one; the first one's data set is what the training is said to be on.

    Raises:
        ValueError: parts of which some are pairs and others are not, of several sizes, or with boxes.
    """

    def __init__(self, parts: Sequence[TrainingFrames]):
        if not parts:
            raise ValueError("there is nothing to mix: give at least one set of training frames")
        forms = {(part.size, part.gaps is not None or part.stills) for part in parts}
        if len(forms) != 1 or any(part.boxes for part in parts):
            raise ValueError(
                "what is mixed is all single frames or all pairs, of one size and without boxes, got "
                + "; ".join(
                    f"{part.dataset.name}: {'pairs' if part.gaps or part.stills else 'frames'} of {part.size}"
                    f"{' with boxes' if part.boxes else ''}"
                    for part in parts
                )
            )
        self.parts, self.dataset, self.size = tuple(parts), parts[0].dataset, parts[0].size

    @property
    def fingerprint(self) -> str:
        """Hash of all parts."""
        return hash_of("mixed", *(part.fingerprint for part in self.parts))

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, i: int) -> DenseBatch:
        """Sample `i`, a batch of one; drawn anew at every call."""
        if not 0 <= i < len(self):
            raise IndexError(f"there are samples 0 to {len(self) - 1}, was asked for {i}")
        part = 0
        while i >= len(self.parts[part]):
            i -= len(self.parts[part])
            part += 1
        found = self.parts[part][i]
        if found.labels is not None or not any(each.dataset.classes for each in self.parts):
            return found
        clips, frames, _, height, width = found.frames.shape
        return DenseBatch(found.frames, torch.full((clips, frames, height, width), VOID))

    @staticmethod
    def collate(items: Sequence[DenseBatch]) -> DenseBatch:
        """Samples as one batch."""
        return TrainingFrames.collate(items)
