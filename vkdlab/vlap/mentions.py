"""Which things a text speaks of (ours): found among its words, as vectors that are looked up in the cells of a frame.

    weights_k = softmax_word([q_k . key(word) + after_k passed_(k-1); null_k])
    vector_k = W sum_word weights_k word + b

where passed_k is how much of thing k lies up to a word, so that the second thing is looked for behind the first. What
goes to the null word says that there is no such thing: "What spins?" speaks of none. A text is read word by word, as
MiniLM sees them, because "the red mug hits the blue bowl" as a whole is neither.

It is taught by texts in which names of classes stand literally, with all nouns that the built-in world has for them:
the vector of a thing has to name its class as a cell of a frame does (`vkdlab.vlap.naming`). "the white object" is
right with any white class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vkdlab.data.encoders import SENTENCE_DIM
from vkdlab.data.sentences import Sentences, sentence_features
from vkdlab.data.tabletop.language import NOUNS
from vkdlab.files import hash_of
from vkdlab.metrics import Mean
from vkdlab.vlap.layers import SHARPNESS
from vkdlab.vlap.texts import stacked

THINGS = 2
"""How many things of a text are told apart."""
ANY = ("thing", "object")
"""Nouns for whatever there is."""


class Mentioned(NamedTuple):
    """Things that n texts speak of, in the order in which they are named."""

    vectors: Float[Tensor, "n k d"]
    """What to look up, in the space of cells; of any length."""
    there: Float[Tensor, "n k"]
    """0..1, near 0 where the text speaks of fewer things."""


class Mentions(nn.Module):
    """Finds the things that texts speak of.

    Args:
        dim: size d of a cell's token.
        things: how many things are told apart.
        hidden: size of a word's key.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, dim: int, *, things: int = THINGS, hidden: int = 64):
        super().__init__()
        if min(dim, things, hidden) < 1:
            raise ValueError(f"dim, things and hidden must be at least 1, got {dim}, {things} and {hidden}")
        self.dim, self.things = dim, things
        self.key = nn.Linear(SENTENCE_DIM, hidden)
        self.around = nn.Conv1d(hidden, hidden, 5, padding=2)
        self.queries = nn.Parameter(0.2 * torch.randn(things, hidden))
        self.after = nn.Parameter(torch.zeros(things))
        self.null = nn.Parameter(torch.zeros(things))
        self.out = nn.Linear(SENTENCE_DIM, dim)

    def forward(self, words: Float[Tensor, "n w 384"], mask: Bool[Tensor, "n w"]) -> Mentioned:
        """What texts speak of; a text without any word speaks of nothing.

        Args:
            words: MiniLM's vectors of the word pieces.
            mask: True on words, which come first.
        """
        keys = self.key(words) * mask[..., None]
        keys = keys + functional.relu(self.around(keys.transpose(1, 2))).transpose(1, 2)
        passed, weights = words.new_zeros(mask.shape), []
        for query, after, null in zip(self.queries, self.after, self.null, strict=True):
            scores = (keys @ query + after * passed).float().masked_fill(~mask, torch.finfo(torch.float32).min)
            weights.append(torch.cat([scores, null.float().expand(len(scores), 1)], 1).softmax(1)[:, :-1] * mask)
            passed = weights[-1].cumsum(1)
        shares = torch.stack(weights, 1)  # (n, k, w)
        return Mentioned(self.out(shares @ words), shares.sum(2))


class MentionTraining(nn.Module):
    """Trains `Mentions`, as `vkdlab.training.fit` takes it; monitor "found".

    Args:
        mentions: what learns; used, not copied.
        words: the projection that `Naming` trained, from MiniLM's 384 numbers to a cell's.
        classes: names of the classes, as `DenseDataset.classes`.
        progress: shows a progress bar while names are encoded for the first time.

    Raises:
        ValueError: no class is named by a quality and a noun.
    """

    def __init__(self, mentions: Mentions, words: nn.Linear, *, classes: Sequence[str], progress: bool = True):
        super().__init__()
        self.mentions, self.names = mentions, things_of(classes)
        said = [f"the {name}" for name in self.names]
        vectors = sentence_features(said, progress=progress)
        with torch.no_grad():
            looked_up = words(torch.stack([vectors.embedding(phrase) for phrase in said]).to(words.weight.device))
        self.register_buffer("looked_up", functional.normalize(looked_up, dim=1), persistent=False)

    def loss(self, batch: MentionBatch) -> dict[str, Tensor]:
        """How sure it is of each thing's class, and of whether there is one."""
        found = self.mentions(batch.words, batch.mask)
        wanted = batch.right.any(2)
        right = self._log_probs(found).masked_fill(~batch.right, -torch.inf)
        named = -torch.where(wanted, right.logsumexp(2), 0.0).sum() / wanted.sum().clamp_min(1)
        there = functional.binary_cross_entropy(found.there.float().clamp(0, 1), wanted.float())
        return {"total": named + there, "named": named, "there": there}

    def evaluate(self, batch: MentionBatch) -> dict[str, Mean]:
        """Shares of things that are found and given a right class, "found", and of missing ones that are missed."""
        found = self.mentions(batch.words, batch.mask)
        wanted, said = batch.right.any(2), found.there > 0.5
        best = self._log_probs(found).argmax(2, keepdim=True)
        right = batch.right.gather(2, best).squeeze(2) & said
        return {"found": Mean.of(right[wanted]), "missed": Mean.of(~said[~wanted])}

    def _log_probs(self, found: Mentioned) -> Float[Tensor, "n k c"]:
        cosines = functional.normalize(found.vectors.float(), dim=2) @ self.looked_up.T
        return (SHARPNESS * cosines).log_softmax(2)


