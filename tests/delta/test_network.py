import ctypes

import pytest
import torch
from torch import nn

from tests.delta.small_networks import Chain, Residual, UNet, randomise, video
from vkdlab import weights
from vkdlab.delta import convert, keep_freed_memory, load, save
from vkdlab.delta.deployment import DeployedFull, DeployedSmall


def _close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=tolerance)


@pytest.fixture
def network():
    network = convert(randomise(UNet()))
    with torch.no_grad():  # as if the students had learned something of their own
        for parameter in network.student_parameters():
            parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
        network.layers["down2.0"].gate_logit.fill_(1.0)
    return network


@pytest.mark.parametrize("deploy", [False, True])
@pytest.mark.parametrize("period", [1, 2, 3, 5, 9])
def test_clips_and_streams_agree(network, period, deploy):
    network = network.deploy() if deploy else network
    frames = video(5, batch=2)
    streamed = torch.stack(list(network.stream(frames, period=period)), 1)
    with torch.no_grad():
        _close(network.clip(torch.stack(frames, 1), period=period), streamed)


def test_a_clip_has_one_key_frame_unless_asked_otherwise(network):
    frames = video(6)
    streamed = torch.stack(list(network.stream(frames, period=6)), 1)
    _close(network.clip(torch.stack(frames, 1)), streamed)
    _close(network.clip(frames[0][:, None]), streamed[:, :1])


def test_a_clip_answers_in_the_form_of_the_network():
    class Answers(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = UNet()

        def forward(self, x):
            y = self.body(x)
            return {"map": y, "pair": (y.mean((1, 2, 3)), [y * 2]), "name": "kept"}

    network = convert(Answers())
    frames = video(4, batch=2)
    answer = network.clip(torch.stack(frames, 1), period=2)
    for i, step in enumerate(network.stream(frames, period=2)):
        _close(answer["map"][:, i], step["map"])
        _close(answer["pair"][0][:, i], step["pair"][0])
        _close(answer["pair"][1][0][:, i], step["pair"][1][0])
    assert answer["name"] == "kept"


def test_clips_of_networks_that_mix_the_batch_are_refused():
    class Windows(Chain):
        def forward(self, x):
            b = len(x)
            x = self.first(x)
            x = self.middle(torch.cat(x.chunk(2, 3)))
            return self.last(torch.cat(x.split(b), 3))

    network = convert(Windows(nn.Conv2d(8, 8, 3, padding=1)))
    frames = video(3)
    assert len(list(network.stream(frames))) == 3
    with pytest.raises(ValueError, match=r"'middle.0' changes the batch axis \(1 frames became 2 maps\).*use stream"):
        network.clip(torch.stack(frames, 1))

    class Total(UNet):
        def forward(self, x):
            return super().forward(x).sum()

    with pytest.raises(ValueError, match=r"shape \(\) to 1 frames has no axis of the batch.*use stream"):
        convert(Total()).clip(torch.stack(frames, 1))


def test_a_key_frame_comes_every_period(network):
    steps = list(network.steps(video(7), period=3))
    assert [step.key for step in steps] == [True, False, False, True, False, False, True]
    assert [step.state.age for step in steps] == [0, 1, 2, 0, 1, 2, 0]
    assert all(step.energy is None for step in steps)


def test_a_cut_gets_a_key_frame_of_its_own_and_counting_starts_there(network):
    first, second = video(3, move=0.01), video(6, move=0.01)
    steps = list(network.steps([*first, *second], period=5, threshold=0.5))
    assert [step.key for step in steps] == [True, False, False, True, False, False, False, False, True]
    assert steps[0].energy is None
    assert steps[1].energy < 0.1 < 0.5 < steps[3].energy
    _close(steps[3].output, network.reference(second[0]))


def test_a_stream_reads_one_frame_at_a_time_and_keeps_no_gradients(network):
    read = []

    def camera():
        for i, frame in enumerate(video(4)):
            read.append(i)
            yield frame

    stream = network.stream(camera())
    assert read == []
    assert not next(stream).requires_grad
    assert read == [0]
    assert torch.is_grad_enabled()
    assert list(network.stream([])) == []


def test_frames_that_change_size_are_refused_with_their_number_even_where_a_key_frame_is_due(network):
    small, large = torch.rand(1, 3, 24, 32), torch.rand(1, 3, 32, 32)
    for period in (4, 2):
        with pytest.raises(ValueError, match=r"frame 2 of the stream: .*\(1, 3, 24, 32\).*given is \(1, 3, 32, 32\)"):
            list(network.stream([small, small, large], period=period))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (torch.rand(1, 1, 24, 32), "a grey frame: repeat its channel three times"),
        (torch.rand(1, 4, 24, 32), "a frame with alpha: leave the fourth out"),
        (torch.rand(1, 2, 24, 32), r"three channels .* got \(1, 2, 24, 32\); give RGB"),
        (torch.rand(1, 24, 32, 3), r"channels come second: permute\(0, 3, 1, 2\)"),
        (torch.rand(3, 24, 32), r"shape \(b, 3, h, w\), got \(3, 24, 32\). Give frame\[None\]"),
        (torch.rand(24, 32), r"shape \(b, 3, h, w\), got \(24, 32\)$"),
        (torch.zeros(1, 3, 24, 32, dtype=torch.uint8), "floating-point numbers, got torch.uint8: convert it"),
        (torch.rand(0, 3, 24, 32), "a batch at least one frame"),
        (torch.rand(1, 3, 0, 32), "at least one pixel"),
    ],
)
def test_frames_that_are_none_are_refused_in_words(network, frame, message):
    with pytest.raises(ValueError, match=message):
        network(frame)
    with pytest.raises(ValueError, match=message):
        network.reference(frame)
    with pytest.raises(ValueError, match=message):
        list(network.stream([frame]))


