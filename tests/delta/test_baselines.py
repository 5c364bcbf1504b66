import pytest
import torch
from torch import nn

from tests.delta.small_networks import randomise
from vkdlab.data.dense_batches import DenseBatch
from vkdlab.delta import convert
from vkdlab.delta.baselines import (
    FeatureDistillation,
    PerFrame,
    gamma_for,
    levels_of,
    low_rank,
    macs_of,
    width_for,
)
from vkdlab.delta.networks import SegmentationConfig, SegmentationNetwork
from vkdlab.delta.tasks import SEGMENTATION, TASKS

SHAPE = (3, 24, 32)


def _network(width=8, *, stride=2):
    return randomise(SegmentationNetwork(SegmentationConfig(classes=5, width=width, multiples=(1, 2), stride=stride)))


def _batch(b=2, t=1):
    return DenseBatch(torch.rand(b, t, *SHAPE), torch.randint(0, 5, (b, t, *SHAPE[1:])))


def test_a_low_rank_network_is_two_convolutions_where_there_was_one():
    model = _network()
    frame = torch.rand(2, *SHAPE)
    delta = convert(model, gamma=2)
    ours = low_rank(model, gamma=2)
    assert not any(type(module).__name__.startswith("Delta") for module in ours.modules())
    # By hand: every layer of the folded network as its small student and the teacher's bias.
    for name, layer in delta.layers.items():
        x = torch.randn(1, layer.teacher.in_channels, 6, 8)
        pair = ours.get_submodule(name)
        assert torch.allclose(pair(x), layer.small(x) + layer.teacher.bias[:, None, None], atol=1e-5)
    assert len(delta.layers) >= 4
    assert not torch.allclose(ours(frame), model(frame), atol=1e-3)


