"""The compact backbone: its look-up of words in frames, and what may and may not change its answers."""

import copy

import pytest
import torch
from torch import nn

from vkdlab.vlap.backbone import Prompt
from vkdlab.vlap.layers import Attention, cell_features, cell_positions, find, place_features
from vkdlab.vlap.networks import CompactBackbone, CompactConfig, FrameEncoder

CUP = Prompt("What happens to the small red cup?", ("it spins", "it is covered with a cloth"))
HAND = Prompt("How often does the hand come?", ("once", "twice", "not at all", "the first time only", "always"))
DUCK = Prompt("Where is the duck at the end?", ("near left", "near right", "far left"))
PROMPTS = [CUP, HAND, DUCK]
CONFIG = CompactConfig(grid=(4, 3), hidden=16, pools=2, free=3, heads=2)
POOLS, OPTIONS = CONFIG.pools, 5


def make(config=CONFIG, dim=12):
    """A backbone whose look-up finds something: its encoder's batch norms have statistics of noise."""
    encoder = FrameEncoder(4, dim=dim)
    encoder(torch.randint(0, 256, (8, 24, 32, 3), dtype=torch.uint8))
    backbone = CompactBackbone(encoder, nn.Linear(384, dim, bias=False), config=config).eval()
    nn.init.zeros_(backbone.qformer.threshold)
    return backbone


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


def tokens_of(backbone, videos, frames):
    """Tokens of frames that differ, a full mask and places of videos of equally many frames."""
    tokens = torch.randn(videos, frames, backbone.frame_tokens, backbone.frame_dim)
    places = ((torch.arange(frames) + 0.5) / frames).expand(videos, -1)
    return tokens, torch.ones(videos, frames, dtype=torch.bool), places


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
    assert visual.shape == (3, 2, backbone.queries, backbone.visual_dim) == (3, 2, 2 + 5 + 3, 16)
    assert backbone.score(visual, text, mask).shape == (3, 5)
    assert backbone.question(text).shape == (3, backbone.question_dim) == (3, 384)
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
    with pytest.raises(ValueError, match="4 x 3 cells, got 11 tokens"):
        backbone.look(
            torch.zeros(1, 1, 11, 12), backbone.read([CUP]), torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1)
        )


