"""From a video file and a sentence to moments in seconds, by a trained student (ours).

Features are made as those of the training were: same encoder, stride and standardisation. They are kept in the cache by
the file's content, so that the next query on the video is answered at once.

A video with more clips than the student's grid is looked at in overlapping windows of the grid's length, at the trained
stride. Within a window, start and end are distributions that sum to 1 even where the moment is elsewhere; so a window
has a share beside them,

    share(w) = softmax_w((logsumexp start_logits(w) + logsumexp end_logits(w)) / 2)
    score(w, i, j) = share(w) P_start(i | w) P_end(j | w),   i <= j

which is one distribution over all windows, starts and ends. With a single window the share is 1 and the score that of
the evaluation. The candidates of all windows go through one non-maximum suppression. Tried with one student on
tabletop's test videos joined by fives (R1@0.5, 291 queries, standard error 2 points; 40 % in the single videos): this
share 16 %, no share 14 %, the matching head's opinion as share 13 to 15 %, a video squeezed into one window 4 %. So
windows are worth it, and which share is taken hardly matters.
"""

from __future__ import annotations

import html
import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from tqdm.auto import tqdm

from vkdlab.data.encoders import CLIP_ENCODERS, clip_encoder
from vkdlab.data.feature_store import FeatureManifest, FeatureMismatch, FeatureStore, num_clips
from vkdlab.data.features import content_id, encode_video, manifest_of
from vkdlab.data.grounding import resample
from vkdlab.data.video import FrameReader
from vkdlab.emtm.moments import non_maximum_suppression
from vkdlab.emtm.student_files import Student, latest_student, load_student
from vkdlab.files import cache_dir
from vkdlab.weights import write_safetensors

if TYPE_CHECKING:
    import plotly.graph_objects as go

CANDIDATES = 100
"""Pairs of start and end that are looked at in a window, best first."""
WINDOWS_AT_ONCE = 64
"""Windows of a long video in one batch."""


@dataclass(frozen=True)
class Found:
    """What a student finds on a grid of clips."""

    moments_s: Float[np.ndarray, "k 2"]
    """Start and end in seconds, best first; fewer than asked for where no more are left apart from each other."""
    scores: Float[np.ndarray, " k"]
    """Probability of each: of its window, its start and its end; 0 to 1."""
    start_probs: Float[np.ndarray, " l"]
    """Probability of each clip of the video to hold the start; sums to 1."""
    end_probs: Float[np.ndarray, " l"]
    """Probability of each clip of the video to hold the end; sums to 1."""


@dataclass(frozen=True)
class Grounding:
    """A query, answered on a video."""

    query: str
    """What was asked."""
    video: Path
    """The file."""
    duration_s: float
    """Its length, seconds."""
    moments_s: Float[np.ndarray, "k 2"]
    """Start and end in seconds, best first; see `Found`."""
    scores: Float[np.ndarray, " k"]
    """Probability of each."""
    start_probs: Float[np.ndarray, " l"]
    """Probability of each clip to hold the start."""
    end_probs: Float[np.ndarray, " l"]
    """Probability of each clip to hold the end."""

    def figure(self, *, frames: int = 8) -> go.Figure:
        """Frames of the video, a row for every moment with its score, and start and end probability per clip.

        Args:
            frames: pictures in the strip.
        """
        from vkdlab import plots  # plotly takes longer to import than a query to answer

        times_s = (np.arange(frames) + 0.5) * self.duration_s / frames
        start_s, end_s = self.moments_s[0]
        rows = {
            f"{rank}. {score:.3f}": [moment]
            for rank, (moment, score) in enumerate(zip(self.moments_s.tolist(), self.scores, strict=True), start=1)
        }
        return plots.frame_strip(
            FrameReader(self.video).at(times_s),
            times_s,
            duration_s=self.duration_s,
            moments_s=rows,
            curves={"probability": {"start": self.start_probs, "end": self.end_probs}},
            title=_wrapped(f"“{self.query}”: {start_s:.1f} to {end_s:.1f} s"),
            subtitle=_wrapped(f"{self.video.name}; the moments with their scores, best first"),
            colours={**dict.fromkeys(rows, plots.PALETTE[0]), "start": plots.PALETTE[1], "end": plots.PALETTE[2]},
        )


