"""What a reader can ask a prompter: a question in one's own words, and other frames than it chose (ours)."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import torch

from vkdlab import widgets
from vkdlab.data.datasets import Question
from vkdlab.vlap.backbone import Prompt
from vkdlab.vlap.batches import QuestionBatch
from vkdlab.vlap.distill import Student
from vkdlab.vlap.selectors import selection_of
from vkdlab.vlap.shown import Answered, Pictures
from vkdlab.vlap.strip_figures import option_scores, strip

Ask = Callable[[str, tuple[str, ...], tuple[int, ...] | None], Answered]
"""Answers a question with options from frames of these numbers, or from those that the prompter chooses when None."""
OWN, BY_HAND = "the prompter’s frames", "frames by hand"
_BETWEEN = " | "


def asking(student: Student, batch: QuestionBatch, *, select: int | None = None) -> Ask:
    """Asks a student about one video, whose frames were seen before.

    Args:
        student: stays in the mode in which it is; it answers in evaluation mode.
        batch: one question about the video, of which only the frames count.
        select: how many frames to choose; by default the student's number.

    Returns:
        A function of a question, its options, and frames in place of the prompter's or None. It raises a ValueError
        that says what is wrong where there is nothing to answer or a frame that the video does not have.

    Raises:
        ValueError: the batch has several questions.
    """
    if len(batch) != 1:
        raise ValueError(f"a batch with one question about the video is needed, got {len(batch)}")
    count = int(batch.mask.sum())

    @lru_cache(maxsize=16)
    def own(question: str, options: tuple[str, ...]) -> tuple[QuestionBatch, Any, Answered]:
        asked = replace(batch, prompts=(Prompt(question, options),), answers=torch.zeros_like(batch.answers))
        answer = _evaluated(student, asked, select=select)
        # Nobody knows the right option of words that were typed in, nor where it is seen.
        return asked, answer.selection, replace(Answered.of(answer, asked), answer=None, evidence=None)

    def ask(question: str, options: tuple[str, ...], frames: tuple[int, ...] | None = None) -> Answered:
        asked, selection, answered = own(question, tuple(options))
        if frames is None or tuple(frames) == answered.frames:
            return answered
        if not frames or min(frames) < 0 or max(frames) >= count:
            raise ValueError(f"frames are numbers from 0 to {count - 1}, at least one, got {tuple(frames)}")
        marked = torch.zeros_like(batch.mask)
        marked[0, list(frames)] = True
        chosen = selection_of(marked, mask=batch.mask, select=len({*frames}), scores=selection.scores)
        answer = _evaluated(student, asked, selection=chosen)
        return replace(
            answered,
            frames=tuple(sorted({*frames})),
            option_probs=tuple(answer.probs[0, : len(options)].tolist()),
            forced=tuple(sorted({*frames} - {*answered.frames})),
        )

    return ask


def ask_panel(
    pictures: Pictures,
    ask: Ask,
    *,
    questions: Sequence[Question],
    subtitle: str = "",
    live: bool | None = None,
) -> Any:
    """Ask about a video: choose a question or type one, see which frames it chooses, put others in their place.

    There is one slider a segment, which stands at the frame that the prompter chose; moved, its frame is read instead.

    Args:
        pictures: of the frames that were looked at.
        ask: answers, such as `asking` gives.
        questions: about this video, to begin with.
        subtitle: data set, video.
        live: overrides the decision, for tests.

    Returns:
        A panel when live, else the strip of the first question.

    Raises:
        ValueError: there is no question, or they are about several videos.
    """
    if len({question.video for question in questions}) > 1:
        raise ValueError(f"questions are about one video, got {sorted({question.video for question in questions})}")
    named = {f"{place}. {question.question}": question for place, question in enumerate(questions, start=1)}
    if not named:
        raise ValueError("there is no question to choose from")

    def answered(question: Question, frames: tuple[int, ...] | None = None) -> Answered:
        evidence = question.evidence_s and tuple(min(1.0, each / pictures.duration_s) for each in question.evidence_s)
        found = ask(question.question, tuple(question.options), frames)
        return replace(found, answer=question.answer, evidence=evidence)

    first = answered(questions[0])
    if not (widgets.is_live() if live is None else live):
        return strip(pictures, first, subtitle=subtitle)
    return _Panel(pictures, ask, answered, named, first, subtitle).box


class _Panel:
    """The widgets of `ask_panel`, and what happens when somebody touches them."""

    def __init__(
        self, pictures: Pictures, ask: Ask, answered: Callable[..., Answered], named: dict[str, Question],
        first: Answered, subtitle: str,
    ):  # fmt: skip
        import ipywidgets

        self.pictures, self.ask, self.answered, self.subtitle = pictures, ask, answered, subtitle
        self.own = first
        self.chosen = widgets.dropdown(named, "question")
        wide = {"style": {"description_width": "initial"}, "layout": {"width": "95%"}, "continuous_update": False}
        self.question = ipywidgets.Text(description="ask", **wide)
        self.options = ipywidgets.Text(description=f"options, with{_BETWEEN}between", **wide)
        self.sliders = [
            ipywidgets.SelectionSlider(
                options=[(f"{pictures.times_s[frame]:.1f} s", frame) for frame in range(start, end)],
                description=f"segment {place}", continuous_update=False, layout={"width": "300px"},
            )
            for place, (start, end) in enumerate(pairwise(first.bounds), start=1) if end > start
        ]  # fmt: skip
        self.reset = ipywidgets.Button(description=OWN, layout={"width": "auto"})
        self.note = ipywidgets.HTML()
        self.show_strip = widgets.shown_in(strip_out := ipywidgets.Output())
        self.show_scores = widgets.shown_in(scores_out := ipywidgets.Output())
        self.fields = {self.chosen: self.choose, self.question: self.asked, self.options: self.asked}
        self.fields |= dict.fromkeys(self.sliders, self.moved)
        for field, react in self.fields.items():
            field.observe(react, names="value")
        self.reset.on_click(self.asked)
        self.choose()
        row = ipywidgets.HBox([*self.sliders, self.reset], layout={"flex_flow": "row wrap"})
        self.box = ipywidgets.VBox(
            [self.chosen, self.question, self.options, row, self.note, strip_out, scores_out]
        )  # fmt: skip

    def choose(self, _: Any = None) -> None:
        """Another question of the video."""
        self._set(self.question, self.chosen.value.question)
        self._set(self.options, _BETWEEN.join(self.chosen.value.options))
        self.asked()

    def asked(self, _: Any = None) -> None:
        """A question was chosen or typed, or the prompter's own frames are wanted back."""
        found = self._answer(None)
        if found is not None:
            self.own = found
            for slider, frame in zip(self.sliders, found.frames, strict=True):
                self._set(slider, frame)
            self._draw(found)

    def moved(self, _: Any = None) -> None:
        """Another frame of a segment."""
        found = self._answer(tuple(slider.value for slider in self.sliders))
        if found is not None:
            self._draw(found)

    def _answer(self, frames: tuple[int, ...] | None) -> Answered | None:
        known, words = self.chosen.value, " ".join(self.question.value.split())
        try:
            if words == known.question and self.options.value == _BETWEEN.join(known.options):
                found = self.answered(known, frames)
            else:
                options = tuple(each.strip() for each in self.options.value.split(_BETWEEN.strip()) if each.strip())
                found = self.ask(words, options, frames)
        except ValueError as error:
            self.note.value = f"<b>{html.escape(str(error))}</b>"
            return None
        self.note.value = ""
        return found

    def _draw(self, found: Answered) -> None:
        self.show_strip(strip(self.pictures, found, subtitle=self.subtitle))
        self.show_scores(self._scores(found))

    def _scores(self, found: Answered) -> go.Figure:
        both = {OWN: self.own, BY_HAND: found} if found.forced else {OWN: found}
        return option_scores(both, times_s=self.pictures.times_s)

    def _set(self, field: Any, value: Any) -> None:
        """A value set from here is no hand on it."""
        field.unobserve(self.fields[field], names="value")
        field.value = value
        field.observe(self.fields[field], names="value")


@torch.no_grad()
def _evaluated(student: Student, batch: QuestionBatch, **how: Any) -> Any:
    was_training = student.training
    student.eval()
    try:
        return student(batch, **how)
    finally:
        student.train(was_training)
