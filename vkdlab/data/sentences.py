"""Sentences as MiniLM sees them: encoded once for a data set, then read from the cache."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from ..files import cache_dir, hash_of
from ..weights import write_safetensors
from .datasets import Dataset
from .encoders import MAX_WORD_PIECES, MINILM_SHA256, SENTENCE_DIM, SentenceEncoder

BATCH = 64


class Sentences:
    """Encoded sentences of one or several splits, by query id or by their text."""

    dim = SENTENCE_DIM

    def __init__(self, encoded: Mapping[str, tuple[Tensor, Tensor]], *, queries: Mapping[str, str], fingerprint: str):
        self._encoded = dict(encoded)
        self._queries = dict(queries)
        self.fingerprint = fingerprint

    def tokens(self, query: str) -> Float32[Tensor, "w 384"]:
        """Vectors of the word pieces, `w` at least 1 and at most `MAX_WORD_PIECES`.

        Args:
            query: a query's id, or a sentence.

        Raises:
            KeyError: neither a known id nor a sentence that was encoded.
        """
        return self._find(query)[0].float()

    def embedding(self, query: str) -> Float32[Tensor, " 384"]:
        """The sentence's vector, of length one. Argument and error as for `tokens`."""
        return self._find(query)[1].float()

    def __contains__(self, query: str) -> bool:
        return self._queries.get(query, query) in self._encoded

    def _find(self, query: str) -> tuple[Tensor, Tensor]:
        sentence = self._queries.get(query, query)
        if sentence not in self._encoded:
            raise KeyError(
                f"{query!r} is neither the id of a query nor a sentence among the {len(self._encoded)} encoded ones; "
                "pass its data set to sentence_features"
            )
        return self._encoded[sentence]


def sentence_features(
    dataset: Dataset | Sequence[Dataset] | Sequence[str],
    *,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> Sentences:
    """Encodes the sentences of a data set with MiniLM, or reads them from the cache where that was done before.

    The cache holds one safetensors file (float16) for a set of sentences, named by a hash of the weights and the text.

    Args:
        dataset: a data set, several splits of it, or bare sentences.
        folder: where the cache lies; by default below the cache of vkdlab.
        progress: show a progress bar.

    Raises:
        ValueError: a sentence is empty.
        ImportError: MiniLM is not installed; the message says how to get it.
    """
    parts = [dataset] if isinstance(dataset, Dataset | str) else list(dataset)
    rows = [(query.id, query.sentence) for part in parts if isinstance(part, Dataset) for query in part.queries]
    for name, sentence in [*rows, *((part, part) for part in parts if isinstance(part, str))]:
        if not sentence.strip():
            raise ValueError(f"query {name!r} has an empty sentence: correct its row, or leave it out")
    texts = sorted({sentence for _, sentence in rows} | {part for part in parts if isinstance(part, str)})
    queries = dict(rows)
    # Two annotations of the same videos share ids: such an id names no one sentence.
    for name, sentence in rows:
        if queries.get(name, sentence) != sentence:
            del queries[name]
    fingerprint = hash_of("minilm", MINILM_SHA256, MAX_WORD_PIECES, texts)
    path = (
        Path(folder) if folder is not None else cache_dir("features", "sentences")
    ) / f"minilm-{fingerprint}.safetensors"
    stored = _load(path, len(texts))
    if stored is None:
        stored = _encode(texts, progress=progress)
        write_safetensors(path, stored)
    tokens = stored["tokens"].split(stored["lengths"].tolist()) if texts else ()
    encoded = dict(zip(texts, zip(tokens, stored["embeddings"], strict=True), strict=True))
    return Sentences(encoded, queries=queries, fingerprint=fingerprint)


def _load(path: Path, count: int) -> dict[str, Tensor] | None:
    try:
        stored = load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None
    return stored if len(stored.get("lengths", ())) == count else None


def _encode(texts: list[str], *, progress: bool) -> dict[str, Tensor]:
    encoder = SentenceEncoder() if texts else None
    tokens, embeddings = [torch.empty(0, SENTENCE_DIM)] * len(texts), [torch.empty(SENTENCE_DIM)] * len(texts)
    by_length = sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i]))
    with tqdm(total=len(texts), desc="minilm features", unit="sentence", disable=not (progress and texts)) as bar:
        for first in range(0, len(texts), BATCH):
            chosen = by_length[first : first + BATCH]
            for i, (pieces, sentence) in zip(chosen, encoder.encode([texts[i] for i in chosen]), strict=True):
                if not len(pieces):
                    raise ValueError(f"the sentence {texts[i]!r} has no word that the encoder could read")
                tokens[i], embeddings[i] = pieces, sentence
            bar.update(len(chosen))
    return {
        "tokens": torch.cat([*tokens, torch.empty(0, SENTENCE_DIM)]).half(),
        "lengths": torch.tensor([len(pieces) for pieces in tokens], dtype=torch.int64),
        "embeddings": torch.stack(embeddings).half() if texts else torch.empty(0, SENTENCE_DIM).half(),
    }
