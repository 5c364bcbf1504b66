"""Files that are either whole or absent: atomic writes, content hashes, safe unpacking, where caches live (ours)."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

CACHE_VARIABLE = "VKDLAB_CACHE"
JOB_DIR_VARIABLE = "VKDLAB_JOB_DIR"
"""Set by the runner for a notebook: the folder of its job. Not set where a person runs the notebook."""


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`; what was written there becomes `path` when the block ends without an error.

    The temporary name keeps the suffix, so that encoders which look at it work. Parent folders are made. When the block
    raises, Ctrl-C included, nothing remains and an older `path` is untouched.

    Raises:
        OSError: the disk is full or the folder cannot be written; the message names the file and the cure.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o666 & ~_umask())
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and (cure := _CURES.get(error.errno)):
            raise OSError(error.errno, f"{path} could not be written: {error.strerror}. {cure}") from error
        raise


_CURES = {
    errno.ENOSPC: "The disk is full: free some room or choose another folder, then run the same command again.",
    errno.EDQUOT: "Your quota is used up: free some room or choose another folder, then run the same command again.",
    errno.EROFS: "The folder is read-only: choose one that can be written.",
    errno.EACCES: "The folder may not be written by you: choose another one or change its permissions.",
    errno.EPERM: "The folder may not be written by you: choose another one or change its permissions.",
}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. Not-a-number is refused: it is no JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, default=_plain) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: the file is no JSON; the message names it and the line.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}. Delete it to have it written again.") from error


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(*values: Any, digits: int = 16) -> str:
    """Hash of plain values: numbers, text, lists, dicts, dataclasses, paths.

    It is the same on every machine, whatever the order of a dict's keys.
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no plain form that could be hashed or written as JSON: {value!r}")


def cache_dir(*parts: str) -> Path:
    """Where built data, features and trained networks are kept: `$VKDLAB_CACHE`, else the user's cache folder."""
    base = os.environ.get(CACHE_VARIABLE) or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vkdlab"
    )
    return Path(base).expanduser().joinpath(*parts)


def project_root() -> Path:
    """The checkout that holds `data_manifests`, `notebooks` and `reports`.

    Raises:
        FileNotFoundError: vkdlab was installed without its checkout.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "data_manifests").is_dir():
        raise FileNotFoundError(
            f"no data_manifests folder beside the package in {root}: vkdlab runs from its checkout. "
            "Clone the repository and install it with `pip install -e .`"
        )
    return root


def extract(archive: str | os.PathLike, folder: str | os.PathLike) -> list[Path]:
    """Unpacks a zip or tar archive below `folder` and returns the files written.

    All names are checked before the first byte is written.

    Raises:
        ValueError: a member would land outside `folder`, is a link or a device, or the file is no archive.
    """
    archive, folder = Path(archive), Path(folder)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            names = [info.filename for info in opened.infolist() if not info.is_dir()]
            _refuse_escapes(archive, names)
            opened.extractall(folder)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as opened:
            members = [member for member in opened.getmembers() if not member.isdir()]
            for member in members:
                if not member.isfile():
                    raise ValueError(
                        f"{archive}: member {member.name!r} is a link or a device; refused, nothing was unpacked"
                    )
            names = [member.name for member in members]
            _refuse_escapes(archive, names)
            opened.extractall(folder, filter="data")
    else:
        raise ValueError(f"{archive} is neither a zip nor a tar archive")
    return [folder / name for name in names]


def _refuse_escapes(archive: Path, names: list[str]) -> None:
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
            raise ValueError(
                f"{archive}: member {name!r} would be written outside the target folder; refused, nothing was "
                "unpacked. Get the archive from its original source."
            )
