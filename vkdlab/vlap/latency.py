"""Seconds from a video file and a question to its answer, step by step, for all ways to choose frames in turns (ours).

    decode   opening the file, decoding and resizing frames; thumbnails that were kept are read from disk instead
    read     the prompt, made ready for the networks; a backbone that remembers texts knows it from the warm-up
    glance   the small encoder, over thumbnails
    choose   the question's embedding and the prompter; the localizer's T looks and answers, of one frame each
    see      the frame encoder, over frames that are read closely: all T of them for the localizer
    look     the Q-Former, over the frames that were chosen
    score    the answerer

It is what one person waits who asks one question: no batches, and nothing is remembered but, where it says so, the
video's thumbnails. Each answer opens the file anew. Not included: loading networks, and reading the file from a disk
that has not just been asked for it. Decoding a frame can take others on the way to it, so the seconds of 4 frames are
more than an eighth of those of 32.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from vkdlab import cost
from vkdlab.metrics import Mean
from vkdlab.vlap.backbone import Backbone, Prompt
from vkdlab.vlap.frames import VideoFrames
from vkdlab.vlap.prompter import Selection
from vkdlab.vlap.selectors import ALL, LOCALIZER, PROMPTER, UNIFORM, everything, most_sure, uniform
from vkdlab.vlap.store import Encode

if TYPE_CHECKING:
    import pandas as pd

KEPT = "prompter, kept thumbnails"
WAYS = (ALL, UNIFORM, PROMPTER, KEPT, LOCALIZER)
STAGES = ("decode", "read", "glance", "choose", "see", "look", "score")


@dataclass(frozen=True)
class Seconds:
    """How long something takes for one question."""

    times_s: tuple[float, ...]
    """Every time it was measured: all questions of the first round, then of the next."""

    @property
    def median_s(self) -> float:
        """Median, seconds."""
        return statistics.median(self.times_s)

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """First and third quartile, seconds: over rounds and over questions, whose videos differ in length."""
        return _quartiles(self.times_s)


@dataclass(frozen=True)
class WayTime:
    """How long an answer takes with one way to choose frames, and what is decoded for it."""

    total: Seconds
    """From the file to the options' logits."""
    stages: Mapping[str, Seconds]
    """Its parts, all of `STAGES`; 0 for what a way does without."""
    decoded: Mean
    """Frames that were decoded for a question."""
    kept: Mean
    """Frames that the answer was given from."""

    def faster_than(self, other: WayTime) -> tuple[float, float, float]:
        """How many times faster this is: median and quartiles of ratios, each of one question in one round.

        Raises:
            ValueError: they were not timed in the same run.
        """
        mine, theirs = self.total.times_s, other.total.times_s
        if len(mine) != len(theirs):
            raise ValueError(f"one was timed {len(mine)} times and the other {len(theirs)}: time both in one run")
        ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
        return statistics.median(ratios), *_quartiles(ratios)


def interleaved(
    backbone: Backbone,
    prompter: Callable[..., Selection],
    glance: Encode,
    asked: Sequence[tuple[str | os.PathLike, Prompt]],
    *,
    select: int = 4,
    count: int = 32,
    size: tuple[int, int] = (128, 96),
    thumbnail: tuple[int, int] = (64, 48),
    ways: Sequence[str] = WAYS,
    repeats: int = 10,
    warmup: int = 1,
    threads: int | None = None,
) -> dict[str, WayTime]:
    """Times ways to choose frames on the same questions, one after the other within each question.

    Networks are put in evaluation mode for the time. Thumbnails are made before and kept in the cache, whoever asked.

    Args:
        backbone: the answerer.
        prompter: called as `FramePrompter`, on the backbone's device.
        glance: tokens of thumbnails, on the same device.
        asked: video files and what is asked about them.
        select: S, frames that are kept.
        count: T, frames that are looked at; of a shorter video all.
        size: width and height of frames that are read closely, pixels.
        thumbnail: width and height of thumbnails, pixels.
        ways: which, of `WAYS`.
        repeats: timed rounds over all questions.
        warmup: rounds before that are not timed.
        threads: CPU threads while timing; None for torch's setting, which is there again afterwards in any case.

    Returns:
        Way to time, in the order of `ways`.

    Raises:
        ValueError: no question, no such way, or a number out of range.
        FileNotFoundError, VideoError: as `VideoFrames`.
    """
    if not asked or not ways or set(ways) - set(WAYS) or select < 1:
        raise ValueError(
            f"timing needs a question, ways of {', '.join(WAYS)}, and at least 1 frame to keep, got {len(asked)} "
            f"questions, {', '.join(ways) or 'no way'} and {select} frames"
        )
    pipeline = _Pipeline(backbone, prompter, glance, select, dict(count=count, size=size, thumbnail=thumbnail))
    runs: dict[tuple[str, int], list[_Answered]] = defaultdict(list)

    def answer(way: str, place: int) -> None:
        runs[way, place].append(pipeline.answer(way, *asked[place]))

    functions: dict[Any, Callable[[], None]] = {
        (way, place): partial(answer, way, place) for place in range(len(asked)) for way in ways
    }
    with torch.no_grad(), _evaluating(backbone, prompter, glance):
        if KEPT in ways:
            for path in {os.fspath(path) for path, _ in asked}:
                VideoFrames(path, **pipeline.looked_at, kept=True).glance()
        timed: Mapping[Any, cost.Latency] = cost.latency(functions, repeats=repeats, warmup=warmup, threads=threads)
    order = [(round_, place) for round_ in range(repeats) for place in range(len(asked))]
    found = {}
    for way in ways:
        answered = [runs[way, place][warmup + round_] for round_, place in order]
        found[way] = WayTime(
            total=Seconds(tuple(timed[way, place].times_s[round_] for round_, place in order)),
            stages={stage: Seconds(tuple(each.seconds[stage] for each in answered)) for stage in STAGES},
            decoded=Mean(sum(each.decoded for each in answered), len(answered)),
            kept=Mean(sum(each.kept for each in answered), len(answered)),
        )
    return found


