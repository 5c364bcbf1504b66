"""What the Knowledge Aggregation Unit does with its teachers: data in, `plotly.graph_objects.Figure` out (ours).

A weight without a boundary's name is the mean of the weights for start and for end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from vkdlab import plots
from vkdlab.emtm.figures import LENGTHS, length_class
from vkdlab.emtm.integration import Integrated
from vkdlab.emtm.marks import KAU, NAIVE, colours_of, dot, half, joined
from vkdlab.emtm.teacher_figures import FOUND, LEAST
from vkdlab.emtm.teacher_outputs import TeacherOutputs
from vkdlab.emtm.trust import spearman
from vkdlab.metrics import Interval, mean_interval


def whom_kau_trusts(
    integrated: Integrated, outputs: TeacherOutputs, *, source: str = "KAU", subtitle: str = ""
) -> go.Figure:
    """The weights of every teacher over the data set, beside what each teacher reaches.

    Args:
        integrated: weights and integrated labels.
        outputs: what the teachers say of the same queries.
        source: whose weights they are.
        subtitle: data set, split and seed.
    """
    weights, hits = np.asarray(integrated.weights), 100.0 * (np.asarray(outputs.iou) >= FOUND)
    mean, reached = weights.mean((0, 2)), hits.mean(0)
    favourite, best = outputs.names[mean.argmax()], outputs.names[reached.argmax()]
    colours = colours_of(outputs.names)
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, column_widths=[0.6, 0.4], horizontal_spacing=0.04)
    for place, name in enumerate(outputs.names):
        for boundary, side, opacity in ((0, "negative", 0.9), (1, "positive", 0.45)):
            figure.add_trace(
                go.Violin(
                    x=weights[:, place, boundary], y=[name] * len(weights), orientation="h", side=side, points=False,
                    line={"color": colours[name], "width": 1}, fillcolor=colours[name], opacity=opacity, width=0.9,
                    meanline={"visible": True, "color": "#222222", "width": 2}, spanmode="hard", showlegend=False,
                    scalegroup=name, scalemode="count", name=name,
                ),
                row=1, col=1,
            )  # fmt: skip
        dot(figure, mean_interval(hits[:, place].tolist()), name, colour=colours[name], col=2)
    own = 100.0 * (np.asarray(integrated.iou) >= FOUND).mean()
    line = {"dash": "dash", "color": colours_of([source])[source]}
    figure.add_vline(
        x=own, line=line, annotation={"text": f"{source} {own:.1f}"},
        annotation_position="bottom left", row=1, col=2,
    )  # fmt: skip
    verdict = "and it is the best teacher" if favourite == best else f"though {best} is the best teacher"
    plots.styled(
        figure,
        title=f"{source} trusts {favourite} most (mean weight {mean.max():.2f}), {verdict}",
        subtitle=joined(
            subtitle, f"{len(weights)} queries; upper half: start, lower half: end; dashes: means; bars: 95 % intervals"
        ),
        height=150 + 75 * len(outputs.names),
    )
    figure.update_xaxes(title_text="weight", range=[-0.02, 1.02], row=1, col=1)
    figure.update_xaxes(title_text="the teacher's R1@0.5 (%)", row=1, col=2)
    return figure.update_yaxes(autorange="reversed").update_layout(
        violinmode="overlay", margin={"t": 96, "b": 64, "r": 64}
    )


def naive_against_cross_fitted(
    naive: Integrated,
    cross_fitted: Integrated,
    outputs: TeacherOutputs,
    *,
    train_iou: Float[Tensor, "m k"],
    held_out_iou: Float[Tensor, "h k"],
    subtitle: str = "",
) -> go.Figure:
    """Why a KAU that learns on the teachers' own training samples trusts the wrong one, and what cross-fitting changes.

    Args:
        naive: weights of the KAU that learned on the teachers' training samples, on the test queries.
        cross_fitted: weights of the KAU that learned on held-out queries, on the test queries.
        outputs: what the teachers say of the test queries.
        train_iou: IoU of every teacher on the samples that it was trained on.
        held_out_iou: IoU of every teacher on samples that it was not trained on: of other folds, or of validation.
        subtitle: data set, split and seed.
    """
    names = outputs.names
    by_naive, by_cross = (np.asarray(each.weights).mean((0, 2)) for each in (naive, cross_fitted))
    samples = {
        "its own training samples": (np.asarray(train_iou), "circle-open"),
        "held-out queries": (np.asarray(held_out_iou), "diamond"),
        "test": (np.asarray(outputs.iou), "circle"),
    }
    means = {label: ious.mean(0) for label, (ious, _) in samples.items()}
    colours = colours_of(names)
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, column_widths=[0.55, 0.45], horizontal_spacing=0.05)
    for place, name in enumerate(names):
        ends = [means[label][place] for label in samples]
        figure.add_trace(
            go.Scatter(x=[min(ends), max(ends)], y=[name] * 2, mode="lines", showlegend=False, hoverinfo="skip",
                       line={"color": colours[name], "width": 2}),
            row=1, col=1,
        )  # fmt: skip
    for label, (_, symbol) in samples.items():
        figure.add_trace(
            go.Scatter(
                x=means[label], y=names, mode="markers", name=label, showlegend=False,
                marker={"size": 13, "symbol": symbol, "color": [colours[name] for name in names],
                        "line": {"width": 2, "color": [colours[name] for name in names]}},
            ),
            row=1, col=1,
        )  # fmt: skip
        key = {"size": 12, "symbol": symbol, "color": "#555555", "line": {"width": 2, "color": "#555555"}}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=label, marker=key), row=1, col=1)
    for label, values, colour in (("naive KAU", by_naive, NAIVE), ("cross-fitted KAU", by_cross, KAU)):
        figure.add_trace(
            go.Bar(x=values, y=names, orientation="h", name=label, marker_color=colour, cliponaxis=False,
                   text=[f"{value:.2f}" for value in values], textposition="outside"),
            row=1, col=2,
        )  # fmt: skip
    favourite = int(by_naive.argmax())
    rank = 1 + int((means["test"] > means["test"][favourite]).sum())
    standing = "the best" if rank == 1 else f"number {rank} of {len(names)}"
    plots.styled(
        figure,
        title=f"The naive KAU gives {100 * by_naive[favourite]:.0f} % of the weight to {names[favourite]}, {standing} "
        f"on test; cross-fitted, {100 * by_cross[favourite]:.0f} %",
        subtitle=joined(subtitle, f"mean IoU and mean weight over {len(outputs.ids)} test queries"),
        height=170 + 65 * len(names),
    )
    figure.update_xaxes(title_text="the teacher's mean IoU", range=[0, 1.04], row=1, col=1)
    figure.update_xaxes(title_text="mean weight on test", range=[0, 1.12], row=1, col=2)
    return figure.update_yaxes(autorange="reversed").update_layout(legend={"traceorder": "normal"})


def is_trust_right(
    integrated: Integrated,
    outputs: TeacherOutputs,
    *,
    control: Integrated | None = None,
    source: str = "KAU",
    bins: int = 5,
    subtitle: str = "",
) -> go.Figure:
    """Is a teacher better where it has more weight, and are the better teachers of a query those with more weight?

    These are two questions. Within a query constant weights may do well, since some teachers are better throughout:
    they are the `control`. Over the queries of one teacher constant weights never vary, so there they say nothing, and
    what correlation a KAU has there it has by looking at the query.

    Args:
        integrated: the weights of KAU.
        outputs: what the teachers say of the same queries.
        control: constant weights on the same queries.
        source: whose weights are judged.
        bins: groups of equally many queries, by weight, for the mean IoU.
        subtitle: data set, split and seed.
    """
    ious, weights = outputs.iou, integrated.weights.mean(2)
    colours = colours_of([*outputs.names, source, "constant"])
    figure = make_subplots(rows=1, cols=2, column_widths=[0.55, 0.45], horizontal_spacing=0.2)
    for place, name in enumerate(outputs.names):
        parts = weights[:, place].argsort(stable=True).tensor_split(min(bins, len(weights)))
        means = [mean_interval(ious[part, place].tolist()) for part in parts]
        figure.add_trace(
            go.Scatter(
                x=[weights[part, place].mean().item() for part in parts], y=[each.mean for each in means], name=name,
                error_y={"array": [half(each) for each in means], "thickness": 1, "width": 3},
                mode="lines+markers", line={"color": colours[name]}, marker={"size": 8},
            ),
            row=1, col=1,
        )  # fmt: skip
    own = spearman(weights, ious)
    rows = {f"within a query, {source}": (_mean(own), colours[source])}
    title = f"{source} ranks the teachers of a query with correlation {_mean(own).mean:.2f}"
    if control is not None:
        constant = spearman(control.weights.mean(2), ious)
        rows["within a query, constant"] = (_mean(constant), colours["constant"])
        gain = _mean(own - constant)
        verdict = "better than" if gain.low > 0 else "worse than" if gain.high < 0 else "no better than"
        title = f"{source} ranks the teachers of a query {verdict} constant weights: correlation "
        title += " against ".join(f"{_mean(each).mean:.2f}" for each in (own, constant))
    for place, name in enumerate(outputs.names):
        rows[f"over queries, {name}"] = (over_queries(weights[:, place], ious[:, place]), colours[name])
    for label, (interval, colour) in rows.items():
        dot(figure, interval, label, colour=colour, col=2, digits=2)
    figure.add_vline(x=0, line={"color": "#888888", "width": 1}, row=1, col=2)
    note = f"{len(ious)} queries; bars: 95 % intervals; over the queries of one teacher constant weights never vary"
    plots.styled(figure, title=title, subtitle=joined(subtitle, note), height=430)
    figure.update_xaxes(title_text="weight of the teacher", row=1, col=1)
    figure.update_yaxes(title_text="its mean IoU", range=[0, 1], row=1, col=1)
    figure.update_xaxes(title_text="rank correlation of weight and IoU", range=[-1, 1], row=1, col=2)
    return figure.update_yaxes(autorange="reversed", row=1, col=2).update_layout(margin={"r": 64})


def weights_by(
    integrated: Integrated,
    groups: Mapping[str, Sequence[str]] | None = None,
    *,
    source: str = "KAU",
    subtitle: str = "",
) -> go.Figure:
    """Mean weights of the teachers as stacked bars: over all queries, by given groups, by length of the moment.

    Args:
        integrated: the weights.
        groups: name of a grouping, such as "kind of query", to the group of each query.
        source: whose weights they are.
        subtitle: data set, split and seed.

    Raises:
        ValueError: not one group per query.
    """
    weights = integrated.weights.mean(2)
    lengths = [length_class(end_s - start_s) for start_s, end_s in integrated.truth_s.tolist()]
    groupings = {"all queries": ["all"] * len(weights), **(groups or {}), "length of the moment": lengths}
    overall, colours = weights.mean(0), colours_of(integrated.names)
    means: dict[str, dict[str, Tensor]] = {}
    least, where, teacher = 0.02, "", 0
    for grouping, labels in groupings.items():
        if len(labels) != len(weights):
            raise ValueError(f"{grouping!r} has {len(labels)} groups for {len(weights)} queries, not one each")
        means[grouping] = {}
        for group in sorted(set(labels), key=lambda name: (LENGTHS.index(name) if name in LENGTHS else -1, name)):
            chosen = torch.tensor([label == group for label in labels])
            mean = means[grouping][f"{group} (n = {int(chosen.sum())})"] = weights[chosen].mean(0)
            moved = (mean - overall).abs()
            if chosen.sum() >= LEAST and moved.max() > least:
                least, where, teacher = moved.max(), group, int(moved.argmax())
                title = f"{source} gives {integrated.names[teacher]} {mean[teacher]:.2f} of the weight for “{where}”, "
                title += f"{overall[teacher]:.2f} over all queries"
    if not where:
        title = f"{source} weighs all groups of queries alike"
    heights = [len(each) for each in means.values()]
    figure = make_subplots(
        rows=len(means), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.8 / (sum(heights) + 3),
        subplot_titles=list(means),
    )  # fmt: skip
    figure.update_annotations(x=0, xanchor="left", font={"size": 12, "color": "#555555"})
    for row, bars in enumerate(means.values(), start=1):
        for place, name in enumerate(integrated.names):
            values = [mean[place].item() for mean in bars.values()]
            figure.add_trace(
                go.Bar(
                    y=list(bars), x=values, name=name, orientation="h", marker_color=colours[name], legendgroup=name,
                    showlegend=row == 1, text=[f"{value:.2f}" for value in values], textposition="inside",
                    insidetextanchor="middle", textangle=0,
                ),
                row=row, col=1,
            )  # fmt: skip
    plots.styled(figure, title=title, subtitle=subtitle, height=230 + 34 * (sum(heights) + len(heights)))
    figure.update_xaxes(range=[0, 1])
    figure.update_xaxes(title_text="mean weight", row=len(means), col=1)
    figure.update_layout(barmode="stack", bargap=0.2, legend={"traceorder": "normal"}, margin={"t": 100})
    return figure.update_layout(title={"pad": {"b": 54}}).update_yaxes(autorange="reversed")


def weights_per_sample(
    integrated: Integrated, rows: Sequence[int] | None = None, *, source: str = "KAU", subtitle: str = ""
) -> go.Figure:
    """The weights of single queries as stacked bars, those for the start above those for the end.

    Args:
        integrated: the weights.
        rows: which queries, in the order of the bars; 40 at even distances when None.
        source: whose weights they are.
        subtitle: data set, split and seed.
    """
    weights = np.asarray(integrated.weights)
    rows = list(np.linspace(0, len(weights) - 1, min(40, len(weights))).round().astype(int) if rows is None else rows)
    colours = colours_of(integrated.names)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for boundary in (0, 1):
        for place, name in enumerate(integrated.names):
            figure.add_trace(
                go.Bar(
                    x=[integrated.ids[row] for row in rows], y=weights[rows, place, boundary], name=name,
                    marker_color=colours[name], legendgroup=name, showlegend=boundary == 0,
                ),
                row=1 + boundary, col=1,
            )  # fmt: skip
    spread = weights.std(0).mean()
    title = f"{source} moves its weights by ±{spread:.2f} from query to query"
    if spread < 5e-4:
        title = f"{source} gives every query the same weights"
    note = f"{len(rows)} of {len(weights)} queries; ±: mean standard deviation over all of them"
    plots.styled(figure, title=title, subtitle=joined(subtitle, note), height=470)
    figure.update_yaxes(range=[0, 1])
    figure.update_yaxes(title_text="weight for the start", row=1, col=1)
    figure.update_yaxes(title_text="weight for the end", row=2, col=1)
    figure.update_xaxes(title_text="query (its id is shown on hover)", showticklabels=False, ticks="", row=2, col=1)
    return figure.update_layout(barmode="stack", bargap=0.08, legend={"traceorder": "normal"})


def over_queries(weights: Float[Tensor, " n"], ious: Float[Tensor, " n"]) -> Interval:
    """Spearman's correlation of one teacher's weight with its IoU over queries, and its 95 % interval.

    The interval is Fisher's, with the variance 1.06 / (n - 3) of rank correlations (Fieller et al., 1957).
    """
    value, count = spearman(weights[None], ious[None]).item(), len(weights)
    if not np.isfinite(value) or count < 4:
        return Interval(value, torch.nan, torch.nan, count)
    middle, reach = np.arctanh(np.clip(value, -0.999999, 0.999999)), 1.96 * (1.06 / (count - 3)) ** 0.5
    return Interval(value, float(np.tanh(middle - reach)), float(np.tanh(middle + reach)), count)


def _mean(values: Float[Tensor, " n"]) -> Interval:
    """Mean and interval of the numbers among them; not-a-number where there is none."""
    numbers = values[~values.isnan()].tolist()
    return mean_interval(numbers) if numbers else Interval(torch.nan, torch.nan, torch.nan, 0)
