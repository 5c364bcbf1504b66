"""What a notebook shows is taken by a rule, and refused where there is nothing to show."""

import numpy as np
import pytest

from tests.vlap.small_backbone import OPTIONS, questions_of
from tests.vlap.test_student_files import smoke_study
from vkdlab.data.datasets import Question
from vkdlab.vlap.examples import PICTURE, asked_about, example_of, inspections, recipe_for
from vkdlab.vlap.recipes import RECIPES
from vkdlab.vlap.selectors import NONE, ORACLE, UNIFORM
from vkdlab.vlap.study import train_study
from vkdlab.vlap.workshop import OURS, RELEASED


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    _, runs_dir = smoke_study(tmp_path_factory)
    return train_study(profile="smoke", students=[OURS, RELEASED], runs_dir=runs_dir, workers=1, progress=False)


@pytest.fixture(scope="module")
def example(study):
    return example_of(study.splits.test, recipe=study.recipe)


def test_a_recipe_chooses_as_many_frames_as_asked_for():
    assert recipe_for("smoke") == RECIPES["smoke"]
    assert recipe_for("smoke", select=4).method.select == 4
    with pytest.raises(ValueError, match="select is 1 to frames, got select=9, frames=8"):
        recipe_for("smoke", select=9)
    with pytest.raises(ValueError, match="profile is one of smoke, demo, full, got 'tiny'"):
        recipe_for("tiny")
    with pytest.raises(ValueError, match=r"so data is 'tabletop', got 'arid6'. .* real='arid6'"):
        recipe_for("smoke", data="arid6")


def test_the_example_has_the_two_questions_whose_evidence_lies_farthest_apart(study, example):
    test = study.splits.test
    middles = {row.id: sum(row.evidence_s) / 2 / test.dataset.videos[row.video].duration_s for row in test.questions}
    most = max(
        abs(middles[one.id] - middles[two.id])
        for one in test.questions
        for two in test.questions
        if one.video == two.video
    )
    first, second = example.questions[:2]
    assert abs(middles[first.id] - middles[second.id]) == most
    assert {row.id for row in example.questions} == {row.id for row in test.questions if row.video == example.video}
    assert [batch.ids for batch in example.batches] == [(row.id,) for row in example.questions]
    assert example.pictures.frames.shape == (8, PICTURE[1], PICTURE[0], 3)
    np.testing.assert_allclose(
        np.array(example.pictures.times_s) / example.pictures.duration_s, example.batches[0].places[0], atol=1e-6
    )


def test_a_question_is_answered_from_the_prompters_frames_or_those_of_another_way(study, example):
    ours = study.students[OURS].student
    found = example.answered(ours, 1)
    assert found.prompt.question == example.questions[1].question
    assert found.answer == example.questions[1].answer
    assert found.evidence is not None
    assert found.frames == tuple(ours(example.batches[1]).selection.indices[0].tolist())
    assert example.answered(ours, way=UNIFORM).frames == (2, 6)
    assert len(example.answered(ours, way=ORACLE).frames) == 2
    assert example.answered(ours, way=NONE).frames == ()


def test_a_prompter_as_released_moves_by_its_noise_alone(study, example):
    released = study.students[RELEASED].student
    by_seed = [example.answered(released, 0, seed=seed).frames for seed in range(8)]
    assert len({*by_seed}) > 1
    assert by_seed == [example.answered(released, 1, seed=seed).frames for seed in range(8)]


def test_an_example_needs_a_video_with_two_questions_of_known_evidence(tmp_path):
    rows = [
        Question("a", "one", "where to?", OPTIONS[:4], 0, "order", (2.0, 3.0)),
        Question("b", "one", "why?", OPTIONS[:4], 0, "order", None),
        Question("c", "two", "where to?", OPTIONS[:4], 0, "order", (2.0, 3.0)),
    ]
    questions = questions_of(tmp_path, rows, counts={"one": 8, "two": 8})
    with pytest.raises(ValueError, match="no video has two questions whose evidence is known"):
        example_of(questions, recipe=RECIPES["smoke"])


def test_every_choice_of_a_data_set_is_inspected_once(study):
    found = inspections(study.students[OURS], study.splits.test, batch_size=4)
    assert sum(len(each.answers) for each in found) == len(study.splits.test)
    assert {each.indices.shape[1] for each in found} == {2}
    assert [answer for each in found for answer in each.answers.tolist()] == [
        row.answer for row in study.splits.test.questions
    ]


def test_real_videos_are_asked_about_as_a_study_sees_them(study, data_root):
    found = asked_about("gmdcsa24", study, progress=False)
    item = found[0]
    assert item["tokens"].shape == study.splits.test[0]["tokens"].shape
    assert {row.kind for row in found.questions} <= {"after", "before", "between", "first", "last", "count"}
