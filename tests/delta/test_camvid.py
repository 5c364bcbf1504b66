"""CamVid: its test stays out of all choices, and a teacher may be given."""

import csv
import json
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
import torch

from tests.delta.small_networks import randomise
from vkdlab import delta, notebooks
from vkdlab.data import write_video
from vkdlab.data.dense import VOID
from vkdlab.data.dense_batches import Augmentation
from vkdlab.data.dense_mixed import MixedFrames
from vkdlab.data.manifests import DataMissing
from vkdlab.delta import students
from vkdlab.delta.espnet import CAMVID_FILE, ESPNet, ESPNetConfig, camvid_espnet, load_espnet
from vkdlab.delta.networks import segmentation_loss
from vkdlab.delta.recipes import DRIVING, recipe_for, recipe_from
from vkdlab.delta.student_files import load_student
from vkdlab.delta.students import Setting, delta_training, small_training, teacher_training
from vkdlab.delta.study import names_of, train_study, training_of
from vkdlab.weights import weights_hash

UNET = replace(
    recipe_for("camvid", "smoke"),
    size=(64, 48), crop=(48, 32), teacher_samples=8, student_samples=4, val_frames=4, soft="espnet",
    unlabelled=DRIVING[:2],
)  # fmt: skip
ESPNET = replace(UNET, soft=None, given="espnet")
FEW = {"periods": (1, 2, 4), "every": 3, "repeats": 0, "progress": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Frames in CamVid's form, of three recordings, and two videos of streets."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    recordings = {
        "train": [("0001TP", "_{:06d}", 30, 4), ("0006R0", "_f{:05d}", 30, 4), ("0016E5", "_{:05d}", 30, 3)],
        "val": [("0016E5", "_{:05d}", 2, 9)],
    }
    for split, parts in recordings.items():
        (root / "camvid" / split).mkdir(parents=True)
        start = 900 if split == "train" else 7950
        names = [f"{name}{form.format(start + k * step)}" for name, form, step, count in parts for k in range(count)]
        for name in names:
            picture = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
            cv2.imwrite(str(root / "camvid" / split / f"{name}.jpg"), picture)
        labels = rng.integers(0, 12, (len(names), 6, 8)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
        np.savez(root / "camvid" / f"{split}_labels.npz", label=labels, name=np.array(names))
        lines = [f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png\n" for n in names]
        (root / "camvid" / f"{split}.txt").write_text("".join(lines))
    (root / "clips").mkdir()
    with open(root / "clips" / "clips.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label_or_note", "source", "licence", "frames", "fps", "width", "height"])
        for name in DRIVING[:2]:
            frames = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48))[None].repeat(9, 0)
            write_video(root / "clips" / f"{name}.mp4", frames, fps=10)
            writer.writerow([f"{name}.mp4", "cars", "nobody", "MIT", 9, 10.0, 64, 48])
    return root


@pytest.fixture
def espnet(monkeypatch):
    """In place of the one with the authors' weights."""
    torch.manual_seed(1)
    network = randomise(ESPNet(ESPNetConfig(second=1, third=1, answered=11)))
    monkeypatch.setattr(students, "camvid_espnet", lambda root: network)
    return network


@pytest.fixture(scope="module")
def splits(root):
    return delta.load_splits("camvid", recipe=UNET, root=root, workers=1, progress=False)


def test_a_whole_recording_chooses_the_epoch_and_the_test_is_another_stretch(splits):
    assert splits.train.videos == {"0001TP", "0016E5"}
    assert splits.val.videos == {"0006R0"}
    assert [(each.video, each.count, each.fps) for each in splits.test.sequences] == [("0016E5", 9, 15.0)]
    shown = {split: {frame.tobytes() for frame in getattr(splits, split).frames} for split in ("train", "val", "test")}
    assert not shown["test"] & (shown["train"] | shown["val"])
    assert splits.unlabelled.videos == set(DRIVING[:2])


