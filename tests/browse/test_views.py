"""Saved views against loops over the answers, on a data set of videos and on one of groups, in a real database."""

import math
import shutil
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import pytest

from tests.browse.test_facts import NAN, made, with_gaps
from tests.browse.test_questions import asked_slowly
from vkdlab.browse.facts import facts
from vkdlab.browse.from_fiftyone import rescore
from vkdlab.browse.questions import QUESTIONS, Condition, Question
from vkdlab.browse.to_fiftyone import add_source, to_fiftyone
from vkdlab.browse.views import clips, save_views, videos
from vkdlab.data import FrameReader

SOURCES = ("student", "teacher_spanning", "teacher_deciding", "teacher_proposing", "label")


@pytest.fixture(scope="module")
def answers(predictions):
    """Answers of which some are missing."""
    return with_gaps(predictions)


@pytest.fixture(scope="module")
def asked(answers):
    """Query ids by question, found without FiftyOne."""
    return asked_slowly(facts(answers))


@pytest.fixture(scope="module", params=["videos", "groups"])
def saved(fo, answers, request, tmp_path_factory):
    """A data set with its views saved, and read anew from the database."""
    renderings = None
    if request.param == "groups":
        folder = tmp_path_factory.mktemp("flow")
        paths = {each.id: shutil.copy(each.path, folder) for each in answers.dataset.videos.values()}
        renderings = {"flow": paths}
    dataset = to_fiftyone(answers, name=f"views of {request.param}", renderings=renderings, progress=False)
    names = save_views(dataset)
    dataset.reload()
    yield dataset, names
    dataset.delete_saved_views()
    fo.delete_dataset(dataset.name)


@contextmanager
def looked_at(dataset, slice_):
    before = dataset.group_slice
    dataset.group_slice = slice_
    yield
    dataset.group_slice = before


def queries_of(samples, field):
    """Query ids of a field's detections, sample by sample, as FiftyOne's samples tell them."""
    return [[each.query_id for each in (sample[field].detections if sample[field] else [])] for sample in samples]


def answered(answers, source, query):
    row = [each.id for each in answers.dataset.queries].index(query)
    return source == "gt" or not math.isnan(answers.moments_s[source][row, 0])


def with_video(predictions, video):
    """The same answers, of a video that has a file."""
    data = replace(predictions.dataset, videos={"v": replace(video, id="v")})
    return replace(predictions, dataset=data)


def frames_on_screen(answers, source, query):
    """Every frame that shows a part of a moment, one frame at a time."""
    row = [each.id for each in answers.dataset.queries].index(query)
    start_s, end_s = (answers.truth_s if source == "gt" else answers.moments_s[source])[row]
    reader = FrameReader(answers.dataset.videos[answers.dataset.queries[row].video].path)
    frame_s = reader.duration_s / reader.num_frames
    shown = [
        f for f in range(1, reader.num_frames + 1) if min(end_s, f * frame_s) - max(start_s, (f - 1) * frame_s) > 1e-6
    ]
    return shown or [min(int(start_s / frame_s) + 1, reader.num_frames)]


def test_every_question_is_saved_as_videos_and_as_clips_with_what_it_asks_in_words(saved):
    dataset, names = saved
    assert names == [
        *(each for name in QUESTIONS for each in (name, f"{name} (clips)")), "gt (clips)", "student (clips)",
    ]  # fmt: skip
    assert sorted(dataset.list_saved_views()) == sorted(names)
    for name, question in QUESTIONS.items():
        for each in (name, f"{name} (clips)"):
            assert question.asks[1:] in dataset.get_saved_view_info(each)["description"]


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_saved_view_has_exactly_the_videos_and_in_every_field_the_queries_that_a_loop_names(
    saved, answers, asked, name
):
    dataset, _ = saved
    view = dataset.load_saved_view(name)
    in_videos = {}
    for query in answers.dataset.queries:
        if query.id in asked[name]:
            in_videos.setdefault(query.video, []).append(query.id)
    assert view.values("video_id") == list(in_videos)
    for source in ("gt", *SOURCES):
        expected = [[id_ for id_ in ids if answered(answers, source, id_)] for ids in in_videos.values()]
        assert queries_of(view, source) == expected


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_clip_view_plays_exactly_the_frames_of_the_true_moments_the_most_telling_first(saved, answers, asked, name):
    dataset, _ = saved
    view = dataset.load_saved_view(f"{name} (clips)")
    assert view.values("gt.query_id") == asked[name]
    for clip in view:
        shown = frames_on_screen(answers, "gt", clip["gt"].query_id)
        assert list(range(clip.support[0], clip.support[1] + 1)) == shown


