"""Networks that would answer otherwise once their layers are replaced: refused by the names of these."""

import pytest
import torch
from torch import nn

from tests.delta.small_networks import Chain, assert_near, randomise, video, with_full_students
from vkdlab.delta import convert
from vkdlab.delta.probing import check_answers


class Asks(Chain):
    """Adds what convolutions give to what came in, and asks for them by their class."""

    def forward(self, x):
        x = self.first(x)
        for module in self.middle:
            if isinstance(module, nn.Conv2d):
                x = x + module(x)
        return self.last(x)


class AsksForOne(Chain):
    """Halves what one convolution gives, and knows it by its class."""

    def forward(self, x):
        y = self.middle[0](self.first(x))
        return self.last(self.middle[1:](y / 2 if isinstance(self.middle[0], nn.Conv2d) else y))


class Inside(Chain):
    """Uses what is inside of convolutions."""

    def forward(self, x):
        x = self.first(x)
        for conv in self.middle[:1]:
            x = conv._conv_forward(x, conv.weight, conv.bias)
        return self.last(self.middle[1:](x))


class OneByOne(Chain):
    """Shows a convolution maps without an axis of the batch."""

    def forward(self, x):
        return self.last(self.middle[1:](torch.stack([self.middle[0](each) for each in self.first(x)])))


def _pair():
    return nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (AsksForOne, r"with 'middle.0' replaced it gives an answer that is .* % off\. .*skip=\['middle.0'\]"),
        (Inside, r"with 'middle.0' replaced it gives AttributeError: .*_conv_forward.*skip=\['middle.0'\]"),
        (OneByOne, r"'middle.0' replaced .* shape \(8, 64, 64\), not \(b, c, h, w\).*skip=\['middle.0'\]"),
    ],
)
def test_what_a_networks_own_code_does_otherwise_with_a_replaced_layer_is_refused_by_its_name(form, message):
    model = form(*_pair(), nn.Conv2d(8, 8, 3, padding=1))
    model.spare = nn.Conv2d(8, 8, 1)  # what no graph shows comes last
    with pytest.raises(ValueError, match=message):
        convert(model)
    network = with_full_students(convert(model, skip=["middle.0"]))
    frames = video(3)
    for frame, output in zip(frames, network.stream(frames), strict=True):
        assert_near(output, model(frame))


@pytest.mark.parametrize("deploy", [False, True])
def test_a_layer_is_called_by_the_name_that_a_convolution_gives_its_input(deploy):
    class Named(Chain):
        def forward(self, x):
            return self.last(input=self.middle[0](input=self.first(input=x)))

    model = Named(nn.Conv2d(8, 8, 3, padding=1))
    network = with_full_students(convert(model))
    frames = video(3)
    for frame, output in zip(frames, (network.deploy() if deploy else network).stream(frames), strict=True):
        assert_near(output, model(frame))


def test_a_map_without_an_axis_of_the_batch_is_refused_by_the_layers_name_where_no_frame_told_before():
    class Sometimes(Chain):
        def forward(self, x):
            x = self.first(x)
            return self.last(self.middle[0](x) if x.shape[2] > 32 else self.middle[0](x[0])[None])

    network = convert(Sometimes(nn.Conv2d(8, 8, 3, padding=1)))
    with pytest.raises(ValueError, match=r"the layer 'middle.0' was given a map of shape \(8, 24, 32\).*skip="):
        network(video(1)[0])


def test_layers_that_are_passed_over_once_they_are_replaced_are_named():
    model = Asks(*_pair(), nn.ReLU())
    with pytest.raises(ValueError, match=r"never calls \['middle.0', 'middle.1'\].*skip=\['middle.0', 'middle.1'\]"):
        convert(model)
    with pytest.raises(ValueError, match=r"no convolution that can be converted\. .*middle.0: it was asked"):
        convert(model, skip=["middle.0", "middle.1"])


def test_a_block_that_is_asked_for_by_its_class_is_refused_by_its_name():
    class Blocks(Chain):
        def forward(self, x):
            x = self.first(x)
            for module in self.middle:
                x = module(x) if isinstance(module, nn.Sequential) else x
            return self.last(x)

    model = Blocks(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)), nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)))
    with pytest.raises(ValueError, match=r"never calls \['middle.0'\].*convert\(..., blocks without \['middle.0'\]\)"):
        convert(model, blocks=["middle.0"])
    assert list(convert(model).layers) == ["middle.0.0", "middle.1.0"]


def test_norms_that_a_network_asks_for_by_their_class_are_not_folded_away_unseen():
    class Normed(Chain):
        def forward(self, x):
            x = self.first(x)
            for module in self.middle:
                x = module(x)
                if isinstance(module, nn.BatchNorm2d):
                    x = 2 * x
            return self.last(x)

    model = randomise(Normed(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)))
    with pytest.raises(ValueError, match=r"cannot have its batch norms folded.*Convert with fold=False"):
        convert(model)
    frame = video(1)[0]
    assert_near(convert(model, fold=False)(frame)[0], model(frame))


def test_a_network_that_takes_no_small_frame_or_answers_nothing_finite_is_converted():
    class Picky(Chain):
        def forward(self, x):
            if x.shape[-1] not in self.sides:
                raise RuntimeError("another size, please")
            return super().forward(x) / self.scale

    for sides, scale in (((224,), 1.0), ((100,), 1.0), ((64,), 0.0)):
        model = Picky(*_pair())
        model.sides, model.scale = sides, scale
        assert len(convert(model).layers) == 2


def test_looking_whether_the_answer_is_the_same_draws_no_random_number_and_leaves_no_trace():
    class Counts(Chain):
        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(x + 0.1 * torch.rand_like(x))

    model = Counts(*_pair())
    network = convert(model, fold=False)
    before = torch.get_rng_state()
    check_answers(model, network)
    assert torch.equal(torch.get_rng_state(), before)
    assert not hasattr(model, "calls")
    assert not hasattr(network.model, "calls")