def ground(
    video: str | os.PathLike,
    query: str,
    *,
    student: Student | str | os.PathLike | None = None,
    k: int = 5,
    overlap: float = 0.5,
    iou_limit: float = 0.5,
    progress: bool = True,
) -> Grounding:
    """Finds the moments of a video that a sentence describes.

    Args:
        video: any file that `FrameReader` opens.
        query: what to look for, in English.
        student: a loaded one, which answers several queries faster, or its folder; the newest in the cache when None.
        k: how many moments; fewer come where the video has no more that are apart from each other.
        overlap: share of a window that the next one sees again, 0 to below 1, where the video is longer than the grid.
        iou_limit: temporal IoU from which a worse moment is suppressed by a better one, above 0 to 1.
        progress: show how far the extraction of features is.

    Raises:
        FileNotFoundError: no such video, or no student; the message says how to get one.
        VideoError: the file is no video that can be read.
        ValueError: an empty query, or a number out of range.
        FeatureMismatch: the student was trained on features that cannot be made here.
        ImportError: a package with an encoder's weights is not installed.
    """
    _check(k=k, overlap=overlap, iou_limit=iou_limit)
    if not isinstance(student, Student):
        student = load_student(latest_student() if student is None else student)
    words = student.words(query)  # first, because a bad query should not cost the extraction of features
    clips, duration_s = video_clips(video, student, progress=progress)
    found = find_moments(student, clips, words, duration_s=duration_s, k=k, overlap=overlap, iou_limit=iou_limit)
    return Grounding(query=query, video=Path(video), duration_s=duration_s, **vars(found))


def video_clips(
    video: str | os.PathLike, student: Student, *, progress: bool = True
) -> tuple[Float32[Tensor, "l d"], float]:
    """The clips of a video as a student was trained to see them, and the video's length in seconds.

    Args:
        video: any file that `FrameReader` opens.
        student: says which features, which stride and which standardisation.
        progress: show how far the extraction of features is.

    Raises:
        FileNotFoundError, VideoError, FeatureMismatch, ImportError: as for `ground`.
    """
    video = Path(video)
    duration_s = FrameReader(video).duration_s
    count = num_clips(duration_s, student.stride_s)
    parts = [
        resample(_features(video, manifest, duration_s=duration_s, progress=progress), count)[:, own]
        for manifest, own in student.parts
    ]
    seen = slice(*student.seen)
    clips = (torch.cat(parts, dim=1) - student.standardisation.mean[seen]) / student.standardisation.std[seen]
    return clips, duration_s


