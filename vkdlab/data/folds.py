"""Parts of a split that share no recording: for teachers that speak about what they never saw (ours).

Videos of one `group` stay together; a video without a group is one of its own. Parts have about as many queries each,
and are the same on every machine.
"""

from __future__ import annotations

from collections import Counter

from .datasets import spread
from .grounding import GroundingDataset


def folds(dataset: GroundingDataset, k: int) -> list[tuple[GroundingDataset, GroundingDataset]]:
    """Cuts a split into `k` parts by group, each held out once.

    Args:
        dataset: the split; videos without a query are in no part.
        k: number of parts, at least 2.

    Returns:
        `k` pairs: the rest, and what is held out of it.

    Raises:
        ValueError: `k` is below 2, or there are fewer groups than `k`.
    """
    parts = _parts(dataset, k)
    return [
        (dataset.subset(name for other in parts if other is not part for name in other), dataset.subset(part))
        for part in parts
    ]


def halves(dataset: GroundingDataset) -> tuple[GroundingDataset, GroundingDataset]:
    """Cuts a split into two parts by group: one to learn from, unlabelled, and one to be measured on.

    Raises:
        ValueError: there is one group only.
    """
    first, second = _parts(dataset, 2)
    return dataset.subset(first), dataset.subset(second)


def _parts(dataset: GroundingDataset, k: int) -> list[list[str]]:
    if k < 2:
        raise ValueError(f"a split is cut into at least 2 parts, got {k}")
    videos = dataset.dataset.videos
    queries = Counter(query.video for query in dataset.dataset.queries)
    groups: dict[tuple[str, str], list[str]] = {}
    for name in sorted(queries):
        group = videos[name].group
        groups.setdefault(("group", group) if group else ("video", name), []).append(name)
    if len(groups) < k:
        raise ValueError(
            f"{dataset.dataset.name} {dataset.dataset.split} has {len(groups)} groups of videos "
            f"({', '.join(name for _, name in sorted(groups))}), {k} parts were asked for"
        )
    sizes = {group: sum(queries[name] for name in names) for group, names in groups.items()}
    parts: list[list[str]] = [[] for _ in range(k)]
    filled = [0] * k
    # The largest first, and each to the part that has least: then no part ends much larger than another.
    for group in sorted(groups, key=lambda group: (-sizes[group], spread(" ".join(group)), group)):
        smallest = filled.index(min(filled))
        parts[smallest] += groups[group]
        filled[smallest] += sizes[group]
    return parts
