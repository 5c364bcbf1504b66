"""What a person looks at in the App comes down to the right queries, and reaches a notebook as it is."""

import os
import uuid
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from vkdlab.browse import database
from vkdlab.browse.correction import correct_moment
from vkdlab.browse.documents import about, labelled
from vkdlab.browse.facts import facts
from vkdlab.browse.selection import FILE, queries_in, selected, write_selection
from vkdlab.browse.to_fiftyone import to_fiftyone
from vkdlab.predictions import Predictions

UNANSWERED = 3


@pytest.fixture(scope="module")
def answers(predictions) -> Predictions:
    """Answers of which the student owes one."""
    student = predictions.moments_s["student"].copy()
    student[UNANSWERED] = np.nan
    return replace(predictions, moments_s={**predictions.moments_s, "student": student})


@pytest.fixture(scope="module")
def renderings(answers, tmp_path_factory) -> dict:
    """Further files of the same videos."""
    folder = tmp_path_factory.mktemp("flow")
    for video in answers.dataset.videos.values():
        os.link(video.path, folder / f"{video.id}.mp4")
    return {"flow": {video: folder / f"{video}.mp4" for video in answers.dataset.videos}}


@pytest.fixture(scope="module", params=["videos alone", "videos with a rendering"])
def shown(request, answers, renderings, fo):
    """The answers in FiftyOne, with and without groups, for tests that only look."""
    grouped = request.param != "videos alone"
    name = f"test_selection_{uuid.uuid4().hex[:8]}"
    yield to_fiftyone(answers, name=name, progress=False, renderings=renderings if grouped else None)
    fo.delete_dataset(name)


def _iou(answers, source) -> dict[str, float]:
    """IoU of every query that the source answered, one by one."""
    found = {}
    for query, (start, end) in zip(answers.dataset.queries, answers.moments_s[source].tolist(), strict=True):
        if start == start:
            shared = max(0.0, min(end, query.end_s) - max(start, query.start_s))
            found[query.id] = shared / ((end - start) + (query.end_s - query.start_s) - shared)
    return found


def _of_video(answers, video) -> tuple[str, ...]:
    return tuple(query.id for query in answers.dataset.queries if query.video == video)


def test_a_whole_data_set_has_all_queries_video_by_video(shown, answers):
    expected = tuple(query for video in shown.distinct("video_id") for query in _of_video(answers, video))
    assert sorted(queries_in(shown)) == sorted(query.id for query in answers.dataset.queries)
    assert queries_in(shown.view()) == queries_in(shown)
    assert len(queries_in(shown)) == len(expected) == len(set(queries_in(shown)))


def test_a_filter_of_one_source_leaves_the_queries_that_meet_it(shown, answers, fo):
    for source, bound in (("student", 0.5), ("student", 0.9), ("teacher_deciding", 0.3)):
        view = shown.filter_labels(source, fo.ViewField("iou") < bound)
        assert set(queries_in(view)) == {query for query, iou in _iou(answers, source).items() if iou < bound}
    unanswered = answers.dataset.queries[UNANSWERED].id
    assert unanswered in queries_in(shown)
    assert unanswered not in queries_in(shown.filter_labels("student", fo.ViewField("iou") >= 0))


def test_filters_of_two_sources_both_hold(shown, answers, fo):
    view = shown.filter_labels("student", fo.ViewField("iou") < 0.7)
    view = view.filter_labels("teacher_spanning", fo.ViewField("iou") >= 0.7)
    student, teacher = _iou(answers, "student"), _iou(answers, "teacher_spanning")
    expected = {query for query, iou in student.items() if iou < 0.7 and teacher[query] >= 0.7}
    assert set(queries_in(view)) == expected
    assert expected


def test_labels_chosen_by_a_tag_name_their_queries_whatever_their_field(shown, fo):
    samples = labelled(shown)
    first = samples.first()
    ids = [first.student.detections[0].id, first.teacher_deciding.detections[1].id]
    samples.select_labels(ids=ids).tag_labels("look")
    shown.reload()
    expected = {first.student.detections[0].query_id, first.teacher_deciding.detections[1].query_id}
    assert set(queries_in(samples.select_labels(tags="look"))) == expected
    assert set(queries_in(samples.select_labels(ids=ids[:1]))) == {first.student.detections[0].query_id}


def test_a_view_without_some_fields_has_the_queries_of_the_others(shown, answers):
    view = labelled(shown).select_fields(["gt", "video_id"])
    assert queries_in(view) == queries_in(shown)
    assert queries_in(shown.exclude_fields(["gt", "video_id"])) == queries_in(shown)
    answered = set(queries_in(labelled(shown).select_fields("student")))
    assert answered == {query.id for row, query in enumerate(answers.dataset.queries) if row != UNANSWERED}


