import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.delta.small_networks import Chain, Residual, UNet, randomise, video
from vkdlab.delta import DeltaBlock, DeltaConv2d, convert
from vkdlab.delta.folding import trace


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
def test_a_video_that_stands_still_gets_the_answer_of_its_key_frame_exactly(make):
    network = convert(randomise(make()))
    frame = video(1)[0]
    first, *later = network.stream([frame.clone() for _ in range(4)], period=4)
    assert all(torch.equal(output, first) for output in later)


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


class Branching(nn.Module):
    """Calls its middle layer as often, or on maps of such a size, as the frame's brightness says."""

    def __init__(self, *, resize=False):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.norm, self.resize = nn.BatchNorm2d(8), resize

    def forward(self, x):
        bright = x.mean() > 0.5
        x = self.a(x)
        if self.resize and bright:
            x = x[..., ::2]
        x = self.norm(self.b(x))
        if not self.resize:
            for _ in range(2 if bright else 0):
                x = self.b(x)
        return self.c(x).mean((2, 3))


@pytest.mark.parametrize("deploy", [False, True])
def test_control_flow_that_depends_on_the_frame_is_refused_by_name_when_it_takes_another_way(deploy):
    network = convert(Branching())
    network = network.deploy() if deploy else network
    dark, bright = torch.full((1, 3, 8, 8), 0.2), torch.full((1, 3, 8, 8), 0.9)
    assert torch.isfinite(network(dark, network(dark)[1])[0]).all()
    assert torch.isfinite(network(bright, network(bright)[1])[0]).all()
    with pytest.raises(ValueError, match=r"'b' was called 1 times on the key frame and at least 2 .*skip=\['b'\]"):
        network(bright, network(dark)[1])
    with pytest.raises(ValueError, match=r"'b' was called 3 times on the key frame and 1 times now"):
        network(dark, network(bright)[1])


@pytest.mark.parametrize("deploy", [False, True])
def test_maps_whose_size_depends_on_the_frame_are_refused_by_name(deploy):
    network = convert(Branching(resize=True))
    network = network.deploy() if deploy else network
    dark, bright = torch.full((1, 3, 8, 8), 0.2), torch.full((1, 3, 8, 8), 0.9)
    with pytest.raises(ValueError, match=r"'b' was given \(1, 8, 8, 8\) on the key frame and \(1, 8, 8, 4\) now"):
        network(bright, network(dark)[1])


def test_a_network_that_cannot_be_traced_keeps_its_norms_and_runs_its_own_code():
    model = randomise(Branching())
    assert trace(model) is None
    network = convert(model)
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for frame in (torch.full((1, 3, 8, 8), 0.2), torch.full((1, 3, 8, 8), 0.9)):
        _close(network(frame)[0], model(frame))


class Shared(nn.Module):
    """One convolution under two names, called three times a frame, and one whose norm is not always after it."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.again = self.b
        self.norm = nn.BatchNorm2d(8)
        self.c = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.norm(self.b(self.a(x))).relu()
        return self.c(self.again(self.b(x).relu()))


@pytest.mark.parametrize("deploy", [False, True])
def test_a_shared_layer_has_one_student_and_a_memory_for_each_call(deploy):
    model = randomise(Shared())
    network = convert(model)
    assert list(network.layers) == ["b"]
    assert network.model.b is network.model.again
    _open(network)
    network.layers["b"].full.weight.data.mul_(1 + 1e-7)  # so that it is deployed as a student of its own
    network = network.deploy() if deploy else network
    frames = video(4)
    _, state = network(frames[0])
    assert list(state.caches) == ["b", "b#2", "b#3"]
    for frame, output in zip(frames, network.stream(frames), strict=True):
        _close(output, model(frame))


def test_tied_weights_of_two_convolutions_are_folded_apart():
    model = Chain(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
    model.middle[2].weight = model.middle[0].weight
    randomise(model)
    frames = video(3)
    for frame, output in zip(frames, _open(convert(model)).stream(frames), strict=True):
        _close(output, model(frame))


class InPlace(nn.Module):
    """Changes a convolution's output, a convolution's input and the frame itself in place."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x.sub_(0.5)
        x = self.a(x)
        y = self.b(x)
        x.mul_(-3)
        y.clamp_(0, 0.3)
        z = self.c(y)
        y.zero_()
        return self.d(z.add_(x)).relu_()


