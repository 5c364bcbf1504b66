"""A span teacher from the name of a data set: prepared, trained once, and asked about every test query (ours)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from vkdlab.data.manifests import DataMissing
from vkdlab.data.prepared import GroundingSplits, prepare_grounding
from vkdlab.emtm.networks import SpanConfig, SpanNetwork
from vkdlab.emtm.predictions import Grounded, blind_guess, measure, predict
from vkdlab.emtm.teacher import GroundingTeacher
from vkdlab.files import project_root, read_json
from vkdlab.history import History
from vkdlab.metrics import Mean, grid_ceiling
from vkdlab.runs import Run, trained_once
from vkdlab.training import Data, TrainConfig

RECIPES = {
    "smoke": TrainConfig(epochs=3, batch_size=16, lr=1e-3),
    "demo": TrainConfig(epochs=10, batch_size=32, lr=1e-3, warmup_epochs=1),
    "full": TrainConfig(epochs=60, batch_size=32, lr=5e-4, warmup_epochs=2, patience=12),
}
"""How a teacher is trained, per profile (ours): "demo" as long as tabletop's validation split asked for; "full" was not
run yet."""


@dataclass(frozen=True)
class TrainedTeacher:
    """A teacher after its training, and what it reaches on the test split."""

    method: GroundingTeacher
    """The network with the weights of its best epoch."""
    run: Run
    """Where its files lie."""
    history: History
    """What happened, epoch by epoch."""
    items: list[Grounded]
    """Every test query, answered."""
    metrics: dict[str, dict[str, Mean]]
    """On the test split, by source: guessing without looking, the teacher, and the grid's ceiling."""


def train_span_teacher(
    splits: GroundingSplits,
    *,
    profile: str = "demo",
    seed: int = 0,
    device: str = "auto",
    runs_dir: str | os.PathLike | None = None,
    dim: int = 128,
    dropout: float = 0.3,
    progress: bool = True,
) -> TrainedTeacher:
    """Trains a span teacher where that was never done with these settings and data, and grounds the test split.

    Args:
        splits: of `vkdlab.data.prepared.prepare_grounding`.
        profile: which of `RECIPES` is followed.
        seed: of weights, order and dropout.
        device: "auto", "cpu" or "cuda".
        runs_dir: folder of all runs; by default in the cache.
        dim: width of the network.
        dropout: share of hidden units dropped while training.
        progress: show progress bars.

    Raises:
        ValueError: there is no such profile, or a setting out of range.
    """
    if profile not in RECIPES:
        raise ValueError(f"expected profile {', '.join(RECIPES)}, got {profile!r}")
    config = SpanConfig(
        video_dim=splits.train.dim,
        query_dim=splits.train.query_dim,
        dim=dim,
        dropout=dropout,
        max_clips=splits.train.max_clips,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        teacher = GroundingTeacher(SpanNetwork(config))
    run, history = trained_once(
        "span-teacher",
        teacher,
        Data(splits.train, splits.val),
        replace(RECIPES[profile], seed=seed, device=device),
        runs_dir=runs_dir or None,
        extra=config,
        progress=progress,
    )
    items = predict(teacher, splits.test, progress=progress)
    metrics = {
        "guess without looking": blind_guess(splits.train, splits.test),
        "span teacher": measure(items),
        "ceiling of the grid": _ceiling(splits),
    }
    run.save_metrics({f"test/{name}": mean.value for name, mean in metrics["span teacher"].items()})
    return TrainedTeacher(method=teacher, run=run, history=history, items=items, metrics=metrics)


def train_where_present(names: Sequence[str], *, profile: str = "demo", **settings) -> dict[str, TrainedTeacher]:
    """A span teacher for each of these data sets that is on this machine; says which are not, and how to get them.

    Args:
        names: of data sets.
        profile: size of the data and recipe of the training.
        settings: as for `train_span_teacher`.
    """
    trained = {}
    for name in names:
        try:
            splits = prepare_grounding(name, profile=profile, progress=settings.get("progress", True))
        except DataMissing as missing:
            print(f"{name} is left out: {missing}")  # noqa: T201 - the notebook's reader has to know
            continue
        trained[name] = train_span_teacher(splits, profile=profile, **settings)
    return trained


def committed_runs() -> list[dict[str, Any]]:
    """Parameters and metrics of the runs that are kept with the code as evidence; none before the first sweep."""
    path = project_root() / "reports" / "evidence" / "emtm.json"
    return read_json(path)["runs"] if path.exists() else []


def _ceiling(splits: GroundingSplits) -> dict[str, Mean]:
    test = splits.test
    queries = test.dataset.queries
    return grid_ceiling(
        torch.tensor([(query.start_s, query.end_s) for query in queries]),
        duration_s=torch.tensor([test.dataset.videos[query.video].duration_s for query in queries]),
        num_clips=torch.tensor([len(test.videos[query.video]) for query in queries]),
    )
