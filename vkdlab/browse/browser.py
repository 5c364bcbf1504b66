"""One way to look at answers, whatever is installed and whoever looks (ours).

browser = Browser.open(predictions)
browser.show()                     # FiftyOne's App, or a player beside a timeline; headless, a figure
browser.moments("too_early")       # the figure of one question
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from vkdlab import plots, widgets
from vkdlab.browse import app, database, evaluation, figures, panels
from vkdlab.browse.database import BrowseUnavailable
from vkdlab.browse.facts import facts
from vkdlab.browse.from_fiftyone import from_fiftyone, predictions_of, rescore
from vkdlab.browse.questions import QUESTIONS, Question, answerable
from vkdlab.browse.renderings import render
from vkdlab.browse.selection import selected
from vkdlab.browse.to_fiftyone import to_fiftyone
from vkdlab.browse.views import save_views
from vkdlab.data import Dataset
from vkdlab.predictions import Predictions

if TYPE_CHECKING:
    import fiftyone
    import pandas as pd

VIEWERS = ("auto", "app", "player")


@dataclass(frozen=True, eq=False)
class Browser:
    """Answers, what is known of them, and where they can be looked at. Made by `Browser.open`."""

    predictions: Predictions
    """The answers, beside the truth as it stood corrected when this was opened."""
    table: pd.DataFrame
    """`facts` of them."""
    dataset: fiftyone.Dataset | None
    """The same in FiftyOne, with a saved view for every question; None where it is not used."""
    before: Dataset
    """The truth before any correction."""
    why_not: str = ""
    """Why FiftyOne is not used, where it is not."""

    @classmethod
    def open(
        cls,
        predictions: Predictions,
        *,
        viewer: str = "auto",
        folder: str | os.PathLike | None = None,
        renderings: Sequence[str] = (),
        name: str | None = None,
        overwrite: bool = False,
        progress: bool = True,
    ) -> Browser:
        """Brings answers into FiftyOne where it can be had.

        Args:
            predictions: the answers.
            viewer: "app": FiftyOne, or an error; "player": without it; "auto": FiftyOne where it is installed and
                every video has its file.
            folder: of FiftyOne's database, see `vkdlab.browse.connect`.
            renderings: further pictures of every video, "flow" or "boxes"; FiftyOne shows them as a group.
            name: of FiftyOne's data set; by default the answers' with that of the renderings. One that holds the same
                answers is opened with the corrections made in it.
            overwrite: whether a data set of this name gives way whatever it holds, with all corrections.
            progress: show bars.

        Raises:
            ValueError: there is no such viewer or rendering, videos have no file, or a data set of this name holds
                other answers.
            BrowseUnavailable: FiftyOne or its database cannot be had, and `viewer` is "app".
            BrowseError: another process uses the folder, or the database stopped.
        """
        if viewer not in VIEWERS:
            raise ValueError(f"expected viewer {', '.join(VIEWERS)}, got {viewer!r}")

        def alone(why_not: str) -> Browser:
            return cls(predictions, facts(predictions), None, predictions.dataset, why_not)

        if viewer == "player":
            return alone("the player was asked for")
        fileless = [video.id for video in predictions.dataset.videos.values() if video.path is None]
        if fileless and viewer == "auto":
            return alone(f"{len(fileless)} of its videos come without a file, such as {fileless[0]!r}")
        try:
            database.connect(folder)
        except BrowseUnavailable as missing:
            if viewer == "app":
                raise
            return alone(str(missing))
        rendered = {kind: render(predictions.dataset, kind, progress=progress) for kind in renderings}
        called = name or " with ".join([predictions.name, *([" and ".join(rendered)] if rendered else [])])
        dataset = to_fiftyone(
            predictions, name=called, overwrite=overwrite, renderings=rendered or None, progress=progress
        )
        current = predictions_of(dataset)
        if current.dataset.fingerprint != predictions.dataset.fingerprint:
            rescore(dataset)
        save_views(dataset)
        return cls(current, facts(current), dataset, predictions.dataset)

    def __repr__(self) -> str:
        where = f"in FiftyOne's data set {self.dataset.name!r}" if self.dataset is not None else "without FiftyOne"
        named = f"{len(self.predictions.dataset.videos)} videos, {len(self.table)} queries"
        return f"{named}, {where}" + (f": {self.why_not}" if self.why_not else "")

    def show(self, *, live: bool | None = None) -> Any:
        """FiftyOne's App in the cell's output where there is one, else a player beside a timeline; headless, a figure.

        Args:
            live: overrides whether somebody is looking, for tests.
        """
        looked_at = widgets.is_live() if live is None else live
        if self.dataset is None or not looked_at:
            return panels.browse(self.predictions, live=looked_at)
        opened = app.launch(self.dataset)
        opened.show()
        return opened

    @property
    def questions(self) -> dict[str, Question]:
        """Those that these answers have the facts for, by name."""
        return {question.name: question for question in answerable(self.table)}

    def how_many(self, *, subtitle: str = "") -> go.Figure:
        """How many queries each question names."""
        return figures.how_many(self.table, self.questions.values(), subtitle=subtitle)

    def moments(self, question: str, *, count: int = 6) -> go.Figure:
        """The first queries that a question names, the most telling first; says so where it names none.

        Args:
            question: one of `vkdlab.browse.QUESTIONS`.
            count: queries at most.

        Raises:
            ValueError: there is no such question.
        """
        if question not in QUESTIONS:
            raise ValueError(f"expected a question of {', '.join(QUESTIONS)}, got {question!r}")
        asked = QUESTIONS[question]
        if question in self.questions and asked.rows(self.table):
            return figures.moments(self.predictions, self.table, asked, count=count)
        return _note(f"No query of these: {asked.asks}")

    def evaluate(self, *, progress: bool = True) -> pd.DataFrame:
        """What the answers are worth: our metrics, and FiftyOne's mAP beside them where it is used."""
        if self.dataset is not None:
            return evaluation.evaluate(self.dataset, progress=progress)
        return evaluation.measure(self.predictions)

    def difference(self, source: str = "student") -> go.Figure:
        """Why FiftyOne's mAP of a source is another number than ours; says so where FiftyOne is not used."""
        if self.dataset is None:
            return _note(f"FiftyOne's number is not here: {self.why_not.partition('.')[0]}")
        return evaluation.difference_figure(evaluation.difference(self.dataset, source), name=figures.called(source))

    def metrics(self, scores: pd.DataFrame) -> dict[str, float]:
        """What the report shows: how many queries each question names, and what every source reaches.

        Args:
            scores: of `evaluate`.
        """
        found: dict[str, float] = {"queries": len(self.table), "corrected": len(self.corrections())}
        for name, question in self.questions.items():
            found[f"queries: {name.replace('_', ' ')}"] = len(question.rows(self.table))
        for source, row in scores.iterrows():
            for metric in ("R1@0.5", "mIoU", "mAP"):
                if metric in row:
                    found[f"{figures.called(str(source))} {metric}"] = float(row[metric])
        return found

    def sent(self) -> pd.DataFrame:
        """The rows that were last sent from the App, see `selected`; none where nothing of this data set was."""
        try:
            rows = selected() if self.dataset is not None else self.table.head(0)
        except FileNotFoundError:
            rows = self.table.head(0)
        return rows if rows.empty else rows[rows["data_set"] == self.dataset.name]

    def corrected(self) -> Dataset:
        """The data set with the moments and sentences as they were corrected in FiftyOne."""
        return self.predictions.dataset if self.dataset is None else from_fiftyone(self.dataset)

    def corrections(self) -> pd.DataFrame:
        """Every query that was corrected, added or deleted: its sentence and seconds before and after."""
        import pandas as pd

        sides = {"before": self.before, "after": self.corrected()}
        rows = {side: {query.id: query for query in data.queries} for side, data in sides.items()}
        changed = [
            id_ for id_ in dict.fromkeys((*rows["before"], *rows["after"]))
            if rows["before"].get(id_) != rows["after"].get(id_)
        ]  # fmt: skip
        told = {
            (side, fact): [getattr(rows[side].get(id_), fact, None) for id_ in changed]
            for fact in ("sentence", "start_s", "end_s")
            for side in sides
        }
        return pd.DataFrame({f"{fact} {side}": values for (side, fact), values in told.items()}, index=changed)


def own_folder(folder: str | os.PathLike) -> Path | None:
    """Where a notebook keeps its database: below a run's folder for somebody who looks, else with the job's files.

    A run that is looked at again finds its corrections again, and jobs that work on one run at once stay apart.
    """
    return Path(folder) / "fiftyone" if widgets.is_live() else None


def _note(words: str) -> go.Figure:
    """A figure that says why it is empty."""
    return plots.styled(go.Figure(), title=words, height=120).update_xaxes(visible=False).update_yaxes(visible=False)
