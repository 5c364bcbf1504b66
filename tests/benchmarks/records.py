"""What the benchmarks leave: a JSON file each, and a page that shows the figures of all of them in one table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vkdlab.files import project_root, read_json, write_json, write_text
from vkdlab.runs import machine

FOLDER = project_root() / "reports" / "benchmarks"
PAGE = "README.md"


@dataclass(frozen=True)
class Figure:
    """One measured figure and what it is held against."""

    name: str
    """What was measured, in words."""
    value: float
    """What was found, in `unit`."""
    limit: float
    """The most that it may be."""
    unit: str
    """"s" or "x" (times as long)."""


def record(name: str, *, what: str, figures: list[Figure], folder: Path = FOLDER, **details: Any) -> None:
    """Writes `<name>.json`, the machine included, and the page over all records."""
    content = {"what": what, "figures": [asdict(figure) for figure in figures], **details, "machine": machine()}
    write_json(folder / f"{name}.json", content)
    write_text(folder / PAGE, page(folder))


def page(folder: Path = FOLDER) -> str:
    """The records of `folder` as Markdown."""
    records = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    rows = "".join(
        f"| [{name}]({name}.json) | {figure['name']} | {_shown(figure['value'], figure['unit'])} "
        f"| {_shown(figure['limit'], figure['unit'])} | {'yes' if figure['value'] <= figure['limit'] else '**no**'} |\n"
        for name, content in records.items()
        for figure in content["figures"]
    )
    notes = "".join(
        f"- **{name}**: {content['what']}. {content['machine']['date']}, {content['machine']['kind']}, "
        f"{', '.join(f'{package} {version}' for package, version in content['machine']['versions'].items())}.\n"
        for name, content in records.items()
    )
    return f"""# Benchmarks

`make bench` measures these figures on the machine at hand, and writes them here and in the JSON files beside this page.

| record | figure | measured | at most | met |
|---|---|---:|---:|---|
{rows}
What each is, and where and when it was measured:

{notes}"""


def _shown(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
