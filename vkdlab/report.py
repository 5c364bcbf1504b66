"""The report of a run: an index page over its notebooks, and each executed notebook as a page; works offline (ours).

Figures are embedded as JSON and drawn by the one copy of plotly.js beside the pages. All text that comes from a
notebook is escaped on the index page.
"""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import read_json, write_text
from .jobs import FIGURES, METRICS, NOTEBOOK, PAGE, RECORD
from .report_style import CSS, NOTEBOOK_CSS, SCRIPT
from .sweeps import Tables, tables

if TYPE_CHECKING:
    import pandas as pd

INDEX = "index.html"
RUN = "run.json"


@dataclass(frozen=True)
class Result:
    """How one job went."""

    notebook: str
    """Name of the notebook, without suffix."""
    folder: Path = field(repr=False)
    """Folder with executed.ipynb, executed.html, metrics.json, figures.json, job.json."""
    swept: dict[str, Any]
    """Values of the swept parameters."""
    status: str = "waiting"
    """`waiting`, `passed` or `failed`."""
    title: str = ""
    """The notebook's first heading."""
    seconds: float = math.nan
    """Wall time, start of the kernel included, in seconds."""
    finished: str = ""
    """When it ended, ISO 8601, UTC."""
    parameters: dict[str, Any] = field(default_factory=dict, repr=False)
    """All parameters, defaults filled in."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Numbers, texts or None by name."""
    error: dict[str, Any] | None = field(default=None, repr=False)
    """name, message, cell (execution count or None), source and traceback of what failed."""

    @property
    def label(self) -> str:
        """The swept values as text, empty without a sweep."""
        return ", ".join(f"{name}={value}" for name, value in self.swept.items())


@dataclass(frozen=True)
class Report:
    """What a call of `vkdlab.notebooks.run` did."""

    folder: Path
    """Folder of the run: index.html, run.json, jobs/, tables/."""
    results: tuple[Result, ...]
    """Every job that the call asked for."""
    command: str = ""
    """The command line that does the same."""

    @property
    def index(self) -> Path:
        """The page to open."""
        return self.folder / INDEX

    @property
    def passed(self) -> bool:
        """Whether every job passed."""
        return all(result.status == "passed" for result in self.results)

    def tables(self, notebook: str | None = None) -> Tables:
        """Means and paired differences of a notebook's metrics over the sweep, from its passed jobs.

        Args:
            notebook: its name; may be left out when there is only one.

        Raises:
            ValueError: the run has several notebooks, or none of that name.
        """
        names = list(dict.fromkeys(result.notebook for result in self.results))
        if notebook is None and len(names) == 1:
            notebook = names[0]
        if notebook not in names:
            raise ValueError(f"expected one of the notebooks {names}, given {notebook!r}")
        return _tables([result for result in self.results if result.notebook == notebook])


def _tables(results: Sequence[Result]) -> Tables:
    passed = [(result.swept, result.metrics) for result in results if result.status == "passed"]
    return tables(passed, swept=list(results[0].swept))


def read_result(folder: Path, *, notebook: str, swept: Mapping[str, Any]) -> Result:
    """The result that lies in a job's folder; a waiting one when there is none."""
    if not (folder / RECORD).is_file():
        return Result(notebook=notebook, folder=folder, swept=dict(swept))
    record = read_json(folder / RECORD)
    metrics = read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
    return Result(folder=folder, swept=dict(swept), metrics=metrics, **record)


def build(folder: str | os.PathLike) -> Path:
    """Writes the index page of a run, and its tables as CSV, from what lies in its folder.

    Returns:
        The page's path.

    Raises:
        FileNotFoundError: no run lies there.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    if not (folder / RUN).is_file():
        raise FileNotFoundError(f"{folder} holds no run (no {RUN}). Make one with `vkdlab run`")
    run = read_json(folder / RUN)
    sections: list[list[Result]] = []
    for name, entry in sorted(run["notebooks"].items()):
        sections.append(
            [read_result(folder / job["folder"], notebook=name, swept=job["swept"]) for job in entry["jobs"]]
        )
    shown: dict[str, Tables] = {}
    for results in sections:
        if results[0].swept:
            shown[results[0].notebook] = table = _tables(results)
            write_text(folder / "tables" / f"{results[0].notebook}-means.csv", table.means.to_csv(index=False))
            if len(table.differences):
                name = f"{results[0].notebook}-differences.csv"
                write_text(folder / "tables" / name, table.differences.to_csv(index=False))
    script = _plotly_script(folder)
    write_text(folder / INDEX, _index_page(folder, run, sections, shown, script))
    return folder / INDEX


def _plotly_script(folder: Path) -> str:
    import plotly

    name = f"plotly-{plotly.__version__}.min.js"
    if not (folder / name).is_file():
        from plotly.offline import get_plotlyjs

        write_text(folder / name, get_plotlyjs())
    return name


def _index_page(folder: Path, run: dict, sections: list[list[Result]], shown: Mapping[str, Tables], script: str) -> str:
    everything = [result for results in sections for result in results]
    counts = {
        status: sum(result.status == status for result in everything) for status in ("passed", "failed", "waiting")
    }
    summary = " ".join(_badge(status, f"{count} {status}") for status, count in counts.items() if count)
    rows = "".join(
        f"<tr><th scope=row><a href='#{_anchor(results[0])}'>{_text(_title(results))}</a></th>"
        f"<td>{_badge(_status(results))}</td>"
        f"<td class=number>{_duration(_total(results))}</td>"
        f"<td class='number optional'>{len(results)}</td>"
        f"<td class=optional>{_text(_when(max(result.finished for result in results)))}</td></tr>"
        for results in sections
    )
    time = f"{_duration(_total(everything))} of notebook time"
    body = f"""<a class=skip href="#notebooks">To the notebooks</a>
