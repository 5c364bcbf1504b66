"""Every way to weigh the teachers, on one data set: what each ingredient adds, and the controls it has to beat (ours).

The ladder goes from the Knowledge Aggregation Unit as released, which learns on the teachers' own training samples, to
ours, one ingredient at a time. Beside it stand what asks for no unit: the plain mean, constant weights fitted with the
same held-out answers, temperatures and pooling, the teacher that was best on them, and, as the ceiling, the oracle.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from vkdlab.emtm.aggregate import AggregateConfig, Aggregator, Integrated, fit_aggregator, trust
from vkdlab.emtm.ensemble import Ensemble
from vkdlab.emtm.integration import POOLINGS
from vkdlab.emtm.labelled import Label
from vkdlab.metrics import Mean, grounding_metrics

UNIFORM, CONSTANT, BEST, NAIVE, KAU, ORACLE = (
    "uniform mean",
    "constant weights",
    "best held-out",
    "naive KAU",
    "KAU",
    "oracle",
)
VIDEO = {"kau_inputs": "video", "pooling": "linear", "epochs": 15, "folds": 2}
LADDER = {
    NAIVE: AggregateConfig(as_released=True, epochs=15),
    "+ cross-fitting": AggregateConfig(as_released=True, epochs=15),
    "+ early stopping": AggregateConfig(calibrate=False, **VIDEO),
    "+ calibration": AggregateConfig(**VIDEO),
    "+ uncertainty": AggregateConfig(kau_inputs="uncertainty", pooling="linear"),
}
"""Each adds one thing to the one before: answers to queries that no teacher was trained on, in place of training ones;
constant weights to start from, and epochs that held-out queries choose; temperatures; how sure the teachers are, in
place of video and query. Last, for "KAU", held-out answers choose how to mix."""
REMEDIES = {
    "other pooling": {"pooling": None},
    "video and uncertainty": {"kau_inputs": "both", "epochs": 15, "folds": 2},
    "calibration the other way": {"calibrate": None},
    "expected IoU": {"objective": "iou"},
    "the other objective": {"objective": None},
    "constant, the other objective": {"mode": "constant", "objective": None},
}
"""What else was tried to bring KAU above constant weights: changes to its configuration; None is the other choice."""
CONTROLS = {
    UNIFORM: AggregateConfig(mode="uniform", calibrate=False, pooling="linear"),
    BEST: AggregateConfig(mode="best_held_out", calibrate=False, pooling="linear"),
    ORACLE: AggregateConfig(mode="oracle", calibrate=False, pooling="linear"),
}


@dataclass(frozen=True)
class Study:
    """Aggregators of one ensemble, and what they make of its answers."""

    ensemble: Ensemble
    """The teachers, and what they say."""
    aggregators: Mapping[str, Aggregator]
    """By name, in the order of the tables."""
    test: Mapping[str, Integrated]
    """The integrated labels of the test queries, by aggregator."""
    mixing: Mapping[str, Any]
    """Pooling, calibration and objective that held-out answers asked for."""

    @property
    def rows(self) -> dict[str, dict[str, Mean]]:
        """Metrics on the test split: every teacher, then every aggregate."""
        outputs = self.ensemble.test
        found = {}
        for place, name in enumerate(outputs.names):
            answers = outputs.moments_s[:, place : place + 1]
            found[name] = grounding_metrics(
                answers, outputs.truth_s, duration_s=outputs.duration_s, num_clips=outputs.num_clips
            )
        return found | {name: integrated.metrics() for name, integrated in self.test.items()}

    @property
    def best_in_hindsight(self) -> str:
        """The teacher with the best R1@0.5 on the test split: known only to who has the truth."""
        rows = self.rows
        return max(self.ensemble.test.names, key=lambda name: rows[name]["R1@0.5"].value)

    def trust(self, name: str) -> Mean:
        """Mean rank correlation over the test queries between an aggregator's weights and the teachers' IoU."""
        return trust(self.test[name], self.ensemble.test)

    def label(self, name: str) -> Label:
        """An aggregator's label for training and test queries; the oracle's, for training queries alone.

        On training queries the teachers of the whole split are mixed, not those of the folds: whom to trust is learned
        on held-out answers, and a student that knows the truth of a query anyway is led astray by a wrong one.
        """
        aggregator, splits = self.aggregators[name], self.ensemble.splits
        on_train = aggregator.integrate(self.ensemble.train, dataset=splits.train)
        if aggregator.config.mode == "oracle":
            return Label.join(on_train)  # it knows the truth, and nobody may learn from that of a test query
        return Label.join(on_train, self.test[name])


def compare(ensemble: Ensemble, *, seed: int = 0) -> Study:
    """Fits every aggregator, on held-out answers but for the naive one, and integrates the test answers.

    Args:
        ensemble: of `train_ensemble`.
        seed: of whatever is fitted.
    """
    mixing = choose_mixing(ensemble)
    configs = {
        UNIFORM: CONTROLS[UNIFORM],
        BEST: CONTROLS[BEST],
        CONSTANT: AggregateConfig(mode="constant", **mixing),
        **LADDER,
        KAU: AggregateConfig(**mixing),
        ORACLE: CONTROLS[ORACLE],
    }
    aggregators = {
        name: fit(ensemble, replace(config, seed=seed), naive=name == NAIVE) for name, config in configs.items()
    }
    test = {
        name: aggregator.integrate(ensemble.test, dataset=ensemble.splits.test)
        for name, aggregator in aggregators.items()
    }
    return Study(ensemble=ensemble, aggregators=aggregators, test=test, mixing=mixing)


def remedies(study: Study, *, seed: int = 0) -> dict[str, Integrated]:
    """The test labels of what else was tried, by name: see `REMEDIES`."""
    ensemble = study.ensemble
    (pooling,) = set(POOLINGS) - {study.mixing["pooling"]}
    (objective,) = {"nll", "moments"} - {study.mixing["objective"]}
    others = {"pooling": pooling, "calibrate": not study.mixing["calibrate"], "objective": objective}
    found = {}
    for name, change in REMEDIES.items():
        change = {field: others[field] if value is None else value for field, value in change.items()}
        config = replace(study.aggregators[KAU].config, seed=seed, **change)
        found[name] = fit(ensemble, config).integrate(ensemble.test, dataset=ensemble.splits.test)
    return found


def fit(ensemble: Ensemble, config: AggregateConfig, *, naive: bool = False) -> Aggregator:
    """An aggregator fitted on held-out answers, or on the teachers' own training samples when `naive`."""
    if naive:
        return fit_aggregator(ensemble.train, config, dataset=ensemble.splits.train)
    return fit_aggregator(ensemble.held_out, config, dataset=ensemble.held_out_dataset, groups=_groups(ensemble))