def test_a_clip_shows_every_sources_answer_to_its_query_and_to_no_other(saved, answers):
    dataset, _ = saved
    for name in ("teachers_disagree (clips)", "gt (clips)"):
        view = dataset.load_saved_view(name)
        for source in SOURCES:
            expected = [[id_] if answered(answers, source, id_) else [] for id_ in view.values("gt.query_id")]
            assert queries_of(view, source) == expected


@pytest.mark.parametrize("field", ["gt", "student", "teacher_deciding"])
def test_clips_of_a_field_are_all_its_moments_in_the_videos_order(saved, answers, field):
    dataset, _ = saved
    view = clips(dataset, field=field) if field.startswith("teacher") else dataset.load_saved_view(f"{field} (clips)")
    expected = [query.id for query in answers.dataset.queries if answered(answers, field, query.id)]
    assert view.values(f"{field}.query_id") == expected
    for clip in view:
        shown = frames_on_screen(answers, field, clip[field].query_id)
        assert list(range(clip.support[0], clip.support[1] + 1)) == shown


def test_a_questions_clips_may_play_what_a_source_answered(saved, answers, asked):
    dataset, _ = saved
    view = clips(dataset, QUESTIONS["teachers_disagree"], field="student")
    expected = [query for query in asked["teachers_disagree"] if answered(answers, "student", query)]
    assert view.values("student.query_id") == expected
    assert queries_of(view, "gt") == [[query] for query in expected]


def test_a_clip_says_the_facts_of_its_query(saved, answers):
    table = facts(answers)
    for clip in saved[0].load_saved_view("teachers_disagree (clips)"):
        assert clip["gt"].teachers_agree == pytest.approx(table.at[clip["gt"].query_id, "teachers_agree"])


@pytest.mark.parametrize("saved", ["groups"], indirect=True)
def test_the_groups_of_a_view_are_the_same_whichever_slice_is_looked_at(saved, answers, asked):
    dataset, _ = saved
    videos_of = {query.id: query.video for query in answers.dataset.queries}
    for slice_ in ("rgb", "flow"):
        with looked_at(dataset, slice_):
            for name in QUESTIONS:
                view = dataset.load_saved_view(name)
                assert set(view.values("video_id")) == {videos_of[query] for query in asked[name]}
                assert view.media_type == "group"
                assert all(set(group) == {"rgb", "flow"} for group in view.iter_groups())
            assert clips(dataset, QUESTIONS["too_late"]).values("gt.query_id") == asked["too_late"]


@pytest.mark.parametrize("saved", ["groups"], indirect=True)
def test_the_app_shows_all_slices_of_a_group_of_a_view_with_the_questions_queries_alone(saved, asked):
    dataset, _ = saved
    from fiftyone.server.filters import GroupElementFilter
    from fiftyone.server.view import handle_group_filter

    view = dataset.load_saved_view("teachers_disagree")
    for sample in view:
        wanted = GroupElementFilter(id=sample.group.id, slices=["rgb", "flow"])
        opened, _ = handle_group_filter(dataset, view, wanted)
        shown = {each.group.name: each for each in opened}
        assert set(shown) == {"rgb", "flow"}
        assert queries_of([shown["rgb"]], "gt") == queries_of([sample], "gt")
        assert set(queries_of([shown["rgb"]], "gt")[0]) <= set(asked["teachers_disagree"])


