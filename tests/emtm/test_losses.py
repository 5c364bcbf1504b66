import math

import pytest
import torch

from vkdlab.data.grounding import GroundingBatch
from vkdlab.emtm import GroundingTeacher, SpanConfig, SpanNetwork, SpanOutput
from vkdlab.emtm.losses import location_loss, match_loss, match_target, place_overlap, soft_target


def _output(start, end, match=None, mask=None):
    mask = torch.ones_like(start, dtype=torch.bool) if mask is None else mask
    match = torch.zeros(*start.shape, 4) if match is None else match
    return SpanOutput(start_logits=start, end_logits=end, match_logits=match, mask=mask)


@pytest.mark.parametrize(
    ("clip", "valid", "expected"),
    [
        (2, 5, [0, 0.25, 0.5, 0.25, 0]),
        (0, 5, [0.75, 0.25, 0, 0, 0]),
        (2, 3, [0, 0.25, 0.75, 0, 0]),
        (0, 1, [1, 0, 0, 0, 0]),
    ],
)
def test_the_target_is_a_distribution_over_the_clip_and_its_real_neighbours(clip, valid, expected):
    mask = torch.arange(5)[None] < valid
    assert soft_target(torch.tensor([clip]), mask).tolist() == [expected]


def test_the_location_loss_is_the_cross_entropy_worked_out_by_hand():
    start = torch.tensor([[1.0, 2.0, 0.5, -torch.inf]])
    end = torch.tensor([[0.0, 0.0, 3.0, -torch.inf]])
    mask = torch.tensor([[True, True, True, False]])
    loss = location_loss(_output(start, end, mask=mask), torch.tensor([[1, 2]]))
    log_start = [x - math.log(sum(math.exp(y) for y in (1, 2, 0.5))) for x in (1, 2, 0.5)]
    log_end = [x - math.log(sum(math.exp(y) for y in (0, 0, 3))) for x in (0, 0, 3)]
    by_hand = -(0.25 * log_start[0] + 0.5 * log_start[1] + 0.25 * log_start[2])
    by_hand -= 0.25 * log_end[1] + 0.75 * log_end[2]
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_places_around_a_moment():
    mask = torch.ones(1, 14, dtype=torch.bool)
    assert match_target(torch.tensor([[3, 10]]), mask).tolist() == [[0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 0]]


def test_where_start_and_end_claim_a_clip_the_end_wins():
    assert match_target(torch.tensor([[2, 3]]), torch.ones(1, 7, dtype=torch.bool)).tolist() == [[1, 3, 3, 3, 3, 3, 0]]


def test_the_matching_loss_ignores_padding():
    match = torch.randn(1, 6, 4)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    start = torch.zeros(1, 6)
    before = match_loss(_output(start, start, match, mask), torch.tensor([[1, 2]]))
    match[:, 4:] = 1e4
    assert match_loss(_output(start, start, match, mask), torch.tensor([[1, 2]])) == before


def test_orthogonal_places_overlap_by_nothing_and_equal_ones_by_their_products():
    assert place_overlap(torch.eye(4, 8)).item() == pytest.approx(0, abs=1e-5)
    assert place_overlap(torch.ones(4, 2)).item() == pytest.approx(math.sqrt(12 * 4), rel=1e-6)


def _batch(size=24, clips=10):
    """Videos in which one clip in ten is marked, and the query says by which of two marks the moment is found."""
    generator = torch.Generator().manual_seed(1)
    which = torch.arange(size) % 2
    starts = torch.stack([torch.randperm(clips - 2, generator=generator)[:2] for _ in range(size)])
    video = torch.zeros(size, clips, 2)
    for row in range(size):
        for mark in range(2):
            video[row, starts[row, mark] : starts[row, mark] + 3, mark] = 1.0
    start = starts[torch.arange(size), which].float()
    return GroundingBatch(
        video=video,
        video_mask=torch.ones(size, clips, dtype=torch.bool),
        query=torch.nn.functional.one_hot(which, 2).float()[:, None].repeat(1, 3, 1),
        query_mask=torch.ones(size, 3, dtype=torch.bool),
        duration_s=torch.full((size,), float(clips)),
        moment_s=torch.stack([start, start + 3], 1),
        ids=[str(row) for row in range(size)],
    )


def test_a_teacher_learns_to_find_what_the_query_names():
    batch = _batch()
    config = SpanConfig(video_dim=2, query_dim=2, dim=32, heads=4, max_clips=10, max_words=3, dropout=0.0)
    teacher = GroundingTeacher(SpanNetwork(config))
    optimiser = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    before = teacher.evaluate(batch)["mIoU"].value
    for _ in range(120):
        optimiser.zero_grad()
        losses = teacher.loss(batch)
        losses["total"].backward()
        optimiser.step()
    after = teacher.eval().evaluate(batch)
    assert before < 0.7 < 0.9 < after["mIoU"].value
    assert after["R1@0.7"].value > 0.9
    assert losses["total"].item() == pytest.approx((losses["location"] + losses["match"]).item(), rel=1e-6)
