"""What a delta network wins and loses: accuracy against cost, and drift against time (ours).

Several seeds of one point are drawn as their mean, with the 95 % interval of the mean.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vkdlab import plots
from vkdlab.delta.curves import UNTRAINED
from vkdlab.delta.evaluate import Followed, Measured
from vkdlab.delta.marks import COLOURS, Style, joined, signed, styles_of
from vkdlab.delta.points import Axis, Point, at_cost
from vkdlab.metrics import Interval, mean_interval

_AXES = {"gmac": "GMAC a frame", "ms": "ms a frame"}
_FLOORS = {"copy": "copying", "small": "a smaller network", "low rank": "a low-rank network"}
_STARTS = {
    "teacher": "teacher",
    "copying": "copy",
    "small": "small",
    "low rank": "low rank",
    "features": "feature distillation",
}
"""What the name of a network of a study starts with, to its kind; all others are delta networks."""
_NEAR = 0.1
_NUMBERED = 3
"""So many curves of delta networks at most have the numbers of their periods, each its own: more cover each other."""
_IN_A_ROW = 4
"""Names in a line of the legend."""
_FAIR_LOSS = 0.01


@dataclass(frozen=True)
class Published:
    """One row of the table that the method's authors published with their code."""

    model: str
    """The per-frame network."""
    data: str
    """Data set and metric."""
    value: float
    """Of the per-frame network, per cent."""
    gmac: float
    """Its cost of a frame."""
    delta_value: float
    """Of the delta network made from it, per cent."""
    delta_gmac: float
    """Its average cost of a frame."""


PUBLISHED = (
    Published("DDRNet23-slim", "Cityscapes, mIoU", 76.1, 36.6, 76.22, 17.67),
    Published("DDRNet23", "Cityscapes, mIoU", 78.7, 143.7, 78.94, 71.39),
    Published("DDRNet39", "Cityscapes, mIoU", 79.5, 282.0, 79.94, 139.37),
    Published("HRNet-w18-small", "Cityscapes, mIoU", 76.1, 77.9, 75.72, 43.0),
    Published("EfficientDet-D0", "ImageNet VID, mAP@0.5", 69.0, 2.50, 66.0, 0.63),
    Published("Faster-RCNN R101", "ImageNet VID, mAP@0.5", 74.5, 149.1, 73.5, 28.81),
)
"""Period 3 on Cityscapes, 10 on ImageNet VID."""


def against_cost(
    points: Sequence[Point], *, axes: Sequence[Axis] = ("gmac", "ms"), metric: str = "mIoU", subtitle: str = ""
) -> go.Figure:
    """Accuracy against arithmetic, and against measured time where there is one; a curve per name, a mark per period.

    Args:
        points: of all networks, periods and seeds; a teacher is among them.
        axes: costs to draw against, a panel each; one that was never measured is left out.
        metric: its name.
        subtitle: data set, split, size of the frames, machine.

    Raises:
        ValueError: no teacher among the points, or no cost that was measured.
    """
    if not any(point.kind == "teacher" for point in points):
        raise ValueError(f"accuracy is held against a teacher's, there are {sorted({p.kind for p in points})}")
    axes = [axis for axis in axes if any(math.isfinite(getattr(point, axis)) for point in points)]
    if not axes:
        raise ValueError("no cost of these points was measured")
    figure = make_subplots(rows=1, cols=len(axes), shared_yaxes=True, horizontal_spacing=0.05)
    styles = styles_of({point.name: (point.kind, point.gamma) for point in points})
    deltas = [name for name in styles if any(point.kind == "delta" for point in points if point.name == name)]
    bare = deltas[1:] if len(deltas) > _NUMBERED else []
    for column, axis in enumerate(axes, start=1):
        for name, style in styles.items():
            curve = [point for point in points if point.name == name and math.isfinite(getattr(point, axis))]
            if curve:
                _add_curve(
                    figure, curve, axis, style=style, first=column == 1, column=column, numbered=name not in bare
                )
        teacher = 100 * np.mean([point.value for point in points if point.kind == "teacher"])
        figure.add_hline(y=teacher, line={"dash": "dot", "color": COLOURS["teacher"], "width": 1}, row=1, col=column)
        figure.update_xaxes(title_text=_AXES[axis], rangemode="tozero", row=1, col=column)
    numbers = f"numbers: key-frame period{', alike on all curves' if bare else ''}"
    rows = math.ceil(len(styles) / _IN_A_ROW)
    plots.styled(
        figure,
        title=_won(points, metric, timed="ms" in axes),
        subtitle="<br>".join(filter(None, (joined(subtitle, numbers), _floors(points)))),
        height=470 + 30 * rows,
    )
    figure.update_layout(margin={"t": 112, "b": 66 + 30 * rows})
    return figure.update_yaxes(title_text=f"{metric} (%)", row=1, col=1)


