"""What the compact backbone is built of: looking things up in the cells of a frame, and attention."""

import pytest
import torch
from torch import nn

from vkdlab.vlap.layers import SIGHT_FEATURES, Layer, cell_positions, find, place_features

GRID = cell_positions(4, 3)


def test_positions_are_the_middles_of_cells_row_by_row():
    assert GRID[:, 0].tolist() == [-0.75, -0.25, 0.25, 0.75] * 3
    torch.testing.assert_close(GRID[::4, 1], torch.tensor([-2 / 3, 0, 2 / 3]))


def test_a_thing_in_one_cell_is_found_there():
    wanted, other = torch.eye(6)[0], torch.eye(6)[1]
    cells = other.repeat(12, 1)
    cells[2 * 4 + 1] = 3 * wanted  # row 2, column 1; its length does not matter
    looked_for = torch.stack([wanted, torch.eye(6)[4]])[None]
    found = find(cells[None], looked_for, positions=GRID, sharpness=50.0, threshold=0.5)
    torch.testing.assert_close(found.position[0, 0], torch.tensor([-0.25, 2 / 3]))
    torch.testing.assert_close(found.spread[0, 0], torch.tensor([0.01, 0.01]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.mass[0], torch.tensor([1.0, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.best[0], torch.tensor([1.0, 0.0]))
    assert found.shares[0, 0].argmax() == 9
    seen = torch.tensor([[-0.25, 2 / 3, 0.01, 0.01, 1.0, 1.0], [0.0] * SIGHT_FEATURES])
    torch.testing.assert_close(found.features[0], seen, atol=1e-4, rtol=0)


def test_a_thing_in_two_cells_is_found_between_them_and_spread():
    cells = torch.eye(6)[1].repeat(12, 1)
    cells[[0, 3]] = torch.eye(6)[0]  # both ends of the first row, 1.5 apart
    found = find(cells[None], torch.eye(6)[:1][None], positions=GRID, sharpness=50.0, threshold=0.5)
    torch.testing.assert_close(found.position[0, 0], torch.tensor([0.0, -2 / 3]))
    torch.testing.assert_close(found.spread[0, 0], torch.tensor([0.75, 0.01]), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.shares[0, 0, [0, 3]], torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(("cosine", "mass"), [(0.6, 1 / (1 + 1 / 0.2)), (0.8, 1 / (1 + 0.2))])
def test_what_is_less_similar_than_the_threshold_is_rather_nowhere(cosine, mass):
    cell = torch.tensor([[[cosine, (1 - cosine**2) ** 0.5]]])
    sharpness = torch.tensor(5.0).log().item() / 0.1  # a tenth makes five times as likely
    wanted = torch.tensor([[[2.0, 0.0]]])
    found = find(cell, wanted, positions=torch.zeros(1, 2), sharpness=sharpness, threshold=0.7)
    assert found.mass.item() == pytest.approx(mass, abs=1e-4)
    assert found.best.item() == pytest.approx(cosine)


def test_nothing_is_found_everywhere_alike_and_without_a_fault():
    found = find(torch.randn(2, 12, 6), torch.zeros(2, 1, 6), positions=GRID)
    assert (found.shares == found.shares[0, 0, 0]).all()
    assert found.mass.max() < 1e-3
    assert found.features.isfinite().all()
    empty = find(torch.zeros(1, 12, 6), torch.randn(1, 3, 6), positions=GRID)
    assert empty.features.isfinite().all()


def test_the_look_up_does_not_lose_digits_under_autocast():
    cells, wanted = torch.randn(3, 12, 6), torch.randn(3, 2, 6)
    sizes = {"positions": GRID, "sharpness": 30.0, "threshold": 0.1}
    exact = find(cells, wanted, **sizes)
    with torch.autocast("cpu", torch.bfloat16):
        found = find(cells, wanted, **sizes)
    torch.testing.assert_close(found.position, exact.position)
    torch.testing.assert_close(found.spread, exact.spread)


def test_places_are_told_apart():
    features = place_features((torch.arange(64) + 0.5) / 64)
    apart = torch.cdist(features, features) + torch.eye(64)
    assert apart.min() > 0.1


def test_attention_is_that_of_torch():
    layer, x = Layer(8, heads=2, dropout=0.5).eval(), torch.randn(2, 5, 8)
    mask = torch.tensor([[True, True, False, True, False], [True, False, False, False, False]])
    given = layer.attention_norm(x)
    q, k, v = (y.unflatten(2, (2, 4)).transpose(1, 2) for y in layer.query_key_value(given).split(8, dim=2))
    mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    looked = x + layer.out(mixed.transpose(1, 2).flatten(2))
    expected = looked + layer.feed_forward(layer.forward_norm(looked))
    torch.testing.assert_close(layer(x, mask), expected)


def test_a_layer_looks_at_nothing_that_is_masked():
    layer, x = Layer(8, heads=2, dropout=0.0), torch.randn(1, 4, 8)
    mask = torch.tensor([[True, False, True, False]])
    other = torch.where(mask[..., None], x, torch.randn(1, 4, 8))
    torch.testing.assert_close(layer(x, mask)[mask], layer(other, mask)[mask])
    seen = torch.where(torch.tensor([[False, False, True, False]])[..., None], torch.randn(1, 4, 8), x)
    assert (layer(seen, mask) - layer(x, mask))[0, 0].abs().max() > 1e-3
