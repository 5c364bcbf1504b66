"""A database that is killed while answers are written leaves a clear error; the import that follows is whole."""

import os
import subprocess
import sys

import pytest

from vkdlab.data import Dataset, Video, load
from vkdlab.data.datasets import Query
from vkdlab.files import project_root
from vkdlab.predictions import Predictions

VIDEOS = 700

# A process of its own imports; a thread of it kills its database once the first samples are in.
PROGRAM = """
import os, signal, sys, threading, traceback
from pathlib import Path

import pymongo

from tests.browse.test_killed_import import many
from vkdlab.browse import database
from vkdlab.browse.from_fiftyone import predictions_of
from vkdlab.browse.to_fiftyone import to_fiftyone

folder = Path(sys.argv[1])
predictions = many(folder)
connected = database.connect(folder / "database")

def kill():
    kept = pymongo.MongoClient(connected.uri)[connected.name]
    while not any(kept[name].estimated_document_count() > 1 for name in kept.list_collection_names(
        filter={"name": {"$regex": "^samples"}}
    )):
        pass
    os.kill(connected.pid, signal.SIGKILL)

killer = threading.Thread(target=kill, daemon=True)
killer.start()
try:
    to_fiftyone(predictions, name="killed", progress=False)
    print("was not killed in time")
except database.BrowseError as error:
    print(error)
killer.join()
database.connect()
shown = to_fiftyone(predictions, name="killed", progress=False)
result = ("all of it" if predictions_of(shown).fingerprint == predictions.fingerprint else "less", len(shown))

import fiftyone.operators as operators
os.kill(database.connect().pid, signal.SIGKILL)
try:
    operators.execute_operator("@vkdlab/browse/send_to_notebook", ctx={"dataset": shown})
    print("it was sent")
except operators.executor.ExecutionError as error:
    print(error)
try:
    predictions_of(shown)
except database.BrowseError:
    traceback.print_exc()
print(*result)
"""


def many(folder):
    """So many videos under names of their own, a moment each."""
    one = next(iter(load("tabletop", "test", profile="smoke", progress=False).videos.values()))
    (folder / "videos").mkdir()
    videos = {}
    for row in range(VIDEOS):
        videos[f"v{row}"] = Video(f"v{row}", folder / "videos" / f"{row}.mp4", one.duration_s)
        os.symlink(one.path, videos[f"v{row}"].path)
    queries = [Query(f"q{row}", name, "something moves", 1 + row / 999, 5.0) for row, name in enumerate(videos)]
    data = Dataset(name="many", split="all", profile="full", videos=videos, queries=queries)
    moments = [(query.start_s - 0.5, query.end_s) for query in queries]
    return Predictions(name="many", dataset=data, moments_s={"student": moments})


@pytest.mark.slow
def test_a_database_killed_mid_write_is_an_error_that_says_what_to_do_and_the_next_import_is_whole(fo, tmp_path):
    load("tabletop", "test", profile="smoke", progress=False)  # built once, for both processes
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, tmp_path],
        capture_output=True,
        text=True,
        cwd=project_root(),
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    cure = "To go on, run the cell that opened it again, or call `vkdlab.browse.connect()` again, and repeat the rest."
    told, by_operator = done.stdout.splitlines()[:6], done.stdout.splitlines()[6:12]
    for said in (told, by_operator):
        assert said[0].endswith(f"stopped while it was used; what was written until then is kept. {cure}")
        assert said[1] == f"Its log, {tmp_path / 'database' / 'mongod.log'}, ends:"
        assert all(line.startswith("  ") and "{" not in line for line in said[2:5]), "three messages alone"
        assert said[5] == cure, "what to do is said last, too"
    assert done.stderr.count("Traceback") == 1, "nothing of pymongo's"
    assert "pymongo" not in done.stderr
    assert done.stdout.splitlines()[12:] == [f"all of it {VIDEOS}"]