def test_clips_that_are_none_are_refused(network):
    with pytest.raises(ValueError, match=r"\(b, t, 3, h, w\) with a frame at least, got \(3, 3, 24, 32\)"):
        network.clip(torch.rand(3, 3, 24, 32))
    with pytest.raises(ValueError, match="with a frame at least"):
        network.clip(torch.rand(1, 0, 3, 24, 32))
    with pytest.raises(ValueError, match="a grey frame"):
        network.clip(torch.rand(1, 2, 1, 24, 32))


@pytest.mark.parametrize("period", [0, -1, 2.5, True, "4"])
def test_periods_that_are_none_are_refused_at_once(network, period):
    for call in (
        lambda: network.steps([], period=period),
        lambda: network.clip(torch.rand(1, 2, 3, 24, 32), period=period),
        lambda: network.macs_per_frame((3, 24, 32), period),
        lambda: network.choose(0.5, frame_shape=(3, 24, 32), period=period),
    ):
        with pytest.raises((ValueError, TypeError)):
            call()


def test_a_threshold_that_is_none_is_refused_at_once(network):
    with pytest.raises(ValueError, match="threshold must be above 0, got 0"):
        network.stream([], threshold=0.0)
    with pytest.raises(ValueError, match="got nan"):
        network.stream([], threshold=float("nan"))


def test_the_deployed_network_answers_as_the_gates_now_stand(network):
    frames = video(6)
    for value in (-1.0, 1.0):
        network.layers["up1.0"].gate_logit.data.fill_(value)
        for ours, theirs in zip(network.deploy().stream(frames), network.stream(frames), strict=True):
            _close(ours, theirs)


def test_the_deployed_network_has_the_chosen_students_only_and_no_weight_twice(network):
    network.layers["up1.3"].gate_logit.data.fill_(1.0)
    network.layers["up1.3"].full.weight.data.copy_(network.layers["up1.3"].teacher.weight)
    deployed = network.deploy()
    assert isinstance(deployed.layers["down2.0"], DeployedFull)
    assert isinstance(deployed.layers["down2.3"], DeployedSmall)
    assert "up1.3" not in deployed.layers
    assert deployed.left["up1.3"].endswith("is its teacher")
    names = list(deployed.state_dict())
    assert not any("gate" in name or ".small." in name for name in names)
    pointers = [tensor.data_ptr() for tensor in deployed.state_dict().values()]
    assert len(set(pointers)) == len(pointers)
    assert not any(p.requires_grad for p in deployed.parameters())
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in deployed.parameters() if p.ndim == 4)
    own = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert not own & set(pointers)