<header class=page><h1>{_text(run["name"])}: executed notebooks</h1><p>{summary}</p>
<p class=soft>{time}. Command: <code>{_text(run["command"])}</code></p></header>
<main id=notebooks><div class=card><div class=scroll><table class=overview>
<thead><tr><th scope=col>Notebook<th scope=col>Status<th scope=col class=number>Time
<th scope=col class="number optional">Jobs<th scope=col class=optional>Finished (UTC)</tr></thead>
<tbody>{rows}</tbody></table></div></div>
{"".join(_section(folder, results, shown.get(results[0].notebook)) for results in sections)}</main>
<footer>vkdlab {_text(run["version"])}. The page works offline; keep its folder together.</footer>"""
    return _page(f"{run['name']}: executed notebooks", body, script=script)


def _section(folder: Path, results: list[Result], table: Tables | None) -> str:
    first = next((result for result in results if result.status == "passed"), results[0])
    parts = [
        f"<header><h2>{_text(_title(results))}</h2>{_badge(_status(results))}"
        f"<span class=soft>{_duration(_total(results))}</span></header>"
    ]
    if len(results) == 1 and not first.swept:
        parts += [_links(folder, first), _error(first), _numbers(first.metrics), _parameters(first)]
    else:
        note = "sd: standard deviation over runs. low, high: 95 % interval of the mean. n: number of runs."
        parts += [_frame(table.means, "Over the sweep", note)]
        note = "b − a over the n pairs of runs that agree in everything else. low, high: its 95 % interval."
        parts += [_frame(table.differences, "Paired differences", note)]
        parts += [_jobs_table(folder, results), *(_error(result) for result in results)]
    parts += [_figures(first)]
    return f"<section class=card id='{_anchor(first)}'>{''.join(parts)}</section>"


def _links(folder: Path, result: Result) -> str:
    links = [
        f"<a href='{_href(result.folder / name, folder)}'>{text}</a>"
        for name, text in ((PAGE, "Executed notebook"), (NOTEBOOK, "as .ipynb"))
        if (result.folder / name).is_file()
    ]
    return f"<p class=soft>{' · '.join(links)}</p>" if links else ""


def _error(result: Result) -> str:
    if not result.error:
        return ""
    error = result.error
    where = f" in cell [{error['cell']}]" if error["cell"] is not None else ""
    label = f" ({_text(result.label)})" if result.label else ""
    source = (
        f"<details><summary>The cell</summary><pre>{_text(error['source'])}</pre></details>" if error["source"] else ""
    )
    trace = f"<details><summary>Traceback</summary><pre tabindex=0>{_text(error['traceback'])}</pre></details>"
    return (
        f"<div class=error><p><strong>{_text(error['name'])}</strong>{where}{label}</p>"
        f"<pre class=message>{_text(error['message'])}</pre>{source}{trace if error['traceback'] else ''}</div>"
    )


def _numbers(metrics: Mapping[str, Any]) -> str:
    kinds = {name: "text" if isinstance(value, str) else "number" for name, value in metrics.items()}
    items = "".join(
        f"<div><dt>{_text(name)}</dt><dd class={kinds[name]}>{_value(value)}</dd></div>"
        for name, value in metrics.items()
    )
    return f"<dl class=numbers>{items}</dl>" if items else ""


def _parameters(result: Result) -> str:
    rows = "".join(
        f"<tr><th scope=row>{_text(name)}</th><td><code>{_text(repr(value))}</code></td></tr>"
        for name, value in result.parameters.items()
    )
    return f"<details><summary>Parameters</summary><table><tbody>{rows}</tbody></table></details>" if rows else ""


def _frame(frame: pd.DataFrame, caption: str, note: str) -> str:
    if not len(frame):
        return ""
    numeric = [frame[name].dtype.kind in "fi" for name in frame]
    kinds = [" class=number" if number else "" for number in numeric]
    head = "".join(f"<th scope=col{kind}>{_text(name)}</th>" for name, kind in zip(frame, kinds, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{_value(value)}</td>" for value, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    region = f"<div class=scroll tabindex=0 role=region aria-label='{_text(caption)}'>{table}</div>"
    return f"<h3>{_text(caption)}</h3><p class=soft>{_text(note)}</p>{region}"


def _jobs_table(folder: Path, results: list[Result]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{_text(result.label)}</th><td>{_badge(result.status)}</td>"
        f"<td class=number>{_duration(result.seconds)}</td><td>{_links(folder, result)}</td></tr>"
        for result in results
    )
    head = "<th scope=col>Setting<th scope=col>Status<th scope=col class=number>Time<th scope=col>Pages"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<details><summary>All {len(results)} runs</summary><div class=scroll>{table}</div></details>"


def _figures(result: Result) -> str:
    if not (result.folder / FIGURES).is_file():
        return ""
    return "".join(
        _plot(figure, f"{_anchor(result)}-{number}", title=title, note=result.label)
        for number, (title, figure) in enumerate(read_json(result.folder / FIGURES).items())
    )


def _plot(figure: Mapping, name: str, *, title: str, note: str = "") -> str:
    """A figure with its title as text above it, where it wraps on a phone and a screen reader finds it."""
    layout = {key: value for key, value in figure["layout"].items() if key not in ("title", "width")}
    words = figure["layout"].get("title") or {}
    title = _words(words.get("text")) or title
    notes = [_words((words.get("subtitle") or {}).get("text")), note]
    template = (layout.get("template") or {}).get("layout") or {}
    margin = {"l": 64, "r": 20, "t": 80, "b": 56} | template.get("margin", {}) | layout.get("margin", {})
    layout["height"] = (layout.get("height") or 400) - max(0, margin["t"] - _TOP_PX)
    layout["margin"] = margin | {"t": min(margin["t"], _TOP_PX)}
    # A `<` inside a script element could end it; JSON allows its escape anywhere it can stand.
    data = json.dumps({"data": figure["data"], "layout": layout}, separators=(",", ":")).replace("<", "\\u003c")
    caption = f"<strong>{_text(title)}</strong>" if title else ""
    caption += f"<span class=soft>{_text(' · '.join(filter(None, notes)))}</span>" if any(notes) else ""
    return (
        f"<figure tabindex=0>{f'<figcaption>{caption}</figcaption>' if caption else ''}"
        f"<div class=plot role=img aria-label='{_text(title or 'Figure')}' data-figure='{name}'"
        f" style='height:{layout['height']:g}px'></div></figure>"
        f"<script type='application/json' id='{name}'>{data}</script>"
    )


_TOP_PX = 40
"""Room above a figure whose title is text of the page: its buttons, and the titles of its parts."""


def _words(text: str | None) -> str:
    """Text of a figure without its mark-up."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text or "")).split())


