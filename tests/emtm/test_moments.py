import itertools

import pytest
import torch

from vkdlab.emtm.moments import best_moments, moment_to_clips, non_maximum_suppression


def _random_probs(batch, length, valid):
    mask = torch.arange(length) < torch.tensor(valid)[:, None]
    logits = torch.randn(2, batch, length).masked_fill(~mask, -torch.inf)
    start, end = logits.softmax(-1)
    return start, end, mask


def test_the_best_moment_is_the_one_that_trying_all_pairs_finds():
    valid = [9, 4, 1]
    start, end, mask = _random_probs(3, 9, valid)
    duration_s = torch.tensor([18.0, 10.0, 3.0])
    moments, scores = best_moments(start, end, duration_s=duration_s, mask=mask, k=1)
    for row, n in enumerate(valid):
        pairs = [(i, j) for i, j in itertools.product(range(n), range(n)) if i <= j]
        i, j = max(pairs, key=lambda pair: (start[row, pair[0]] * end[row, pair[1]]).item())
        clip_s = duration_s[row].item() / n
        assert moments[row, 0].tolist() == pytest.approx([i * clip_s, (j + 1) * clip_s])
        assert scores[row, 0].item() == pytest.approx((start[row, i] * end[row, j]).item())


def test_moments_lie_within_their_video_best_first_and_far_enough_apart():
    from vkdlab.metrics import temporal_iou

    start, end, mask = _random_probs(4, 12, [12, 7, 3, 1])
    duration_s = torch.tensor([24.0, 14.0, 6.0, 2.0])
    moments, scores = best_moments(start, end, duration_s=duration_s, mask=mask, k=5)
    assert (moments[..., 0] >= 0).all()
    assert (moments[..., 1] <= duration_s[:, None] + 1e-5).all()
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    for row in range(4):
        real = moments[row][scores[row] > 0]
        for a, b in itertools.combinations(real, 2):
            assert temporal_iou(a, b) < 0.5


def test_a_video_of_one_clip_has_one_moment_repeated_with_score_zero():
    start, end, mask = _random_probs(1, 1, [1])
    moments, scores = best_moments(start, end, duration_s=torch.tensor([2.0]), mask=mask, k=3)
    assert moments.tolist() == [[[0.0, 2.0]] * 3]
    assert scores.tolist() == [[1.0, 0.0, 0.0]]


def test_suppression_keeps_what_a_slow_greedy_loop_keeps():
    from vkdlab.metrics import temporal_iou

    starts = torch.rand(1, 40) * 10
    moments = torch.stack([starts, starts + 0.5 + torch.rand(1, 40) * 5], -1)
    scores = torch.rand(1, 40).sort(descending=True).values
    kept, _ = non_maximum_suppression(moments, scores, k=6, iou_limit=0.4)
    expected = []
    for moment in moments[0]:
        if all(temporal_iou(moment, other) < 0.4 for other in expected):
            expected.append(moment)
    assert torch.equal(kept[0], torch.stack(expected[:6]))


@pytest.mark.parametrize(("k", "limit"), [(0, 0.5), (1, 0.0), (1, 1.1)])
def test_suppression_refuses_numbers_that_make_no_sense(k, limit):
    with pytest.raises(ValueError, match="k must be at least 1"):
        non_maximum_suppression(torch.zeros(1, 1, 2), torch.ones(1, 1), k=k, iou_limit=limit)


@pytest.mark.parametrize(
    ("moment", "clips"),
    [
        ([0.0, 10.0], [0, 9]),
        ([0.0, 0.5], [0, 0]),
        ([1.0, 2.0], [1, 1]),  # a boundary on the grid belongs to the clip it opens or closes
        ([1.5, 2.5], [1, 2]),
        ([9.9, 10.0], [9, 9]),
        ([3.0, 3.0], [3, 3]),  # of zero length
        ([10.0, 10.0], [9, 9]),
    ],
)
def test_a_moment_touches_these_clips_of_one_second(moment, clips):
    given = moment_to_clips(torch.tensor([moment]), torch.tensor([10.0]), torch.tensor([10]))
    assert given.tolist() == [clips]


def test_going_to_clips_and_back_covers_the_moment():
    duration_s, count = torch.full((200,), 17.3), torch.full((200,), 33)
    moments = (torch.rand(200, 2) * 17.3).sort(1).values
    clips = moment_to_clips(moments, duration_s, count)
    clip_s = 17.3 / 33
    assert (clips[:, 0] * clip_s <= moments[:, 0] + 1e-3).all()
    assert ((clips[:, 1] + 1) * clip_s >= moments[:, 1] - 1e-3).all()
    assert (clips[:, 0] <= clips[:, 1]).all()
