"""A person's corrections in FiftyOne come back as a data set that trains."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.browse.test_frames import on_screen
from vkdlab.browse.facts import facts
from vkdlab.browse.from_fiftyone import from_fiftyone, predictions_of, rescore
from vkdlab.browse.to_fiftyone import to_fiftyone
from vkdlab.data import Question, load, own_videos, save_own_videos
from vkdlab.data.features import extract, sentence_features
from vkdlab.data.grounding import GroundingDataset, Standardisation
from vkdlab.emtm import SpanConfig, SpanNetwork


@pytest.fixture
def shown(predictions, name):
    return to_fiftyone(predictions, name=name, progress=False)


def first_query(dataset):
    return dataset.queries[0]


def moments(view, field="gt"):
    return [moment for sample in view for moment in sample[field].detections]


def test_a_moment_whose_frames_were_moved_takes_their_time_and_keeps_its_untouched_side(predictions, shown):
    moved = {}
    rng = np.random.default_rng(1)
    for sample in shown:
        count = sample.metadata.total_frame_count
        for row, moment in enumerate(sample.gt.detections):
            first, last = moment.support
            if row % 3 == 0:
                last = int(rng.integers(first, count + 1))
            elif row % 3 == 1:
                first = int(rng.integers(1, last + 1))
            else:
                first, last = sorted(int(each) for each in rng.integers(1, count + 1, 2))
            moved[moment.query_id] = (moment.support, [first, last], sample.metadata)
            moment.support = [first, last]
        sample.save()
    changed = 0
    for before, after in zip(predictions.dataset.queries, from_fiftyone(shown).queries, strict=True):
        was, now, film = moved[before.id]
        changed += was != now
        assert after.start_s == (before.start_s if was[0] == now[0] else (now[0] - 1) / film.frame_rate)
        assert after.end_s == (before.end_s if was[1] == now[1] else pytest.approx(now[1] / film.frame_rate, abs=1e-12))
        assert after.end_s <= film.duration
        assert replace(after, start_s=before.start_s, end_s=before.end_s) == before
    assert changed > 10
    rescore(shown)
    assert [moment.support for moment in moments(shown)] == [now for _, now, _ in moved.values()]


def test_seconds_that_were_written_by_hand_count_also_after_frames_were_moved_before(predictions, shown):
    sample = shown.first()
    moment = sample.gt.detections[0]
    moment.start_s, moment.end_s = 0.123456789, 2.3456789
    sample.save()
    query = first_query(from_fiftyone(shown))
    assert (query.start_s, query.end_s) == (0.123456789, 2.3456789)
    rescore(shown)
    moment = sample.gt.detections[0]
    assert moment.support == on_screen(0.123456789, 2.3456789, rate=12.5, count=86)
    moment.support = [3, moment.support[1]]
    sample.save()
    rescore(shown)
    moment = sample.gt.detections[0]
    assert (moment.start_s, moment.end_s) == (2 / 12.5, 2.3456789)
    moment.start_s = 0.5
    sample.save()
    query = first_query(from_fiftyone(shown))
    assert (query.start_s, query.end_s) == (0.5, 2.3456789)
    assert from_fiftyone(shown).queries[1:] == predictions.dataset.queries[1:]


def test_an_answer_that_was_moved_onto_the_frames_of_the_truth_takes_their_time(predictions, shown):
    sample = shown.first()
    truth = sample.gt.detections[0]
    answer = next(each for each in sample.student.detections if each.query_id == truth.query_id)
    assert answer.support[0] != truth.support[0]
    assert answer.support[1] != truth.support[1]
    first, last = answer.support = list(truth.support)
    sample.save()
    moved = from_fiftyone(shown, field="student").queries[0]
    assert (moved.id, moved.start_s, moved.end_s) == (truth.query_id, (first - 1) / 12.5, last / 12.5)


def test_answers_tell_nothing_any_more_once_all_queries_are_gone(shown):
    assert all(moment.iou is not None for moment in moments(shown, "student"))
    for sample in shown:
        sample.gt.detections = []
        sample.save()
    rescore(shown)
    assert len(moments(shown, "student")) > 0
    assert all(moment.iou is None and moment.best_teacher is None for moment in moments(shown, "student"))


def test_facts_of_the_whole_data_set_follow_also_when_a_view_is_given(predictions, shown):
    for sample in shown:
        moment = sample.gt.detections[0]
        moment.start_s, moment.end_s = 0.0, sample.duration_s
        sample.save()
    rescore(shown.limit(1))
    assert [sample.gt.detections[0].length_s for sample in shown] == [sample.duration_s for sample in shown]


def test_sentences_deletions_and_additions_come_back(fo, predictions, shown):
    before = predictions.dataset.queries
    sample = shown.first()
    kept = sample.gt.detections
    kept[0].label = "A hand says something else."
    gone = kept.pop(1).query_id
    kept.append(fo.TemporalDetection(label="added", support=[2, 5]))
    kept.append(fo.TemporalDetection(label="added in seconds", support=[2, 13], start_s=0.1234, end_s=1.0))
    copy = kept[0].copy()
    copy.support = [1, 1]
    kept.append(copy)
    sample.save()
    data = from_fiftyone(shown)
    assert data.queries[0] == replace(before[0], sentence="A hand says something else.")
    assert data.queries[1:-3] == tuple(query for query in before[1:] if query.id != gone)
    added, timed, copied = data.queries[-3:]
    assert (added.sentence, added.video, added.start_s, added.end_s) == ("added", sample.video_id, 1 / 12.5, 5 / 12.5)
    assert (timed.start_s, timed.end_s) == (0.1234, 1.0)
    assert copied.sentence == data.queries[0].sentence
    assert len({query.id for query in data.queries}) == len(data.queries) == len(before) + 2
    assert data.fingerprint == from_fiftyone(shown).fingerprint != predictions.dataset.fingerprint
    rescore(shown)
    assert from_fiftyone(shown) == data
    mixed = predictions_of(shown)
    rows = {query.id: row for row, query in enumerate(before)}
    assert np.isnan(mixed.moments_s["student"][-3:]).all()
    for row, query in enumerate(data.queries[:-3]):
        np.testing.assert_array_equal(mixed.moments_s["student"][row], predictions.moments_s["student"][rows[query.id]])


def test_facts_follow_a_correction(predictions, shown):
    sample = shown.first()
    answer = sample.student.detections[0]
    truth = next(moment for moment in sample.gt.detections if moment.query_id == answer.query_id)
    truth.start_s, truth.end_s, truth.label = answer.start_s, answer.end_s, "corrected"
    lost = sample.gt.detections.pop().query_id
    sample.save()
    rescore(shown)
    answer = sample.student.detections[0]
    truth = next(moment for moment in sample.gt.detections if moment.query_id == answer.query_id)
    assert answer.iou == pytest.approx(1.0)
    assert truth.student_iou == pytest.approx(1.0)
    assert answer.label == "corrected"
    assert next(moment for moment in sample.student.detections if moment.query_id == lost).iou is None
    table = facts(predictions_of(shown))
    for sample in shown:
        for moment in sample.teacher_deciding.detections:
            if moment.query_id != lost:
                assert moment.iou == table.teacher_deciding_iou[moment.query_id]
                assert moment.length_percentile == table.length_percentile[moment.query_id]


def test_several_windows_and_empty_kinds_come_back(predictions, name):
    queries = list(predictions.dataset.queries)
    queries[0] = replace(queries[0], windows_s=((queries[0].start_s, queries[0].end_s), (0.25, 0.5)), kind="")
    questions = [Question("q", queries[0].video, "what?", ("a", "b"), 1, evidence_s=(0.1, 0.7))]
    data = replace(predictions.dataset, queries=queries, questions=questions)
    shown = to_fiftyone(data, name=name, progress=False)
    assert from_fiftyone(shown).fingerprint == data.fingerprint
    sample = shown.first()
    sample.gt.detections[0].end_s = queries[0].end_s + 0.5
    sample.save()
    assert first_query(from_fiftyone(shown)).windows_s == ((queries[0].start_s, queries[0].end_s + 0.5), (0.25, 0.5))
    sample.gt.detections[0].label = "another sentence"
    sample.save()
    assert first_query(from_fiftyone(shown)).windows_s == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start_s": 5.0, "end_s": 4.0}, "ends at 4 s, not after its start at 5 s"),
        ({"end_s": 99.0}, "lies beyond the video, which is 6.88 s long"),
        ({"start_s": -1.0}, "before the video"),
        ({"start_s": float("nan")}, "not a pair of finite numbers"),
        ({"support": [80, 87]}, r"its frames \[80, 87\] are not among the video's, 1 to 86"),
        ({"label": None}, "None: it has no sentence; write what it shows as its label"),
        ({"label": "  "}, "it has no sentence"),
    ],
)
def test_corrections_that_are_no_moments_are_refused_by_video_and_sentence(shown, change, message):
    sample = shown.first()
    for name, value in change.items():
        sample.gt.detections[0][name] = value
    sample.save()
    for function in (from_fiftyone, predictions_of, rescore):
        with pytest.raises(ValueError, match=message) as error:
            function(shown)
        assert f"1 moments of {shown.name!r} are none: smoke-test-0000, " in str(error.value)
        assert "Mend or delete them in the App" in str(error.value)


@pytest.mark.parametrize("frames", [[0, 3], [9, 8], None])
def test_frames_that_fiftyone_would_not_write_are_refused_all_the_same(shown, frames):
    collection = shown._sample_collection
    collection.update_one({"video_id": "smoke-test-0000"}, {"$set": {"gt.detections.0.support": frames}})
    with pytest.raises(ValueError, match=rf"its frames {re.escape(str(frames))} are not among the video's"):
        from_fiftyone(shown)


def test_corrected_moments_are_written_as_own_videos_that_are_read_back(predictions, shown, tmp_path):
    sample = shown.first()
    sample.gt.detections[0].support = [5, 9]
    sample.save()
    data = from_fiftyone(shown)
    save_own_videos(data, tmp_path)
    again, bad = own_videos(tmp_path)
    assert bad == []
    assert [(query.sentence, query.start_s, query.end_s) for query in again.queries] == [
        (query.sentence, query.start_s, query.end_s) for query in data.queries
    ]
    assert load(tmp_path, "train").queries


@pytest.mark.slow
def test_a_corrected_data_set_makes_batches_that_a_network_trains_on(shown):
    sample = shown.first()
    sample.gt.detections[0].support = [5, 9]
    sample.save()
    data = from_fiftyone(shown)
    store = extract(data, "dis-flow", workers=1, progress=False)
    plain = Standardisation.none(store.manifest.dim)
    batches = GroundingDataset(data, store, sentence_features([data], progress=False), standardisation=plain)
    batch = batches.collate([batches[row] for row in range(len(batches))])
    assert batch.ids[0] == sample.gt.detections[0].query_id
    torch.testing.assert_close(batch.moment_s[0], torch.tensor([4 / 12.5, 9 / 12.5]))
    size = {"dim": 8, "heads": 2, "conv_layers": 1, "dual_layers": 0}
    network = SpanNetwork(SpanConfig(video_dim=batches.dim, max_clips=batches.max_clips, **size))
    output = network(batch.video, batch.video_mask, batch.query, batch.query_mask)
    network.loss(output, batch)["total"].backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in network.parameters())
