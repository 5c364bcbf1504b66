"""What a person sees: the report page, and JupyterLab as `vkdlab lab` opens it; in chromium, where there is one."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import plotly.graph_objects as go
import psutil
import pytest

from vkdlab.files import project_root
from vkdlab.report import build

from .test_report import EVIL, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_report_draws_its_figures_offline_and_fits_the_screen(browser, tmp_path, width, height):
    figure = go.Figure(go.Scatter(y=[1, 2, 3], name=EVIL), layout={"width": 2000})
    jobs = [("00_a", {}, {"title": "A" * 80}, {"a long name of a metric " * 3: 1.0}, {"One": figure, "Two": figure})]
    index = build(write_run(tmp_path, jobs))
    page = browser.new_page(viewport={"width": width, "height": height}, offline=True)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"script ran: {dialog.message}"))
    page.goto(index.as_uri())
    page.wait_for_function("document.querySelectorAll('.plot .main-svg .trace').length == 2")
    assert complaints == []
    assert all(url.startswith("file://") for url in requests)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    drawn = page.query_selector(".plot .main-svg").bounding_box()["width"]
    assert drawn <= max(width, 34 * 16)
    page.close()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address with token of a JupyterLab started from somewhere else, its process, and its port."""
    home, port = tmp_path_factory.mktemp("home"), _free_port()
    own = {
        name: str(home / name)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    log = home / "lab.log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vkdlab.cli", "lab", "--no-browser", "--port", str(port)],
            cwd=home, env=os.environ | own, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not (found := re.search(rf"http://127\.0\.0\.1:{port}/lab\S*\?token=\w{{20,}}", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield found[0], process, port
    finally:
        process.terminate()
        process.wait(30)


def test_lab_listens_on_loopback_only_and_wants_its_token(lab):
    address, process, port = lab
    listening = [
        connection.laddr.ip
        for each in psutil.Process(process.pid).children(recursive=True)
        for connection in each.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents")
    token = address.partition("token=")[2]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents/notebooks?token={token}") as answer:
        assert answer.status == 200


@pytest.mark.slow
@pytest.mark.browser
def test_lab_opens_the_first_notebook_without_a_request_to_the_internet(lab, browser):
    address, *_ = lab
    if not (project_root() / "notebooks" / "00_start_here.ipynb").is_file():
        pytest.skip("the checkout has no notebooks")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-MarkdownOutput h1", timeout=60_000)
    page.wait_for_timeout(2000)
    assert page.locator(".Toastify__toast").count() == 0
    foreign = [url for url in requests if not re.match(r"(https?|wss?)://(127\.0\.0\.1|localhost):|data:|blob:", url)]
    assert foreign == []
    page.close()
