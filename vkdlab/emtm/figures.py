"""What a person can look at in temporal grounding: data in, `plotly.graph_objects.Figure` out (ours)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from vkdlab import plots
from vkdlab.data import FrameReader
from vkdlab.emtm.predictions import Grounded
from vkdlab.emtm.teachers import TrainedTeacher
from vkdlab.metrics import Mean, mean_interval

LENGTHS = ("under 2 s", "2 to 4 s", "4 s and more")
COLOURS = {"guess without looking": "#9a9a9a", "ceiling of the grid": "#d9d9d9", "span teacher": plots.PALETTE[0]}
HEADLINES = ("R1@0.3", "R1@0.5", "R1@0.7", "R5@0.5", "mIoU")


def grounded(item: Grounded, *, source: str = "span teacher", frames: int = 8) -> go.Figure:
    """One query: frames, true moment, predicted moments (best one strong), start and end probability per clip.

    Args:
        item: a prediction with its truth.
        source: who predicted.
        frames: pictures in the strip.
    """
    times_s = (np.arange(frames) + 0.5) * item.duration_s / frames
    return plots.frame_strip(
        FrameReader(item.path).at(times_s),
        times_s,
        duration_s=item.duration_s,
        moments_s={"truth": [item.moment_s], source: item.predicted_s[:3]},
        curves={"probability": {"start": item.start_probs, "end": item.end_probs}},
        title=f"“{item.sentence}”",
        subtitle=f"{item.video}: IoU of the best moment with the truth {item.iou:.2f}; the next best are pale",
        colours={source: plots.PALETTE[0], "start": plots.PALETTE[1], "end": plots.PALETTE[2]},
    )


def recalls(
    rows: Mapping[str, Mapping[str, Mean]], *, subtitle: str = "", names: Sequence[str] = HEADLINES
) -> go.Figure:
    """Headline metrics side by side, in per cent, one series per source (teacher, baseline, ceiling)."""
    gain = rows["span teacher"]["R1@0.5"].value - rows["guess without looking"]["R1@0.5"].value
    points = f"{abs(100 * gain):.0f} points of R1@0.5"
    title = f"Looking is worth {points}" if gain > 0 else f"This teacher is {points} below a guess without looking"
    values = {
        source: {name: metrics[name].value for name in names if name in metrics} for source, metrics in rows.items()
    }
    return plots.bars(
        values, title=title, subtitle=subtitle, x="metric", y="share of queries, or IoU (%)", colours=COLOURS
    )


def metrics_table(rows: Mapping[str, Mapping[str, Mean]]) -> pd.DataFrame:
    """All metrics in per cent, one row a metric, one column a source; a dash where a source has no such metric."""
    table = pd.DataFrame({source: {name: 100 * mean.value for name, mean in rows[source].items()} for source in rows})
    table = table.reindex(list(max(rows.values(), key=len))).round(1)
    return table.astype(object).where(table.notna(), "–")


def transfer(teachers: Mapping[str, TrainedTeacher], *, subtitle: str = "") -> go.Figure:
    """R1@0.5 of teachers trained and tested on different data sets, beside a guess without looking."""
    names = {name: f"{name}<br>{len(each.items)} queries" for name, each in teachers.items()}
    values = {
        source: {names[name]: each.metrics[source]["R1@0.5"].value for name, each in teachers.items()}
        for source in ("guess without looking", "span teacher")
    }
    title = (
        "What a teacher reaches depends on the data"
        if len(teachers) > 1
        else f"One data set so far: {next(iter(names))}"
    )
    figure = plots.bars(values, title=title, subtitle=subtitle, x="data set", y="R1@0.5 (%)", colours=COLOURS)
    figure.update_xaxes(title_standoff=24)
    return figure.update_yaxes(range=[0, 109])


def over_seeds(
    committed: Sequence[Mapping], fresh: Mapping[str, TrainedTeacher], *, metric: str = "R1@0.5", subtitle: str = ""
) -> go.Figure:
    """Committed runs over seeds, the interval of their mean, and the reader's own run beside them.

    Args:
        committed: the `runs` of an evidence file.
        fresh: the reader's teachers, by data set.
        metric: which number is shown, a share of 1.
        subtitle: what was run.
    """
    reached: dict[str, list[float]] = {}
    for run in committed:
        reached.setdefault(run["parameters"]["data"], []).append(100 * run["metrics"][metric])
    figure = go.Figure()
    spread = {name: mean_interval(values) for name, values in reached.items()}
    figure.add_scatter(
        x=[name for name, values in reached.items() for _ in values], y=[y for ys in reached.values() for y in ys],
        mode="markers", name="committed runs, one a seed", marker={"color": plots.PALETTE[5], "size": 9},
    )  # fmt: skip
    figure.add_scatter(
        x=list(spread), y=[each.mean for each in spread.values()], mode="markers", name="their mean, 95 % interval",
        marker={"size": 14, "symbol": "line-ew", "line": {"color": plots.PALETTE[0], "width": 2}},
        error_y={"array": [_half(each) for each in spread.values()], "width": 8, "color": plots.PALETTE[0]},
    )  # fmt: skip
    figure.add_scatter(
        x=list(fresh), y=[100 * each.metrics["span teacher"][metric].value for each in fresh.values()], mode="markers",
        name="this run", marker={"color": plots.PALETTE[1], "size": 12, "symbol": "x"},
    )  # fmt: skip
    return plots.styled(
        figure, title=f"{metric} over seeds", subtitle=subtitle, x="data set", y=f"{metric} (%)"
    ).update_yaxes(range=[0, 100])


def iou_by_group(items: Sequence[Grounded], *, title: str, subtitle: str = "") -> go.Figure:
    """Mean IoU with its 95 % interval by kind of query and by length of the moment: where the teacher is weak."""
    table = pd.DataFrame(
        {
            "iou": [item.iou for item in items],
            "kind": [item.kind or "any" for item in items],
            "length": [length_class(item.moment_s[1] - item.moment_s[0]) for item in items],
        }
    )
    figure = go.Figure()
    for place, column in enumerate(("kind", "length")):
        groups = {name: group["iou"].tolist() for name, group in table.groupby(column)}
        groups = dict(sorted(groups.items(), key=lambda group: LENGTHS.index(group[0]) if group[0] in LENGTHS else 0))
        intervals = {f"{name}<br>n = {len(ious)}": mean_interval(ious) for name, ious in groups.items()}
        figure.add_trace(
            go.Scatter(
                x=list(intervals),
                y=[interval.mean for interval in intervals.values()],
                error_y={"array": [_half(interval) for interval in intervals.values()], "thickness": 1.5},
                mode="markers",
                marker={"size": 11, "color": plots.PALETTE[place]},
                name={"kind": "by kind of query", "length": "by length of the moment"}[column],
            )
        )
    plots.styled(figure, title=title, subtitle=subtitle, x="group", y="mean IoU, 95 % interval")
    figure.update_xaxes(title_standoff=24)  # the names of the groups take two lines
    return figure.update_yaxes(range=[0, 1])


def length_class(length_s: float) -> str:
    """Which of `LENGTHS` a moment of so many seconds belongs to."""
    return LENGTHS[(length_s >= 2) + (length_s >= 4)]


def _half(interval) -> float:
    half = interval.high - interval.mean
    return half if np.isfinite(half) else 0.0
