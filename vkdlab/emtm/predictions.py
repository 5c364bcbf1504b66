"""A grounding network's answers on a whole data set, joined with what they are answers to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from vkdlab.data.grounding import GroundingDataset
from vkdlab.emtm.teacher import GroundingTeacher
from vkdlab.emtm.unify import unify
from vkdlab.metrics import Mean, grid_ceiling, grounding_metrics, temporal_iou


@dataclass(frozen=True)
class Grounded:
    """One query, its true moment and what a network makes of it. Times in seconds."""

    id: str
    """The query's id."""
    video: str
    """The video's id."""
    path: Path | None
    """The video's file."""
    sentence: str
    """The query."""
    kind: str
    """Type of the query; empty where the data set knows none."""
    duration_s: float
    """Length of the video."""
    moment_s: tuple[float, float]
    """The true moment."""
    predicted_s: tuple[tuple[float, float], ...]
    """The k best moments, best first."""
    start_probs: Float[np.ndarray, " l"]
    """Probability of each clip to hold the start."""
    end_probs: Float[np.ndarray, " l"]
    """Probability of each clip to hold the end."""
    iou: float
    """Temporal IoU of the best moment with the truth, 0 to 1."""


@torch.inference_mode()
def predict(
    teacher: GroundingTeacher, dataset: GroundingDataset, *, batch_size: int = 32, k: int = 5, progress: bool = True
) -> list[Grounded]:
    """Every query of the data set, answered.

    Args:
        teacher: the network; it is used where it is and as it is, in evaluation mode.
        dataset: queries with features.
        batch_size: queries at once.
        k: moments per query.
        progress: show a bar.
    """
    device = next(teacher.parameters()).device
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, collate_fn=dataset.collate)
    queries = {query.id: query for query in dataset.dataset.queries}
    videos = dataset.dataset.videos
    was_training = teacher.training
    teacher.eval()
    found = []
    for batch in tqdm(loader, desc="grounding", unit="batch", disable=not progress):
        batch = batch.to(device)
        output = teacher(batch)
        said = unify(output, length=batch.video.shape[1], mask=batch.video_mask)
        moments_s, _ = teacher.network.moments(output, batch, k=k)
        ious = temporal_iou(moments_s[:, 0], batch.moment_s)
        for row, name in enumerate(batch.ids):
            query, valid = queries[name], batch.video_mask[row]
            found.append(
                Grounded(
                    id=name,
                    video=query.video,
                    path=videos[query.video].path,
                    sentence=query.sentence,
                    kind=query.kind,
                    duration_s=videos[query.video].duration_s,
                    moment_s=(query.start_s, query.end_s),
                    predicted_s=tuple((start, end) for start, end in moments_s[row].tolist()),
                    start_probs=said.start[row][valid].cpu().numpy(),
                    end_probs=said.end[row][valid].cpu().numpy(),
                    iou=ious[row].item(),
                )
            )
    teacher.train(was_training)
    return found


def measure(items: Sequence[Grounded]) -> dict[str, Mean]:
    """The metrics of predictions, in true seconds and against the snapped truth.

    Raises:
        ValueError: no predictions.
    """
    if not items:
        raise ValueError("there are no predictions to measure")
    return grounding_metrics(
        torch.tensor([item.predicted_s for item in items]),
        torch.tensor([item.moment_s for item in items]),
        duration_s=torch.tensor([item.duration_s for item in items]),
        num_clips=torch.tensor([len(item.start_probs) for item in items]),
    )


def surest_wrong(items: Sequence[Grounded], *, iou: float = 0.1) -> Grounded:
    """The answer with the most probable start and end among those below this IoU; the worst one where none is."""
    wrong = [item for item in items if item.iou < iou] or [min(items, key=lambda item: item.iou)]
    return max(wrong, key=lambda item: item.start_probs.max() * item.end_probs.max())


def blind_guess(train: GroundingDataset, test: GroundingDataset) -> dict[str, Mean]:
    """The metrics of guessing without looking: the same share of every video, whatever the query.

    Five guesses are chosen greedily from the training moments (as shares of their videos' lengths), each so that it has
    IoU of at least 0.5 with the most queries that the earlier ones miss. What a method adds counts from here.
    """
    shares = torch.tensor([_share(train, query) for query in train.dataset.queries])
    candidates = shares[torch.linspace(0, len(shares) - 1, min(len(shares), 400)).long()]
    hits = temporal_iou(candidates[:, None], shares[None]) >= 0.5  # (candidates, queries)
    guesses = []
    for _ in range(5):
        best = hits.sum(1).argmax()
        guesses.append(candidates[best])
        hits = hits & ~hits[best]
    duration_s = torch.tensor([test.dataset.videos[query.video].duration_s for query in test.dataset.queries])
    truth = torch.tensor([(query.start_s, query.end_s) for query in test.dataset.queries])
    predicted = torch.stack(guesses)[None] * duration_s[:, None, None]
    num_clips = torch.tensor([len(test.videos[query.video]) for query in test.dataset.queries])
    return grounding_metrics(predicted, truth, duration_s=duration_s, num_clips=num_clips)


def ceiling(test: GroundingDataset) -> dict[str, Mean]:
    """The metrics of a perfect answer that can only start and end on the clips of each video's grid."""
    queries = test.dataset.queries
    return grid_ceiling(
        torch.tensor([(query.start_s, query.end_s) for query in queries]),
        duration_s=torch.tensor([test.dataset.videos[query.video].duration_s for query in queries]),
        num_clips=torch.tensor([len(test.videos[query.video]) for query in queries]),
    )


def _share(dataset: GroundingDataset, query) -> tuple[float, float]:
    duration_s = dataset.dataset.videos[query.video].duration_s
    return query.start_s / duration_s, query.end_s / duration_s
