"""How a notebook ends: `finish` writes its key numbers and key figures, and shows them as a small table (ours)."""

from __future__ import annotations

import json
import math
import numbers
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import JOB_DIR_VARIABLE, project_root, write_json

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Summary:
    """What `finish` wrote; shows itself as a small table."""

    metrics: dict[str, Any]
    """Numbers, texts or None by name."""
    folder: Path
    """Where metrics.json and figures.json lie."""

    def __repr__(self) -> str:
        width = max(map(len, self.metrics))
        return "\n".join(f"{name:{width}}  {_shown(value)}" for name, value in self.metrics.items())

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(_shown(v))}</td></tr>" for name, v in self.metrics.items()
        )
        return f"<table>{rows}</table>"


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def finish(metrics: Mapping[str, Any], figures: Mapping[str, Figure] | None = None) -> Summary:
    """Ends a notebook: writes its key numbers and key figures where the report finds them.

    They go to the job's folder under `vkdlab run`, and to `reports/runs/live/<notebook>` in JupyterLab.

    Args:
        metrics: by name, finite numbers, texts, or None where there is no value; a `Mean` gives its value.
        figures: plotly figures by title, in the order in which the report shows them.

    Returns:
        A summary that a notebook's last line can show.

    Raises:
        ValueError: no metrics, or one that is not finite.
        TypeError: a metric is no number or text, or a figure is no plotly figure.
    """
    from .jobs import FIGURES, METRICS

    if not metrics:
        raise ValueError("finish expects at least one metric, given none: a run without numbers cannot be compared")
    plain = {str(name): _plain_metric(name, value) for name, value in metrics.items()}
    drawn = {}
    for title, figure in (figures or {}).items():
        if not hasattr(figure, "to_plotly_json"):
            raise TypeError(f"figure {title!r} is a {type(figure).__name__}, expected a plotly figure")
        drawn[str(title)] = figure
    folder = os.environ.get(JOB_DIR_VARIABLE)
    if folder is None:
        # JupyterLab tells a kernel which notebook it belongs to in this variable.
        name = Path(os.environ.get("JPY_SESSION_NAME", "notebook")).stem
        folder = project_root() / "reports" / "runs" / "live" / name
    folder = Path(folder)
    write_json(folder / FIGURES, {title: json.loads(figure.to_json()) for title, figure in drawn.items()})
    write_json(folder / METRICS, plain)
    return Summary(metrics=plain, folder=folder)


def _plain_metric(name: str, value: Any) -> int | float | str | bool | None:
    value = getattr(value, "value", value)
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return value
    if not isinstance(value, numbers.Real):
        raise TypeError(f"metric {name!r} is a {type(value).__name__}, expected a number, a text or None")
    if not math.isfinite(value):
        raise ValueError(f"metric {name!r} is {value}, expected a finite number; give None where there is no value")
    return value if isinstance(value, int) else float(value)
