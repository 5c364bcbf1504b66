"""Batches for grounding: clip features of a video, words of a query, and the moment that the query describes.

Clip `i` of `n` covers `[i * duration_s / n, (i + 1) * duration_s / n)`.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..files import hash_of
from .datasets import Dataset
from .feature_store import FeatureStore, open_features
from .sentences import Sentences


@dataclass
class GroundingBatch:
    """Queries with their videos, padded to the longest of the batch. Padding is zero, its mask False."""

    video: Float32[Tensor, "b l d"]
    """Features of the clips, standardised."""
    video_mask: Bool[Tensor, "b l"]
    """True where there is a clip."""
    query: Float32[Tensor, "b w e"]
    """Features of the word pieces."""
    query_mask: Bool[Tensor, "b w"]
    """True where there is a word piece."""
    duration_s: Float32[Tensor, " b"]
    """Lengths of the videos, seconds."""
    moment_s: Float32[Tensor, "b 2"]
    """Start and end of the described moments, seconds."""
    ids: list[str]
    """The queries' ids."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> GroundingBatch:
        """The same batch on `device`."""
        moved = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Standardisation:
    """Mean and spread of every feature over the clips of the training split: `(x - mean) / std`."""

    mean: Float32[Tensor, " d"]
    """Mean over clips; zero to leave features as they are."""
    std: Float32[Tensor, " d"]
    """Standard deviation over clips; one where a feature never changes, or to leave features as they are."""

    @classmethod
    def fit(cls, dataset: Dataset, features: FeatureStore | Sequence[FeatureStore]) -> Standardisation:
        """Measures mean and spread on a training split.

        Raises:
            ValueError: `dataset` is a validation or test split, on which nothing may be fitted.
        """
        if dataset.split in ("val", "test"):
            raise ValueError(
                f"standardisation is measured on the training split alone, "
                f"got the {dataset.split} split of {dataset.name}. "
                "Pass standardisation=train.standardisation of the training GroundingDataset."
            )
        return cls._of(clips for _, clips in _load(dataset, _stores(features)))

    @classmethod
    def none(cls, dim: int) -> Standardisation:
        """Leaves features of `dim` dimensions as they are."""
        return cls(torch.zeros(dim), torch.ones(dim))

    @classmethod
    def _of(cls, videos: Iterable[Float32[Tensor, "l d"]]) -> Standardisation:
        count, total, squares = 0, 0.0, 0.0
        for clips in videos:
            clips = clips.double()
            count, total, squares = count + len(clips), total + clips.sum(0), squares + clips.square().sum(0)
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        return cls(mean.float(), torch.where(std > 1e-6, std, 1.0).float())

    def __call__(self, clips: Float32[Tensor, "l d"]) -> Float32[Tensor, "l d"]:
        return (clips - self.mean) / self.std

    @property
    def fingerprint(self) -> str:
        """Hash of the numbers, to six digits."""
        return hash_of([[f"{value:.6g}" for value in part.tolist()] for part in (self.mean, self.std)])