def table(times: Mapping[str, WayTime]) -> pd.DataFrame:
    """A row a way: medians in milliseconds of the whole and of its stages, quartiles, and how it compares.

    Stages' medians need not add up to the whole's. The last columns say how many times faster a way is than all frames
    and than the localizer, where these were timed: medians of ratios within a question and round.
    """
    import pandas as pd  # half a second that an import of the package does without

    found = {}
    for way, each in times.items():
        low_s, high_s = each.total.quartiles_s
        row = {"ms": 1e3 * each.total.median_s, "ms, first quartile": 1e3 * low_s, "ms, third quartile": 1e3 * high_s}
        row |= {f"{stage} ms": 1e3 * seconds.median_s for stage, seconds in each.stages.items()}
        row |= {"frames decoded": each.decoded.value, "frames kept": each.kept.value}
        for rival in (ALL, LOCALIZER):
            if rival in times:
                row[f"times faster than {rival}"] = each.faster_than(times[rival])[0]
        found[way] = row
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("way")


class _Answered(NamedTuple):
    seconds: Mapping[str, float]
    decoded: int
    kept: int


@dataclass(frozen=True)
class _Pipeline:
    """Everything between a video file with a question and the options' logits."""

    backbone: Backbone
    prompter: Callable[..., Selection]
    glance: Encode
    select: int
    looked_at: dict[str, Any]

    def answer(self, way: str, path: str | os.PathLike, prompt: Prompt) -> _Answered:
        seconds = dict.fromkeys(STAGES, 0.0)
        backbone, device, tokens = self.backbone, _device_of(self.backbone), None
        clock = partial(_adding, seconds, device)
        with clock("decode"):
            video = VideoFrames(path, **self.looked_at, kept=way == KEPT)
        with clock("read"):
            text = backbone.read([prompt])
        mask = torch.ones(1, len(video), dtype=torch.bool, device=device)
        places = torch.tensor(video.places, dtype=torch.float32, device=device)[None]
        if way in (PROMPTER, KEPT):
            with clock("decode"):
                thumbnails = video.glance()
            with clock("glance"):
                glanced = self.glance(torch.from_numpy(thumbnails).to(device))
            with clock("choose"):
                selection = self.prompter(glanced[None], backbone.question(text), select=self.select)
        elif way == LOCALIZER:
            tokens = self._see(video, range(len(video)), clock, device)
            with clock("choose"):
                selection = most_sure(backbone, tokens[None], text, mask=mask, places=places, select=self.select)
        else:
            with clock("choose"):
                selection = everything(mask) if way == ALL else uniform(mask, select=self.select)
        chosen = selection.indices[selection.mask]
        tokens = self._see(video, chosen.tolist(), clock, device) if tokens is None else tokens[chosen]
        there = mask[:, chosen]
        with clock("look"):
            visual = backbone.look(tokens[None], text, there, places[:, chosen])
        with clock("score"):
            backbone.score(visual, text, there)
        return _Answered(seconds, video.decoded, len(chosen))

    def _see(self, video: VideoFrames, indices: Sequence[int], clock: Callable, device: torch.device) -> Tensor:
        with clock("decode"):
            frames = video.read(indices)
        with clock("see"):
            return self.backbone.see(torch.from_numpy(frames).to(device))


@contextmanager
def _adding(seconds: dict[str, float], device: torch.device, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[stage] += time.perf_counter() - started


@contextmanager
def _evaluating(*parts: Any) -> Iterator[None]:
    owners = [getattr(part, "__self__", part) for part in parts]  # of a method, its module
    modules = [module for owner in owners if isinstance(owner, nn.Module) for module in owner.modules()]
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


def _device_of(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
