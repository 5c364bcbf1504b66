"""A corrected moment is corrected everywhere, and a wrong correction changes nothing."""

import pytest

from vkdlab.browse.correction import correct_moment, delete_query, moments_of
from vkdlab.browse.documents import labelled
from vkdlab.browse.frames import support
from vkdlab.browse.from_fiftyone import from_fiftyone
from vkdlab.browse.selection import facts_of, queries_in
from vkdlab.browse.to_fiftyone import to_fiftyone


@pytest.fixture
def shown(predictions, name, fo):
    """The answers in FiftyOne."""
    return to_fiftyone(predictions, name=name, progress=False)


def _detections(dataset, query) -> dict:
    """A query's detection in every field, read one by one."""
    return {
        field: detection
        for sample in labelled(dataset)
        for field in ("gt", *dataset.info["vkdlab"]["sources"])
        for detection in sample[field].detections
        if detection.query_id == query
    }


def test_the_moments_are_told_as_they_stand(shown, predictions):
    asked = {query.id: query for query in predictions.dataset.queries}
    some = list(asked)[1:4]
    found = moments_of(shown, [*some, "no such query"])
    assert set(found) == set(some)
    for query, moment in found.items():
        video = predictions.dataset.videos[asked[query].video]
        assert (moment.start_s, moment.end_s) == (asked[query].start_s, asked[query].end_s)
        assert (moment.sentence, moment.video) == (asked[query].sentence, video.id)
        assert moment.duration_s == video.duration_s
        assert str(moment) == (
            f"{moment.sentence} ({moment.start_s:g} to {moment.end_s:g} s of {moment.duration_s:g} s)"
        )


def test_a_moved_moment_trains_with_its_new_seconds_and_shows_at_its_new_frames(shown, predictions):
    query = predictions.dataset.queries[2]
    moment = correct_moment(shown, query.id, start_s=0.5, end_s=1.25)
    assert (moment.start_s, moment.end_s, moment.sentence) == (0.5, 1.25, query.sentence)
    sample = labelled(shown).match({"video_id": query.video}).first()
    count = sample.metadata.total_frame_count
    truth = _detections(shown, query.id)["gt"]
    assert truth.support == support(0.5, 1.25, rate=count / sample.duration_s, count=count)
    changed = {each.id: each for each in from_fiftyone(shown).queries}
    assert (changed[query.id].start_s, changed[query.id].end_s) == (0.5, 1.25)
    for each in predictions.dataset.queries:
        assert each.id == query.id or changed[each.id] == each


def test_facts_follow_a_correction(shown, predictions):
    query = predictions.dataset.queries[2]
    start, end = predictions.moments_s["student"][2].tolist()
    correct_moment(shown, query.id, start_s=start, end_s=end)
    assert facts_of(shown).loc[query.id, "student_iou"] == 1
    found = _detections(shown, query.id)
    assert found["student"].iou == 1
    assert found["gt"].student_iou == 1


def test_a_new_sentence_is_that_of_every_answer(shown, predictions):
    query = predictions.dataset.queries[0]
    moment = correct_moment(shown, query.id, sentence="  the hand \n waves  ")
    assert moment.sentence == "the hand waves"
    assert (moment.start_s, moment.end_s) == (query.start_s, query.end_s)
    assert {each.label for each in _detections(shown, query.id).values()} == {"the hand waves"}
    assert len(_detections(shown, query.id)) == 1 + len(predictions.moments_s)
    assert {each.id: each.sentence for each in from_fiftyone(shown).queries}[query.id] == "the hand waves"


def test_a_deleted_query_is_gone_with_its_answers(shown, predictions):
    query = predictions.dataset.queries[5]
    gone = delete_query(shown, query.id)
    assert (gone.query, gone.sentence) == (query.id, query.sentence)
    assert _detections(shown, query.id) == {}
    left = [each for each in predictions.dataset.queries if each != query]
    assert sorted(queries_in(shown)) == sorted(each.id for each in left)
    assert list(from_fiftyone(shown).queries) == left
    with pytest.raises(ValueError, match=rf"has no query '{query.id}': it may have been deleted"):
        correct_moment(shown, query.id, start_s=0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start_s": 3.0, "end_s": 2.0}, "of video .*: the moment ends at 2 s, not after its start at 3 s"),
        ({"start_s": 1.0, "end_s": 1.0}, "the moment ends at 1 s, not after its start at 1 s"),
        ({"start_s": -0.5}, "the moment starts at -0.5 s, before the video"),
        ({"end_s": 1e6}, "lies beyond the video"),
        ({"end_s": float("nan")}, "is not a pair of finite numbers"),
        ({"sentence": "  "}, "a query's sentence is not empty: delete the query"),
        ({}, "nothing to correct: the moment is .* already. Give another start, end or sentence"),
    ],
)
def test_a_wrong_correction_is_told_and_changes_nothing(shown, predictions, given, message):
    query = predictions.dataset.queries[1].id
    before = _detections(shown, query)["gt"].to_dict()
    with pytest.raises(ValueError, match=message):
        correct_moment(shown, query, **given)
    assert _detections(shown, query)["gt"].to_dict() == before


