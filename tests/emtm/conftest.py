"""One tiny ensemble for all tests that need trained teachers: smoke videos, motion alone, two of the families."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from vkdlab import emtm
from vkdlab.data.prepared import GroundingSplits, prepare_grounding
from vkdlab.emtm.study import Study
from vkdlab.training import TrainConfig

RECIPE = emtm.Recipe(TrainConfig(epochs=2, batch_size=16, lr=1e-3, num_threads=1), dim=16, heads=2)
TEACHERS = {"span": emtm.TeacherSpec("span"), "proposal": emtm.TeacherSpec("proposal", ("dis-flow",))}


@dataclass(frozen=True)
class Trained:
    splits: GroundingSplits
    runs_dir: Path
    ensemble: emtm.Ensemble
    study: Study

    @property
    def settings(self):
        return {"recipe": RECIPE, "runs_dir": self.runs_dir, "workers": 1, "progress": False}


@pytest.fixture(scope="session")
def tiny_splits():
    return prepare_grounding("tabletop", profile="smoke", extractors=["dis-flow"], progress=False)


@pytest.fixture(scope="session")
def tiny(tiny_splits, tmp_path_factory):
    runs_dir = tmp_path_factory.mktemp("emtm-runs")
    ensemble = emtm.train_ensemble(
        tiny_splits, teachers=TEACHERS, recipe=RECIPE, runs_dir=runs_dir, workers=1, progress=False
    )
    return Trained(tiny_splits, runs_dir, ensemble, emtm.compare(ensemble))
