"""The one way to look at answers that the notebook uses, with FiftyOne and without."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

from vkdlab.browse import QUESTIONS, Browser, selected
from vkdlab.browse.selection import write_selection
from vkdlab.metrics import temporal_iou


@pytest.fixture(scope="module")
def with_fiftyone(fo, predictions):
    browser = Browser.open(replace(predictions, name="test_browser"), viewer="app", progress=False)
    yield browser
    fo.delete_dataset("test_browser")


@pytest.fixture(scope="module")
def without(predictions):
    return Browser.open(predictions, viewer="player")


def test_with_fiftyone_every_question_has_its_two_views(with_fiftyone, predictions):
    views = with_fiftyone.dataset.list_saved_views()
    assert {f"{question}{clips}" for question in with_fiftyone.questions for clips in ("", " (clips)")} <= set(views)
    assert len(with_fiftyone.dataset) == len(predictions.dataset.videos)
    assert "in FiftyOne's data set" in repr(with_fiftyone)


def test_without_fiftyone_the_same_questions_have_the_same_figures(with_fiftyone, without):
    assert without.dataset is None
    assert "without FiftyOne: the player was asked for" in repr(without)
    assert list(without.questions) == list(with_fiftyone.questions)
    for question in QUESTIONS:
        figures = [browser.moments(question, count=2) for browser in (with_fiftyone, without)]
        assert len(figures[0].data) == len(figures[1].data)


def test_headless_it_shows_a_figure_and_starts_no_app(with_fiftyone, without):
    assert isinstance(with_fiftyone.show(live=False), go.Figure)
    assert isinstance(without.show(live=False), go.Figure)


def test_a_question_that_names_nothing_says_so(predictions):
    right = replace(predictions, moments_s=dict.fromkeys(predictions.moments_s, predictions.truth_s))
    figure = Browser.open(right, viewer="player").moments("too_early")
    assert figure.layout.title.text.startswith("No query of these: the student starts and ends too early")
    assert not figure.data


def test_the_truth_alone_can_be_looked_at(predictions):
    alone = Browser.open(replace(predictions, moments_s={}, confidence={}, weights={}), viewer="player")
    assert list(alone.questions) == ["longest", "shortest"]
    assert alone.evaluate().empty
    assert alone.moments("cut_short").layout.title.text.startswith("No query of these")


def test_our_numbers_are_the_same_either_way(with_fiftyone, without, predictions):
    import torch

    inside, outside = with_fiftyone.evaluate(progress=False), without.evaluate()
    assert list(inside.columns[:4]) == list(outside.columns) == ["R1@0.3", "R1@0.5", "R1@0.7", "mIoU"]
    np.testing.assert_allclose(inside[outside.columns], outside, atol=1e-9)
    teacher = predictions.teachers[0]
    iou = temporal_iou(torch.from_numpy(predictions.moments_s[teacher]), torch.from_numpy(predictions.truth_s))
    assert outside.loc[teacher, "mIoU"] == pytest.approx(iou.mean().item())
    assert outside.loc[teacher, "R1@0.5"] == pytest.approx((iou >= 0.5).double().mean().item())


def test_the_report_names_sources_and_questions_in_words(without):
    found = without.metrics(without.evaluate())
    assert found["queries"] == len(without.table)
    assert found["corrected"] == 0
    assert found["queries: too early"] == len(QUESTIONS["too_early"].rows(without.table))
    assert found["mixture mIoU"] == pytest.approx(without.table["label_iou"].mean())


def test_why_the_two_numbers_differ_is_drawn_or_said_to_be_missing(with_fiftyone, without):
    assert with_fiftyone.difference().data
    assert without.difference().layout.title.text == "FiftyOne's number is not here: the player was asked for"


def test_nothing_was_sent_and_nothing_corrected_at_first(with_fiftyone, without):
    for browser in (with_fiftyone, without):
        assert browser.corrections().empty
        assert browser.corrected().fingerprint == browser.predictions.dataset.fingerprint
    assert without.sent().empty


def test_what_was_sent_and_corrected_comes_back(predictions, name):
    browser = Browser.open(replace(predictions, name=name), viewer="app", progress=False)
    dataset = browser.dataset
    sample = dataset.first()
    write_selection(dataset.select(sample.id))
    assert set(browser.sent()["video"]) == {sample["video_id"]} == set(selected()["video"])
    detection = sample["gt"].detections[0]
    detection.label = "Something else."
    detection.start_s += 0.25
    sample.save()
    corrections = browser.corrections()
    assert corrections.index.tolist() == [detection.query_id]
    row = corrections.iloc[0]
    assert row["sentence after"] == "Something else." != row["sentence before"]
    assert row["start_s after"] == row["start_s before"] + 0.25
    assert row["end_s after"] == row["end_s before"]
    again = Browser.open(replace(predictions, name=name), viewer="app", progress=False)
    assert again.table.at[detection.query_id, "sentence"] == "Something else."
    assert again.table.at[detection.query_id, "start_s"] == row["start_s after"]
    assert again.corrections().index.tolist() == [detection.query_id]
    found = again.evaluate(progress=False).loc["student", "mIoU"]
    assert found == pytest.approx(again.table["student_iou"].mean())
    assert again.dataset.first().gt.detections[0].start_s == row["start_s after"]


def test_what_another_data_set_sent_is_not_shown(with_fiftyone, predictions, name):
    other = Browser.open(predictions, viewer="app", name=name, progress=False)
    write_selection(other.dataset)
    assert len(other.sent()) == len(predictions.dataset.queries)
    assert with_fiftyone.sent().empty


def test_renderings_and_other_answers_have_a_data_set_of_their_own_or_take_its_place_when_asked(predictions, name):
    plain = replace(predictions, name=name)
    assert Browser.open(plain, viewer="app", progress=False).dataset.name == name
    grouped = Browser.open(plain, viewer="app", renderings=["boxes"], progress=False).dataset
    assert (grouped.name, grouped.group_slices) == (f"{name} with boxes", ["rgb", "boxes"])
    other = replace(plain, scores={})
    with pytest.raises(ValueError, match="holds other answers: give another name, or pass overwrite=True"):
        Browser.open(other, viewer="app", progress=False)
    assert Browser.open(other, viewer="app", overwrite=True, progress=False).dataset.name == name


def test_videos_without_files_are_looked_at_without_fiftyone(predictions):
    data = predictions.dataset
    videos = {name: replace(video, path=None) for name, video in data.videos.items()}
    browser = Browser.open(replace(predictions, dataset=replace(data, videos=videos)))
    assert browser.dataset is None
    assert f"{len(videos)} of its videos come without a file, such as '{next(iter(videos))}'" in repr(browser)
    assert browser.show(live=False).data
    with pytest.raises(ValueError, match="has no file"):
        Browser.open(browser.predictions, viewer="app", name="test_browser_without_files")


def test_an_unknown_viewer_or_question_is_named(predictions, without):
    with pytest.raises(ValueError, match="expected viewer auto, app, player, got 'window'"):
        Browser.open(predictions, viewer="window")
    with pytest.raises(ValueError, match=r"expected a question of student_wrong_teacher_right, .*, got 'why'"):
        without.moments("why")


def test_where_fiftyone_is_not_installed_the_player_serves_and_says_why(predictions, tmp_path):
    predictions.save(tmp_path)
    program = """
import sys
sys.modules["fiftyone"] = None  # as where it is not installed
from vkdlab.browse import Browser, BrowseUnavailable
from vkdlab.predictions import Predictions
predictions = Predictions.load(sys.argv[1], progress=False)
browser = Browser.open(predictions)
assert browser.dataset is None
print(browser)
browser.show(live=False)
try:
    Browser.open(predictions, viewer="app")
except BrowseUnavailable as missing:
    print(missing)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.strip().splitlines()
    assert "without FiftyOne: FiftyOne is not installed" in first
    assert second.endswith("pip install 'vkdlab[fiftyone]' -c constraints.txt")
