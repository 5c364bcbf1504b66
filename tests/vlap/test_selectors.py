"""Ways to choose frames without a prompter: which ones, of short videos too, and whatever else is in the batch."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.vlap.small_backbone import SmallBackbone, batch_of
from vkdlab.vlap.prompter import segments
from vkdlab.vlap.selectors import (
    ORACLE,
    at_random,
    confidence,
    everything,
    evidence_frames,
    localizer,
    nothing,
    oracle,
    rivals,
    selection_of,
    uniform,
)


def mask_of(*counts: int, length: int = 0) -> torch.Tensor:
    return torch.arange(max(*counts, length)) < torch.tensor(counts)[:, None]


def chosen(selection) -> list[list[int]]:
    return [indices[there].tolist() for indices, there in zip(selection.indices, selection.mask, strict=True)]


def test_uniform_takes_the_middle_of_equal_parts():
    assert chosen(uniform(mask_of(32, 7), select=4)) == [[4, 12, 20, 28], [0, 2, 4, 6]]
    assert chosen(uniform(mask_of(32), select=1)) == [[16]]


@given(count=st.integers(1, 40), select=st.integers(1, 12))
def test_uniform_takes_one_frame_of_each_of_the_prompters_segments_or_all_there_are(count, select):
    (found,) = chosen(uniform(mask_of(count), select=select))
    if count < select:
        assert found == list(range(count))
    else:
        (bounds,) = segments(torch.tensor([count]), select=select).tolist()
        assert [sum(bound <= frame for bound in bounds) for frame in found] == list(range(1, select + 1))


@pytest.mark.parametrize("name", rivals(SmallBackbone(), select=4))
@pytest.mark.parametrize(("count", "length"), [(1, 1), (3, 3), (3, 9), (9, 9), (9, 20)])
def test_every_way_gives_a_whole_selection(name, count, length):
    batch = batch_of([count, length], length=length, evidence=[(0.2, 0.4)] * 2, tokens=[torch.randn(count, 2, 5)])
    found = rivals(SmallBackbone().eval(), select=4)[name](batch)
    wanted = {"all frames": count, "no frame": 0}.get(name, min(count, 4))
    assert found.mask[0].sum() == len(set(chosen(found)[0])) == wanted
    assert chosen(found)[0] == sorted(chosen(found)[0])
    assert not found.indices[~found.mask].any()
    hot = functional.one_hot(found.indices, length) * found.mask[..., None]
    assert torch.equal(found.picks, hot.float())
    assert found.scores.isfinite().tolist() == batch.mask.tolist()
    places = found.take(batch.places)
    assert torch.equal(places, batch.places.gather(1, found.indices) * found.mask)


@pytest.mark.parametrize("name", rivals(SmallBackbone(), select=4))
def test_what_else_is_in_a_batch_changes_no_choice(name):
    way = rivals(SmallBackbone().eval(), select=4, seed=5)[name]
    counts, spans = [9, 2, 14, 5], [(0.1, 0.2), (0.5, 0.6), (0.3, 0.9), (torch.nan,) * 2]
    tokens, options = [torch.randn(count, 2, 5) for count in counts], [2, 5, 3, 4]

    def choice(rows: list[int], length: int) -> dict[str, list[int]]:
        picked = {"evidence": spans, "tokens": tokens, "options": options, "ids": ["a", "b", "c", "d"]}
        batch = batch_of(
            [counts[i] for i in rows], length=length, **{k: [v[i] for i in rows] for k, v in picked.items()}
        )
        return dict(zip(batch.ids, chosen(way(batch)), strict=True))

    together = choice([0, 1, 2, 3], 14)
    assert together == choice([2, 0, 3, 1], 20)
    assert together == choice([0], 9) | choice([1], 2) | choice([2], 14) | choice([3], 5)


def test_random_choices_follow_seed_and_id():
    mask, ids = mask_of(*[32] * 40), [f"q{i}" for i in range(40)]
    first = chosen(at_random(ids, mask, select=4, seed=1))
    assert first == chosen(at_random(ids, mask, select=4, seed=1))
    other = chosen(at_random(ids, mask, select=4, seed=2))
    assert sum(a == b for a, b in zip(first, other, strict=True)) <= 1
    assert len({tuple(row) for row in first}) >= 39
    more = chosen(at_random(ids, mask, select=9, seed=1))
    assert all(set(few) < set(many) for few, many in zip(first, more, strict=True))


def test_every_frame_is_as_likely_as_another_at_random():
    ids = [f"q{i}" for i in range(2000)]
    found = chosen(at_random(ids, mask_of(*[8] * 2000), select=2))
    counts = Counter(frame for row in found for frame in row)
    pairs = Counter(map(tuple, found))
    assert min(counts.values()) > 420  # 500 each, standard deviation 19
    assert max(counts.values()) < 580
    assert len(pairs) == 28
    assert max(pairs.values()) < 110  # 71 each, standard deviation 8


def test_no_frame_gives_nothing_to_read():
    batch = batch_of([3, 5], tokens=[torch.randn(3, 2, 5), torch.randn(5, 2, 5)])
    found = nothing(batch.mask)
    assert found.mask.tolist() == [[False], [False]]
    assert not found.take(batch.tokens).any()


def test_all_frames_are_all():
    batch = batch_of([3, 5], tokens=[torch.randn(3, 2, 5), torch.randn(5, 2, 5)])
    found = everything(batch.mask)
    assert chosen(found) == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert torch.equal(found.take(batch.tokens), batch.tokens)


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0.5, 1.0), [11, 13, 16, 18]),  # frames 10 to 19: the middle ones of parts of two and three
        ((0.2, 0.4), [4, 5, 6, 7]),
        ((0.25, 0.35), [4, 5, 6, 7]),  # 5 and 6, and one at either side
        ((0.25, 0.30), [3, 4, 5, 6]),  # 5, one at either side, and of two equally near ones the earlier
        ((0.0, 0.06), [0, 1, 2, 3]),
        ((0.99, 1.0), [16, 17, 18, 19]),  # holds no frame
        ((0.0, 1.0), [2, 7, 12, 17]),
    ],
)
def test_the_oracle_takes_frames_of_the_evidence_and_then_the_nearest(span, expected):
    assert chosen(oracle(batch_of([20], evidence=[span]), select=4)) == [expected]


@given(
    count=st.integers(1, 40),
    select=st.integers(1, 8),
    ends=st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)).map(sorted),
)
def test_the_oracle_misses_no_evidence_that_was_looked_at(count, select, ends):
    batch = batch_of([count], length=count + 3, evidence=[tuple(ends)])
    inside = set(evidence_frames(batch)[0].nonzero().flatten().tolist())
    (found,) = chosen(oracle(batch, select=select))
    assert len(found) == min(count, select)
    assert len(inside & set(found)) == min(len(inside), select)
    centre = sum(ends) * count / 2
    if not inside:
        assert min(abs(frame + 0.5 - centre) for frame in found) <= 0.501  # the one that is nearest to the span


@given(count=st.integers(4, 40), first=st.integers(0, 39), frames=st.integers(1, 40))
def test_the_oracle_fills_up_at_both_sides_alike(count, first, frames):
    first, frames = first % count, min(frames, count - first % count)
    batch = batch_of([count], evidence=[(first / count, (first + frames) / count)])
    (found,) = chosen(oracle(batch, select=frames + 2))
    if first > 0 and first + frames < count:
        assert found == list(range(first - 1, first + frames + 1))
    assert set(range(first, first + frames)) <= set(found)


def test_the_ends_of_a_span_belong_to_it():
    batch = batch_of([4], evidence=[(0.125, 0.375)])
    assert evidence_frames(batch).tolist() == [[True, True, False, False]]


def test_where_no_evidence_is_known_the_oracle_is_uniform_and_says_so():
    batch = batch_of([20, 20], evidence=[(torch.nan, torch.nan), (0.5, 1.0)])
    found = oracle(batch, select=4)
    assert found.known.tolist() == [False, True]
    assert chosen(found) == [chosen(uniform(batch.mask, select=4))[0], [11, 13, 16, 18]]
    assert not found.scores[0].any()
    assert not evidence_frames(batch)[0].any()


def test_the_oracles_scores_are_distances_from_the_span():
    found = oracle(batch_of([4], length=5, evidence=[(0.3, 0.4)]), select=1)
    assert found.scores[0].tolist() == pytest.approx([-0.175, 0.0, -0.225, -0.475, -torch.inf])


def tokens_of(logits: list[list[float]]) -> torch.Tensor:
    """Of frames whose two tokens add up to these logits."""
    return torch.tensor(logits)[:, None].expand(-1, 2, -1) / 2


def test_the_localizer_keeps_the_frames_with_which_the_answerer_is_surest_in_the_order_of_time():
    logits = [[0.0] * 5 for _ in range(6)]
    logits[4][2], logits[1][0], logits[5][3], logits[2][4] = 5.0, 3.0, 4.0, 9.0
    batch = batch_of([6], tokens=[tokens_of(logits)], options=[4])  # there is no fifth option to be sure of
    found = localizer(SmallBackbone().eval(), batch, select=3)
    assert chosen(found) == [[1, 4, 5]]
    sure = torch.tensor([[5.0, 0.0, 0.0, 0.0]]).softmax(1).max()
    assert found.scores[0, 4].item() == pytest.approx(sure.log().item())


def test_of_frames_with_which_the_answerer_is_equally_sure_the_localizer_keeps_the_first():
    logits = [[1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]] * 3
    batch = batch_of([6], length=8, tokens=[tokens_of(logits)], options=[4])
    assert chosen(localizer(SmallBackbone().eval(), batch, select=4)) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("at_once", [1, 3, 7, 256])
def test_confidence_is_that_of_an_answer_to_one_frame(at_once):
    counts, options = [5, 1, 3], [3, 5, 2]
    batch = batch_of(counts, length=6, tokens=[torch.randn(count, 2, 5) for count in counts], options=options)
    backbone = SmallBackbone().eval()
    found = confidence(
        backbone, batch.tokens, backbone.read(batch.prompts), mask=batch.mask, places=batch.places, at_once=at_once
    )
    for row, count in enumerate(counts):
        text = backbone.read([batch.prompts[row]])
        for frame in range(count):
            there = torch.ones(1, 1, dtype=torch.bool)
            tokens, places = batch.tokens[row, frame][None, None], batch.places[row, frame][None, None]
            logits = backbone.score(backbone.look(tokens, text, there, places), text, there)
            assert found[row, frame].item() == pytest.approx(logits.softmax(1).max().item())
        assert not found[row, count:].any()


def test_any_frames_can_be_put_into_a_selection():
    marked = torch.tensor([[True, False, True, False], [False, True, False, False]])
    found = selection_of(marked, mask=mask_of(4, 2), select=3)
    assert chosen(found) == [[0, 2], [1]]
    assert found.scores.tolist() == [[0.0] * 4, [0.0, 0.0, -torch.inf, -torch.inf]]


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        (
            [[True, True, True, False]],
            "at most 2 frames can be chosen and none beyond its end, got \\[3\\] of \\[3\\]",
        ),
        ([[False, False, False, True]], "got \\[1\\] of \\[3\\], 1 beyond the end"),
    ],
)
def test_what_is_no_selection_is_refused(marked, message):
    with pytest.raises(ValueError, match=message):
        selection_of(torch.tensor(marked), mask=mask_of(3, length=4), select=2)


@pytest.mark.parametrize(
    ("mask", "select", "message"),
    [
        ([[True, True]], 0, "select must be at least 1, got 0"),
        ([[True, False], [False, False]], 2, "without any frame"),
        ([[True, False, True]], 2, "padding before a frame"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(mask, select, message):
    mask = torch.tensor(mask)
    with pytest.raises(ValueError, match=message):
        uniform(mask, select=select)
    with pytest.raises(ValueError, match=message):
        at_random(["q"] * len(mask), mask, select=select)


def test_the_oracle_is_among_the_rivals():
    batch = batch_of([20], evidence=[(0.5, 1.0)])
    assert chosen(rivals(SmallBackbone(), select=4)[ORACLE](batch)) == [[11, 13, 16, 18]]