def test_every_profile_has_a_recipe_and_those_of_tabletop_stay_as_they_are():
    for profile in ("smoke", "demo", "full"):
        assert recipe_for("tabletop", profile) is delta.RECIPES[profile]
        recipe = recipe_for("camvid", profile)
        assert recipe.stills
        assert recipe.profile == profile
        given = recipe_for("camvid", profile, teacher="espnet")
        assert (given.given, given.soft) == ("espnet", None)
    with pytest.raises(ValueError, match="know CamVid's classes: take data='camvid', or teacher='unet' for tabletop"):
        recipe_for("tabletop", "smoke", teacher="espnet")
    with pytest.raises(ValueError, match="teacher is 'unet' or 'espnet', got 'resnet'"):
        recipe_for("camvid", "smoke", teacher="resnet")
    with pytest.raises(ValueError, match="profile is one of smoke, demo, full, got 'huge'"):
        recipe_for("camvid", "huge")
    with pytest.raises(ValueError, match=r"Recipe\.share is above 0 and below 1, got 1\.0"):
        replace(UNET, share=1.0)


@pytest.mark.parametrize("recipe", [UNET, ESPNET, *delta.RECIPES.values(), *delta.CAMVID.values()])
def test_a_recipe_comes_whole_to_another_process(recipe):
    assert recipe_from(json.loads(json.dumps(asdict(recipe)))) == recipe_from(asdict(recipe)) == recipe


def test_teacher_and_smaller_network_learn_the_same_answers_on_the_same_frames(splits, espnet):
    setting = Setting(splits, UNET)
    teacher, small = teacher_training(setting), small_training(setting, width=4)
    for training in (teacher, small):
        assert isinstance(training.data.train, MixedFrames)
        assert [part.dataset.name for part in training.data.train.parts] == ["camvid", "clips"]
        assert weights_hash(training.method.teacher) == weights_hash(espnet)
        assert training.data.train[0].frames.shape == (1, 1, 3, 32, 48)
    unlabelled = teacher.data.train[len(teacher.data.train) - 1]
    assert (unlabelled.labels == VOID).all()
    teacher.method.train()
    losses = teacher.method.loss(unlabelled)
    assert losses["task"] == 0
    assert losses["output"] > 0  # there ESPNet's answers are all that is learned


def test_rare_classes_count_more_in_every_training(splits, espnet):
    counts = np.zeros(11)
    for i in range(len(splits.train)):
        for k in range(11):
            counts[k] += (splits.train.labels(i) == k).sum()
    known = 1 / np.log(1.1 + counts / counts.sum())
    setting = Setting(splits, replace(UNET, balanced=True))
    for training in (
        teacher_training(setting),
        small_training(setting, width=4),
        delta_training(setting, setting.network(8)),
    ):
        np.testing.assert_allclose(training.method.task.weights, known, rtol=1e-5)
    plain = teacher_training(Setting(splits, UNET))
    assert plain.method.task.weights is None
    assert teacher_training(setting).extra != plain.extra
    assert "balanced" not in plain.extra


def test_weights_are_of_the_pixels_class_and_void_weighs_nothing():
    logits, weights = torch.randn(2, 3, 4, 6), torch.tensor([1.0, 5.0, 0.5])
    labels = torch.randint(0, 3, (2, 8, 12))
    labels[:, 2:5, 1:9] = VOID
    large = logits.repeat_interleave(2, 2).repeat_interleave(2, 3)
    known = torch.nn.functional.cross_entropy(large, labels, weight=weights, ignore_index=VOID)
    assert segmentation_loss(logits, labels, weights=weights).item() == pytest.approx(known.item(), rel=1e-5)
    assert segmentation_loss(large, labels, weights=weights).item() == pytest.approx(known.item(), rel=1e-5)
    nothing = segmentation_loss(logits, torch.full_like(labels, VOID), weights=weights)
    assert nothing == 0


def test_whose_answers_are_learned_and_on_what_tells_trainings_apart(splits, espnet, monkeypatch):
    def identity(recipe=UNET):
        training = teacher_training(Setting(splits, recipe))
        return str((training.extra, training.data.fingerprint))

    first = identity()
    assert identity() == first
    other = randomise(ESPNet(ESPNetConfig(second=1, third=1, answered=11)))
    changed = {
        "alone": identity(replace(UNET, soft=None)),
        "fewer": identity(replace(UNET, share=0.5)),
        "whole": identity(replace(UNET, crop=None)),
        "deeper": identity(replace(UNET, multiples=(1, 2))),
        "closer": identity(replace(UNET, augmentation=Augmentation(zoom=(1.0, 2.0)))),
    }
    monkeypatch.setattr(students, "camvid_espnet", lambda root: other)
    changed["others"] = identity()
    assert len({first, *changed.values()}) == 1 + len(changed)


