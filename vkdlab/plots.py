"""The look that all figures share, and the figures that several methods need: frame strips, timelines, training curves.

Every function takes data and returns a `plotly.graph_objects.Figure` that needs no network to be shown. Sources keep
their colour in every figure (Okabe and Ito's palette, which colour-blind readers tell apart).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, UInt8
from plotly.subplots import make_subplots

from vkdlab.history import History

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#5E4FA2")
TRUTH = "#333333"

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#222222"},
        "title": {"font": {"size": 17}, "x": 0.0, "xanchor": "left", "xref": "paper", "y": 1.0, "yanchor": "bottom",
                  "yref": "paper", "pad": {"b": 34}, "subtitle": {"font": {"size": 12.5, "color": "#666666"}}},
        "colorway": PALETTE,
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "xaxis": {"gridcolor": "#ececec", "zerolinecolor": "#d8d8d8", "linecolor": "#bbbbbb", "ticks": "outside",
                  "tickcolor": "#bbbbbb", "title": {"standoff": 10}},
        "yaxis": {"gridcolor": "#ececec", "zerolinecolor": "#d8d8d8", "title": {"standoff": 8}, "automargin": True},
        "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0.0, "xanchor": "left", "x": 0.0},
        "margin": {"l": 70, "r": 24, "t": 78, "b": 84},
        "bargap": 0.25,
        "hoverlabel": {"font": {"size": 12}},
    }
)  # fmt: skip


def styled(
    figure: go.Figure, *, title: str, subtitle: str = "", x: str = "", y: str = "", height: int = 380
) -> go.Figure:
    """Gives a figure the house style and its words.

    Args:
        figure: changed in place, and returned.
        title: the one message of the figure.
        subtitle: data set, split, what a mark is.
        x: title of the horizontal axis, with its unit.
        y: title of the vertical axis, with its unit.
        height: pixels.
    """
    figure.update_layout(template=TEMPLATE, title={"text": title, "subtitle": {"text": subtitle}}, height=height)
    if x:
        figure.update_xaxes(title_text=x)
    if y:
        figure.update_yaxes(title_text=y)
    return figure


def picture_uri(picture: UInt8[np.ndarray, "h w 3"], *, quality: int = 80) -> str:
    """An RGB picture as a JPEG data URI, so that a figure carries its own pictures."""
    written, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert written, "OpenCV always has a JPEG encoder"
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def picture(image: UInt8[np.ndarray, "h w 3"], *, title: str, subtitle: str = "", width: int = 980) -> go.Figure:
    """One picture, without axes, as wide as given in pixels."""
    return picture_grid([image], [""], columns=1, title=title, subtitle=subtitle, width=width)


def picture_grid(
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    captions: Sequence[str],
    *,
    columns: int = 4,
    title: str,
    subtitle: str = "",
    width: int = 980,
) -> go.Figure:
    """Pictures in rows with a caption under each; pictures of any size, each shown whole.

    Raises:
        ValueError: no pictures, or not one caption per picture.
    """
    if not pictures or len(pictures) != len(captions):
        raise ValueError(f"expected one caption per picture and at least one, got {len(pictures)} and {len(captions)}")
    columns = min(columns, len(pictures))
    cell = (width - 48) / columns
    caption_height = 26 if any(captions) else 6
    row_heights = [
        caption_height + 0.97 * cell * max(min(0.8, image.shape[0] / image.shape[1]) for image in in_row)
        for in_row in (pictures[first : first + columns] for first in range(0, len(pictures), columns))
    ]
    tops = [sum(row_heights[:row]) for row in range(len(row_heights) + 1)]
    images, notes = [], []
    for place, (image, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(place, columns)
        images.append(
            _placed(
                _at_most(image, int(cell * 1.5)), x=column + 0.5, y=tops[row], sizex=0.97,
                sizey=row_heights[row] - caption_height, yanchor="top",
            )
        )  # fmt: skip
        notes.append(
            {"x": column + 0.5, "y": tops[row + 1] - caption_height / 2, "text": caption, "showarrow": False,
             "font": {"size": 12}}
        )  # fmt: skip
    figure = go.Figure(go.Scatter(x=[0, columns], y=[0, tops[-1]], mode="markers", opacity=0, hoverinfo="skip"))
    figure.update_layout(images=images, annotations=notes if any(captions) else [])
    figure.update_xaxes(visible=False, range=[0, columns])
    figure.update_yaxes(visible=False, range=[tops[-1], 0])
    styled(figure, title=title, subtitle=subtitle, height=int(tops[-1] + 100))
    return figure.update_layout(margin={"l": 24, "r": 24, "b": 16}, showlegend=False)


def frame_strip(
    frames: UInt8[np.ndarray, "t h w 3"],
    times_s: Sequence[float] | Float[np.ndarray, " t"],
    *,
    duration_s: float,
    moments_s: Mapping[str, Sequence[Sequence[float]]],
    curves: Mapping[str, Mapping[str, Float[np.ndarray, " _"]]] | None = None,
    ranked: bool = True,
    colours: Mapping[str, str] | None = None,
    title: str,
    subtitle: str = "",
) -> go.Figure:
    """Frames along the time axis; under them a row of bars for each source of moments, then panels of curves.

    Args:
        frames: pictures, RGB.
        times_s: the second each of them shows; they are spread evenly over the axis.
        duration_s: length of the video, seconds.
        moments_s: name of a source (truth, span teacher, ...) to its `[start_s, end_s]` pairs, best first.
        curves: panels one under another; what a panel shows, with its unit, to the name of a curve and one value per
            clip of an even grid over the video.
        ranked: all but a source's first moment are pale; never those of the truth.
        colours: source or curve to colour; others take the palette in turn, and what begins with "truth" is dark.

    Raises:
        ValueError: not one time per frame.
    """
    if len(frames) != len(times_s) or not len(frames):
        raise ValueError(
            f"expected one time per frame and at least one frame, got {len(frames)} frames and {len(times_s)} times"
        )
    palette = iter(PALETTE * 9)
    colour_of = {
        name: (colours or {}).get(name) or (TRUTH if name.startswith("truth") else next(palette))
        for name in (*moments_s, *(name for panel in (curves or {}).values() for name in panel))
    }
    step = duration_s / len(frames)
    heights = [0.97 * 860 / len(frames) * frames.shape[1] / frames.shape[2], 26 * max(len(moments_s), 1) + 8]
    heights += [110] * len(curves or {})
    figure = make_subplots(
        rows=len(heights), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=16 / sum(heights)
    )
    _add_strip(figure, frames, times_s, step)
    for source, moments in moments_s.items():
        pale = 0.35 if ranked and not source.startswith("truth") else 1.0
        figure.add_trace(
            go.Bar(
                y=[source] * len(moments), base=[start_s for start_s, _ in moments],
                x=[end_s - start_s for start_s, end_s in moments], orientation="h", width=0.72, showlegend=False,
                marker={"color": colour_of[source], "opacity": [1.0] + [pale] * (len(moments) - 1)},
                hovertext=[f"{source}: {start_s:.2f} to {end_s:.2f} s" for start_s, end_s in moments], hoverinfo="text",
            ),
            row=2, col=1,
        )  # fmt: skip
    drawn = set()
    for row, (panel_title, panel) in enumerate((curves or {}).items(), start=3):
        for name, values in panel.items():
            centres = (np.arange(len(values)) + 0.5) * duration_s / len(values)
            figure.add_trace(
                go.Scatter(
                    x=centres, y=values, name=name, legendgroup=name, showlegend=name not in drawn, mode="lines",
                    line={"color": colour_of[name], "shape": "hvh"},
                ),
                row=row, col=1,
            )  # fmt: skip
            drawn.add(name)
        figure.update_yaxes(title_text=panel_title, rangemode="tozero", row=row, col=1)
    figure.update_yaxes(visible=False, range=[0, 1], row=1, col=1)
    figure.update_yaxes(autorange="reversed", showgrid=False, row=2, col=1)
    figure.update_xaxes(range=[0, duration_s], showgrid=False)
    figure.update_xaxes(visible=False, row=1, col=1)
    figure.update_xaxes(title_text="time (s)", row=len(heights), col=1)
    styled(figure, title=title, subtitle=subtitle, height=int(sum(heights) + 16 * len(heights) + 150))
    return figure.update_layout(barmode="overlay", margin={"l": 150})


def _placed(image: np.ndarray, **where) -> dict:
    """A picture for `layout.images`, in data coordinates; all are set at once, for plotly is slow to add one."""
    fixed = {"xref": "x", "yref": "y", "xanchor": "center", "sizing": "contain", "layer": "above"}
    return {"source": picture_uri(image)} | fixed | where


def _add_strip(figure: go.Figure, frames: np.ndarray, times_s: Sequence[float], step: float) -> None:
    figure.update_layout(
        images=[
            _placed(_at_most(frame, 200), x=(place + 0.5) * step, y=0.5, sizex=0.98 * step, sizey=1, yanchor="middle")
            for place, frame in enumerate(frames)
        ]
    )
    figure.add_trace(
        go.Scatter(
            x=[(place + 0.5) * step for place in range(len(frames))], y=[0.5] * len(frames), mode="markers", opacity=0,
            hovertext=[f"{time:.2f} s" for time in times_s], hoverinfo="text", showlegend=False,
        ),
        row=1, col=1,
    )  # fmt: skip


def training_curves(
    history: History, *, losses: Sequence[str], metrics: Sequence[str], title: str, subtitle: str = ""
) -> go.Figure:
    """Training losses on the left, validation metrics in per cent on the right, over epochs; the kept epoch is marked.

    Args:
        history: of a training.
        losses: terms drawn on the left, such as "total".
        metrics: validation metrics of 0 to 1 drawn on the right, such as "R1@0.5".

    Raises:
        ValueError: a term or metric that the history does not have.
    """
    table = history.frame()
    columns = [f"loss/{name}" for name in losses] + [f"val/{name}" for name in metrics]
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"the history has no {missing[0]!r}; it has {', '.join(map(str, table.columns))}")
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    mode = "lines+markers" if len(table) < 40 else "lines"
    for place, column in enumerate(columns):
        kind, _, name = column.partition("/")
        figure.add_trace(
            go.Scatter(
                x=table["epoch"], y=table[column] * (1 if kind == "loss" else 100), mode=mode, name=name,
                line_color=PALETTE[place % len(PALETTE)], legend="legend" if kind == "loss" else "legend2",
            ),
            row=1, col=1 if kind == "loss" else 2,
        )  # fmt: skip
    figure.add_vline(
        x=history.best_epoch, line={"dash": "dash", "color": "#888888", "width": 1}, annotation_text="kept",
        annotation_position="bottom right", row=1, col=2,
    )  # fmt: skip
    styled(figure, title=title, subtitle=subtitle, x="epoch", height=400)
    figure.update_layout(legend2={**TEMPLATE.layout.legend.to_plotly_json(), "x": 0.55})
    figure.update_xaxes(tick0=1, dtick=max(1, round(len(table) / 8)))
    figure.update_yaxes(title_text="training loss (nats)", row=1, col=1)
    return figure.update_yaxes(title_text="validation (%)", row=1, col=2)


def bars(
    values: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    subtitle: str = "",
    x: str = "",
    y: str,
    percent: bool = True,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Grouped bars with their numbers on top: series to {category: value}.

    Args:
        values: name of a series to its value per category; a value that is missing or nan leaves a gap.
        percent: values are shares of 1 and are shown in per cent.
        colours: series to colour.
    """
    figure = go.Figure()
    scale = 100 if percent else 1
    for place, (series, by_category) in enumerate(values.items()):
        heights = [scale * value for value in by_category.values()]
        figure.add_trace(
            go.Bar(
                name=series, x=list(by_category), y=heights, text=[f"{height:.1f}" for height in heights],
                textposition="outside", cliponaxis=False, marker_color=(colours or {}).get(series, PALETTE[place % 8]),
            )
        )  # fmt: skip
    return styled(figure, title=title, subtitle=subtitle, x=x, y=y).update_layout(showlegend=len(values) > 1)


