"""From the name of a data set to three splits that a grounding network can train on (ours)."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .datasets import Dataset, Problem, first_of
from .encoders import CLIP_ENCODERS
from .feature_store import FeatureMismatch, FeatureStore, open_features
from .features import extract, sentence_features
from .grounding import GroundingDataset
from .loading import load

EXTRACTORS = ("efficientnet-lite0", "dis-flow")
STRIDE_S = 0.5


@dataclass(frozen=True)
class GroundingSplits:
    """One data set, ready: features extracted, sentences encoded, standardised on what is trained on."""

    train: GroundingDataset
    """What is learned from."""
    val: GroundingDataset
    """What chooses the best epoch."""
    test: GroundingDataset
    """What is reported, and nothing else."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """The arguments that `prepare_grounding` makes these splits again from, in another process too."""


def prepare_grounding(
    name: str,
    *,
    profile: str = "demo",
    root: str | os.PathLike | None = None,
    extractors: Sequence[str] | None = None,
    stride_s: float | None = None,
    max_clips: int = 64,
    features: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    missing: Literal["refuse", "leave_out"] = "refuse",
    progress: bool = True,
) -> GroundingSplits:
    """Loads the three splits of a data set, extracts what features are missing, and encodes the sentences.

    Features that were made elsewhere are opened instead: a folder of one .npy of shape (clips, dim) a video, or of our
    files, beside a `manifest.json` that names extractor, dim, stride and order. See `FeatureManifest`, which writes it.

    Args:
        name: as for `vkdlab.data.load`.
        profile: "smoke", "demo" or "full".
        root: the data root, default `$VKDLAB_DATA`.
        extractors: names of clip encoders whose features are joined, default `EXTRACTORS`. With `features`: what the
            folders have to be of; None takes what they hold.
        stride_s: seconds from one clip to the next, default 0.5. With `features`: what the folders have to state.
        max_clips: a longer video is averaged into so many equal parts.
        features: folder of ready-made features, or several to be joined; nothing is extracted.
        missing: with `features`, what to do about videos that the folders lack: "refuse", or "leave_out" with a warning
            that counts them, and a line each in the data set's `problems`.
        progress: show progress bars.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `load`, `extract`, `open_features` and `sentence_features` raise
            them.
        FeatureMismatch: the folders hold features of another extractor or stride than asked for, or of another
            dimension or length than they state, or not-a-number.
    """
    if missing not in ("refuse", "leave_out"):
        raise ValueError(f'missing is "refuse" or "leave_out", got {missing!r}')
    splits = {
        split: load(name, split, profile=profile, root=root, progress=progress) for split in ("train", "val", "test")
    }
    folders = None if features is None else _folders(features)
    if folders is None:
        stride_s = STRIDE_S if stride_s is None else stride_s
        stores = [
            extract(list(splits.values()), extractor, stride_s=stride_s, progress=progress)
            for extractor in (EXTRACTORS if extractors is None else extractors)
        ]
    else:
        stores = _opened(folders, extractors=extractors, stride_s=stride_s)
        splits = {
            split: dataset.of_videos(query.video for query in dataset.queries) for split, dataset in splits.items()
        }
        if missing == "leave_out":
            splits = {split: _with_features(dataset, stores) for split, dataset in splits.items()}
        for folder in folders:
            open_features(folder, dataset=list(splits.values()))
    sentences = sentence_features(list(splits.values()), progress=progress)
    train = GroundingDataset(splits["train"], stores, sentences, max_clips=max_clips)
    val, test = (
        GroundingDataset(splits[split], stores, sentences, max_clips=max_clips, standardisation=train.standardisation)
        for split in ("val", "test")
    )
    source = {
        "name": name, "profile": profile, "root": None if root is None else os.fspath(root),
        "extractors": [store.manifest.extractor for store in stores], "stride_s": stride_s, "max_clips": max_clips,
        "features": folders, "missing": missing,
    }  # fmt: skip
    return GroundingSplits(train=train, val=val, test=test, source=source)


def prepare_transfer(
    name: str,
    *,
    train: GroundingDataset,
    split: str = "test",
    profile: str = "demo",
    root: str | os.PathLike | None = None,
    features: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    progress: bool = True,
) -> GroundingDataset:
    """A split of another data set, made as a training split was: for networks that are only tested there.

    It has the training split's extractors, strides, `max_clips` and standardisation; nothing is measured on it.

    Args:
        name: as for `vkdlab.data.load`.
        train: what the networks were trained on.
        split: the split to take.
        profile: "smoke", "demo" or "full".
        root: the data root, default `$VKDLAB_DATA`.
        features: folders of ready-made features, in the order of the training split's; by default they are extracted.
        progress: show progress bars.

    Raises:
        ValueError: the training features are of no encoder here and no folder is given, or their numbers differ.
        FeatureMismatch: the features were made otherwise than those of the training split.
        FileNotFoundError, ImportError: as `load`, `extract` and `sentence_features` raise them.
    """
    dataset = load(name, split, profile=profile, root=root, progress=progress)
    if features is None:
        if unknown := [each.extractor for each in train.manifests if each.extractor not in CLIP_ENCODERS]:
            raise ValueError(
                f"the training features are {', '.join(unknown)}, which no encoder here makes: "
                f"pass features=, the folders of these features of {name}"
            )
        folders = [
            extract(dataset, each.extractor, stride_s=each.stride_s, gamma=each.gamma, progress=progress).folder
            for each in train.manifests
        ]
    else:
        folders = _folders(features)
        if len(folders) != len(train.manifests):
            raise ValueError(
                f"the training split joins {len(train.manifests)} kinds of features ({', '.join(train.columns)}), "
                f"{len(folders)} folders were given"
            )
    stores = [
        open_features(folder, expect=expected, dataset=dataset)
        for folder, expected in zip(folders, train.manifests, strict=True)
    ]
    sentences = sentence_features(dataset, progress=progress)
    return GroundingDataset(
        dataset, stores, sentences, max_clips=train.max_clips, standardisation=train.standardisation
    )


def _folders(features: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    given = [features] if isinstance(features, str | os.PathLike) else list(features)
    if not given:
        raise ValueError("features is a folder or several, got none")
    return [os.path.abspath(folder) for folder in given]


def _opened(folders: Sequence[str], *, extractors: Sequence[str] | None, stride_s: float | None) -> list[FeatureStore]:
    stores = [open_features(folder) for folder in folders]
    found = [store.manifest.extractor for store in stores]
    if extractors is not None and found != list(extractors):
        raise FeatureMismatch(
            f"the folders hold features of {', '.join(found)}, asked for were {', '.join(extractors)}: "
            "name other folders, or their extractors in this order"
        )
    for store in stores:
        if stride_s not in (None, store.manifest.stride_s):
            raise FeatureMismatch(
                f"the features in {store.folder} have a stride of {store.manifest.stride_s:g} s, asked for were "
                f"{stride_s:g} s: name another folder, or leave stride_s out"
            )
    return stores


def _with_features(dataset: Dataset, stores: Sequence[FeatureStore]) -> Dataset:
    """Leaves out the videos that some store lacks, and says so."""
    lacking = [name for name in dataset.videos if not all(name in store for store in stores)]
    if not lacking:
        return dataset
    queries = Counter(query.video for query in dataset.queries)
    lost = sum(queries[name] for name in lacking)
    warnings.warn(
        f"{dataset.name} {dataset.split}: {len(lacking)} of {len(dataset.videos)} videos have no features, so "
        f"{lost} of {len(dataset.queries)} queries are left out: {first_of(lacking)}. "
        "Results on the rest compare only with results on the same rest",
        stacklevel=3,
    )
    problems = [
        Problem("features", name, f"the video has no features; its {queries[name]} queries are left out")
        for name in lacking
    ]
    kept = dataset.of_videos(dataset.videos.keys() - set(lacking))
    return replace(kept, problems=(*dataset.problems, *problems))
