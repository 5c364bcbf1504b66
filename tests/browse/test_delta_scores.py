"""What a delta network says of every frame, in the data set and in FiftyOne."""

from dataclasses import replace

import numpy as np
import pytest

from tests.delta.students import saved, world
from vkdlab import delta
from vkdlab.browse import predictions_of, to_fiftyone
from vkdlab.data import FrameReader, load
from vkdlab.delta.student_files import load_student


@pytest.fixture(scope="module")
def dataset():
    whole = load("tabletop", "test", profile="smoke", progress=False)
    return whole.of_videos(list(whole.videos)[:2])


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("delta-student")
    saved(folder, world())
    return load_student(folder)


@pytest.fixture(scope="module")
def scored(dataset, student):
    return delta.predictions_of(dataset, student=student, progress=False)


def test_every_frame_has_the_energy_that_watching_its_video_tells(scored, dataset, student):
    for name, video in dataset.videos.items():
        energy = scored.scores["delta_energy"][name]
        np.testing.assert_array_equal(energy.times_s, FrameReader(video.path).timestamps_s)
        np.testing.assert_allclose(energy.values, delta.watch(video.path, student=student, progress=False).energy)
        assert energy.values[0] == 0
        assert energy.values.max() > 0
        agreement = scored.scores["delta_agreement"][name].values
        assert agreement[0] == pytest.approx(1)  # a key frame is the teacher's
        assert ((agreement >= 0) & (agreement <= 1)).all()


def test_frames_in_fiftyone_carry_it_and_it_comes_back(fo, name, scored):
    shown = to_fiftyone(scored, name=name, progress=False)
    sample = shown.first()
    energy = scored.scores["delta_energy"][sample["video_id"]].values
    told = [sample.frames[number + 1]["delta_energy"] for number in range(len(energy))]
    np.testing.assert_allclose(told, energy)
    assert predictions_of(shown).fingerprint == scored.fingerprint


def test_a_video_without_its_file_is_named(dataset, student):
    first = next(iter(dataset.videos))
    videos = {name: replace(video, path=None) for name, video in dataset.videos.items()}
    with pytest.raises(FileNotFoundError, match=f"2 of the videos come without a file, the first is '{first}'"):
        delta.predictions_of(replace(dataset, videos=videos), student=student)
