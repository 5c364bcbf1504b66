"""Browsing without FiftyOne: choose a question and a query, see the moment play beside who says when (ours)."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

from vkdlab import widgets
from vkdlab.browse import figures
from vkdlab.browse.facts import facts
from vkdlab.browse.player import player
from vkdlab.browse.questions import answerable
from vkdlab.data.datasets import Query
from vkdlab.predictions import Predictions

if TYPE_CHECKING:
    import pandas as pd

AT_MOST = 500


def browse(predictions: Predictions, *, live: bool | None = None) -> Any:
    """Queries by the questions that name them, each with a player of its true moment beside its timeline.

    A list holds the first 500 queries of a question, in the question's order.

    Args:
        predictions: the answers.
        live: overrides the decision, for tests.

    Returns:
        A panel when live; else the figure of the first question that names something, or the timeline of the first
        query where none does.

    Raises:
        ValueError: there is no query.
    """
    queries = {query.id: query for query in predictions.dataset.queries}
    if not queries:
        raise ValueError(f"{predictions.dataset.name} {predictions.dataset.split} has no query to look at")
    table = facts(predictions)
    named = {question: rows for question in answerable(table) if (rows := question.rows(table))}
    if not (widgets.is_live() if live is None else live):
        if named:
            return figures.moments(predictions, table, next(iter(named)))
        return figures.timeline(predictions, next(iter(queries)))

    import ipywidgets

    def lines(rows: list[str]) -> list[tuple[str, str]]:
        return [(f"{place}. {_line(queries[name], table)}", name) for place, name in enumerate(rows[:AT_MOST], start=1)]

    def titled(words: str, rows: list[str]) -> str:
        return f"{words} ({len(rows)}{f', the first {AT_MOST} listed' if len(rows) > AT_MOST else ''})"

    asked = {titled(question.asks, rows): rows for question, rows in named.items()}
    asked[titled("all queries", list(queries))] = list(queries)
    question = widgets.dropdown(asked, "question")
    query = widgets.dropdown(dict(lines(next(iter(asked.values())))), "query")
    video = ipywidgets.HTML(layout={"flex": "0 0 auto", "max_width": "100%"})
    picture = ipywidgets.Output(layout={"flex": "1 1 560px", "min_width": "0"})
    show = widgets.shown_in(picture)

    def ask(change: dict) -> None:
        query.options = lines(change["new"])

    def look(name: str) -> None:
        try:
            video.value = _played(predictions, queries[name])
            show(figures.timeline(predictions, name))
        except (OSError, ValueError) as error:
            # One file that cannot be read is told in words, and a person goes on to the next query.
            video.value = f"<p>{html.escape(str(error))}</p>"
            picture.clear_output()

    question.observe(ask, names="value")
    query.observe(lambda change: look(change["new"]), names="value")
    look(query.value)
    side_by_side = ipywidgets.HBox([video, picture], layout={"flex_flow": "row wrap", "align_items": "center"})
    return ipywidgets.VBox([question, query, side_by_side])


def _line(query: Query, table: pd.DataFrame) -> str:
    words = f"“{query.sentence}”"
    if "student_iou" not in table:
        return words
    iou = table.at[query.id, "student_iou"]
    return f"{words} – " + ("no answer" if math.isnan(iou) else f"student's IoU {iou:.2f}")


def _played(predictions: Predictions, query: Query) -> str:
    path = predictions.dataset.videos[query.video].path
    if path is None:
        return f"<p>{html.escape(query.video)} comes without a video file.</p>"
    shown = player(path, (query.start_s, query.end_s), height=210)
    return f"{shown}<p>plays the true moment, {query.start_s:.2f} to {query.end_s:.2f} s</p>"