def test_a_low_rank_network_answers_as_the_network_did_where_that_was_of_low_rank():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 32, 5), nn.ReLU(), nn.Conv2d(32, 2, 1)
    ).eval()  # fmt: skip
    model[2].weight.data = torch.einsum("rch,nrw->nchw", torch.randn(8, 4, 5), torch.randn(32, 8, 5))
    frame = torch.rand(1, 3, 20, 20)
    ours = low_rank(model, gamma=4)
    assert macs_of(ours, (3, 20, 20)) < macs_of(model, (3, 20, 20))
    assert torch.allclose(ours(frame), model(frame), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("levels", [None, ["0"]])
def test_a_network_that_changes_its_frames_in_place_leaves_its_teacher_the_same(levels):
    class Normalising(nn.Conv2d):
        def forward(self, x):
            return super().forward(x.sub_(0.5))

    network = nn.Sequential(Normalising(3, 5, 3, padding=1)).eval()
    given = {"task": SEGMENTATION, "classes": 5, "teacher": network}
    method = FeatureDistillation(network, levels=levels, frame_shape=SHAPE, **given) if levels else None
    method = method or PerFrame(network, **given)
    assert method.loss(_batch())["output"].item() == pytest.approx(0, abs=1e-7)


def test_the_network_that_was_given_is_left_as_it_was():
    model = _network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    low_rank(model, gamma=4)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("share", [0.3, 0.45, 0.6])
def test_gamma_for_is_the_largest_gamma_that_costs_what_is_asked(share):
    model = _network(width=16)
    macs = share * macs_of(model, SHAPE)
    gamma = gamma_for(macs, model, frame_shape=SHAPE)
    assert macs_of(low_rank(model, gamma=gamma), SHAPE) >= 0.99 * macs
    larger = [gamma + step / 20 for step in range(1, 40) if gamma + step / 20 < 16]
    assert all(macs_of(low_rank(model, gamma=other), SHAPE) < 0.99 * macs for other in larger)


def test_gamma_for_does_not_take_a_gamma_that_a_narrow_layer_ignores():
    """With gamma at or above a layer's channels its rank is not reduced, so that the cost rises again."""
    model = _network(width=8)
    assert gamma_for(1, model, frame_shape=SHAPE) < 8


def test_gamma_for_gives_the_widest_network_where_none_costs_so_much():
    model = _network(width=16)
    assert gamma_for(macs_of(model, SHAPE), model, frame_shape=SHAPE) == 1


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_width_for_is_the_smallest_width_that_costs_what_is_asked(task):
    shape = (3, 24, 32)
    macs = macs_of(task.network(13, 5), shape)
    assert width_for(macs, task, classes=5, frame_shape=shape) == 13
    assert width_for(1.05 * macs, task, classes=5, frame_shape=shape) == 14
    assert width_for(1.005 * macs, task, classes=5, frame_shape=shape) == 13


def test_a_per_frame_network_learns_from_every_frame_of_a_batch():
    network = _network()
    method = PerFrame(network, task=SEGMENTATION, classes=5).eval()
    batch = _batch(b=2, t=3)
    losses = method.loss(batch)
    coarse, labels = network.coarse(batch.frames.flatten(0, 1)), batch.labels.flatten(0, 1)
    # Each coarse place answers for all pixels that it covers.
    nearest = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = nn.functional.cross_entropy(nearest, labels)
    assert losses["task"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert losses["total"].item() == losses["task"].item()
    assert method.predict(batch).shape == (2, 3, 5, *SHAPE[1:])
    assert torch.allclose(method.predict(batch)[1, 2], network(batch.frames.flatten(0, 1))[5], atol=1e-5)
    value = method.evaluate(batch)["mIoU"]
    assert value.counts.sum() == batch.labels.numel()


def test_a_teacher_adds_its_answers_and_never_learns():
    teacher = _network()
    method = PerFrame(_network(4), task=SEGMENTATION, classes=5, teacher=teacher).train()
    batch = _batch()
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    losses = method.loss(batch)
    assert losses["total"].item() == pytest.approx((losses["task"] + losses["output"]).item())
    losses["total"].backward()
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.state_dict().items())
    assert all(parameter.grad is not None for parameter in method.network.parameters())


def test_features_are_learned_at_every_level_and_cost_nothing_afterwards():
    teacher, network = _network(), _network(4)
    expected = ["features.down.0", "features.down.1", "features.up.0"]
    assert levels_of(teacher) == expected
    method = FeatureDistillation(
        network, task=SEGMENTATION, classes=5, teacher=teacher, frame_shape=SHAPE, alpha=2
    ).train()
    assert [(a.in_channels, a.out_channels) for a in method.adapters] == [(4, 8), (8, 16), (4, 8)]
    losses = method.loss(_batch())
    total = losses["task"] + losses["output"] + 2 * losses["features"]
    assert losses["total"].item() == pytest.approx(total.item())
    losses["total"].backward()
    assert all(adapter.weight.grad.abs().sum() > 0 for adapter in method.adapters)
    assert macs_of(method.network, SHAPE) == macs_of(_network(4), SHAPE)
    assert not any(module._forward_hooks for module in method.modules())


def test_a_network_that_has_the_teachers_features_already_has_no_feature_loss():
    teacher = _network()
    method = FeatureDistillation(teacher, task=SEGMENTATION, classes=5, teacher=teacher, frame_shape=SHAPE).eval()
    for adapter in method.adapters:
        nn.init.dirac_(adapter.weight)
        nn.init.zeros_(adapter.bias)
    losses = method.loss(_batch())
    assert losses["features"].item() == pytest.approx(0, abs=1e-6)
    assert losses["output"].item() == pytest.approx(0, abs=1e-6)


def test_a_level_that_is_none_is_refused_by_its_name():
    settings = {"task": SEGMENTATION, "classes": 5, "teacher": _network(), "frame_shape": SHAPE}
    with pytest.raises(ValueError, match=r"has no module 'features\.sideways'"):
        FeatureDistillation(_network(4), levels=["features.sideways"], **settings)
    with pytest.raises(ValueError, match="there is no level"):
        FeatureDistillation(_network(4), levels=[], **settings)
