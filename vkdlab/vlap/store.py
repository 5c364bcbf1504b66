"""Frames of a data set's videos as encoders see them: decoded and encoded once, one file a video (ours).

A file's name tells what is in it: the video's id, and a hash of the video's content, of both encoders' weights and of
how many frames of which sizes there are. So nothing is ever mistaken for something else, and what is there is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

from vkdlab.data.datasets import Dataset, Video
from vkdlab.data.feature_store import videos_of
from vkdlab.data.features import content_id
from vkdlab.data.video import VideoError
from vkdlab.data.workers import only_one
from vkdlab.files import cache_dir, hash_of
from vkdlab.vlap.frames import VideoFrames
from vkdlab.weights import write_safetensors

Encode = Callable[[UInt8[Tensor, "t h w 3"]], Float[Tensor, "t n d"]]
"""Tokens of frames: a module, or a method of one such as `Backbone.see`."""

VERSION = 1
"""Goes up when other numbers are written for the same videos and weights."""
_NAMES = ("tokens", "glances", "places")


class FrameStore:
    """Tokens of videos' frames, read from their files when they are asked for.

    Attributes:
        failed: why a video has none, by its id.
        fingerprint: hash of the encoders' weights, the number of frames and their sizes.
    """

    def __init__(self, files: Mapping[str, Path], *, failed: Mapping[str, str], fingerprint: str):
        self._files, self.failed, self.fingerprint = dict(files), dict(failed), fingerprint

    @property
    def videos(self) -> set[str]:
        """Ids of the videos whose frames are here."""
        return set(self._files)

    def tokens(self, video: str) -> Float16[Tensor, "t n d"]:
        """Tokens of each frame, for the answerer.

        Raises:
            KeyError: the store has no such video, or its frames could not be decoded; the message says why.
            ValueError: the video's file is damaged, or gone.
        """
        return self._read(video, "tokens")

    def glances(self, video: str) -> Float16[Tensor, "t n2 d2"]:
        """Tokens of each thumbnail, for the prompter. Raises as `tokens` does."""
        return self._read(video, "glances")

    def places(self, video: str) -> Float32[Tensor, " t"]:
        """Where in the video each frame is, 0 to 1. Raises as `tokens` does."""
        return self._read(video, "places")

    def _read(self, video: str, name: str) -> Tensor:
        path = self._files.get(video)
        if path is None:
            raise KeyError(
                f"there are no frames of {video!r}: {self.failed.get(video, 'the store knows no such video')}"
            )
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read ({error}). Delete it and build the store again") from error


def frame_store(
    dataset: Dataset | Sequence[Dataset],
    see: Encode,
    glance: Encode,
    *,
    count: int = 32,
    size: tuple[int, int] = (128, 96),
    thumbnail: tuple[int, int] = (64, 48),
    folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> FrameStore:
    """Decodes and encodes the frames of all videos that have no file yet.

    Every file is written when its video is finished, and renamed into place: after a kill, or Ctrl-C, the same call
    goes on where it stood. A video that cannot be decoded, be it in its middle, is kept in `failed` with the reason,
    and tried again by the next call. Encoders run in evaluation mode and are left as they were.

    Args:
        dataset: a data set, or several splits of one.
        see: tokens of frames of full size, for the answerer.
        glance: tokens of thumbnails, for the prompter.
        count: frames of a video, as `VideoFrames` takes them.
        size: width and height of frames, pixels.
        thumbnail: width and height of thumbnails, pixels.
        folder: where to keep the files; by default below the cache, by the data set's name.
        progress: show a progress bar.

    Raises:
        TypeError: an encoder is neither a module nor a method of one, so that its weights cannot be told from others.
        ValueError: `count` is below 1, or an encoder gives numbers that half precision does not hold.
        OSError: the disk is full or the folder cannot be written.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    videos = videos_of(dataset)
    first = dataset if isinstance(dataset, Dataset) else dataset[0]
    folder = Path(folder) if folder is not None else cache_dir("frames", f"{first.name}-{first.profile}")
    with _at_work(see), _at_work(glance):
        made = [VERSION, _identity(see, size), _identity(glance, thumbnail), count, list(size), list(thumbnail)]
        files, failed = {}, {}
        with only_one(folder, leftovers=(".*.safetensors",)):
            for video in tqdm(videos.values(), desc="frames", unit="video", disable=not (progress and videos)):
                try:
                    source = _source(video)
                    path = folder / f"{quote(video.id, safe=' ')}-{hash_of(source, made)}.safetensors"
                    if not _is_whole(path):
                        frames = VideoFrames(video.path, count=count, size=size, thumbnail=thumbnail)
                        seen = frames.read(range(len(frames))), frames.glance()
                        _write(path, frames.places, _encoded(see, seen[0], video), _encoded(glance, seen[1], video))
                    files[video.id] = path
                except (VideoError, FileNotFoundError) as error:
                    failed[video.id] = str(error)
    return FrameStore(files, failed=failed, fingerprint=hash_of(made))


def _source(video: Video) -> str:
    if video.path is None:
        raise VideoError("the data set comes without this video's file")
    if not video.path.is_file():
        raise VideoError(f"{video.path}: there is no such video")
    return content_id(video.path)


def _encoded(encode: Encode, frames: np.ndarray, video: Video) -> Float16[Tensor, "t n d"]:
    tokens = encode(torch.from_numpy(frames).to(_device(encode))).cpu().half()
    if not tokens.isfinite().all():
        raise ValueError(f"{video.id}: an encoder gives numbers that are not finite, or too large for half precision")
    return tokens


def _write(path: Path, places: np.ndarray, tokens: Tensor, glances: Tensor) -> None:
    values = (tokens, glances, torch.from_numpy(places).float())
    write_safetensors(path, {name: value.contiguous() for name, value in zip(_NAMES, values, strict=True)})


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="np") as file:
            return set(_NAMES) <= set(file.keys())
    except (OSError, SafetensorError):
        return False


def _module(encode: Encode) -> nn.Module:
    module = encode if isinstance(encode, nn.Module) else getattr(encode, "__self__", None)
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"an encoder is a module or a method of one, so that its weights are known; got {type(encode).__name__} "
            f"{getattr(encode, '__qualname__', '')}"
        )
    return module


def _device(encode: Encode) -> torch.device:
    return next((tensor.device for tensor in _module(encode).state_dict().values()), torch.device("cpu"))


@contextmanager
def _at_work(encode: Encode) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every part is in the mode that it was in."""
    module = _module(encode)
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def _identity(encode: Encode, size: tuple[int, int]) -> str:
    """Hash of the weights that encoding a frame uses: what else its module holds has no influence."""
    module = _module(encode)
    blank = torch.zeros(1, size[1], size[0], 3, dtype=torch.uint8, device=_device(encode))
    with _Used() as used:
        encode(blank)
    digest = sha256(f"{type(module).__qualname__}.{getattr(encode, '__name__', '')}".encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if id(tensor) in used.tensors:
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Used(TorchFunctionMode):
    """Notes which tensors others are computed from."""

    def __init__(self):
        super().__init__()
        self.tensors: set[int] = set()

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if any(isinstance(each, Tensor) for each in tree_leaves(result)):  # not where only a device or shape is read
            self.tensors |= {id(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        return result
