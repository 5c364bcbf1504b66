"""What was answered goes to a real database of FiftyOne and comes back exact in seconds, corrections included."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.browse.test_frames import on_screen
from vkdlab.browse.facts import detection_facts, facts
from vkdlab.browse.from_fiftyone import from_fiftyone, predictions_of
from vkdlab.browse.to_fiftyone import OF_FRAMES, OF_SAMPLES, add_source, to_fiftyone
from vkdlab.data import FrameReader
from vkdlab.predictions import Predictions
from vkdlab.runs import Run


@pytest.fixture
def shown(predictions, name):
    return to_fiftyone(predictions, name=name, progress=False)


def moments(view, field="gt"):
    return [moment for sample in view for moment in sample[field].detections]


def rate_of(path):
    reader = FrameReader(path)
    return reader.num_frames / reader.duration_s


def test_answers_come_back_as_they_were(predictions, shown):
    back = from_fiftyone(shown)
    assert back.queries == predictions.dataset.queries
    assert back.actions == predictions.dataset.actions
    assert back.questions == predictions.dataset.questions
    assert back.videos == predictions.dataset.videos
    assert back.fingerprint == predictions.dataset.fingerprint
    everything = predictions_of(shown)
    assert everything.fingerprint == predictions.fingerprint
    for kind in ("moments_s", "confidence", "weights"):
        before, after = getattr(predictions, kind), getattr(everything, kind)
        assert before.keys() == after.keys()
        for source in before:
            np.testing.assert_array_equal(before[source], after[source])
    for video, scores in predictions.scores["relevance"].items():
        np.testing.assert_array_equal(scores.times_s, everything.scores["relevance"][video].times_s)
        np.testing.assert_array_equal(scores.values, everything.scores["relevance"][video].values)


def test_a_moment_says_its_frames_its_exact_seconds_and_its_facts(predictions, shown):
    table = facts(predictions)
    queries = {query.id: row for row, query in enumerate(predictions.dataset.queries)}
    for source in ("gt", *predictions.moments_s):
        known, seen = detection_facts(table, source), 0
        for sample in shown:
            reader = FrameReader(sample.filepath)
            assert sample.metadata.total_frame_count == reader.num_frames
            assert sample.metadata.frame_rate == pytest.approx(reader.num_frames / reader.duration_s)
            for moment in sample[source].detections:
                row = queries[moment.query_id]
                query = predictions.dataset.queries[row]
                truth = (query.start_s, query.end_s)
                expected = truth if source == "gt" else tuple(predictions.moments_s[source][row])
                assert (moment.label, sample.video_id) == (query.sentence, query.video)
                assert (moment.start_s, moment.end_s) == expected
                if expected[1] - expected[0] > 0.01:
                    frames = on_screen(*expected, rate=sample.metadata.frame_rate, count=reader.num_frames)
                    assert moment.support == frames
                sure = predictions.confidence.get(source, np.full(len(queries), np.nan))[row]
                assert moment.confidence == (None if math.isnan(sure) else sure)
                assert {name: moment[name] for name in known[row]} == known[row]
                seen += 1
        assert seen == len(queries)


def test_frame_scores_stand_on_the_frames_that_are_on_screen(predictions, shown):
    for sample in shown:
        scores = predictions.scores["relevance"][sample.video_id]
        expected = {
            int(time_s * rate_of(sample.filepath) + 1e-6) + 1: value
            for time_s, value in zip(scores.times_s, scores.values, strict=True)
        }
        assert {number: frame.relevance for number, frame in sample.frames.items()} == expected


def test_the_data_set_is_persistent_and_its_fields_are_known_to_the_app(fo, predictions, shown):
    assert shown.persistent
    assert shown.media_type == "video"
    schema = shown.get_field_schema(flat=True)
    for source in ("gt", *predictions.moments_s):
        assert isinstance(schema[f"{source}.detections.student_iou"], fo.FloatField)
        assert isinstance(schema[f"{source}.detections.best_teacher"], fo.StringField)
    about = shown.info["vkdlab"]
    assert about["state"] == "complete"
    assert about["fingerprint"] == predictions.fingerprint
    assert about["teachers"] == ["teacher_spanning", "teacher_deciding", "teacher_proposing"]
    assert about["sources"] == ["student", *about["teachers"], "label"]


def test_documents_are_those_that_fiftyone_itself_writes(fo, predictions, shown, name):
    """Written by FiftyOne anew, from the objects that it makes of ours, they have the same entries and types."""
    again = fo.Dataset(f"{name}_again")
    again.add_samples([sample.copy() for sample in shown], dynamic=True, progress=False)

    def form(value):
        if isinstance(value, dict):
            return {key: form(each) for key, each in value.items() if each is not None}
        return [form(each) for each in value] if isinstance(value, list) else type(value)

    def forms(collection):
        return [{key: form(each) for key, each in one.items()} for one in collection.find().sort("filepath")]

    assert forms(shown._sample_collection) == forms(again._sample_collection)
    assert forms(shown._frame_collection) == forms(again._frame_collection)
    assert shown._sample_collection.index_information().keys() == again._sample_collection.index_information().keys()


def test_no_answer_is_no_detection_and_comes_back_as_none(predictions, name):
    answers = predictions.moments_s["student"].copy()
    answers[3] = np.nan
    answers[4] = answers[4, :1]  # of no length
    some = replace(predictions, moments_s=predictions.moments_s | {"student": answers})
    shown = to_fiftyone(some, name=name, progress=False)
    assert len(moments(shown, "student")) == len(answers) - 1
    back = predictions_of(shown)
    np.testing.assert_array_equal(back.moments_s["student"], answers)
    assert math.isnan(back.confidence["student"][3])


def test_a_data_set_alone_shows_the_truth(predictions, name):
    shown = to_fiftyone(predictions.dataset, name=name, progress=False)
    assert from_fiftyone(shown).fingerprint == predictions.dataset.fingerprint
    assert predictions_of(shown).moments_s == {}


def test_a_data_set_without_queries_is_shown(predictions, name):
    empty = replace(predictions.dataset, queries=())
    shown = to_fiftyone(empty, name=name, progress=False)
    assert len(shown) == len(empty.videos)
    assert from_fiftyone(shown).fingerprint == empty.fingerprint


def test_a_run_shows_the_answers_in_its_folder(fo, predictions, name, tmp_path):
    run = Run.open(name, {"lr": 1}, data="x", runs_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="there are no predictions at"):
        to_fiftyone(run)
    predictions.save(run.folder)
    shown = to_fiftyone(run, progress=False)
    assert shown.name == run.folder.name
    assert predictions_of(shown).fingerprint == predictions.fingerprint
    with pytest.raises(TypeError, match="expected a Run, Predictions or a Dataset, got str"):
        to_fiftyone("a run")


def test_the_same_answers_are_not_imported_twice_and_others_only_when_asked(predictions, shown, name):
    sample = shown.first()
    sample.gt.detections[0].label = "corrected"
    sample.save()
    same = to_fiftyone(predictions, name=name, progress=False)
    assert same.first().gt.detections[0].label == "corrected"
    other = replace(predictions, moments_s={"student": predictions.moments_s["student"]}, confidence={}, weights={})
    with pytest.raises(ValueError, match="holds other answers: give another name, or pass overwrite=True"):
        to_fiftyone(other, name=name, progress=False)
    assert predictions_of(to_fiftyone(other, name=name, overwrite=True, progress=False)).fingerprint == (
        other.fingerprint
    )


@pytest.mark.parametrize(("moved_s", "same"), [(0.004, True), (0.05, False)])
def test_answers_that_another_machine_rounds_otherwise_are_the_same(predictions, shown, name, moved_s, same):
    sample = shown.first()
    sample.gt.detections[0].label = "corrected"
    sample.save()
    moved = {source: values + moved_s for source, values in predictions.moments_s.items()}
    again = replace(predictions, moments_s=moved)
    if same:
        assert to_fiftyone(again, name=name, progress=False).first().gt.detections[0].label == "corrected"
    else:
        with pytest.raises(ValueError, match="holds other answers"):
            to_fiftyone(again, name=name, progress=False)


def test_a_data_set_of_somebody_else_is_left_alone(fo, predictions, name):
    fo.Dataset(name, persistent=True)
    with pytest.raises(ValueError, match="is not vkdlab's: give another name"):
        to_fiftyone(predictions, name=name, progress=False)
    with pytest.raises(ValueError, match=r"holds no answers of vkdlab: make one by vkdlab.browse.to_fiftyone"):
        from_fiftyone(fo.load_dataset(name))


def test_an_import_that_was_cut_off_is_made_again(fo, predictions, shown, name):
    shown.info["vkdlab"] = shown.info["vkdlab"] | {"state": "writing"}
    shown.save()
    shown.delete_samples([shown.first().id])
    with pytest.raises(ValueError, match="was not finished"):
        from_fiftyone(shown)
    again = to_fiftyone(predictions, name=name, progress=False)
    assert predictions_of(again).fingerprint == predictions.fingerprint


def test_videos_that_cannot_be_read_are_all_counted_five_are_named_and_nothing_is_written(
    fo, predictions, name, tmp_path
):
    data = predictions.dataset
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    first, second, third = data.videos
    bad = data.videos | {
        first: replace(data.videos[first], path=None),
        second: replace(data.videos[second], path=tmp_path / "gone.mp4"),
        third: replace(data.videos[third], path=tmp_path / "broken.mp4"),
    }
    with pytest.raises(ValueError, match=f"3 videos cannot be shown: {first} has no file; .*gone.mp4.*broken.mp4") as e:
        to_fiftyone(replace(data, videos=bad), name=name, progress=False)
    assert "Nothing was written" in str(e.value)
    assert not fo.dataset_exists(name)
    none = {video: replace(each, path=None) for video, each in data.videos.items()} | {
        f"more {row}": replace(data.videos[first], id=f"more {row}", path=None) for row in range(5)
    }
    with pytest.raises(ValueError, match=r"8 videos cannot be shown: .* and 3 more"):
        to_fiftyone(replace(data, videos=none), name=name, progress=False)


def test_renderings_are_slices_beside_the_videos_that_carry_the_labels(predictions, name):
    paths = {video.id: video.path for video in predictions.dataset.videos.values()}
    some = dict(list(paths.items())[:2])
    shown = to_fiftyone(predictions, name=name, renderings={"flow": paths, "boxes": some}, progress=False)
    assert shown.media_type == "group"
    assert shown.default_group_slice == "rgb"
    assert shown.group_media_types == {"rgb": "video", "flow": "video", "boxes": "video"}
    assert shown.count("gt.detections") == len(predictions.dataset.queries)
    for slice_, count in (("flow", 3), ("boxes", 2)):
        samples = list(shown.select_group_slices(slice_))
        assert len(samples) == count
        assert all(not sample.has_field("gt") or sample.gt is None for sample in samples)
    assert {sample.video_id for sample in shown.get_group(shown.first().group.id).values()} == {shown.first().video_id}
    assert predictions_of(shown).fingerprint == predictions.fingerprint
    same = to_fiftyone(predictions, name=name, renderings={"flow": paths, "boxes": some}, progress=False)
    assert same.name == shown.name
    with pytest.raises(ValueError, match="holds other renderings"):
        to_fiftyone(predictions, name=name, progress=False)


@pytest.mark.parametrize(
    ("renderings", "message"),
    [
        ({"rgb": {}}, "a rendering is named by lower-case letters, digits and _, and not 'rgb', got 'rgb'"),
        ({"Flow": {}}, "got 'Flow'"),
        ({"flow": {"nobody": "x.mp4"}}, "flow of nobody, which is no video here"),
    ],
)
def test_renderings_of_nothing_are_refused(predictions, name, renderings, message):
    with pytest.raises(ValueError, match=message):
        to_fiftyone(predictions, name=name, renderings=renderings, progress=False)


@pytest.mark.parametrize("taken", ["split", "id", "vkdlab", "frames"])
def test_a_source_or_score_that_is_called_like_another_field_is_refused(fo, predictions, name, taken):
    answers = Predictions(name="n", dataset=predictions.dataset, moments_s={taken: predictions.truth_s})
    with pytest.raises(ValueError, match=f"the source '{taken}' is called what FiftyOne calls another field"):
        to_fiftyone(answers, name=name, progress=False)
    assert not fo.dataset_exists(name)


def test_every_field_that_fiftyone_has_by_itself_is_known_as_taken(fo, name, predictions):
    bare = fo.Dataset(name)
    bare.media_type = "video"
    assert set(bare.get_field_schema()) | {"frames"} <= OF_SAMPLES
    assert set(bare.get_frame_field_schema()) == OF_FRAMES
    score = {"frame_number": predictions.scores["relevance"]}
    with pytest.raises(ValueError, match="the score 'frame_number' is called what FiftyOne calls another field"):
        to_fiftyone(replace(predictions, scores=score), name=f"{name}_score", progress=False)


def test_a_sample_or_field_of_somebody_else_is_refused(fo, shown):
    with pytest.raises(ValueError, match=r"has no moments 'teacher', it has gt, student, teacher_spanning"):
        from_fiftyone(shown, field="teacher")
    shown.add_sample(fo.Sample(filepath="/nowhere/added.mp4"))
    with pytest.raises(ValueError, match=r"/nowhere/added.mp4 was not written by to_fiftyone: add it"):
        from_fiftyone(shown)


def test_answers_of_a_source_come_back_as_a_data_set_too(predictions, shown):
    data = from_fiftyone(shown, field="student")
    assert [(query.id, query.start_s, query.end_s) for query in data.queries] == [
        (query.id, *moment)
        for query, moment in zip(predictions.dataset.queries, predictions.moments_s["student"].tolist(), strict=True)
    ]


@pytest.mark.parametrize("renderings", [False, True])
def test_of_a_view_its_videos_and_moments_come_back(fo, predictions, name, renderings):
    paths = {video.id: video.path for video in predictions.dataset.videos.values()}
    shown = to_fiftyone(predictions, name=name, renderings={"flow": paths} if renderings else None, progress=False)
    table = facts(predictions)
    chosen = set(table.index[table.student_iou < 0.6])
    assert 0 < len(chosen) < len(table)
    expected = tuple(query for query in predictions.dataset.queries if query.id in chosen)
    one = shown.match(fo.ViewField("video_id") == expected[0].video)
    assert set(from_fiftyone(one).videos) == {expected[0].video}
    low = fo.ViewField("student_iou") < 0.6
    filtered = from_fiftyone(shown.filter_labels("gt", low))
    assert filtered.queries == expected
    rgb = shown.select_group_slices("rgb") if renderings else shown
    for clips in (rgb.filter_labels("gt", low).to_clips("gt"), rgb.filter_labels("student", low).to_clips("student")):
        data = from_fiftyone(clips)
        assert data.queries == expected
        assert set(data.videos) == {query.video for query in expected}
        some = predictions_of(clips)
        rows = [query.id in chosen for query in predictions.dataset.queries]
        np.testing.assert_array_equal(some.moments_s["label"], predictions.moments_s["label"][rows])


def test_another_run_s_answers_are_a_further_field(predictions, shown):
    rng = np.random.default_rng(5)
    order = rng.permutation(len(predictions.dataset.queries))
    other = Predictions(
        name="other",
        dataset=replace(predictions.dataset, queries=[predictions.dataset.queries[row] for row in order]),
        moments_s={"student": np.sort(rng.uniform(0, 6, (len(order), 2)), axis=1)},
        confidence={"student": rng.uniform(size=len(order))},
    )
    add_source(shown, other, as_="student_b")
    add_source(shown, other, as_="teacher_new")
    both = predictions_of(shown)
    for as_ in ("student_b", "teacher_new"):
        np.testing.assert_array_equal(both.moments_s[as_][order], other.moments_s["student"])
        np.testing.assert_array_equal(both.confidence[as_][order], other.confidence["student"])
    assert both.teachers[-1] == "teacher_new"
    table = facts(both)
    for moment in moments(shown, "student_b"):
        assert moment.iou == table.student_b_iou[moment.query_id]
    for moment in moments(shown):
        assert moment.best_teacher == table.best_teacher[moment.query_id]
    assert to_fiftyone(predictions, name=shown.name, progress=False).has_field("student_b")
    with pytest.raises(ValueError, match="has a field 'student_b' already"):
        add_source(shown, other, as_="student_b")
    with pytest.raises(ValueError, match="'other' has no source 'label', it has student"):
        add_source(shown, other, source="label", as_="c")
    fewer = replace(other, dataset=replace(other.dataset, queries=other.dataset.queries[1:]),
                    moments_s={"student": other.moments_s["student"][1:]}, confidence={})  # fmt: skip
    with pytest.raises(
        ValueError, match=r"have other queries: 'smoke-test-\S+' is not answered by the other run. Pred"
    ):
        add_source(shown, fewer, as_="c")
    with pytest.raises(ValueError, match="named by lower-case letters"):
        add_source(shown, other, as_="Other Run")
    assert not shown.has_field("c")
