import math
import random

import numpy as np
import pytest
import torch

from tests.tiny import CONFIG, Classifier, Points, classifier, open_run, points, same_weights, train
from vkdlab.history import History
from vkdlab.runs import trained_once
from vkdlab.training import Data, TrainConfig, evaluate, fit, learning_rate


def test_the_best_epoch_is_kept_and_patience_ends_the_training(tmp_path):
    method, history = train(tmp_path, epochs=30, patience=3)
    values = [row["val/accuracy"] for row in history.rows]
    assert history.best_epoch == values.index(max(values)) + 1
    assert len(values) in (30, history.best_epoch + 3)
    found = evaluate(method, points().val, device="cpu", progress=False)
    assert found["accuracy"].value == max(values) > 0.7
    run = open_run(tmp_path)
    assert run.metrics["val/accuracy"] == max(values)
    fresh = classifier(seed=5)
    run.load_model(fresh)
    assert same_weights(fresh, method)


def test_a_metric_to_minimise_chooses_its_lowest_epoch(tmp_path):
    _, history = train(tmp_path, maximise=False)
    values = [row["val/accuracy"] for row in history.rows]
    assert history.best_epoch == values.index(min(values)) + 1


def test_the_history_has_every_loss_and_metric_and_is_read_back_digit_for_digit(tmp_path):
    _, history = train(tmp_path)
    assert list(history.rows[0]) == [
        "epoch",
        "step",
        "lr",
        "seconds",
        "loss/total",
        "loss/size",
        "val/accuracy",
        "val/teacher/accuracy",
    ]
    run = open_run(tmp_path)
    assert History.load(run.folder / "history.csv", best_epoch=1).rows == history.rows
    assert list(history.frame()["step"]) == [7, 14, 21, 28]
    assert list((run.folder / "tensorboard").glob("events*"))


def test_a_run_that_is_done_is_loaded_and_not_trained_again(tmp_path):
    first, history = train(tmp_path)
    again, loaded = train(tmp_path, method=classifier(seed=9))
    assert same_weights(first, again)
    assert loaded.rows == history.rows
    assert loaded.best_epoch == history.best_epoch
    assert not again.training


def test_training_leaves_the_random_generators_and_threads_of_its_caller_alone(tmp_path):
    method = classifier()
    torch.manual_seed(5)
    expected = torch.rand(3), np.random.rand(3).tolist(), random.random()  # noqa: NPY002
    for folder in ("new", "new"):
        torch.manual_seed(5)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        before = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        train(tmp_path / folder, method=method, num_threads=2)
        assert torch.equal(torch.rand(3), expected[0])
        assert (np.random.get_state()[1].tolist(), random.getstate()) == before  # noqa: NPY002
        assert torch.get_num_threads() == 1


def test_the_order_of_samples_depends_on_seed_and_epoch_only(tmp_path):
    seen = {}

    class Watched(Points):
        def __getitem__(self, index):
            seen.setdefault(name, []).append(index)
            return super().__getitem__(index)

    for name, seed, width in (("a", 0, 8), ("b", 0, 32), ("c", 1, 8)):
        data = Data(Watched(50, seed=1), Points(8, seed=2))
        config = TrainConfig(**CONFIG | {"epochs": 2, "seed": seed})
        fit(classifier(width=width), data, config, run=open_run(tmp_path / name), progress=False)
    assert seen["a"] == seen["b"] != seen["c"]
    assert sorted(seen["a"][:50]) == sorted(seen["a"][50:]) == list(range(50))
    assert seen["a"][:50] != seen["a"][50:]


def test_batches_are_spread_evenly_so_that_none_holds_a_single_sample(tmp_path):
    sizes = []

    class Counted(Classifier):
        def loss(self, batch):
            sizes.append(len(batch.x))
            return super().loss(batch)

    data = Data(Points(33, seed=1), Points(1, seed=2))
    fit(Counted(), data, TrainConfig(**CONFIG | {"epochs": 1}), run=open_run(tmp_path), progress=False)
    assert sizes == [11, 11, 11]