class MentionBatch(NamedTuple):
    """Texts and what they speak of."""

    words: Float[Tensor, "n w 384"]
    """Vectors of the word pieces; zero on padding."""
    mask: Bool[Tensor, "n w"]
    """True on words."""
    right: Bool[Tensor, "n k c"]
    """Classes that each thing may be; none where the text speaks of fewer things."""

    def __len__(self) -> int:
        return len(self.words)

    def to(self, device: torch.device | str) -> MentionBatch:
        """The same batch on a device."""
        return MentionBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class MentionTexts(torch.utils.data.Dataset):
    """Texts with the things that they name literally.

    Args:
        texts: any, such as all questions and options of a split.
        classes: names of the classes.
        sentences: all texts, encoded.

    Raises:
        ValueError: no text names a thing.
        KeyError: a text was not encoded.
    """

    def __init__(self, texts: Iterable[str], *, classes: Sequence[str], sentences: Sentences):
        self.texts, names = sorted(set(texts)), things_of(classes)
        self.named = [named(text, names=names) for text in self.texts]
        if not any(self.named):
            raise ValueError(f"none of {len(self.texts)} texts names a thing such as {names[0]!r}")
        if unknown := [text for text in self.texts if text not in sentences]:
            raise KeyError(f"{unknown[0]!r} was not encoded: give sentence_features all texts")
        self.names, self._sentences = names, sentences

    @property
    def fingerprint(self) -> str:
        """Hash of the texts, of MiniLM's weights and of the classes."""
        return hash_of(self._sentences.fingerprint, self.texts, self.names)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "w 384"], Bool[Tensor, "k c"]]:
        right = torch.zeros(THINGS, len(self.names), dtype=torch.bool)
        for row, found in zip(right, self.named[index], strict=False):  # texts may name fewer things, or more
            row[[self.names.index(name) for name in found]] = True
        return self._sentences.tokens(self.texts[index]), right

    @staticmethod
    def collate(items: Sequence[tuple[Tensor, Tensor]]) -> MentionBatch:
        """Joins items into a batch, padded to its longest text."""
        words, mask = stacked([item[0] for item in items])
        return MentionBatch(words, mask, torch.stack([item[1] for item in items]))


def things_of(classes: Sequence[str]) -> list[str]:
    """The classes that are named by a quality and a noun, such as "red cup".

    Raises:
        ValueError: there is none.
    """
    found = [name for name in classes if len(name.split()) == 2]
    if not found:
        raise ValueError(f"no class is named by a quality and a noun, as 'red cup' is: {list(classes)}")
    return found


def named(text: str, *, names: Sequence[str]) -> list[list[str]]:
    """The things that a text names, in its order, each as the classes that it may be.

    "a small red rubber duck" is ["red duck"], "the red thing" any red class, "the mug" any cup; "something" is none.

    Args:
        text: any.
        names: classes, of a quality and a noun each.
    """
    nouns = {said: noun for noun in {name.split()[1] for name in names} for said in NOUNS.get(noun, (noun,))}
    qualities = sorted({name.split()[0] for name in names})
    ordered = sorted([*nouns, *ANY], key=len, reverse=True)
    pattern = rf"\b(?:({'|'.join(map(re.escape, qualities))})\s+)?({'|'.join(map(re.escape, ordered))})\b"
    found = []
    for quality, said in re.findall(pattern, text, flags=re.IGNORECASE):
        if quality or said.lower() not in ANY:
            noun = nouns.get(said.lower())
            found.append([n for n in names if quality.lower() in ("", n.split()[0]) and noun in (None, n.split()[1])])
    return [each for each in found if each]