def test_layouts_give_the_same_answers_and_unknown_ones_are_refused(network):
    frames = video(4)
    for one, other in zip(
        network.deploy().stream(frames), network.deploy(layout="contiguous").stream(frames), strict=True
    ):
        _close(one, other)
    with pytest.raises(ValueError, match="was deployed before"):
        network.deploy().deploy()


@pytest.mark.parametrize("deploy", [False, True])
def test_a_network_comes_back_from_its_file(network, deploy, tmp_path):
    network.layers["up1.3"].gate_logit.data.fill_(1.0)
    network = network.deploy() if deploy else network
    save(network, tmp_path / "delta.safetensors")
    back = load(tmp_path / "delta.safetensors", UNet())
    assert back.layout == network.layout
    assert back.recipe == network.recipe
    frames = video(5)
    for one, other in zip(network.stream(frames), back.stream(frames), strict=True):
        _close(one, other)


@pytest.mark.parametrize("deploy", [False, True])
def test_weights_alone_come_back_into_a_network_of_the_same_form(network, deploy, tmp_path):
    fresh = convert(randomise(UNet()))
    if deploy:
        fresh.layers["down2.0"].gate_logit.data.fill_(1.0)
        fresh.layers["down2.0"].full.weight.data.mul_(2)
        network, fresh = network.deploy(), fresh.deploy()
    weights.save_weights(network, tmp_path / "weights.safetensors")
    weights.load_weights(fresh, tmp_path / "weights.safetensors")
    frames = video(3)
    for one, other in zip(network.stream(frames), fresh.stream(frames), strict=True):
        _close(one, other)


def test_files_that_are_none_are_refused(network, tmp_path):
    path = tmp_path / "delta.safetensors"
    with pytest.raises(FileNotFoundError):
        load(path, UNet())
    weights.save_weights(network, path)
    with pytest.raises(ValueError, match="holds no delta network"):
        load(path, UNet())
    save(network, path)
    with pytest.raises(ValueError, match="does not fit DeltaNetwork"):
        load(path, UNet(width=16))
    save(network.deploy(), path)
    with pytest.raises(ValueError, match=r"made from another network: layers in one and not the other are .*block1"):
        load(path, Residual())


def _conv(n, c, h, w, out):
    return n * c * h * w * out[0] * out[1]


@pytest.mark.parametrize("deploy", [False, True])
def test_the_cost_of_a_frame_is_the_closed_form(deploy):
    """A chain of three convolutions and a linear layer, added up by hand."""
    network = convert(Chain(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1)))
    network.layers["middle.2"].gate_logit.data.fill_(1.0)
    network.layers["middle.2"].full.weight.data.mul_(2)
    network = network.deploy() if deploy else network
    dense = _conv(8, 3, 3, 3, (12, 16)) + _conv(4, 8, 1, 1, (6, 8))
    teacher = dense + _conv(16, 8, 3, 3, (6, 8)) + _conv(8, 16, 3, 3, (6, 8))
    column, row = _conv(4, 8, 3, 1, (6, 16)), _conv(16, 4, 1, 3, (6, 8))
    subtract = 4 * 6 * 16 if deploy else 8 * 12 * 16
    full = _conv(8, 16, 3, 3, (6, 8)) + 16 * 6 * 8 + 8 * 6 * 8
    delta = dense + column + row + subtract + 16 * 6 * 8 + full
    key = teacher + (column if deploy else 0)
    costs = network.costs((3, 12, 16))
    assert (costs.teacher, costs.key, costs.delta(network.full_layers())) == (teacher, key, delta)
    for period in (1, 2, 4, 8):
        by_hand = (key + (period - 1) * delta) / period
        assert network.macs_per_frame((3, 12, 16), period) == pytest.approx(by_hand, rel=1e-9)


