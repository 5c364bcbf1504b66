"""What several tests of delta networks look at."""

import pytest

from vkdlab.data.dense import load_dense


@pytest.fixture(scope="session")
def dense():
    """Three sequences of the smallest world, every eighth frame: 11, 11 and 13 frames."""
    return load_dense("tabletop", "test", profile="smoke", size=(48, 32), every=8, progress=False)
