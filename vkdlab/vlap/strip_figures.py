"""Which frames of a video a question chooses, and whether another question chooses others (ours).

Data in, `plotly.graph_objects.Figure` out. A strip has all frames that were looked at, the chosen ones large above
them, the prompter's probability of each within its segment, and what the data set says where the answer is seen.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vkdlab import plots
from vkdlab.vlap.backbone import LETTERS
from vkdlab.vlap.shown import Answered, Pictures, joined, lettered, wrapped

CHOSEN, FORCED, SECOND = plots.PALETTE[0], plots.PALETTE[1], plots.PALETTE[1]
"""Colours of frames that the prompter chose, that somebody put in their place, and that a second question chose."""
_OTHERS = "#c6d9e8"
_WIDTH = 860
"""Pixels of the time axis at the width that figures are made for, 980."""
_TALL, _LESS_TALL = 150, 112
"""Pixels that a large frame is high at most: of one question, and of each of two."""
_MOST_LARGE = 12
"""So many chosen frames at most are shown large."""
_CAPTION, _GAP, _LINE = 20, 10, 17
_BETWEEN = "  ·  "
_CLOSE = 1e-6


def strip(pictures: Pictures, answered: Answered, *, subtitle: str = "") -> go.Figure:
    """Which frames a question chose: all frames in time, the chosen ones framed and large, probabilities, evidence.

    Args:
        pictures: all frames that were looked at.
        answered: of the same video.
        subtitle: data set, video.

    Raises:
        ValueError: another number of frames.
    """
    _check(pictures, answered)
    large = _large_size(pictures, answered, _TALL)
    rows = {"large": large[1] + _CAPTION if large else 0, "small": _small_height(pictures), "probability": 110}
    rows["evidence"] = 24 if answered.evidence is not None else 0
    canvas = _Canvas(pictures, rows)
    colours = {frame: FORCED if frame in answered.forced else CHOSEN for frame in answered.frames}
    canvas.add_small("small")
    canvas.add_outlines("small", colours)
    if large:
        canvas.add_large("large", answered, colours, width_px=large[0], above="small")
    canvas.add_walls(answered, "small", canvas.last)
    canvas.add_probabilities("probability", answered, colours, named=True)
    canvas.add_evidence("evidence", answered)
    words = joined(f"“{html.escape(answered.prompt.question)}”", subtitle).split(" ")
    lines = [*wrapped(words, " "), *wrapped(_options(answered), _BETWEEN)]
    return canvas.finished(title=_found(pictures, answered), subtitle=lines)


def two_questions(pictures: Pictures, first: Answered, second: Answered, *, subtitle: str = "") -> go.Figure:
    """Two questions about the same video: does the choice of frames move with the question.

    Args:
        pictures: all frames that were looked at.
        first: one question.
        second: another one, or the same.
        subtitle: data set, video, prompter.

    Raises:
        ValueError: another number of frames.
    """
    both = {"first": (first, CHOSEN), "second": (second, SECOND)}
    rows, large = {"small": _small_height(pictures)}, {}
    for name, (answered, _) in both.items():
        _check(pictures, answered)
        large[name] = _large_size(pictures, answered, _LESS_TALL)
        rows[f"{name} words"] = 24 + _LINE * len(wrapped(_options(answered), _BETWEEN))
        rows[f"{name} large"] = large[name][1] + _CAPTION if large[name] else 0
        rows[f"{name} probability"] = 84
        rows[f"{name} evidence"] = 20 if answered.evidence is not None else 0
    canvas = _Canvas(pictures, rows)
    canvas.add_small("small")
    canvas.add_walls(first, "small", "small")
    for inset, (name, (answered, colour)) in enumerate(both.items()):
        colours = dict.fromkeys(answered.frames, colour)
        canvas.add_words(f"{name} words", answered, colour)
        canvas.add_outlines("small", colours, inset=inset)
        if large[name]:
            canvas.add_large(
                f"{name} large", answered, colours, width_px=large[name][0], above=f"{name} probability"
            )  # fmt: skip
        canvas.add_probabilities(f"{name} probability", answered, colours, named=False)
        canvas.add_evidence(f"{name} evidence", answered)
        end = "probability" if answered.evidence is None else "evidence"
        canvas.add_walls(answered, f"{name} probability", f"{name} {end}")
    count, moved = len(second.frames), len({*second.frames} - {*first.frames})
    title = f"{moved} of {count} chosen frames move when the question changes"
    if first.frames == second.frames:
        title = f"Both questions choose the same {f'{count} frames' if count > 1 else 'frame'}"
    note = "blue: chosen for the first question, orange: for the second"
    return canvas.finished(title=title, subtitle=[joined(subtitle, note)])


def option_scores(
    answers: Mapping[str, Answered], *, times_s: Sequence[float] | np.ndarray | None = None, subtitle: str = ""
) -> go.Figure:
    """Option probabilities from one set of frames or more, side by side, with the right option marked.

    Args:
        answers: what the frames are called ("prompter", "forced") to the answer from them; all to one question.
        times_s: when the frames of the video are on screen, seconds; names the frames in the legend.
        subtitle: data set, video.

    Raises:
        ValueError: there is no answer, the questions differ, or a chosen frame has no time.
    """
    if not answers or len({answered.prompt for answered in answers.values()}) > 1:
        asked = [answered.prompt.question for answered in answers.values()]
        raise ValueError(f"answers to one question are compared, at least one, got answers to {asked}")
    if times_s is not None and any(len(times_s) != len(answered.frame_probs) for answered in answers.values()):
        counts = [len(answered.frame_probs) for answered in answers.values()]
        raise ValueError(f"expected a time for each frame, got {len(times_s)} times for {counts} frames")
    first, last = (list(answers.values())[place] for place in (0, -1))
    labels = ["<br>".join(textwrap.wrap(option, 46)) for option in lettered(first.prompt)]
    if first.answer is not None:
        labels[first.answer] = f"<b>{labels[first.answer]} ✓</b>"
    figure = go.Figure()
    for (name, answered), colour in zip(answers.items(), plots.PALETTE, strict=False):
        values = [100 * prob for prob in answered.option_probs]
        figure.add_bar(
            y=labels, x=values, orientation="h", marker_color=colour, meta=name,
            name=name if times_s is None else f"{name}: {_at(times_s, answered.frames)}",
            text=[f"{value:.0f}" for value in values], textposition="outside", cliponaxis=False,
            hovertemplate=f"{html.escape(name)}: %{{x:.1f}} %<extra></extra>",
        )  # fmt: skip
    words = joined(f"“{html.escape(first.prompt.question)}”", subtitle, "✓: right" * (first.answer is not None))
    lines = wrapped(words.split(" "), " ")
    plots.styled(
        figure,
        title=_moved(first, last) if len(answers) > 1 else f"The answer is {first.verdict}",
        subtitle="<br>".join(lines),
        x="probability (%)",
        height=159 + _LINE * len(lines) + (16 + 20 * len(answers)) * len(labels),
    )
    figure.update_xaxes(range=[0, 108], tickvals=[0, 20, 40, 60, 80, 100])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    # Beside long options there is little room: the words begin at the left of the page.
    return figure.update_layout(
        showlegend=True, legend={"traceorder": "normal"}, margin={"r": 40, "t": 61 + _LINE * len(lines)},
        title={"xref": "container", "x": 0.016, "pad": {"b": _LINE * (1 + len(lines))}},
    )  # fmt: skip


class _Canvas:
    """Rows under one another that share the axis of time, and what is drawn into them.

    Args:
        pictures: of the video.
        rows: height of each row by name, pixels; those of none are left out. Rows of "small" and "large" pictures and
            of "words" have no axes.
    """

    def __init__(self, pictures: Pictures, rows: Mapping[str, float | int]):
        self.pictures = pictures
        self.heights = {name: height for name, height in rows.items() if height}
        self.height = sum(self.heights.values()) + _GAP * (len(self.heights) - 1)
        self.row = {name: place for place, name in enumerate(self.heights, start=1)}
        self.last = [*self.row][-1]
        self.images, self.shapes, self.notes = [], [], []
        self.figure = make_subplots(
            rows=len(self.row), cols=1, shared_xaxes=True, row_heights=[*self.heights.values()],
            vertical_spacing=_GAP / self.height if len(self.row) > 1 else 0,
        )  # fmt: skip
        axes = {}
        for name, place in self.row.items():
            if name.endswith(("small", "large", "words")):
                top = 1 + _CAPTION / (self.heights[name] - _CAPTION) if name.endswith("large") else 1
                axes |= {f"xaxis{place}": {"visible": False}, f"yaxis{place}": {"visible": False, "range": [0, top]}}
        self.figure.update_layout(axes)

    def add_small(self, row: str) -> None:
        """All frames, side by side in time."""
        edges = self.pictures.edges_s
        for uri, start, end in zip(self.pictures.small, edges, edges[1:], strict=False):
            self._add_image(uri, row, x=(start + end) / 2, width=0.97 * (end - start))

    def add_outlines(self, row: str, colours: Mapping[int, str], *, inset: int = 0) -> None:
        """Around small pictures, or within such outlines of another colour."""
        for frame, colour in colours.items():
            start, end = self.pictures.edges_s[frame : frame + 2]
            margin = (0.015 + 0.14 * inset) * (end - start)
            self._add_box(row, start + margin, end - margin, colour, low=0.19 * inset)

    def add_large(
        self, row: str, answered: Answered, colours: Mapping[int, str], *, width_px: float, above: str
    ) -> None:
        """The chosen frames side by side, and lines to where they are in time, in a row below."""
        pictures, count = self.pictures, len(answered.frames)
        half = width_px / _WIDTH * pictures.duration_s / 2
        centres = [(place + 0.5) * pictures.duration_s / count for place in range(count)]
        middles = (pictures.edges_s[1:] + pictures.edges_s[:-1]) / 2
        for frame, x in zip(answered.frames, centres, strict=True):
            self._add_image(pictures.large[frame], row, x=x, width=2 * half)
            self._add_box(row, x - half, x + half, colours[frame])
            by_hand = ", by hand" * (frame in answered.forced)
            self.notes.append(
                {
                    "x": x, "xref": f"x{self.row[row]}", "y": 1, "yref": f"y{self.row[row]}", "yanchor": "bottom",
                    "text": f"{pictures.times_s[frame]:.1f} s{by_hand}", "showarrow": False,
                    "font": {"size": 12, "color": colours[frame]},
                }
            )  # fmt: skip
            ends = {"x0": x, "x1": middles[frame], "y0": self._domain(row)[0], "y1": self._domain(above)[1]}
            self._add_line(above, **ends, line={"color": colours[frame], "width": 1.5})
        self.figure.add_scatter(
            x=centres, y=[0.5] * count, mode="markers", opacity=0, showlegend=False, hoverinfo="text",
            hovertext=_hover(pictures, answered, answered.frames), row=self.row[row], col=1,
        )  # fmt: skip

    def add_walls(self, answered: Answered, first: str, last: str) -> None:
        """Lines between segments, from one row to another; none where every frame is a segment of its own."""
        if len({*answered.bounds}) > len(self.pictures):
            return
        for x in self.pictures.edges_s[sorted({*answered.bounds} - {0, len(self.pictures)})]:
            ends = {"x0": x, "x1": x, "y0": self._domain(last)[0], "y1": self._domain(first)[1]}
            self._add_line(first, **ends, line={"color": "#777777", "width": 1.2, "dash": "dot"})

    def add_probabilities(self, row: str, answered: Answered, colours: Mapping[int, str], *, named: bool) -> None:
        """A bar a frame."""
        others = [frame for frame in range(len(self.pictures)) if frame not in colours]
        chosen = [frame for frame in answered.frames if frame not in answered.forced]
        groups = {"not chosen": others, "chosen": chosen, "put there by hand": list(answered.forced)}
        for name, frames in groups.items():
            if frames:
                start, end = self.pictures.edges_s[frames], self.pictures.edges_s[[frame + 1 for frame in frames]]
                self.figure.add_bar(
                    x=(start + end) / 2, y=answered.frame_probs[frames], width=0.86 * (end - start), name=name,
                    marker_color=colours.get(frames[0], _OTHERS), showlegend=named, hoverinfo="text",
                    hovertext=_hover(self.pictures, answered, frames), row=self.row[row], col=1,
                )  # fmt: skip
        title = {"text": "probability in<br>its segment", "font": {"size": 13}}
        self.figure.update_yaxes(title=title, range=[0, 1.02], tickvals=[0, 0.5, 1], row=self.row[row], col=1)

    def add_evidence(self, row: str, answered: Answered) -> None:
        """A bar where the answer is seen, if that is known."""
        if answered.evidence is None:
            return
        start_s, end_s = (share * self.pictures.duration_s for share in answered.evidence)
        self.figure.add_bar(
            y=["evidence"], base=[start_s], x=[end_s - start_s], orientation="h", width=0.7, showlegend=False,
            marker_color=plots.TRUTH, hovertext=[f"evidence: {start_s:.2f} to {end_s:.2f} s"], hoverinfo="text",
            row=self.row[row], col=1,
        )  # fmt: skip
        self.figure.update_yaxes(showgrid=False, row=self.row[row], col=1)

    def add_words(self, row: str, answered: Answered, colour: str) -> None:
        """The question and its options."""
        lines = [f"<b>“{html.escape(answered.prompt.question)}”</b>", *wrapped(_options(answered), _BETWEEN)]
        self.notes.append(
            {
                "text": "<br>".join(lines), "x": 0, "xref": "paper", "xshift": -80, "y": 0, "showarrow": False,
                "yref": f"y{self.row[row]}", "xanchor": "left", "yanchor": "bottom", "align": "left",
                "font": {"size": 12.5, "color": colour},
            }
        )  # fmt: skip

    def finished(self, *, title: str, subtitle: Sequence[str]) -> go.Figure:
        """The figure, with its words."""
        lines = _LINE * len(subtitle)
        plots.styled(self.figure, title=title, subtitle="<br>".join(subtitle), height=int(self.height + 152 + lines))
        self.figure.update_xaxes(range=[0, self.pictures.duration_s], showgrid=False)
        self.figure.update_xaxes(title_text="time (s)", row=self.row[self.last], col=1)
        return self.figure.update_layout(
            images=self.images, shapes=self.shapes, annotations=self.notes, barmode="overlay",
            margin={"l": 96, "t": 62 + lines, "b": 84}, title={"pad": {"b": _LINE + lines}},
            legend={"itemsizing": "trace"},
        )  # fmt: skip

    def _add_image(self, uri: str, row: str, *, x: float, width: float) -> None:
        self.images.append(
            {
                "source": uri, "xref": f"x{self.row[row]}", "yref": f"y{self.row[row]}", "x": x, "y": 0, "sizex": width,
                "sizey": 1, "xanchor": "center", "yanchor": "bottom", "sizing": "stretch", "layer": "above",
            }
        )  # fmt: skip

    def _add_box(self, row: str, start: float, end: float, colour: str, *, low: float = 0.0) -> None:
        self.shapes.append(
            {
                "type": "rect", "xref": f"x{self.row[row]}", "yref": f"y{self.row[row]}", "x0": start, "x1": end,
                "y0": low, "y1": 1 - low, "line": {"color": colour, "width": 3}, "layer": "above",
            }
        )  # fmt: skip

    def _add_line(self, row: str, **how) -> None:
        self.shapes.append({"type": "line", "xref": f"x{self.row[row]}", "yref": "paper", **how})

    def _domain(self, row: str) -> tuple[float, float]:
        return self.figure.get_subplot(self.row[row], 1).yaxis.domain


def _check(pictures: Pictures, answered: Answered) -> None:
    if len(pictures) != len(answered.frame_probs):
        raise ValueError(
            f"there are {len(pictures)} pictures, and {len(answered.frame_probs)} frames were looked at for "
            f"{answered.prompt.question!r}"
        )


def _small_height(pictures: Pictures) -> float:
    return 0.97 * _WIDTH / len(pictures) * pictures.frames.shape[1] / pictures.frames.shape[2]


def _large_size(pictures: Pictures, answered: Answered, tallest: int) -> tuple[float, float] | None:
    """Width and height of a chosen frame, pixels; None where there are none or too many to be shown."""
    if not 1 <= len(answered.frames) <= _MOST_LARGE:
        return None
    shape = pictures.frames.shape[1] / pictures.frames.shape[2]
    width = min(0.95 * _WIDTH / len(answered.frames), tallest / shape)
    return width, width * shape


def _hover(pictures: Pictures, answered: Answered, frames: Sequence[int]) -> list[str]:
    return [
        f"frame {frame} at {pictures.times_s[frame]:.2f} s: {answered.frame_probs[frame]:.2f} in its segment"
        for frame in frames
    ]


def _found(pictures: Pictures, answered: Answered) -> str:
    """The title of a strip."""
    count = len(answered.frames)
    if answered.evidence is None:
        return f"From {count} of {len(pictures)} frames the answer is {answered.verdict}"
    start, end = answered.evidence
    places = [float(pictures.times_s[frame]) / pictures.duration_s for frame in answered.frames]
    hits = sum(start - _CLOSE <= place <= end + _CLOSE for place in places)
    if count == 1:
        text = f"The chosen frame {'shows' if hits else 'does not show'} the evidence"
    else:
        text = f"{hits or 'None'} of {count} chosen frames {'show' if hits > 1 else 'shows'} the evidence"
    return f"{text}; the answer is {answered.verdict}"


def _options(answered: Answered) -> list[str]:
    """Options with their probabilities; the answer is bold, the right one is ticked, a wrong answer is crossed."""
    texts = []
    for place, (text, prob) in enumerate(zip(lettered(answered.prompt), answered.option_probs, strict=True)):
        text = f"{text} {100 * prob:.0f} %"
        if place == answered.answer:
            text += " ✓"
        elif place == answered.predicted and answered.answer is not None:
            text += " ✗"
        texts.append(f"<b>{text}</b>" if place == answered.predicted else text)
    return texts


def _moved(first: Answered, last: Answered) -> str:
    """The title of option scores."""
    before, after = (_called(first, place) for place in (first.predicted, last.predicted))
    if first.predicted != last.predicted:
        return f"Other frames move the answer from {before} to {after}"
    shares = [100 * each.option_probs[first.predicted] for each in (first, last)]
    return f"With other frames the answer stays {before}: {shares[1]:.0f} % in place of {shares[0]:.0f} %"


def _called(answered: Answered, option: int) -> str:
    if answered.answer is None:
        return LETTERS[option]
    return f"{LETTERS[option]} ({'right' if option == answered.answer else 'wrong'})"


def _at(times_s: Sequence[float] | np.ndarray, frames: Sequence[int]) -> str:
    if not frames:
        return "no frame"
    if len(frames) > 8:
        return f"{len(frames)} frames"
    return ", ".join(f"{times_s[frame]:.1f}" for frame in frames) + " s"