def published() -> go.Figure:
    """The rows that the method's authors published: from a per-frame network to the delta network made from it."""
    groups = list(dict.fromkeys(row.data for row in PUBLISHED))
    figure = make_subplots(rows=1, cols=len(groups), horizontal_spacing=0.12)
    for column, group in enumerate(groups, start=1):
        for row in (row for row in PUBLISHED if row.data == group):
            for x, y, symbol, colour, word in (
                (row.gmac, row.value, "star", COLOURS["teacher"], "per frame"),
                (row.delta_gmac, row.delta_value, "circle", COLOURS["delta"], "delta"),
            ):
                figure.add_scatter(
                    x=[x], y=[y], mode="markers", marker={"symbol": symbol, "size": 11, "color": colour}, name=word,
                    legendgroup=word, showlegend=row is PUBLISHED[0],
                    hovertemplate=f"{row.model}, {word}: %{{y}} % at %{{x}} GMAC<extra></extra>", row=1, col=column,
                )  # fmt: skip
            figure.add_scatter(
                x=[row.gmac, row.delta_gmac], y=[row.value, row.delta_value], mode="lines", hoverinfo="skip",
                line={"color": "#bbbbbb", "width": 1.5}, showlegend=False, row=1, col=column,
            )  # fmt: skip
            won = row.delta_value >= row.value
            figure.add_annotation(
                x=math.log10(row.gmac * row.delta_gmac) / 2, y=(row.value + row.delta_value) / 2, showarrow=False,
                text=f"{row.model} ({row.gmac / row.delta_gmac:.1f}×)", font={"size": 12, "color": "#666666"},
                xanchor="center" if won else "left", yanchor="bottom" if won else "top", yshift=10 if won else -2,
                row=1, col=column,
            )  # fmt: skip
    plots.styled(
        figure,
        title="Published: half the arithmetic for the same mIoU, a quarter and less for 1 to 3 points of mAP",
        subtitle="numbers of the authors' code release, at key-frame periods 3 and 10; other data, networks and ways "
        "to count than ours",
        x="GMAC a frame",
        height=430,
    )
    figure.update_xaxes(type="log", dtick=1)
    for column, (low, high) in enumerate(((0.9, 2.75), (-0.5, 3.1)), start=1):
        figure.update_xaxes(range=[low, high], row=1, col=column)
    for column, (group, limits) in enumerate(zip(groups, ((74.5, 80.8), (64.5, 76)), strict=True), start=1):
        figure.update_yaxes(title_text=f"{group} (%)", range=limits, row=1, col=column)
    return figure