@pytest.mark.parametrize("deploy", [False, True])
@torch.no_grad()
def test_what_is_changed_in_place_does_not_change_what_is_remembered(deploy):
    model = InPlace().eval()
    network = _open(convert(model))
    for layer in network.layers.values():
        layer.full.weight.mul_(1 + 1e-7)
    network = network.deploy(layout="contiguous") if deploy else network
    assert set(network.layers) == {"b", "c"}
    frames = video(4)
    truth = [model(frame.clone()) for frame in frames]
    copies = [frame.clone() for frame in frames]
    for output, expected in zip(network.stream(copies), truth, strict=True):
        _close(output, expected)
    _, state = network(frames[0].clone())
    assert torch.equal(state.frame, frames[0])


def test_small_students_remember_apart_from_the_network_as_well():
    network = convert(InPlace()).eval()
    deployed = network.deploy()
    frames = video(4)
    with torch.no_grad():
        ours = list(deployed.stream([frame.clone() for frame in frames]))
        for one, other in zip(network.stream([frame.clone() for frame in frames]), ours, strict=True):
            _close(one, other)
        for cache in deployed(frames[0].clone())[1].caches.values():
            assert cache[-1].abs().sum() > 0


class Listed(nn.Module):
    """Calls a convolution and a norm through a plain list."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.norm, self.d = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.order = [self.b, self.norm]

    def forward(self, x):
        x = self.a(x)
        for module in self.order:
            x = module(x)
        return self.d(self.c(x))


def test_layers_called_through_a_plain_list_stay_as_they_are():
    model = randomise(Listed())
    network = convert(model)
    assert list(network.layers) == ["c"]
    assert network.left["b"].startswith("it is also kept in a plain list")
    frame = video(1)[0]
    _close(network(frame)[0], model(frame))


class Odd(nn.Module):
    """Convolutions of other kinds."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.normed = parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.hooked = nn.Conv2d(8, 8, 3, padding=1)
        self.hooked.register_forward_hook(lambda module, inputs, output: output * 2)
        self.standardised = Standardised(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.line, self.volume = nn.Conv1d(8, 8, 1), nn.Conv3d(8, 8, 1)
        self.late = nn.LazyConv2d(8, 1)
        self.z = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.standardised(self.hooked(self.normed(self.b(self.a(x)))))
        x = self.late(self.up(x))
        x = self.line(x.flatten(2)).view_as(x)
        return self.z(self.volume(x[:, :, None])[:, :, 0])


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, padding=1)


def test_other_kinds_of_convolutions_stay_as_they_are_and_say_why():
    model = Odd().eval()
    network = convert(model)
    assert list(network.layers) == ["b"]
    assert network.left["normed"] == "its weights are parametrised"
    assert network.left["hooked"] == "it has hooks"
    assert network.left["standardised"] == "Standardised computes something else than a convolution with its weights"
    assert network.left["late"] == "it is lazy and was not run yet"
    model.late = nn.Conv2d(8, 8, 1)
    frames = video(3)
    for frame, output in zip(frames, _open(convert(model)).stream(frames), strict=True):
        _close(output, model(frame))


class SamePadding(nn.Conv2d):
    """Pads as TensorFlow does: more to the right and below."""

    def forward(self, x):
        k, s = self.kernel_size[0], self.stride[0]
        down, across = (max((-(-side // s) - 1) * s + k - side, 0) for side in x.shape[-2:])
        x = nn.functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return nn.functional.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


def test_batch_norms_are_folded_into_convolutions_of_ones_own_kind_where_that_is_right():
    model = Chain(
        SamePadding(8, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        SamePadding(8, 8, 3),
        nn.BatchNorm2d(8),
        Standardised(8, 8, 3),
        nn.BatchNorm2d(8),
    )
    randomise(model)
    network = _open(convert(model))
    assert list(network.layers) == ["middle.2"]
    norms = [name for name, module in network.model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == ["middle.5"]
    for size in ((24, 32), (23, 31)):
        frames = video(3, size=size)
        for frame, output in zip(frames, network.stream(frames), strict=True):
            _close(output, model(frame))


def test_complex_weights_stay_as_they_are():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3)
            self.phase = nn.Conv2d(8, 8, 1, dtype=torch.complex64)
            self.z = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.z(self.phase(self.b(self.a(x)).to(torch.complex64)).real)

    assert convert(Complex()).left["phase"] == "its weights are complex"


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
