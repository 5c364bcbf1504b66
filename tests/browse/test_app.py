"""The App as a browser, another site and another machine would meet it."""

import os
import re
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import requests

from vkdlab.browse import app, database
from vkdlab.browse.frames import support
from vkdlab.data import FrameReader
from vkdlab.files import project_root

from ..test_browser import CHROMIUM, QUIET


@pytest.fixture(scope="module")
def dataset(fo, predictions):
    """Three videos with true and answered moments, as a data set that FiftyOne alone would make."""
    data = predictions.dataset
    made = fo.Dataset("test_app", persistent=True)
    for video in data.videos.values():
        reader = FrameReader(video.path)
        rate = reader.num_frames / video.duration_s
        metadata = fo.VideoMetadata(
            frame_rate=rate,
            total_frame_count=reader.num_frames,
            duration=video.duration_s,
            frame_width=reader.width,
            frame_height=reader.height,
        )
        fields = {"gt": predictions.truth_s, "student": predictions.moments_s["student"]}
        sample = fo.Sample(str(video.path), metadata=metadata)
        for name, moments in fields.items():
            rows = [row for row, query in enumerate(data.queries) if query.video == video.id]
            sample[name] = fo.TemporalDetections(
                detections=[
                    fo.TemporalDetection(
                        label=data.queries[row].sentence,
                        support=support(*moments[row], rate=rate, count=reader.num_frames),
                    )
                    for row in rows
                ]
            )
        made.add_sample(sample)
    yield made
    made.delete()


@pytest.fixture(scope="module")
def clips(dataset):
    return dataset.to_clips("gt")


@pytest.fixture(scope="module")
def running(clips):
    started = app.launch(clips)
    yield started
    started.close()


def listening(pid: int) -> set[str]:
    """Addresses at which a process and those that it started are reached by TCP."""
    process = psutil.Process(pid)
    return {
        each.laddr.ip
        for one in (process, *process.children(recursive=True))
        for each in one.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "192.168.0.5", "example.org", "::1", "127.0.0.1.example.org"])
def test_an_address_that_others_reach_is_refused(address):
    with pytest.raises(ValueError, match=r"address is 127.0.0.1, got .*: the App asks for no password"):
        app.launch(None, address=address)


@pytest.mark.parametrize("port", [0, -1, 65536, "5151"])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ValueError, match="port is a number from 1 to 65535"):
        app.launch(None, port=port)


def test_what_is_no_data_set_is_refused_with_the_way_to_make_one(fo, predictions):
    with pytest.raises(ValueError, match=r"expected a FiftyOne data set or view, got Predictions: .*to_fiftyone"):
        app.launch(predictions)


def test_the_app_is_reached_from_this_machine_only(running):
    assert listening(running.pid) == {"127.0.0.1"}
    assert listening(database.connect().pid) == set(), "the database is not reached by TCP at all"
    assert requests.get(running.url + "fiftyone", timeout=60).json()["version"] == "1.22.1"


def test_an_app_is_told_in_one_line(running):
    assert repr(running) == f"FiftyOne's App at {running.url}"
    assert re.fullmatch(r"http://127.0.0.1:\d+/", running.url)


def test_a_port_that_is_taken_is_an_error_and_not_attached_to(running, dataset):
    taken = int(re.search(r":(\d+)/", running.url)[1])
    with pytest.raises(ValueError, match=rf"port {taken} is taken by another program: leave it out"):
        app._Server("127.0.0.1", taken)
    assert requests.get(running.url + "fiftyone", timeout=60).ok


def test_files_of_samples_are_served_whole_and_in_parts(running, dataset):
    path = dataset.first().filepath
    content = Path(path).read_bytes()
    assert ask(running, "media", params={"filepath": path}).content == content
    part = ask(running, "media", params={"filepath": path}, headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, content[5:10])


def ask(running: app.App, path: str = "", **given) -> requests.Response:
    return requests.get(running.url + path, timeout=60, **given)


