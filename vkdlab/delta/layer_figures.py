"""How well the students guess what changes in the teacher, layer by layer and frame by frame (ours).

    guessed = 1 - |predicted - teacher's change|^2 / |teacher's change|^2

What layers before did wrong counts as a layer's own: its input is already approximated.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from vkdlab import plots
from vkdlab.delta.inspection import Inspection

_SCALE = [[0, "#ffffff"], [0.35, "#9ecae1"], [0.7, "#2171b5"], [1, "#08204a"]]
_LINES = {"teacher": plots.TRUTH, "predicted": plots.PALETTE[0], "error": plots.PALETTE[1]}
_PANELS = {
    "input": "change of the input",
    "teacher": "teacher's change",
    "predicted": "predicted change",
    "error": "predicted minus teacher's",
}


def guessed(inspection: Inspection) -> Float[np.ndarray, "k t"]:
    """Share of the teacher's change that is guessed, at most 1; not-a-number where nothing changed.

    0 is reached by predicting no change at all, which is what copying does.
    """
    teacher, error = (each.double().numpy() for each in (inspection.teacher_energy, inspection.error_energy))
    return np.divide(teacher - error, teacher, out=np.full_like(teacher, np.nan), where=teacher > 0)


def guess(inspection: Inspection, name: str, frame: int, *, subtitle: str = "") -> go.Figure:
    """One layer on one frame: where its input changed, where the teacher did, what was predicted, what is wrong.

    Args:
        inspection: of a key frame and frames after it.
        name: of a layer's call.
        frame: frames after the key frame.
        subtitle: data set, video, network.

    Raises:
        ValueError: no such layer or frame.
    """
    if name not in inspection.names or not 0 <= frame < inspection.output_drift.shape[0]:
        raise ValueError(
            f"there are frames 0 to {inspection.output_drift.shape[0] - 1} of the layers "
            f"{', '.join(inspection.names)}, not frame {frame} of {name!r}"
        )
    maps = inspection.maps[name]
    shares = 100 * guessed(inspection)
    place = inspection.names.index(name)
    figure = make_subplots(
        rows=2,
        cols=4,
        specs=[[{}] * 4, [{"colspan": 2}, None, {"colspan": 2}, None]],
        row_heights=[0.42, 0.58],
        column_widths=[0.25] * 4,
        horizontal_spacing=0.025,
        vertical_spacing=0.16,
        subplot_titles=list(_PANELS.values()),
    )
    # Names of the maps stand under them: above them is the subtitle.
    figure.update_annotations(y=figure.get_subplot(1, 1).yaxis.domain[0], yanchor="top", font={"size": 13})
    # One scale for all frames, so that the slider does not hide how changes grow.
    largest = {panel: float(getattr(maps, panel).max()) for panel in _PANELS}
    common = max(largest["teacher"], largest["predicted"], largest["error"], 1e-12)
    for column, panel in enumerate(_PANELS, start=1):
        figure.add_heatmap(
            z=getattr(maps, panel)[frame].numpy(), zmin=0, zmax=max(largest["input"], 1e-12) if column == 1 else common,
            colorscale=_SCALE, showscale=False, hovertemplate=f"{panel} %{{z:.3g}}<extra></extra>", meta=panel,
            row=1, col=column,
        )  # fmt: skip
    figure.update_xaxes(visible=False, constrain="domain", row=1)
    figure.update_yaxes(visible=False, autorange="reversed", constrain="domain", row=1)
    for column in range(1, 5):
        anchor = figure.get_subplot(1, column).xaxis.plotly_name.replace("axis", "")
        figure.update_yaxes(scaleanchor=anchor, row=1, col=column)
    count = inspection.output_drift.shape[0]
    for source, colour in _LINES.items():
        energy = getattr(inspection, f"{source}_energy")[place].sqrt().numpy()
        figure.add_scatter(
            x=np.arange(count), y=energy, mode="lines+markers", name=source, line_color=colour, row=2, col=1
        )
    figure.add_scatter(
        x=[frame, frame], y=[0, 1.05 * _highest(inspection, place)], mode="lines", hoverinfo="skip", showlegend=False,
        line={"color": "#888888", "dash": "dash", "width": 1}, meta="frame", row=2, col=1,
    )  # fmt: skip
    figure.add_bar(
        x=list(range(len(inspection.names))), y=_bounded(shares[:, frame]), customdata=inspection.names, meta="shares",
        marker_color=[plots.PALETTE[0] if k == place else "#c6d9e8" for k in range(len(inspection.names))],
        hovertemplate="%{customdata}: %{y:.0f} %<extra></extra>", showlegend=False, row=2, col=3,
    )  # fmt: skip
    plots.styled(figure, title=_says(name, frame, shares[place, frame]), subtitle=subtitle, height=560)
    figure.update_xaxes(title_text="frames since the key frame", dtick=max(1, count // 10), row=2, col=1)
    figure.update_yaxes(title_text="root mean square", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="guessed by layer (%), in the order in which they run", row=2, col=3)
    figure.update_yaxes(range=[min(-5, *_bounded(shares).ravel()), 105], row=2, col=3)
    figure.update_xaxes(domain=[0, 0.47], row=2, col=1)
    figure.update_xaxes(domain=[0.54, 1], row=2, col=3)
    return figure


def move_to(figure: go.Figure, inspection: Inspection, name: str, frame: int) -> go.Figure:
    """Moves a figure that `guess` made of this layer to another frame; changed in place, and returned."""
    shares = 100 * guessed(inspection)[:, frame]
    for trace in figure.data:
        if trace.meta in _PANELS:
            trace.z = getattr(inspection.maps[name], trace.meta)[frame].numpy()
        elif trace.meta == "frame":
            trace.x = [frame, frame]
        elif trace.meta == "shares":
            trace.y = _bounded(shares)
    figure.layout.title.text = _says(name, frame, shares[inspection.names.index(name)])
    return figure


def build_up(inspection: Inspection, *, subtitle: str = "") -> go.Figure:
    """Where and when the error builds up: the share guessed by layer and frame, and the drift of the answer.

    Args:
        inspection: of a key frame and frames after it.
        subtitle: data set, video, network.

    Raises:
        ValueError: there is the key frame alone.
    """
    count = inspection.output_drift.shape[0]
    if count < 2:
        raise ValueError("an error builds up after the key frame: inspect two frames or more")
    shares = 100 * guessed(inspection)[:, 1:]
    names = list(inspection.names)
    frames = np.arange(1, count)
    map_height = max(120, 17 * len(names))
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        row_heights=[map_height, 150],
        vertical_spacing=30 / (map_height + 180),
    )
    figure.add_heatmap(
        x=frames, y=names, z=_bounded(shares), zmin=0, zmax=100, colorscale=[[0, "#b2182b"], [0.5, "#fddbc7"],
        [0.8, "#f7f7f7"], [1, "#2166ac"]], hovertemplate="%{y}, %{x} after the key frame: %{z:.0f} %<extra></extra>",
        colorbar={"title": "guessed (%)", "thickness": 12, "len": map_height / (map_height + 180), "yanchor": "top",
                  "y": 1},
        row=1, col=1,
    )  # fmt: skip
    drift = 100 * inspection.output_drift.double().sqrt().numpy()[1:]
    figure.add_scatter(
        x=frames, y=drift, mode="lines+markers", line_color=plots.PALETTE[1], showlegend=False, row=2, col=1
    )
    title = "Nothing changes after the key frame"
    if np.isfinite(shares).any():
        seen = {name: row[np.isfinite(row)] for name, row in zip(names, shares, strict=True)}
        of_layer = {name: row.mean() for name, row in seen.items() if len(row)}
        worst = min(of_layer, key=of_layer.get)
        title = f"The students guess {np.nanmean(shares):.0f} % of what changes, least in {worst} "
        title += f"({of_layer[worst]:.0f} %)"
    plots.styled(
        figure,
        title=title,
        subtitle=subtitle,
        height=map_height + 320,
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, dtick=1, row=1, col=1)
    figure.update_yaxes(title_text="drift of the<br>answer (%)", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(dtick=max(1, count // 12))
    figure.update_xaxes(title_text="frames since the key frame", row=2, col=1)
    return figure.update_layout(margin={"b": 60})


def worst_layer(inspection: Inspection) -> str:
    """The layer of which the least is guessed, over all frames."""
    teacher, error = inspection.teacher_energy.sum(1), inspection.error_energy.sum(1)
    return inspection.names[int((error / teacher.clamp(min=1e-30)).argmax())]


def _bounded(percent: np.ndarray) -> np.ndarray:
    """A layer where hardly anything changes can be wrong by any factor; what is below -20 % is drawn there."""
    return np.maximum(np.nan_to_num(percent, nan=100.0), -20.0)


def _highest(inspection: Inspection, place: int) -> float:
    return max(float(getattr(inspection, f"{source}_energy")[place].max()) ** 0.5 for source in _LINES) or 1.0


def _says(name: str, frame: int, share: float) -> str:
    when = "On the key frame" if frame == 0 else f"{frame} frame{'s' * (frame > 1)} after the key frame"
    if not np.isfinite(share):
        return f"{when} nothing changes in {name}"
    if share < 0:
        return f"{when} the student of {name} is worse than predicting no change"
    return f"{when} the student of {name} guesses {share:.0f} % of the change"
