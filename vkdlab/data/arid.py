"""ARID-6, joined: several clips of people in the dark, one after another, make one video with known moments (ours).

ARID's clips show one action each, so a grounding task comes from joining them; **the boundaries come from joining**,
and a cut between two clips is another thing to find than the end of an action within one shot. Frames are brightened,
`x ** 0.4` on [0, 1]. Which clips follow which, the sentences and the moments depend on the seed, the version and the
clips' frame counts alone.

Two protocols: "arid6" follows the official split, whose test clips were filmed in other scenes than its training clips;
"arid6-random" deals all clips out at random, so that scenes recur.

A video is joined from clips of one group. The training clips are dealt out to three groups and the test clips to two,
so that a part of either can be held out or left unlabelled with no clip on both sides.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..files import cache_dir, hash_of, read_json, write_json
from .datasets import Action, Dataset, Query, Video, spread
from .manifests import DataMissing, Manifest, data_root
from .readers.common import Request
from .video import FrameReader, write_video
from .workers import Task, only_one, work

FPS = 15.0
SIZE = (256, 192)
GAMMA = 0.4
MIN_CLIPS, MAX_CLIPS = 5, 8
MIN_S, MAX_S = 10.0, 20.0
GROUPS = {
    "train": ("train-a", "train-b", "train-c"),
    "val": ("val",),
    "test": ("test-a", "test-b"),
}
HELD_OUT_GROUPS = ("val-a", "val-b")
"""Of a validation split of other recordings: what is fitted on one half of its clips can be judged on the other."""
ACTIONS = ("Jump", "Run", "Sit", "Stand", "Turn", "Walk")
SENTENCES = {
    "Jump": ("a person jumps", "someone is jumping", "the person jumps up and down"),
    "Run": ("a person runs", "someone is running", "the person runs in the dark"),
    "Sit": ("a person sits down", "someone is sitting down", "the person takes a seat"),
    "Stand": ("a person stands up", "someone is getting up", "the person rises to their feet"),
    "Turn": ("a person turns around", "someone is turning", "the person turns to another direction"),
    "Walk": ("a person walks", "someone is walking", "the person takes a walk"),
}


@dataclass(frozen=True)
class Clip:
    """One ARID clip."""

    path: str
    """Below the set's folder."""
    action: str
    """One of ACTIONS."""
    frames: int
    """Number of frames, at 15 frames per second."""


@dataclass(frozen=True)
class Joined:
    """One video to be made."""

    id: str
    """Name of the video."""
    clips: tuple[Clip, ...]
    """In order; neighbours differ in action, and no action occurs more than twice."""
    group: str = ""
    """The group whose clips these are."""