def test_files_that_are_no_samples_are_refused(running, dataset, tmp_path):
    path = dataset.first().filepath
    (tmp_path / "link.mp4").symlink_to(path)
    beside = f"{Path(path).parent}/../../{Path(path).parents[1].name}/{Path(path).parent.name}/{Path(path).name}"
    for strange in (
        "/etc/passwd",
        str(Path(path).parent),
        beside,
        str(tmp_path / "link.mp4"),
        "",
        "\0",
        "~",
        path + "\0",
    ):
        refused = ask(running, "media", params={"filepath": strange})
        assert (refused.status_code, refused.text) == (403, "only files of samples are served"), strange
    for query in ("filepath={0}&filepath=/etc/passwd", "filepath=/etc/passwd&filepath={0}", "filepath=%2Fetc%2Fpasswd"):
        assert ask(running, "media?" + query.format(path)).status_code == 403
        assert ask(running, "%6dedia/?" + query.format(path)).status_code == 403
        assert requests.head(running.url + "media?" + query.format(path), timeout=60).status_code == 403
    assert "root:" not in ask(running, "plugins/../../../../../../etc/passwd").text


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:5151", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "192.168.0.5", "", "["],
)
def test_a_foreign_name_that_points_here_is_refused(running, host):
    refused = ask(running, headers={"Host": host})
    assert refused.status_code in (400, 403)
    assert "<html" not in refused.text


def test_names_of_this_machine_are_let_through_at_any_port_that_is_forwarded_here(running):
    for host in ("localhost", "localhost:9999", "127.0.0.1:1", "[::1]:5151"):
        assert ask(running, headers={"Host": host}).status_code == 200


def test_pages_of_another_origin_are_refused_and_its_own_is_let_through(running, dataset):
    own = running.url.rstrip("/")
    query = {"json": {"query": "{ __typename }"}, "timeout": 60}
    assert requests.post(running.url + "graphql", headers={"Origin": own}, **query).json() == {
        "data": {"__typename": "Query"}
    }
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", own.replace("http", "https")):
        refused = requests.post(running.url + "graphql", headers={"Origin": origin}, **query)
        assert (refused.status_code, refused.text) == (403, f"pages of {origin} may not ask this App")
        assert "access-control-allow-origin" not in refused.headers
    media = {"params": {"filepath": dataset.first().filepath}}
    for site in ("cross-site", "same-site"):
        image = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        assert ask(running, "media", headers=image, **media).status_code == 403, "a picture in a foreign page"
        framed = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
        assert ask(running, headers=framed).status_code == 200, "a notebook shows the page in a frame"
        assert requests.post(running.url + "graphql", headers=framed, **query).status_code == 403


def test_a_page_of_another_machine_may_not_frame_it(running):
    policy = ask(running).headers["content-security-policy"]
    assert "frame-ancestors 'self' http://127.0.0.1:* http://localhost:* vscode-webview: vscode-file:" in policy


def play(page):
    """Presses play until it plays: while the player loads, a key is lost."""
    for attempt in range(6):
        page.keyboard.press("Space")
        try:
            return page.wait_for_function("window.played().length > 5", timeout=20_000)
        except Exception as error:
            if attempt == 5 or "Timeout" not in str(error):
                raise


@pytest.mark.browser
@pytest.mark.slow
def test_the_grid_shows_the_videos_and_a_clip_plays_its_moment_along_the_timeline(running, clips, tmp_path):
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pictures = Path(os.environ.get("VKDLAB_TEST_PICTURES") or tmp_path)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        asked, refused = set(), set()
        page.on("request", lambda request: asked.add(request.url))
        page.on("requestfailed", lambda request: refused.add(request.url) if request.failure == "csp" else None)
        page.add_init_script(WATCH_VIDEOS)
        page.goto(running.url)
        page.get_by_text("Dismiss").click(timeout=120_000)
        page.wait_for_function("document.querySelectorAll('[data-cy=looker] canvas').length >= 9", timeout=60_000)
        assert page.get_by_text(f"{len(clips)} clips").is_visible()
        for _ in range(30):  # until the clips' pictures are drawn
            page.wait_for_timeout(1000)
            if len(grid := page.screenshot(path=pictures / "grid.png")) > 100_000:
                break
        looker = page.locator("[data-cy=looker]").first.bounding_box()
        page.mouse.move(0, 0)  # off the clip that plays under it
        page.wait_for_timeout(500)
        page.evaluate("window.times = []")
        page.mouse.click(looker["x"] + looker["width"] / 2, looker["y"] + looker["height"] - 4)
        page.wait_for_selector("[data-cy=modal] [data-cy=looker-video-time]", state="attached", timeout=60_000)
        page.wait_for_timeout(1500)
        play(page)
        modal = page.screenshot(path=pictures / "modal.png")
        page.wait_for_function("window.resting() > 1500", timeout=60_000)
        page.screenshot(path=pictures / "end.png")
        played = page.evaluate("window.played()")
        foreign = {url for url in asked if not url.startswith((running.url, "data:", "blob:"))}
        browser.close()

    rate = clips.first().metadata.frame_rate
    first, last = clips.first().support
    assert all(later > earlier - 1 / rate for earlier, later in pairwise(played)), "forwards, but for the last frame"
    assert (first - 2) / rate <= played[0] < played[-1] <= (last + 1) / rate, "it plays its moment and nothing else"
    assert played[-1] >= (last - 2) / rate, "to the end"
    assert foreign <= refused, "no request leaves the machine"
    assert len(grid) > 100_000
    assert len(modal) > 100_000