def test_facts_that_are_compared_with_each_other_name_the_same_in_both(saved, answers):
    where = (Condition("trusted_teacher_iou", "<", "student_iou"), Condition("student_inside", ">", 0.2))
    question = Question("better", "the student is better", where, "student_iou", descending=True)
    expected = question.rows(facts(answers))
    assert expected
    assert clips(saved[0], question).values("gt.query_id") == expected
    assert sorted(chain(*queries_of(videos(saved[0], question), "gt"))) == sorted(expected)


@pytest.mark.parametrize("op", ["<", "<=", ">", ">="])
def test_what_is_not_known_is_named_by_no_view(saved, answers, op):
    question = Question("any", "any", (Condition("student_iou", op, 1e9 if "<" in op else -1e9),), "student_iou")
    expected = question.rows(facts(answers))
    assert 0 < len(expected) < len(answers.dataset.queries)
    assert clips(saved[0], question).values("gt.query_id") == expected
    mixed = Question("mixed", "mixed", (Condition("length_s", op, "student_iou"),), "length_s")
    assert clips(saved[0], mixed).values("gt.query_id") == mixed.rows(facts(answers))


def test_views_that_are_saved_again_follow_what_was_corrected_and_keep_no_old_clips(fo, answers, name):
    def kept():
        return fo.core.odm.get_db_conn().datasets.count_documents({"persistent": True})

    dataset = to_fiftyone(answers.dataset, name=name, progress=False)
    names = save_views(dataset)
    before = kept()
    sample = dataset.first()
    moment = sample["gt"].detections[0]
    moment.start_s, moment.end_s = 0.0, sample.duration_s
    sample.save()
    rescore(dataset)
    assert save_views(dataset) == names
    first = dataset.load_saved_view("longest (clips)").first()
    assert (first["gt"].query_id, first.support) == (moment.query_id, [1, sample.metadata.total_frame_count])
    assert kept() == before


def test_a_run_that_is_added_later_is_in_the_views_too(fo, answers, name):
    dataset = to_fiftyone(answers, name=name, progress=False)
    add_source(dataset, answers, source="label", as_="student_b")
    view = videos(dataset, QUESTIONS["teachers_disagree"])
    assert queries_of(view, "student_b") == queries_of(view, "label")
    assert any(queries_of(view, "student_b"))


def test_of_the_truth_alone_its_own_questions_are_saved(answers, name):
    dataset = to_fiftyone(answers.dataset, name=name, progress=False)
    expected = ["longest", "longest (clips)", "shortest", "shortest (clips)", "gt (clips)"]
    assert save_views(dataset) == expected


def test_a_student_that_never_answers_has_no_clips_and_is_asked_nothing(answers, name):
    silent = with_video(made([(0, 1)], student=[(NAN, NAN)]), next(iter(answers.dataset.videos.values())))
    dataset = to_fiftyone(silent, name=name, progress=False)
    assert save_views(dataset) == ["longest", "longest (clips)", "shortest", "shortest (clips)", "gt (clips)"]
    assert len(dataset.load_saved_view("longest")) == 0, "one moment is neither long nor short"


def test_of_videos_without_queries_no_view_is_saved(answers, name):
    empty = with_video(made([], student=[]), next(iter(answers.dataset.videos.values())))
    assert save_views(to_fiftyone(empty, name=name, progress=False)) == []


def test_a_field_or_fact_that_is_not_there_and_another_data_set_are_refused(fo, saved, name):
    dataset, _ = saved
    with pytest.raises(ValueError, match=r"has no moments 'student_z', it has gt, student, teacher_spanning"):
        clips(dataset, field="student_z")
    strange = Question("strange", "strange", (Condition("label_iou", "<", 1),), "label_iou")
    for make in (clips, videos):
        with pytest.raises(
            ValueError, match=r"'strange' asks of 'label_iou', which the true moments of .* do not tell"
        ):
            make(dataset, strange)
    other = fo.Dataset(name)
    for make in (save_views, clips):
        with pytest.raises(ValueError, match="holds no answers of vkdlab"):
            make(other)
