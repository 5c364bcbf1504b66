"""From the name of a data set to three splits that a grounding network can train on (ours)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .features import extract, sentence_features
from .grounding import GroundingDataset
from .loading import load

EXTRACTORS = ("efficientnet-lite0", "dis-flow")


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
    extractors: Sequence[str] = EXTRACTORS,
    stride_s: float = 0.5,
    max_clips: int = 64,
    progress: bool = True,
) -> GroundingSplits:
    """Loads the three splits of a data set, extracts what features are missing, and encodes the sentences.

    Args:
        name: as for `vkdlab.data.load`.
        profile: "smoke", "demo" or "full".
        root: the data root, default `$VKDLAB_DATA`.
        extractors: names of clip encoders; their features are joined.
        stride_s: seconds from one clip to the next.
        max_clips: a longer video is averaged into so many equal parts.
        progress: show progress bars.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `load`, `extract` and `sentence_features` raise them.
    """
    splits = {
        split: load(name, split, profile=profile, root=root, progress=progress) for split in ("train", "val", "test")
    }
    stores = [
        extract(list(splits.values()), extractor, stride_s=stride_s, progress=progress) for extractor in extractors
    ]
    sentences = sentence_features(list(splits.values()), progress=progress)
    train = GroundingDataset(splits["train"], stores, sentences, max_clips=max_clips)
    val, test = (
        GroundingDataset(splits[split], stores, sentences, max_clips=max_clips, standardisation=train.standardisation)
        for split in ("val", "test")
    )
    source = {
        "name": name, "profile": profile, "root": None if root is None else os.fspath(root),
        "extractors": list(extractors), "stride_s": stride_s, "max_clips": max_clips,
    }  # fmt: skip
    return GroundingSplits(train=train, val=val, test=test, source=source)