def test_selected_samples_and_labels_add_up_and_narrow_the_view(shown, answers, fo):
    samples = labelled(shown)
    one, two = samples.values("id")[:2]
    names = dict(zip(samples.values("id"), samples.values("video_id"), strict=True))
    assert set(queries_in(shown, selected=[one])) == set(_of_video(answers, names[one]))
    filtered = shown.filter_labels("student", fo.ViewField("iou") < 0.8)
    expected = {query for query in _of_video(answers, names[one]) if _iou(answers, "student").get(query, 1) < 0.8}
    assert set(queries_in(filtered, selected=[one])) == expected
    detection = samples[two].student.detections[1]
    label = {"label_id": detection.id, "sample_id": two, "field": "student"}
    assert queries_in(shown, selected_labels=[label]) == (detection.query_id,)
    both = queries_in(shown, selected=[one], selected_labels=[label])
    assert set(both) == {*_of_video(answers, names[one]), detection.query_id}


def test_a_clip_is_the_query_whose_moment_it_plays(shown, answers, fo):
    for field in ("gt", "student"):
        clips = labelled(shown).to_clips(field)
        assert set(queries_in(clips)) == set(labelled(shown).values(f"{field}.detections.query_id", unwind=True))
        one = clips.skip(2).first()
        assert queries_in(clips, selected=[one.id]) == (one[field].query_id,)
    missed = (
        labelled(shown).filter_labels("student", fo.ViewField("iou") < 0.5).to_clips("student").sort_by("student.iou")
    )
    assert set(queries_in(missed)) == {query for query, iou in _iou(answers, "student").items() if iou < 0.5}
    assert missed.first().student.query_id in queries_in(missed.limit(1))
    by_frames = labelled(shown).limit(1).to_clips([[(1, 2), (3, 4)]])
    assert set(queries_in(by_frames)) == set(_of_video(answers, labelled(shown).first().video_id))


def test_what_is_selected_among_renderings_are_the_queries_of_the_rendered_video(shown, answers):
    if shown.media_type != "group":
        return
    flow = shown.select_group_slices("flow")
    one = flow.skip(1).first()
    assert set(queries_in(flow)) == set(queries_in(shown))
    assert set(queries_in(shown, selected=[one.id])) == set(_of_video(answers, one.video_id))
    assert set(queries_in(flow, selected=[one.id])) == set(_of_video(answers, one.video_id))
    assert set(queries_in(flow.limit(1))) == set(_of_video(answers, flow.first().video_id))


def test_an_empty_view_has_no_query_and_is_not_sent(shown, fo):
    empty = shown.filter_labels("student", fo.ViewField("iou") > 2)
    assert queries_in(empty) == ()
    with pytest.raises(ValueError, match="what is chosen holds no moment: select some videos"):
        write_selection(empty)


def test_what_is_sent_arrives_with_every_fact_exactly(shown, answers, fo):
    chosen = labelled(shown).skip(1).first()
    path = write_selection(shown, selected=[chosen.id])
    assert path == database.connect().folder / FILE
    got = selected(shown)
    assert set(got.pop("data_set")) == {shown.name}
    expected = facts(answers).loc[list(_of_video(answers, chosen.video_id))]
    pd.testing.assert_frame_equal(got.loc[expected.index], expected, check_exact=True)
    write_selection(shown)
    assert len(selected()) == len(answers.dataset.queries), "an earlier selection is replaced"


def test_text_that_looks_like_a_number_or_like_nothing_stays_text(answers, name, fo):
    data = answers.dataset
    odd = [("007", "null"), ("1e3", 'says "a, b" = 1'), ("NA", "NaN"), ("-0.0", "2.50")]
    queries = [replace(query, id=id, sentence=said) for query, (id, said) in zip(data.queries, odd, strict=False)]
    shown = to_fiftyone(Predictions(name="odd", dataset=replace(data, queries=queries)), name=name, progress=False)
    write_selection(shown)
    got = selected(shown)
    assert dict(zip(got.index, got["sentence"], strict=True)) == dict(odd)
    assert got["start_s"].dtype == float


def test_corrections_are_in_what_is_sent(answers, name, fo):
    shown = to_fiftyone(answers, name=name, progress=False)
    query = answers.dataset.queries[0]
    correct_moment(shown, query.id, start_s=query.start_s + 0.0625)
    write_selection(shown)
    row = selected().loc[query.id]
    assert row["start_s"] == query.start_s + 0.0625
    moved = _iou(replace(answers, dataset=replace(answers.dataset, queries=(
        replace(query, start_s=query.start_s + 0.0625), *answers.dataset.queries[1:]
    ))), "student")  # fmt: skip
    assert row["student_iou"] == pytest.approx(moved[query.id], abs=1e-12)


def test_nothing_sent_and_what_another_data_set_sent_are_told(shown, fo):
    path = write_selection(shown)
    other = fo.Dataset(f"{shown.name}_other")
    with pytest.raises(ValueError, match=rf"were sent from the data set '{shown.name}', not from '{other.name}'"):
        selected(other)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="nothing was sent from the App yet"):
        selected()


def test_a_data_set_of_somebody_else_is_refused(name, fo):
    with pytest.raises(ValueError, match=rf"'{name}' holds no answers of vkdlab: make one by"):
        about(fo.Dataset(name))