def test_a_shared_layer_costs_as_often_as_it_is_called():
    class Twice(Chain):
        def forward(self, x):
            return self.last(self.middle(self.middle(self.first(x))))

    costs = convert(Twice(nn.Conv2d(8, 8, 3, padding=1))).costs((3, 12, 16))
    assert costs.layers["middle.0"].teacher == 2 * _conv(8, 8, 3, 3, (12, 16))


def test_a_block_costs_its_teacher_and_its_student():
    costs = convert(Residual(), blocks=["block2"]).costs((3, 16, 16))
    out, block = (8, 8), costs.layers["block2"]
    teacher = _conv(16, 8, 3, 3, out) * 2 + _conv(16, 16, 3, 3, out)
    student = _conv(4, 16, 3, 3, out) + _conv(16, 4, 3, 3, out)
    assert (block.teacher, block.key) == (teacher, teacher + student)
    assert block.small == block.full == student + 8 * 16 * 16 + 2 * 16 * 8 * 8


def test_a_frame_shape_that_is_none_is_refused(network):
    with pytest.raises((ValueError, TypeError)):
        network.costs((24, 32))


def test_looking_inside_does_not_change_the_answer_and_shows_the_change(network):
    first, second = video(2)
    output, state = network(first)
    seen = network.traced(first)
    assert torch.equal(seen.output, output)
    assert not seen.changes
    later = network.traced(second, state)
    assert torch.equal(later.output, network(second, state)[0])
    assert later.state.age == 1
    for name, layer in network.layers.items():
        x_0, z_0 = state.caches[name]
        by_hand = layer.change(later.inputs[name] - x_0)
        _close(later.changes[name], by_hand)
        _close(later.outputs[name], z_0 + by_hand)


@pytest.mark.parametrize("deploy", [False, True])
def test_an_inspection_holds_the_changes_of_both_networks(network, deploy):
    network = network.deploy() if deploy else network
    frames = video(4)
    seen = network.inspect(iter(frames))
    assert seen.names == tuple(network.layers)
    assert seen.input_energy.shape == (len(seen.names), 4)
    assert seen.input_energy[:, 0].abs().max() == seen.error_energy[:, 0].abs().max() == seen.output_drift[0] == 0
    state = network(frames[0])[1]
    first = network.traced(frames[0], teacher=True)
    theirs, ours = network.traced(frames[2], teacher=True), network.traced(frames[2], state)
    k = seen.names.index("up1.0")
    for energy, maps, change in (
        (seen.input_energy, "input", ours.inputs["up1.0"] - first.inputs["up1.0"]),
        (seen.teacher_energy, "teacher", theirs.outputs["up1.0"] - first.outputs["up1.0"]),
        (seen.predicted_energy, "predicted", ours.changes["up1.0"]),
        (seen.error_energy, "error", ours.outputs["up1.0"] - theirs.outputs["up1.0"]),
    ):
        assert energy[k, 2].item() == pytest.approx(change.square().mean().item(), rel=1e-3)
        _close(getattr(seen.maps["up1.0"], maps)[2], change[0].square().mean(0).sqrt())
    relative = (ours.output - theirs.output).square().sum() / theirs.output.square().sum()
    assert seen.output_drift[2].item() == pytest.approx(relative.item(), rel=1e-3)
    assert len(seen.outputs) == len(seen.teacher_outputs) == 4


def test_full_students_have_no_error_to_see():
    network = convert(randomise(UNet()))
    for parameter in network.gate_parameters():
        nn.init.ones_(parameter)
    seen = network.inspect(video(3))
    assert (seen.error_energy <= 1e-9 * seen.teacher_energy.max()).all()
    assert seen.output_drift.max() < 1e-9


def test_an_inspection_of_nothing_or_of_two_videos_is_refused(network):
    with pytest.raises(ValueError, match="no frame to inspect"):
        network.inspect([])
    with pytest.raises(ValueError, match="one video is inspected at a time, got frames of 2"):
        network.inspect(video(2, batch=2))


def test_memory_is_kept_where_the_c_library_can():
    assert keep_freed_memory() == hasattr(ctypes.CDLL(None), "mallopt")
    with pytest.raises(ValueError, match="up_to_bytes must be 65536"):
        keep_freed_memory(up_to_bytes=1)
