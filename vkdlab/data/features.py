"""Features of a data set's videos, extracted once by a frozen encoder: in parallel, resumable, one file a video.

What is read and written, and what is refused, is in `feature_store`; sentences are in `sentences`. Both are offered
here too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open

from ..files import cache_dir, hash_of
from ..weights import write_safetensors
from .datasets import Dataset, Video, first_of
from .encoders import Encoder, clip_encoder
from .feature_store import FeatureManifest, FeatureMismatch, FeatureStore, num_clips, open_features, videos_of
from .sentences import Sentences, sentence_features
from .video import FrameReader, VideoError
from .workers import Task, only_one, work

__all__ = [
    "FeatureManifest",
    "FeatureMismatch",
    "FeatureStore",
    "Sentences",
    "content_id",
    "encode_video",
    "extract",
    "manifest_of",
    "num_clips",
    "open_features",
    "sentence_features",
]

DECODED_BYTES = 192 * 2**20
"""Frames that are held decoded at a time, bytes."""
WORTH_PROCESSES = 1500
"""Clips from which on the seconds that processes take to start are won back."""


def extract(
    dataset: Dataset | Sequence[Dataset],
    extractor: str,
    *,
    folder: str | os.PathLike | None = None,
    stride_s: float = 0.5,
    gamma: float = 1.0,
    workers: int | None = None,
    progress: bool = True,
) -> FeatureStore:
    """Extracts the features of all videos that have none yet, and opens the folder.

    Every video's file is written when it is finished and renamed into place: after a kill, or Ctrl-C, the same call
    goes on where it stood. A video whose file has changed since is extracted again.

    Args:
        dataset: a data set, or several splits of one.
        extractor: "efficientnet-lite0" or "dis-flow".
        folder: where to keep them; by default below the cache, by data set and manifest, one folder for all splits.
        stride_s: seconds from one clip to the next.
        gamma: exponent applied to the frames' values in [0, 1]; 0.4 makes frames filmed in the dark visible.
        workers: processes of one thread each; by default as many as there are cores, and one for little work.
        progress: show a progress bar.

    Raises:
        VideoError: some videos cannot be read; all of them are named, and the others' features are kept.
        FeatureMismatch: the folder holds features that were made differently.
        ImportError: the package that carries the encoder is not installed.
        OSError: the disk is full or the folder cannot be written.
        ChildProcessError: a worker was killed; the next call goes on.
    """
    videos = videos_of(dataset)
    if without := [name for name, video in videos.items() if video.path is None]:
        raise VideoError(
            f"{len(without)} of {len(videos)} videos come without a file: {first_of(without)}. "
            "Their features can only be had ready-made: open a folder of them with open_features."
        )
    encoder = clip_encoder(extractor)
    manifest = manifest_of(encoder, stride_s=stride_s, gamma=gamma)
    folder = Path(folder) if folder is not None else _default_folder(dataset, manifest)
    with only_one(folder, leftovers=(".*.safetensors",)):
        if (folder / "manifest.json").exists():
            open_features(folder, expect=manifest)
        else:
            manifest.save(folder)
        store = FeatureStore(folder, manifest=manifest)
        todo = [video for video in videos.values() if not _is_done(store, video)]
        if workers is None and sum(num_clips(video.duration_s, stride_s) for video in todo) < WORTH_PROCESSES:
            workers = 1
        # The longest first, so that all processes end at about the same time.
        todo.sort(key=lambda video: -video.duration_s)
        problems = work(
            f"{__name__}:task",
            str(folder),
            {video.id: [str(video.path), video.duration_s] for video in todo},
            workers=workers,
            label=f"{extractor} features",
            progress=progress,
        )
    failed = sorted(filter(None, problems))
    if failed:
        raise VideoError(
            f"{len(failed)} of {len(videos)} videos could not be encoded; "
            f"the features of the others are kept in {folder}:\n  " + "\n  ".join(failed)
        )
    return open_features(folder, expect=manifest, dataset=dataset)


def encode_video(
    path: str | os.PathLike,
    encoder: Encoder,
    *,
    duration_s: float | None = None,
    stride_s: float = 0.5,
    gamma: float = 1.0,
    encoded: Callable[[int], object] = lambda clips: None,
) -> Float32[np.ndarray, "l d"]:
    """Features of one video's clips, decoded piece by piece so that a long video does not fill the memory.

    Args:
        duration_s: length of the video as the data set states it; by default what its file says.
        encoded: told after each piece how many clips it had.

    Raises:
        VideoError: the file cannot be decoded, or is a stride and 5 % shorter than `duration_s`.
    """
    reader = FrameReader(path)
    stated_s = reader.duration_s if duration_s is None else duration_s
    if reader.duration_s < 0.95 * stated_s - stride_s:
        raise VideoError(
            f"{path} is {reader.duration_s:.1f} s long, the data set says {stated_s:.1f} s. "
            "It is cut short or another video: get the file again."
        )
    edges_s = np.linspace(0, stated_s, num_clips(stated_s, stride_s) + 1)
    timestamps_s = np.asarray(reader.timestamps_s)
    picked = np.stack([encoder.pick(start, end, timestamps_s) for start, end in pairwise(edges_s)])
    frame_bytes = reader.width * reader.height * 3
    at_once = max(1, DECODED_BYTES // (frame_bytes * picked.shape[1]))
    brighter = np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    features = []
    for first in range(0, len(picked), at_once):
        indices, clips = np.unique(picked[first : first + at_once], return_inverse=True)
        frames = reader.frames(indices)
        if gamma != 1:
            frames = brighter[frames]
        clips = clips.reshape(-1, picked.shape[1])
        features.append(encoder.encode(frames, timestamps_s[indices], clips))
        encoded(len(clips))
    return np.concatenate(features)


def manifest_of(encoder: Encoder, *, stride_s: float = 0.5, gamma: float = 1.0) -> FeatureManifest:
    """The manifest of what `extract` writes with `encoder`: what to pass to `open_features` as `expect`."""
    return FeatureManifest(
        extractor=encoder.name,
        stride_s=float(stride_s),
        dim=encoder.dim,
        order=encoder.order,
        input=encoder.input,
        gamma=float(gamma),
        weights_sha256=encoder.weights_sha256,
    )


def task(folder: str) -> Task:
    """What a worker does: opens the store of `folder` first, then extracts a path and a length in seconds a video.

    A task answers why the video cannot be read, or "" when all went well.
    """
    store = FeatureStore.open(folder)
    encoder = clip_encoder(store.manifest.extractor)

    def extract_one(name: str, given: tuple[str, float]) -> str:
        path, duration_s = Path(given[0]), given[1]
        stride_s, gamma = store.manifest.stride_s, store.manifest.gamma
        try:
            source = content_id(path)
            features = encode_video(path, encoder, duration_s=duration_s, stride_s=stride_s, gamma=gamma)
        except (VideoError, FileNotFoundError) as error:
            return f"{name}: {error}"
        write_safetensors(store.path(name), {"clips": torch.from_numpy(features).half()}, metadata={"source": source})
        return ""

    return extract_one


def _is_done(store: FeatureStore, video: Video) -> bool:
    try:
        with safe_open(store.path(video.id), framework="np") as file:
            shape = tuple(file.get_slice("clips").get_shape())
            source = (file.metadata() or {}).get("source")
    except (OSError, SafetensorError):
        return False
    expected = (num_clips(video.duration_s, store.manifest.stride_s), store.manifest.dim)
    return shape == expected and video.path.is_file() and source == content_id(video.path)


def content_id(path: Path) -> str:
    """Size and hash of both ends of a file: tells a replaced video without reading gigabytes."""
    size, end = path.stat().st_size, 2**16
    with open(path, "rb") as file:
        digest = sha256(file.read(end))
        file.seek(max(size - end, 0))
        digest.update(file.read(end))
    return f"{size}-{digest.hexdigest()[:32]}"


def _default_folder(dataset: Dataset | Sequence[Dataset], manifest: FeatureManifest) -> Path:
    first = dataset if isinstance(dataset, Dataset) else dataset[0]
    data = f"{first.name}-{first.profile}-{hash_of(first.version, str(first.root.resolve()), digits=8)}"
    return cache_dir("features", data, f"{manifest.extractor}-{manifest.fingerprint[:8]}")
