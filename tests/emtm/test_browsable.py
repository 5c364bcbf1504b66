"""What of a study can be looked at: every source's answer to every test query, in the data set's order."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vkdlab import emtm
from vkdlab.emtm.study import KAU
from vkdlab.metrics import temporal_iou
from vkdlab.predictions import Predictions


@pytest.fixture(scope="module")
def student(tiny):
    """A student of one epoch, whose answers come in another order than the data set's."""
    trained = emtm.train_students(tiny.splits, {"alone": emtm.StudentSpec()}, {}, **tiny.settings)["alone"]
    return replace(trained, items=list(reversed(trained.items)))


def test_every_source_answers_every_query_in_the_order_of_the_data_set(tiny, student):
    found = emtm.predictions_of(tiny.study, {"student": student}, name="tiny")
    outputs, mixed = tiny.ensemble.test, tiny.study.test[KAU]
    queries = tiny.splits.test.dataset.queries
    assert list(found.moments_s) == ["student", "label", *(f"teacher_{name}" for name in outputs.names)]
    answers = {item.id: item for item in student.items}
    for row, query in enumerate(queries):
        where = outputs.ids.index(query.id)
        assert tuple(found.moments_s["student"][row]) == answers[query.id].predicted_s[0]
        assert found.moments_s["label"][row].tolist() == mixed.moments_s[where, 0].tolist()
        for place, name in enumerate(outputs.names):
            assert found.moments_s[f"teacher_{name}"][row].tolist() == outputs.moments_s[where, place].tolist()
            assert found.weights[f"teacher_{name}"][row].tolist() == mixed.weights[where, place].tolist()


def test_its_mean_iou_is_that_of_the_study(tiny, student):
    found = emtm.predictions_of(tiny.study, {"student": student}, name="tiny")
    truth = torch.from_numpy(found.truth_s)
    for name in tiny.ensemble.test.names:
        iou = temporal_iou(torch.from_numpy(found.moments_s[f"teacher_{name}"]), truth).mean().item()
        assert iou == pytest.approx(tiny.study.rows[name]["mIoU"].value, abs=1e-5)
    iou = temporal_iou(torch.from_numpy(found.moments_s["label"]), truth).mean().item()
    assert iou == pytest.approx(tiny.study.rows[KAU]["mIoU"].value, abs=1e-5)


def test_confidence_is_the_geometric_mean_of_the_probabilities_of_start_and_end(tiny, student):
    found = emtm.predictions_of(tiny.study, {"student": student}, name="tiny")
    outputs = tiny.ensemble.test
    for row, query in enumerate(found.dataset.queries):
        where = outputs.ids.index(query.id)
        valid = int(outputs.num_clips[where])
        pairs = [
            (outputs.start[where, 0, first] * outputs.end[where, 0, last]).sqrt().item()
            for first in range(valid)
            for last in range(first, valid)
        ]
        assert found.confidence[f"teacher_{outputs.names[0]}"][row] == pytest.approx(max(pairs), abs=1e-6)
    assert all(((values >= 0) & (values <= 1)).all() for values in found.confidence.values())


def test_it_needs_no_student_and_comes_back_from_its_file(tiny, tmp_path):
    found = emtm.predictions_of(tiny.study, name="teachers alone")
    assert "student" not in found.moments_s
    again = Predictions.load(found.save(tmp_path))
    assert again.fingerprint == found.fingerprint
    np.testing.assert_array_equal(again.weights["teacher_span"], found.weights["teacher_span"])


def test_a_mixture_that_is_not_there_is_named(tiny):
    with pytest.raises(ValueError, match=r"expected aggregate .*KAU.*, got 'nobody'"):
        emtm.predictions_of(tiny.study, name="x", aggregate="nobody")


def test_training_queries_are_answered_by_the_same_networks(tiny, student):
    found = emtm.predictions_of(
        tiny.study, {"student": student, "student_b": student}, name="x", split="train", progress=False
    )
    outputs = tiny.ensemble.train
    assert found.dataset is tiny.splits.train.dataset
    for row, query in enumerate(found.dataset.queries):
        where = outputs.ids.index(query.id)
        for place, name in enumerate(outputs.names):
            assert found.moments_s[f"teacher_{name}"][row].tolist() == outputs.moments_s[where, place].tolist()
    np.testing.assert_array_equal(found.moments_s["student"], found.moments_s["student_b"])
    duration = np.array([found.dataset.videos[query.video].duration_s for query in found.dataset.queries])
    assert (found.moments_s["student"][:, 1] <= duration + 1e-3).all()


def test_an_unknown_split_is_named(tiny):
    with pytest.raises(ValueError, match="expected split test or train, got 'val'"):
        emtm.predictions_of(tiny.study, name="x", split="val")
