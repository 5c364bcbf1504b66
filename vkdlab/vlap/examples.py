"""What a notebook shows of a study beside its numbers: a video with two questions, choices, questions of others (ours).

Examples are taken by a rule that knows nothing of what was answered, so that they are neither the best nor the worst.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import torch

from vkdlab.data import load
from vkdlab.data.asked import with_questions
from vkdlab.data.datasets import Question
from vkdlab.vlap.batches import QuestionBatch, QuestionDataset
from vkdlab.vlap.distill import VLAP, Inspection, Student
from vkdlab.vlap.frames import VideoFrames
from vkdlab.vlap.recipes import RECIPES, Recipe
from vkdlab.vlap.selectors import rivals
from vkdlab.vlap.shown import Answered, Pictures
from vkdlab.vlap.store import frame_store
from vkdlab.vlap.study import Study

PICTURE = (256, 192)
"""Width and height of frames that a reader sees, pixels."""
TRAINED_ON = "tabletop"


@dataclass(frozen=True, eq=False)
class Example:
    """A video and the questions about it."""

    pictures: Pictures
    """The frames that are looked at, as a reader sees them."""
    questions: tuple[Question, ...]
    """All questions about the video; the first two are those whose evidence lies farthest apart."""
    batches: tuple[QuestionBatch, ...]
    """One for each of them."""

    @property
    def video(self) -> str:
        """The video's id."""
        return self.questions[0].video

    @torch.no_grad()
    def answered(self, student: Student, place: int = 0, *, way: str | None = None, seed: int = 0) -> Answered:
        """What a student makes of one question.

        Args:
            student: in evaluation mode.
            place: of the question.
            way: of `selectors.rivals`, chooses the frames in the prompter's place.
            seed: of the noise of a prompter as released.
        """
        batch = self.batches[place]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            selection = way and rivals(student.backbone, select=student.select)[way](batch)
            return Answered.of(student(batch, selection=selection), batch)


def recipe_for(profile: str, *, data: str = TRAINED_ON, select: int = 0) -> Recipe:
    """A profile's recipe.

    Args:
        profile: of `RECIPES`.
        data: name of the data set to learn from; there is one.
        select: S, frames to choose; 0 for the recipe's.

    Raises:
        ValueError: no such profile, another data set, or more frames than are looked at.
    """
    if profile not in RECIPES:
        raise ValueError(f"profile is one of {', '.join(RECIPES)}, got {profile!r}")
    if data != TRAINED_ON:
        raise ValueError(
            f"encoders and answerers learn from what is known of {TRAINED_ON} alone, so data is {TRAINED_ON!r}, got "
            f"{data!r}. Questions about real videos are asked with real='arid6'"
        )
    recipe = RECIPES[profile]
    return replace(recipe, method=replace(recipe.method, select=select)) if select else recipe


def example_of(questions: QuestionDataset, *, recipe: Recipe) -> Example:
    """The video of a data set with the two questions whose evidence lies farthest apart.

    How far is between the middles of two spans, as a share of the video; of equals the first.

    Args:
        questions: not mirrored.
        recipe: how many frames are looked at.

    Raises:
        ValueError: no video has two questions whose evidence is known.
    """
    videos = questions.dataset.videos
    known = [place for place, row in enumerate(questions.questions) if row.evidence_s is not None]
    rows = questions.questions

    def apart(pair: tuple[int, int]) -> float:
        first, second = (sum(rows[place].evidence_s) / 2 for place in pair)
        return abs(first - second) / videos[rows[pair[0]].video].duration_s

    pairs = [pair for pair in combinations(known, 2) if rows[pair[0]].video == rows[pair[1]].video]
    if not pairs:
        raise ValueError("no video has two questions whose evidence is known")
    pair = max(pairs, key=apart)
    video = videos[rows[pair[0]].video]
    others = [place for place, row in enumerate(rows) if row.video == video.id and place not in pair]
    places = (*pair, *others)
    return Example(
        pictures=Pictures.of(VideoFrames(video.path, count=recipe.frames, size=PICTURE)),
        questions=tuple(rows[place] for place in places),
        batches=tuple(questions.collate([questions[place]]) for place in places),
    )


def inspections(method: VLAP, questions: QuestionDataset, *, batch_size: int = 64) -> list[Inspection]:
    """Every choice of a method over a data set, as `figures.entropy_and_segments` takes it."""
    steps = range(0, len(questions), batch_size)
    return [
        method.inspect(questions.collate([questions[i] for i in range(first, min(first + batch_size, len(questions)))]))
        for first in steps
    ]


def asked_about(name: str, study: Study, *, progress: bool = True) -> QuestionDataset:
    """Questions about the order of actions in the test split of real videos, as a study's encoders see their frames.

    Args:
        name: of a data set with labelled actions, "arid6" or "gmdcsa24", below the data root.
        study: whose encoders; they have learned from another world.
        progress: shows progress bars.

    Raises:
        ManifestError, FileNotFoundError: as `vkdlab.data.load`.
        ValueError: as `vkdlab.data.asked.with_questions`.
    """
    recipe = study.recipe
    dataset = with_questions(load(name, "test", profile=recipe.profile, progress=progress))
    store = frame_store(
        dataset, study.close.encoder, study.glance.encoder,
        count=recipe.frames, size=recipe.size, thumbnail=recipe.thumbnail, progress=progress,
    )  # fmt: skip
    return QuestionDataset(dataset, store)
