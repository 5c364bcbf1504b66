"""Networks that do what a per-frame conversion has to see: converted rightly, or refused by the layer's name."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.delta.small_networks import Chain, assert_near, randomise, video, with_full_students
from vkdlab.delta import convert
from vkdlab.delta.folding import hidden_modules, trace


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
        assert_near(network(frame)[0], model(frame))


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
    with_full_students(network)
    network.layers["b"].full.weight.data.mul_(1 + 1e-7)  # so that it is deployed as a student of its own
    network = network.deploy() if deploy else network
    frames = video(4)
    _, state = network(frames[0])
    assert list(state.caches) == ["b", "b#2", "b#3"]
    for frame, output in zip(frames, network.stream(frames), strict=True):
        assert_near(output, model(frame))


def test_tied_weights_of_two_convolutions_are_folded_apart():
    model = Chain(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
    model.middle[2].weight = model.middle[0].weight
    randomise(model)
    frames = video(3)
    for frame, output in zip(frames, with_full_students(convert(model)).stream(frames), strict=True):
        assert_near(output, model(frame))


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
    network = with_full_students(convert(model))
    for layer in network.layers.values():
        layer.full.weight.mul_(1 + 1e-7)
    network = network.deploy(layout="contiguous") if deploy else network
    assert set(network.layers) == {"b", "c"}
    frames = video(4)
    truth = [model(frame.clone()) for frame in frames]
    copies = [frame.clone() for frame in frames]
    for output, expected in zip(network.stream(copies), truth, strict=True):
        assert_near(output, expected)
    _, state = network(frames[0].clone())
    assert torch.equal(state.frame, frames[0])


@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous", None])
def test_a_frame_stays_the_callers_own_for_what_else_it_is_shown_to(layout, form):
    network = with_full_students(convert(InPlace().eval()))
    network = network.deploy(layout=layout) if layout else network
    frames = [frame.contiguous(memory_format=form) for frame in video(3)]
    kept = [frame.clone() for frame in frames]
    _, state = network(frames[0])
    network(frames[1], state)
    network.reference(frames[1])
    list(network.stream(frames))
    network.clip(torch.stack(frames, 1))
    assert all(torch.equal(one, other) for one, other in zip(frames, kept, strict=True))


def test_a_network_that_changes_its_frames_in_place_is_inspected_beside_its_teacher():
    network = with_full_students(convert(InPlace().eval()))
    seen = network.inspect(video(3))
    assert seen.output_drift[0] == 0
    assert seen.output_drift.max() < 1e-10


def test_small_students_remember_apart_from_the_network_as_well():
    network = convert(InPlace()).eval()
    deployed = network.deploy()
    frames = video(4)
    with torch.no_grad():
        ours = list(deployed.stream([frame.clone() for frame in frames]))
        for one, other in zip(network.stream([frame.clone() for frame in frames]), ours, strict=True):
            assert_near(one, other)
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
    assert_near(network(frame)[0], model(frame))


def test_a_list_that_holds_itself_is_looked_through():
    model = Listed()
    model.order.append(model.order)
    model.order.append({"all": model.order})
    assert hidden_modules(model) == {id(model.b), id(model.norm)}


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
    for frame, output in zip(frames, with_full_students(convert(model)).stream(frames), strict=True):
        assert_near(output, model(frame))


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
    network = with_full_students(convert(model))
    assert list(network.layers) == ["middle.2"]
    norms = [name for name, module in network.model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == ["middle.5"]
    for size in ((24, 32), (23, 31)):
        frames = video(3, size=size)
        for frame, output in zip(frames, network.stream(frames), strict=True):
            assert_near(output, model(frame))


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
