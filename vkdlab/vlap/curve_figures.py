"""What is gained by reading more frames, and what it costs: accuracy against frames and against time (ours).

Accuracies are given as plain numbers, way to number of frames S to one share of 1 per run, so that runs that were
committed and runs that were just made are drawn alike; `by_frames` makes them of results.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from vkdlab import plots
from vkdlab.metrics import Interval, mean_interval
from vkdlab.vlap.evaluate import CHANCE, Results
from vkdlab.vlap.figures import colours_of, half, signed
from vkdlab.vlap.latency import KEPT, WayTime
from vkdlab.vlap.selectors import ALL, NONE, PROMPTER, UNIFORM
from vkdlab.vlap.shown import joined

Accuracies = Mapping[str, Mapping[int, Sequence[float]]]
"""Way to number of frames S to one accuracy per run, shares of 1."""
LEVEL = {ALL: "dash", NONE: "dashdot", CHANCE: "dot"}
"""Ways that do not depend on S, drawn as lines of this dash."""
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "hexagon", "star")
_TEXTS = ("top left", "bottom right")


def by_frames(runs: Sequence[Mapping[int, Results]]) -> dict[str, dict[int, list[float]]]:
    """Accuracy over all questions, as the figures of this module take it.

    Args:
        runs: of each run, number of frames S to its results; one run, or several over seeds.

    Raises:
        ValueError: there is no run.
    """
    if not runs or not all(runs):
        raise ValueError("there are no results of any run")
    found: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        for select, results in sorted(run.items()):
            for way in results.ways:
                found.setdefault(way, {}).setdefault(select, []).append(results.accuracy(way).value)
    return found


def accuracy_by_frames(accuracies: Accuracies, *, subtitle: str = "") -> go.Figure:
    """Accuracy against the number of frames that are read, a curve a way; chance, no frame and all frames as lines.

    With several runs each curve is their mean, in a band that is the 95 % interval of the mean; with one run there is
    no band.

    Args:
        accuracies: of every way; all numbers of frames at least 1.
        subtitle: data set, split.

    Raises:
        ValueError: there is no curve, or a number of frames below 1.
    """
    curves = {way: _intervals(each) for way, each in accuracies.items() if way not in LEVEL}
    counts = sorted({select for curve in curves.values() for select in curve})
    if not counts or counts[0] < 1:
        raise ValueError(f"accuracy is drawn against numbers of frames from 1, got {counts or 'none'}")
    colours = colours_of(accuracies)
    figure = go.Figure()
    ends = [counts[0] / 1.15, counts[-1] * 1.15]
    for (way, curve), symbol in zip(curves.items(), _SYMBOLS * 9, strict=False):
        selects = sorted(curve)
        values = [curve[select] for select in selects]
        low, high = ([value.mean + sign * half(value) for value in values] for sign in (-1, 1))
        if any(value.count > 1 for value in values):
            # So that a single number of frames has a band that can be seen.
            across = selects if len(selects) > 1 else ends
            low, high = (edge if len(edge) > 1 else edge * 2 for edge in (low, high))
            figure.add_scatter(
                x=[*across, *across[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=colours[way], opacity=0.14,
                mode="lines", line={"width": 1, "color": colours[way]}, hoverinfo="skip", showlegend=False,
                legendgroup=way, meta="band",
            )  # fmt: skip
        figure.add_scatter(
            x=selects, y=[value.mean for value in values], mode="lines+markers", name=way, legendgroup=way,
            line={"color": colours[way]}, marker={"symbol": symbol, "size": 9},
            hovertemplate=f"{way}, %{{x}} frames: %{{y:.1f}} %<extra></extra>",
        )  # fmt: skip
    for way, dash in LEVEL.items():
        if way in accuracies:
            value = _level(accuracies[way])
            figure.add_scatter(
                x=ends, y=[value, value], mode="lines", name=way, line={"color": colours[way], "dash": dash},
                hovertemplate=f"{way}: {value:.1f} %<extra></extra>",
            )  # fmt: skip
    runs = max(value.count for curve in curves.values() for value in curve.values())
    plots.styled(
        figure,
        title=_gained(curves),
        subtitle=joined(subtitle, f"bands: 95 % intervals over {runs} runs" if runs > 1 else ""),
        x="frames that are read, S (logarithmic)",
        y="accuracy (%)",
        height=450,
    )
    figure.update_xaxes(type="log", tickvals=counts, ticktext=[str(count) for count in counts])
    return figure.update_layout(margin={"b": 108}, showlegend=True)


def accuracy_against_latency(
    accuracies: Accuracies, times: Mapping[int, Mapping[str, WayTime]], *, subtitle: str = ""
) -> go.Figure:
    """Accuracy against the milliseconds of an answer, a curve a way and a mark a number of frames.

    A way that was not timed is left out; chance and no frame are lines. Kept thumbnails change the time and not the
    choice, so they have the prompter's accuracy.

    Args:
        accuracies: of every way.
        times: number of frames S to what `interleaved` gave.
        subtitle: data set, split, machine.

    Raises:
        ValueError: no way was both timed and measured.
    """
    known = {KEPT: accuracies[PROMPTER], **accuracies} if PROMPTER in accuracies else dict(accuracies)
    points = {
        way: {select: mean_interval([100 * share for share in known[way][select]]) for select in sorted(times)
              if way in times[select] and select in known[way]}
        for way in dict.fromkeys(way for each in times.values() for way in each) if way in known
    }  # fmt: skip
    points = {way: curve for way, curve in points.items() if curve}
    if not points:
        timed = sorted({way for each in times.values() for way in each})
        raise ValueError(f"no way was both timed and measured: timed were {timed}, measured {sorted(accuracies)}")
    colours, figure = colours_of(known), go.Figure()
    for place, (way, curve) in enumerate(points.items()):
        spans = {select: times[select][way].total for select in curve}
        x = {select: 1e3 * span.median_s for select, span in spans.items()}
        quartiles = {select: span.quartiles_s for select, span in spans.items()}
        text = [str(select) for select in curve]
        if way == ALL:  # it reads all frames, whatever S
            x = {0: statistics.fmean(x.values())}
            curve = {0: mean_interval([value.mean for value in curve.values()])}
            quartiles = {0: tuple(map(statistics.fmean, zip(*quartiles.values(), strict=True)))}
            text = ["all"]
        figure.add_scatter(
            x=[*x.values()], y=[value.mean for value in curve.values()], name=way, mode="lines+markers+text",
            error_x={
                "array": [1e3 * high - x[select] for select, (_, high) in quartiles.items()],
                "arrayminus": [x[select] - 1e3 * low for select, (low, _) in quartiles.items()],
                "thickness": 1, "width": 3,
            },
            text=text, textposition=_TEXTS[place % 2], textfont={"size": 11, "color": colours[way]},
            line={"color": colours[way]}, marker={"size": 10, "symbol": _SYMBOLS[place % len(_SYMBOLS)]},
            hovertemplate=f"{way}: %{{y:.1f}} % in %{{x:.1f}} ms<extra></extra>",
        )  # fmt: skip
    levels = {way: _level(accuracies[way]) for way in (CHANCE, NONE) if way in accuracies}
    for way, value in levels.items():
        line = {"color": colours[way], "dash": LEVEL[way], "width": 1.5}
        side = "top right" if value == max(levels.values()) else "bottom right"
        figure.add_hline(
            y=value, line=line, annotation_text=way, annotation_position=side, annotation_font_color=colours[way]
        )
    plots.styled(
        figure,
        title=_paid(points, times),
        subtitle=joined(subtitle, "numbers: frames read; bars: quartiles of the time"),
        x="milliseconds a question, median (logarithmic)",
        y="accuracy (%)",
        height=450,
    )
    drawn = [x for trace in figure.data for x in trace.x]
    edges = [math.log10(0.8 * min(drawn)), math.log10(1.25 * max(drawn))]
    digits = (1, 2, 5) if edges[1] - edges[0] > 1 else range(1, 10)
    ticks = [digit * 10.0**power for power in range(-3, 6) for digit in digits]
    figure.update_xaxes(type="log", range=edges, tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    return figure.update_layout(showlegend=True)


def _intervals(shares: Mapping[int, Sequence[float]]) -> dict[int, Interval]:
    return {select: mean_interval([100 * share for share in each]) for select, each in shares.items()}


def _level(shares: Mapping[int, Sequence[float]]) -> float:
    """Of a way that does not depend on S, over all runs, per cent."""
    return 100 * statistics.fmean(share for each in shares.values() for share in each)


def _gained(curves: Mapping[str, Mapping[int, Interval]]) -> str:
    """The title of `accuracy_by_frames`."""
    if not {PROMPTER, UNIFORM} <= curves.keys():
        return "Accuracy by the number of frames that are read"
    ours, theirs = curves[PROMPTER], curves[UNIFORM]
    gains = {select: ours[select].mean - theirs[select].mean for select in sorted(ours) if select in theirs}
    if not gains:
        return "Accuracy by the number of frames that are read"
    most = max(gains, key=gains.__getitem__)
    frames = f"{most} frame{'s' * (most > 1)}"
    if gains[most] <= 0:
        return f"The prompter is nowhere above uniform frames, closest with {frames} ({signed(gains[most])} points)"
    return f"The prompter gains most over uniform frames with {frames}: {signed(gains[most])} points"


def _paid(points: Mapping[str, Mapping[int, Interval]], times: Mapping[int, Mapping[str, WayTime]]) -> str:
    """The title of `accuracy_against_latency`."""
    both = [select for select in points.get(PROMPTER, ()) if select in points.get(ALL, ())]
    if not both:
        return "Accuracy against the time of an answer"
    best = max(both, key=lambda select: (round(points[PROMPTER][select].mean, 6), -select))
    gain = points[PROMPTER][best].mean - points[ALL][best].mean
    faster = times[best][PROMPTER].faster_than(times[best][ALL])[0]
    frames = f"{best} frame{'s' * (best > 1)}"
    return f"The prompter’s {frames}: {signed(gain)} points against all frames, {faster:.1f} times as fast"
