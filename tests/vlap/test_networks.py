"""The compact backbone: what it looks up in frames, and what may and may not change its answers."""

import copy

import pytest
import torch
from torch import nn

from tests.vlap.small_compact import (
    ALWAYS,
    CONFIG,
    CUP,
    DIM,
    DUCK,
    HAND,
    OPTIONS,
    PROMPTS,
    THINGS,
    make,
    tokens_of,
)
from vkdlab.vlap.backbone import Prompt
from vkdlab.vlap.mentions import Mentioned, Mentions
from vkdlab.vlap.networks import CompactBackbone, CompactConfig, FrameEncoder, _with_changes


@pytest.fixture(scope="module")
def memory():
    """One memory of texts for all tests: MiniLM is loaded once."""
    with torch.random.fork_rng():
        return make()._texts


@pytest.fixture
def backbone(memory):
    backbone = make()
    backbone._texts = memory
    return backbone


def pictures(count, height=24, width=32):
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8)


def answer(backbone, tokens, prompts, mask, places):
    text = backbone.read(prompts)
    return backbone.score(backbone.look(tokens, text, mask, places), text, mask)


def test_the_encoder_gives_a_token_for_each_cell_row_by_row():
    encoder = FrameEncoder(4, dim=6).eval()
    for height, width in ((96, 128), (48, 64), (8, 8), (16, 40)):
        assert encoder(pictures(2, height, width)).shape == (2, height * width // 64, 6)
    seen = {}
    for row, column in ((10, 10), (10, 11), (12, 10)):
        dark = torch.zeros(1, 160, 160, 3, dtype=torch.uint8)
        dark[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
        seen[row, column] = encoder(dark)[0].unflatten(0, (20, 20))
    assert seen[10, 10].any()
    torch.testing.assert_close(seen[10, 11], seen[10, 10].roll(1, 1))
    torch.testing.assert_close(seen[12, 10], seen[10, 10].roll(2, 0))
    with pytest.raises(ValueError, match="multiples of 8, got 20 and 32"):
        encoder(pictures(1, 20, 32))
    with pytest.raises(ValueError, match="at least 1, got 4 and 0"):
        FrameEncoder(4, dim=0)


def test_each_step_gives_the_sizes_that_the_backbone_states(backbone):
    tokens = backbone.see(pictures(6)).unflatten(0, (3, 2))
    assert tokens.shape == (3, 2, backbone.frame_tokens, backbone.frame_dim) == (3, 2, 12, 12)
    assert not tokens.requires_grad
    mask, places = torch.ones(3, 2, dtype=torch.bool), torch.rand(3, 2)
    text = backbone.read(PROMPTS)
    visual = backbone.look(tokens, text, mask, places)
    assert visual.shape == (3, 2, backbone.queries, backbone.visual_dim) == (3, 2, THINGS + OPTIONS + ALWAYS, 16)
    assert backbone.score(visual, text, mask).shape == (3, 5)
    assert backbone.named == THINGS + ALWAYS
    assert backbone.question(text).shape == (3, backbone.question_dim) == (3, 384 + backbone.named * DIM)
    assert {tokens.dtype, visual.dtype, backbone.question(text).dtype} == {torch.float32}


def test_frames_of_another_size_are_brought_to_the_grid(backbone):
    plain = torch.tensor([10, 200, 90], dtype=torch.uint8)
    seen = backbone.see(plain.expand(2, 50, 81, 3))
    torch.testing.assert_close(seen, backbone.see(plain.expand(2, 24, 32, 3)), rtol=1e-4, atol=1e-4)
    halves = torch.zeros(1, 48, 80, 3, dtype=torch.uint8)
    halves[:, :, :40] = plain
    half = torch.zeros(1, 24, 32, 3, dtype=torch.uint8)
    half[:, :, :16] = plain
    near, far = (backbone.see(frames) - backbone.see(halves) for frames in (half, half.flip(2)))
    assert near.norm() < 0.3 * far.norm()  # the edge between the halves is a little blurred
    with pytest.raises(ValueError, match="no frame"):
        backbone.see(half[:0])
    with pytest.raises(ValueError, match=r"4 x 3 cells of 12 numbers, got \(11, 12\)"):
        backbone.look(
            torch.zeros(1, 1, 11, 12), backbone.read([CUP]), torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1)
        )


def test_a_question_gets_the_same_scores_alone_and_beside_others(backbone):
    tokens, mask, places = tokens_of(backbone, 3, 4)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [False, True, True, False]])
    together = answer(backbone, tokens, PROMPTS, mask, places)
    assert torch.equal(together.isfinite(), torch.arange(5) < torch.tensor([[2], [5], [3]]))
    assert (together[~together.isfinite()] == -torch.inf).all()
    for i, prompt in enumerate(PROMPTS):
        kept = mask[i]
        alone = answer(backbone, tokens[i : i + 1, kept], [prompt], mask[i : i + 1, kept], places[i : i + 1, kept])
        torch.testing.assert_close(together[i : i + 1, : len(prompt.options)], alone, rtol=1e-4, atol=1e-5)


