import pytest
import torch

from tests.emtm.made_up import outputs as answers
from tests.emtm.often_wrong import equal
from vkdlab.emtm.trust import recovered, spearman, trust


def slow_spearman(a, b):
    def ranks(values):
        return [sum(x < v for x in values) + (sum(x == v for x in values) + 1) / 2 for v in values]

    a, b = ranks(a), ranks(b)
    middle = (len(a) + 1) / 2
    above = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    spread = (sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b)) ** 0.5
    return above / spread if spread else float("nan")


@pytest.mark.parametrize("size", [1, 2, 3, 8, 40])
def test_rank_correlation_is_that_of_a_slow_loop_with_ties(size):
    a, b = torch.randint(0, 5, (30, size)).float(), torch.randint(0, 7, (30, size)).float()
    found = spearman(a, b).tolist()
    expected = [slow_spearman(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_trust_is_one_where_the_better_teacher_has_more_weight_and_counts_what_can_be_ranked():
    said = answers(queries=50)
    ranked = (said.iou.argsort(1).argsort(1) + 1.0)[..., None].expand(-1, -1, 2)
    weights = ranked / ranked.sum(1, keepdim=True)
    differ = (said.iou.amax(1) > said.iou.amin(1)).sum().item()
    assert trust(weights, said).count == differ
    assert trust(weights, said).value > 0.9
    assert trust(weights.flip(1), said).value < trust(weights, said).value
    assert trust(equal(said), said).count == 0


def test_the_share_of_the_oracles_gain():
    assert recovered(0.5, 0.4, 0.8) == pytest.approx(0.25)
    assert recovered(0.3, 0.4, 0.8) == pytest.approx(-0.25)
    assert recovered(0.4, 0.4, 0.4) != recovered(0.4, 0.4, 0.4)  # not-a-number
