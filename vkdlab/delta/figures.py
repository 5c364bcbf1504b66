"""What a person can look at of a delta network: data in, `plotly.graph_objects.Figure` out (ours)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Shaped, UInt8
from plotly.subplots import make_subplots

from vkdlab import plots
from vkdlab.data.dense import DenseDataset
from vkdlab.data.dense_batches import as_input
from vkdlab.delta.evaluate import Measured
from vkdlab.delta.frames import check_period
from vkdlab.delta.layers import DeltaConv2d
from vkdlab.delta.marks import COLOURS, class_colours, hex_of, joined
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.state import DeltaState

CHANGED = 10
"""Grey levels of 255 by which a pixel has to differ in one channel to count as changed."""
_AMPLIFIED = 4
_MOST_NAMED = 12


def novelty(
    dense: DenseDataset, frames: Sequence[int], *, period: int = 4, pictures: int = 8, subtitle: str = ""
) -> go.Figure:
    """How much of a frame is new: pictures of a video, what differs from the key frame, and how much along the time.

    Args:
        dense: the frames.
        frames: numbers of some frames of one video that follow one another; the first is a key frame.
        period: frames from one key frame to the next, at least 2.
        pictures: how many are shown: the first key frame, and frames right before a key frame.
        subtitle: data set and video.

    Raises:
        ValueError: fewer frames than the period, or a period out of range.
    """
    check_period(period)
    if not 2 <= period <= len(frames):
        raise ValueError(f"expected a period from 2 to the number of frames, {len(frames)}, got {period}")
    shown = np.stack([dense.frame(i) for i in frames])
    floats = as_input(shown)
    count = len(frames)
    keys = [place - place % period for place in range(count)]
    before = [max(place - 1, 0) for place in range(count)]
    since = {}
    for name, others in (("since the key frame", keys), ("since the frame before", before)):
        energy = [_energy(floats[a], floats[b]) for a, b in zip(range(count), others, strict=True)]
        changed = (abs(shown.astype(int) - shown[others]).max(axis=3) > CHANGED).mean(axis=(1, 2))
        since[name] = 100 * np.array(energy), 100 * changed
    rate = dense.sequence_of(frames[0]).fps
    last = np.arange(period - 1, count, period)
    places = np.r_[0, last[np.unique(np.linspace(0, len(last) - 1, pictures - 1).round().astype(int))]]
    change = np.clip(abs(shown[places].astype(int) - shown[[keys[place] for place in places]]) * _AMPLIFIED, 0, 255)
    energy, changed = since["since the key frame"]
    figure = plots.frame_strip(
        np.concatenate([shown[places], 255 - change.astype(np.uint8)], axis=1),
        (places + 0.5) / rate,
        duration_s=count / rate,
        moments_s={"key frames": [(place / rate, (place + 1) / rate) for place in range(0, count, period)]},
        curves={
            "new energy (%)": {name: values[0] for name, values in since.items()},
            "new pixels (%)": {name: values[1] for name, values in since.items()},
        },
        ranked=False,
        colours={"key frames": plots.TRUTH},
        title=f"{_share(energy[last].mean())} of the energy and {_share(changed[last].mean())} of the pixels are new "
        f"{_after(period)}",
        subtitle=joined(
            subtitle,
            f"under each picture its difference from the key frame, times {_AMPLIFIED}; a pixel is new if it differs "
            f"by more than {CHANGED} of 255",
        ),
    )
    return figure.update_layout(margin={"l": 110})


def kept(network: DeltaNetwork, frame_shape: tuple[int, int, int], *, period: int = 4, subtitle: str = "") -> go.Figure:
    """Which layers keep their full student: cost of every layer's students, deployed, beside its teacher's.

    Args:
        network: not deployed, for the deployed form has no choice any more.
        frame_shape: (3, h, w), for the costs.
        period: frames from one key frame to the next.
        subtitle: what was searched, and with which budget.

    Raises:
        ValueError: a deployed network.
    """
    layers = {name: layer for name, layer in network.layers.items() if isinstance(layer, DeltaConv2d)}
    if not layers:
        raise ValueError("no layer of this network has a gate: show the network before it is deployed")
    costs, full = network.costs(frame_shape, deployed=True), network.full_layers()
    names = [name for name in costs.layers if name in layers]  # costs are in the order of the calls
    figure = go.Figure()
    figure.add_bar(
        y=names, x=[costs.layers[name].teacher / 1e6 for name in names], orientation="h", name="teacher", width=0.82,
        marker_color="#e4e4e4", hovertemplate="%{y}: teacher %{x:.1f} million<extra></extra>",
    )  # fmt: skip
    for kind, chosen, colour in (
        ("full student kept", [name for name in names if name in full], plots.PALETTE[1]),
        ("small student", [name for name in names if name not in full], plots.PALETTE[0]),
    ):
        macs = [costs.layers[name].full if name in full else costs.layers[name].small for name in chosen]
        probability = [layers[name].gate_logit.sigmoid().item() for name in chosen]
        figure.add_bar(
            y=chosen, x=[each / 1e6 for each in macs], orientation="h", name=kind, width=0.46, marker_color=colour,
            customdata=np.column_stack([probability, [layers[name].rank for name in chosen]]) if chosen else None,
            hovertemplate=f"%{{y}}: {kind} %{{x:.1f}} million<br>gate %{{customdata[0]:.2f}}, rank of the small "
            "student %{customdata[1]:.0f}<extra></extra>",
        )  # fmt: skip
    share = costs.per_frame(period, full) / costs.teacher
    title = f"{len(full)} of {len(names)} layers keep their full student" if full else "All students are small"
    plots.styled(
        figure,
        title=f"{title}: {_share(100 * share)} of the teacher's cost at period {period}",
        subtitle=joined(subtitle, "layers in the order in which they run"),
        x="multiply-accumulates of a frame between key frames (millions)",
        height=170 + max(14, 24 - len(names) // 8) * len(names),
    )
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=names, showgrid=False, dtick=1)
    return figure.update_layout(barmode="overlay", legend={"traceorder": "normal"})


def masks(
    frames: UInt8[np.ndarray, "t h w 3"],
    answers: Mapping[str, UInt8[np.ndarray, "t h w"]],
    *,
    classes: Sequence[str],
    against: str = "teacher",
    names: Sequence[str] = (),
    subtitle: str = "",
) -> go.Figure:
    """Frames, the classes that each source sees in them, and where the last source differs from the first.

    Args:
        frames: pictures, RGB.
        answers: source ("teacher", "delta", ..) to classes of all pixels; the truth may be one.
        classes: their names; may be empty.
        against: the source that the last one is held against.
        names: of the frames ("key frame", "1 after", ..).
        subtitle: data set, video, period.

    Raises:
        ValueError: fewer than two sources, not one map a frame, or no source `against`.
    """
    if len(answers) < 2 or against not in list(answers)[:-1]:
        raise ValueError(f"masks need a source and {against!r} before it to be held against, got {list(answers)}")
    wrong = {name: each.shape for name, each in answers.items() if each.shape != frames.shape[:3]}
    if wrong or (names and len(names) != len(frames)):
        raise ValueError(f"expected a map of shape {frames.shape[:3]} from every source and as many names, got {wrong}")
    last = list(answers)[-1]
    differs = answers[last] != answers[against]
    shares = 100 * differs.mean(axis=(1, 2))
    highest = int(max(each.max() for each in answers.values()))
    colours = class_colours(max(len(classes), highest + 1))
    faint = (frames.astype(float).mean(axis=3, keepdims=True) * 0.4 + 150).repeat(3, axis=3)
    rows = {"frame": frames} | {name: colours[each] for name, each in answers.items()}
    rows["differs"] = np.where(differs[..., None], np.array([213, 0, 60]), faint).astype(np.uint8)
    names = list(names) or [str(place) for place in range(len(frames))]
    worst = int(shares.argmax())
    figure = gallery(rows, [f"{name}<br>{share:.1f} %" for name, share in zip(names, shares, strict=True)])
    seen = np.unique(np.concatenate([each.reshape(-1) for each in answers.values()]))
    for k in seen[: _MOST_NAMED if len(seen) > _MOST_NAMED else None]:
        if k < len(classes):
            figure.add_scatter(
                x=[None], y=[None], mode="markers", name=classes[k],
                marker={"symbol": "square", "size": 12, "color": hex_of(colours[k])},
            )  # fmt: skip
    plots.styled(
        figure,
        title=f"{last.capitalize()} and {against} differ on {shares.mean():.1f} % of the pixels"
        + (f", most in “{names[worst]}” ({shares[worst]:.1f} %)" if shares.max() > 0 else ""),
        subtitle=joined(subtitle, "under each frame the share of its pixels that differ"),
        height=figure.layout.height,
    )
    return figure.update_layout(margin={"l": 84, "b": 96}, legend={"itemsizing": "trace"}, showlegend=bool(classes))


def consistent(
    measured: Mapping[str, Measured], *, names: Mapping[str, str] | None = None, subtitle: str = ""
) -> go.Figure:
    """Temporal consistency of all sources, of the step onto a key frame and of the others.

    Args:
        measured: as `consistency` gives it.
        names: source to what the figure calls it.
        subtitle: data set, split, period.

    Raises:
        ValueError: no teacher or no delta network among the sources.
    """
    if not {"teacher", "delta"} <= set(measured):
        raise ValueError(f"consistency of a teacher and of a delta network is compared, got {list(measured)}")
    values = {}
    for source, each in measured.items():
        parts = {"all steps": each.value, "onto a key frame": each.by_distance[0]}
        if len(each.sums) > 1:
            parts["between key frames"] = float(np.mean(each.by_distance[1:]))
        values[(names or {}).get(source, source)] = parts
    gain = 100 * (measured["delta"].value - measured["teacher"].value)
    title = f"The delta network is {abs(gain):.1f} points {'more' if gain > 0 else 'less'} consistent than its teacher"
    if np.isnan(gain):
        title = "Nothing was found that could be held against the frame before"
    elif abs(gain) < 0.05:
        title = "The delta network is as consistent as its teacher"
    colours = {(names or {}).get(source, source): COLOURS.get(source, plots.PALETTE[4]) for source in measured}
    metric = measured["delta"].metric
    how = "mean IoU" if metric == "temporal consistency" else "agreement of boxes"
    return plots.bars(
        values,
        title=title,
        subtitle=joined(subtitle, f"{how} with the frame before, carried along by the motion"),
        y=f"{metric} (%)",
        colours=colours,
    ).update_yaxes(range=[0, 109], dtick=20)


def gallery(rows: Mapping[str, Shaped[np.ndarray, "t h w 3"]], names: Sequence[str]) -> go.Figure:
    """Rows of pictures with their names at the left, and names of the columns under them."""
    count = len(names)
    height, width = next(iter(rows.values())).shape[1:3]
    figure = make_subplots(rows=1, cols=1)
    figure.update_layout(
        images=[
            {
                "source": plots.picture_uri(np.ascontiguousarray(picture)), "xref": "x", "yref": "y",
                "x": column + 0.02, "y": row + 0.02, "sizex": 0.96, "sizey": 0.96, "sizing": "stretch",
                "layer": "above",
            }
            for row, pictures in enumerate(rows.values())
            for column, picture in enumerate(pictures)
        ]
    )  # fmt: skip
    figure.add_scatter(x=[0, count], y=[0, len(rows)], mode="markers", opacity=0, hoverinfo="skip", showlegend=False)
    flat = {"showgrid": False, "zeroline": False, "ticks": "", "showline": False}
    figure.update_xaxes(range=[0, count], tickvals=np.arange(count) + 0.5, ticktext=list(names), tickangle=0, **flat)
    figure.update_yaxes(range=[len(rows), 0], tickvals=np.arange(len(rows)) + 0.5, ticktext=list(rows), **flat)
    return figure.update_layout(height=int(870 / count * height / width * len(rows)) + 190)


def _energy(frame, key) -> float:
    """As a stream measures it."""
    return DeltaState(key[None], {}, {}, network=None).energy(frame[None])


def _share(percent: float) -> str:
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %"


def _after(period: int) -> str:
    return f"{period - 1} frames after a key frame" if period > 2 else "a frame after a key frame"
