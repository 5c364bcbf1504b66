import copy

import pytest
import torch
from torch import nn

from tests.delta.small_networks import Chain, Residual, UNet, randomise, video
from vkdlab.delta import DeltaBlock, DeltaConv2d, convert


def _close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=tolerance)


def _open(network, *, value=1.0):
    for parameter in network.gate_parameters():
        nn.init.constant_(parameter, value)
    return network


@pytest.mark.parametrize("make", [UNet, Residual])
def test_full_students_everywhere_are_the_teacher_on_every_frame(make):
    model = randomise(make())
    network = _open(convert(model))
    frames = video(7, batch=2)
    for frame, output in zip(frames, network.stream(frames, period=4), strict=True):
        _close(output, model(frame))


@pytest.mark.parametrize("make", [UNet, Residual])
@pytest.mark.parametrize("deploy", [False, True])
def test_period_one_is_the_teacher(make, deploy):
    model = randomise(make())
    network = convert(model)
    network = network.deploy() if deploy else network
    frames = video(3)
    for frame, output in zip(frames, network.stream(frames, period=1), strict=True):
        _close(output, model(frame))
        _close(network.reference(frame), model(frame))


@pytest.mark.parametrize("make", [UNet, Residual])
@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("gate", [-1.0, 1.0])
def test_a_video_that_stands_still_gets_the_answer_of_its_key_frame_exactly(make, deploy, gate):
    network = _open(convert(randomise(make())), value=gate)
    for layer in network.layers.values():
        layer.full.weight.data.mul_(1.1)  # so that it is deployed as a student of its own
    network = network.deploy() if deploy else network
    frame = video(1)[0]
    first, *later = network.stream([frame.clone() for _ in range(4)], period=4)
    assert all(torch.equal(output, first) for output in later)
    with torch.inference_mode():
        _close(network.clip(torch.stack([frame] * 4, 1)), torch.stack([first] * 4, 1), 1e-6)


def test_the_stream_is_the_recurrence_of_the_paper_worked_out_by_hand():
    model = Chain(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    network = convert(model)
    layer = network.layers["middle.0"]
    x_0, x_1 = video(2)
    first = model.first(x_0), model.first(x_1)
    z = model.middle[0](first[0]) + layer.small(first[1] - first[0])
    _close(list(network.stream([x_0, x_1]))[1], model.last(z.relu()))


def test_the_model_is_not_changed_and_shares_nothing():
    model = randomise(UNet()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = convert(model)
    for parameter in network.parameters():
        parameter.data.add_(1)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(isinstance(module, DeltaConv2d) for module in model.modules())


def test_first_last_depth_wise_squeezing_and_dear_convolutions_stay_and_say_why():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.se = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))

        def forward(self, x):
            return x * self.se(x.mean((2, 3), keepdim=True)).sigmoid()

    depth_wise, dear = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1)
    network = convert(Chain(depth_wise, Block(), dear, nn.Conv2d(4, 8, 3, padding=1)))
    assert list(network.layers) == ["middle.3"]
    assert network.left == {
        "first": "it is the first convolution",
        "middle.0": "it is depth-wise",
        "middle.1.se.0": "it belongs to squeeze-and-excitation",
        "middle.2": "its small student would not be cheaper",
        "last": "it is the last convolution",
    }


def test_first_and_last_are_those_that_run_first_and_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Conv2d(8, 4, 3)
            self.b = nn.Conv2d(8, 8, 3)
            self.a = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return self.c(self.b(self.a(x)))

    assert list(convert(Backwards()).layers) == ["b"]


def test_names_to_skip_may_be_layers_or_modules_that_hold_some():
    model = UNet()
    assert "down2.0" not in convert(model, skip=["down2.0"]).layers
    network = convert(model, skip=["down2"])
    assert list(network.layers) == ["down1.3", "up1.0", "up1.3"]
    assert network.left["down2.0"] == "it was asked to be skipped"


def test_unknown_names_are_refused_with_those_that_are_close():
    with pytest.raises(ValueError, match=r"skip names 'down2.9', which is no module of the network; there is 'down2"):
        convert(UNet(), skip=["down2.9"])
    with pytest.raises(ValueError, match=r"blocks names 'blok1', .* there is 'block1'"):
        convert(Residual(), blocks=["blok1"])
    with pytest.raises(ValueError, match="lists of names, not one name"):
        convert(UNet(), skip="down2")


