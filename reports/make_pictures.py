"""The README's pictures, from the figures of an executed run: `python reports/make_pictures.py [reports/runs/demo]`.

Needs playwright (extra `dev`) and a chromium on the path.
"""

import json
import shutil
import sys
from pathlib import Path

import plotly.io
from playwright.sync_api import sync_playwright

REPORTS = Path(__file__).resolve().parent
CHOSEN = {
    "00_start_here": "The built-in world",
    "01_data_and_manifests": "What is known exactly",
    "02_teacher_training": "A query and its answers",
    "03_kau_weights": "What each ingredient is worth",
    "04_delta_features": "What it looks like",
    "05_frame_selection": "Does the choice move",
    "08_browse_segments": "The student is wrong, a teacher right",
}


def main(run: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium found: install one (Debian: apt-get install chromium), then run this again")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        for notebook, title in CHOSEN.items():
            figures = next(run.glob(f"jobs/{notebook}-*/figures.json"), None)
            if figures is None:
                print(f"{run} has no {notebook}: its picture stays")  # noqa: T201 - the command's answer
                continue
            figure = plotly.io.from_json(json.dumps(json.loads(figures.read_text())[title]))
            page.set_content(figure.to_html(config={"displayModeBar": False}))
            page.wait_for_function("document.querySelectorAll('.main-svg').length > 0")
            page.wait_for_timeout(500)
            picture = REPORTS / "pictures" / f"{notebook}.png"
            page.locator(".plotly-graph-div").screenshot(path=picture)
            print(picture)  # noqa: T201 - the command's answer
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPORTS / "runs" / "demo")
