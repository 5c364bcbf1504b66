"""The Frame-Prompter keeps one frame of each segment, by the question, and learns through its choice."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vkdlab.vlap.prompter import FramePrompter, ReleasedPrompter, choose, gumbel, segments, temperature_at


def prompter(*, named=0, **changed) -> FramePrompter:
    """Its questions are sentences of 5 numbers, then vectors of 6."""
    return FramePrompter(6, question_dim=5 + 6 * named, named=named, **{"hidden": 8, "heads": 2} | changed).eval()


def scores(network, frames, question):
    return network(frames, question, select=1).scores


def all_there(b: int, t: int) -> torch.Tensor:
    return torch.ones(b, t, dtype=torch.bool)


@given(count=st.integers(0, 40), select=st.integers(1, 12))
def test_segments_follow_each_other_and_differ_by_one_frame_at_most(count, select):
    (bounds,) = segments(torch.tensor([count]), select=select).tolist()
    lengths = [end - start for start, end in pairwise(bounds)]
    assert (bounds[0], bounds[-1]) == (0, count)
    assert max(lengths) - min(lengths) <= 1


def test_of_each_segment_the_frame_of_the_highest_score_is_kept():
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0, 9.0, 8.0]])
    chosen = choose(scores, mask=all_there(1, 6), select=3)
    assert chosen.indices.tolist() == [[1, 3, 4]]
    assert chosen.take(scores.unsqueeze(2)).flatten().tolist() == [3.0, 2.0, 9.0]


def test_of_equal_scores_the_first_is_kept_and_the_entropy_is_that_of_a_flat_choice():
    chosen = choose(torch.zeros(1, 8), mask=all_there(1, 8), select=2)
    assert chosen.indices.tolist() == [[0, 4]]
    assert chosen.entropy.flatten().tolist() == pytest.approx([math.log(4)] * 2)


def test_a_segment_of_one_frame_has_no_entropy():
    assert choose(torch.randn(1, 4), mask=all_there(1, 4), select=4).entropy.tolist() == [[0.0] * 4]


def test_the_gradient_of_a_choice_is_that_of_the_softmax_in_its_segment():
    scores = torch.randn(1, 6, requires_grad=True)
    values = torch.randn(1, 6, 1)
    choose(scores, mask=all_there(1, 6), select=2, temperature=0.5).take(values).sum().backward()
    again = scores.detach().clone().requires_grad_()
    soft = torch.cat([(again[:, part] / 0.5).softmax(1) for part in (slice(0, 3), slice(3, 6))], 1)
    (soft.unsqueeze(2) * values).sum().backward()
    torch.testing.assert_close(scores.grad, again.grad)


@pytest.mark.parametrize("gap", [1.0, 2.0])
def test_noise_takes_frames_as_often_as_their_softmax_says(gap):
    scores = torch.tensor([[0.0, 0.0, gap, 0.0]]).expand(4000, 4)
    chosen = choose(scores, mask=all_there(4000, 4), select=1, noise=gumbel)
    share = (chosen.indices == 2).float().mean().item()
    assert share == pytest.approx(math.exp(gap) / (math.exp(gap) + 3), abs=0.03)


def test_a_video_with_fewer_frames_than_are_asked_for_gives_all_it_has_once():
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    chosen = choose(torch.randn(2, 4), mask=mask, select=3)
    assert chosen.mask.sum(1).tolist() == [2, 3]
    assert sorted(chosen.indices[0][chosen.mask[0]].tolist()) == [0, 1]
    assert not chosen.take(torch.ones(2, 4, 1))[~chosen.mask].any()
    assert chosen.scores[0, 2:].tolist() == [float("-inf")] * 2


def test_one_frame_is_chosen_for_every_question():
    chosen = prompter()(torch.randn(1, 1, 3, 6), torch.randn(1, 5), select=4)
    assert chosen.mask.sum() == 1
    assert chosen.indices[chosen.mask].tolist() == [0]


def test_padding_a_video_with_more_frames_changes_no_choice():
    network, frames, question = prompter(), torch.randn(1, 9, 3, 6), torch.randn(1, 5)
    alone = network(frames, question, select=4)
    padded = torch.cat([frames, torch.randn(1, 4, 3, 6)], 1)
    mask = torch.arange(13)[None] < 9
    longer = network(padded, question, select=4, mask=mask)
    assert longer.indices.tolist() == alone.indices.tolist()
    torch.testing.assert_close(longer.scores[:, :9], alone.scores)


def test_the_choice_follows_the_question_and_is_the_same_every_time():
    torch.manual_seed(3)
    network, frames, questions = (
        prompter(hidden=16),
        torch.randn(1, 32, 4, 6).expand(20, -1, -1, -1),
        torch.randn(20, 5),
    )
    first, second = (network(frames, questions, select=4) for _ in range(2))
    assert torch.equal(first.indices, second.indices)
    assert len({tuple(row) for row in first.indices.tolist()}) > 3


@pytest.mark.parametrize("named", [0, 2])
def test_a_blind_prompter_chooses_the_same_for_all_questions(named):
    network, frames = prompter(named=named, question_aware=False), torch.randn(1, 16, 4, 6).expand(9, -1, -1, -1)
    found = scores(network, frames, torch.randn(9, 5 + 6 * named))
    torch.testing.assert_close(found, found[:1].expand(9, -1))
    assert found[0].std() > 0, "it sees the frames"


def test_noise_is_for_training_alone():
    network, frames, question = prompter(), torch.randn(1, 32, 4, 6), torch.randn(1, 5)
    assert len({tuple(network(frames, question, select=4).indices[0].tolist()) for _ in range(10)}) == 1
    network.train()
    assert len({tuple(network(frames, question, select=4).indices[0].tolist()) for _ in range(10)}) > 5


def test_what_a_question_speaks_of_is_looked_up_in_each_frame():
    network, sentence, wanted = prompter(named=2, reach=0), torch.randn(1, 5), torch.eye(6)[:2]
    frames = torch.eye(6)[5].repeat(1, 8, 4, 1)
    frames[0, 3, 1] = wanted[1]
    seen = scores(network, frames, torch.cat([sentence, wanted.reshape(1, -1)], 1))[0]
    assert (seen[3] - seen[0]).abs() > 1e-3
    torch.testing.assert_close(seen[[1, 2, 4, 5, 6, 7]], seen[:1].expand(6))
    network.seen.weight.data.unflatten(1, (4, -1))[:, 2:] = 0  # what it looks for besides
    for vectors, found in ((wanted, True), (torch.eye(6)[2:4], False)):
        other = scores(network, frames, torch.cat([sentence, vectors.reshape(1, -1)], 1))[0]
        assert bool((other[3] - other[0]).abs() > 1e-3) == found


def test_the_shorter_a_vector_the_less_it_is_looked_up():
    network, frames, sentence = prompter(named=1), torch.randn(1, 6, 4, 6), torch.randn(1, 5)
    along, across = torch.nn.functional.normalize(torch.randn(2, 6), dim=1)

    def asked(vector):
        return scores(network, frames, torch.cat([sentence, vector[None]], 1))

    torch.testing.assert_close(asked(3 * along), asked(along))
    assert (asked(0.5 * along) - asked(along)).abs().max() > 1e-3
    whole = (asked(along) - asked(across)).abs().max()
    assert whole > 1e-3
    assert (asked(1e-3 * along) - asked(1e-3 * across)).abs().max() < 0.02 * whole


def test_where_things_stand_is_seen_where_tokens_lie_in_a_grid():
    frames, question = torch.randn(1, 6, 4, 6), torch.randn(1, 5)
    with_grid, without = prompter(grid=(2, 2), heads=1), prompter(heads=1)
    without.load_state_dict(with_grid.state_dict())
    torch.testing.assert_close(scores(without, frames.flip(2), question), scores(without, frames, question))
    moved = scores(with_grid, frames.flip(2), question) - scores(with_grid, frames, question)
    assert moved.abs().max() > 1e-4
    with pytest.raises(ValueError, match="expected frames of 2 x 2 tokens, got 5"):
        with_grid(torch.randn(1, 6, 5, 6), question, select=1)


@pytest.mark.parametrize(("reach", "expected"), [(0, [5]), (1, [3, 4, 5, 6, 7]), (2, [1, 2, 3, 4, 5, 6, 7, 8, 9])])
def test_frames_around_and_those_around_them_are_seen_and_no_others(reach, expected):
    network, frames, question = prompter(reach=reach), torch.randn(1, 12, 3, 6), torch.randn(1, 5)
    moved = frames.clone()
    moved[:, 5] = torch.randn(1, 3, 6)
    changed = (scores(network, frames, question) - scores(network, moved, question)).abs().flatten() > 1e-5
    assert changed.nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("question_aware", [True, False])
def test_every_part_of_a_prompter_learns_from_what_is_made_of_the_chosen_frames(question_aware):
    network, frames = prompter(named=2, grid=(2, 2), question_aware=question_aware).train(), torch.randn(3, 8, 4, 6)
    (network(frames, torch.randn(3, 17), select=2).take(frames) ** 2).sum().backward()
    still = {name for name, part in network.named_parameters() if part.grad is None or part.grad.abs().max() < 1e-5}
    # A constant added to all scores of a segment changes nothing.
    assert still == {"out.0.bias", "out.1.bias"} | ({"anything"} if question_aware else set())


def test_the_published_prompter_is_noisy_at_inference_and_ours_can_be_told_not_to_be():
    torch.manual_seed(0)
    frames = torch.randn(1, 32, 9, 6)
    noisy = ReleasedPrompter(9, frames=32, select=4).eval()
    assert len({tuple(noisy(frames, select=4).indices[0].tolist()) for _ in range(20)}) > 10
    quiet = ReleasedPrompter(9, frames=32, select=4, noisy=False).eval()
    assert len({tuple(quiet(frames, select=4).indices[0].tolist()) for _ in range(20)}) == 1


def test_the_published_prompter_has_as_many_parameters_as_was_counted():
    counted = {(32, 4): 16_544, (8, 4): 1_040}  # of 257 tokens, counted from the published shapes
    for (frames, select), expected in counted.items():
        assert sum(p.numel() for p in ReleasedPrompter(257, frames=frames, select=select).parameters()) == expected


def test_the_published_prompter_takes_no_other_number_of_frames():
    with pytest.raises(ValueError, match="multiple of select, got 30 and 4"):
        ReleasedPrompter(9, frames=30, select=4)
    with pytest.raises(ValueError, match="keeps 4 of 32 frames, no other numbers"):
        ReleasedPrompter(9, frames=32, select=4)(torch.randn(1, 16, 9, 6), select=4)


def test_the_temperature_falls_to_what_it_is_told():
    assert [round(temperature_at(share, last=0.01), 4) for share in (0.0, 0.5, 1.0, 2.0)] == [1.0, 0.1, 0.01, 0.01]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"select": 0}, "select must be at least 1, got 0"),
        ({"select": 2, "temperature": 0.0}, "temperature must be above 0"),
        ({"select": 2, "mask": torch.zeros(1, 4, dtype=torch.bool)}, "without any frame"),
    ],
)
def test_what_cannot_be_chosen_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        prompter()(torch.randn(1, 4, 2, 6), torch.randn(1, 5), **given)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden": 0}, "must be at least 1"),
        ({"heads": 0}, "must be at least 1"),
        ({"reach": -1}, "named and reach at least 0, got 6, 5, 8, 2, 0 and -1"),
        ({"grid": (4, 0)}, r"grid is \(columns, rows\), 1 or more each, got \(4, 0\)"),
    ],
)
def test_sizes_that_fit_nothing_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        prompter(**sizes)


def test_a_question_has_to_have_a_sentence_beside_its_vectors():
    assert FramePrompter(6, question_dim=13, named=2).asked.in_features == 1
    with pytest.raises(ValueError, match="2 vectors of 6 numbers leave no sentence in 12"):
        FramePrompter(6, question_dim=12, named=2)