def by_distance(measured: Mapping[str, Measured], *, subtitle: str = "") -> go.Figure:
    """The metric against the distance from the key frame: where the error builds up.

    Args:
        measured: network to what was measured, by its name in a study, or "delta" and "copying" where there is one of
            each; one distance is drawn as a line through all.
        subtitle: data set, split.

    Raises:
        ValueError: nothing was measured at two distances or more.
    """
    longest = max((len(each.sums) for each in measured.values()), default=0)
    if longest < 2:
        raise ValueError(f"an error builds up from the second frame on, measured were {longest} distances")
    figure = go.Figure()
    known = {name: _known(name) for name in measured}
    styles = styles_of(known)
    for name, each in measured.items():
        values = [100 * value for value in each.by_distance]
        flat = len(values) == 1
        figure.add_scatter(
            x=list(range(longest if flat else len(values))), y=values * longest if flat else values, name=name,
            mode="lines" if flat else "lines+markers", marker={"symbol": styles[name].symbol, "size": 8},
            line={"color": styles[name].colour, "dash": "dot" if flat else styles[name].dash},
        )  # fmt: skip
    metric = next(iter(measured.values())).metric
    title = f"{metric} by distance from the key frame"
    moving = {name: each.by_distance for name, each in measured.items() if len(each.sums) > 1 and name != UNTRAINED}
    deltas, copies = ([name for name in moving if known[name][0] == kind] for kind in ("delta", "copy"))
    if deltas:
        values = moving[deltas[0]]
        lost = f"{abs(100 * (values[-1] - values[0])):.1f} points"
        title = f"{len(values) - 1} frames after the key frame {_called(deltas[0])} has "
        title += f"{'lost' if values[-1] <= values[0] else 'won'} {lost} of {metric}"
        if copies and len(moving[copies[0]]) == len(values):
            title += f", copying has lost {100 * (moving[copies[0]][0] - moving[copies[0]][-1]):.1f}"
    plots.styled(figure, title=title, subtitle=subtitle, x="frames since the key frame", y=f"{metric} (%)")
    return figure.update_xaxes(dtick=max(1, longest // 8)).update_layout(showlegend=True)


def along(followed: Mapping[str, Followed], *, subtitle: str = "") -> go.Figure:
    """Drift along a video, how much of each frame is new, and the metric of each frame; key frames are ringed.

    Args:
        followed: how the network was run ("every 8 frames", "and where much is new") to what happened; all on the same
            frames. Cuts are marked.
        subtitle: data set, videos.

    Raises:
        ValueError: nothing was followed, or other frames were.
    """
    rows = list(followed.values())
    if not rows or any(each.frames != rows[0].frames for each in rows):
        raise ValueError("runs over the same frames are compared, and at least one")
    labelled = any(math.isfinite(value) for value in rows[0].values)
    panels = ["drift of the<br>answer (%)", "new energy (%)"] + [f"{rows[0].metric} (%)"] * labelled
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    x = np.arange(len(rows[0].frames))
    for (name, each), colour in zip(followed.items(), plots.PALETTE, strict=False):
        drift = 100 * np.sqrt(each.drift)
        curves = [drift, 100 * np.array(each.energy)] + [100 * np.array(each.values)] * labelled
        for row, values in enumerate(curves, start=1):
            figure.add_scatter(
                x=x, y=values, name=name, legendgroup=name, showlegend=row == 1, mode="lines+markers",
                line={"color": colour}, row=row, col=1,
                cliponaxis=False,
                marker={"size": [11 if key else 5 for key in each.key], "line": {"width": 2, "color": colour},
                        "color": ["#ffffff" if key else colour for key in each.key], "opacity": 1},
            )  # fmt: skip
        if each.threshold is not None:
            figure.add_hline(
                y=100 * each.threshold, line={"dash": "dash", "color": colour, "width": 1.5}, row=2, col=1,
                annotation_text="threshold", annotation_position="top left",
            )  # fmt: skip
    if labelled:
        figure.add_scatter(
            x=x, y=100 * np.array(rows[0].teacher_values), name="teacher", mode="lines",
            line={"color": COLOURS["teacher"], "dash": "dot"}, row=3, col=1,
        )  # fmt: skip
    for place in rows[0].cuts:
        figure.add_vline(x=place - 0.5, line={"color": "#888888", "width": 1.5})
        figure.add_annotation(
            x=place - 0.5, y=1, yref="y domain", text="cut", showarrow=False, xanchor="right", yanchor="top", xshift=-4,
            row=1, col=1,
        )  # fmt: skip
    for row, panel in enumerate(panels, start=1):
        figure.update_yaxes(title_text=panel, rangemode="tozero", row=row, col=1)
    plots.styled(figure, title=_mended(followed), subtitle=joined(subtitle, "rings: key frames"), height=540)
    return figure.update_xaxes(title_text="frame", row=len(panels), col=1).update_layout(margin={"l": 90})


def left_out(why: str, *, subtitle: str = "") -> go.Figure:
    """In place of a figure that makes no sense for a data set: the sentence that says why.

    Args:
        why: one sentence, without a full stop.
        subtitle: data set, profile and seed.
    """
    figure = plots.styled(go.Figure(), title=f"Left out: {why}", subtitle=subtitle, height=130)
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)


def _known(name: str) -> tuple[str, float]:
    """Kind and gamma of a network of a study, by its name; gamma is 4 where the name says none."""
    kind = next((kind for start, kind in _STARTS.items() if name.startswith(start)), "delta")
    gamma = re.match(r"delta ([\d.]+)", name)
    return kind, float(gamma[1]) if gamma else 4.0


def _add_curve(
    figure: go.Figure, curve: list[Point], axis: Axis, *, style: Style, first: bool, column: int, numbered: bool
) -> None:
    """One curve: for the same period and the same gamma, the mean over seeds."""
    of_period = lambda point: (point.period, point.gamma)  # noqa: E731
    groups = [list(group) for _, group in itertools.groupby(sorted(curve, key=of_period), key=of_period)]
    if curve[0].kind in ("small", "low rank", "feature distillation"):
        groups = [
            list(group)
            for _, group in itertools.groupby(
                sorted(curve, key=lambda point: point.gmac), key=lambda point: round(point.gmac, 6)
            )
        ]
    values = [mean_interval([100 * point.value for point in group]) for group in groups]
    numbered = numbered and curve[0].kind in ("delta", "copy")
    figure.add_scatter(
        x=[float(np.mean([getattr(point, axis) for point in group])) for group in groups],
        y=[value.mean for value in values], error_y={"array": [_half(value) for value in values], "thickness": 1.2},
        mode="markers" if len(groups) == 1 else "lines+markers+text" if numbered else "lines+markers",
        text=[str(group[0].period) for group in groups] if numbered else None,
        textposition="top left" if curve[0].kind == "copy" else "bottom right",
        textfont={"size": 11, "color": style.colour}, name=curve[0].name, legendgroup=curve[0].name, showlegend=first,
        line={"color": style.colour, "dash": style.dash}, row=1, col=column,
        marker={"size": 13 if curve[0].kind == "teacher" else 9, "symbol": style.symbol},
        hovertemplate=f"{curve[0].name}: %{{y:.1f}} % at %{{x:.3g}} {_AXES[axis]}<extra></extra>",
    )  # fmt: skip


def _half(interval: Interval) -> float:
    width = interval.high - interval.mean
    return width if math.isfinite(width) else 0.0


def _best(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """The teacher's points, and of trained delta networks' the cheapest that lose a point at most, else the best."""
    teacher = [point for point in points if point.kind == "teacher"]
    groups: dict[tuple, list[Point]] = {}
    for point in points:
        if point.kind == "delta" and point.period > 1 and point.name != UNTRAINED:
            groups.setdefault((point.name, point.gamma, point.period), []).append(point)
    if not groups:
        return teacher, []
    value = lambda group: float(np.mean([point.value for point in group]))  # noqa: E731
    fair = [group for group in groups.values() if value(group) >= value(teacher) - _FAIR_LOSS]
    if fair:
        return teacher, min(fair, key=lambda group: np.mean([point.gmac for point in group]))
    return teacher, max(groups.values(), key=value)


def _won(points: Sequence[Point], metric: str, *, timed: bool) -> str:
    teacher, delta = _best(points)
    if not delta:
        return f"{metric} against cost"
    lost = 100 * np.mean([point.value for point in delta]) - 100 * np.mean([point.value for point in teacher])
    share = np.mean([point.gmac for point in delta]) / np.mean([point.gmac for point in teacher])
    text = f"{_called(delta[0].name, first=True)}: {signed(lost)} points of {metric}"
    text += f" for {100 * share:.0f} % of the arithmetic"
    times = [np.mean([point.ms for point in each]) for each in (teacher, delta)]
    if timed and all(map(math.isfinite, times)):
        text += f" and {100 * times[1] / times[0]:.0f} % of the time"
    return f"{text} at period {delta[0].period}"


def _floors(points: Sequence[Point]) -> str:
    """The gain over every floor at the cost of the delta network that the title speaks of."""
    _, delta = _best(points)
    if not delta:
        return ""
    said, missing = [], []
    for kind, word in _FLOORS.items():
        gains = []
        for point in delta:
            curve = [other for other in points if other.kind == kind and other.seed == point.seed]
            near = [other for other in curve if abs(other.gmac / point.gmac - 1) <= _NEAR]
            if len(curve) == 1 or len({other.name for other in curve}) > 1:
                value = max((other.value for other in near), default=math.nan)
            else:
                value = at_cost(curve, point.gmac) if curve else math.nan
            gains.append(100 * (point.value - value))
        if all(map(math.isfinite, gains)):
            said.append(f"{signed(float(np.mean(gains)))} to {word}")
        else:
            missing.append(word)
    return joined(
        f"points at the same cost: {', '.join(said)}" if said else "",
        f"not measured at this cost: {', '.join(missing)}" if missing else "",
    )


def _called(name: str, *, first: bool = False) -> str:
    """A network's name in a sentence."""
    name = "the delta network" if name == "delta" else name
    return name[0].upper() + name[1:] if first else name


def _mended(followed: Mapping[str, Followed]) -> str:
    if not (cuts := next(iter(followed.values())).cuts):
        return "How far the answer drifts from the teacher's"
    after = {
        name: 100 * float(np.mean(np.sqrt(each.drift[cuts[0] : cuts[0] + each.period])))
        for name, each in followed.items()
    }
    plain = [name for name, each in followed.items() if each.threshold is None]
    watched = [name for name, each in followed.items() if each.threshold is not None]
    if not plain:
        return f"After the cut the answer is {after[watched[0]]:.0f} % off"
    text = f"After the cut the answer is {after[plain[0]]:.0f} % off"
    return text + (f", with an automatic key frame {after[watched[0]]:.0f} %" if watched else "")