def test_students_learn_from_moved_stills_and_from_pairs_of_real_video(splits, espnet):
    training = delta_training(Setting(splits, UNET), Setting(splits, UNET).network(8))
    stills, pairs = training.data.train.parts
    assert (stills.stills, stills.gaps, pairs.stills, pairs.gaps) == (True, None, False, (1, 7))
    assert training.data.train[0].frames.shape == (1, 2, 3, 32, 48)
    val = training.data.val
    assert val.dataset is splits.val
    torch.manual_seed(0)
    item = val[0]
    shown = (item.frames[0, 0] * 255).round().byte().movedim(0, -1).numpy()
    # The key frame is as it was, the second is seen through a moved window.
    assert shown.tobytes() in {frame.tobytes() for frame in splits.val.frames}
    assert not torch.equal(item.frames[0, 0], item.frames[0, 1])


def test_a_study_of_a_network_that_is_trained_here_runs_whole(root, tmp_path):
    recipe = replace(UNET, soft=None)
    splits = delta.load_splits("camvid", recipe=recipe, root=root, workers=1, progress=False)
    study = train_study(splits, recipe=recipe, runs_dir=tmp_path, workers=1, progress=False)
    assert list(study.trained) == names_of(which="few")
    curves = delta.measure_study(study, **FEW)
    assert {point.name for point in curves.points} >= set(study.trained)
    card = (study["delta 4"].run.folder / "README.md").read_text()
    assert "pairs made of one frame each of the validation split of camvid" in card


def test_espnet_is_a_teacher_that_nobody_trains_and_that_has_no_smaller_form(splits, espnet, tmp_path):
    before = weights_hash(espnet)
    study = train_study(splits, recipe=ESPNET, runs_dir=tmp_path, workers=1, progress=False)
    assert list(study.trained) == ["teacher", "delta 4", "as released", "low rank (period 4)"]
    assert weights_hash(study.teacher.network) == before
    assert study.teacher.history.rows == []
    again = train_study(splits, recipe=ESPNET, runs_dir=tmp_path, workers=1, progress=False)
    assert again.teacher.run.folder == study.teacher.run.folder
    assert again["delta 4"].run.folder == study["delta 4"].run.folder
    student = load_student(study["delta 4"].run.folder)
    frame = torch.rand(1, 3, 48, 64)
    assert student.network.reference(frame).shape == (1, 11, 48, 64)
    assert torch.allclose(student.network.reference(frame), espnet(frame), atol=1e-4)
    curves = delta.measure_study(study, **FEW)
    assert {point.kind for point in curves.points} == {"teacher", "delta", "low rank", "copy"}
    everything = names_of(which="all", given=True)
    assert not any(name.startswith(("small", "features")) for name in everything)
    for name in ("small (period 4)", "features (period 8)"):
        with pytest.raises(ValueError, match="espnet was given in one size"):
            training_of(name, study.setting, espnet)


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=CAMVID_FILE):
        camvid_espnet(root)
    with pytest.raises(DataMissing, match="the data root"):
        camvid_espnet(tmp_path / "none")
    with pytest.raises(KeyError, match="has no video 'opencv_vtest_pedestrians'"):
        delta.load_splits("camvid", recipe=replace(UNET, unlabelled=DRIVING), root=root, progress=False)
    with pytest.raises(ValueError, match="answered is from 1 to the 12 classes, got 13"):
        ESPNetConfig(answered=13)


@pytest.mark.data
def test_the_real_espnet_answers_the_eleven_classes_as_before(data_root):
    whole = load_espnet(data_root / "weights" / CAMVID_FILE)
    frames = torch.rand(2, 3, 48, 64)
    assert torch.equal(camvid_espnet(data_root)(frames), whole(frames)[:, :11])


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("teacher", ["unet", "espnet"])
def test_the_notebook_runs_on_real_driving(data_root, tmp_path, teacher):
    given = {"data": "camvid", "teacher": teacher, "runs_dir": str(tmp_path / "runs")}
    report = notebooks.run(["04"], parameters=given, profile="smoke", out=tmp_path / "out", progress=False)
    (result,) = report.results
    assert result.status == "passed", result.error
    assert ("small (period 4), period 1 mIoU" in result.metrics) == (teacher == "unet")
    assert "delta 4, period 4 mIoU" in result.metrics
    drawn = json.loads((result.folder / "figures.json").read_text())
    left_out = drawn["What if the scene is cut"]["layout"]["title"]["text"]
    assert left_out == "Left out: the test split of camvid is one drive, without a cut"