def test_a_moment_that_a_person_drew_is_no_hindrance_and_is_corrected_as_well(shown, predictions, fo):
    query = predictions.dataset.queries[0]
    sample = labelled(shown).match({"video_id": query.video}).first()
    sample = shown[sample.id]
    sample.gt.detections.append(fo.TemporalDetection(label="drawn", support=[1, 4]))
    sample.save()
    drawn = f"{query.video}-new-{sample.gt.detections[-1].id}"
    assert (moments_of(shown, [drawn])[drawn].start_s, moments_of(shown, [drawn])[drawn].end_s) == (0, 4 / 12.5)
    assert correct_moment(shown, query.id, start_s=0.125).start_s == 0.125
    delete_query(shown, query.id)
    assert "drawn" in [each.label for each in shown[sample.id].gt.detections]
    assert correct_moment(shown, drawn, end_s=0.5).end_s == 0.5
    assert (from_fiftyone(shown).queries[-1].id, from_fiftyone(shown).queries[-1].end_s) == (drawn, 0.5)
    delete_query(shown, drawn)
    assert "drawn" not in [each.label for each in shown[sample.id].gt.detections]


def test_frames_that_were_moved_before_stay_moved_when_the_sentence_alone_is_corrected(shown, predictions):
    query = predictions.dataset.queries[0]
    sample = shown.match({"video_id": query.video}).first()
    moment = next(each for each in sample.gt.detections if each.query_id == query.id)
    first, last = moment.support
    moment.support = [first + 5, last + 5]
    sample.save()
    after = correct_moment(shown, query.id, sentence="moved and reworded")
    assert (after.start_s, after.end_s) == pytest.approx(((first + 4) / 12.5, (last + 5) / 12.5))
    changed = from_fiftyone(shown).queries[0]
    assert (changed.start_s, changed.end_s, changed.sentence) == (after.start_s, after.end_s, "moved and reworded")


def test_what_was_changed_elsewhere_meanwhile_stays_and_the_right_moment_is_corrected(shown, predictions):
    one, two, three = [query for query in predictions.dataset.queries if query.video == "smoke-test-0000"][:3]
    held = shown.first()
    assert held.gt.detections[0].query_id == one.id
    # As the App's server would, which is another process: the sample that is held here is not told.
    shown._sample_collection.update_one({"video_id": one.video}, {"$pop": {"gt.detections": -1}})
    correct_moment(shown, two.id, sentence="the second one")
    sentences = {query.id: query.sentence for query in from_fiftyone(shown).queries}
    assert one.id not in sentences
    assert (sentences[two.id], sentences[three.id]) == ("the second one", three.sentence)
    assert held.gt.detections[0].label == "the second one", "what is held follows"
    shown._sample_collection.update_one({"video_id": one.video}, {"$set": {"gt.detections.1.label": "by the App"}})
    delete_query(shown, two.id)
    assert {query.id: query.sentence for query in from_fiftyone(shown).queries}[three.id] == "by the App"


def test_a_moment_that_is_none_is_told_as_it_is_and_can_be_mended(shown, predictions):
    query = predictions.dataset.queries[0]
    sample = shown.match({"video_id": query.video}).first()
    sample.gt.detections[0].start_s, sample.gt.detections[0].label = query.end_s + 1, None
    sample.save()
    broken = moments_of(shown, [query.id])[query.id]
    assert (broken.start_s, broken.end_s, broken.sentence) == (query.end_s + 1, query.end_s, "")
    with pytest.raises(ValueError, match="a query's sentence is not empty"):
        correct_moment(shown, query.id, start_s=0.5)
    correct_moment(shown, query.id, start_s=query.start_s, sentence=query.sentence)
    assert from_fiftyone(shown).queries == predictions.dataset.queries


def test_of_two_copies_of_a_moment_the_one_that_is_named_is_deleted(shown, predictions):
    query = predictions.dataset.queries[0]
    sample = shown.first()
    copy = sample.gt.detections[0].copy()
    copy.support = [1, 2]
    sample.gt.detections.append(copy)
    sample["label"] = None
    sample.save()
    delete_query(shown, query.id)
    assert query.sentence in [each.sentence for each in from_fiftyone(shown).queries if each.end_s == 2 / 12.5]
    assert not {each.query_id for each in sample.student.detections} & {query.id}