@torch.inference_mode()
def find_moments(
    student: Student,
    clips: Float32[Tensor, "l d"],
    words: Float32[Tensor, "w e"],
    *,
    duration_s: float,
    k: int = 5,
    overlap: float = 0.5,
    iou_limit: float = 0.5,
) -> Found:
    """The k best moments of a video whose features and words are at hand.

    Args:
        student: who is asked.
        clips: of `video_clips`; of any number.
        words: of `Student.words`.
        duration_s: length of the video, seconds.
        k: how many moments.
        overlap: share of a window that the next one sees again, 0 to below 1.
        iou_limit: temporal IoU from which a worse moment is suppressed, above 0 to 1.

    Raises:
        ValueError: a number out of range, or features of another width.
    """
    _check(k=k, overlap=overlap, iou_limit=iou_limit)
    count = len(clips)
    size = min(count, student.max_clips)
    firsts = window_starts(count, size=size, overlap=overlap)
    logits = [
        _logits(student, clips, words, firsts=firsts[place : place + WINDOWS_AT_ONCE], size=size)
        for place in range(0, len(firsts), WINDOWS_AT_ONCE)
    ]
    start_logits, end_logits = (torch.cat(parts) for parts in zip(*logits, strict=True))  # (n windows, size)
    shares = ((start_logits.logsumexp(1) + end_logits.logsumexp(1)) / 2).softmax(0)
    start, end = shares[:, None] * start_logits.softmax(1), end_logits.softmax(1)

    scores = start[:, :, None] * end[:, None, :]
    scores = scores.masked_fill(scores.new_ones(size, size).tril(-1).bool(), -1.0).flatten(1)
    best, flat = scores.topk(min(max(k, CANDIDATES), size * size), dim=1)
    offset = torch.tensor(firsts, device=best.device)
    places = torch.stack([offset[:, None] + flat // size, offset[:, None] + flat % size + 1], dim=-1)
    best, order = best.flatten().sort(descending=True, stable=True)
    best, order = best[best >= 0], order[best >= 0]
    clip_s = torch.tensor(duration_s, device=best.device) / count  # single precision, as the evaluation has it
    moments_s = (places.flatten(0, 1)[order] * clip_s).clamp(max=duration_s)
    moments_s, scores = non_maximum_suppression(moments_s[None], best[None], k=k, iou_limit=iou_limit)
    # Where none is left, suppression repeats the last.
    kept = np.r_[True, (moments_s[0].diff(dim=0) != 0).any(1).cpu().numpy()]

    index = (offset[:, None] + torch.arange(size, device=offset.device)).flatten()
    over_video = start.new_zeros(2, count)
    over_video[0].index_add_(0, index, start.flatten())
    over_video[1].index_add_(0, index, (shares[:, None] * end).flatten())
    start_probs, end_probs = over_video.cpu().numpy()
    return Found(moments_s[0].cpu().numpy()[kept], scores[0].cpu().numpy()[kept], start_probs, end_probs)


def window_starts(count: int, *, size: int, overlap: float) -> list[int]:
    """First clips of windows of `size` clips over `count` clips; the last window ends with the video.

    Args:
        count: clips of the video, at least `size`.
        size: clips of a window.
        overlap: share of a window that the next one sees again, 0 to below 1; the last one may see more.
    """
    step = max(1, round(size * (1 - overlap)))
    return [*range(0, count - size, step), count - size]


def _logits(
    student: Student, clips: Tensor, words: Tensor, *, firsts: list[int], size: int
) -> tuple[Float32[Tensor, "n s"], Float32[Tensor, "n s"]]:
    device = next(student.network.parameters()).device
    windows = torch.stack([clips[first : first + size] for first in firsts]).to(device)
    query = words.to(device).expand(len(firsts), -1, -1)
    masks = (torch.ones(part.shape[:2], dtype=torch.bool, device=device) for part in (windows, query))
    video_mask, query_mask = masks
    output = student.network(windows, video_mask, query, query_mask)
    return output.start_logits, output.end_logits


def _features(video: Path, wanted: FeatureManifest, *, duration_s: float, progress: bool) -> Float32[Tensor, "l d"]:
    if wanted.extractor not in CLIP_ENCODERS:
        raise FeatureMismatch(
            f"the student was trained on {wanted.extractor!r} features, which vkdlab cannot make from a video; it "
            f"makes {' and '.join(CLIP_ENCODERS)}. Train one on these: vkdlab run 03_kau_weights -p data=tabletop"
        )
    encoder = clip_encoder(wanted.extractor)
    made = manifest_of(encoder, stride_s=wanted.stride_s, gamma=wanted.gamma)
    differences = [
        f"{field}: trained on {getattr(wanted, field)!r}, made here {getattr(made, field)!r}"
        for field in (line.partition(":")[0] for line in made.differences(wanted))
    ]
    if differences:
        raise FeatureMismatch(
            f"the student was trained on other {wanted.extractor} features than this vkdlab makes:\n  "
            + "\n  ".join(differences)
            + "\nTrain it again: vkdlab run 03_kau_weights"
        )
    folder = cache_dir("features", "asked", f"{made.extractor}-{made.fingerprint[:8]}")
    store = FeatureStore(folder, manifest=made)
    name = content_id(video)
    if name not in store:
        with tqdm(
            total=num_clips(duration_s, made.stride_s), desc=f"{made.extractor} features", unit="clip",
            disable=not progress,
        ) as bar:  # fmt: skip
            features = encode_video(video, encoder, stride_s=made.stride_s, gamma=made.gamma, encoded=bar.update)
        write_safetensors(store.path(name), {"clips": torch.from_numpy(features).half()})
    return store.clips(name)


def _wrapped(text: str) -> str:
    """For a title: plotly reads mark-up in it, and cuts a line that is too long for a phone."""
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(text, 60))


def _check(*, k: int, overlap: float, iou_limit: float) -> None:
    if k < 1:
        raise ValueError(f"k is the number of moments, at least 1, got {k}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is a share of a window, 0 to below 1, got {overlap}")
    if not 0 < iou_limit <= 1:
        raise ValueError(f"iou_limit is a temporal IoU, above 0 to 1, got {iou_limit}")
