"""How several teachers' answers become one label: by a trained unit, fixed weights, a choice, or the truth in hand.

The Knowledge Aggregation Unit is EMTM's; what surrounds it is ours. It is fitted on the outputs of teachers that were
trained before, and these had better be on queries that none of them was trained on: on its own training queries the
teacher that learnt them by heart looks like the best. How it is fitted: `vkdlab.emtm.fitting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from jaxtyping import Float
from torch import Tensor

from vkdlab.data.grounding import GroundingDataset
from vkdlab.emtm.aggregate_config import AggregateConfig
from vkdlab.emtm.calibration import fit_temperatures
from vkdlab.emtm.fitting import Components, Problem, fit_constant, fit_unit, look_up, search_constant
from vkdlab.emtm.integration import Integrated, integrate, uncertainty_inputs
from vkdlab.emtm.outputs import Boundaries
from vkdlab.emtm.teacher_outputs import TeacherOutputs, decode, fingerprint_of
from vkdlab.emtm.trust import recovered, trust
from vkdlab.nn import KnowledgeAggregationUnit

__all__ = [
    "AggregateConfig",
    "Aggregator",
    "Integrated",
    "fit_aggregator",
    "integrate",
    "recovered",
    "trust",
    "uncertainty_inputs",
]


class Aggregator:
    """Weighs and mixes teachers; made by `fit_aggregator`.

    Attributes:
        config: how.
        names: the k teachers that it was fitted for, in order.
        temperatures: `(k,)`, one per teacher; 1 without calibration.
        fixed: `(k, 2)`, the weights of modes that give every query the same; of "kau", the constant weights that it
            started from. None for the oracle.
        unit: the trained unit; None in every other mode.
        epochs: passes over the queries of the fit that the unit was given; 0 where held-out queries were served best
            by constant weights.
    """

    def __init__(
        self,
        config: AggregateConfig,
        *,
        names: Sequence[str],
        temperatures: Float[Tensor, " k"],
        fixed: Float[Tensor, "k 2"] | None = None,
        unit: KnowledgeAggregationUnit | None = None,
        components: tuple[Components, Components] | None = None,
        epochs: int = 0,
    ):
        self.config, self.names, self.temperatures, self.fixed = config, tuple(names), temperatures, fixed
        self.unit, self.components, self.epochs = unit, components, epochs

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides what it answers."""
        parts = [self.temperatures] + ([] if self.fixed is None else [self.fixed])
        parts += [] if self.unit is None else list(self.unit.state_dict().values())
        parts += [part for each in self.components or () for part in (each.mean, each.basis)]
        return fingerprint_of([asdict(self.config), self.names], parts)

    @torch.no_grad()
    def weights(self, outputs: TeacherOutputs, dataset: GroundingDataset | None = None) -> Float[Tensor, "n k 2"]:
        """How much each teacher is believed, for the start and for the end; over the teachers they sum to 1.

        Args:
            outputs: of the teachers that this was fitted for.
            dataset: with the videos and sentences of the queries, found by their ids; only for a unit that sees them.

        Raises:
            ValueError: other teachers; no data set where one is needed, or without one of the queries; the oracle on
                queries whose moment is not known.
        """
        if outputs.names != self.names:
            raise ValueError(
                f"fitted for {', '.join(self.names)}, got {', '.join(outputs.names)}: bring them into this order with "
                ".teachers(names), or fit again"
            )
        if self.config.mode == "oracle":
            iou = outputs.iou
            best = (iou == iou.amax(1, keepdim=True)).to(iou.dtype)
            return (best / best.sum(1, keepdim=True))[..., None].expand(-1, -1, 2)
        if self.unit is None:
            return self.fixed.expand(len(outputs.ids), -1, -1)
        inputs = _inputs(self.config, outputs, self.temperatures, self.components, dataset)
        return self.unit(**inputs)

    @torch.no_grad()
    def integrate(
        self,
        outputs: TeacherOutputs,
        weights: Float[Tensor, "n k 2"] | None = None,
        *,
        dataset: GroundingDataset | None = None,
    ) -> Integrated:
        """One label per query.

        Args:
            outputs: of the teachers that this was fitted for.
            weights: in place of its own.
            dataset: as for `weights`.

        Raises:
            ValueError: as for `weights`, or weights that are no distribution over the teachers.
        """
        if weights is None:
            weights = self.weights(outputs, dataset)
        start, end = integrate(outputs, weights, temperatures=self.temperatures, pooling=self.config.pooling)
        return Integrated(
            weights=weights,
            start=start,
            end=end,
            mask=outputs.mask,
            moments_s=decode(Boundaries(start=start, end=end, mask=outputs.mask), outputs.duration_s, k=5),
            duration_s=outputs.duration_s,
            truth_s=outputs.truth_s,
            ids=outputs.ids,
            names=outputs.names,
        )