def test_gamma_and_policy_out_of_range_are_refused():
    with pytest.raises(ValueError, match="gamma must be at least 1, got 0"):
        convert(UNet(), gamma=0)
    with pytest.raises(ValueError, match="gamma must be at least 1, got nan"):
        convert(UNet(), gamma=float("nan"))


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(ValueError, match=r"Sequential has no nn.Conv2d to convert"):
        convert(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(ValueError, match="compiled to TorchScript: convert it before"):
        convert(scripted)


def test_a_network_whose_convolutions_all_stay_says_why():
    with pytest.raises(ValueError, match=r"no convolution that can be converted. first: it is the first"):
        convert(Chain())
    with pytest.raises(ValueError, match="it is the first convolution"):
        convert(nn.Conv2d(3, 3, 3))


def test_a_delta_network_is_not_converted_again():
    with pytest.raises(ValueError, match="a delta network already"):
        convert(convert(UNet()))


def test_weights_that_are_not_finite_are_refused_by_name():
    model = UNet()
    nn.init.constant_(model.down2[3].weight, torch.inf)
    with pytest.raises(ValueError, match=r"the layer 'down2.3' cannot be converted: the weights are not finite"):
        convert(model)


def test_batch_norms_are_folded_and_change_no_answer():
    model = randomise(UNet())
    network = convert(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    frame = video(1)[0]
    _close(network.reference(frame), model(frame))
    unfolded = convert(model, fold=False)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in unfolded.modules()) == 6
    _close(unfolded.reference(frame), model(frame))


def test_batch_norms_stay_in_evaluation_while_students_train():
    """Otherwise the teacher's change and the predicted one come from different norms."""
    network = convert(randomise(UNet()), fold=False).train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    first, second = video(2)
    network(second, network(first)[1])
    assert network.training
    assert not any(norm.training for norm in norms)
    assert all(torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True))


def test_dropout_drops_nothing_while_students_train():
    network = convert(Chain(nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.9))).train()
    frame = video(1)[0]
    assert torch.equal(network(frame)[0], network(frame)[0])


def test_a_network_that_reads_its_convolutions_weights_gets_the_teachers():
    class Reads(Chain):
        def forward(self, x):
            conv = self.middle[0]
            return self.last(nn.functional.conv2d(self.middle[1](self.first(x)), conv.weight, conv.bias, conv.stride))

    model = Reads(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    network = _open(convert(model))
    frames = video(3)
    for frame, output in zip(frames, network.stream(frames), strict=True):
        _close(output, model(frame))


def test_grouped_convolutions_are_converted():
    model = Chain(nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(32, 32, 5, padding=2, groups=2), nn.Conv2d(32, 8, 1))
    network = convert(model)
    assert network.layers["middle.1"].small[0].groups == 2
    frames = video(3)
    for frame, output in zip(frames, _open(network).stream(frames), strict=True):
        _close(output, model(frame))


def test_half_precision_and_double_precision_are_converted():
    for dtype, tolerance in ((torch.bfloat16, 0.1), (torch.float64, 1e-9)):
        model = randomise(UNet()).to(dtype)
        network = _open(convert(model))
        frames = [frame.to(dtype) for frame in video(3)]
        for frame, output in zip(frames, network.stream(frames), strict=True):
            assert output.dtype == dtype
            _close(output, model(frame), tolerance)


def test_a_block_gets_one_student_for_the_whole():
    model = randomise(Residual())
    network = convert(model, blocks=["block2"])
    layer = network.layers["block2"]
    assert isinstance(layer, DeltaBlock)
    assert list(network.layers) == ["block1.conv1", "block1.conv2", "block2"]
    assert not any(name.startswith("block2") for name in network.left)
    frame = video(1)[0]
    first, still = network.stream([frame, frame])
    _close(first, model(frame))
    assert torch.equal(first, still)
    students = {id(p) for p in network.student_parameters()}
    assert all((id(p) in students) == ("student" in name) for name, p in layer.named_parameters())


def test_blocks_that_cannot_have_a_student_are_refused_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3)

        def forward(self, x, y):
            return self.conv(x) + y

    model = Chain(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 8, 3), nn.Flatten()))
    model.two = Two()
    for name, message in (
        ("middle.1", "the block 'middle.1' has no convolution"),
        ("middle.2", r"the block 'middle.2' cannot get a student"),
        ("two", r"the block 'two' cannot get a student: it needs one map"),
        ("middle.0", r"the block 'middle.0' cannot get a student: 64x64 became \(1, 8, 62, 62\)"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(model, blocks=[name])
    with pytest.raises(ValueError, match=r"the block 'block1.conv1' is within the block 'block1'"):
        convert(Residual(), blocks=["block1", "block1.conv1"])
    with pytest.raises(ValueError, match="names a module twice"):
        convert(Residual(), blocks=["block1", "block1"])


def test_parameters_are_grouped_by_what_they_belong_to_and_not_by_their_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.g_full, self.small_g = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.small_g(self.g_full(self.first(x)))

    network = convert(Named())
    names = {id(p): name for name, p in network.named_parameters()}
    layer = "model.g_full."
    assert sorted(names[id(p)] for p in network.student_parameters()) == [
        f"{layer}full.weight",
        f"{layer}small.0.weight",
        f"{layer}small.1.weight",
    ]
    assert [names[id(p)] for p in network.gate_parameters()] == [f"{layer}gate_logit"]
    assert sorted(names[id(p)] for p in network.teacher_parameters()) == [
        "model.first.bias",
        "model.first.weight",
        f"{layer}teacher.bias",
        f"{layer}teacher.weight",
        "model.small_g.bias",
        "model.small_g.weight",
    ]


def test_gradients_reach_the_teacher_through_what_is_remembered_and_the_student_through_the_change():
    network = convert(copy.deepcopy(randomise(UNet()))).train()
    first, second = video(2)
    output, _ = network(second, network(first)[1])
    output.square().mean().backward()
    layer = network.layers["down2.0"]
    assert layer.teacher.weight.grad.abs().sum() > 0
    assert layer.small[0].weight.grad.abs().sum() > 0
    assert layer.full.weight.grad is None
