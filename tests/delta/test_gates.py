import math

import pytest
import torch

from tests.delta.small_networks import UNet, randomise, video
from vkdlab.delta import Costs, Macs, convert, cost_loss, cost_share, sample_gate
from vkdlab.delta.gates import within_budget


@pytest.mark.parametrize("logit", [-1.0, 0.0, 2.0])
def test_a_gate_opens_as_often_as_its_logit_says(logit):
    draws = 4000
    open_ = sum(sample_gate(torch.tensor(logit)).item() for _ in range(draws)) / draws
    share = 1 / (1 + math.exp(-logit))
    assert abs(open_ - share) < 4 * math.sqrt(share * (1 - share) / draws)


def test_a_gate_is_0_or_1_and_has_the_gradient_of_its_soft_sample():
    for _ in range(20):
        logit = torch.tensor(-1.0, requires_grad=True)
        random = torch.get_rng_state()
        gate = sample_gate(logit)
        gate.backward()
        torch.set_rng_state(random)
        noise = [-math.log(-math.log(u)) for u in torch.rand(2).tolist()]
        soft = 1 / (1 + math.exp(-(-1.0 + noise[0] - noise[1]) / (2 / 3)))
        assert gate.item() == pytest.approx(float(soft >= 0.5), abs=1e-6)
        assert logit.grad.item() == pytest.approx(1.5 * soft * (1 - soft), rel=1e-3, abs=1e-6)


COSTS = Costs(dense=10, layers={"a": Macs(100, 100, 110, 30), "b": Macs(50, 55, 60, 20)})


def test_costs_add_up_to_the_closed_form():
    assert COSTS.teacher == 160
    assert COSTS.key == 165
    assert COSTS.delta(()) == 60
    assert COSTS.delta(("a",)) == 140
    assert COSTS.per_frame(1, ()) == 165
    assert COSTS.per_frame(4, ("a",)) == (165 + 3 * 140) / 4


def test_the_share_of_drawn_gates_is_that_of_the_layers_they_keep():
    gates = {"a": torch.tensor(1.0, requires_grad=True), "b": torch.tensor(0.0, requires_grad=True)}
    share = cost_share(gates, COSTS, period=4)
    assert share.item() == pytest.approx(COSTS.per_frame(4, ("a",)) / 160)
    share.backward()
    assert gates["a"].grad.item() == pytest.approx(3 * 80 / (4 * 160))
    assert gates["b"].grad.item() == pytest.approx(3 * 40 / (4 * 160))


def test_the_loss_is_the_share_that_full_students_add_or_what_exceeds_the_budget():
    gates = {"a": torch.tensor(1.0), "b": torch.tensor(0.0)}
    assert cost_loss(gates, COSTS, period=4).item() == pytest.approx(3 * 80 / (4 * 160))
    share = COSTS.per_frame(4, ("a",)) / 160
    assert cost_loss(gates, COSTS, period=4, budget=0.5).item() == pytest.approx(share / 0.5 - 1)
    assert cost_loss(gates, COSTS, period=4, budget=0.95).item() == 0


def test_costs_without_gates_and_gates_without_costs_are_refused():
    with pytest.raises(ValueError, match="no gates were drawn"):
        cost_share({}, COSTS, period=4)
    with pytest.raises(ValueError, match="gates of layers without costs: c"):
        cost_share({"c": torch.tensor(1.0)}, COSTS, period=4)


def test_a_budget_keeps_the_layers_of_greatest_score_that_fit():
    scores = {"a": (2.0,), "b": (1.0,)}
    assert within_budget(scores, COSTS, budget=10, period=4) == ("a", "b")
    assert within_budget(scores, COSTS, budget=0.92, period=4) == ("a",)
    assert within_budget(scores, COSTS, budget=0.75, period=4) == ("b",)
    with pytest.raises(ValueError, match=r"budget of 0.5 .* cannot be kept at period 4: .* cost 0.539"):
        within_budget(scores, COSTS, budget=0.5, period=4)


def _network():
    return convert(randomise(UNet()))


def test_choosing_for_a_budget_keeps_to_it_and_sets_the_gates():
    network, shape = _network(), (3, 24, 32)
    teacher = network.costs(shape).teacher
    kept = network.choose(0.6, frame_shape=shape)
    assert network.full_layers() == tuple(name for name in network.layers if name in kept)
    assert kept
    assert 0.4 * teacher < network.deploy().macs_per_frame(shape, 4) <= 0.6 * teacher
    assert network.choose(1.2, frame_shape=shape)
    assert set(network.full_layers()) == set(network.layers)


@pytest.mark.parametrize(("budget", "period"), [(0.47, 4), (0.5, 4), (0.6, 4), (0.7, 2), (0.75, 2), (0.9, 2), (1, 1)])
@pytest.mark.parametrize("learned", [False, True])
def test_what_runs_keeps_to_the_budget_and_costs_the_closed_form(budget, period, learned):
    network, shape = _network(), (3, 24, 32)
    if learned:  # as full students do in the released recipe
        for layer in network.layers.values():
            layer.full.weight.data.mul_(1.1)
    full = network.choose(budget, frame_shape=shape, period=period)
    deployed = network.deploy()
    assert deployed.macs_per_frame(shape, period) <= budget * network.costs(shape).teacher
    assert network.costs(shape, deployed=True).per_frame(period, full) == deployed.macs_per_frame(shape, period)
    assert deployed.costs(shape, deployed=True) == deployed.costs(shape)


