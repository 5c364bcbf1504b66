"""Where trainings live: one folder a run, named by what was trained on what, so that nothing is trained twice (ours).

```
<runs_dir>/<name>-<hash>/
    config.json               name, configuration, data fingerprint, version: what the hash is made of
    run.json                  status (open, training, stopped, failed, done), versions, machine, dates, code hash
    history.csv               one row an epoch
    metrics.json              validation metrics of the best epoch, and what was measured afterwards
    model.safetensors         the best weights
    checkpoint.safetensors    all that a training needs to go on; gone when it is done
    tensorboard/
```

The library's code is recorded and not part of the hash: a comment that changes must not throw weights away. A change of
code that changes results says so itself, by a new `version`.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from . import __version__
from .files import cache_dir, hash_of, read_json, write_json
from .weights import load_weights, save_weights

if TYPE_CHECKING:
    from .history import History
    from .training_config import Data, TrainConfig


class Run:
    """One training's folder. Made by `Run.open`.

    Attributes:
        folder: where its files lie.
        name: the name it was opened with.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.name = self.folder.name.rpartition("-")[0] or self.folder.name

    @classmethod
    def open(
        cls,
        name: str,
        config: Any,
        *,
        data: str,
        runs_dir: str | os.PathLike | None = None,
        version: str = "",
    ) -> Run:
        """The run of this name, configuration and data; its folder is made when there is none.

        Args:
            name: what a person calls it: letters, digits, `.`, `_` and `-`.
            config: all that decides the result, as a dataclass or a dict of plain values and dataclasses.
            data: fingerprint of the data it learns from.
            runs_dir: folder of all runs; by default `runs` in the cache.
            version: of the method; a new one when a change of code changes results.

        Raises:
            ValueError: a name that is no file name.
            TypeError: a configuration that cannot be written as JSON.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"a run's name has letters, digits, '.', '_' and '-' only, given {name!r}")
        content = {"name": name, "config": config, "data": data, "version": version}
        run = cls(Path(runs_dir or cache_dir("runs")) / f"{name}-{hash_of(content, digits=12)}")
        if not (run.folder / "config.json").exists():
            write_json(run.folder / "config.json", content)
        return run

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.info.get('status', 'open')})"

    @property
    def config(self) -> dict[str, Any]:
        """What the hash is made of: name, config, data, version."""
        return read_json(self.folder / "config.json")

    @property
    def info(self) -> dict[str, Any]:
        """Status, versions, machine, dates; empty before the first training."""
        return self._written("run.json")

    @property
    def done(self) -> bool:
        """Whether the training reached its end."""
        return self.info.get("status") == "done"

    @property
    def metrics(self) -> dict[str, Any]:
        """All that `save_metrics` wrote."""
        return self._written("metrics.json")

    def _written(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        return read_json(path) if path.exists() else {}

    @property
    def model_path(self) -> Path:
        """The best weights."""
        return self.folder / "model.safetensors"

    @property
    def checkpoint_path(self) -> Path:
        """The state of an unfinished training."""
        return self.folder / "checkpoint.safetensors"

    def note(self, **values: Any) -> None:
        """Adds to `run.json`, or replaces what has the same name there."""
        write_json(self.folder / "run.json", self.info | values)

    def save_metrics(self, metrics: Mapping[str, float]) -> None:
        """Adds to `metrics.json`, or replaces what has the same name there; what is not finite is written as null."""
        plain = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        write_json(self.folder / "metrics.json", self.metrics | plain)

    def save_model(self, module: nn.Module) -> None:
        """Writes the module's weights, atomically."""
        save_weights(module, self.model_path)

    def load_model(self, module: nn.Module) -> None:
        """Reads the weights into `module`.

        Raises:
            FileNotFoundError: the run has no weights yet.
            ValueError: no safetensors, damaged, or of another architecture; the message names the tensors.
        """
        load_weights(module, self.model_path)

    @contextmanager
    def lock(self, *, progress: bool = False) -> Iterator[None]:
        """Keeps other processes from training this run; waits for the one that does. Freed even by `kill -9`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            with tqdm(
                desc=f"{self.name}: waiting for another process that trains it",
                bar_format="{desc}",
                disable=not progress,
            ):
                lock.acquire()
        try:
            yield
        finally:
            lock.release()


def run_of(
    name: str,
    data: Data,
    config: TrainConfig,
    *,
    runs_dir: str | os.PathLike | None = None,
    extra: Any = None,
    version: str = "",
) -> Run:
    """The run that `trained_once` trains in, with the same arguments: whether it is done tells whether it would train.

    Raises:
        ValueError: a split without a fingerprint.
    """
    if data.fingerprint is None:
        raise ValueError(
            "a run is found again by its data: both splits need a `fingerprint`, a text that changes with their content"
        )
    return Run.open(name, {"train": config, "method": extra}, data=data.fingerprint, runs_dir=runs_dir, version=version)


def trained_once(
    name: str,
    method: nn.Module,
    data: Data,
    config: TrainConfig,
    *,
    runs_dir: str | os.PathLike | None = None,
    extra: Any = None,
    version: str = "",
    progress: bool = True,
) -> tuple[Run, History]:
    """Trains `method` when that was never done, goes on when it was interrupted, and loads its weights when it was.

    Two processes that ask for the same run train it once: the second waits for the first.

    Args:
        name: what a person calls the run.
        method: the module; holds the best weights afterwards.
        data: the training and validation split; both need a `fingerprint`.
        config: how to train.
        runs_dir: folder of all runs; by default in the cache.
        extra: whatever else decides the result, first of all the method's own configuration.
        version: of the method.
        progress: whether to show a progress bar.

    Raises:
        ValueError: a split without a fingerprint, or as `vkdlab.training.fit`.
    """
    from .training import fit  # training writes into runs: at the top this would be a cycle

    run = run_of(name, data, config, runs_dir=runs_dir, extra=extra, version=version)
    return run, fit(method, data, config, run=run, progress=progress)


def machine() -> dict[str, Any]:
    """What results depend on beside code and data, for evidence and benchmarks: kind of machine, versions, date.

    Returns:
        `{"kind": "2-core x86_64, AVX512, no GPU", "versions": {"python": ..}, "date": "2025-01-31"}`
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "kind": f"{cores}-core {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {gpu}",
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "vkdlab": __version__,
        },
        "date": datetime.now(UTC).date().isoformat(),
    }


def code_hash() -> str:
    """Hash of the package's sources: the same on every machine that has the same code."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Names where two plain dicts differ, as `name: stored -> given`."""
    return [
        f"{name}: {stored.get(name, 'absent')} -> {given.get(name, 'absent')}"
        for name in sorted(stored.keys() | given.keys())
        if stored.get(name) != given.get(name)
    ]