class GroundingDataset(torch.utils.data.Dataset):
    """The queries of a data set, each with the clips of its video, the words of its sentence and its moment.

    A video's features are read once, joined over the stores, standardised, and kept in memory for all its queries.

    Args:
        dataset: the split whose queries these are.
        features: one store, or several whose features are joined, in this order. Stores of different strides are
            brought to the clips of the finest.
        sentences: the encoded sentences of the split.
        max_clips: a longer video is averaged into so many equal parts.
        standardisation: by default measured here when `dataset` is a training split; for every other split pass that
            of the training split, `train.standardisation`.

    Raises:
        ValueError: no standardisation for a validation or test split, one of another dimension, or no query at all.
        FileNotFoundError, FeatureMismatch: features are missing or do not fit, see `open_features`.
        KeyError: a query's sentence was not encoded.
    """

    def __init__(
        self,
        dataset: Dataset,
        features: FeatureStore | Sequence[FeatureStore],
        sentences: Sentences,
        *,
        max_clips: int = 64,
        standardisation: Standardisation | None = None,
    ):
        stores = _stores(features)
        if max_clips < 1:
            raise ValueError(f"max_clips is at least 1, got {max_clips}")
        if not dataset.queries:
            raise ValueError(f"{dataset.name} {dataset.split} has no query to ground")
        if standardisation is None and dataset.split in ("val", "test"):
            raise ValueError(
                f"the {dataset.split} split of {dataset.name} needs the training split's standardisation: "
                "pass standardisation=train.standardisation of the training GroundingDataset"
            )
        self.dim = sum(store.manifest.dim for store in stores)
        if standardisation is not None and len(standardisation.mean) != self.dim:
            raise ValueError(
                f"the features have {self.dim} dimensions, the standardisation was measured on "
                f"{len(standardisation.mean)}: build both splits from the same feature stores"
            )
        self.videos: dict[str, Tensor] = {}

        def whole() -> Iterator[Tensor]:
            # Only the parts are kept: hours of video at full length need not fit into memory.
            for name, clips in _load(dataset, stores):
                self.videos[name] = resample(clips, min(len(clips), max_clips))
                yield clips

        if standardisation is None:
            standardisation = Standardisation._of(whole())
        else:
            deque(whole(), maxlen=0)
        self.standardisation = standardisation
        for name, clips in self.videos.items():
            self.videos[name] = standardisation(clips)
        self.manifests = tuple(store.manifest for store in stores)
        """How the features were made, in the order in which they are joined."""
        self.columns = _columns(stores)
        """First and one past last column of every store's features, by extractor, in their order."""
        self.dataset = dataset
        self.sentences = sentences
        self.max_clips = max_clips
        self._words = {query.sentence: sentences.tokens(query.sentence) for query in dataset.queries}
        self.fingerprint = hash_of(
            dataset.fingerprint,
            [store.manifest.fingerprint for store in stores],
            sentences.fingerprint,
            max_clips,
            self.standardisation.fingerprint,
        )

    @property
    def query_dim(self) -> int:
        """Features a word piece."""
        return self.sentences.dim

    @property
    def lengths(self) -> list[int]:
        """Clips of every query's video: what a training puts into batches by."""
        return [len(self.videos[query.video]) for query in self.dataset.queries]

    def subset(self, videos: Iterable[str]) -> GroundingDataset:
        """The queries of these videos alone, with the same features in memory and the same standardisation.

        Args:
            videos: their ids; queries keep the order that they have here.

        Raises:
            KeyError: there is no such video.
            ValueError: none of them has a query.
        """
        dataset = self.dataset.of_videos(videos)
        if not dataset.queries:
            raise ValueError(f"none of the {len(dataset.videos)} chosen videos of {dataset.name} has a query")
        part = copy.copy(self)
        part.dataset = dataset
        part.videos = {name: clips for name, clips in self.videos.items() if name in dataset.videos}
        part.fingerprint = hash_of(self.fingerprint, sorted(dataset.videos))
        return part

    def __len__(self) -> int:
        return len(self.dataset.queries)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        query = self.dataset.queries[index]
        return {
            "id": query.id,
            "video": self.videos[query.video],
            "query": self._words[query.sentence],
            "duration_s": torch.tensor(self.dataset.videos[query.video].duration_s),
            "moment_s": torch.tensor([query.start_s, query.end_s]),
        }

    def collate(self, items: Sequence[dict[str, Tensor | str]]) -> GroundingBatch:
        """Joins items into a batch padded to its longest video and its longest query."""
        if not items:
            raise ValueError("a batch needs at least one item, got none")
        return GroundingBatch(
            video=pad_sequence([item["video"] for item in items], batch_first=True),
            video_mask=_mask([len(item["video"]) for item in items]),
            query=pad_sequence([item["query"] for item in items], batch_first=True),
            query_mask=_mask([len(item["query"]) for item in items]),
            duration_s=torch.stack([item["duration_s"] for item in items]),
            moment_s=torch.stack([item["moment_s"] for item in items]),
            ids=[item["id"] for item in items],
        )


def resample(clips: Float[Tensor, "l d"], count: int) -> Float[Tensor, "n d"]:
    """Mean features of `count` equal parts of the time that `clips` cover in equal parts.

    A part that ends within a clip counts that clip by the share it covers, so no time is lost or counted twice; with
    more parts than clips, a clip is repeated.
    """
    if count == len(clips):
        return clips
    edges = torch.arange(count + 1, dtype=torch.float64) * len(clips) / count
    whole = edges.floor().long().clamp(max=len(clips) - 1)
    until = torch.cat([clips.new_zeros(1, clips.shape[1], dtype=torch.float64), clips.double().cumsum(0)])
    at_edges = until[whole] + (edges - whole)[:, None] * clips.double()[whole]
    return (at_edges.diff(dim=0) * (count / len(clips))).to(clips.dtype)


def _stores(features: FeatureStore | Sequence[FeatureStore]) -> list[FeatureStore]:
    stores = [features] if isinstance(features, FeatureStore) else list(features)
    if not stores:
        raise ValueError("at least one feature store is needed, got none")
    return stores


def _columns(stores: list[FeatureStore]) -> dict[str, tuple[int, int]]:
    columns: dict[str, tuple[int, int]] = {}
    start = 0
    for store in stores:
        name, end = store.manifest.extractor, start + store.manifest.dim
        if name in columns:
            name = f"{name}, store {len(columns) + 1}"
        columns[name] = (start, end)
        start = end
    return columns


def _load(dataset: Dataset, stores: list[FeatureStore]) -> Iterator[tuple[str, Float32[Tensor, "l d"]]]:
    asked = dict.fromkeys(query.video for query in dataset.queries)
    videos = replace(dataset, videos={name: dataset.videos[name] for name in asked}, actions=(), questions=())
    for store in stores:
        open_features(store.folder, expect=store.manifest, dataset=videos)
    for name in asked:
        parts = [store.clips(name) for store in stores]
        finest = max(len(part) for part in parts)
        yield name, torch.cat([resample(part, finest) for part in parts], dim=1)


def _mask(lengths: list[int]) -> Bool[Tensor, "b l"]:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
