"""What the teachers say, and how sure they may be of it: data in, `plotly.graph_objects.Figure` out."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float, UInt8
from plotly.subplots import make_subplots
from torch import Tensor

from vkdlab import plots
from vkdlab.data import FrameReader
from vkdlab.emtm.integration import Integrated, log_calibrated
from vkdlab.emtm.marks import COLOURS, colours_of, joined
from vkdlab.emtm.moments import moment_to_clips
from vkdlab.emtm.teacher_outputs import TeacherOutputs
from vkdlab.metrics import expected_calibration_error

FOUND = 0.5
"""Temporal IoU from which a moment counts as found."""
LEAST = 10
"""Samples from which a bin is drawn."""


def strip(
    video: Path | UInt8[np.ndarray, "t h w 3"] | None, duration_s: float, *, frames: int = 8
) -> tuple[UInt8[np.ndarray, "t2 h2 w2 3"], Float[np.ndarray, " t2"]]:
    """Pictures spread evenly over a video, and the seconds that they show.

    Args:
        video: its file; pictures that were read before; or None where there are features alone, for grey pictures.
        duration_s: length of the video, seconds.
        frames: how many pictures are read from a file.
    """
    if video is None:
        video = np.full((frames, 90, 160, 3), 236, np.uint8)
    count = frames if isinstance(video, Path) else len(video)
    times_s = (np.arange(count) + 0.5) * duration_s / count
    return (FrameReader(video).at(times_s) if isinstance(video, Path) else video), times_s


def what_teachers_say(
    outputs: TeacherOutputs,
    row: int,
    *,
    video: Path | UInt8[np.ndarray, "t h w 3"] | None = None,
    sentence: str = "",
    integrated: Integrated | None = None,
    source: str = "KAU",
    subtitle: str = "",
) -> go.Figure:
    """One query: frames, true moment, every teacher's best moment, and where each sees the start and the end.

    Args:
        outputs: what the teachers say.
        row: which query.
        video: its file, or pictures spread evenly over it, or None where there are features alone.
        sentence: the query.
        integrated: the integrated label of the same queries, shown as one more source.
        source: name of the integrated label.
        subtitle: data set, split and seed.
    """
    duration_s, truth_s = float(outputs.duration_s[row]), outputs.truth_s[row].tolist()
    valid = np.asarray(outputs.mask[row])
    ious = dict(zip(outputs.names, outputs.iou[row].tolist(), strict=True))
    moments = dict(zip(outputs.names, outputs.moments_s[row].tolist(), strict=True))
    curves = {
        f"probability of the {side}": {
            name: np.asarray(said[row, place])[valid] for place, name in enumerate(outputs.names)
        }
        for side, said in (("start", outputs.start), ("end", outputs.end))
    }
    found = sum(iou >= FOUND for iou in ious.values())
    title = f"{found} of {len(ious)} teachers {'finds' if found == 1 else 'find'} the moment"
    if integrated is not None:
        ious[source] = float(integrated.iou[row])
        moments[source] = integrated.moments_s[row, 0].tolist()
        for panel, said in zip(curves.values(), (integrated.start, integrated.end), strict=True):
            panel[source] = np.asarray(said[row])[valid]
        title += f"; {source} {'does' if ious[source] >= FOUND else 'does not'} (IoU {ious[source]:.2f})"
    bars = {"truth": [truth_s]} | {_with_iou(name, ious[name]): [moment] for name, moment in moments.items()}
    colours = colours_of(ious)
    pictures, times_s = strip(video, duration_s)
    words = f"“{textwrap.shorten(sentence, 70, placeholder='…')}”" if sentence else f"query {outputs.ids[row]}"
    figure = plots.frame_strip(
        pictures,
        times_s,
        duration_s=duration_s,
        moments_s=bars,
        curves=curves,
        colours=colours | {_with_iou(name, ious[name]): colours[name] for name in ious},
        title=title,
        subtitle=joined(words, subtitle, f"found: IoU ≥ {FOUND}; dashed: truth"),
    )
    for panel, boundary_s in zip((3, 4), truth_s, strict=True):
        line = {"dash": "dash", "color": COLOURS["truth"], "width": 1.5}
        figure.add_vline(x=boundary_s, line=line, row=panel, col=1)
        figure.update_yaxes(title_text=f"{'start' if panel == 3 else 'end'}<br>probability", row=panel, col=1)
    if integrated is not None:
        # So that a panel can draw the mixture again and leave all else as it is: see `show_mixture`.
        for trace in (figure.data[len(bars)], *(trace for trace in figure.data if trace.name == source)):
            trace.meta = "mixture"
        figure.update_traces(line_width=3.5, selector={"meta": "mixture", "mode": "lines"})
    return figure.update_layout(margin={"l": 170})


def show_mixture(figure: go.Figure, integrated: Integrated, row: int, *, source: str, title: str) -> go.Figure:
    """Puts another mixture of the same teachers into a figure of `what_teachers_say`, which is changed and returned.

    Args:
        figure: of a query, drawn with an integrated label.
        integrated: the label to be shown instead.
        row: its query.
        source: what the label is now called.
        title: of the figure.
    """
    bar, *lines = (trace for trace in figure.data if trace.meta == "mixture")
    start_s, end_s = integrated.moments_s[row, 0].tolist()
    colour, name = colours_of([source])[source], _with_iou(source, float(integrated.iou[row]))
    # One update of everything: plotly checks each one at length.
    bar.update(
        y=[name], base=[start_s], x=[end_s - start_s], marker_color=colour,
        hovertext=[f"{source}: {start_s:.2f} to {end_s:.2f} s"],
    )  # fmt: skip
    for line, said in zip(lines, (integrated.start, integrated.end), strict=True):
        line.update(y=np.asarray(said[row])[np.asarray(integrated.mask[row])], name=source, line_color=colour)
    figure.layout.title.text = title
    return figure


def _with_iou(name: str, iou: float) -> str:
    return f"{name}, IoU {iou:.2f}"


def reliability(
    outputs: TeacherOutputs,
    temperatures: Float[Tensor, " k"] | Sequence[float],
    *,
    bins: int = 10,
    subtitle: str = "",
) -> go.Figure:
    """How often each teacher's surest clip is the true one, against how sure it was, before and after calibration.

    Start and end count as one sample each. Bins are equally wide; one with fewer than 10 samples is not drawn.

    Args:
        outputs: what the teachers say, as it is before calibration.
        temperatures: of each teacher; probabilities are raised to 1 / temperature and normalised again.
        bins: of confidence.
        subtitle: data set, split and seed.
    """
    clips = moment_to_clips(outputs.truth_s, outputs.duration_s, outputs.num_clips)
    truth, mask = torch.cat([clips[:, 0], clips[:, 1]]), torch.cat([outputs.mask] * 2)
    colours = colours_of(outputs.names)
    errors, headings = [], []
    figure = make_subplots(rows=1, cols=len(outputs.names), shared_yaxes=True, horizontal_spacing=0.03)
    for place, name in enumerate(outputs.names):
        probs = torch.cat([outputs.start[:, place], outputs.end[:, place]])
        temperature = float(temperatures[place])
        calibrated = log_calibrated(probs[:, None], mask, torch.tensor([temperature]))[:, 0].exp()
        figure.add_trace(
            go.Scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": "#888888", "dash": "dot", "width": 1.5},
                       name="as sure as right", legendgroup="ideal", showlegend=place == 0, hoverinfo="skip"),
            row=1, col=place + 1,
        )  # fmt: skip
        pair = []
        for label, each, colour, symbol in (
            ("as trained", probs, "#9a9a9a", "circle-open"),
            ("calibrated", calibrated, colours[name], "circle"),
        ):
            confidence, hit = each.max(1).values, each.argmax(1) == truth
            which = (confidence * bins).ceil().long().clamp(1, bins) - 1
            kept = [part for part in (which == index for index in range(bins)) if part.sum() >= LEAST]
            figure.add_trace(
                go.Scatter(
                    x=[confidence[part].mean().item() for part in kept], mode="lines+markers", name=label,
                    y=[hit[part].double().mean().item() for part in kept], showlegend=False,
                    line={"color": colour}, marker={"symbol": symbol, "size": 8},
                    hovertext=[f"{name}, {label}: {int(part.sum())} samples" for part in kept],
                ),
                row=1, col=place + 1,
            )  # fmt: skip
            pair.append(expected_calibration_error(each, truth))
        errors.append(pair)
        headings.append(f"<b>{name}</b>, temperature {temperature:.2f}<br>ECE {pair[0]:.3f} → {pair[1]:.3f}")
    for label, colour, symbol in (("as trained", "#9a9a9a", "circle-open"), ("calibrated", "#333333", "circle")):
        key = go.Scatter(x=[None], y=[None], mode="lines+markers", name=label, line_color=colour, marker_symbol=symbol)
        figure.add_trace(key, row=1, col=1)
    for place, heading in enumerate(headings, start=1):
        axis = "" if place == 1 else str(place)
        figure.add_annotation(
            text=heading, x=0.5, xref=f"x{axis} domain", y=1.0, yref="paper", yanchor="bottom", showarrow=False,
            font={"size": 12}, align="center",
        )  # fmt: skip
    before, after = np.mean(errors, axis=0)
    plots.styled(
        figure,
        title=f"Calibration brings the calibration error (ECE) from {before:.3f} to {after:.3f}"
        if after < before - 5e-4
        else f"Calibration does not lower the calibration error (ECE): {before:.3f} before, {after:.3f} after",
        subtitle=joined(
            subtitle,
            f"means of the teachers, {len(truth)} boundaries each; bins of 10 and more; below the line: too sure",
        ),
        height=430,
    )
    figure.update_xaxes(title_text="confidence", range=[0, 1])
    figure.update_yaxes(title_text="share of hits", range=[0, 1], row=1, col=1)
    return figure.update_layout(margin={"t": 124}, title={"pad": {"b": 76}})