class Long(Points):
    """Points with a length each, drawn with many ties; keeps the samples of every batch."""

    def __init__(self, n, *, seed, fewest=1, most=6):
        super().__init__(n, seed=seed)
        self.lengths = torch.randint(fewest, most, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
        self.batches = []

    def __getitem__(self, index):
        return index

    def collate(self, items):
        self.batches.append(items)
        return super().collate([super(Long, self).__getitem__(index) for index in items])


def batches_of(folder, data, *, seed=0, epochs=1, batch_size=16):
    config = TrainConfig(**CONFIG | {"epochs": epochs, "seed": seed, "batch_size": batch_size})
    fit(classifier(), Data(data, Points(8, seed=2)), config, run=open_run(folder), progress=False)
    return data.batches


def test_samples_of_like_length_come_in_one_batch(tmp_path):
    n = 330
    data = Long(n, seed=1, most=60)
    found = batches_of(tmp_path / "long", data)
    plain = Long(n, seed=1)
    del plain.lengths
    shuffled = batches_of(tmp_path / "plain", plain)
    assert [len(batch) for batch in shuffled] == [16] * 15 + [15] * 6
    assert len(found) == len(shuffled) == 21
    assert sorted(row for batch in found for row in batch) == list(range(n))
    for first in range(0, 21, 8):
        run = [row for batch in shuffled[first : first + 8] for row in batch]
        ranked = sorted(run, key=lambda row: (data.lengths[row], run.index(row)))
        for batch in shuffled[first : first + 8]:
            expected, ranked = ranked[: len(batch)], ranked[len(batch) :]
            assert found.count(expected) == 1
    firsts = [min(data.lengths[row] for row in batch) for batch in found]
    assert firsts != sorted(firsts)

    def padded(batches):
        return sum(len(batch) * max(data.lengths[row] for row in batch) for batch in batches) / sum(data.lengths)

    assert padded(found) < 1.15 < 1.6 < padded(shuffled)


def test_batches_by_length_depend_on_seed_and_epoch_only_and_hold_every_sample_once_an_epoch(tmp_path):
    a, b, c = (
        batches_of(tmp_path / name, Long(50, seed=1), epochs=2, seed=seed)
        for name, seed in zip("abc", (0, 0, 1), strict=True)
    )
    assert a == b != c
    assert a[:4] != a[4:]
    assert [sorted(row for batch in epoch for row in batch) for epoch in (a[:4], a[4:])] == [list(range(50))] * 2


def test_samples_of_one_length_stay_in_their_shuffled_order_within_a_batch(tmp_path):
    same = Long(50, seed=1, most=2)
    plain = Long(50, seed=1)
    del plain.lengths
    found = batches_of(tmp_path / "same", same)
    assert sorted(found) == sorted(batches_of(tmp_path / "plain", plain))


def test_a_split_with_another_number_of_lengths_than_samples_is_refused(tmp_path):
    data = Long(10, seed=1)
    data.lengths = data.lengths[:9]
    with pytest.raises(ValueError, match="the training split has 10 samples and 9 lengths"):
        batches_of(tmp_path, data)


def test_norms_and_biases_are_not_decayed_and_frozen_weights_stay(tmp_path):
    method = classifier()
    method.net[4].weight.requires_grad_(False)
    frozen, scale = method.net[4].weight.clone(), method.unused.clone()
    train(tmp_path, method=method, epochs=1)
    assert torch.equal(method.net[4].weight, frozen)
    assert torch.equal(method.unused, scale), "a parameter without a gradient is left alone"


def test_the_learning_rate_rises_then_falls_to_zero():
    config = TrainConfig(epochs=10, lr=0.1, warmup_epochs=2, schedule="linear")
    rates = [learning_rate(step, steps=5, config=config) for step in range(50)]
    assert rates[:10] == pytest.approx([0.01 * (i + 1) for i in range(10)])
    assert rates[10:] == pytest.approx([0.1 * (1 - i / 40) for i in range(40)])
    cosine = TrainConfig(epochs=10, lr=0.1, warmup_epochs=0)
    assert learning_rate(25, steps=5, config=cosine) == pytest.approx(0.05)
    assert learning_rate(50, steps=5, config=cosine) == pytest.approx(0)
    assert learning_rate(49, steps=5, config=TrainConfig(lr=0.1, epochs=10, schedule="constant")) == 0.1


def test_gradients_are_clipped_to_the_norm(tmp_path):
    norms = []

    class Steep(Classifier):
        def loss(self, batch):
            losses = super().loss(batch)
            return losses | {"total": losses["total"] * 1e4}

    class Watch(torch.optim.AdamW):
        def step(self, *args, **options):
            grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(torch.stack([grad.norm() for grad in grads]).norm().item())
            return super().step(*args, **options)

    original, torch.optim.AdamW = torch.optim.AdamW, Watch
    try:
        train(tmp_path / "clipped", method=Steep(), epochs=1, clip_norm=0.5)
        clipped = norms.copy()
        norms.clear()
        train(tmp_path / "free", method=Steep(), epochs=1, clip_norm=None)
    finally:
        torch.optim.AdamW = original
    assert clipped == pytest.approx([0.5] * 7, rel=1e-3)
    assert min(norms) > 10


def test_one_sample_is_enough_and_evaluation_of_nothing_is_nothing(tmp_path):
    method = classifier()
    found = evaluate(method, Points(0, seed=1), device="cpu", progress=False)
    assert found == {}
    assert evaluate(method, Points(1, seed=1), device="cpu", progress=False)["accuracy"].count == 1


def test_evaluation_does_not_depend_on_the_batch_size_and_leaves_the_mode(tmp_path):
    method, data = classifier().train(), Points(50, seed=1)
    found = [evaluate(method, data, batch_size=size, device="cpu", progress=False) for size in (1, 7, 50)]
    assert found[0] == found[1] == found[2]
    assert method.training


def test_bfloat16_trains_and_loader_workers_change_nothing(tmp_path):
    _, history = train(tmp_path / "bf16", precision="bf16-mixed", epochs=2)
    assert math.isfinite(history.rows[-1]["loss/total"])
    one, _ = train(tmp_path / "in-loop", epochs=1)
    two, _ = train(tmp_path / "workers", epochs=1, workers=1)
    assert same_weights(one, two)


def test_trained_once_trains_loads_and_keeps_configurations_apart(tmp_path):
    config = TrainConfig(**CONFIG)

    def once(method, config=config, **options):
        return trained_once("tiny", method, points(), config, runs_dir=tmp_path, progress=False, **options)

    first = classifier()
    run, history = once(first)
    again = classifier(seed=7)
    same, loaded = once(again)
    assert same.folder == run.folder
    assert loaded.rows == history.rows
    assert same_weights(first, again)
    others = [
        once(classifier(), TrainConfig(**CONFIG | {"seed": 1}))[0].folder,
        once(classifier(), extra={"width": 16})[0].folder,
        once(classifier(), version="2")[0].folder,
    ]
    assert len({run.folder, *others}) == 4


def test_trained_once_needs_data_that_can_be_recognised(tmp_path):
    data = points()
    del data.val.fingerprint
    with pytest.raises(ValueError, match="both splits need a `fingerprint`"):
        trained_once("tiny", classifier(), data, TrainConfig(**CONFIG), runs_dir=tmp_path, progress=False)