def test_what_stands_on_padding_has_no_influence(backbone):
    tokens, mask, places = tokens_of(backbone, 1, 2)
    plain = answer(backbone, tokens, [DUCK], mask, places)
    padded, far = torch.full((1, 5, *tokens.shape[2:]), torch.nan), torch.full((1, 5), torch.nan)
    padded[:, [1, 3]], far[:, [1, 3]] = tokens, places
    mask = torch.tensor([[False, True, False, True, False]])
    torch.testing.assert_close(answer(backbone, padded, [DUCK], mask, far), plain, rtol=1e-4, atol=1e-5)
    text = backbone.read([DUCK])
    visual = backbone.look(padded, text, mask, far)
    assert (visual[~mask] == 0).all()
    visual[~mask] = torch.nan
    torch.testing.assert_close(backbone.score(visual, text, mask), plain, rtol=1e-4, atol=1e-5)


def test_a_question_without_any_frame_is_answered_from_its_words(backbone):
    tokens, mask, places = tokens_of(backbone, 2, 3)
    mask[0] = False
    scores = answer(backbone, tokens, [CUP, DUCK], mask, places)
    assert scores[0, :2].isfinite().all()
    none = answer(backbone, tokens[:1], [CUP], mask[:1], places[:1])
    torch.testing.assert_close(scores[:1, :2], none, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(none, answer(backbone, tokens[:1, :0], [CUP], mask[:1, :0], places[:1, :0]))
    assert not backbone.look(tokens[:1], backbone.read([CUP]), mask[:1], places[:1]).any()


def test_reordered_options_get_reordered_logits(backbone):
    tokens, mask, places = tokens_of(backbone, 1, 3)
    order = [3, 0, 4, 2, 1]
    other = Prompt(HAND.question, tuple(HAND.options[i] for i in order))
    scores, reordered = (answer(backbone, tokens, [prompt], mask, places) for prompt in (HAND, other))
    assert scores.std() > 1e-3
    torch.testing.assert_close(reordered, scores[:, order], rtol=1e-4, atol=1e-5)


def test_a_frames_tokens_are_of_the_questions_things_of_each_option_and_of_what_is_always_looked_up(backbone):
    tokens, mask, places = tokens_of(backbone, 1, 1)

    def changed(prompt, seen=tokens):
        """Which query tokens are others than those of HAND."""
        looks = [backbone.look(x, backbone.read([p]), mask, places)[0, 0] for x, p in ((tokens, HAND), (seen, prompt))]
        return (looks[0] - looks[1]).abs().amax(1).gt(1e-4).nonzero().flatten().tolist()

    assert changed(HAND) == []
    assert changed(Prompt(CUP.question, HAND.options)) == [0, 1]
    assert changed(Prompt(HAND.question, (*HAND.options[:3], "the red cup", HAND.options[4]))) == [THINGS + 3]
    assert changed(Prompt(HAND.question, HAND.options[:4])) == [THINGS + 4]
    assert changed(HAND, seen=torch.randn_like(tokens)) == list(range(backbone.queries))
    other = copy.deepcopy(backbone)
    other.always[1] = torch.randn(DIM)
    looks = [each.look(tokens, each.read([HAND]), mask, places)[0, 0] for each in (backbone, other)]
    assert (looks[0] - looks[1]).abs().amax(1).gt(1e-4).nonzero().flatten().tolist() == [THINGS + OPTIONS + 1]


def test_tokens_of_options_that_do_not_exist_are_zero(backbone):
    tokens, mask, places = tokens_of(backbone, 3, 2)
    visual = backbone.look(tokens, backbone.read(PROMPTS), mask, places)[:, :, THINGS : THINGS + OPTIONS]
    there = torch.arange(OPTIONS) < torch.tensor([[2], [5], [3]])
    assert torch.equal(visual.abs().sum(3).gt(0), there[:, None].expand(-1, 2, -1))


def test_the_question_for_a_prompter_is_its_sentence_and_vectors_as_long_as_they_are_spoken_of(backbone):
    text = backbone.read(PROMPTS)
    sentence, vectors = backbone.question(text).split([384, backbone.named * DIM], 1)
    assert torch.equal(sentence, text.question)
    vectors, found = vectors.unflatten(1, (-1, DIM)), backbone.mentions(text.words, text.word_mask)
    torch.testing.assert_close(vectors[:, :THINGS].norm(dim=2), found.there)
    assert (torch.cosine_similarity(vectors[:, :THINGS], found.vectors, dim=2) > 0.999).all()
    torch.testing.assert_close(vectors[:, THINGS:], nn.functional.normalize(backbone.always, dim=1).expand(3, -1, -1))
    assert (
        backbone.question(backbone.read([Prompt(CUP.question, HAND.options)])) - backbone.question(text)[:1]
    ).abs().max() < 1e-4


def test_frames_are_read_in_their_order_and_with_their_places(backbone):
    tokens, mask, places = tokens_of(backbone, 1, 3)
    scores = answer(backbone, tokens, [DUCK], mask, places)
    for other in (
        answer(backbone, tokens.flip(1), [DUCK], mask, places),
        answer(backbone, tokens, [DUCK], mask, places / 2),
        answer(backbone, tokens.flip(1), [DUCK], mask, places.flip(1)),
    ):
        assert (other - scores).abs().max() > 1e-3


def test_an_answer_can_follow_from_changes_alone(backbone):
    """What a frame shows is not read, but how it differs from those beside it."""
    text, mask = backbone.read([DUCK]), torch.ones(1, 3, dtype=torch.bool)
    for layer in (backbone.answerer.shared, backbone.answerer.own):
        layer.weight.data[:, : layer.in_features // 3] = 0
    still, other, moved = torch.randn(3, backbone.queries, 16)

    def score(*frames):
        return backbone.score(torch.stack(frames)[None], text, mask[:, : len(frames)])

    torch.testing.assert_close(score(still, still, still), score(other, other, other))
    torch.testing.assert_close(score(still, moved), score(still + other, moved + other), rtol=1e-4, atol=1e-5)
    assert (score(still, moved) - score(moved, still)).abs().max() > 1e-3
    assert (score(still, moved) - score(still, still)).abs().max() > 1e-3


def test_changes_are_to_the_frame_before_and_to_the_next_that_is_there():
    shown, mask = torch.tensor([[1.0], [4.0], [9.0], [0.0]]), torch.tensor([True, True, True, False])
    assert _with_changes(shown, mask).tolist() == [[1, 0, 3], [4, 3, 5], [9, 5, 0], [0, 0, 0]]
    assert _with_changes(shown[:1], mask[:1]).tolist() == [[1, 0, 0]]
    assert _with_changes(shown[:0], mask[:0]).shape == (0, 3)


def test_gradients_reach_all_that_learns_and_the_frames_but_nothing_that_is_frozen(backbone):
    tokens, mask, places = tokens_of(backbone, 3, 2)
    tokens.requires_grad_()
    backbone.train()
    assert not backbone.encoder.training
    scores = answer(backbone, tokens, PROMPTS, mask, places)
    nn.functional.cross_entropy(scores, torch.tensor([0, 4, 2])).backward()
    learned = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in learned} == {"qformer", "answerer"}
    for name, parameter in learned.items():
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("answerer.out.1.bias"):  # a shift of all logits is no change
            assert parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for part in (backbone.encoder, backbone.mentions) for p in part.parameters())
    assert tokens.grad.isfinite().all()
    assert tokens.grad.abs().amax((2, 3)).gt(0).all()
    assert not backbone.question(backbone.read(PROMPTS)).requires_grad