def moment_map(
    start_s: Sequence[float], end_s: Sequence[float], duration_s: Sequence[float], *, title: str, subtitle: str = ""
) -> go.Figure:
    """Where the moments of a data set lie: start and end as shares of the video, as a density.

    A method can score well by guessing the dense spots without a look at the video; the figure shows what that is
    worth.
    """
    duration = np.asarray(duration_s, dtype=float)
    start, end = np.asarray(start_s, dtype=float) / duration, np.asarray(end_s, dtype=float) / duration
    counts, edges, _ = np.histogram2d(start, end, bins=20, range=[[0, 1], [0, 1]])
    middle = (edges[:-1] + edges[1:]) / 2 * 100
    figure = make_subplots(rows=1, cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.14)
    figure.add_trace(
        go.Heatmap(
            x=middle, y=middle, z=np.where(counts.T > 0, counts.T, np.nan),
            colorscale=[[0, "#c6dbef"], [1, "#08306b"]], zmin=1, zmax=max(2, counts.max()),
            colorbar={"title": "queries", "x": 0.43, "thickness": 12, "nticks": 5, "tickformat": "d"},
            hovertemplate="start %{x:.0f} %, end %{y:.0f} %: %{z} queries<extra></extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    figure.add_trace(
        go.Histogram(x=(end - start) * duration, nbinsx=30, marker_color=PALETTE[0], showlegend=False), row=1, col=2
    )
    styled(figure, title=title, subtitle=subtitle, height=400)
    figure.update_xaxes(title_text="start (% of the video)", range=[0, 100], row=1, col=1)
    figure.update_yaxes(title_text="end (% of the video)", range=[0, 100], row=1, col=1)
    figure.update_xaxes(title_text="length of the moment (s)", row=1, col=2)
    return figure.update_yaxes(title_text="queries", row=1, col=2)


def flow_picture(flow: Float[np.ndarray, "h w 2"], *, largest_px: float | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Optical flow as colour: hue is direction, saturation is speed (after Baker et al., IJCV 2011).

    Args:
        flow: displacement to the next frame, pixels, x then y.
        largest_px: displacement shown fully saturated; the picture's own largest when None.
    """
    length, angle = cv2.cartToPolar(
        np.ascontiguousarray(flow[..., 0], dtype=np.float32), np.ascontiguousarray(flow[..., 1], dtype=np.float32)
    )
    largest = largest_px or max(float(length.max()), 1e-6)
    hsv = np.stack(
        [angle / (2 * np.pi) * 179, np.clip(length / largest, 0, 1) * 255, np.full_like(length, 255)], axis=-1
    )
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)


def _at_most(image: UInt8[np.ndarray, "h w 3"], width: int) -> UInt8[np.ndarray, "h w 3"]:
    if image.shape[1] <= width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