def test_a_full_student_that_costs_less_than_a_small_one_is_kept_in_any_case():
    """A key frame computes what a small student remembers besides: where all are key frames, that is for nothing."""
    costs = Costs(dense=0, layers={name: Macs(100, 100, 100, 40, narrow=20) for name in "ab"})
    assert within_budget({"a": (1.0,), "b": (2.0,)}, costs, budget=1, period=1) == ("b", "a")
    assert within_budget({"a": (1.0,), "b": (2.0,)}, costs, budget=0.8, period=2) == ()
    with pytest.raises(ValueError, match=r"cannot be kept at period 1: .* cost 1\."):
        within_budget({"a": (1.0,), "b": (2.0,)}, costs, budget=0.99, period=1)


def test_where_logits_are_equal_the_layer_goes_first_whose_student_lacks_most():
    network = _network()
    lost = {name: layer.lost_energy() for name, layer in network.layers.items()}
    assert list(network.choose(1.2, frame_shape=(3, 24, 32))) == sorted(lost, key=lost.get, reverse=True)


def test_scores_of_ones_own_decide_and_must_name_every_layer():
    network, shape = _network(), (3, 24, 32)
    cheapest = network.deploy().macs_per_frame(shape, 4) / network.costs(shape).teacher
    scores = dict.fromkeys(network.layers, 0.0) | {"down2.3": 1.0}
    assert network.choose(cheapest + 0.25, frame_shape=shape, scores=scores)[0] == "down2.3"
    with pytest.raises(ValueError, match=r"missing or unknown: .*nowhere"):
        network.choose(1.0, frame_shape=shape, scores={"nowhere": 1.0})
    with pytest.raises(ValueError, match="cannot be kept"):
        network.choose(0.01, frame_shape=shape)
    with pytest.raises(ValueError, match="cannot be kept"):
        network.choose(float("nan"), frame_shape=shape)


def test_gates_are_drawn_once_per_layer_and_call_and_only_while_searching_in_training():
    network = _network()
    first, later = video(2)
    _, state = network(first)
    assert not network.train().traced(later, state).gates
    network.searching = True
    assert not network.eval().traced(later, state).gates
    network.train()
    drawn = [network.traced(later, state).gates for _ in range(40)]
    assert all(set(gates) == set(network.layers) for gates in drawn)
    opened = torch.tensor([[gate.item() for gate in gates.values()] for gates in drawn])
    assert set(opened.round(decimals=4).unique().tolist()) == {0.0, 1.0}
    assert 0.15 < opened.mean() < 0.4
    loss = cost_loss(network.traced(later, state).gates, network.costs((3, 24, 32)), period=4)
    loss.backward()
    assert all(p.grad is not None for p in network.gate_parameters())


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_what_is_deployed_is_the_graph_that_was_trained_with_its_gates_drawn_hard(layout):
    network = _network().train()
    network.searching = True
    for place, layer in enumerate(network.layers.values()):
        for parameter in (layer.full.weight, *layer.small.parameters()):
            parameter.data.mul_(1 + 0.2 * torch.rand_like(parameter))  # as if it had learned something of its own
        layer.gate_logit.data.fill_((-60.0, 60.0)[place % 2])  # so that every draw comes out as the gate stands
    first, later = video(2, move=0.3)
    seen = network.traced(later, network(first)[1])
    assert [gate.item() for gate in seen.gates.values()] == [0, 1, 0, 1, 0]
    deployed = network.deploy(layout=layout)
    assert [type(layer).__name__ for layer in deployed.layers.values()] == [
        "DeployedSmall", "DeployedFull", "DeployedSmall", "DeployedFull", "DeployedSmall"
    ]  # fmt: skip
    _, output = deployed.stream([first, later])
    torch.testing.assert_close(output, seen.output, rtol=1e-4, atol=1e-5)
    # Every gate matters: the graph with one turned round answers otherwise.
    for layer in network.layers.values():
        layer.gate_logit.data.neg_()
        turned = network(later, network(first)[1])[0]
        assert (turned - output).abs().max() > 1e-3
        layer.gate_logit.data.neg_()


def test_a_search_for_the_cost_alone_closes_all_gates():
    network, costs = _network().train(), None
    network.searching = True
    costs = network.costs((3, 24, 32))
    for parameter in network.gate_parameters():
        torch.nn.init.ones_(parameter)
    optimiser = torch.optim.Adam(network.gate_parameters(), 0.3)
    for _ in range(60):
        gates = {name: sample_gate(layer.gate_logit) for name, layer in network.layers.items()}
        optimiser.zero_grad()
        cost_loss(gates, costs, period=4).backward()
        optimiser.step()
    assert not network.full_layers()
