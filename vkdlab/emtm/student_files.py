"""A trained student as files: all that it takes to ask it about a new video, and its model card (ours).

```
<folder>/
    student.safetensors    weights; mean and spread of the features it was trained on
    student.json           sizes of the network, how its features were made, stride, grid
    README.md              the model card
```
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from vkdlab import cost
from vkdlab.cards import model_card
from vkdlab.data import manifests
from vkdlab.data.encoders import SentenceEncoder
from vkdlab.data.feature_store import FeatureManifest
from vkdlab.data.grounding import GroundingDataset, Standardisation
from vkdlab.emtm.networks import SpanConfig, SpanNetwork
from vkdlab.runs import machine
from vkdlab.student_files import WEIGHTS, StudentFiles
from vkdlab.weights import load_tensors, put_weights, save_tensors

FILES = StudentFiles(
    what="student that finds moments",
    runs="emtm-student-*",
    train_one="Train one: vkdlab run 03_kau_weights",
    version=1,
)
LICENCES = {
    "efficientnet-lite0": "EfficientNet-Lite0 weights: Apache-2.0, trained on ImageNet (non-commercial research)",
    "dis-flow": "no weights; OpenCV's optical flow: Apache-2.0",
    "minilm": "MiniLM weights: Apache-2.0",
}


@dataclass(frozen=True)
class Student:
    """A trained student and how to make what it sees."""

    network: SpanNetwork
    """In evaluation mode."""
    standardisation: Standardisation
    """Of all features, those that it does not see included."""
    features: tuple[FeatureManifest, ...]
    """How each part of the features was made, in their order."""
    seen: tuple[int, int]
    """First and one past the last of the features that it sees."""
    stride_s: float
    """Seconds from one clip to the next."""
    max_clips: int
    """Longest grid that it was trained on, in clips."""
    data: str
    """The data set that it was trained on."""
    folder: Path
    """Where its files lie."""

    @property
    def parts(self) -> list[tuple[FeatureManifest, slice]]:
        """The parts of the features that it sees something of, each with the columns of its own that it sees."""
        return _parts(self.features, self.seen)

    @cached_property
    def sentences(self) -> SentenceEncoder:
        """What encodes queries; read when it is first used, and kept."""
        return SentenceEncoder()

    def words(self, query: str) -> Float32[Tensor, "w e"]:
        """Vectors of a query's word pieces, rounded as those that it was trained on.

        Raises:
            ValueError: the query is empty, or has nothing that the encoder could read.
            ImportError: MiniLM is not installed; the message says how to get it.
        """
        if not query.strip():
            raise ValueError("the query is empty: say what to look for, such as 'a person opens the door'")
        pieces, _ = self.sentences.encode([query])[0]
        if not len(pieces):
            raise ValueError(f"the query {query!r} has no word that the encoder could read")
        return pieces.half().float()


def save_student(
    folder: str | os.PathLike,
    network: SpanNetwork,
    *,
    dataset: GroundingDataset,
    columns: tuple[int, int] | None = None,
    metrics: Mapping[str, float],
    measured_on: str = "",
    recipe: Mapping[str, Any],
) -> None:
    """Writes into a folder, of a run first of all, what `load_student` reads, and a model card.

    Args:
        folder: made where there is none; files of the same names are replaced.
        network: the trained student; left as it is.
        dataset: what it was trained on.
        columns: first and one past the last of the features that it sees; all of them when None.
        metrics: name to share of 1, for the card.
        measured_on: what the metrics are of; by default the test split.
        recipe: how it was trained, for the card; "seed" is named as the metrics' seed.

    Raises:
        ValueError: the network takes another number of features, or no metric is given.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    seen = columns or (0, dataset.dim)
    if not 0 <= seen[0] < seen[1] <= dataset.dim or seen[1] - seen[0] != network.config.video_dim:
        raise ValueError(
            f"columns {seen[0]} to {seen[1]} of {dataset.dim} features were given for a network that takes "
            f"{network.config.video_dim}: pass the columns that it was trained on"
        )
    settings = {
        "version": FILES.version,
        "network": dataclasses.asdict(network.config),
        "features": [
            {"fingerprint": manifest.fingerprint, **dataclasses.asdict(manifest)} for manifest in dataset.manifests
        ],
        "seen": list(seen),
        "stride_s": min(manifest.stride_s for manifest in dataset.manifests),
        "max_clips": dataset.max_clips,
        "data": f"{dataset.dataset.name} {dataset.dataset.profile}",
    }
    card = _card(network, dataset=dataset, settings=settings, metrics=metrics, measured_on=measured_on, recipe=recipe)
    standardisation = dataset.standardisation
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    save_tensors(folder / WEIGHTS, {**tensors, "mean": standardisation.mean, "std": standardisation.std})
    FILES.complete(folder, settings, card=card)


