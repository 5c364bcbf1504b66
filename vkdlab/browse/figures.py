"""What a person sees of teachers' and student's moments without FiftyOne: data in, `plotly.graph_objects.Figure` out.

The same questions as the saved views ask, drawn with plotly alone (ours).
"""

from __future__ import annotations

import html
import os
import textwrap
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import plotly.graph_objects as go
from jaxtyping import UInt8

from vkdlab import plots
from vkdlab.browse.facts import iou_s
from vkdlab.data.video import FrameReader
from vkdlab.predictions import TEACHER, Predictions

if TYPE_CHECKING:
    import pandas as pd

    from vkdlab.browse.questions import Question

FOUND_IOU = 0.5
TRUTH, STUDENT, MIXTURE = "gt", "student", "label"
_COLOURS = {TRUTH: plots.TRUTH, STUDENT: plots.PALETTE[7], MIXTURE: plots.PALETTE[1]}
_TEACHERS = (*(plots.PALETTE[place] for place in (0, 2, 3, 4, 5, 6)), "#882255", "#44AA99", "#999933")
_OTHERS = ("#AA4499", "#6699CC", "#117733", "#7f7f7f")
_OF_THE_TRUTH = {"start_s", "end_s", "length_s", "length_percentile", "duration_s"}
_NO_PICTURE = np.full((90, 160, 3), 236, np.uint8)
_SMALL = {"size": 11, "color": "#666666"}


def called(source: str) -> str:
    """What figures call a source: "teacher_span" is the "span teacher", "gt" the "truth", "label" the "mixture"."""
    if source.startswith(TEACHER):
        return f"{source.removeprefix(TEACHER).replace('_', ' ')} teacher"
    return {TRUTH: "truth", MIXTURE: "mixture"}.get(source, source.replace("_", " "))


def colours(predictions: Predictions) -> dict[str, str]:
    """A colour for the truth ("gt") and for every source, the same in every figure of these answers."""
    teachers = dict(zip(predictions.teachers, _TEACHERS * 9, strict=False))
    others = [name for name in predictions.moments_s if name not in _COLOURS and name not in teachers]
    return _COLOURS | teachers | dict(zip(others, _OTHERS * 9, strict=False))