def fit_aggregator(
    outputs: TeacherOutputs,
    config: AggregateConfig,
    *,
    dataset: GroundingDataset | None = None,
    groups: Sequence[str] | None = None,
) -> Aggregator:
    """Fits temperatures and weights, as far as the configuration asks for them. Takes seconds, and no global generator.

    Args:
        outputs: of the teachers on labelled queries; better none that a teacher was trained on.
        config: how.
        dataset: with the videos and sentences of the queries, found by their ids; only for a unit that sees them.
        groups: one name per query (of its scene, say), where whole groups are to be held out to find the number of
            epochs; by default single queries are.

    Raises:
        ValueError: no data set where one is needed, or without one of the queries; a query whose true moment is not
            known, where something is fitted; not one group per query.
    """
    if groups is not None and len(groups) != len(outputs.ids):
        raise ValueError(f"expected one group per query, got {len(groups)} for {len(outputs.ids)}")
    count = len(outputs.names)
    temperatures = fit_temperatures(outputs) if config.calibrate else torch.ones(count)
    found = {"names": outputs.names, "temperatures": temperatures}
    if config.mode == "oracle":
        return Aggregator(config, **found)
    if config.mode == "uniform":
        return Aggregator(config, fixed=torch.full((count, 2), 1 / count), **found)
    if config.mode == "best_held_out":
        iou = outputs.iou.double()
        quality = list(zip((iou >= 0.5).double().mean(0).tolist(), iou.mean(0).tolist(), strict=True))
        best = torch.arange(count) == quality.index(max(quality))
        return Aggregator(config, fixed=best.float()[:, None].expand(-1, 2), **found)
    problem = Problem.of(outputs, temperatures, pooling=config.pooling, objective=config.objective)
    if config.as_released and config.mode == "kau":
        logits = torch.zeros(count, 2)
    elif config.objective == "moments":
        logits = search_constant(problem, seed=config.seed)
    else:
        logits = fit_constant(problem, penalty=config.weight_decay / 100)
    found["fixed"] = logits.softmax(0)
    if config.mode == "constant":
        return Aggregator(config, **found)
    components = None
    if config.needs_features:
        components = Components.of(_required(dataset, config), outputs.ids, count=config.components)
    inputs = _inputs(config, outputs, temperatures, components, dataset)
    unit, epochs = fit_unit(
        problem,
        inputs,
        logits,
        kau_inputs=config.kau_inputs,
        length=outputs.mask.shape[1] if config.as_released else None,
        groups=groups or outputs.ids,
        config=config,
    )
    return Aggregator(config, unit=unit, epochs=epochs, components=components, **found)


def _inputs(
    config: AggregateConfig,
    outputs: TeacherOutputs,
    temperatures: Tensor,
    components: tuple[Components, Components] | None,
    dataset: GroundingDataset | None,
) -> dict[str, Tensor]:
    inputs = {}
    if config.kau_inputs != "video":
        inputs["uncertainty"] = uncertainty_inputs(outputs, temperatures=temperatures)
    if config.needs_features:
        inputs |= look_up(_required(dataset, config), outputs.ids, components)
    return inputs


def _required(dataset: GroundingDataset | None, config: AggregateConfig) -> GroundingDataset:
    if dataset is None:
        raise ValueError(f"a unit with inputs {config.kau_inputs!r} sees videos and sentences: pass dataset=")
    return dataset