def dataset(
    manifest: Manifest,
    split: str,
    *,
    profile: str = "demo",
    root: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Dataset:
    """The joined videos of a split, with their queries and actions; missing files are made first.

    Args:
        manifest: that of "arid6" or "arid6-random".
        split: "train", "val" or "test".
        profile: "smoke", "demo" or "full": how many videos, as the manifest says.
        root: the data root, default `$VKDLAB_DATA`.
        workers: processes, default one a core.
        progress: whether to show a bar.

    Raises:
        DataMissing: the clips are not in the data root.
    """
    base = data_root(root, wanted_by=manifest.name)
    folder = manifest.at(root)
    joined = plan(manifest, folder, split, profile=profile)
    build(joined, folder, workers=workers, progress=progress, label=f"{manifest.name} {split}")
    videos, queries, actions = [], [], []
    for video in joined:
        duration_s = sum(clip.frames for clip in video.clips) / FPS
        videos.append(Video(video.id, file_of(video), duration_s, group=video.group))
        queries += _queries(video)
        actions += _actions(video)
    return Dataset(
        name=manifest.name,
        split=split,
        profile=profile,
        videos={video.id: video for video in videos},
        queries=tuple(queries),
        actions=tuple(actions),
        root=base,
        version=f"{manifest.version}; joined {manifest.build.version}",
    )


def plan(manifest: Manifest, folder: Path, split: str, *, profile: str) -> list[Joined]:
    """Which clips follow which in every video of a split: the same on every machine.

    Videos take turns with the groups of the split.
    """
    held_out = manifest.split(split).held_out
    names = GROUPS[split] if held_out is None or not held_out.groups else HELD_OUT_GROUPS
    groups = list(deal(_clips(manifest, folder, split), names).items())
    count = manifest.build.profiles[profile][split]
    rng = random.Random(f"{manifest.name} {manifest.build.version} {manifest.build.seed} {split}")
    joined = []
    for index in range(count):
        group, clips = groups[index % len(groups)]
        joined.append(Joined(f"{manifest.name}-{split}-{index:04d}", _chain(clips, rng), group=group))
    return joined


def deal(clips: Sequence[Clip], groups: Sequence[str]) -> dict[str, list[Clip]]:
    """Deals clips out to groups, evenly for every action, in the order of a hash of their paths.

    Raises:
        ValueError: a group gets fewer than two clips of an action, too few to join.
    """
    dealt: dict[str, list[Clip]] = {group: [] for group in groups}
    for shift, action in enumerate(ACTIONS):
        of_action = sorted(
            (clip for clip in clips if clip.action == action), key=lambda clip: (spread(clip.path), clip.path)
        )
        if len(of_action) < 2 * len(groups):
            raise ValueError(
                f"{len(of_action)} clips of {action} are too few for {len(groups)} groups: "
                "each needs two clips of every action"
            )
        for rank, clip in enumerate(of_action):
            # Each action starts with another group, so that those left over do not all fall to the first.
            dealt[groups[(rank + shift) % len(groups)]].append(clip)
    return {group: sorted(found, key=lambda clip: clip.path) for group, found in dealt.items()}


def build(
    joined: Sequence[Joined],
    folder: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    label: str = "joining clips",
) -> None:
    """Writes the videos that are not there yet; a stopped build goes on where it was.

    Raises:
        ValueError: a clip cannot be decoded.
        OSError: the disk is full or the cache cannot be written.
        ChildProcessError: a worker was killed; the next call goes on.
    """
    if all(file_of(video).is_file() for video in joined):
        return
    with only_one(_videos_folder(), leftovers=(".*.mp4",)):
        missing = [video for video in joined if not file_of(video).is_file()]
        work(
            f"{__name__}:task",
            str(folder),
            {video.id: [astuple(clip) for clip in video.clips] for video in missing},
            workers=workers,
            label=label,
            already=len(joined) - len(missing),
            progress=progress,
        )


def task(folder: str) -> Task:
    """What a worker does: joins clips below `folder`, given as the fields of each."""
    return lambda name, clips: _write(Joined(name, tuple(Clip(*clip) for clip in clips)), folder=Path(folder))


def file_of(video: Joined) -> Path:
    """Where a joined video lies: named by what it is made of, so that profiles share files."""
    return _videos_folder() / f"{video.id}-{hash_of(FPS, SIZE, GAMMA, video.clips)}.mp4"


def _videos_folder() -> Path:
    return cache_dir("arid6-joined")


def _clips(manifest: Manifest, folder: Path, split: str) -> list[Clip]:
    request = Request(manifest, split, "full", folder, folder)
    by_action: dict[str, list[str]] = {action: [] for action in ACTIONS}
    with request.explained():
        for file in request.files:
            for _, line in request.lines(file):
                _, label, name = line.split()
                by_action[ACTIONS[int(label)]].append(f"{file.removesuffix('.txt')}/{name}")
    chosen = []
    for action, paths in by_action.items():
        for rank, path in enumerate(sorted(paths, key=lambda path: (spread(path), path))):
            group = Path(path).stem.rpartition("_")[0]
            if request.wants(path, group=group, position=(rank + 0.5) / len(paths)):
                chosen.append((path, action))
    frames = _frame_counts(folder, [path for path, _ in chosen], manifest)
    return [Clip(path, action, frames[path]) for path, action in sorted(chosen)]


def _frame_counts(folder: Path, paths: list[str], manifest: Manifest) -> dict[str, int]:
    stats = []
    for path in sorted(paths):
        file = folder / path
        if not file.is_file():
            raise DataMissing(f"{manifest.name}: {file} is missing. {manifest.cure}")
        stats.append((path, file.stat().st_size))
    index = cache_dir("arid6-index", f"{hash_of(stats)}.json")
    if not index.is_file():
        write_json(index, {path: FrameReader(folder / path).num_frames for path, _ in stats})
    return read_json(index)


def _chain(clips: list[Clip], rng: random.Random) -> tuple[Clip, ...]:
    while True:
        chosen = rng.sample(clips, rng.randint(MIN_CLIPS, MAX_CLIPS))
        actions = [clip.action for clip in chosen]
        if any(one == two for one, two in pairwise(actions)) or max(map(actions.count, actions)) > 2:
            continue
        if MIN_S <= sum(clip.frames for clip in chosen) / FPS <= MAX_S:
            return tuple(chosen)


def _spans(video: Joined) -> list[tuple[float, float]]:
    ends = np.cumsum([0, *(clip.frames for clip in video.clips)])
    return [(float(start) / FPS, float(end) / FPS) for start, end in pairwise(ends)]


def _queries(video: Joined) -> list[Query]:
    rng = random.Random(video.id)
    actions = [clip.action for clip in video.clips]
    seen: dict[str, int] = dict.fromkeys(ACTIONS, 0)
    queries = []
    for index, (action, span) in enumerate(zip(actions, _spans(video), strict=True)):
        sentence = rng.choice(SENTENCES[action])
        kind = "plain"
        if actions.count(action) > 1:
            sentence += f" for the {('first', 'second')[seen[action]]} time"
            kind = "order"
        seen[action] += 1
        queries.append(Query(f"{video.id}:{index}", video.id, sentence, *span, kind=kind))
    return queries


def _actions(video: Joined) -> list[Action]:
    return [
        Action(f"{video.id}:{index}", video.id, clip.action, *span)
        for index, (clip, span) in enumerate(zip(video.clips, _spans(video), strict=True))
    ]


def _write(video: Joined, *, folder: Path) -> None:
    frames = (frame for clip in video.clips for frame in _brightened(folder / clip.path, clip.frames))
    write_video(file_of(video), frames, fps=FPS)


_BRIGHTER = np.round(255 * (np.arange(256) / 255) ** GAMMA).astype(np.uint8)


def _brightened(path: Path, count: int) -> np.ndarray:
    frames = FrameReader(path).frames(range(count))
    if frames.shape[2:0:-1] != SIZE:
        import cv2  # only files from another source than the manifest's need it

        frames = np.stack([cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA) for frame in frames])
    return _BRIGHTER[frames]
