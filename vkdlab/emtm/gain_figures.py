"""What teachers, their aggregation and a shared encoder are worth: data in, `plotly.graph_objects.Figure` out (ours).

Values are shares of 1, such as R1@0.5; figures show per cent, and differences in points.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from vkdlab import plots
from vkdlab.emtm.marks import COLOURS, KAU, colours_of, dot, half, joined, number
from vkdlab.metrics import Interval, Mean, mean_interval, paired_interval

Values = Mapping[str, float | Interval | Mapping[str, Mean]]
"""Source to its value: a number, a number with its interval over seeds, or all metrics of a measurement."""


OFF = 0.17
"""How far single runs stand above a row, and their mean below it, in rows."""


def aggregates(
    rows: Values, *, control: str = "constant", ceiling: str = "oracle", metric: str = "R1@0.5", subtitle: str = ""
) -> go.Figure:
    """Every teacher, every way to put them together, and the ceiling, one row each, in the order given.

    Args:
        rows: source to value; KAU's ingredients added in turn are rows too ("KAU: cross-fitted", "KAU: + calibration").
        control: the row whose value is drawn through all others.
        ceiling: the row of the best single teacher of every query.
        metric: what is shown.
        subtitle: data set, split and seed.

    Raises:
        ValueError: there is no row of the control.
    """
    values = _intervals(rows, metric)
    _require(values, control)
    unit = [name for name in values if name.lower().startswith("kau")]
    title = f"{metric} of the integrated label"
    if unit:
        gain = 100 * (values[unit[-1]].mean - values[control].mean)
        kind, _, added = unit[-1].partition(": ")
        title = f"{kind}{f' ({added})' * bool(added)} is {_apart(gain)} {control.removesuffix(' weights')} weights"
        if ceiling in values:
            title += f", {100 * (values[ceiling].mean - values[unit[-1]].mean):.1f} below the {ceiling}"
    figure = _rows(values, lines={control: "dash"} | ({ceiling: "dot"} if ceiling in values else {}))
    lines = f"dashed: {control}" + f", dotted: {ceiling}" * (ceiling in values)
    return _finished(figure, values, title=title, subtitle=joined(subtitle, lines), metric=metric)


def students(rows: Values, *, control: str = "student alone", metric: str = "R1@0.5", subtitle: str = "") -> go.Figure:
    """The student alone, the students distilled from each source, and the teachers that only training needs.

    Args:
        rows: source to value, such as "student alone", "student from KAU", "isomorphic teacher"; what is alone, a
            teacher or of the oracle is not counted among the distilled students.
        control: the row whose value is drawn through all others.
        metric: what is shown.
        subtitle: data set, split and seed.

    Raises:
        ValueError: there is no row of the control.
    """
    values = _intervals(rows, metric)
    _require(values, control)
    others = ("alone", "teacher", "oracle")
    distilled = {name: each for name, each in values.items() if not any(word in name for word in others)}
    title = f"{metric} of students"
    if distilled:
        best = max(distilled, key=lambda name: distilled[name].mean)
        gain = 100 * (distilled[best].mean - values[control].mean)
        of = f"from {best.removeprefix('student from ')}" if best.startswith("student from ") else best
        title = f"The best distilled student, {of}, is {_apart(gain)} the {control}"
    figure = _rows(values, lines={control: "dash"})
    return _finished(figure, values, title=title, subtitle=subtitle, metric=metric)


def gain_parts(steps: Mapping[str, Sequence[float]], *, metric: str = "R1@0.5", subtitle: str = "") -> go.Figure:
    """Which part of the student's gain comes from what: each ingredient added to those before it.

    Args:
        steps: what is added, in order, to the values that are reached with it, one a seed in the same order throughout;
            the first is the start, such as "student alone", "shared encoder", "several teachers", "KAU".
        metric: what is shown.
        subtitle: data set, split and seeds.

    Raises:
        ValueError: fewer than two steps, or not the same number of seeds for all.
    """
    if len(steps) < 2:
        raise ValueError(f"a gain has parts from two steps on, got {list(steps)}")
    names, reached = list(steps), [[100.0 * value for value in values] for values in steps.values()]
    gains = [paired_interval(after, before) for before, after in itertools.pairwise(reached)]
    total = paired_interval(reached[-1], reached[0])
    bases = [0.0, *itertools.accumulate(gain.mean for gain in gains)][:-1]
    bars = [f"+ {name}" for name in names[1:]] + ["all together"]
    figure = make_subplots(rows=1, cols=1)
    figure.add_trace(
        go.Bar(
            x=[each.mean for each in (*gains, total)], base=[*bases, 0.0], y=bars, orientation="h", cliponaxis=False,
            marker_color=[*(plots.PALETTE[2] if gain.mean >= 0 else plots.PALETTE[1] for gain in gains),
                          COLOURS["student"]],
            error_x={"array": [half(each) for each in (*gains, total)], "color": "#333333", "thickness": 1.5},
        )
    )  # fmt: skip
    for name, gain in zip(bars, (*gains, total), strict=True):
        number(figure, f"{gain.mean:+.1f}{_around(gain)}", name)
    best = max(range(len(gains)), key=lambda place: gains[place].mean)
    plots.styled(
        figure,
        title=f"Of {total.mean:+.1f} points of {metric}, {gains[best].mean:+.1f} come with {names[best + 1]}",
        subtitle=joined(subtitle, _seeds(total.count), "each part is added to those above it"),
        x=f"points of {metric} above {names[0]} ({np.mean(reached[0]):.1f} %)",
        height=170 + 48 * len(names),
    )
    figure.update_xaxes(zeroline=True, zerolinecolor="#888888")
    return figure.update_yaxes(autorange="reversed").update_layout(showlegend=False, margin={"b": 60, "r": 130})


def double_softmax(
    norms: Mapping[str, float], labels: Mapping[str, Float[np.ndarray, " l"]], *, subtitle: str = ""
) -> go.Figure:
    """What a second softmax does to a soft label, and to the gradient that the student gets from it.

    Args:
        norms: loss to the norm of its gradient by the student's logits, the hard label's first.
        labels: stage ("integrated label", "after one softmax", "after two") to a distribution over the clips.
        subtitle: data set, temperature, how the logits were had.

    Raises:
        ValueError: no norms or no labels.
    """
    if not norms or not labels:
        raise ValueError("norms of gradients and label distributions are both needed, got none of one")
    figure = make_subplots(rows=1, cols=2, column_widths=[0.55, 0.45], horizontal_spacing=0.28)
    shades = ("#333333", plots.PALETTE[5], KAU, plots.PALETTE[6])
    for place, (name, values) in enumerate(labels.items()):
        values = np.asarray(values, dtype=float)
        figure.add_trace(
            go.Scatter(x=np.arange(len(values)), y=values, name=name, mode="lines",
                       line={"shape": "hvh", "color": shades[place % 4], "width": 2.5}),
            row=1, col=1,
        )  # fmt: skip
    figure.add_trace(
        go.Bar(
            x=list(norms.values()), y=list(norms), orientation="h", showlegend=False, textposition="outside",
            text=[_power(value) for value in norms.values()], cliponaxis=False,
            marker_color=["#333333" if place == 0 else KAU if "two" in name or "released" in name else plots.PALETTE[5]
                          for place, name in enumerate(norms)],
        ),
        row=1, col=2,
    )  # fmt: skip
    least = min(value for value in norms.values() if value > 0)
    most = next(iter(norms.values()))
    last = np.asarray(list(labels.values())[-1], dtype=float)
    flat = last[last > 0].max() / last[last > 0].min()
    plots.styled(
        figure,
        title=f"Two softmaxes leave a gradient {_rounded(most / least)} times smaller than the hard label's",
        subtitle=joined(subtitle, f"largest / least probability of “{list(labels)[-1]}”: {flat:.3f}"),
        height=400,
    )
    figure.update_xaxes(title_text="clip", row=1, col=1)
    figure.update_yaxes(title_text="probability", rangemode="tozero", row=1, col=1)
    span = [np.floor(np.log10(least)) - 1, np.ceil(np.log10(max(norms.values()))) + 1.2]
    figure.update_xaxes(
        type="log", title_text="norm of the gradient by the student's logits", range=span, dtick=2,
        exponentformat="power", row=1, col=2,
    )  # fmt: skip
    return figure.update_yaxes(autorange="reversed", row=1, col=2)


def over_seeds_paired(
    runs: Sequence[Mapping[str, Any]],
    sources: Mapping[str, str],
    *,
    control: str = "constant",
    fresh: Mapping[str, float] | None = None,
    metric: str = "R1@0.5",
    label: str = "committed runs",
    subtitle: str = "",
) -> go.Figure:
    """Committed runs, one dot a seed, and each source's difference to the control on the same seeds.

    Args:
        runs: the `runs` of an evidence file, one a seed; those of one data set and split.
        sources: what a row is called to the metric of a run that it shows, such as {"KAU": "KAU/R1@0.5"}.
        control: the source that all others are compared with.
        fresh: metrics of the reader's own run, under the same names.
        metric: what the axes are called.
        label: what the runs are called.
        subtitle: data set, split, machine.

    Raises:
        ValueError: no run, two runs of a seed, no control, or a metric that no run has.
    """
    _require(sources, control)
    seeds = [run["parameters"]["seed"] for run in runs]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"one run per seed is needed, got runs of the seeds {seeds}: choose one data set and split")
    found = {}
    for source, name in sources.items():
        found[source] = {
            run["parameters"]["seed"]: 100.0 * run["metrics"][name] for run in runs if name in run["metrics"]
        }
        if not found[source]:
            raise ValueError(f"no run has the metric {name!r}; the first has {', '.join(runs[0]['metrics'])}")
    colours = colours_of(sources)
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, column_widths=[0.55, 0.45], horizontal_spacing=0.04)
    for place, (source, by_seed) in enumerate(found.items()):
        figure.add_trace(
            go.Scatter(x=list(by_seed.values()), y=[place - OFF] * len(by_seed), mode="markers", showlegend=False,
                       marker={"size": 8, "color": colours[source], "opacity": 0.55},
                       hovertext=[f"{source}, seed {seed}" for seed in by_seed]),
            row=1, col=1,
        )  # fmt: skip
        _mean_mark(figure, mean_interval(list(by_seed.values())), place + OFF, col=1)
        shared = [seed for seed in by_seed if seed in found[control]]
        if source == control or not shared:
            continue
        paired = paired_interval([by_seed[seed] for seed in shared], [found[control][seed] for seed in shared])
        dot(figure, paired, place, colour=colours[source], col=2, sign="+")
    ours = {place: 100 * fresh[name] for place, name in enumerate(sources.values()) if name in (fresh or {})}
    _key(figure, f"{label}, one a seed", symbol="circle", opacity=0.55)
    _key(figure, "their mean, 95 % interval", symbol="line-ns")
    if ours:
        mark = {"symbol": "x", "size": 10, "color": "#000000"}
        own = go.Scatter(
            x=list(ours.values()), y=[place - OFF for place in ours], mode="markers", name="this run", marker=mark
        )
        figure.add_trace(own, row=1, col=1)
    figure.add_vline(x=0, line={"color": "#888888", "width": 1}, row=1, col=2)
    plots.styled(
        figure,
        title=_paired_title(found, control, metric),
        subtitle=joined(subtitle, _seeds(len(seeds))),
        height=190 + 44 * len(sources),
    )
    figure.update_xaxes(title_text=f"{metric} (%)", row=1, col=1)
    figure.update_xaxes(title_text=f"difference to {control} (points, 95 % interval)", row=1, col=2)
    figure.update_yaxes(range=[len(sources) - 0.4, -0.6], zeroline=False)
    return figure.update_yaxes(tickvals=list(range(len(sources))), ticktext=list(sources)).update_layout(
        margin={"r": 64}
    )


def _paired_title(found: Mapping[str, Mapping[int, float]], control: str, metric: str) -> str:
    unit = next((name for name in reversed(list(found)) if name.lower().startswith("kau")), None)
    unit = unit or next((name for name in reversed(list(found)) if name != control), None)
    shared = [seed for seed in found.get(unit, {}) if seed in found[control]]
    if not shared:
        return f"{metric} over seeds"
    paired = paired_interval([found[unit][seed] for seed in shared], [found[control][seed] for seed in shared])
    sure = "" if not np.isfinite(paired.low) or paired.low > 0 or paired.high < 0 else ", not told from 0"
    return f"{unit}: {paired.mean:+.1f}{_around(paired)} points of {metric} against {control}{sure}"


def _intervals(rows: Values, metric: str) -> dict[str, Interval]:
    found = {}
    for name, value in rows.items():
        value = value[metric].value if isinstance(value, Mapping) else value
        found[name] = value if isinstance(value, Interval) else Interval(float(value), np.nan, np.nan, 1)
    return found


def _require(sources: Mapping[str, Any], control: str) -> None:
    if control not in sources:
        raise ValueError(f"the control {control!r} stands in every comparison; there are {', '.join(sources)}")


def _rows(values: Mapping[str, Interval], *, lines: Mapping[str, str]) -> go.Figure:
    figure = make_subplots(rows=1, cols=1)
    colours = colours_of(values)
    for name, value in values.items():
        percent = Interval(100 * value.mean, 100 * value.low, 100 * value.high, value.count)
        dot(figure, percent, name, colour=colours[name])
    for name, dash in lines.items():
        figure.add_vline(x=100 * values[name].mean, line={"dash": dash, "color": colours[name], "width": 2})
    return figure


def _finished(
    figure: go.Figure, values: Mapping[str, Interval], *, title: str, subtitle: str, metric: str
) -> go.Figure:
    seeds = max((value.count for value in values.values()), default=1)
    plots.styled(
        figure,
        title=title,
        subtitle=joined(subtitle, f"mean and 95 % interval over {seeds} seeds" if seeds > 1 else ""),
        x=f"{metric} (%)",
        height=150 + 40 * len(values),
    )
    return figure.update_yaxes(autorange="reversed", title_text="").update_layout(margin={"b": 60, "r": 64})


def _mean_mark(figure: go.Figure, interval: Interval, height: float, *, col: int) -> None:
    figure.add_trace(
        go.Scatter(
            x=[interval.mean], y=[height], mode="markers", showlegend=False,
            marker={"symbol": "line-ns", "size": 12, "line": {"width": 2.5, "color": "#222222"}},
            error_x={"array": [half(interval)], "color": "#222222", "thickness": 1.5, "width": 6},
        ),
        row=1, col=col,
    )  # fmt: skip


def _key(figure: go.Figure, name: str, *, symbol: str, opacity: float = 1.0) -> None:
    mark = {"symbol": symbol, "size": 10, "color": "#444444", "opacity": opacity, "line": {"width": 2}}
    figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=mark), row=1, col=1)


def _apart(points: float) -> str:
    return f"{abs(points):.1f} points {'above' if points >= 0 else 'below'}"


def _around(interval: Interval) -> str:
    return f" [{interval.low:+.1f}, {interval.high:+.1f}]" if np.isfinite(interval.low) else ""


def _seeds(count: int) -> str:
    return f"{count} seeds, 95 % intervals of paired differences" if count > 1 else "one seed: no interval"


def _power(value: float) -> str:
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{value:.2g}" if value >= 0.01 else f"{digits}·10<sup>−{-int(exponent)}</sup>"


def _rounded(factor: float) -> str:
    return f"{float(f'{factor:.1e}'):,.0f}" if factor < 1e6 else f"{factor / 1e6:.2g} million"
