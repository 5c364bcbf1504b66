"""What VLAP asks of a model that answers questions about frames: five steps, whatever stands behind them (ours).

    tokens  = see(frames)                               # frozen: every frame, once
    text    = read(prompts)
    visual  = look(tokens[kept], text, mask, places)    # q query tokens a frame, with the question in mind
    logits  = score(visual, text, mask)                 # one an option

`question(text)` is what a frame prompter knows of the question before it chooses frames. Steps are separate so that
frames can be seen once and kept, and each step can be timed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

LETTERS = "ABCDE"
"""What options are called, in their order; as many as a prompt can have."""


@dataclass(frozen=True)
class Prompt:
    """A question and what may be answered.

    Raises:
        ValueError: the question is blank, or there are fewer than 2 options or more than 5.
    """

    question: str
    """The question."""
    options: tuple[str, ...]
    """What may be answered, 2 to 5."""

    def __post_init__(self):
        if not self.question.strip():
            raise ValueError(f"a prompt needs a question, got {self.question!r} with the options {self.options}")
        if not 2 <= len(self.options) <= len(LETTERS):
            raise ValueError(
                f"expected 2 to {len(LETTERS)} options, got {len(self.options)} for the question {self.question!r}"
            )


@dataclass(frozen=True, eq=False)
class Text:
    """A batch of prompts as a backbone reads them.

    Prompts of a batch may differ in length and in their number of options. A backbone adds the tensors that it needs
    as fields of its own subclass, each with the batch as its first axis.
    """

    num_options: Int64[Tensor, " b"]
    """How many options each question has."""

    @property
    def option_mask(self) -> Bool[Tensor, "b o"]:
        """True on options that exist; o is the greatest number of options in the batch."""
        places = torch.arange(int(self.num_options.max()), device=self.num_options.device)
        return places < self.num_options[:, None]

    def __len__(self) -> int:
        return len(self.num_options)

    def to(self, device: torch.device | str) -> Text:
        """The same text with all its tensors on a device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


class Backbone(nn.Module, ABC):
    """Answers multiple-choice questions about a few frames.

    Frames and prompts that only pad a batch have no influence on the others. Tensors are given and returned on the
    module's device, in float32.
    """

    frame_dim: int
    """d, numbers that `see` gives for each token of a frame."""
    frame_tokens: int
    """n, tokens of a frame."""
    queries: int
    """q, tokens that `look` gives for a frame."""
    visual_dim: int
    """e, numbers of each of them."""
    question_dim: int
    """e', numbers that `question` gives."""

    @abstractmethod
    def see(self, frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "t n d"]:
        """Tokens of frames, from a visual encoder that is frozen: they may be kept, and no gradient goes back.

        Args:
            frames: RGB, 0 to 255, of any size and from any number of videos; at least one.
        """

    @abstractmethod
    def read(self, prompts: Sequence[Prompt]) -> Text:
        """Prompts, made ready for the other steps; at least one.

        Raises:
            ValueError: there is no prompt, or one is longer than the backbone reads.
        """

    @abstractmethod
    def look(
        self,
        tokens: Float[Tensor, "b s n d"],
        text: Text,
        mask: Bool[Tensor, "b s"],
        places: Float[Tensor, "b s"],
    ) -> Float[Tensor, "b s q e"]:
        """A few query tokens of each frame, from all its tokens and the prompt.

        Args:
            tokens: of the frames that were chosen, in their order.
            text: b prompts.
            mask: True on frames, False on padding; a row may have none.
            places: where in its video each frame is, 0 to 1. A backbone may know frames by their order alone.

        Returns:
            What the language model can read; zero on padding.
        """

    @abstractmethod
    def score(self, visual: Float[Tensor, "b s q e"], text: Text, mask: Bool[Tensor, "b s"]) -> Float[Tensor, "b o"]:
        """A logit for each option, from the query tokens of all frames in their order and the prompt.

        Returns:
            Logits, -inf where a question has no such option; o is the greatest number of options in the batch.
        """

    @abstractmethod
    def question(self, text: Text) -> Float[Tensor, "b e2"]:
        """The questions' embeddings, without their options: what a frame prompter chooses frames by."""
