import math
from dataclasses import replace

import pytest
import torch

from vkdlab import cost
from vkdlab.data.dense import load_dense
from vkdlab.delta import DeltaNetwork
from vkdlab.delta.baselines import macs_of
from vkdlab.delta.distill import Config
from vkdlab.delta.recipes import RECIPES, DenseSplits, Recipe, load_splits, recipe_for, splits_from
from vkdlab.delta.student_files import latest_student, load_student
from vkdlab.delta.students import (
    Setting,
    delta_macs,
    delta_training,
    low_rank_training,
    small_training,
    teacher_training,
    train_delta,
    train_teacher,
    weights_hash,
)
from vkdlab.delta.study import names_of, train_study, training_of
from vkdlab.delta.tasks import DETECTION, SEGMENTATION
from vkdlab.training import TrainConfig

RECIPE = replace(RECIPES["smoke"], videos=3, teacher_samples=8, student_samples=4, val_frames=8)


@pytest.fixture(scope="module")
def splits():
    return load_splits(recipe=RECIPE, progress=False)


@pytest.fixture
def setting(splits, tmp_path):
    return Setting(splits, RECIPE, runs_dir=str(tmp_path))


REFERENCES = ("teacher", "as released")


def test_a_study_has_the_teacher_and_what_competes_with_it(splits, tmp_path):
    study = train_study(splits, recipe=RECIPE, runs_dir=tmp_path, workers=1, progress=False)
    assert list(study.trained) == names_of(which="few")
    assert [each.kind for each in study.trained.values()] == ["teacher", "delta", "delta", "small", "low rank"]
    delta, small, low = (study.macs(name, period=4) for name in names_of(which="few") if name not in REFERENCES)
    assert delta < study.macs("teacher")
    assert 0.99 * delta <= min(small, low)  # nobody competes with less
    assert delta == pytest.approx(delta_macs(study.setting, Config(), period=4))
    frame = torch.rand(1, *splits.frame_shape)
    theirs = study.teacher.network(frame)
    assert torch.allclose(study["delta 4"].network.reference(frame), theirs, atol=1e-4)
    assert list(study.of_kind("delta")) == ["delta 4", "as released"]
    assert not any(each.network.training for each in study.trained.values())


def test_what_was_trained_once_is_only_loaded_and_another_seed_is_another_training(setting):
    first = train_teacher(setting, progress=False)
    weights = first.run.model_path.stat().st_mtime_ns
    again = train_teacher(setting, progress=False)
    assert weights_hash(again.network) == weights_hash(first.network)
    assert again.run.folder == first.run.folder
    assert again.run.model_path.stat().st_mtime_ns == weights
    other = train_teacher(replace(setting, seed=1), progress=False)
    assert weights_hash(other.network) != weights_hash(first.network)


def test_a_training_that_was_killed_ends_with_the_same_weights(setting, tmp_path):
    setting = replace(setting, recipe=replace(RECIPE, student=replace(RECIPE.student, epochs=2)))
    teacher = setting.network(8)
    whole = train_delta(setting, teacher, config=Config.as_released(), progress=False)
    setting = replace(setting, runs_dir=str(tmp_path / "other"))
    training = delta_training(setting, teacher, config=Config.as_released())
    calls = iter(range(100))
    loss = training.method.loss

    def killed(batch):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return loss(batch)

    training.method.loss = killed
    with pytest.raises(KeyboardInterrupt):
        training.train(progress=False)
    assert not training.done
    resumed = train_delta(setting, teacher, config=Config.as_released(), progress=False)
    assert weights_hash(resumed.method) == weights_hash(whole.method)


def test_a_delta_network_of_another_teacher_is_another_training(setting):
    ours, theirs = (delta_training(setting, replace(setting, seed=seed).network(8)) for seed in (0, 1))
    again = delta_training(setting, setting.network(8))
    assert ours.extra == again.extra != theirs.extra


def test_a_delta_network_is_left_as_files_that_run_over_a_video(setting, splits, tmp_path):
    trained = train_delta(setting, setting.network(8), progress=False)
    student = load_student(latest_student(tmp_path))
    assert student.folder == trained.run.folder
    assert student.classes == splits.train.classes
    frames = torch.rand(1, 3, *splits.frame_shape)
    assert torch.allclose(student.network.clip(frames), trained.network.clip(frames), atol=1e-5)


def test_a_search_keeps_to_its_budget(setting, splits):
    config = Config(search=True, budget=0.6)
    trained = train_delta(setting, setting.network(8), config=config, progress=False)
    teacher = macs_of(setting.network(8), splits.frame_shape)
    assert isinstance(trained.network, DeltaNetwork)
    assert trained.network.full_layers()
    assert trained.network.deploy().macs_per_frame(splits.frame_shape, 4) <= 0.6 * teacher


