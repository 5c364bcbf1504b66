"""One real database for the session's tests, and answers to a small real data set."""

import uuid

import numpy as np
import pytest

from vkdlab.browse import database
from vkdlab.data import load
from vkdlab.predictions import FrameScores, Predictions


@pytest.fixture(scope="session")
def fo(tmp_path_factory):
    """The module `fiftyone`, connected to a database of the session's own."""
    try:
        connected = database.connect(tmp_path_factory.mktemp("fiftyone"))
    except database.BrowseUnavailable as error:
        pytest.skip(str(error))
    yield database.fiftyone()
    connected.close()


@pytest.fixture
def name(fo):
    """A data set's name that nobody else has; what has it at the end is deleted."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    yield name
    for each in fo.list_datasets():
        if each.startswith(name):
            fo.delete_dataset(each)


@pytest.fixture(scope="session")
def predictions(_own_cache) -> Predictions:
    """The small built-in world's test queries, answered by a student, three teachers and their mixture by chance."""
    data = load("tabletop", "test", profile="smoke", progress=False)
    rng = np.random.default_rng(0)
    truth = np.array([(query.start_s, query.end_s) for query in data.queries])
    ends = np.array([data.videos[query.video].duration_s for query in data.queries])

    def near(spread: float) -> np.ndarray:
        moved = np.sort(truth + rng.normal(scale=spread * ends[:, None], size=truth.shape), axis=1)
        return np.clip(moved, 0, ends[:, None])

    spreads = {
        "student": 0.12,
        "teacher_spanning": 0.02,
        "teacher_deciding": 0.3,
        "teacher_proposing": 0.15,
        "label": 0.05,
    }
    moments = {source: near(spread) for source, spread in spreads.items()}
    teachers = [source for source in moments if source.startswith("teacher_")]
    weights = rng.dirichlet(np.ones(len(teachers)), size=(len(truth), 2))
    return Predictions(
        name="by chance",
        dataset=data,
        moments_s=moments,
        confidence={source: rng.uniform(size=len(truth)) for source in moments if source != "label"},
        weights={source: weights[:, :, i] for i, source in enumerate(teachers)},
        scores={
            "relevance": {
                video.id: FrameScores(times_s=np.arange(4) * video.duration_s / 4, values=rng.uniform(size=4))
                for video in data.videos.values()
            }
        },
    )