def moments(predictions: Predictions, table: pd.DataFrame, question: Question, *, count: int = 8) -> go.Figure:
    """The first queries that a question names: sentence, who answers what, and pictures of the true moment.

    Every row has its own time axis, which is as long as its video; its three pictures show the first, the middle and
    the last of the true moment. At the right of a bar stands its IoU with the truth.

    Args:
        predictions: the answers.
        table: `facts` of them.
        question: whose queries are drawn, in its order.
        count: rows at most.

    Raises:
        ValueError: the question names no query, or `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}, expected at least 1 row")
    named = question.rows(table)
    if not named:
        raise ValueError(f"the question {question.name!r} names none of the {len(table)} queries, so none can be drawn")
    rows = [_Answers(predictions, name) for name in named[:count]]
    figure, images, notes, bands, axes = go.Figure(), [], [], [], {}
    bars_px = max(15 * (len(predictions.moments_s) + 1) + 6, 74)
    row_px = 24 + bars_px + 34
    plot_px = row_px * len(rows) - 12
    for place, row in enumerate(rows):
        top = 1 - (place * row_px + 24) / plot_px
        bottom = top - bars_px / plot_px
        number = "" if place == 0 else str(2 * place + 1)
        x, y = f"x{number}", f"y{number}"
        figure.add_trace(row.bars(x, y))
        bands.append(row.band(x, y))
        axes[f"xaxis{number}"] = {
            "domain": [0, 0.5], "anchor": y, "range": [0, row.duration_s], "showgrid": False, "nticks": 7,
            "tickfont": {"size": 11}, "ticklen": 3,
        }  # fmt: skip
        axes[f"yaxis{number}"] = {
            "domain": [bottom, top], "anchor": x, "range": [len(row.sources) - 0.5, -0.5], "showgrid": False,
            "categoryorder": "array", "categoryarray": row.names, "tickfont": {"size": 11},
        }  # fmt: skip
        here = {"xref": "paper", "yref": "paper", "showarrow": False}
        notes.append(
            here | {"x": 0, "y": top, "yanchor": "bottom", "xanchor": "left", "yshift": 3,
                    "text": f"<b>{_said(row.sentence, 84)}</b>  {html.escape(row.video, quote=False)}"}
        )  # fmt: skip
        notes += row.numbers(x, y, header=place == 0)
        for part, (uri, time_s) in enumerate(zip(*row.pictures(), strict=True)):
            middle = 0.57 + 0.43 * (part + 0.5) / 3
            images.append(
                {"source": uri, "xref": "paper", "yref": "paper", "x": middle, "y": bottom, "sizex": 0.138,
                 "sizey": (bars_px - 2) / plot_px, "xanchor": "center", "yanchor": "bottom", "sizing": "contain",
                 "layer": "above"}
            )  # fmt: skip
            word = ("start", "middle", "end")[part]
            notes.append(
                here | {"x": middle, "xanchor": "center", "y": bottom, "yanchor": "top", "font": _SMALL,
                        "text": f"{word}, {time_s:.1f} s"}
            )  # fmt: skip
        if place == len(rows) - 1:
            axes[f"xaxis{number}"]["title"] = {"text": "time in the video (s)"}
    asks, meant = _asked(question)
    told = [
        html.escape(predictions.name, quote=False),
        meant,
        "the most telling first" if len(rows) > 1 else "",
        "IoU is that with the truth",
    ]
    plots.styled(
        figure,
        title=f"In {len(named)} of {len(table)} queries {asks}" + f" (the first {count})" * (len(named) > count),
        subtitle="; ".join(part for part in told if part),
        height=plot_px + 78 + 56,
    )
    return figure.update_layout(
        axes, images=images, annotations=notes, shapes=bands, barmode="overlay", showlegend=False,
        margin={"l": 126, "r": 16, "b": 56},
    )  # fmt: skip


def how_many(table: pd.DataFrame, questions: Iterable[Question], *, subtitle: str = "") -> go.Figure:
    """How many queries each question names.

    Args:
        table: of `facts`.
        questions: those that the table answers.
        subtitle: data set, split and run.

    Raises:
        ValueError: no question.
    """
    counts = {question: len(question.rows(table)) for question in questions}
    if not counts:
        raise ValueError("there is no question to count")
    shown = sorted(counts, key=counts.get)
    total = max(len(table), 1)
    figure = go.Figure(
        go.Bar(
            x=[counts[question] for question in shown], orientation="h", marker_color=plots.PALETTE[0],
            y=["<br>".join(textwrap.wrap(_asked(question)[0], 36)) for question in shown],
            text=[f"{counts[question]} ({100 * counts[question] / total:.0f} %)" for question in shown],
            textposition="outside", cliponaxis=False,
        )
    )  # fmt: skip
    # What asks of the truth alone names the same queries whoever answered: no news.
    news = [question for question in shown if counts[question] and not _OF_THE_TRUTH.issuperset(question.needs)]
    most = [question for question in news if counts[question] == counts[news[-1]]]
    if len(most) == 1:
        title = f"Most often, in {counts[most[0]]} of {len(table)} queries, {_asked(most[0])[0]}"
    elif most:
        title = f"{len(most)} questions name the most queries, {counts[most[0]]} of {len(table)} each"
    else:
        title = f"No question about answers names any of the {len(table)} queries"
    plots.styled(
        figure,
        title=title,
        subtitle=subtitle,
        x="queries",
        height=150 + 42 * len(counts),
    )
    highest = max(*counts.values(), 1)
    figure.update_xaxes(rangemode="tozero", tickformat="d", range=[0, 1.18 * highest])
    if highest < 10:
        figure.update_xaxes(dtick=1)
    return figure.update_layout(margin={"b": 56, "r": 40})


def timeline(predictions: Predictions, query: str, *, frames: int = 8) -> go.Figure:
    """One query: frames of its video, and under them who says when, with IoU and what weight the mixture gave.

    Args:
        predictions: the answers.
        query: its id.
        frames: pictures in the strip.

    Raises:
        KeyError: there is no such query.
    """
    row = _Answers(predictions, query)
    pictures, times_s = _strip(row.path, _stamp(row.path), frames, row.duration_s)
    scores = {name: by_video[row.video] for name, by_video in predictions.scores.items() if row.video in by_video}
    bars = {called(source): [moment] if moment else [] for source, moment in row.moments_s.items()}
    known = colours(predictions)
    figure = plots.frame_strip(
        pictures,
        times_s,
        duration_s=row.duration_s,
        moments_s=bars,
        curves={name.replace("_", " "): {name: each.values} for name, each in scores.items()},
        ranked=False,
        colours={called(source): known[source] for source in row.sources} | dict.fromkeys(scores, plots.PALETTE[0]),
        title=row.verdict(),
        subtitle=f"{_said(row.sentence, 88)}<br>{html.escape(row.video, quote=False)}; found is an IoU of {FOUND_IOU} "
        "or more",
    )
    for trace, each in zip(figure.data[len(figure.data) - len(scores) :], scores.values(), strict=True):
        # Frame scores have times of their own, and need not lie on an even grid.
        trace.update(x=each.times_s, y=each.values, line={"shape": "linear"}, mode="lines+markers", showlegend=False)
    figure.update_yaxes(
        autorange=False, range=[len(bars) - 0.5, -0.5], categoryorder="array", categoryarray=list(bars), row=2, col=1
    )
    weights = {source: predictions.weights[source][row.number] for source in predictions.weights}
    notes = row.numbers("x2", "y2", header=True, weights=weights)
    # Beside a player there is little room: words start at the left edge, and the sentence has a line of its own.
    title = {"x": 0.01, "xref": "container", "pad": {"b": 52}}
    return figure.update_layout(
        annotations=notes, shapes=[row.band("x2", "y2")], title=title, height=figure.layout.height + 18,
        margin={"l": 126, "r": 150 if weights else 54, "t": 96, "b": 56},
    )  # fmt: skip


class _Answers:
    """One query and what every source answers to it."""

    def __init__(self, predictions: Predictions, query: str) -> None:
        queries = predictions.dataset.queries
        self.number = next((place for place, each in enumerate(queries) if each.id == query), None)
        if self.number is None:
            raise KeyError(f"{predictions.dataset.name} {predictions.dataset.split} has no query {query!r}")
        asked = queries[self.number]
        video = predictions.dataset.videos[asked.video]
        self.sentence, self.video, self.path, self.duration_s = asked.sentence, video.id, video.path, video.duration_s
        self.teachers = predictions.teachers
        self._colours = colours(predictions)
        found = {TRUTH: np.array([asked.start_s, asked.end_s], dtype=float)}
        # The student stands under the truth, then what it learned from.
        order = sorted(predictions.moments_s, key=lambda name: (name != STUDENT, name in self.teachers))
        found |= {source: predictions.moments_s[source][self.number] for source in order}
        self.moments_s = {
            source: tuple(moment.tolist()) if np.isfinite(moment).all() else None for source, moment in found.items()
        }
        self.sources = list(self.moments_s)
        self.names = [called(source) for source in self.sources]
        self.iou = {source: float(iou_s(found[TRUTH][None], moment[None])[0]) for source, moment in found.items()}

    def bars(self, x: str, y: str) -> go.Bar:
        """One bar per source that answered."""
        told = {source: moment for source, moment in self.moments_s.items() if moment}
        return go.Bar(
            y=[called(source) for source in told], base=[start_s for start_s, _ in told.values()],
            x=[end_s - start_s for start_s, end_s in told.values()], orientation="h", width=0.72, xaxis=x, yaxis=y,
            marker_color=[self._colours[source] for source in told], hoverinfo="text",
            hovertext=[f"{called(name)}: {moment[0]:.2f} to {moment[1]:.2f} s" for name, moment in told.items()],
        )  # fmt: skip

    def band(self, x: str, y: str) -> dict:
        """The true moment as a pale band behind the bars."""
        start_s, end_s = self.moments_s[TRUTH]
        return {
            "type": "rect", "xref": x, "yref": f"{y} domain", "x0": start_s, "x1": end_s, "y0": 0, "y1": 1,
            "fillcolor": plots.TRUTH, "opacity": 0.08, "line_width": 0, "layer": "below",
        }  # fmt: skip

    def numbers(self, x: str, y: str, *, header: bool, weights: dict[str, Sequence[float]] | None = None) -> list[dict]:
        """Notes at the right of the bars: IoU, and the weights that a teacher's start and end had, with their heads."""
        columns = {"IoU": {source: self.iou[source] for source in self.sources if source != TRUTH}}
        if weights:
            columns["weight<br>of start"] = {source: pair[0] for source, pair in weights.items()}
            columns["weight<br>of end"] = {source: pair[1] for source, pair in weights.items()}
        fixed = {"xref": f"{x} domain", "x": 1, "xanchor": "right", "showarrow": False, "font": {"size": 11}}
        notes = []
        for place, (head, values) in enumerate(columns.items()):
            shift = 36 + 52 * place
            notes += [
                fixed | {"yref": y, "y": called(source), "xshift": shift, "text": _number(value)}
                for source, value in values.items()
            ]
            if header:
                # The truth has no numbers: the heads stand in its line.
                notes.append(
                    fixed | {"yref": y, "y": called(TRUTH), "xshift": shift, "text": head, "align": "right",
                             "font": _SMALL}
                )  # fmt: skip
        return notes

    def pictures(self) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Start, middle and end of the true moment as data URIs, and their seconds."""
        start_s, end_s = self.moments_s[TRUTH]
        # At the very end the next frame is on screen already.
        times_s = (start_s, (start_s + end_s) / 2, max(start_s, end_s - 1e-3))
        return _thumbnails(self.path, _stamp(self.path), times_s), times_s

    def verdict(self) -> str:
        """Who finds the moment, in one sentence."""
        ranked = sorted((name for name in self.teachers if self.moments_s[name]), key=self.iou.get)
        best = called(ranked[-1]) if ranked else ""
        taught = bool(ranked) and self.iou[ranked[-1]] >= FOUND_IOU
        if STUDENT not in self.sources:
            if ranked:
                return f"The {best} finds the moment" if taught else "No teacher finds the moment"
            start_s, end_s = self.moments_s[TRUTH]
            length = f"he moment lasts {end_s - start_s:.1f} s of {self.duration_s:.1f} s"
            return f"No teacher answers; t{length}" if self.teachers else f"T{length}"
        found = bool(self.moments_s[STUDENT]) and self.iou[STUDENT] >= FOUND_IOU
        if not ranked:
            return f"The student {'finds' if found else 'misses'} the moment"
        if found:
            return f"The student finds the moment, {f'so does the {best}' if taught else 'no teacher does'}"
        return f"The student misses what the {best} finds" if taught else "Neither student nor teachers find the moment"


def _stamp(path: Path | None) -> int:
    return os.stat(path).st_mtime_ns if path else 0


@lru_cache(maxsize=64)
def _strip(
    path: Path | None, stamp: int, count: int, duration_s: float
) -> tuple[UInt8[np.ndarray, "t h w 3"], np.ndarray]:
    """Pictures spread evenly over a video, grey ones where there is no file, and their seconds."""
    times_s = (np.arange(count) + 0.5) * duration_s / count
    if path is None:
        return np.stack([_NO_PICTURE] * count), times_s
    return _read(path, times_s), times_s


@lru_cache(maxsize=1024)
def _thumbnails(path: Path | None, stamp: int, times_s: tuple[float, ...]) -> tuple[str, ...]:
    frames = [_NO_PICTURE] * len(times_s) if path is None else _read(path, times_s)
    return tuple(plots.picture_uri(frame) for frame in frames)


def _read(path: Path, times_s: Sequence[float]) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames at some seconds, at most 200 pixels wide: what is remembered of a video is small."""
    reader = FrameReader(path)
    # A label may end a little after its file does.
    frames = reader.at(np.minimum(times_s, reader.timestamps_s[-1]))
    if reader.width <= 200:
        return frames
    size = (200, max(1, round(200 * reader.height / reader.width)))
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def _said(sentence: str, most: int) -> str:
    short = sentence if len(sentence) <= most else sentence[: most - 1].rstrip() + "…"
    return f"“{html.escape(short, quote=False)}”"


def _asked(question: Question) -> tuple[str, str]:
    """What a question asks, without and within its brackets, as text that is no markup."""
    asks, _, meant = html.escape(question.asks, quote=False).partition(" (")
    meant, _, rest = meant.partition(")")
    return asks + rest, meant


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"
