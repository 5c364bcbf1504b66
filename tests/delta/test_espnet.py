"""ESPNet: the authors' weights fit, give the known accuracy, and no other file is opened."""

import hashlib
import io

import pytest
import torch

from vkdlab import cost
from vkdlab.data.dense import load_dense
from vkdlab.data.dense_batches import as_input
from vkdlab.delta import convert
from vkdlab.delta.espnet import CAMVID_WEIGHTS, ESPNet, ESPNetConfig, ESPUnit, load_espnet
from vkdlab.dense_metrics import Confusion
from vkdlab.metrics import Mean


def test_an_esp_unit_is_that_of_the_paper():
    """Reduce, five dilations, sums one after another from the second on, joined, added to the input, normed."""
    unit = ESPUnit(10, 10).eval()
    x = torch.randn(2, 10, 9, 8)
    few = unit.c1(x)
    branches = [getattr(unit, f"d{dilation}").conv(few) for dilation in (1, 2, 4, 8, 16)]
    assert [branch.shape[1] for branch in branches] == [2] * 5
    running = torch.stack(branches[1:]).cumsum(dim=0)
    torch.testing.assert_close(unit(x), unit.bn(x + torch.cat([branches[0], *running], dim=1)))


def test_logits_have_the_size_of_the_frame_and_the_network_that_of_the_paper():
    network = ESPNet(ESPNetConfig()).eval()
    assert network(torch.rand(1, 3, 24, 40)).shape == (1, 12, 24, 40)
    assert 0.34e6 < cost.parameters(network) < 0.36e6


def test_bad_sizes_and_configurations_are_refused():
    with pytest.raises(ValueError, match="multiples of 8, got 20 and 40"):
        ESPNet(ESPNetConfig(second=0, third=0))(torch.rand(1, 3, 20, 40))
    with pytest.raises(ValueError, match="at least 5 classes"):
        ESPNetConfig(classes=4)


def test_it_can_be_converted_with_what_norms_follow_a_convolution_folded():
    network = ESPNet(ESPNetConfig(second=1, third=1)).eval()
    converted = convert(network)
    names = {name for name, module in converted.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert names
    assert not any(name.endswith(("level1.bn", "conv.bn")) for name in names)
    frame = torch.rand(1, 3, 32, 24)
    torch.testing.assert_close(converted(frame)[0], network(frame), rtol=1e-4, atol=1e-4)


def test_weights_are_opened_only_if_they_hash_to_what_is_expected(tmp_path):
    network = ESPNet(ESPNetConfig(second=1, third=1))
    for counter in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        counter.running_mean.normal_()
    buffer = io.BytesIO()
    torch.save({k: v for k, v in network.state_dict().items() if "num_batches" not in k}, buffer)
    path = tmp_path / "espnet.pth"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=f"expected {CAMVID_WEIGHTS}. It was not opened"):
        load_espnet(path)
    known = hashlib.sha256(buffer.getvalue()).hexdigest()
    config = ESPNetConfig(second=1, third=1)
    again = load_espnet(path, sha256=known, config=config)
    frame = torch.rand(1, 3, 16, 16)
    assert torch.equal(again(frame), network.eval()(frame))
    assert not again.training
    with pytest.raises(ValueError, match=r"does not fit ESPNet: missing encoder.level2.1"):
        load_espnet(path, sha256=known, config=ESPNetConfig(second=2, third=1))
    with pytest.raises(FileNotFoundError, match="ESPNet weights"):
        load_espnet(tmp_path / "none.pth")


@pytest.mark.data
@pytest.mark.slow
def test_the_authors_weights_give_the_known_accuracy_on_camvid(data_root):
    """0.663 at 320x240, measured independently; void among the answers is a miss."""
    network = load_espnet(data_root / "weights" / "espnet_p2q8_camvid.pth")
    frames = load_dense("camvid", "test", root=data_root, progress=False)
    total = Mean()
    with torch.no_grad():
        for i in range(0, len(frames)):
            answers = network(as_input(frames.frames[i : i + 1])).argmax(1)[0]
            total = total + Confusion.of(answers.numpy(), frames.labels(i), classes=11)
    assert total.value == pytest.approx(0.663, abs=0.002)
