"""Fitting weights of teachers: constant ones, and a unit that starts from them and may only do better (ours).

    nll   -mean sum_x y(x) log mix(x), start and end, y the target of `vkdlab.emtm.losses.soft_target`
    iou   mean sum_t w_t (1 - IoU_t), start and end, t the teachers: what one drawn by the weights would miss
    moments   1 - mean IoU of the mixture's best moment: has no gradient, so it only chooses, constants and epochs

The unit is trained for the number of epochs that served queries best which were held out in turn. That may be none: it
then gives constant weights. Videos and sentences reach it as principal components, as there are few queries to fit on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vkdlab.data.grounding import GroundingDataset
from vkdlab.emtm.aggregate_config import AggregateConfig
from vkdlab.emtm.calibration import soft_targets
from vkdlab.emtm.integration import log_calibrated, pool
from vkdlab.emtm.teacher_outputs import TeacherOutputs
from vkdlab.metrics import temporal_iou
from vkdlab.nn import KnowledgeAggregationUnit


@dataclass(frozen=True, eq=False)
class Problem:
    """What weights are judged by."""

    logs: tuple[Float[Tensor, "n k l"], Float[Tensor, "n k l"]]
    """Logarithms of the calibrated starts and ends."""
    targets: tuple[Float[Tensor, "n l"], Float[Tensor, "n l"]]
    """What they should be."""
    mask: Bool[Tensor, "n l"]
    """True on real clips."""
    missed: Float[Tensor, "n k"] | None
    """1 - IoU of each teacher, for the objective "iou"."""
    clip_s: Float[Tensor, " n"]
    """Length of a clip, seconds."""
    truth_s: Float[Tensor, "n 2"]
    """The true moments, seconds."""
    objective: str
    """"nll", "iou" or "moments"."""
    pooling: str
    """"linear" or "log_linear"."""

    @classmethod
    def of(cls, outputs: TeacherOutputs, temperatures: Float[Tensor, " k"], *, pooling: str, objective: str) -> Problem:
        """The problem of these teachers on these queries.

        Raises:
            ValueError: a query whose true moment is not known.
        """
        longest = int(outputs.num_clips.max())
        logs = [log_calibrated(probs, outputs.mask, temperatures) for probs in (outputs.start, outputs.end)]
        targets = soft_targets(outputs)
        return cls(
            logs=(logs[0][..., :longest], logs[1][..., :longest]),
            targets=(targets[0][..., :longest], targets[1][..., :longest]),
            mask=outputs.mask[:, :longest],
            missed=1 - outputs.iou if objective == "iou" else None,
            clip_s=outputs.duration_s / outputs.num_clips,
            truth_s=outputs.truth_s,
            objective=objective,
            pooling=pooling,
        )

    def loss(self, weights: Float[Tensor, "m k 2"], rows: Int[Tensor, " m"]) -> Float[Tensor, ""]:
        """Of these weights on these queries, mean over them; of "moments", the nll."""
        if self.missed is not None:
            return (weights.mean(2) * self.missed[rows]).sum(1).mean()
        mask = self.mask[rows]
        mixed = (pool(logs[rows], weights[..., side], mask, self.pooling) for side, logs in enumerate(self.logs))
        return sum(
            -(target[rows] * mix.masked_fill(~mask, 0)).sum(1).mean()
            for target, mix in zip(self.targets, mixed, strict=True)
        )

    @torch.no_grad()
    def judge(self, weights: Float[Tensor, "m k 2"], rows: Int[Tensor, " m"]) -> float:
        """What weights are chosen by: the loss, or, for "moments", 1 - mean IoU of the best moments."""
        if self.objective != "moments":
            return self.loss(weights, rows).item()
        mask = self.mask[rows]
        start, end = (pool(logs[rows], weights[..., side], mask, self.pooling) for side, logs in enumerate(self.logs))
        best_start, first = start.cummax(1)  # the best start up to each clip is the best one for an end there
        last = (best_start + end).argmax(1, keepdim=True)
        clips = torch.cat([first.gather(1, last), last + 1], 1)
        return 1 - temporal_iou(clips * self.clip_s[rows, None], self.truth_s[rows]).mean().item()


def search_constant(problem: Problem, *, seed: int, draws: int = 200) -> Float[Tensor, "k 2"]:
    """Logits of the constant weights, alike for start and end, that are judged best of many drawn ones.

    Half are drawn from all weights, after equal ones and single teachers; the rest around the best of those.

    Args:
        problem: what they are judged by.
        seed: of the draws.
        draws: how many.
    """
    count, teachers = problem.logs[0].shape[:2]
    rows = torch.arange(count)

    def judge(weights: Tensor) -> float:
        return problem.judge(weights[None, :, None].expand(count, -1, 2), rows)

    generator = torch.Generator().manual_seed(seed)
    noise = -torch.rand(draws, teachers, generator=generator).clamp(min=1e-6).log()  # normalised: even on the simplex
    noise = noise / noise.sum(1, keepdim=True)
    candidates = [torch.full((teachers,), 1 / teachers), *torch.eye(teachers), *noise[: draws // 2]]
    best = min(candidates, key=judge)
    best = min([best, *(0.8 * best + 0.2 * noise[draws // 2 :])], key=judge)
    return best.clamp(min=1e-3).log()[:, None].repeat(1, 2)


def fit_constant(problem: Problem, *, penalty: float) -> Float[Tensor, "k 2"]:
    """The logits of the constant weights of least loss.

    Args:
        problem: what they are judged by.
        penalty: of the logits' squares, so that a teacher that is never best keeps a finite one.
    """
    count, teachers = problem.logs[0].shape[:2]
    rows = torch.arange(count)
    logits = torch.zeros(teachers, 2, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss(logits.softmax(0).expand(count, -1, -1), rows) + penalty * logits.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach()


def fit_unit(
    problem: Problem,
    inputs: dict[str, Tensor],
    logits: Float[Tensor, "k 2"],
    *,
    kau_inputs: str,
    length: int | None,
    groups: Sequence[str],
    config: AggregateConfig,
) -> tuple[KnowledgeAggregationUnit, int]:
    """A trained unit, and for how many epochs.

    Args:
        problem: what its weights are judged by.
        inputs: what the unit's `forward` takes, for all queries.
        logits: of the constant weights that it starts from.
        kau_inputs: what it sees.
        length: clips that it is tied to.
        groups: one name per query; queries of one group are held out together.
        config: how it is trained.
    """

    def fresh() -> KnowledgeAggregationUnit:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            unit = KnowledgeAggregationUnit(
                inputs["video"].shape[2] if "video" in inputs else 1,
                teachers=len(logits),
                query_dim=inputs["query"].shape[2] if "query" in inputs else None,
                uncertainty=inputs["uncertainty"].shape[1] if "uncertainty" in inputs else 0,
                inputs=kau_inputs,
                length=length,
            )
        unit.bias.data.copy_(logits)
        return unit

    everything = torch.arange(len(problem.mask))
    epochs = config.epochs
    if config.folds:
        fold = _folds(groups, config.folds, seed=config.seed)
        parts = [(everything[fold != part], everything[fold == part]) for part in fold.unique().tolist()]
        if len(parts) < 2:
            return fresh().eval().requires_grad_(False), 0  # nothing can be held out, so nothing can be learnt safely
        runs = [_train(fresh(), problem, inputs, rows, held_out, config) for rows, held_out in parts]
        epochs = _best_epoch(runs, epochs=config.epochs, patience=config.patience)
    unit = fresh()
    for _ in itertools.islice(_train(unit, problem, inputs, everything, everything[:0], config), epochs + 1):
        pass
    return unit.eval().requires_grad_(False), epochs


def _best_epoch(runs: Sequence[Iterator[float]], *, epochs: int, patience: int) -> int:
    """The epoch with the least sum of the runs' losses; stops looking `patience` epochs after the best so far."""
    best, least = 0, math.inf
    for epoch, losses in zip(range(epochs + 1), zip(*runs, strict=True), strict=False):
        if sum(losses) < least:
            best, least = epoch, sum(losses)
        elif epoch - best >= patience:
            break
    return best


