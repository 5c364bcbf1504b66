"""What every test shares: fixed seeds, one thread, a cache of its own, and the real data where it is there."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

# Shapes in signatures are checked while testing; users do not pay for it.
CHECKED = ("vkdlab.metrics", "vkdlab.nn", "vkdlab.emtm", "vkdlab.delta", "vkdlab.vlap", "vkdlab.data.grounding")
install_import_hook(CHECKED, "beartype.beartype")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may still use the global generator


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """A cache that is shared by the session's tests and by nobody else, unless VKDLAB_TEST_CACHE names one to keep."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent  # workers of one session share it
    folder = os.environ.get("VKDLAB_TEST_CACHE") or str(session / "vkdlab-cache")
    previous = os.environ.get("VKDLAB_CACHE")
    os.environ["VKDLAB_CACHE"] = folder
    yield Path(folder)
    if previous is None:
        os.environ.pop("VKDLAB_CACHE")
    else:
        os.environ["VKDLAB_CACHE"] = previous


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real data sets."""
    root = os.environ.get("VKDLAB_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("VKDLAB_DATA names no folder with the real data sets")
    return Path(root)
