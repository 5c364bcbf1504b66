"""The notebooks on disk: found by name, read for their title, cells and parameters (ours)."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .files import project_root
from .sweeps import Parameter, read_parameters


def find(names: Iterable[str | os.PathLike] | None = None, *, folder: str | os.PathLike | None = None) -> list[Path]:
    """The notebooks of these names: `02`, `02_teacher_training` or a path ending in .ipynb; without names the series.

    Raises:
        FileNotFoundError: there is none of that name; the message lists those there are.
        ValueError: two different notebooks have the same file name.
    """
    folder = Path(folder) if folder is not None else project_root() / "notebooks"
    series = sorted(folder.glob("*.ipynb"))
    found = []
    for name in map(os.fspath, names or []):
        path = Path(name)
        if path.suffix == ".ipynb" and path.is_file():
            found.append(path.resolve())
            continue
        matches = [each for each in series if each.stem in (name, path.stem) or each.stem.split("_")[0] == name]
        if not matches:
            stems = [each.stem for each in series]
            close = difflib.get_close_matches(path.stem, stems, n=1, cutoff=0.4)
            raise FileNotFoundError(
                f"there is no notebook {name!r}."
                + (f" Did you mean {close[0]!r}?" if close else "")
                + f" In {folder}: {', '.join(stems) or 'none'}"
            )
        found += matches
    found = list(dict.fromkeys(found)) if names else series
    if not found:
        raise FileNotFoundError(f"there are no notebooks in {folder}")
    for first, second in zip(ordered := sorted(found, key=lambda each: each.stem), ordered[1:], strict=False):
        if first.stem == second.stem:
            raise ValueError(f"{first} and {second} have the same name; rename one, or run them apart")
    return found


@dataclass(frozen=True)
class Source:
    """A notebook as it lies on disk."""

    path: Path
    """Its file."""
    title: str
    """Its first heading, or its name."""
    cells: list[list[str]]
    """(type, source) of every cell: what its result depends on."""
    parameters: dict[str, Parameter]
    """What its cell tagged `parameters` sets, by name."""


def read_source(path: str | os.PathLike) -> Source:
    """Reads a notebook.

    Raises:
        ValueError: the file is no notebook; the message names it.
        ParameterError: its `parameters` cell holds something else than literals.
    """
    path = Path(path)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])) for cell in cells]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no notebook that could be read ({type(error).__name__}: {error})") from error
    headings = (
        line.removeprefix("# ").strip()
        for kind, source, _ in sources
        if kind == "markdown"
        for line in source.splitlines()
        if line.startswith("# ")
    )
    tagged = [source for _, source, tags in sources if "parameters" in tags]
    return Source(
        path=path,
        title=next(headings, path.stem),
        cells=[[kind, source] for kind, source, _ in sources],
        parameters=read_parameters(tagged[0], where=path.name) if tagged else {},
    )
