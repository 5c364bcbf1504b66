"""What a prompter chooses over a data set, what that is worth, and where the time goes (ours).

Data in, `plotly.graph_objects.Figure` out. A way to choose frames has one colour in every figure.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from vkdlab import plots
from vkdlab.data.datasets import Question
from vkdlab.metrics import Interval, mean_interval
from vkdlab.vlap.distill import Inspection
from vkdlab.vlap.evaluate import CHANCE, Results, Row
from vkdlab.vlap.latency import KEPT, STAGES, WayTime
from vkdlab.vlap.prompter import segments
from vkdlab.vlap.selectors import ALL, LOCALIZER, NONE, ORACLE, PROMPTER, RANDOM, UNIFORM
from vkdlab.vlap.shown import joined

COLOURS = {
    PROMPTER: plots.PALETTE[0],
    KEPT: plots.PALETTE[5],
    "blind prompter": plots.PALETTE[3],
    "prompter, not distilled": "#44AA99",
    "as released": plots.PALETTE[4],
    UNIFORM: plots.PALETTE[1],
    LOCALIZER: plots.PALETTE[2],
    RANDOM: "#9a9a9a",
    ORACLE: plots.PALETTE[7],
    ALL: plots.TRUTH,
    NONE: plots.PALETTE[6],
    CHANCE: "#9a9a9a",
}
"""Name of a way to choose frames to its colour."""
_OTHERS = ("#882255", "#999933", "#117733", "#AA4499", "#6699CC")
_STAGE_COLOURS = {
    "decode": plots.PALETTE[5],
    "read": "#d0d0d0",
    "glance": plots.PALETTE[2],
    "choose": plots.PALETTE[0],
    "see": plots.PALETTE[4],
    "look": plots.PALETTE[1],
    "score": plots.PALETTE[3],
}
_BINS = 20
_NUMBERED = 4
"""So many ways at most have their numbers in the bars."""


def colours_of(ways: Iterable[str]) -> dict[str, str]:
    """A colour for every way; unknown ones take others in the order of their names."""
    ways = list(ways)
    unknown = sorted({*ways} - COLOURS.keys())
    return {way: COLOURS[way] if way in COLOURS else _OTHERS[unknown.index(way) % len(_OTHERS)] for way in ways}


def signed(points: float, digits: int = 1) -> str:
    """A difference in points, with a true minus."""
    return f"{points:+.{digits}f}".replace("-", "−")


def half(interval: Interval) -> float:
    """Half the width of an interval; 0 where one value says nothing about its spread."""
    width = interval.high - interval.mean
    return width if math.isfinite(width) else 0.0


def accuracy_by_kind(runs: Sequence[Results], *, ways: Sequence[str] | None = None, subtitle: str = "") -> go.Figure:
    """Accuracy of each kind of questions and of all, ways side by side; chance as a line across each kind.

    Args:
        runs: one or several (over seeds, then with the 95 % interval of the mean) on the same questions.
        ways: which to show, in this order; by default all.
        subtitle: data set, split, number of frames.

    Raises:
        ValueError: there is no run, one has other questions, or no such way.
    """
    if not runs:
        raise ValueError("there is no run to show")
    kinds, known = runs[0].kinds, [way for way in runs[0].ways if way != CHANCE]
    ids = {row.id for row in runs[0].rows}
    if any({row.id for row in run.rows} != ids for run in runs):
        raise ValueError("runs are compared on the same questions, and these have others")
    shown = known if ways is None else list(ways)
    counts = {kind: runs[0].accuracy(known[0], kind=kind).count for kind in kinds}
    groups = {kind: f"{kind or 'of no kind'}<br>n = {count}" for kind, count in counts.items() if len(kinds) > 1}
    labels = [*groups.values(), f"<b>all</b><br>n = {len(ids)}"]

    def values(way: str) -> list[Interval]:
        found = [[100 * run.accuracy(way, kind=kind).value for run in runs] for kind in groups]
        return [mean_interval(each) for each in (*found, [100 * run.accuracy(way).value for run in runs])]

    figure, of_all = go.Figure(), {}
    colours = colours_of(shown)
    for way in shown:
        reached = values(way)
        of_all[way] = reached
        figure.add_bar(
            x=labels, y=[value.mean for value in reached], name=way, marker_color=colours[way],
            error_y={"array": [half(value) for value in reached], "thickness": 1.2, "visible": len(runs) > 1},
            text=[f"{value.mean:.0f}" for value in reached] if len(shown) <= _NUMBERED else None,
            textposition="inside", insidetextanchor="start", textangle=0,
            hovertemplate=f"{way}: %{{y:.1f}} %<extra></extra>",
        )  # fmt: skip
    if CHANCE in runs[0].ways:
        chance = [value.mean for value in values(CHANCE)]
        figure.add_scatter(
            x=labels, y=chance, mode="markers", name=CHANCE, hovertemplate=f"{CHANCE}: %{{y:.1f}} %<extra></extra>",
            marker={"symbol": "line-ew", "size": 520 / len(labels), "line": {"width": 2, "color": plots.TRUTH}},
        )  # fmt: skip
    title = "Accuracy by kind of question"
    if {PROMPTER, UNIFORM} <= {*shown}:
        gains = [a.mean - b.mean for a, b in zip(of_all[PROMPTER], of_all[UNIFORM], strict=True)]
        title = f"The prompter against uniform frames: {signed(gains[-1])} points"
        best, worst = (pick(range(len(groups) or 1), key=gains.__getitem__) for pick in (max, min))
        if gains[best] > gains[worst]:
            most, least = ([*groups][place] or "no kind" for place in (best, worst))
            title += f", from {signed(gains[worst])} in “{least}” to {signed(gains[best])} in “{most}”"
    note = "bars: 95 % intervals over runs" if len(runs) > 1 else ""
    plots.styled(figure, title=title, subtitle=joined(subtitle, note), x="kind of question", y="accuracy (%)")
    figure.update_xaxes(title_standoff=44)
    figure.update_yaxes(range=[0, 100])
    return figure.update_layout(height=450, bargap=0.18, margin={"b": 116})


def where_time_goes(times: Mapping[str, WayTime], *, subtitle: str = "") -> go.Figure:
    """Milliseconds of an answer by stage, one bar a way; behind it the whole and how many times faster it is.

    Args:
        times: as `interleaved` gives them.
        subtitle: machine, numbers of frames.

    Raises:
        ValueError: nothing was timed.
    """
    if not times:
        raise ValueError("nothing was timed")
    figure = go.Figure()
    medians = {way: [1e3 * each.stages[stage].median_s for stage in STAGES] for way, each in times.items()}
    for place, stage in enumerate(STAGES):
        values = [medians[way][place] for way in times]
        if any(values):
            figure.add_bar(
                y=[*times], x=values, orientation="h", name=stage, marker_color=_STAGE_COLOURS[stage],
                hovertemplate=f"%{{y}}, {stage}: %{{x:.2f}} ms<extra></extra>",
            )  # fmt: skip
    rivals = [way for way in (ALL, LOCALIZER) if way in times]
    for way, each in times.items():
        factors = [f"{each.faster_than(times[rival])[0]:.1f}×" for rival in rivals]
        figure.add_annotation(
            x=sum(medians[way]), y=way, xanchor="left", xshift=6, showarrow=False,
            text=f"<b>{1e3 * each.total.median_s:.0f} ms</b>  {' / '.join(factors)}",
        )  # fmt: skip
    against = f"times as fast as {' / '.join(rivals)}" if rivals else ""
    plots.styled(
        figure,
        title=_spent(times),
        subtitle=joined(subtitle, "medians of one question at a time", against),
        x="milliseconds a question",
        height=190 + 46 * len(times),
    )
    figure.update_xaxes(range=[0, 1.2 * max(map(sum, medians.values()))])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure.update_layout(barmode="stack", legend={"traceorder": "normal"}, bargap=0.3)


def entropy_and_segments(inspections: Sequence[Inspection], *, subtitle: str = "") -> go.Figure:
    """How sure the prompter's choices are, and how often each place of a segment is chosen, over a data set.

    A segment with one frame has no choice and is not counted on the left. A place is counted on the right where the
    segment has it: of 30 frames in 4 segments, some have 7 and some 8.

    Args:
        inspections: of batches, all with the same number of frames chosen.
        subtitle: data set, split.

    Raises:
        ValueError: there is none, numbers differ, or no segment has two frames.
    """
    widths = {each.indices.shape[1] for each in inspections}
    if len(widths) != 1:
        raise ValueError(f"expected inspections of one number of chosen frames, got {sorted(widths) or 'none'}")
    (select,) = widths
    bounds = torch.cat([segments(each.mask.sum(1), select=select).cpu() for each in inspections])
    indices, chosen, entropy = (
        torch.cat([getattr(each, name).cpu() for each in inspections]) for name in ("indices", "chosen", "entropy")
    )
    lengths = bounds[:, 1:] - bounds[:, :-1]  # (n, s)
    longest = int(lengths.max())
    if longest < 2:
        raise ValueError("every segment has one frame: there was nothing to choose")
    sure = entropy[lengths > 1].double().numpy()
    even = math.log(longest)
    counts, edges = np.histogram(sure.clip(0, even), bins=_BINS, range=(0, even))
    places = torch.arange(longest)
    hits = ((indices - bounds[:, :-1])[..., None] == places) & chosen[..., None]
    there = lengths[..., None] > places
    shares = 100 * hits.sum(0).double() / there.sum(0).clamp(min=1)  # (s, p)

    figure = make_subplots(rows=1, cols=2, column_widths=[0.36, 0.64], horizontal_spacing=0.11)
    figure.add_bar(
        x=(edges[1:] + edges[:-1]) / 2, y=100 * counts / counts.sum(), width=0.94 * np.diff(edges), showlegend=False,
        marker_color=COLOURS[PROMPTER], hovertemplate="%{x:.2f} nats: %{y:.1f} %<extra></extra>", row=1, col=1,
    )  # fmt: skip
    line = {"color": plots.TRUTH, "dash": "dash", "width": 1.5}
    figure.add_vline(x=even, line=line, row=1, col=1)
    figure.add_annotation(
        x=even, y=1, yref="y domain", yanchor="top", xanchor="right", xshift=-4, text=f"even:<br>ln {longest}",
        showarrow=False, row=1, col=1,
    )  # fmt: skip
    gap = longest + max(1.0, 0.12 * longest)
    for segment in range(select):
        figure.add_bar(
            x=segment * gap + np.arange(longest), y=shares[segment].numpy(), width=0.9, showlegend=False,
            marker_color=COLOURS[PROMPTER] if segment % 2 == 0 else COLOURS[KEPT],
            hovertext=[
                f"frame {place + 1} of segment {segment + 1}: {share:.1f} %"
                for place, share in enumerate(shares[segment].tolist())
            ],
            hoverinfo="text", row=1, col=2,
        )  # fmt: skip
    figure.add_hline(y=100 / longest, line=line, row=1, col=2)
    figure.add_annotation(
        x=1, xref="x2 domain", y=100 / longest, xanchor="left", xshift=4, text="even", showarrow=False, row=1, col=2
    )  # fmt: skip
    place = int(shares.argmax())
    title = f"Half of the choices are below {np.median(sure):.2f} of {even:.2f} nats; most often "
    title += f"frame {place % longest + 1} of {longest} in segment {place // longest + 1} ({shares.max():.0f} %)"
    plots.styled(figure, title=title, subtitle=joined(subtitle, f"{len(indices)} questions"), height=400)
    figure.update_xaxes(title_text="entropy of a choice (nats)", range=[0, 1.04 * even], row=1, col=1)
    top = 120 * counts.max() / counts.sum()  # room for the words above the bars
    figure.update_yaxes(title_text="choices (%)", range=[0, top], row=1, col=1)
    figure.update_xaxes(
        title_text="segment, its frames in time", showgrid=False, row=1, col=2, ticks="",
        tickvals=[segment * gap + (longest - 1) / 2 for segment in range(select)],
        ticktext=[str(segment + 1) for segment in range(select)],
    )  # fmt: skip
    figure.update_yaxes(title_text="chosen (% of questions)", rangemode="tozero", row=1, col=2)
    return figure.update_layout(margin={"r": 52})


def worse_than_uniform(
    results: Results,
    *,
    way: str = PROMPTER,
    rival: str = UNIFORM,
    questions: Iterable[Question] = (),
    subtitle: str = "",
) -> go.Figure:
    """By kind, the questions that only one of two ways gets right; the hover tells an example of each.

    Args:
        results: of both ways.
        way: drawn to the right.
        rival: drawn to the left.
        questions: of the data set; of these the hover has the words.
        subtitle: data set, split, number of frames.

    Raises:
        ValueError: there is no such way.
    """
    against, texts = results.against(way, rival), {question.id: question for question in questions}
    kinds = list(results.kinds)
    counts = {kind: sum(mine.kind == kind for mine, _ in against.pairs) for kind in kinds}
    labels = {kind: f"{kind or 'of no kind'} (n = {count})" for kind, count in counts.items()}
    figure, most = go.Figure(), 1
    for name, pairs, sign in ((rival, against.lost, -1), (way, against.won, 1)):
        by_kind = {kind: [pair for pair in pairs if pair[0].kind == kind] for kind in kinds}
        values = [len(by_kind[kind]) for kind in kinds]
        most = max(most, *values)
        figure.add_bar(
            y=[labels[kind] for kind in kinds], x=[sign * value for value in values], orientation="h",
            name=f"only right with {name}", marker_color=colours_of([name])[name], textposition="outside",
            text=[str(value) for value in values], cliponaxis=False, hoverinfo="text",
            hovertext=[_example(by_kind[kind], way, rival, texts, won=sign > 0) for kind in kinds],
        )  # fmt: skip
    won, lost, total = len(against.won), len(against.lost), len(against.pairs)
    plots.styled(
        figure,
        title=f"Frames of the {way} win {won} and lose {lost} of {total} questions against {rival} ones",
        subtitle=joined(subtitle, "point at a bar for an example"),
        x=f"questions (left: only right with {rival}, right: only with {way})",
        height=180 + 38 * len(kinds),
    )
    ticks = np.unique(np.linspace(-most, most, 7).round().astype(int))
    figure.update_xaxes(range=[-1.15 * most, 1.15 * most], tickvals=ticks, ticktext=[str(abs(tick)) for tick in ticks])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure.update_layout(barmode="overlay", legend={"traceorder": "normal"}, showlegend=True)


def _spent(times: Mapping[str, WayTime]) -> str:
    """The title of `where_time_goes`."""
    way = PROMPTER if PROMPTER in times else next(iter(times))
    stages = {stage: seconds.median_s for stage, seconds in times[way].stages.items()}
    longest = max(stages, key=stages.__getitem__)
    share = 100 * stages[longest] / max(sum(stages.values()), 1e-12)
    text = f"{way.capitalize()}: {1e3 * times[way].total.median_s:.0f} ms, {share:.0f} % of it to {longest}"
    faster = [
        f"{times[way].faster_than(times[rival])[0]:.1f} times as fast as {rival}"
        for rival in (ALL, LOCALIZER)
        if rival in times and rival != way
    ]
    return "; ".join([text, *faster[:1]])


def _example(
    pairs: Sequence[tuple[Row, Row]], way: str, rival: str, texts: Mapping[str, Question], *, won: bool
) -> str:
    """The question on which the two differ most about the right option."""
    if not pairs:
        return "none"
    mine, theirs = max(pairs, key=lambda pair: abs(pair[0].probs[pair[0].answer] - pair[1].probs[pair[1].answer]))
    question = texts.get(mine.id)
    options = question.options if question else tuple(f"option {place + 1}" for place in range(len(mine.probs)))
    lines = [f"<b>{html.escape(f'“{question.question}”' if question else f'question {mine.id}')}</b>"]
    lines.append(f"right: {html.escape(options[mine.answer])}")
    for name, row in ((way, mine), (rival, theirs)):
        seen = ", ".join(f"{time:.1f}" for time in row.times_s[:8]) + ", …" * (len(row.times_s) > 8)
        lines.append(f"{name}: {html.escape(options[row.predicted])}, from {seen or 'no frame'} s")
    return "<br>".join([*lines, f"{mine.video}; one of {len(pairs)} {'won' if won else 'lost'}"])