def load_student(folder: str | os.PathLike) -> Student:
    """Reads what `save_student` wrote; the network is on the CPU and in evaluation mode.

    Raises:
        FileNotFoundError: no such folder, or it holds no student.
        ValueError: a file is damaged, of another method or training, or of another version of vkdlab; the message says
            which.
    """
    folder = Path(folder)
    settings = FILES.read(folder)
    tensors, _ = load_tensors(folder / WEIGHTS)
    with FILES.explained(folder):
        network = SpanNetwork(SpanConfig(**settings["network"]))
        manifests_ = tuple(
            FeatureManifest(**{name: value for name, value in part.items() if name != "fingerprint"})
            for part in settings["features"]
        )
        first, last = settings["seen"]
        standardisation = Standardisation(tensors.pop("mean"), tensors.pop("std"))
        student = Student(
            network.eval().requires_grad_(False), standardisation, manifests_, (first, last), settings["stride_s"],
            settings["max_clips"], settings["data"], folder,
        )  # fmt: skip
    weights = {name.removeprefix("network."): value for name, value in tensors.items()}
    put_weights(network, weights, where=str(folder / WEIGHTS))
    return student


def latest_student(runs_dir: str | os.PathLike | None = None) -> Path:
    """Folder of the student that was trained last.

    Args:
        runs_dir: folder of all runs; by default in the cache.

    Raises:
        FileNotFoundError: no run of a student has ended there.
    """
    return FILES.latest(runs_dir)


def _parts(features: Sequence[FeatureManifest], seen: Sequence[int]) -> list[tuple[FeatureManifest, slice]]:
    first, last = seen
    parts, start = [], 0
    for manifest in features:
        own = slice(max(first - start, 0), min(last - start, manifest.dim))
        if own.start < own.stop:
            parts.append((manifest, own))
        start += manifest.dim
    return parts


def _card(
    network: SpanNetwork,
    *,
    dataset: GroundingDataset,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    measured_on: str,
    recipe: Mapping[str, Any],
) -> str:
    split, name = dataset.dataset, recipe.get("student", "EMTM")
    stride_s, max_clips = settings["stride_s"], settings["max_clips"]
    window_s = stride_s * max_clips
    asked = [split.videos[name].duration_s for name in dataset.videos]
    longer = sum(duration_s > window_s + stride_s / 2 for duration_s in asked)
    queries = f"{len(split.queries)} queries over {len(asked)} videos, {min(asked):.1f} to {max(asked):.1f} s long"
    terms = manifests.get(split.name).licence if split.name in manifests.names() else "yours, of your own videos"
    seen = {manifest.extractor: manifest for manifest, _ in _parts(dataset.manifests, settings["seen"])}
    return model_card(
        f"{name if name != 'EMTM' else 'EMTM student'}, trained on {split.name}",
        what="Finds the moment of a video that a sentence describes: features of clips and words in, start and end in "
        "seconds out (Liang et al., arXiv 2308.03725, as vkdlab builds it).",
        use='```\nvkdlab ground VIDEO "what happens" --student THIS_FOLDER\n```',
        data={
            "data set": f"{split.name}, profile {split.profile}", "split": f"{split.split}: {queries}",
            "longer than the grid": f"{longer} videos, averaged into {max_clips} clips" if longer else "none",
        },
        features={
            name: f"{manifest.dim} numbers every {manifest.stride_s:g} s; {manifest.input}"
            for name, manifest in seen.items()
        } | {"minilm": f"{network.config.query_dim} numbers a word piece"},
        training={what: value if value not in ("", ()) else "–" for what, value in recipe.items()}
        | {"best epoch chosen on": "the validation split"},
        metrics=metrics,
        measured_on=measured_on or f"the test split of {split.name}",
        seeds=[recipe.get("seed", 0)],
        cost=_cost(network, max_clips=max_clips),
        licences={f"{split.name} (data)": terms}
        | {name: LICENCES.get(name, "not known here; ask its source") for name in (*seen, "minilm")},
        limits=[
            f"It knows the kind of video and sentence that {split.name} has; elsewhere it answers all the same.",
            "It always names a moment, also where the video shows nothing of the kind; a low score is all that tells.",
            f"Moments longer than {window_s:g} s are not found, and boundaries are no finer than {stride_s:g} s.",
            "In a longer video, windows are compared by how much they find, which it was not trained to do.",
        ],
    )  # fmt: skip


def _cost(network: SpanNetwork, *, max_clips: int, words: int = 10) -> dict[str, str]:
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    query = (
        torch.zeros(1, max_clips, network.config.video_dim), torch.ones(1, max_clips, dtype=torch.bool),
        torch.zeros(1, words, network.config.query_dim), torch.ones(1, words, dtype=torch.bool),
    )  # fmt: skip
    macs = cost.macs(network, *query)
    with torch.inference_mode():
        took = cost.latency({"query": lambda: network(*query)}, repeats=15)["query"]
    return {
        "parameters": f"{cost.parameters(network) / 1e6:.3f} million",
        f"multiply-accumulates of one query, {max_clips} clips, {words} words": f"{macs / 1e6:.1f} million",
        "the same, measured": f"{1e3 * took.median_s:.1f} ms (median; {machine()['kind']}, "
        f"threads: {torch.get_num_threads()}; features and words at hand)",
    }
