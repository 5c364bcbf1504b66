import math
import threading

import pytest
import torch

from tests.delta.small_networks import UNet, randomise, video
from vkdlab.delta import convert
from vkdlab.delta.state import Pass


@pytest.fixture
def network():
    return convert(randomise(UNet()))


def test_a_state_holds_what_each_layer_was_given_and_gave_on_the_key_frame(network):
    frame = video(1)[0]
    _, state = network(frame)
    seen = network.traced(frame, teacher=True)
    assert list(state.caches) == list(network.layers)
    for name, (x_0, z_0) in state.caches.items():
        assert torch.equal(x_0, seen.inputs[name])
        assert torch.equal(z_0, seen.outputs[name])
    assert torch.equal(state.frame, frame)
    assert state.bytes == 4 * (frame.numel() + sum(t.numel() for cache in state.caches.values() for t in cache))


def test_a_state_counts_frames_and_is_not_changed_by_them(network):
    first, *later = video(3)
    _, state = network(first)
    _, after = network(later[0], state)
    _, last = network(later[1], after)
    assert (state.age, after.age, last.age) == (0, 1, 2)
    again, _ = network(later[0], state)
    torch.testing.assert_close(again, network(later[0], state)[0], rtol=0, atol=0)


def test_nothing_of_a_video_stays_in_the_network(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    list(network.stream(video(4)))
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not list(network.buffers())


def test_two_videos_in_turns_do_not_meet(network):
    a, b = video(5), video(5)
    alone = [list(network.stream(frames, period=3)) for frames in (a, b)]
    together = zip(network.stream(a, period=3), network.stream(b, period=3), strict=True)
    for i, (x, y) in enumerate(together):
        assert torch.equal(x, alone[0][i])
        assert torch.equal(y, alone[1][i])


def test_two_videos_in_threads_do_not_meet(network):
    videos = [video(6) for _ in range(3)]
    alone = [list(network.stream(frames)) for frames in videos]
    found = [None] * 3

    def run(i):
        found[i] = list(network.stream(videos[i]))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (torch.rand(1, 3, 24, 40), r"key frame of shape .* \(1, 3, 24, 32\), and the frame given is \(1, 3, 24, 40\)"),
        (torch.rand(2, 3, 24, 32), r"the frame given is \(2, 3, 24, 32\)"),
        (torch.rand(1, 3, 24, 32).double(), r"type torch.float32, and the frame given is torch.float64"),
    ],
)
def test_a_frame_unlike_the_key_frame_is_refused(network, frame, message):
    _, state = network(video(1)[0])
    with pytest.raises(ValueError, match=message):
        network(frame, state)
    with pytest.raises(ValueError, match="start anew with state=None"):
        state.energy(frame)


def test_a_frame_on_another_device_is_refused(network):
    _, state = network(video(1)[0])
    with pytest.raises(ValueError, match="of device cpu, and the frame given is meta"):
        network(torch.rand(1, 3, 24, 32, device="meta"), state)


def test_the_state_of_another_network_is_refused_even_if_that_is_a_copy(network):
    first, second = video(2)
    _, state = network(first)
    for other in (convert(UNet()), network.deploy()):
        with pytest.raises(ValueError, match=r"made by another network.*start with state=None"):
            other(second, state)


def test_energy_is_nothing_for_the_key_frame_and_two_for_another_picture(network):
    frame = torch.randn(1, 3, 64, 64)
    _, state = network(frame)
    assert state.energy(frame) == 0
    assert state.energy(torch.randn(1, 3, 64, 64)) == pytest.approx(2, rel=0.05)
    assert state.energy(frame + 0.1 * torch.randn(1, 3, 64, 64)) == pytest.approx(0.01, rel=0.05)


def test_energy_does_not_depend_on_brightness_and_is_finite_for_a_black_key_frame(network):
    first, second = video(2)
    _, state = network(first)
    _, brighter = network(first + 7)
    assert brighter.energy(second + 7) == pytest.approx(state.energy(second), rel=1e-3)
    _, black = network(torch.zeros(1, 3, 24, 32))
    assert black.energy(torch.zeros(1, 3, 24, 32)) == 0
    assert black.energy(second) > 1e6


def test_energy_of_what_is_no_number_is_infinite_so_that_a_key_frame_is_taken(network):
    frames = video(4)
    frames[1][0, 1, 2, 3] = torch.nan
    _, state = network(frames[0])
    assert state.energy(frames[1]) == math.inf
    broken = network(frames[1])[1]
    assert broken.energy(frames[1]) == broken.energy(frames[2]) == math.inf
    steps = list(network.steps(frames, period=9, threshold=0.5))
    assert [step.key for step in steps] == [True, True, True, False]
    assert steps[2].output.isfinite().all()


def test_energy_of_a_batch_is_that_of_the_video_that_changed_most(network):
    frame = torch.randn(2, 3, 24, 32)
    _, state = network(frame)
    moved = frame.clone()
    moved[1] = torch.randn(3, 24, 32)
    assert state.energy(moved) == pytest.approx(2, rel=0.2)


def test_a_pass_ends_with_the_call_even_if_it_fails(network):
    with pytest.raises(KeyError), Pass("key").active():
        raise KeyError
    with pytest.raises(RuntimeError, match="called by itself"):
        network.model(video(1)[0])