def notebook_page(notebook: str | os.PathLike, *, title: str, root: str = "../..") -> str:
    """An executed notebook as HTML, plotly figures alive, drawn by the plotly.js in `root` relative to the page."""
    import nbformat
    import plotly
    from nbconvert import HTMLExporter

    node = nbformat.read(notebook, as_version=4)
    plots = 0
    for cell in node.cells:
        if "outputs" in cell:
            # The state of widgets is not stored, and what they fall back to is a bar at 0 %.
            widget = "application/vnd.jupyter.widget-view+json"
            cell.outputs = [output for output in cell.outputs if widget not in output.get("data", {})]
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if figure := data.get("application/vnd.plotly.v1+json"):
                plots += 1
                output["data"] = {"text/html": _plot(figure, f"plot-{plots}", title="")}
    body, _ = HTMLExporter(template_name="basic", embed_images=False).from_notebook_node(node)
    page = f"<main class=notebook><p class=soft><a href='{root}/{INDEX}'>All notebooks of this run</a></p>{body}</main>"
    return _page(title, page, script=f"{root}/plotly-{plotly.__version__}.min.js", style=NOTEBOOK_CSS)


def _page(title: str, body: str, *, script: str, style: str = "") -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title><link rel="icon" href="data:,"><style>{CSS}{style}</style></head>
<body>{body}<script src="{script}"></script><script>{SCRIPT}</script></body></html>
"""


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _value(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _total(results: Sequence[Result]) -> float:
    return sum(result.seconds for result in results if not math.isnan(result.seconds))


def _when(moment: str) -> str:
    return moment.replace("T", " ").removesuffix("+00:00")


def _duration(seconds: float) -> str:
    if math.isnan(seconds) or not seconds:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _badge(status: str, text: str = "") -> str:
    return f"<span class='badge {status}'>{_text(text or status)}</span>"


def _status(results: Sequence[Result]) -> str:
    found = {result.status for result in results}
    return next(status for status in ("failed", "waiting", "passed") if status in found)


def _title(results: Sequence[Result]) -> str:
    return next((result.title for result in results if result.title), results[0].notebook)


def _anchor(result: Result) -> str:
    return "n-" + "".join(letter if letter.isalnum() else "-" for letter in result.notebook)


def _href(path: Path, start: Path) -> str:
    from urllib.parse import quote

    return quote(os.path.relpath(path, start).replace(os.sep, "/"))
