"""A study trains encoders, teacher, answerer and prompters once, and every way to choose frames answers with them."""

import dataclasses
import json

import pytest
import torch

from tests.vlap.test_student_files import same, smoke_study
from vkdlab.training import TrainConfig
from vkdlab.vlap.evaluate import CHANCE, answering, evaluate
from vkdlab.vlap.prompter import ReleasedPrompter
from vkdlab.vlap.recipes import RECIPES, recipe_from
from vkdlab.vlap.selectors import ALL, rivals
from vkdlab.vlap.study import train_study
from vkdlab.vlap.workshop import BLIND, OURS, RELEASED, STUDENTS, UNDISTILLED, Workshop


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The smallest study with all of its students."""
    _, runs_dir = smoke_study(tmp_path_factory)
    return train_study(profile="smoke", runs_dir=runs_dir, workers=1, progress=False), runs_dir


def test_students_differ_by_what_they_are_for(study):
    students = study[0].students
    assert tuple(students) == STUDENTS
    assert students[OURS].student.prompter.question_aware
    assert not students[BLIND].student.prompter.question_aware
    assert students[OURS].teacher is not None
    assert students[UNDISTILLED].decoder is None
    assert isinstance(students[RELEASED].student.prompter, ReleasedPrompter)
    assert students[RELEASED].teacher is None, "the released code calls the student in its place"


def test_what_was_trained_is_loaded_and_not_trained_again(study, monkeypatch):
    trained, runs_dir = study

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("vkdlab.training._train", refuse)
    again = train_study(profile="smoke", students=[OURS], runs_dir=runs_dir, progress=False)
    assert same(trained.students[OURS], again.students[OURS])


def test_processes_of_their_own_train_the_same_networks(study, tmp_path):
    trained = study[0]
    found = train_study(profile="smoke", students=[], runs_dir=tmp_path, workers=2, progress=False)
    assert same(found.teacher, trained.teacher)
    assert same(found.answerer, trained.answerer)


def test_what_is_frozen_is_the_same_for_every_seed_and_what_is_trained_on_it_is_not(study):
    trained, runs_dir = study
    shops = [
        Workshop(RECIPES["smoke"], seed=seed, device="auto", runs_dir=str(runs_dir), progress=False) for seed in (0, 1)
    ]
    first, second = (shop.fresh() for shop in shops)
    assert same(first.encoder, second.encoder)
    assert same(first.mentions, second.mentions)
    assert not same(first.answerer, second.answerer)
    assert torch.equal(first.always, trained.close.looked_up(["hand", "cloth"]))
    assert torch.equal(trained.close.words.weight, trained.glance.words.weight)
    assert same(trained.teacher.mentions, trained.answerer.mentions)


def test_everything_answers_after_training_and_the_teacher_is_another_network(study):
    trained = study[0]
    parts = [trained.teacher, trained.answerer, *trained.students.values()]
    assert not any(module.training for part in parts for module in part.modules())
    assert any(
        not torch.equal(a, b) for a, b in zip(trained.teacher.parameters(), trained.answerer.parameters(), strict=True)
    )


def test_all_ways_to_choose_frames_answer_the_same_questions(study):
    trained = study[0]
    ways = rivals(trained.answerer, select=2) | {
        "prompter": lambda batch: trained.students[OURS](batch).selection,
    }
    found = evaluate(answering(trained.answerer), trained.splits.test, ways, progress=False)
    assert set(found.ways) == {*ways, CHANCE}
    assert {found.accuracy(way).count for way in found.ways} == {len(trained.splits.test)}
    assert {len(row.frames) for row in found.of(ALL)} == {8}
    assert {len(row.frames) for row in found.of("prompter")} == {2}


def test_training_is_asked_more_and_the_other_splits_as_the_world_asks():
    def asked(**changed):
        recipe = dataclasses.replace(RECIPES["smoke"], **changed)
        return Workshop(recipe, seed=0, device="cpu", runs_dir=None, progress=False).questions

    train, val, test = asked()
    own = asked(draws=0)
    assert len(train.questions) > len(own[0].questions)
    assert (val.questions, test.questions) == (own[1].questions, own[2].questions)
    assert [len(part.videos) for part in asked(videos=3)] == [3, 1, 1]


@pytest.mark.parametrize("profile", RECIPES)
def test_a_recipe_is_the_same_after_it_went_through_json(profile):
    recipe = RECIPES[profile]
    assert recipe_from(json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe
    assert recipe_from(dataclasses.asdict(recipe)) == recipe


def test_what_does_not_exist_is_named():
    with pytest.raises(ValueError, match="profile is one of smoke, demo, full, got 'tiny'"):
        train_study(profile="tiny")
    with pytest.raises(ValueError, match=r"students are of prompter, .*, got promter"):
        train_study(profile="smoke", students=["promter"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": (50, 40)}, r"Recipe.size is of multiples of 8, got \(50, 40\)"),
        ({"size": (64, 40)}, r"have a grid of \(8, 5\), got \(6, 5\)"),
        ({"frames": 16}, "Recipe.frames is 16 and Recipe.method.frames 8"),
        ({"draws": -1}, "draws must be at least 0"),
        ({"named_samples": 0}, "named_samples must be at least 1"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPES["smoke"], **changed)


def test_the_last_step_of_a_student_is_counted_as_its_training_counts():
    recipe = RECIPES["smoke"]
    assert recipe.steps(9) == 2
    longer = dataclasses.replace(recipe, student=TrainConfig(epochs=3, batch_size=4))
    assert longer.steps(9) == 9
