"""More questions about the world's videos, drawn anew from their planned scenes: nothing is rendered (ours).

What is drawn often enough is mostly drawn twice: of a video with two spins there is one question how often something
spins, but a dozen about verbs that it does not show. So with every draw more of the answers would be "not at all", and
words would tell the answer. Drawn questions are therefore thinned, until an option is right in about as large a share
of the questions that offer it as any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from vkdlab.data.datasets import Dataset, Question, Video, spread
from vkdlab.data.tabletop.build import WORLD_FILE
from vkdlab.data.tabletop.events import plan
from vkdlab.data.tabletop.language import Story
from vkdlab.data.tabletop.questions import questions
from vkdlab.data.tabletop.stage import WorldConfig, generator
from vkdlab.files import read_json

THINNED = ("verb", "count", "where")
"""Kinds of questions whose options recur from video to video."""


def with_more_questions(dataset: Dataset, *, draws: int, seed: int = 0) -> Dataset:
    """The same videos with more questions of the same kinds, meant for training; some milliseconds a video.

    A draw asks at most one question of each kind about a video, as the world itself does; other events, words and
    wrong options come out each time. A question that offers the same options in the same words as another one of its
    video is left out, and answers that words would tell are thinned over all videos: draw first and take subsets
    afterwards.

    Args:
        dataset: a split of "tabletop" or a part of one, its own questions included.
        draws: how often each video is asked about anew, from 1.
        seed: another one draws other questions.

    Returns:
        The data set with its own questions first.

    Raises:
        ValueError: the data set is not of "tabletop", `draws` is below 1, or its world was made by other code.
    """
    if dataset.name != "tabletop":
        raise ValueError(f"questions are drawn from planned scenes, which only 'tabletop' has, got {dataset.name!r}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    values = read_json(dataset.root / WORLD_FILE)["config"]
    config = WorldConfig(**{**values, "duration_s": tuple(values["duration_s"])})
    every = list(dataset.questions)
    said = {_said(row) for row in every}
    for video in dataset.videos.values():
        for row in _drawn(video, config, dataset, draws, seed):
            if _said(row) not in said:
                said.add(_said(row))
                every.append(row)
    own = len(dataset.questions)
    kept = {kind: _kept([row for row in every if row.kind == kind]) for kind in THINNED}
    more = [row for row in every[own:] if spread(row.id) < kept.get(row.kind, {}).get(_right(row), 1.0)]
    return replace(dataset, questions=(*dataset.questions, *more))


def _drawn(video: Video, config: WorldConfig, dataset: Dataset, draws: int, seed: int) -> Iterator[Question]:
    index = int(video.id.rpartition("-")[2])
    scene = plan(config, dataset.split, index)
    if scene.duration_s != video.duration_s:
        raise ValueError(
            f"{video.id} lasts {video.duration_s} s, this version of vkdlab plans {scene.duration_s} s: "
            f"{dataset.root} was made by other code. Delete it and build again"
        )
    story = Story(scene.objects, scene.events, config.fps)
    spans_s = {event.id: (story.start_s(event), story.end_s(event)) for event in scene.events}
    for draw in range(draws):
        for row in questions(scene, story, generator(config, dataset.split, index, f"questions/{seed}/{draw}")):
            evidence_s = (0.0, scene.duration_s)
            if row["evidence"] is not None:
                first, last = row["evidence"]
                evidence_s = (spans_s[first][0], spans_s[last][1])
            ident = f"{video.id}-s{seed}-d{draw:02d}-{row['kind']}"
            options = tuple(row["options"])
            yield Question(ident, video.id, row["question"], options, row["answer"], row["kind"], evidence_s)


def _said(row: Question) -> tuple[str, str, frozenset[str]]:
    return row.video, row.question, frozenset(row.options)


def _right(row: Question) -> str:
    return row.options[row.answer]


def _kept(rows: Sequence[Question]) -> dict[str, float]:
    """Which share of the questions to keep by right answer, so that every option is right as often as chance says.

    Right answers that come too often for what is offered get smaller shares, over and over, as in Zermelo's
    iteration for paired comparisons.
    """
    share = dict.fromkeys(map(_right, rows), 1.0)
    for _ in range(60):
        right, due = Counter(), Counter()
        for row in rows:
            weight = share[_right(row)]
            right[_right(row)] += weight
            for option in row.options:
                due[option] += weight / len(row.options)
        share = {option: value * due[option] / right[option] for option, value in share.items()}
        most = max(share.values(), default=1.0)
        share = {option: value / most for option, value in share.items()}
    return share
