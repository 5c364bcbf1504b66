"""What cannot be trained, or not with this configuration, is refused with what was expected and what was given."""

import math
from types import SimpleNamespace

import pytest
import torch

from tests.tiny import Classifier, Points, classifier, open_run, train
from vkdlab.metrics import Mean
from vkdlab.training import Data, TrainConfig


class Faulty(Classifier):
    """Turns one term into not-a-number at the given call."""

    calls = 0

    def loss(self, batch):
        self.calls += 1
        losses = super().loss(batch)
        return losses | {"size": losses["size"] * math.nan} if self.calls == 10 else losses


def test_a_loss_that_is_not_finite_is_named_with_epoch_step_and_term(tmp_path):
    with pytest.raises(ValueError, match=r"epoch 2, step 3: the loss is not finite \(size = nan; .*Lower lr"):
        train(tmp_path, method=Faulty())
    assert open_run(tmp_path).info["status"] == "failed"


class Returns(Classifier):
    """Returns given losses or metrics."""

    losses = None
    metrics = None

    def loss(self, batch):
        return super().loss(batch) if self.losses is None else self.losses

    def evaluate(self, batch):
        return super().evaluate(batch) if self.metrics is None else self.metrics


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"kd": torch.tensor(1.0)}, r'a "total" to minimise, it returned \[\'kd\'\]'),
        ({"total": torch.ones(3)}, r"loss term 'total' has shape \(3,\), expected one number"),
        ({"total": torch.tensor(1.0)}, r'"total" depends on no parameter'),
    ],
)
def test_a_loss_without_a_total_to_minimise_is_refused(tmp_path, losses, message):
    method = Returns()
    method.losses = losses
    with pytest.raises(ValueError, match=message):
        train(tmp_path, method=method)


def test_a_monitor_that_the_method_does_not_report_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match=r"monitor is 'R1@0\.5', the method reports accuracy, teacher/accuracy"):
        train(tmp_path, monitor="R1@0.5", method=Faulty())
    assert not open_run(tmp_path).checkpoint_path.exists()


def test_a_monitor_that_is_not_a_number_is_refused(tmp_path):
    method = Returns()
    method.metrics = {"accuracy": Mean()}
    with pytest.raises(ValueError, match="epoch 1: the monitored metric accuracy is nan"):
        train(tmp_path, method=method)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs is 0, expected a finite number, 1 or more"),
        ("batch_size", -1, "batch_size is -1"),
        ("lr", 0.0, "lr is 0.0, expected a finite number above 0"),
        ("lr", math.nan, "lr is nan"),
        ("clip_norm", -1.0, "clip_norm is -1.0"),
        ("schedule", "step", "schedule is 'step', expected one of 'cosine', 'linear', 'constant'"),
        ("device", "gpu", "device is 'gpu', expected one of 'auto', 'cpu', 'cuda'"),
        ("precision", "16", "precision is '16'"),
        ("patience", 0, "patience is 0"),
        ("weight_decay", math.nan, "weight_decay is nan"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 2.5, "epochs is 2.5, a float; expected int"),
        ("lr", "0.1", "lr is '0.1', a str; expected a number"),
        ("seed", True, "seed is True, a bool; expected int"),
        ("maximise", 1, "maximise is 1, a int; expected bool"),
        ("batch_size", None, "batch_size is None, a NoneType; expected int"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(field, value, message):
    with pytest.raises(TypeError, match=message):
        TrainConfig(**{field: value})


def test_splits_that_cannot_be_trained_on_are_refused():
    train_split, val = Points(10, seed=1), Points(10, seed=2)
    with pytest.raises(ValueError, match=r"the val split is missing.*Hold some out"):
        Data(train_split, None)
    with pytest.raises(ValueError, match="the train split is empty"):
        Data(Points(0, seed=1), val)
    with pytest.raises(ValueError, match="train and val are the same samples"):
        Data(train_split, train_split)
    with pytest.raises(ValueError, match="train and val are the same samples"):
        Data(train_split, Points(10, seed=1))
    with pytest.raises(ValueError, match="the val split, a list, has no collate"):
        Data(train_split, [1, 2])
    val.dataset = Points(1, seed=3)
    Data(train_split, val)
    for part in (val.dataset, val):
        part.split = "test"
        with pytest.raises(ValueError, match="the val split is a test split"):
            Data(train_split, val)
        part.split = "val"


def test_splits_that_share_videos_are_refused_where_the_videos_are_known():
    parts = [Points(10, seed=1), Points(10, seed=2)]
    for part, videos in zip(parts, (["a", "b", "c", "d", "e"], ["f", "b", "c", "d", "e"]), strict=True):
        part.dataset = SimpleNamespace(videos=dict.fromkeys(videos), split="train")
    with pytest.raises(ValueError, match=r"share 4 of 5 videos \(b, c, d, \.\.\).*Deal out whole videos"):
        Data(*parts)
    parts[1].dataset.videos = {"f": None}
    Data(*parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match='device is "cuda" and torch sees no GPU'):
        train(tmp_path, device="cuda")


def test_a_method_without_anything_to_train_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Classifier has no parameter that requires a gradient"):
        train(tmp_path, method=classifier().requires_grad_(False))
