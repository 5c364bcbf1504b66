"""What a person can look at of a set of teachers: data in, `plotly.graph_objects.Figure` out (ours)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from vkdlab import plots
from vkdlab.emtm.marks import colours_of, half
from vkdlab.emtm.predictions import Grounded
from vkdlab.emtm.teacher_figures import strip
from vkdlab.emtm.teacher_outputs import TeacherOutputs
from vkdlab.history import History
from vkdlab.metrics import Mean, mean_interval

LENGTHS = ("under 2 s", "2 to 4 s", "4 s and more")
GUESS, CEILING = "guess without looking", "ceiling of the grid"
COLOURS = {GUESS: "#9a9a9a", CEILING: "#d9d9d9"}
HEADLINES = ("R1@0.3", "R1@0.5", "R1@0.7", "R5@0.5", "mIoU")


def grounded(item: Grounded, *, source: str = "teacher", frames: int = 8) -> go.Figure:
    """One query: frames, true moment, predicted moments (best one strong), start and end probability per clip.

    Args:
        item: a prediction with its truth; without a video file the pictures are grey.
        source: who predicted.
        frames: pictures in the strip.
    """
    pictures, times_s = strip(item.path, item.duration_s, frames=frames)
    return plots.frame_strip(
        pictures,
        times_s,
        duration_s=item.duration_s,
        moments_s={"truth": [item.moment_s], source: item.predicted_s[:3]},
        curves={"probability": {"start": item.start_probs, "end": item.end_probs}},
        title=f"“{item.sentence}”",
        subtitle=f"{item.video}: IoU of the best moment with the truth {item.iou:.2f}; the next best are pale",
        colours={source: plots.PALETTE[0], "start": plots.PALETTE[1], "end": plots.PALETTE[2]},
    )


def learning(histories: Mapping[str, History], *, metric: str = "R1@0.5", subtitle: str = "") -> go.Figure:
    """What every teacher reaches on the validation split, epoch by epoch; the epoch that is kept is marked."""
    figure = go.Figure()
    colours = colours_of(histories)
    kept = {}
    for name, history in histories.items():
        table = history.frame()
        reached = 100 * table[f"val/{metric}"]
        kept[name] = reached[history.best_epoch - 1]
        figure.add_scatter(x=table["epoch"], y=reached, name=name, mode="lines+markers", line_color=colours[name])
        figure.add_scatter(
            x=[history.best_epoch], y=[kept[name]], mode="markers", showlegend=False, hoverinfo="skip",
            marker={"size": 15, "symbol": "circle-open", "color": colours[name], "line": {"width": 2}},
        )  # fmt: skip
    best = max(kept, key=kept.get)
    title = f"The {best} teacher reaches most on the validation split: {metric} {kept[best]:.0f} %"
    plots.styled(figure, title=title, subtitle=subtitle, x="epoch (ringed: kept)", y=f"validation {metric} (%)")
    return figure.update_xaxes(dtick=max(1, round(max(len(each.rows) for each in histories.values()) / 8)))


def recalls(
    rows: Mapping[str, Mapping[str, Mean]], *, subtitle: str = "", names: Sequence[str] = HEADLINES
) -> go.Figure:
    """Headline metrics side by side, in per cent, one series per source: teachers, and `GUESS` and `CEILING`."""
    reached = {name: row["R1@0.5"].value for name, row in rows.items() if name not in COLOURS}
    best = max(reached, key=reached.get)
    gain = reached[best] - rows[GUESS]["R1@0.5"].value
    points = f"{abs(100 * gain):.0f} points of R1@0.5"
    title = f"Looking is worth {points}" if gain > 0 else f"The best teacher is {points} below a guess without looking"
    values = {
        source: {name: metrics[name].value for name in names if name in metrics} for source, metrics in rows.items()
    }
    colours = colours_of(rows) | COLOURS
    return plots.bars(
        values, title=title, subtitle=subtitle, x="metric", y="share of queries, or IoU (%)", colours=colours
    )


def metrics_table(rows: Mapping[str, Mapping[str, Mean]]) -> pd.DataFrame:
    """All metrics in per cent, one row a metric, one column a source; a dash where a source has no such metric."""
    table = pd.DataFrame({source: {name: 100 * mean.value for name, mean in rows[source].items()} for source in rows})
    table = table.reindex(list(max(rows.values(), key=len))).round(1)
    return table.astype(object).where(table.notna(), "–")


def how_many_right(outputs: TeacherOutputs, *, iou: float = 0.5, subtitle: str = "") -> go.Figure:
    """How many teachers find a query's moment: what one of them alone misses is what several can add.

    Args:
        outputs: what the teachers say, on queries with known moments.
        iou: from which a moment counts as found.
        subtitle: data set and split.
    """
    right = (outputs.iou >= iou).sum(1)
    count = len(outputs.names)
    shares = [(right == number).float().mean().item() * 100 for number in range(count + 1)]
    best = (outputs.iou >= iou).float().mean(0).max().item() * 100
    some = 100 - shares[0]
    figure = go.Figure(
        go.Bar(
            x=[str(number) for number in range(count + 1)], y=shares, text=[f"{share:.0f}" for share in shares],
            textposition="outside", cliponaxis=False, marker_color=plots.PALETTE[0],
        )
    )  # fmt: skip
    return plots.styled(
        figure,
        title=f"One teacher or another finds {some:.0f} % of the moments, the best alone {best:.0f} %",
        subtitle=subtitle,
        x=f"teachers that find the moment (IoU of {iou} or more)",
        y="queries (%)",
    )


def transfer(
    rows: Mapping[str, Mapping[str, Mapping[str, Mean]]], *, metric: str = "R1@0.5", subtitle: str = ""
) -> go.Figure:
    """A metric of the same sources on the data set that they were trained for, and on another one.

    Args:
        rows: name of a data set, the own one first, to its metrics by source, `GUESS` among them; one without any is
            left out.
        metric: what is shown, in per cent.
        subtitle: what was trained on what.
    """
    shown = {name: sources for name, sources in rows.items() if sources}
    sources = [name for name in next(iter(shown.values())) if name != CEILING]
    values = {
        name: {data: each[name][metric].value for data, each in shown.items() if name in each} for name in sources
    }
    gains = [
        100 * (max(each[name][metric].value for name in sources if name != GUESS) - each[GUESS][metric].value)
        for each in shown.values()
    ]
    title = f"The best teacher is {gains[0]:+.0f} points above a guess here"
    title += f" and {gains[1]:+.0f} on videos of another kind" if len(gains) > 1 else "; no other videos to try it on"
    colours = colours_of(values) | COLOURS
    figure = plots.bars(values, title=title, subtitle=subtitle, x="data set", y=f"{metric} (%)", colours=colours)
    return figure.update_xaxes(title_standoff=24)


def over_seeds(
    committed: Mapping[str, Sequence[float]], fresh: Mapping[str, float], *, metric: str = "R1@0.5", subtitle: str = ""
) -> go.Figure:
    """Committed runs over seeds, the interval of their mean, and the reader's own run beside them.

    Args:
        committed: name of a column to one share of 1 per seed.
        fresh: what the reader's own run reaches, where it has one.
        metric: which number is shown.
        subtitle: what was run.
    """
    figure = go.Figure()
    spread = {name: mean_interval([100 * value for value in values]) for name, values in committed.items() if values}
    figure.add_scatter(
        x=[name for name, values in committed.items() for _ in values],
        y=[100 * value for values in committed.values() for value in values],
        mode="markers", name="committed runs, one a seed", marker={"color": plots.PALETTE[5], "size": 9},
    )  # fmt: skip
    figure.add_scatter(
        x=list(spread), y=[each.mean for each in spread.values()], mode="markers", name="their mean, 95 % interval",
        marker={"size": 14, "symbol": "line-ew", "line": {"color": plots.PALETTE[0], "width": 2}},
        error_y={"array": [half(each) for each in spread.values()], "width": 8, "color": plots.PALETTE[0]},
    )  # fmt: skip
    figure.add_scatter(
        x=list(fresh), y=[100 * value for value in fresh.values()], mode="markers",
        name="this run", marker={"color": plots.PALETTE[1], "size": 12, "symbol": "x"},
    )  # fmt: skip
    return plots.styled(
        figure, title=f"{metric} over seeds", subtitle=subtitle, x="teacher", y=f"{metric} (%)"
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
                error_y={"array": [half(interval) for interval in intervals.values()], "thickness": 1.5},
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
