"""One extracting process: reads a video a line, writes its features, answers each with what went wrong or with nothing.

A process of its own that is started by name, rather than a pool, works from any script, notebook or shell, and ends
when the one that feeds it is gone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from .datasets import Video
from .encoders import clip_encoder
from .feature_store import FeatureStore


def extract_in_processes(store: FeatureStore, videos: list[Video], *, workers: int) -> Iterator[str]:
    """Extracts `videos` into `store` with so many processes of one thread each, the longest first.

    Yields:
        For every finished video, in any order, why it could not be encoded; empty where it was.

    Raises:
        OSError: a file could not be written.
        RuntimeError: a process ended before its work was done.
    """
    waiting: queue.SimpleQueue[Video] = queue.SimpleQueue()
    answers: queue.SimpleQueue[dict] = queue.SimpleQueue()
    for video in sorted(videos, key=lambda video: -video.duration_s):
        waiting.put(video)
    processes = [_start(store.folder) for _ in range(workers)]
    try:
        for process in processes:
            threading.Thread(target=_feed, args=(process, waiting, answers), daemon=True).start()
        for _ in videos:
            answer = answers.get()
            if "errno" in answer:
                raise OSError(answer["errno"], answer["text"])
            if "error" in answer:
                raise RuntimeError(f"extracting features failed: {answer['error']}. What was finished is kept.")
            yield answer["problem"]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
            process.stdin.close()
            process.stdout.close()


def _start(folder: Path) -> subprocess.Popen:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "vkdlab.data.feature_worker", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(paths)},
    )


def _feed(process: subprocess.Popen, waiting: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    while True:
        try:
            video = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            row = {"id": video.id, "path": str(video.path), "duration_s": video.duration_s}
            process.stdin.write(json.dumps(row) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):
            line = ""
        cut = {"error": f"a process ended during {video.id!r}; if the memory is short, pass workers=1"}
        answers.put(json.loads(line) if line else cut)
        if not line:
            return


def main() -> None:
    """Works until its input closes; being told to stop leaves no half-written file."""
    from .features import extract_one

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    store = FeatureStore.open(sys.argv[1])
    encoder = clip_encoder(store.manifest.extractor)
    for line in sys.stdin:
        row = json.loads(line)
        video = Video(id=row["id"], path=Path(row["path"]), duration_s=row["duration_s"])
        try:
            answer = {"problem": extract_one(store, video, encoder)}
        except OSError as error:
            answer = {"errno": error.errno, "text": error.strerror or str(error)}
        except Exception as error:
            answer = {"error": f"{video.id}: {type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
