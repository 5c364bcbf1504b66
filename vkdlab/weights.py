"""Tensors on disk: safetensors only, written atomically, checked when read. No pickle is ever loaded (ours).

A checkpoint is one file, so that it is whole or absent: the tensors, and what is not a tensor as JSON in the header. A
checksum over both tells a damaged file from a good one, which the format alone does not.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .files import atomic_path


def save_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], *, state: Any = None) -> None:
    """Writes named tensors of any shape and type, with any JSON value beside them, atomically.

    Raises:
        OSError: the disk is full or the folder cannot be written; an older file is untouched.
    """
    # Cloned because tied weights share memory, which the format refuses.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(state)
    write_safetensors(path, plain, metadata={"state": text, "checksum": _checksum(plain, text)})


def write_safetensors(
    path: str | os.PathLike, tensors: dict[str, Tensor], *, metadata: dict[str, str] | None = None
) -> None:
    """Writes tensors on the CPU, contiguous and sharing no memory, as a plain safetensors file, atomically.

    Raises:
        OSError: the disk is full or the folder cannot be written; the message says so, and an older file is untouched.
    """
    content = save(tensors, metadata=metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)  # its own writer says of a full disk only that something went wrong


def load_tensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], Any]:
    """Reads what `save_tensors` wrote, onto the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is a pickle or anything else but safetensors, is damaged, or was not written by vkdlab.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    cure = "Delete it to train again, or restore it from a copy"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the handle is no dict
    except SafetensorError as error:
        with open(path, "rb") as file:
            start = file.read(2)
        if start == b"PK" or start[:1] == b"\x80":
            raise ValueError(
                f"{path} is a pickle (as torch.save writes it), not safetensors. It was not unpickled: a pickle can "
                "run any code. Delete it to train again, or convert it at its source with safetensors.torch.save_file"
            ) from error
        raise ValueError(f"{path} is not a whole safetensors file: {error}. {cure}") from error
    if not {"state", "checksum"} <= set(metadata):
        raise ValueError(
            f"{path} was not written by vkdlab: its header has {sorted(metadata)}, not state and checksum. {cure}"
        )
    if metadata["checksum"] != _checksum(tensors, metadata["state"]):
        raise ValueError(f"{path} is damaged: its content does not match its checksum. {cure}")
    return tensors, json.loads(metadata["state"])


def save_weights(module: nn.Module, path: str | os.PathLike) -> None:
    """Writes a module's parameters and buffers."""
    save_tensors(path, module.state_dict())


def load_weights(module: nn.Module, path: str | os.PathLike) -> None:
    """Reads a module's parameters and buffers, in place; the module keeps its device and type.

    Raises:
        ValueError: the file is no safetensors of ours, or its tensors are not the module's; the message names them.
    """
    put_weights(module, load_tensors(path)[0], where=str(path))


def put_weights(module: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Copies tensors into a module once all names and shapes were compared; errors say that they came from `where`."""
    own = module.state_dict()
    problems = [f"missing {name} {tuple(own[name].shape)}" for name in own if name not in weights]
    problems += [f"unexpected {name} {tuple(weights[name].shape)}" for name in weights if name not in own]
    problems += [
        f"{name} is {tuple(weights[name].shape)} in the file and {tuple(own[name].shape)} in the module"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ValueError(
            f"{where} does not fit {type(module).__name__}: {shown}. "
            "Build the module with the configuration it was trained with"
        )
    module.load_state_dict(weights)


def weights_hash(network: nn.Module) -> str:
    """Hash of a network's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        if tensor.numel():
            value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), value)
    return f"{value:08x}"
