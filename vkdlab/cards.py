"""Model cards: what a trained network is, what it learned from, what it reaches, costs and cannot do (ours).

After Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019), cut down to what is known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def model_card(
    title: str,
    *,
    what: str,
    use: str,
    data: Mapping[str, Any],
    features: Mapping[str, str],
    training: Mapping[str, Any],
    metrics: Mapping[str, float],
    measured_on: str,
    seeds: Sequence[int],
    cost: Mapping[str, str],
    licences: Mapping[str, str],
    limits: Sequence[str],
) -> str:
    """The card as Markdown.

    Args:
        title: name of the model.
        what: what it does, in one or two sentences.
        use: how it is used: Markdown, commands in fences.
        data: facts about what it was trained on.
        features: name of what it sees to how that is made; empty where it sees pixels.
        training: how it was trained.
        metrics: name to a share of 1, shown in per cent; several seeds' are their mean.
        measured_on: data and split of the metrics.
        seeds: the seeds that the metrics are from; one is said to be one.
        cost: parameters, multiply-accumulates, latency, each with its unit.
        licences: data set or weights to its terms.
        limits: what it cannot do, a sentence each.

    Raises:
        ValueError: no seed, or no metric.
    """
    if not seeds or not metrics:
        raise ValueError(f"a model card needs a seed and a metric, given {len(seeds)} seeds and {len(metrics)} metrics")
    if len(seeds) == 1:
        spread = f"One seed ({seeds[0]}): with another one these numbers differ, and nothing here says by how much."
    else:
        spread = f"Mean over {len(seeds)} seeds ({', '.join(map(str, seeds))})."
    sections = {
        "Use": use,
        "Data": _table(data),
        "Features": _table(features) or "It sees pixels.",
        "Training": _table(training),
        "Metrics": f"On {measured_on}, in per cent. {spread}\n\n"
        + _table({name: _percent(value) for name, value in metrics.items()}, header=("metric", "%")),
        "Cost": _table(cost),
        "Licences": _table(licences) + "\n\nThe weights were learned from this data: its terms may bind them too.",
        "Limits": "\n".join(f"- {_line(limit)}" for limit in limits),
    }
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    return f"# {_line(title)}\n\n{what}\n\n{body}\n"


def _table(rows: Mapping[str, Any], *, header: tuple[str, str] = ("", "")) -> str:
    if not rows:
        return ""
    lines = [header, ("---", "---"), *((_cell(name), _cell(value)) for name, value in rows.items())]
    return "\n".join(f"| {name} | {value} |" for name, value in lines)


def _cell(value: Any) -> str:
    return _line(value).replace("|", "\\|")


def _line(value: Any) -> str:
    return " ".join(str(value).split())


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "–"
