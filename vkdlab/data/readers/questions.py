"""Readers of multiple-choice question sets in the form that their authors publish: NExT-QA, STAR, VLEP, How2QA, TVQA.

A question that nobody can be judged by is left out and named by file and row: it has no text, fewer than two options or
an empty one, its answer is none of them, or the right answer's words stand under two options. Two wrong options of the
same words do no harm and stay. A window that is no moment (TVQA has some) leaves its question without evidence; that
is named too. No file tells how long a video is: durations are nan, and a window is held against no end.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from ..datasets import Dataset, Problem, Question, Video, moment_error, spread
from ..manifests import DataMissing
from .common import Request, open_text

NEXT_EVENT = "What is more likely to happen next?"
"""The question of every VLEP example, in our words: the files hold two events and no question."""
HOW2QA_FIELDS = ("video", "window", "wrong option", "wrong option", "wrong option", "question", "right option")


def nextqa(request: Request) -> Dataset:
    """CSV with five options a question. The file tells frames but no frame rate, so durations are nan."""
    found = _Found(request)
    for row, fields in request.rows(found.file):
        found.add(
            row,
            f"{fields['video']}_{fields['qid']}",
            fields["video"],
            question=fields["question"],
            options=[fields[f"a{index}"] for index in range(5)],
            answer=fields["answer"],
            kind=fields["type"],
        )
    return found.dataset()


def star(request: Request) -> Dataset:
    """A JSON list; the answer is a choice's text. The question's type leads its id; start and end are its situation."""
    found = _Found(request)
    for entry in _entries(request, found.file):
        ident = entry["question_id"]
        request.place[:] = found.file, ident
        options = [_plain(choice["choice"]) for choice in entry["choices"]]
        answer = _plain(entry["answer"])
        found.add(
            ident,
            ident,
            entry["video_id"],
            question=entry["question"],
            options=options,
            answer=options.index(answer) if answer in options else answer,
            kind=ident.partition("_")[0],
            window_s=(float(entry["start"]), float(entry["end"])),
        )
    return found.dataset()


def vlep(request: Request) -> Dataset:
    """JSON lines with two events, one of which is likelier to follow; ts is the premise that it follows."""
    found = _Found(request)
    for row, entry in _json_lines(request, found.file):
        start_s, end_s = map(float, entry["ts"])
        found.add(
            row,
            str(entry["example_id"]),
            entry["vid_name"],
            question=NEXT_EVENT,
            options=entry["events"],
            answer=entry["answer"],
            window_s=(start_s, end_s),
        )
    return found.dataset()


def how2qa(request: Request) -> Dataset:
    """CSV without a header: video, [start:end], three wrong options, question, right option.

    The right option is always the last field, so it is dealt to a place among the others by a hash of the question's id
    (video and row), the same on every machine; the wrong ones keep their order.
    """
    found = _Found(request)
    lines = (line for _, line in request.lines(found.file))
    for row, fields in enumerate(csv.reader(lines, strict=True), start=1):
        if len(fields) != len(HOW2QA_FIELDS):
            raise ValueError(
                f"expected {len(HOW2QA_FIELDS)} fields ({', '.join(HOW2QA_FIELDS)}), there are {len(fields)}"
            )
        video, window, *options, question, right = fields
        ident = f"{video}:{row}"
        answer = int(spread(f"{request.manifest.name}:{ident}") * (len(options) + 1))
        options.insert(answer, right)
        found.add(
            row,
            ident,
            video,
            question=question,
            options=options,
            answer=answer,
            window_s=_window_s(window.strip("[]"), ":"),
        )
    return found.dataset()


def tvqa(request: Request) -> Dataset:
    """JSON lines with five options a question; ts is "start-end", seconds; a video's group is its television series."""
    found = _Found(request)
    for row, entry in _json_lines(request, found.file):
        found.add(
            row,
            str(entry["qid"]),
            entry["vid_name"],
            question=entry["q"],
            options=[entry[f"a{index}"] for index in range(5)],
            answer=entry["answer_idx"],
            window_s=_window_s(entry["ts"], "-"),
            group=entry.get("show_name", ""),
        )
    return found.dataset()


class _Found:
    """The questions of one label file, as far as they are found."""

    def __init__(self, request: Request):
        if not request.files:
            raise DataMissing(f"{request.manifest.name}: {request.manifest.split(request.split).note}")
        (self.file,) = request.files
        self.request = request
        self.paths = request.video_files()
        self.videos: dict[str, Video] = {}
        self.questions: list[Question] = []

    def add(
        self,
        row: int | str,
        ident: str,
        video: str,
        *,
        question: str,
        options: Sequence[str],
        answer: int | str,
        kind: str = "",
        window_s: tuple[float, float] | None = None,
        group: str = "",
    ) -> None:
        """Adds a question, or notes why it cannot be used. `answer` is an index from 0, as a number or in digits."""
        if not self.request.wants(video, group=group):
            return
        question, options = _plain(question), tuple(map(_plain, options))
        if reason := _fault(question, options, answer):
            self.request.refuse(self.file, row, reason)
            return
        if window_s and (reason := moment_error(*window_s, math.nan)):
            self.request.problems.append(Problem(self.file, row, f"{reason}; kept without evidence", kept=True))
            window_s = None
        self.videos[video] = Video(video, self.paths.get(video), math.nan, group)
        self.questions.append(Question(ident, video, question, options, int(answer), kind, window_s))

    def dataset(self) -> Dataset:
        return self.request.dataset(self.videos.values(), questions=self.questions)


def _fault(question: str, options: tuple[str, ...], answer: int | str) -> str:
    """Why nobody can be judged by a question; empty when one can."""
    if not question:
        return "the question is empty"
    if len(options) < 2:
        return f"expected two options or more, there are {len(options)}"
    if "" in options:
        return f"option {options.index('')} is empty"
    index = int(answer) if isinstance(answer, str) and answer.isdecimal() else answer
    if type(index) is not int or not 0 <= index < len(options):
        return f"the answer {answer!r} is none of the {len(options)} options, 0 to {len(options) - 1}"
    words = [option.casefold() for option in options]
    twins = [place for place, text in enumerate(words) if text == words[index]]
    if len(twins) > 1:
        return f"the answer {options[index]!r} stands under more than one option: {', '.join(map(str, twins))}"
    return ""


def _plain(text: str) -> str:
    return " ".join(text.split())


def _window_s(text: str, between: str) -> tuple[float, float]:
    start, _, end = text.partition(between)
    try:
        return float(start), float(end)
    except ValueError:
        raise ValueError(f"expected a window 'start{between}end' in seconds, got {text!r}") from None


def _json_lines(request: Request, file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for row, line in request.lines(file):
        if line.strip():
            yield row, json.loads(line)


def _entries(request: Request, file: str) -> list[dict[str, Any]]:
    with open_text(request.manifest, request.folder, file) as text:
        request.place[:] = file, 1
        return json.load(text)