@pytest.mark.browser
@pytest.mark.slow
def test_a_notebook_that_is_opened_as_localhost_shows_the_app_in_its_cell(dataset, tmp_path):
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    import nbformat

    videos = [(sample.filepath, dict(sample.metadata.to_dict())) for sample in dataset]
    cell = (
        "from vkdlab.browse import app, database\nfo = database.fiftyone()\ndata = fo.Dataset('live')\n"
        f"for path, known in {videos}:\n"
        "    data.add_sample(fo.Sample(path, metadata=fo.VideoMetadata.from_dict(known)))\n"
        "app.launch(data, height=500).show()"
    )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)], metadata=kernel)
    nbformat.write(notebook, tmp_path / "live.ipynb")
    own = {
        name: str(tmp_path / name)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "VKDLAB_CACHE")
    }
    port = free_port()
    arguments = [f"--ServerApp.root_dir={tmp_path}", "--ip=localhost", f"--port={port}", "--no-browser", "--allow-root"]
    arguments += ["--IdentityProvider.token=told"]
    log = open(tmp_path / "lab.log", "w")  # noqa: SIM115
    with log, playwright.sync_playwright() as started:
        lab = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *arguments],
            **dict(stdout=log, stderr=log, cwd=tmp_path, env=os.environ | own | {"PYTHONPATH": str(project_root())}),
        )
        try:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            wait_for(port)
            page.goto(f"http://localhost:{port}/lab/tree/live.ipynb?token=told")
            page.get_by_text("| Idle").wait_for(timeout=60_000)
            page.get_by_text("database.fiftyone()").first.click()
            page.keyboard.press("Shift+Enter")
            page.wait_for_function("document.querySelector('.jp-OutputArea-output')", timeout=120_000)
            assert page.locator("[data-mime-type*=error]").count() == 0, page.locator(
                ".jp-OutputArea"
            ).all_inner_texts()
            frame = page.frame_locator("iframe[src*='subscription']")
            frame.locator("[data-cy=looker]").nth(2).wait_for(timeout=90_000)
            page.wait_for_timeout(1000)
            page.screenshot(path=Path(os.environ.get("VKDLAB_TEST_PICTURES") or tmp_path) / "notebook.png")
            browser.close()
        finally:
            lab.terminate()
            lab.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nothing listens at port {port}")


# FiftyOne draws frames of videos that are in no document: each that its page makes tells where it plays.
WATCH_VIDEOS = """
window.times = [];
const make = document.createElement.bind(document);
document.createElement = (name, ...more) => {
    const element = make(name, ...more);
    if (String(name).toLowerCase() === "video") {
        const note = () => window.times.push([performance.now(), element.currentTime]);
        element.addEventListener("timeupdate", () => { if (!element.paused) note(); });
        element.addEventListener("pause", note);
    }
    return element;
};
window.played = () => window.times.map((each) => each[1]);
window.resting = () => performance.now() - window.times.at(-1)[0];
"""


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_another_app_takes_the_place_of_the_one_that_runs_and_ends_once(dataset, running):
    running.show()  # there is no notebook here
    second = app.launch(dataset, height=400)
    assert not alive(running.pid)
    assert second.session.dataset == dataset
    second.session.view = dataset.limit(1)
    second.close()
    second.close()
    assert not alive(second.pid)
    assert not Path(second._server._kept.folder).exists()
    assert len(dataset) == 3, "the database goes on"
