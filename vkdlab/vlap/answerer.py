"""How an answerer learns to answer: from frames that nobody chose (ours; the first stage of ViLA's training).

    L = cross-entropy(score(look(frames of S random places, one in each of S equal parts)), right option)

S is drawn anew for each batch, so that one answerer serves every number of frames, and all ways to choose them can be
held against each other on it. With the one count T it becomes the teacher, who has learned from all frames alone; with
the one count 0 it learns what question and options tell without any frame, which ought to be nothing. Frames that are
chosen in another way, such as the oracle's, teach what that way could be worth to who knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vkdlab.metrics import Mean
from vkdlab.vlap.backbone import Backbone, Text
from vkdlab.vlap.batches import QuestionBatch
from vkdlab.vlap.prompter import Selection, choose, gumbel
from vkdlab.vlap.selectors import nothing, uniform


@dataclass(frozen=True, eq=False)
class Answer:
    """What was answered to a batch of questions, and from which frames."""

    logits: Float[Tensor, "b o"]
    """Of the options; -inf where a question has no such option."""
    selection: Selection
    """The frames that were read."""

    @property
    def probs(self) -> Float[Tensor, "b o"]:
        """Of the options, 0 to 1; 0 where a question has no such option."""
        return self.logits.float().softmax(1)


class AnswererTraining(nn.Module):
    """Trains a backbone on frames at random places, as `vkdlab.training.fit` takes it; monitor "accuracy".

    Args:
        backbone: what learns; used, not copied.
        counts: numbers S of frames, of which each batch gets one; 0 is none.
        way: chooses S frames of a batch, to learn from and to be evaluated on; None for random places, and for the
            middles of equal parts where it is evaluated.

    Attributes:
        student: the backbone.

    Raises:
        ValueError: no count, one below 0, or one twice.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        counts: Sequence[int] = (1, 2, 4, 8, 32),
        way: Callable[..., Selection] | None = None,
    ):
        super().__init__()
        if not counts or min(counts) < 0 or len(set(counts)) < len(counts):
            raise ValueError(f"counts are different numbers of frames, each at least 0, got {tuple(counts)}")
        self.student, self.counts, self.way = backbone, tuple(counts), way

    def forward(self, batch: QuestionBatch, *, selection: Selection) -> Answer:
        """Answers from frames that were chosen before."""
        text = self.student.read(batch.prompts)
        return Answer(self.student.score(look(self.student, batch, selection, text), text, selection.mask), selection)

    def loss(self, batch: QuestionBatch) -> dict[str, Float[Tensor, ""]]:
        """The cross-entropy, from a number of frames and frames drawn from torch's random numbers, as "total"."""
        select = self.counts[int(torch.randint(len(self.counts), ()))]
        selection = self._chosen(batch, select)
        if selection is None:
            flat = batch.places.new_zeros(batch.mask.shape)
            selection = choose(flat, mask=batch.mask, select=select, noise=gumbel)
        return {"total": functional.cross_entropy(self(batch, selection=selection).logits.float(), batch.answers)}

    @torch.no_grad()
    def evaluate(self, batch: QuestionBatch) -> dict[str, Mean]:
        """Accuracy from frames in the middle of equal parts, or from those of `way`.

        Returns:
            "accuracy" over all counts, and that of each where there are several; of kinds of questions likewise.
        """
        found: dict[str, Mean] = {}
        for select in self.counts:
            selection = self._chosen(batch, select) or uniform(batch.mask, select=select)
            means = accuracies(self(batch, selection=selection).logits, batch)
            if len(self.counts) > 1:
                found[f"accuracy of {select} frames"] = means["accuracy"]
            found |= {name: found.get(name, Mean()) + mean for name, mean in means.items()}
        return found

    def _chosen(self, batch: QuestionBatch, select: int) -> Selection | None:
        """Frames that do not depend on chance, if there are such."""
        if not select:
            return nothing(batch.mask)
        return self.way(batch, select=select) if self.way else None


def look(backbone: Backbone, batch: QuestionBatch, selection: Selection, text: Text) -> Float[Tensor, "b s q e"]:
    """A backbone's close look at the chosen frames of a batch.

    Scores of a prompter get their gradient through what the frames show, not through where they are: the slope of a
    place's encoding tells nothing about another place.
    """
    if selection.picks.requires_grad:
        with torch.autocast(batch.tokens.device.type, enabled=False):  # a frame is taken as it is, not rounded
            tokens = selection.take(batch.tokens)
    else:
        tokens = _at(selection, batch.tokens)
    return backbone.look(tokens, text, selection.mask, _at(selection, batch.places))


def accuracies(logits: Float[Tensor, "b o"], batch: QuestionBatch) -> dict[str, Mean]:
    """Shares of right answers: "accuracy", and "accuracy KIND" for each kind of questions that has a name."""
    right = (logits.argmax(1) == batch.answers).tolist()
    found = {"accuracy": Mean(sum(right), len(right))}
    for kind in sorted(set(batch.kinds) - {""}):
        theirs = [hit for hit, its in zip(right, batch.kinds, strict=True) if its == kind]
        found[f"accuracy {kind}"] = Mean(sum(theirs), len(theirs))
    return found


def _at(selection: Selection, values: Tensor) -> Tensor:
    """What belongs to the chosen frames, without a gradient for the choice."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    if selection.mask.all():
        return values[rows, selection.indices]
    there = selection.mask.reshape(*selection.mask.shape, *[1] * (values.ndim - 2))
    return torch.where(there, values[rows, selection.indices], 0)