def test_a_thing_in_one_cell_is_found_there():
    positions = cell_positions(4, 3)
    wanted, other = torch.eye(6)[0], torch.eye(6)[1]
    cells = other.repeat(12, 1)
    cells[2 * 4 + 1] = 3 * wanted  # row 2, column 1; its length does not matter
    looked_for = torch.stack([wanted, torch.eye(6)[4]])[None]
    found = find(
        cells[None], looked_for, positions=positions, sharpness=torch.tensor(50.0), threshold=torch.tensor(0.5)
    )
    torch.testing.assert_close(found.position[0, 0], torch.tensor([-0.25, 2 / 3]))
    torch.testing.assert_close(found.spread[0, 0], torch.tensor([0.01, 0.01]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.mass[0], torch.tensor([1.0, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.best[0], torch.tensor([1.0, 0.0]))
    assert found.shares[0, 0].argmax() == 9


def test_a_thing_in_two_cells_is_found_between_them_and_spread():
    cells = torch.eye(6)[1].repeat(12, 1)
    cells[[0, 3]] = torch.eye(6)[0]  # both ends of the first row, 1.5 apart
    wanted = torch.eye(6)[:1][None]
    found = find(
        cells[None], wanted, positions=cell_positions(4, 3), sharpness=torch.tensor(50.0), threshold=torch.tensor(0.5)
    )
    torch.testing.assert_close(found.position[0, 0], torch.tensor([0.0, -2 / 3]))
    torch.testing.assert_close(found.spread[0, 0], torch.tensor([0.75, 0.01]), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.shares[0, 0, [0, 3]], torch.tensor([0.5, 0.5]))


def test_the_look_up_does_not_lose_digits_under_autocast():
    cells, wanted = torch.randn(3, 12, 6), torch.randn(3, 2, 6)
    sizes = {"positions": cell_positions(4, 3), "sharpness": torch.tensor(30.0), "threshold": torch.tensor(0.1)}
    exact = find(cells, wanted, **sizes)
    with torch.autocast("cpu", torch.bfloat16):
        found = find(cells, wanted, **sizes)
    torch.testing.assert_close(found.position, exact.position)
    torch.testing.assert_close(found.spread, exact.spread)


def test_words_are_found_where_their_projection_is(backbone):
    text = backbone.read([Prompt("the red cup", ("yes", "no"))])
    tokens = torch.randn(2, 12, 12)
    with torch.no_grad():
        tokens[0, 6] = 5 * backbone.words(text.question)[0]
        backbone.qformer.log_sharpness.fill_(5.0)
        backbone.qformer.threshold.fill_(0.9)
        found = backbone.find(tokens, text.question)
    assert found.mass[0, 0] > 0.99
    assert found.mass[1, 0] < 0.05
    torch.testing.assert_close(found.position[0, 0], cell_positions(4, 3)[6], atol=1e-2, rtol=0)


def test_cells_and_places_are_told_apart():
    for features in (cell_features(cell_positions(16, 12)), place_features((torch.arange(64) + 0.5) / 64)):
        apart = torch.cdist(features, features) + torch.eye(len(features))
        assert apart.min() > 0.1


def test_attention_is_that_of_torch():
    attention, x, other = Attention(8, heads=2, given=6), torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    mask = torch.tensor([[True, True, False, True, False], [True, False, False, False, False]])
    q, k, v = (
        y.unflatten(2, (2, 4)).transpose(1, 2)
        for y in (attention.query(x), *attention.key_value(other).split(8, dim=2))
    )
    mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    torch.testing.assert_close(attention(x, other, mask), attention.out(mixed.transpose(1, 2).flatten(2)))


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


def test_tokens_of_options_that_do_not_exist_are_zero(backbone):
    tokens, mask, places = tokens_of(backbone, 3, 2)
    visual = backbone.look(tokens, backbone.read(PROMPTS), mask, places)[:, :, POOLS : POOLS + OPTIONS]
    there = torch.arange(OPTIONS) < torch.tensor([[2], [5], [3]])
    assert torch.equal(visual.abs().sum(3).gt(0), there[:, None].expand(-1, 2, -1))


def test_when_a_frame_is_shown_matters_and_where_it_stands_in_its_row_does_not(backbone):
    tokens, mask, places = tokens_of(backbone, 1, 3)
    scores = answer(backbone, tokens, [DUCK], mask, places)
    swapped = answer(backbone, tokens.flip(1), [DUCK], mask, places)
    assert (swapped - scores).abs().max() > 1e-3
    moved = answer(backbone, tokens.flip(1), [DUCK], mask, places.flip(1))
    torch.testing.assert_close(moved, scores, rtol=1e-4, atol=1e-5)


def test_looking_depends_on_the_question_its_options_and_the_frame(backbone):
    tokens, mask, places = tokens_of(backbone, 1, 1)
    visual = backbone.look(tokens, backbone.read([CUP]), mask, places)
    for prompt in (Prompt(DUCK.question, CUP.options), Prompt(CUP.question, ("it shrinks", "it grows"))):
        assert (backbone.look(tokens, backbone.read([prompt]), mask, places) - visual).abs().max() > 1e-3
    assert (backbone.look(tokens.flip(2), backbone.read([CUP]), mask, places) - visual).abs().max() > 1e-3


def test_gradients_reach_all_that_learns_and_the_frames_but_not_the_encoder(backbone):
    tokens, mask, places = tokens_of(backbone, 3, 2)
    tokens.requires_grad_()
    backbone.train()
    assert not backbone.encoder.training
    scores = answer(backbone, tokens, PROMPTS, mask, places)
    nn.functional.cross_entropy(scores, torch.tensor([0, 4, 2])).backward()
    learned = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in learned} == {"words", "qformer", "answerer"}
    for name, parameter in learned.items():
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("answerer.out.1.bias"):  # a shift of all logits is no change
            assert parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for p in backbone.encoder.parameters())
    assert tokens.grad.isfinite().all()
    assert tokens.grad.abs().amax((2, 3)).gt(0).all()


def test_it_learns_to_tell_where_things_are(backbone):
    """Which of two words' cells is on the left; the answer follows from positions alone."""
    prompts = [Prompt("Which is on the left?", ("the red cup", "the green ball"))] * 16
    text = backbone.read(prompts)
    with torch.no_grad():
        red, green = backbone.words(text.options[0].sum(1) / text.option_word_mask[0].sum(1, keepdim=True))
    answers = torch.arange(16) % 2
    tokens = 0.1 * torch.randn(16, 1, 3, 4, 12)
    for i, right in enumerate(answers.tolist()):
        row = i // 2 % 3
        left, other = (red, green) if right == 0 else (green, red)
        tokens[i, 0, row, i // 2 % 2], tokens[i, 0, row, 2 + i // 8] = left, other
    tokens, mask, places = tokens.flatten(2, 3), torch.ones(16, 1, dtype=torch.bool), torch.full((16, 1), 0.5)
    optimiser = torch.optim.Adam([p for p in backbone.parameters() if p.requires_grad], 1e-3)
    for _ in range(40):
        loss = nn.functional.cross_entropy(
            backbone.score(backbone.look(tokens, text, mask, places), text, mask), answers
        )
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


def test_what_it_was_made_of_is_copied(memory):
    encoder, words = FrameEncoder(4, dim=12), nn.Linear(384, 12, bias=False)
    first, second = (CompactBackbone(encoder, words, config=CONFIG) for _ in range(2))
    with torch.no_grad():
        first.words.weight.zero_()
    assert words.weight.any()
    assert second.words.weight.any()
    assert encoder.training
    assert all(p.requires_grad for p in encoder.parameters())
    with pytest.raises(ValueError, match="384 numbers to the encoder's 12, got 384 to 10"):
        CompactBackbone(encoder, nn.Linear(384, 10), config=CONFIG)


def test_texts_give_the_same_vectors_remembered_or_read_and_are_shared_by_copies(backbone):
    prompt = Prompt("Which duck sleeps?", ("the toy duck", "no duck at all"))
    by_hand = backbone.read([prompt])
    fresh = make()
    fresh.remember([prompt.question, *prompt.options], progress=False)
    copied = copy.deepcopy(fresh)
    remembered = copied.read([prompt])
    assert fresh._texts._encoder is None  # nothing had to be encoded
    for name in ("question", "words", "options"):
        torch.testing.assert_close(getattr(remembered, name), getattr(by_hand, name), rtol=2e-3, atol=2e-3)
    assert torch.equal(remembered.word_mask, by_hand.word_mask)
    torch.testing.assert_close(by_hand.question.square().mean(1), torch.ones(1))
    assert not by_hand.options[~by_hand.option_word_mask].any()


def test_texts_that_cannot_be_read_are_refused(backbone):
    with pytest.raises(ValueError, match="no prompt"):
        backbone.read([])
    with pytest.raises(ValueError, match="'' has no word"):
        backbone.read([Prompt("why?", ("yes", ""))])
    long = " ".join(["cup"] * 64)
    with pytest.raises(ValueError, match="at most 63 word pieces"):
        backbone.read([Prompt(long, ("yes", "no"))])
    with pytest.raises(ValueError, match="at most 63 word pieces"):
        backbone.remember([long], progress=False)
    backbone.read([Prompt(long[4:], ("yes", "no"))])


def test_sizes_that_fit_nothing_are_refused():
    for wrong in ({"grid": (4, 0)}, {"hidden": 0}, {"hidden": 10}, {"dropout": 1.0}, {"look_layers": 0}):
        with pytest.raises(ValueError, match=f"CompactConfig.{next(iter(wrong))}"):
            CompactConfig(**wrong)
