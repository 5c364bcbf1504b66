"""The report pages: what they show, that they are whole, and that nothing in them can run or load from elsewhere."""

import json
import re
from html.parser import HTMLParser

import nbformat
import plotly.graph_objects as go
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from vkdlab.files import write_json
from vkdlab.report import Report, build, notebook_page, read_result

EVIL = "</script><script>alert('x')</script>"
VOID = {"meta", "link", "img", "br", "hr", "input"}
MAY_STAY_OPEN = {"th", "td", "tr", "thead", "tbody", "p", "li"}


class Checker(HTMLParser):
    """Fails on tags that do not nest; gathers ids and addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.addresses, self.inline = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.addresses += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open[-1] != tag:
            assert self.open.pop() in MAY_STAY_OPEN, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()


def _checked(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    for address in checker.addresses:
        assert not re.match(r"(https?:)?//", address), address
        assert not address.startswith("#") or address[1:] in checker.ids
    return checker


def write_run(folder, jobs):
    """A run's folder as the runner leaves it: jobs are (notebook, swept, record or None, metrics, figures)."""
    entries = {}
    for number, (notebook, swept, record, metrics, figures) in enumerate(jobs):
        job = folder / "jobs" / f"{notebook}-{number}"
        entries.setdefault(notebook, {"jobs": []})["jobs"].append({"folder": f"jobs/{job.name}", "swept": swept})
        if record is not None:
            usual = {"title": f"Title of {notebook}", "parameters": {"data": EVIL}, "seconds": 75.4, "status": "passed"}
            ended = {"finished": "2025-01-31T10:11:12+00:00", "error": None}
            write_json(job / "job.json", {"notebook": notebook, **usual, **ended, **record})
            write_json(job / "metrics.json", metrics)
            write_json(job / "figures.json", {title: json.loads(figure.to_json()) for title, figure in figures.items()})
            (job / "executed.html").write_text("<p>")
    write_json(
        folder / "run.json", {"name": "demo", "command": f"vkdlab run {EVIL}", "version": "1", "notebooks": entries}
    )
    return folder


@pytest.fixture
def folder(tmp_path):
    figure = go.Figure(
        go.Bar(x=[EVIL], y=[1], name=EVIL), layout={"title": {"text": "Own <b>title</b>"}, "height": 500}
    )
    error = {"name": "ValueError", "message": EVIL, "cell": 3, "source": f"raise {EVIL}", "traceback": f"line 1 {EVIL}"}
    numbers = {"R1": 0.12345, "n": 12345, EVIL: EVIL, "none": None}
    return write_run(
        tmp_path,
        [
            ("00_a", {}, {"title": EVIL}, numbers, {EVIL: figure, "Two": go.Figure()}),
            ("01_b", {}, {"status": "failed", "error": error}, {}, {}),
            ("02_c", {"seed": 0, "data": "a"}, {}, {"m": 1.0}, {"F": go.Figure()}),
            ("02_c", {"seed": 1, "data": "a"}, {}, {"m": 2.0}, {}),
            ("02_c", {"seed": 0, "data": "b"}, {}, {"m": 3.0}, {}),
            ("02_c", {"seed": 1, "data": "b"}, None, {}, {}),
        ],
    )  # fmt: skip


def test_the_page_is_whole_and_refers_only_to_files_beside_it(folder):
    page = build(folder)
    checker = _checked(page.read_text())
    for address in checker.addresses:
        if not address.startswith(("#", "data:")):
            assert (folder / address).is_file(), address
    assert len(list(folder.glob("plotly-*.min.js"))) == 1


def test_text_from_notebooks_cannot_become_markup(folder):
    page = build(folder).read_text()
    assert "<script>alert" not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(&#x27;x&#x27;)" in page
    data = re.search(r"<script type='application/json' id='n-00-a-0'>(.*?)</script>", page)[1]
    assert json.loads(data)["data"][0]["x"] == [EVIL]


def test_the_page_shows_status_time_numbers_errors_and_figures(folder):
    page = build(folder).read_text()
    for shown in ("4 passed", "1 failed", "1 waiting", "1 min 15 s", "0.1235", "12,345", "–", "Executed notebook"):
        assert shown in page, shown
    assert "<strong>ValueError</strong> in cell [3]" in page
    assert page.count("<div class=plot ") == 3
    assert "<strong>Own title</strong>" in page
    assert "aria-label='Two'" in page


def test_a_title_moves_out_of_the_figure_and_its_room_goes_with_it(folder):
    page = build(folder).read_text()
    layout = json.loads(re.search(r"id='n-00-a-0'>(.*?)</script>", page)[1])["layout"]
    assert "title" not in layout
    assert layout["height"] == 460
    assert layout["margin"]["t"] == 40


def test_a_sweep_shows_its_tables_and_saves_them(folder):
    page = build(folder).read_text()
    assert "Over the sweep" in page
    assert "Paired differences" in page
    assert "All 4 runs" in page
    assert (folder / "tables" / "02_c-differences.csv").read_text().splitlines()[1] == "data,a,b,m,2.0,,,1"


def test_building_again_gives_the_same_page(folder):
    first = build(folder).read_bytes()
    assert build(folder).read_bytes() == first


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run .*Make one with `vkdlab run`"):
        build(tmp_path)


def test_tables_of_a_report_need_a_notebook_that_it_has(folder):
    results = tuple(read_result(folder / "jobs" / name, notebook=name[:4], swept={}) for name in ("00_a-0", "01_b-1"))
    report = Report(folder=folder, results=results)
    with pytest.raises(ValueError, match=r"expected one of the notebooks \['00_a', '01_b'\], given None"):
        report.tables()
    assert report.tables("00_a").means["metric"].tolist() == ["R1", "n"]


def test_an_executed_notebook_becomes_a_page_with_live_figures_and_without_widgets(tmp_path):
    figure = {"data": [{"y": [1, 2], "name": EVIL}], "layout": {"width": 700}}
    outputs = [
        new_output("display_data", {"application/vnd.plotly.v1+json": figure}),
        new_output(
            "display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%|  |"}
        ),
        new_output("stream", name="stdout", text="plain <b>text</b>"),
    ]
    cells = [new_markdown_cell("# Title\nWords."), new_code_cell("1 < 2", outputs=outputs, execution_count=1)]
    path = tmp_path / "executed.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    page = notebook_page(path, title="Title")
    _checked(page)
    assert "<script>alert" not in page
    assert page.count('class="plot"') == 1
    assert "0%|" not in page
    assert "plain &lt;b&gt;text&lt;/b&gt;" in page
    assert "../../index.html" in page
    assert "../../plotly-" in page
