"""One conversion for every network: what was never written for it answers as before, or is refused."""

import pytest
import torch
from torch import nn

from tests.delta.small_networks import Residual, UNet, randomise, video
from vkdlab.data.encoders import ImageEncoder
from vkdlab.delta import convert
from vkdlab.delta.detector import DetectionConfig, DetectionNetwork
from vkdlab.delta.espnet import ESPNet, ESPNetConfig, load_espnet
from vkdlab.delta.networks import SegmentationConfig, SegmentationNetwork


def _lite0() -> nn.Module:
    """EfficientNet-Lite0 as it is published, with convolutions of its own kind that pad as TensorFlow does."""
    published = pytest.importorskip("efficientnet_lite_pytorch", reason="EfficientNet-Lite is not installed")
    network = published.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    weights = ImageEncoder()._weights
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return network


def _espnet() -> nn.Module:
    return ESPNet(ESPNetConfig(second=1, third=1))


# Network, policy, side of the frames, tolerance relative to the greatest answer, layers converted.
NETWORKS = {
    "u-net": (UNet, "out", 32, 1e-5, 5),
    "residual": (Residual, "out", 32, 1e-5, 4),
    "segmentation": (lambda: SegmentationNetwork(SegmentationConfig(5, width=8)), "out", 32, 1e-5, 14),
    "detection": (lambda: DetectionNetwork(DetectionConfig(3, width=8)), "out", 64, 1e-5, None),
    "espnet": (_espnet, "out", 32, 1e-5, None),
    "efficientnet-lite0": (_lite0, "min", 64, 1e-4, 31),
}


@pytest.fixture(scope="module", params=NETWORKS)
def converted(request):
    make, policy, side, tolerance, layers = NETWORKS[request.param]
    torch.manual_seed(0)
    model = make().eval() if request.param == "efficientnet-lite0" else randomise(make())
    return model, convert(model, policy=policy), side, tolerance, layers


def _near(ours, theirs, tolerance):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


@torch.no_grad()
def test_its_batch_norms_are_folded_and_its_layers_converted(converted):
    _, network, _, _, layers = converted
    assert len(network.layers) == layers if layers else len(network.layers) > 5
    assert set(network.left.values()) <= {
        "it is the first convolution",
        "it is the last convolution",
        "it is depth-wise",
        "its small student would not be cheaper",
    }


@torch.no_grad()
def test_its_key_frames_are_the_networks_answers(converted):
    model, network, side, tolerance, _ = converted
    for frame in video(2, size=(side, 2 * side)):
        _near(network(frame)[0], model(frame), tolerance)
        _near(network.deploy()(frame)[0], model(frame), tolerance)


@torch.no_grad()
def test_full_students_give_the_networks_answers_on_all_frames(converted):
    model, network, side, tolerance, _ = converted
    frames = video(3, size=(side, side))
    for parameter in network.gate_parameters():
        nn.init.ones_(parameter)
    try:
        for frame, output in zip(frames, network.stream(frames), strict=True):
            _near(output, model(frame), tolerance)
    finally:
        for parameter in network.gate_parameters():
            nn.init.constant_(parameter, -1.0)


@torch.no_grad()
def test_streams_clips_and_the_deployed_form_agree(converted):
    _, network, side, tolerance, _ = converted
    frames = video(4, size=(side, side), move=0.02)
    streamed = torch.stack(list(network.stream(frames)), 1)
    _near(network.clip(torch.stack(frames, 1)), streamed, tolerance)
    deployed = network.deploy()
    _near(torch.stack(list(deployed.stream(frames)), 1), streamed, tolerance)
    _near(deployed.clip(torch.stack(frames, 1)), streamed, tolerance)


@torch.no_grad()
def test_it_is_cheaper_on_frames_after_a_key_frame(converted):
    _, network, side, _, _ = converted
    costs = network.costs((3, side, side))
    assert costs.key == costs.teacher
    assert costs.delta(()) < costs.teacher


@pytest.mark.data
@torch.no_grad()
def test_espnet_with_the_authors_weights_is_converted(data_root):
    model = load_espnet(data_root / "weights" / "espnet_p2q8_camvid.pth")
    network = convert(model)
    frames = video(3, size=(64, 96), move=0.02)
    _near(network(frames[0])[0], model(frames[0]), 1e-4)
    streamed = list(network.stream(frames))
    for one, other in zip(network.deploy().stream(frames), streamed, strict=True):
        _near(one, other, 1e-4)
    for parameter in network.gate_parameters():
        nn.init.ones_(parameter)
    for frame, output in zip(frames, network.stream(frames), strict=True):
        _near(output, model(frame), 1e-4)
