"""Small notebooks for the tests of the runner."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = """profile = "demo"  # size: smoke, demo or full
seed = 0
data = "tabletop"  # name of a data set
rate = 0.5  # learning rate
quick = False
ious = [0.3, 0.5]"""


def write_notebook(path: Path, *cells: str, parameters: str | None = PARAMETERS, title: str = "A notebook") -> Path:
    tagged = [] if parameters is None else [new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    notebook = new_notebook(cells=[new_markdown_cell(f"# {title}"), *tagged, *map(new_code_cell, cells)])
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path