def test_smaller_networks_see_as_many_frames_as_teacher_and_delta_network_together(setting):
    recipe = RECIPES["full"]
    setting = replace(setting, recipe=recipe)
    teacher, small = teacher_training(setting), small_training(setting, width=8)
    delta = delta_training(setting, setting.network(16))
    low = low_rank_training(setting, setting.network(16), gamma=2)

    def frames(training):
        return training.config.epochs * len(training.data.train)

    assert frames(small) >= frames(teacher) + 2 * frames(delta)
    assert frames(low) == 2 * frames(delta)
    steps = [t.config.epochs * math.ceil(len(t.data.train) / t.config.batch_size) for t in (low, delta)]
    assert steps[0] == steps[1]


def test_every_name_of_a_study_is_a_training_and_no_two_are_the_same(setting):
    setting = replace(setting, recipe=replace(RECIPE, width=24))
    teacher = setting.network(24).eval()
    names = names_of(gammas=(2, 4, 8))
    folders = set()
    for name in names:
        training = training_of(name, setting, teacher)
        folders.add(str((training.name, training.config, training.extra)))
    assert len(folders) == len(names)
    with pytest.raises(ValueError, match="a study has no network 'teachers'; it has teacher, delta 4"):
        training_of("teachers", setting, teacher)


def test_a_rival_of_a_narrower_delta_network_costs_as_little(setting):
    setting = replace(setting, recipe=replace(RECIPE, width=24))
    shape, teacher = setting.splits.frame_shape, setting.network(24).eval()
    cheap = training_of("small (gamma 8, period 16)", setting).method.network
    dear = training_of("small (period 16)", setting).method.network
    least = delta_macs(setting, Config(gamma=8), period=16)
    assert least <= cost.macs(cheap, torch.zeros(1, *shape)) < cost.macs(dear, torch.zeros(1, *shape))
    low = training_of("low rank (gamma 8, period 16)", setting, teacher).method.network
    assert least * 0.99 <= cost.macs(low, torch.zeros(1, *shape)) < 1.2 * least


def test_a_detector_is_studied_alike(splits, tmp_path):
    only = ["delta 8", "small (period 8)"]
    study = train_study(splits, recipe=RECIPE, task=DETECTION, only=only, runs_dir=tmp_path, workers=1, progress=False)
    assert list(study.trained) == ["teacher", *only]
    assert study.teacher.history.best.keys() >= {"val/mAP@0.5"}


@pytest.mark.slow
def test_several_trainings_at_a_time_end_with_the_same_weights_as_one_after_the_other(splits, tmp_path):
    settings = {"recipe": RECIPE, "task": SEGMENTATION, "only": ["delta 4", "small (period 4)"], "progress": False}
    one = train_study(splits, runs_dir=tmp_path / "one", workers=1, **settings)
    two = train_study(splits, runs_dir=tmp_path / "two", workers=2, **settings)
    for name in one.trained:
        assert weights_hash(one[name].network) == weights_hash(two[name].network)


def test_splits_are_made_again_from_their_source(splits):
    again = splits_from(splits.source, progress=False)
    assert [part.fingerprint for part in (again.train, again.val, again.test)] == [
        part.fingerprint for part in (splits.train, splits.val, splits.test)
    ]
    assert len(splits.train.sequences) == 3
    assert len(splits.test.sequences) == 1
    assert splits.frame_shape == (3, 72, 96)


def test_training_frames_are_cuts_where_the_recipe_says_so(splits):
    data = teacher_training(Setting(splits, replace(RECIPE, crop=(48, 40)))).data
    assert data.train[0].frames.shape[-2:] == (40, 48)
    assert data.val[0].frames.shape[-2:] == (72, 96)


def test_what_makes_no_sense_is_refused(splits):
    with pytest.raises(ValueError, match=r"Recipe\.width must be at least 1"):
        replace(RECIPE, width=0)
    with pytest.raises(ValueError, match="multiples of 8, got"):
        Recipe(teacher=TrainConfig(), student=TrainConfig(), size=(100, 72))
    with pytest.raises(ValueError, match=r"Recipe\.crop is of multiples of 8, got \(48, 36\)"):
        replace(RECIPE, crop=(48, 36))
    with pytest.raises(ValueError, match="profile is one of smoke, demo, full"):
        train_study(profile="huge")
    data = load_dense("tabletop", "train", profile="smoke", videos=3, progress=False)
    with pytest.raises(ValueError, match=r"same samples|share"):
        teacher_training(Setting(DenseSplits(data, data, data), RECIPE))


def test_a_recipe_is_had_by_data_profile_and_task():
    assert recipe_for("tabletop", "full") == RECIPES["full"]
    assert recipe_for("tabletop", "smoke", "detection") == RECIPES["smoke"]
    boxes = recipe_for("tabletop", "full", "detection")
    assert boxes.size == (64, 48)
    with pytest.raises(ValueError, match="profile is one of smoke, demo, full, got 'fast'"):
        recipe_for("tabletop", "fast")
    with pytest.raises(ValueError, match="boxes, which camvid does not have"):
        recipe_for("camvid", "full", "detection")
