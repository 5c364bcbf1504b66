"""What the App shows before anybody chose anything, and whether there are files to show."""

import os
import re
from dataclasses import replace

import pytest

from vkdlab.browse import documents
from vkdlab.browse.figures import colours
from vkdlab.browse.to_fiftyone import TRUTH_IN_THE_APP, add_source, to_fiftyone
from vkdlab.data import Video


def _colours(dataset) -> dict[str, str]:
    return {each["path"]: each["fieldColor"] for each in dataset.app_config.color_scheme.fields}


def test_every_source_has_the_colour_of_the_figures_and_truth_and_student_are_shown(fo, predictions, name):
    to_fiftyone(predictions, name=name, progress=False)
    shown = fo.load_dataset(name)
    expected = {source: colours(predictions)[source] for source in predictions.moments_s}
    assert _colours(shown) == {"gt": TRUTH_IN_THE_APP} | expected
    assert len(set(_colours(shown).values())) == 6, "no two are alike"
    assert shown.app_config.color_scheme.color_by == "field"
    assert (shown.app_config.active_fields.exclude, shown.app_config.active_fields.paths) == (False, ["gt", "student"])

    add_source(shown, predictions, as_="student_b")
    assert _colours(shown).items() > expected.items()
    assert len(set(_colours(shown).values())) == 7
    assert shown.app_config.active_fields.paths == ["gt", "student"]


@pytest.mark.parametrize(("sources", "expected"), [(["label", "teacher_spanning"], ["gt", "label"]), ([], ["gt"])])
def test_without_a_student_the_first_source_is_shown(predictions, name, sources, expected, fo):
    some = {source: predictions.moments_s[source] for source in sources}
    answers = replace(predictions, moments_s=some, confidence={}, weights={}, scores={})
    shown = to_fiftyone(answers, name=name, progress=False)
    assert shown.app_config.active_fields.paths == expected


@pytest.mark.parametrize("grouped", [False, True])
def test_files_that_went_missing_since_are_named_when_the_data_set_is_opened_again(
    predictions, name, tmp_path, grouped, fo
):
    def linked(folder):
        (tmp_path / folder).mkdir()
        for video in predictions.dataset.videos.values():
            os.link(video.path, tmp_path / folder / f"{video.id}.mp4")
        return {video: tmp_path / folder / f"{video}.mp4" for video in predictions.dataset.videos}

    paths = linked("videos")
    videos = {id_: Video(id_, paths[id_], video.duration_s, video.group) for id_, video in
              predictions.dataset.videos.items()}  # fmt: skip
    answers = replace(predictions, dataset=replace(predictions.dataset, videos=videos))
    given = {"name": name, "progress": False, "renderings": {"flow": linked("flow")} if grouped else None}
    to_fiftyone(answers, **given)
    sample = documents.labelled(to_fiftyone(answers, **given)).first()
    gone = (given["renderings"]["flow"] if grouped else paths)[sample.video_id]
    gone.rename(tmp_path / "moved.mp4")
    message = f"1 video files of the data set {name!r} in FiftyOne are missing: {gone}. Put them back"
    with pytest.raises(ValueError, match=re.escape(message)):
        to_fiftyone(answers, **given)
    (tmp_path / "moved.mp4").rename(gone)
    assert to_fiftyone(answers, **given).name == name