def _train(
    unit: KnowledgeAggregationUnit,
    problem: Problem,
    inputs: dict[str, Tensor],
    rows: Tensor,
    held_out: Tensor,
    config: AggregateConfig,
) -> Iterator[float]:
    """Trains in place, without end; gives the sum of losses on `held_out` before the first epoch and after each."""
    if "uncertainty" in inputs:
        unit.standardise(inputs["uncertainty"][rows])
    plain = [p for name, p in unit.named_parameters() if name.endswith("bias")]
    decayed = [p for name, p in unit.named_parameters() if not name.endswith("bias")]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}], lr=config.lr
    )
    generator = torch.Generator().manual_seed(config.seed)
    while True:
        yield _summed_loss(unit, problem, inputs, held_out) if len(held_out) else 0.0
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(config.batch_size):
            optimizer.zero_grad()
            problem.loss(unit(**{name: value[batch] for name, value in inputs.items()}), batch).backward()
            optimizer.step()


@torch.no_grad()
def _summed_loss(unit: KnowledgeAggregationUnit, problem: Problem, inputs: dict[str, Tensor], rows: Tensor) -> float:
    weights = unit(**{name: value[rows] for name, value in inputs.items()})
    return problem.judge(weights, rows) * len(rows)


def _folds(groups: Sequence[str], count: int, *, seed: int) -> Int[Tensor, " n"]:
    """The part that each query is in; parts have as many groups, one more or less."""
    names = sorted(set(groups))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    part = {name: int(position) % count for name, position in zip(names, order, strict=True)}
    return torch.tensor([part[name] for name in groups])


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of features: `(x - mean) @ basis`."""

    mean: Float[Tensor, " d"]
    """Mean of the features."""
    basis: Float[Tensor, "d c"]
    """Directions of most variance, scaled so that the components' variances are 1 in the mean."""

    @classmethod
    def of(cls, dataset: GroundingDataset, ids: Sequence[str], *, count: int) -> tuple[Components, Components]:
        """Those of the clips and of the words of these queries, at most `count` of each.

        Raises:
            ValueError: a query that the data set does not have.
        """
        items = _items(dataset, ids)
        return cls._fit([item["video"] for item in items], count), cls._fit([item["query"] for item in items], count)

    @classmethod
    def _fit(cls, sequences: list[Tensor], count: int) -> Components:
        steps = torch.cat(sequences).double()
        mean = steps.mean(0)
        values, vectors = torch.linalg.eigh((steps - mean).T @ (steps - mean) / len(steps))
        values, vectors = values[-count:], vectors[:, -count:]
        return cls(mean.float(), (vectors / values.mean().clamp(min=1e-12).sqrt()).float())

    def __call__(self, steps: Float[Tensor, "l d"]) -> Float[Tensor, "l c"]:
        return (steps - self.mean) @ self.basis


def look_up(
    dataset: GroundingDataset, ids: Sequence[str], components: tuple[Components, Components]
) -> dict[str, Tensor]:
    """Videos and sentences of these queries with their masks, as the unit takes them.

    Raises:
        ValueError: a query that the data set does not have.
    """
    found = {}
    items = _items(dataset, ids)
    for name, reduce in zip(("video", "query"), components, strict=True):
        sequences = [reduce(item[name]) for item in items]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        found[name] = pad_sequence(sequences, batch_first=True)
        found[f"{name}_mask"] = torch.arange(int(lengths.max())) < lengths[:, None]
    return found


def _items(dataset: GroundingDataset, ids: Sequence[str]) -> list[dict]:
    where = {query.id: position for position, query in enumerate(dataset.dataset.queries)}
    missing = [name for name in ids if name not in where]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(ids)} queries are not in the data set, the first is {missing[0]!r}: "
            "pass the data set that the teachers were asked about"
        )
    return [dataset[where[name]] for name in ids]
