"""The folder of a trained student, alike for every method: what lies in it, and what is checked before use (ours).

```
<folder>/
    student.safetensors    weights; what else is in it, each method knows
    student.json           version of the form, all that the method needs to build the student, hash of the weights
    README.md              the model card
```
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import cache_dir, read_json, sha256_of, write_json, write_text
from .runs import Run

SETTINGS, WEIGHTS, CARD = "student.json", "student.safetensors", "README.md"


@dataclass(frozen=True, kw_only=True)
class StudentFiles:
    """How one method's students are kept."""

    what: str
    """What they are, for messages: "delta network"."""
    runs: str
    """Pattern of the folders of runs that keep one: "delta-*"."""
    train_one: str
    """How a person gets one, the end of every message."""
    version: int
    """Of their form; goes up when it changes so that an older vkdlab could not read it."""
    method: str | None = None
    """What their settings have under "method"; None where they have nothing there."""

    def complete(self, folder: str | os.PathLike, settings: Mapping[str, Any], *, card: str) -> None:
        """Writes card and settings beside weights that are there.

        Args:
            folder: with the weights.
            settings: "version", "method" where there is one, and whatever the method needs.
            card: the model card.

        Raises:
            FileNotFoundError: there are no weights.
            OSError: the folder cannot be written.
        """
        folder = Path(folder)
        written = {**settings, "weights_sha256": sha256_of(folder / WEIGHTS)}
        write_text(folder / CARD, card)
        # Last, because a folder with it counts as a student's.
        write_json(folder / SETTINGS, written)

    def read(self, folder: str | os.PathLike) -> dict[str, Any]:
        """Settings of a student, once it is known that they are of this method and version and of these weights.

        Raises:
            FileNotFoundError: no such folder, or it holds no student.
            ValueError: a file is damaged, of another method or training, or of another version of vkdlab; the message
                says which.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder of a student. {self.train_one}")
        for name in (SETTINGS, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} holds no trained {self.what}: {name} is missing. {self.train_one}")
        path = folder / SETTINGS
        settings = read_json(path)
        if not isinstance(settings, dict):
            settings = {}
        if settings.get("method") != self.method:
            raise ValueError(f"{folder} holds a student of another method, no {self.what}. {self.train_one}")
        if settings.get("version") != self.version:
            raise ValueError(
                f"{path} is of version {settings.get('version')}, this vkdlab reads version {self.version}. "
                f"{self.train_one}"
            )
        if sha256_of(folder / WEIGHTS) != settings.get("weights_sha256"):
            raise ValueError(
                f"{folder / WEIGHTS} is damaged, or not what {SETTINGS} was written with. {self.train_one}"
            )
        return settings

    @contextmanager
    def explained(self, folder: str | os.PathLike) -> Iterator[None]:
        """While a student is built from its settings: makes one error of all that settings of another form lead to.

        Raises:
            ValueError: in place of a KeyError, TypeError, AttributeError or ValueError.
        """
        try:
            yield
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            path = Path(folder) / SETTINGS
            raise ValueError(f"{path} is not as this vkdlab writes it ({error!r}). {self.train_one}") from error

    def latest(self, runs_dir: str | os.PathLike | None = None) -> Path:
        """Folder of the student that was trained last.

        Args:
            runs_dir: folder of all runs; by default in the cache.

        Raises:
            FileNotFoundError: no run of one has ended there.
        """
        runs_dir = Path(runs_dir or cache_dir("runs"))
        found = [path for path in runs_dir.glob(f"{self.runs}/{SETTINGS}") if Run(path.parent).done]
        if not found:
            raise FileNotFoundError(f"there is no trained {self.what} in {runs_dir}. {self.train_one}")
        return max(found, key=lambda path: path.stat().st_mtime).parent
