"""What a reader can turn in temporal grounding: panels around the figures (ours)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch

from vkdlab import widgets
from vkdlab.emtm.aggregate import Aggregator, Integrated
from vkdlab.emtm.teacher_figures import show_mixture, strip, what_teachers_say
from vkdlab.emtm.teacher_outputs import TeacherOutputs

YOURS = "your weights"


def what_if(
    aggregator: Aggregator,
    outputs: TeacherOutputs,
    integrated: Integrated,
    *,
    rows: Mapping[str, int] | Sequence[int],
    videos: Sequence[Path | None] | None = None,
    sentences: Sequence[str] | None = None,
    source: str = "KAU",
    subtitle: str = "",
    live: bool | None = None,
) -> Any:
    """What would the integrated label be with other weights: one slider per teacher, the answer redrawn at once.

    The sliders start at the unit's own weights, for each teacher the mean of those for start and end; once one is
    moved, both boundaries are mixed with the sliders' places, divided by their sum.

    Args:
        aggregator: mixes, with its temperatures and its pooling.
        outputs: what the teachers say.
        integrated: the aggregator's own weights and labels of the same queries.
        rows: which queries may be chosen, by what the list calls them; a sequence shows their sentences or ids.
        videos: file of every query of `outputs`, None where there are features alone.
        sentences: text of every query of `outputs`.
        source: name of the aggregator's own label.
        subtitle: data set, split and seed.
        live: overrides the decision, for tests.

    Returns:
        A panel when live, else the figure of the first query with the aggregator's own weights.

    Raises:
        ValueError: no query to choose from.
    """
    words = sentences or outputs.ids
    named = dict(rows) if isinstance(rows, Mapping) else {f"{row}: {words[row]}": row for row in rows}
    means = integrated.weights.mean(2)

    @lru_cache(maxsize=4)
    def drawn(row: int) -> tuple[TeacherOutputs, Integrated, go.Figure]:
        """One query, and its figure, of which only the mixture is drawn again."""
        said = outputs.rows([row])
        pictures, _ = strip(videos[row] if videos else None, float(said.duration_s[0]))
        mixed = aggregator.integrate(said, integrated.weights[[row]])
        figure = what_teachers_say(
            said, 0, video=pictures, sentence=sentences[row] if sentences else "", integrated=mixed, source=source,
            subtitle=subtitle,
        )  # fmt: skip
        return said, mixed, figure

    def places(row: int) -> dict[str, float]:
        return dict(zip(outputs.names, means[row].tolist(), strict=True))

    def draw(row: int, moved: Mapping[str, float] | None) -> go.Figure:
        said, mixed, figure = drawn(row)
        own = f"{source}'s own weights give IoU {mixed.iou.item():.2f}"
        if moved is None:
            return show_mixture(figure, mixed, 0, source=source, title=own)
        weights = torch.tensor([moved[name] for name in outputs.names])
        # All sliders at zero ask for nothing in particular: every teacher alike.
        weights = weights / weights.sum() if weights.sum() > 0 else torch.full_like(weights, 1 / len(weights))
        yours = aggregator.integrate(said, weights[None, :, None].expand(1, -1, 2).contiguous())
        return show_mixture(
            figure, yours, 0, source=YOURS, title=f"Your weights give IoU {yours.iou.item():.2f}; {own}"
        )

    return widgets.sliders(named, places, draw, label="query", reset=f"{source}'s own weights", live=live)
