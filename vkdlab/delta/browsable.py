"""How much of every frame was new, and how far a delta network kept to its teacher, to be looked at (ours)."""

from __future__ import annotations

import os

import numpy as np
from tqdm.auto import tqdm

from vkdlab.data import Dataset, FrameReader
from vkdlab.delta.student_files import Student, latest_student, load_student
from vkdlab.delta.watch import watch
from vkdlab.predictions import FrameScores, Predictions

ENERGY, AGREEMENT = "delta_energy", "delta_agreement"


def predictions_of(
    dataset: Dataset,
    *,
    student: Student | str | os.PathLike | None = None,
    period: int | None = None,
    name: str = "",
    progress: bool = True,
) -> Predictions:
    """Runs teacher and delta network over every video of a data set.

    Args:
        dataset: videos with their files.
        student: a loaded one, or its folder; the newest in the cache when None.
        period: frames from one key frame to the next; by default the one that the student was trained for.
        name: what a person calls it; by default the data set and the student's folder.
        progress: show a bar.

    Returns:
        The data set with two scores of every frame: `delta_energy`, how much of it was new since its key frame (0 for
        nothing, above 1 for a cut), and `delta_agreement`, the delta network's metric with its teacher as the truth,
        0..1; a frame in which the teacher sees nothing has none.

    Raises:
        FileNotFoundError: no student, or a video without its file.
        VideoError: a file is no video that can be read.
        ValueError: a period out of range.
    """
    if fileless := [video.id for video in dataset.videos.values() if video.path is None]:
        raise FileNotFoundError(f"{len(fileless)} of the videos come without a file, the first is {fileless[0]!r}")
    if not isinstance(student, Student):
        student = load_student(latest_student() if student is None else student)
    scores: dict[str, dict[str, FrameScores]] = {ENERGY: {}, AGREEMENT: {}}
    for video in tqdm(dataset.videos.values(), desc="watching", unit="video", disable=not progress):
        watched = watch(video.path, student=student, period=period, progress=False)
        times_s = FrameReader(video.path).timestamps_s
        for score, values in ((ENERGY, watched.energy), (AGREEMENT, watched.by_frame)):
            known = ~np.isnan(values)
            scores[score][video.id] = FrameScores(times_s=times_s[known], values=values[known])
    name = name or f"{dataset.name} {dataset.split} by {student.folder.name}"
    return Predictions(name=name, dataset=dataset, scores=scores)
