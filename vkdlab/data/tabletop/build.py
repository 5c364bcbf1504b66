"""Makes the world's files: in parallel, resumable, each file whole or absent (ours).

One folder holds one configuration: `videos/ID.mp4`, `labels/ID.npz` (masks, boxes, maps), `labels/ID.json` (all else)
and, written last, `world.json`. A video is finished when all three files are there.

Workers are plain `python -m` processes that read video numbers from a pipe: nothing of the caller's main module is
imported again, so a build works from notebooks and unguarded scripts, and workers end by themselves when their parent
is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from tqdm.auto import tqdm

from vkdlab.data.datasets import SPLITS
from vkdlab.data.tabletop.stage import MATERIALS, SEMANTICS, WorldConfig, config_of, generator, video_id
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
    """
    config = profile if isinstance(profile, WorldConfig) else config_of(profile, seed=seed)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, was given {workers}")
    folder = world_folder(config, root=root)
    if (folder / WORLD_FILE).exists() and not _missing(config, folder):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        lock.acquire()
    except OSError as error:
        raise OSError(
            error.errno,
            f"tabletop cannot be built in {folder}: {error.strerror}. Choose another folder with root= or VKDLAB_CACHE",
        ) from error
    try:
        for left in [*folder.glob("videos/.*"), *folder.glob("labels/.*")]:
            left.unlink(missing_ok=True)
        todo = _missing(config, folder)
        total = sum(config.videos.values())
        with tqdm(
            total=total, initial=total - len(todo), desc=f"tabletop {config.profile}", disable=not progress
        ) as bar:
            _make_all(config, folder, todo, min(workers or os.cpu_count() or 1, len(todo)), bar.update)
        write_json(folder / WORLD_FILE, {"config": config, "labels_sha256": labels_hash(config, folder)})
    finally:
        lock.release()
    return folder


def built(profile: str = "demo", *, seed: int | None = None, root: str | os.PathLike | None = None) -> tuple[int, int]:
    """How many of a profile's videos are there, and how many there will be.

    Raises:
        ValueError: there is no such profile.
    """
    config = config_of(profile, seed=seed)
    total = sum(config.videos.values())
    return total - len(_missing(config, world_folder(config, root=root))), total


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
        with np.load(folder / "labels" / f"{name}.npz", allow_pickle=False) as arrays:
            for key in ("masks", "boxes", "affines"):
                digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()


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


def _make_all(config: WorldConfig, folder: Path, todo: list[tuple[str, int]], workers: int, done) -> None:
    if workers <= 1:
        for split, index in todo:
            make_video(config, folder, split, index)
            done()
        return
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for item in todo:
        waiting.put(item)
    answers: queue.SimpleQueue = queue.SimpleQueue()
    processes = [_start(config, folder) for _ in range(workers)]
    feeders = [threading.Thread(target=_feed, args=(process, waiting, answers), daemon=True) for process in processes]
    for feeder in feeders:
        feeder.start()
    try:
        for _ in todo:
            problem = answers.get()
            if problem is not None:
                raise _as_error(problem)
            done()
    finally:
        for process in processes:
            process.terminate()
        for process, feeder in zip(processes, feeders, strict=True):
            process.wait()
            feeder.join()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()


def _start(config: WorldConfig, folder: Path) -> subprocess.Popen:
    package_root = str(Path(__file__).resolve().parents[3])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "vkdlab.data.tabletop.worker", str(folder), json.dumps(vars(config))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C reaches this process, which then stops its workers
        env={**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(paths)},
    )


def _feed(process: subprocess.Popen, waiting: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    while True:
        try:
            split, index = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            process.stdin.write(f"{split} {index}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):
            line = ""
        problem = (
            json.loads(line) if line else {"type": "RuntimeError", "text": f"worker ended while making {split} {index}"}
        )
        answers.put(problem)
        if problem is not None:
            return


def _as_error(problem: dict[str, Any]) -> Exception:
    if problem["type"] == "OSError":
        return OSError(problem.get("errno"), problem["text"])
    return RuntimeError(f"building tabletop failed: {problem['text']}. Run the same command again to go on")
