"""Questions and options as the compact backbone reads them: MiniLM's frozen vectors, kept in memory (ours)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vkdlab.data.encoders import MAX_WORD_PIECES, SENTENCE_DIM, SentenceEncoder
from vkdlab.data.sentences import BATCH, Sentences, sentence_features
from vkdlab.vlap.backbone import Prompt, Text


@dataclass(frozen=True, eq=False)
class CompactText(Text):
    """Prompts as vectors whose root mean square is 1; zero on padding."""

    question: Float[Tensor, "b 384"]
    """Of whole questions."""
    words: Float[Tensor, "b w 384"]
    """Of the questions' word pieces."""
    word_mask: Bool[Tensor, "b w"]
    """True on word pieces."""
    options: Float[Tensor, "b o v 384"]
    """Of the options' word pieces."""
    option_word_mask: Bool[Tensor, "b o v"]
    """True on word pieces."""


class TextMemory:
    """Reads prompts, and encodes each text once. No part of a module, and shared by copies of who has it.

    Vectors are rounded to half precision wherever they come from, as in the cache of sentences: a text has the same
    ones in a training that remembered it as when it is asked by hand.
    """

    def __init__(self):
        self._encoder: SentenceEncoder | None = None
        self._remembered: list[Sentences] = []
        self._read: dict[str, tuple[Tensor, Tensor]] = {}

    def __deepcopy__(self, memo: dict) -> TextMemory:
        return self

    def remember(self, texts: Iterable[str], *, progress: bool = True) -> None:
        """Encodes many texts, or takes them from the cache where that was done before.

        Raises:
            ValueError: a text has no word, or is longer than 63 word pieces.
            ImportError: MiniLM is not installed; the message says how to get it.
        """
        texts = sorted(set(texts))
        sentences = sentence_features(texts, progress=progress)
        for text in texts:
            _check(text, len(sentences.tokens(text)))
        self._remembered.append(sentences)

    def read(self, prompts: Sequence[Prompt]) -> CompactText:
        """Prompts as vectors, on the CPU; what was not remembered is encoded and kept.

        Raises:
            ValueError: there is no prompt; otherwise as `remember`.
            ImportError: as `remember`.
        """
        if not prompts:
            raise ValueError("there is no prompt to read")
        questions = [prompt.question for prompt in prompts]
        options = [option for prompt in prompts for option in prompt.options]
        self._encode([text for text in (*questions, *options) if self._known(text) is None])

        words, word_mask = stacked([self._known(text)[0] for text in questions])
        pieces, piece_mask = stacked([self._known(text)[0] for text in options])
        num_options = torch.tensor([len(prompt.options) for prompt in prompts])
        exists = Text(num_options).option_mask
        option_pieces = pieces.new_zeros(*exists.shape, *pieces.shape[1:])
        option_mask = piece_mask.new_zeros(*exists.shape, piece_mask.shape[1])
        option_pieces[exists], option_mask[exists] = pieces, piece_mask
        return CompactText(
            num_options,
            question=_scaled(torch.stack([self._known(text)[1] for text in questions])),
            words=words,
            word_mask=word_mask,
            options=option_pieces,
            option_word_mask=option_mask,
        )

    def _known(self, text: str) -> tuple[Float[Tensor, "w 384"], Float[Tensor, " 384"]] | None:
        """Vectors of the word pieces and of the whole."""
        for sentences in self._remembered:
            if text in sentences:
                return sentences.tokens(text), sentences.embedding(text)
        if text not in self._read:
            return None
        pieces, whole = self._read[text]
        return pieces.float(), whole.float()

    def _encode(self, texts: Sequence[str]) -> None:
        texts = list(dict.fromkeys(texts))
        if texts and self._encoder is None:
            self._encoder = SentenceEncoder()
        for first in range(0, len(texts), BATCH):
            batch = texts[first : first + BATCH]
            for text, (pieces, whole) in zip(batch, self._encoder.encode(batch), strict=True):
                _check(text, len(pieces))
                self._read[text] = pieces.half(), whole.half()


def _check(text: str, pieces: int) -> None:
    if not pieces:
        raise ValueError(f"the text {text!r} has no word that could be read")
    if pieces >= MAX_WORD_PIECES:  # a longer one was cut to as many
        raise ValueError(f"a text has at most {MAX_WORD_PIECES - 1} word pieces, this one is longer: {text!r}")


def stacked(rows: Sequence[Float[Tensor, "_ 384"]]) -> tuple[Float[Tensor, "n w 384"], Bool[Tensor, "n w"]]:
    """Rows of word pieces as one tensor, brought to the size that prompts have, and where words are."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return _scaled(pad_sequence(list(rows), batch_first=True)), mask


def _scaled(vectors: Float[Tensor, "*n 384"]) -> Float[Tensor, "*n 384"]:
    return torch.nn.functional.normalize(vectors, dim=-1) * SENTENCE_DIM**0.5