def choose_mixing(ensemble: Ensemble, *, parts: int = 3) -> dict[str, Any]:
    """Pooling, calibration and objective: with which constant weights reach the best mean IoU on the held-out answers.

    Each part of the held-out queries, whole groups of recordings, is judged with weights fitted on the others.
    """
    outputs, groups = ensemble.held_out, _groups(ensemble)
    names = sorted(set(groups))
    part = torch.tensor([names.index(group) % parts for group in groups])

    def reached(mixing: dict[str, Any]) -> float:
        config, ious = AggregateConfig(mode="constant", **mixing), []
        for held in part.unique().tolist():
            others = part != held if len(names) > 1 else part == held
            ious.append(fit_aggregator(outputs.rows(others), config).integrate(outputs.rows(part == held)).iou)
        return torch.cat(ious).mean().item()

    choices = itertools.product((True, False), POOLINGS, ("nll", "moments"))
    return max(
        (dict(zip(("calibrate", "pooling", "objective"), choice, strict=True)) for choice in choices), key=reached
    )


def _groups(ensemble: Ensemble) -> list[str]:
    """What each held-out query's video was recorded of: its group, or the video where all are of one group or none."""
    dataset = ensemble.held_out_dataset.dataset
    videos = {query.id: dataset.videos[query.video] for query in dataset.queries}
    names = [videos[name].group for name in ensemble.held_out.ids]
    return names if len(set(names)) > 1 and all(names) else [videos[name].id for name in ensemble.held_out.ids]
