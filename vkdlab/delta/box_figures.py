"""What detectors see in some frames, as boxes: data in, `plotly.graph_objects.Figure` out (ours)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import UInt8

from vkdlab import plots
from vkdlab.delta.boxes import met
from vkdlab.delta.detector import Detections
from vkdlab.delta.figures import gallery
from vkdlab.delta.marks import class_colours, hex_of

_RARE, _MISSED, _ADDED = "#8a8a8a", "#222222", "#d5003c"
_MOST_NAMED = 14


def boxes(
    frames: UInt8[np.ndarray, "t h w 3"],
    found: Mapping[str, Sequence[Detections]],
    *,
    classes: Sequence[str],
    against: str = "teacher",
    names: Sequence[str] = (),
    subtitle: str = "",
) -> go.Figure:
    """Frames with the boxes that each source sees in them, and the boxes that one of two sources sees alone.

    A box has its class's colour and carries its score; true boxes, and those that one source sees alone, carry the
    class. Two sources see the same box where class and place are the same (IoU of 0.5 or more).

    Args:
        frames: pictures, RGB.
        found: source ("truth", "teacher", "delta", ..) to what it sees, frame by frame.
        classes: their names, the background's first.
        against: the source that the last one is held against.
        names: of the frames ("key frame", "1 after", ..).
        subtitle: data set, video, period.

    Raises:
        ValueError: fewer than two sources, not one answer a frame, or no source `against`.
    """
    if len(found) < 2 or against not in list(found)[:-1]:
        raise ValueError(f"boxes need a source and {against!r} before it to be held against, got {list(found)}")
    wrong = {name: len(each) for name, each in found.items() if len(each) != len(frames)}
    if wrong or (names and len(names) != len(frames)):
        raise ValueError(f"expected {len(frames)} answers from every source and as many names, got {wrong or names}")
    last = list(found)[-1]
    pairs = list(zip(found[last], found[against], strict=True))
    added = [_part(ours, ~met(ours, theirs)) for ours, theirs in pairs]
    missed = [_part(theirs, ~met(theirs, ours)) for ours, theirs in pairs]
    apart = [len(a.labels) + len(b.labels) for a, b in zip(added, missed, strict=True)]
    names = list(names) or [str(place) for place in range(len(frames))]
    faint = (frames.astype(float).mean(axis=3, keepdims=True) * 0.4 + 150).repeat(3, axis=3).astype(np.uint8)
    figure = gallery(
        dict.fromkeys(found, frames) | {"differ": faint},
        [f"{name}<br>{count} alone" for name, count in zip(names, apart, strict=True)],
    )
    figure.update_layout_images(layer="below")
    size = frames.shape[2], frames.shape[1]
    counts = Counter(int(k) for each in found.values() for one in each for k in one.labels)
    # What is rare shares a grey: more colours than these nobody tells apart.
    named = sorted(k for k, _ in counts.most_common(_MOST_NAMED if len(counts) > _MOST_NAMED + 1 else None))
    colours = dict(zip(named, map(hex_of, class_colours(len(named) + 1)[1:]), strict=True))
    groups = [(classes[k], colours[k], [k]) for k in named]
    groups.append(("other classes", _RARE, [k for k in counts if k not in colours]))
    for word, colour, kinds in groups:
        rows = [[_part(one, np.isin(one.labels.numpy(), kinds)) for one in each] for each in found.values()]
        _draw(figure, dict(enumerate(rows)), classes=classes, size=size, name=word, colour=colour)
    for word, colour, dash, each in ((against, _MISSED, "dot", missed), (last, _ADDED, "solid", added)):
        _draw(
            figure, {len(found): each}, classes=classes, size=size, name=f"{word} alone", colour=colour, alone=True,
            dash=dash,
        )  # fmt: skip
    both = sum(len(ours.labels) + len(theirs.labels) for ours, theirs in pairs)
    title = f"Neither {last} nor {against} sees a thing"
    if both:
        title = (
            f"{last.capitalize()} and {against} agree on {100 * (1 - sum(apart) / both):.0f} % of their {both} boxes"
        )
    plots.styled(
        figure,
        title=title + (f", least in “{names[int(np.argmax(apart))]}”" if max(apart) else ""),
        subtitle="; ".join(filter(None, (subtitle, "numbers: scores; “alone”: boxes that only one of the two sees"))),
        height=figure.layout.height + 20,
    )
    return figure.update_layout(margin={"l": 84, "b": 116}, legend={"itemsizing": "trace"}, showlegend=True)


def _part(found: Detections, chosen: np.ndarray) -> Detections:
    return Detections(found.boxes[chosen], found.scores[chosen], found.labels[chosen])


def _draw(
    figure: go.Figure,
    rows: Mapping[int, Sequence[Detections]],
    *,
    classes: Sequence[str],
    size: tuple[int, int],
    name: str,
    colour: str,
    alone: bool = False,
    dash: str = "solid",
) -> None:
    """One trace of a gallery, so that a click on its name in the legend hides it: rows to what is in their pictures."""
    x, y, about = [], [], []
    for row, pictures in rows.items():
        for column, found in enumerate(pictures):
            shown = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
            for (x0, y0, x1, y1), score, label in shown:
                left, right = (column + 0.02 + 0.96 * edge / size[0] for edge in (x0, x1))
                top, bottom = (row + 0.02 + 0.96 * edge / size[1] for edge in (y0, y1))
                x += [left, right, right, left, left, None]
                y += [top, top, bottom, bottom, top, None]
                about += [f"{classes[label]}, score {score:.2f}"] * 6
                # Where two sources differ, one is named above its box and the other below.
                figure.add_annotation(
                    x=left, y=bottom if dash == "dot" else top, yanchor="top" if dash == "dot" else "bottom",
                    text=classes[label] if alone or score == 1 else f"{score:.2f}", showarrow=False, xanchor="left",
                    font={"size": 9, "color": "#ffffff"}, bgcolor=colour, borderpad=0,
                )  # fmt: skip
    if x:
        figure.add_scatter(
            x=x, y=y, mode="lines", line={"color": colour, "width": 2, "dash": dash}, name=name, text=about,
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