class Told(Mentions):
    """Every thing of a text of w word pieces is the w-th of its vectors."""

    def forward(self, words, mask):
        wanted = torch.eye(self.dim)[mask.sum(1) % self.dim]
        return Mentioned(wanted[:, None].expand(-1, self.things, -1), torch.ones(len(words), self.things))


def test_it_learns_to_tell_where_things_are(memory):
    """Which of two things is on the left; the answer follows from positions alone."""
    backbone = make(Told(DIM))
    backbone._texts = memory
    text = backbone.read([Prompt("Which is on the left?", ("the red cup", "the very small green ball"))] * 16)
    first, second = torch.eye(DIM)[text.option_word_mask[0].sum(1)]
    assert (first != second).any()
    answers = torch.arange(16) % 2
    tokens = 0.1 * torch.randn(16, 1, 3, 4, DIM)
    for i, right in enumerate(answers.tolist()):
        row = i // 2 % 3
        left, other = (first, second) if right == 0 else (second, first)
        tokens[i, 0, row, i // 2 % 2], tokens[i, 0, row, 2 + i // 8] = left, other
    tokens, mask, places = tokens.flatten(2, 3), torch.ones(16, 1, dtype=torch.bool), torch.full((16, 1), 0.5)
    optimiser = torch.optim.Adam([p for p in backbone.parameters() if p.requires_grad], 3e-3)
    for _ in range(40):
        logits = backbone.score(backbone.look(tokens, text, mask, places), text, mask)
        loss = nn.functional.cross_entropy(logits, answers)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    flipped = tokens.unflatten(2, (3, 4)).flip(3).flatten(2, 3)
    guessed = backbone.score(backbone.look(flipped, text, mask, places), text, mask).argmax(1)
    assert (guessed == 1 - answers).float().mean() > 0.8


def test_it_works_in_bfloat16_where_it_is_asked_to(backbone):
    tokens, mask, places = tokens_of(backbone, 3, 2)
    exact = answer(backbone, tokens, PROMPTS, mask, places)
    with torch.autocast("cpu", torch.bfloat16):
        text = backbone.read(PROMPTS)
        visual = backbone.look(tokens, text, mask, places)
        scores = backbone.score(visual, text, mask)
        seen = backbone.see(pictures(1))
    assert {visual.dtype, scores.dtype, seen.dtype} == {torch.float32}
    torch.testing.assert_close(scores, exact, rtol=0.05, atol=0.05)


def test_its_state_is_all_that_makes_its_answers(backbone, memory):
    tokens, mask, places = tokens_of(backbone, 1, 2)
    frames = pictures(2)
    other = make()
    other._texts = memory
    assert not torch.equal(other.see(frames), backbone.see(frames))
    other.load_state_dict(backbone.state_dict())
    assert torch.equal(other.see(frames), backbone.see(frames))
    assert torch.equal(answer(other, tokens, [DUCK], mask, places), answer(backbone, tokens, [DUCK], mask, places))
    assert sum(p.numel() for p in backbone.parameters()) < 100_000  # MiniLM has 23 million
    assert copy.deepcopy(backbone)._texts is memory


def test_what_it_was_made_of_is_copied_and_frozen():
    encoder, mentions, always = FrameEncoder(4, dim=DIM), Mentions(DIM), torch.randn(ALWAYS, DIM)
    first, second = (CompactBackbone(encoder, mentions, always=always, config=CONFIG) for _ in range(2))
    with torch.no_grad():
        for part in (first.always, first.mentions.out.weight, first.encoder.body[0].weight):
            part.zero_()
    for other in (
        second.always,
        second.mentions.out.weight,
        second.encoder.body[0].weight,
        always,
        mentions.out.weight,
    ):
        assert other.any()
    assert encoder.training
    assert all(p.requires_grad for part in (encoder, mentions) for p in part.parameters())
    assert not any(p.requires_grad for part in (first.encoder, first.mentions) for p in part.parameters())


def test_nothing_has_to_be_looked_up_always(memory):
    encoder, mentions = FrameEncoder(4, dim=DIM), Mentions(DIM, things=1)
    backbone = CompactBackbone(encoder, mentions, always=torch.zeros(0, DIM), config=CONFIG).eval()
    backbone._texts = memory
    assert (backbone.queries, backbone.named) == (1 + OPTIONS, 1)
    tokens, mask, places = tokens_of(backbone, 2, 3)
    assert answer(backbone, tokens, [CUP, DUCK], mask, places)[:, :2].isfinite().all()
    assert backbone.question(backbone.read([CUP])).shape == (1, 384 + DIM)


def test_parts_that_do_not_fit_each_other_are_refused():
    encoder, always = FrameEncoder(4, dim=DIM), torch.zeros(ALWAYS, DIM)
    with pytest.raises(ValueError, match="gives 12 numbers a cell, mentions look up 10"):
        CompactBackbone(encoder, Mentions(10), always=always, config=CONFIG)
    with pytest.raises(ValueError, match=r"what is always looked up is of shape \(3, 11\)"):
        CompactBackbone(encoder, Mentions(DIM), always=always[:, :11], config=CONFIG)


def test_sizes_that_fit_nothing_are_refused():
    for wrong in ({"grid": (4, 0)}, {"hidden": 0}, {"hidden": 10}, {"dropout": 1.0}, {"score_layers": 0}, {"heads": 0}):
        with pytest.raises(ValueError, match=f"CompactConfig.{next(iter(wrong))}"):
            CompactConfig(**wrong)
