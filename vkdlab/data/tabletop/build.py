"""Makes the world's files: in parallel, resumable, each file whole or absent (ours).

One folder holds one configuration: `videos/ID.mp4`, `labels/ID.npz` (masks, boxes, maps), `labels/ID.json` (all else)
and, written last, `world.json`. A video is finished when all three files are there.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vkdlab.data.datasets import SPLITS
from vkdlab.data.tabletop.labels import read_arrays
from vkdlab.data.tabletop.stage import MATERIALS, SEMANTICS, WorldConfig, config_of, generator, video_id
from vkdlab.data.workers import Task, only_one, work
from vkdlab.files import atomic_path, cache_dir, hash_of, read_json, write_json

WORLD_FILE = "world.json"


def world_folder(config: WorldConfig, *, root: str | os.PathLike | None = None) -> Path:
    """Where a configuration's files lie, built or not."""
    base = Path(root).expanduser() if root is not None else cache_dir("tabletop")
    return base / f"{config.profile}-{hash_of(config)}"


def build(
    profile: str | WorldConfig,
    *,
    seed: int | None = None,
    root: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Makes all videos of a profile that are not there yet.

    Ctrl-C or a kill loses only the videos in the making; the next call goes on. Two builds of one folder take turns.

    Args:
        profile: "smoke", "demo" or "full", or a configuration of one's own.
        seed: another seed than the manifest's.
        root: folder to build in instead of the cache.
        workers: processes, default one a core; 1 works in this process.
        progress: shows a progress bar.

    Returns:
        The folder.

    Raises:
        ValueError: there is no such profile, or `workers` is below 1.
        OSError: the disk is full or may not be written.
        ChildProcessError: a worker was killed; the next call goes on.
    """
    config = profile if isinstance(profile, WorldConfig) else config_of(profile, seed=seed)
    folder = world_folder(config, root=root)
    if (folder / WORLD_FILE).exists() and not _missing(config, folder):
        return folder
    with only_one(folder, leftovers=("videos/.*", "labels/.*")):
        todo = _missing(config, folder)
        work(
            f"{__name__}:task",
            [str(folder), vars(config)],
            {video_id(config, split, index): [split, index] for split, index in todo},
            workers=workers,
            label=f"tabletop {config.profile}",
            already=sum(config.videos.values()) - len(todo),
            progress=progress,
        )
        write_json(folder / WORLD_FILE, {"config": config, "labels_sha256": labels_hash(config, folder)})
    return folder


def built(profile: str = "demo", *, seed: int | None = None, root: str | os.PathLike | None = None) -> tuple[int, int]:
    """How many of a profile's videos are there, and how many there will be.

    Raises:
        ValueError: there is no such profile.
    """
    config = config_of(profile, seed=seed)
    total = sum(config.videos.values())
    return total - len(_missing(config, world_folder(config, root=root))), total


def task(setup: tuple[str, dict[str, Any]]) -> Task:
    """What a worker does: the folder and the configuration's values first, then a split and a number a video."""
    folder, values = setup
    config = WorldConfig(**{**values, "duration_s": tuple(values["duration_s"])})
    return lambda _, numbers: make_video(config, Path(folder), *numbers)


def make_video(config: WorldConfig, folder: Path, split: str, index: int) -> None:
    """Makes one video and its labels."""
    # OpenCV and the encoder are only needed here: reading a finished world does without them.
    import cv2

    from vkdlab.data.tabletop import render, sound
    from vkdlab.data.tabletop.events import plan
    from vkdlab.data.video import write_video

    cv2.setNumThreads(1)
    name = video_id(config, split, index)
    scene = plan(config, split, index)
    maps = render.affines(scene)
    mask = render.masks(scene, maps)
    with atomic_path(folder / "labels" / f"{name}.npz") as path:
        np.savez_compressed(path, masks=mask, boxes=render.boxes(mask, len(scene.layers)), affines=maps)
    write_video(
        folder / "videos" / f"{name}.mp4",
        render.Renderer(scene, maps).frames(),
        fps=config.fps,
        audio=sound.sound_track(scene),
        audio_rate_hz=sound.RATE_HZ,
        crf=21,
        gop=50,
    )
    write_json(folder / "labels" / f"{name}.json", labels_of(scene))


def labels_of(scene) -> dict[str, Any]:
    """All labels of a scene but the arrays, ready for JSON."""
    from vkdlab.data.tabletop import language, questions

    config = scene.config
    story = language.Story(scene.objects, scene.events, config.fps)
    rng = generator(config, scene.split, scene.index, "language")
    name = video_id(config, scene.split, scene.index)
    spans = {e.id: (story.start_s(e), story.end_s(e)) for e in scene.events}
    events = [
        {
            "id": e.id,
            "verb": e.verb,
            "object": e.object,
            "other": e.other,
            "start_s": spans[e.id][0],
            "end_s": spans[e.id][1],
            "hand": e.hand,
            "also": list(e.also),
            "paraphrases": language.paraphrases(e, story, rng),
        }
        for e in scene.events
    ]
    queries = []
    for number, row in enumerate(language.queries(story, rng)):
        start_s, end_s = spans[row["event"]]
        queries.append({"id": f"{name}-q{number:02d}", **row, "start_s": start_s, "end_s": end_s})
    asked = []
    for number, row in enumerate(questions.questions(scene, story, rng)):
        evidence = row.pop("evidence")
        first, last = (0.0, scene.duration_s) if evidence is None else (spans[evidence[0]][0], spans[evidence[1]][1])
        asked.append({"id": f"{name}-a{number:02d}", **row, "evidence_s": [first, last]})
    things = {o.id: o for o in scene.objects}
    instances = []
    for number, layer in enumerate(scene.layers, 1):
        row = {"id": number, "kind": layer.kind, "semantic": SEMANTICS.index(layer.kind)}
        if thing := things.get(number):
            row |= {"colour": thing.colour, "size": thing.size, "material": MATERIALS[thing.shape]}
        instances.append(row)
    return {
        "id": name,
        "split": scene.split,
        "duration_s": scene.duration_s,
        "fps": config.fps,
        "frames": scene.frames,
        "width": config.width,
        "height": config.height,
        "instances": instances,
        "events": events,
        "queries": queries,
        "questions": asked,
    }


def labels_hash(config: WorldConfig, folder: Path) -> str:
    """SHA-256 over every label of a world: JSON texts and the arrays' bytes, independent of compression."""
    digest = hashlib.sha256()
    for split, index in _numbers(config):
        name = video_id(config, split, index)
        digest.update(json.dumps(read_json(folder / "labels" / f"{name}.json"), sort_keys=True).encode())
        for array in read_arrays(folder, name):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def changed_labels(config: WorldConfig, folder: Path) -> str:
    """Why a finished world's labels are not those that were written; empty when they are."""
    if not (folder / WORLD_FILE).is_file():
        return ""
    written, found = read_json(folder / WORLD_FILE)["labels_sha256"], labels_hash(config, folder)
    if found == written:
        return ""
    return (
        f"{folder / 'labels'}: the labels have sha256 {found[:12]}..., expected {written[:12]}... as {WORLD_FILE} "
        "says: they were changed after the build. Delete the folder and build again"
    )


def _numbers(config: WorldConfig) -> list[tuple[str, int]]:
    return [(split, index) for split in SPLITS for index in range(config.videos.get(split, 0))]


def _missing(config: WorldConfig, folder: Path) -> list[tuple[str, int]]:
    there = {sub: set(os.listdir(folder / sub)) if (folder / sub).is_dir() else set() for sub in ("videos", "labels")}
    return [
        (split, index)
        for split, index in _numbers(config)
        if not (
            {f"{(name := video_id(config, split, index))}.json", f"{name}.npz"} <= there["labels"]
            and f"{name}.mp4" in there["videos"]
        )
    ]
