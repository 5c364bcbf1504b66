"""The prompter learns through what it picks, the student from a teacher that stays as it is."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests.tiny import same_weights
from tests.vlap.small_questions import DIM, GLANCE_DIM, GLANCES, TOKENS, SmallBackbone, batch_of
from vkdlab.vlap.distill import VLAP, Config, Student, TokenDecoder, masked_mse
from vkdlab.vlap.prompter import FramePrompter, ReleasedPrompter
from vkdlab.vlap.selectors import everything, nothing, oracle, uniform

CONFIG = Config(select=3, frames=12)


def vlap(*, config=CONFIG, teacher=True, steps=10, prompter=None, seed=0) -> VLAP:
    backbone, above = SmallBackbone(seed=seed), SmallBackbone(seed=seed + 1) if teacher else None
    if prompter is None:
        prompter = FramePrompter(GLANCE_DIM, question_dim=backbone.question_dim, hidden=8, heads=2)
    return VLAP(backbone, prompter, config=config, teacher=above, steps=steps)


def released(**changed) -> VLAP:
    torch.manual_seed(0)
    prompter = ReleasedPrompter(GLANCES, frames=12, select=3)
    return vlap(config=Config.released(select=3, frames=12), prompter=prompter, **changed)


def rows_of(batch, rows):
    """The same batch with these rows alone, in this order."""

    def pick(value):
        return value[rows] if isinstance(value, torch.Tensor) else tuple(value[row] for row in rows)

    return replace(batch, **{name: pick(value) for name, value in vars(batch).items()})


def test_the_answer_is_a_logit_for_each_option_that_a_question_has():
    answer = vlap().eval()(batch_of([12, 9, 5, 12]))
    assert answer.logits.isfinite().sum(1).tolist() == [2, 4, 3, 5]
    assert (answer.logits[~answer.logits.isfinite()] == -torch.inf).all()
    torch.testing.assert_close(answer.probs.sum(1), torch.ones(4))
    assert answer.selection.indices.shape == (4, 3)


def test_each_question_gets_the_same_answer_in_any_order_and_alone():
    method, batch = vlap().eval(), batch_of([12, 9, 1, 5, 12])
    whole = method(batch).logits
    order = [3, 0, 4, 1, 2]
    torch.testing.assert_close(method(rows_of(batch, order)).logits, whole[order])
    for row in range(5):
        options = len(batch.prompts[row].options)
        torch.testing.assert_close(method(rows_of(batch, [row])).logits[0], whole[row, :options])


def test_frames_that_pad_videos_change_neither_answers_nor_losses():
    method = vlap().eval()
    plain, padded = batch_of([9, 4, 7]), batch_of([9, 4, 7], frames=12)
    torch.testing.assert_close(method(padded).logits, method(plain).logits)
    expected, found = method.loss(plain), method.loss(padded)
    assert list(found) == ["total", "answer", "distillation"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("lengths", [[12, 12], [1, 1], [2, 12, 1, 5]], ids=["all", "one", "mixed"])
def test_to_choose_all_frames_is_the_same_as_to_have_no_prompter(lengths):
    method, batch = vlap().eval(), batch_of(lengths)
    chosen = method(batch, select=12)
    assert chosen.selection.mask.sum(1).tolist() == lengths
    torch.testing.assert_close(chosen.logits, method(batch, selection=everything(batch.mask)).logits)
    text = method.student.backbone.read(batch.prompts)
    visual = method.student.backbone.look(batch.tokens, text, batch.mask, batch.places)
    torch.testing.assert_close(chosen.logits, method.student.backbone.score(visual, text, batch.mask))


def test_frames_chosen_by_others_are_read_in_place_of_the_prompters():
    method, batch = vlap().eval(), batch_of([12, 6])
    for selection in (uniform(batch.mask, select=3), oracle(batch, select=2), nothing(batch.mask)):
        answer = method(batch, selection=selection)
        assert answer.selection is selection
        backbone, text = method.student.backbone, method.student.backbone.read(batch.prompts)
        visual = backbone.look(selection.take(batch.tokens), text, selection.mask, selection.take(batch.places))
        torch.testing.assert_close(answer.logits, backbone.score(visual, text, selection.mask))


def test_a_selection_of_another_batch_and_one_beside_a_number_are_refused():
    method, batch = vlap().eval(), batch_of([12, 6])
    with pytest.raises(ValueError, match=r"of \(2, 6\) videos and frames, the batch has \(2, 12\)"):
        method(batch, selection=uniform(batch_of([6, 6]).mask, select=3))
    with pytest.raises(ValueError, match="select=2 or a selection, not both"):
        method(batch, select=2, selection=uniform(batch.mask, select=2))


def test_the_loss_is_the_cross_entropy_and_the_weighted_error_of_tokens():
    method, batch = vlap(config=replace(CONFIG, distillation=0.3)).eval(), batch_of([12, 7, 12])
    losses = method.loss(batch)
    answer = method(batch)
    expected = functional.cross_entropy(answer.logits, batch.answers)
    torch.testing.assert_close(losses["answer"], expected)
    backbone, text = method.student.backbone, method.student.backbone.read(batch.prompts)
    chosen = answer.selection
    visual = backbone.look(chosen.take(batch.tokens), text, chosen.mask, chosen.take(batch.places))
    target = method.teacher.look(batch.tokens, method.teacher.read(batch.prompts), batch.mask, batch.places)
    decoded = method.decoder(visual.flatten(1, 2)).unflatten(1, (12, 2))
    error = torch.cat([(decoded - target)[i, : int(n)].flatten() for i, n in enumerate((12, 7, 12))])
    torch.testing.assert_close(losses["distillation"], error.square().mean())
    torch.testing.assert_close(losses["total"], expected + 0.3 * losses["distillation"])


def test_without_a_teacher_or_without_weight_nothing_is_distilled():
    for method in (vlap(teacher=False), vlap(config=replace(CONFIG, distillation=0))):
        losses = method.eval().loss(batch_of([12, 7]))
        assert list(losses) == ["total", "answer"]
        assert losses["total"] is losses["answer"]
        assert method.decoder is None


def test_the_masked_error_is_the_mean_over_the_numbers_of_frames_that_are_there():
    given = torch.tensor([[[[1.0, 3.0]], [[9.0, 9.0]]], [[[0.0, 0.0]], [[2.0, 0.0]]]])  # (2, 2, 1, 2)
    target = torch.zeros_like(given)
    mask = torch.tensor([[True, False], [True, True]])
    assert masked_mse(given, target, mask).item() == pytest.approx((1 + 9 + 0 + 0 + 4 + 0) / 6)
    assert masked_mse(given, target, torch.zeros_like(mask)) == 0
    assert masked_mse(given, given, mask) == 0
    given[0, 1] = torch.inf  # whatever stands on padding
    assert masked_mse(given, target, mask).item() == pytest.approx(14 / 6)


def test_the_decoder_maps_the_token_axis_alone_and_every_channel_alike():
    decoder = TokenDecoder(6, out=24)
    x = torch.randn(2, 6, 5)
    y = decoder(x)
    assert y.shape == (2, 24, 5)
    order = [4, 2, 0, 1, 3]
    torch.testing.assert_close(decoder(x[..., order]), y[..., order])
    other = x.clone()
    other[..., 1] += 1.7
    changed = (decoder(other) - y).abs().amax((0, 1)) > 1e-6
    assert changed.tolist() == [False, True, False, False, False]


def test_the_decoder_has_as_many_parameters_as_was_counted():
    # 4 to 32 frames of 32 tokens, counted from the published shapes.
    assert sum(p.numel() for p in TokenDecoder(4 * 32, out=32 * 32).parameters()) == 134_144


def test_the_prompter_learns_through_the_frames_that_it_picks_and_no_other_way():
    method, batch = vlap().train(), batch_of([12, 9, 12])
    parts = dict(method.student.prompter.named_parameters())
    method.loss(batch)["total"].backward()
    learned = {name for name, part in parts.items() if part.grad is not None and part.grad.any()}
    # A constant added to all scores of a segment changes nothing; keys' bias and the blind question likewise.
    assert set(parts) - learned <= {"out.2.bias", "keys.bias", "anything"}
    # Where a video's frames all show the same there is nothing to choose between, be it at different places.
    method.zero_grad()
    still = replace(batch, tokens=batch.tokens[:, :1].expand_as(batch.tokens).contiguous())
    method.loss(still)["total"].backward()
    assert all(part.grad is None or part.grad.abs().max() < 1e-6 for part in parts.values())


def test_the_teacher_gets_no_gradient_and_stays_as_it_is():
    method, batch = vlap(), batch_of([12, 9, 12])
    before = copy.deepcopy(method.teacher)
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.01)
    method.train()
    assert not method.teacher.training
    assert not method.eval().train().teacher.training
    for _ in range(3):
        losses = method.loss(batch)
        optimiser.zero_grad()
        losses["total"].backward()
        assert all(part.grad is None for part in method.teacher.parameters())
        optimiser.step()
    assert same_weights(method.teacher, before)
    assert not same_weights(method.student.backbone, SmallBackbone())


def test_as_released_the_students_own_tokens_are_what_is_distilled():
    method, batch = released(), batch_of([12, 12])
    assert method.teacher is None
    torch.manual_seed(5)
    losses = method.eval().loss(batch)
    backbone, text = method.student.backbone, method.student.backbone.read(batch.prompts)
    torch.manual_seed(5)
    chosen = method.student.choose(batch, text)
    visual = backbone.look(chosen.take(batch.tokens), text, chosen.mask, chosen.take(batch.places))
    decoded = method.decoder(visual.flatten(1, 2)).unflatten(1, (12, 2))
    own = backbone.look(batch.tokens, text, batch.mask, batch.places)
    torch.testing.assert_close(losses["distillation"], masked_mse(decoded, own.detach(), batch.mask))
    other = SmallBackbone(seed=1).look(batch.tokens, text, batch.mask, batch.places)
    assert (masked_mse(decoded, other, batch.mask) - losses["distillation"]).abs() > 1e-3


def test_as_released_no_gradient_goes_through_the_tokens_that_are_learned_from():
    method, batch = released().eval(), batch_of([12, 12])
    torch.manual_seed(5)
    method.loss(batch)["distillation"].backward()
    found = method.student.backbone.found.weight.grad.clone()
    backbone, text = method.student.backbone, method.student.backbone.read(batch.prompts)
    own = backbone.look(batch.tokens, text, batch.mask, batch.places).detach()
    method.zero_grad()
    torch.manual_seed(5)
    chosen = method.student.choose(batch, text)
    visual = backbone.look(chosen.take(batch.tokens), text, chosen.mask, chosen.take(batch.places))
    masked_mse(method.decoder(visual.flatten(1, 2)).unflatten(1, (12, 2)), own, batch.mask).backward()
    torch.testing.assert_close(backbone.found.weight.grad, found)


def test_as_released_answers_differ_from_call_to_call():
    method, batch = released().eval(), batch_of([12] * 4)
    assert len({tuple(method(batch).selection.indices.flatten().tolist()) for _ in range(10)}) > 5


@pytest.mark.parametrize(
    ("prompter", "named"),
    [
        (FramePrompter(GLANCE_DIM, question_dim=7, hidden=8), r"a FramePrompter\."),
        (FramePrompter(GLANCE_DIM, question_dim=7, hidden=8, question_aware=False), r"a FramePrompter\."),
        (ReleasedPrompter(GLANCES, frames=12, select=3, noisy=False), r"a ReleasedPrompter\(noisy=False\)"),
    ],
    ids=["question-aware", "blind", "quiet"],
)
def test_as_released_no_other_prompter_is_taken(prompter, named):
    with pytest.raises(ValueError, match=f"expected a ReleasedPrompter with noisy=True, got {named}"):
        vlap(config=Config.released(select=3, frames=12), prompter=prompter)


def test_the_released_temperature_stops_at_0_40():
    config = Config.released()
    assert (config.distillation, config.select, config.frames, config.as_released) == (0.01, 4, 32, True)
    assert config.last_temperature == pytest.approx(0.398, abs=1e-3)


def test_the_temperature_falls_from_the_first_to_the_last_and_reaches_it():
    method, batch = vlap(config=replace(CONFIG, last_temperature=0.01), steps=5).train(), batch_of([12, 9])
    found = []
    for _ in range(5):
        found.append(method.temperature)
        method.loss(batch)
    assert found == pytest.approx([1.0, 10**-0.5, 0.1, 10**-1.5, 0.01])
    assert method.temperature == pytest.approx(0.01)
    method.eval().loss(batch)
    assert method.step == 5  # only training counts
    again = vlap(config=replace(CONFIG, last_temperature=0.01), steps=5, seed=7)
    again.load_state_dict(method.state_dict())
    assert again.step == 5


def test_without_steps_the_temperature_is_not_guessed():
    with pytest.raises(ValueError, match=r"give VLAP\(\.\.\., steps=\.\.\.\)"):
        vlap(steps=None).loss(batch_of([12]))
    steady = replace(CONFIG, first_temperature=0.5, last_temperature=0.5)
    assert vlap(steps=None, config=steady).loss(batch_of([12]))["total"].isfinite()
    assert vlap(steps=1).temperature == 1.0
    vlap(steps=None).eval()(batch_of([12]))


def test_the_student_is_all_that_inference_needs():
    method, batch = vlap().eval(), batch_of([12, 9])
    names = set(method.student.state_dict())
    assert not [name for name in names if "teacher" in name or "decoder" in name]
    alone = Student(
        SmallBackbone(seed=5), FramePrompter(GLANCE_DIM, question_dim=7, hidden=8, heads=2), select=3
    ).eval()
    alone.load_state_dict(method.student.state_dict())
    assert torch.equal(alone(batch).logits, method(batch).logits)


def test_accuracy_is_counted_over_all_questions_and_by_kind():
    method, batch = vlap().eval(), batch_of([12] * 8)
    predicted = method(batch).logits.argmax(1)
    right = (predicted == batch.answers).tolist()
    found = method.evaluate(batch)
    assert list(found) == ["accuracy", "accuracy count", "accuracy what", "accuracy where"]
    assert (found["accuracy"].sum, found["accuracy"].count) == (sum(right), 8)
    assert (found["accuracy where"].sum, found["accuracy where"].count) == (right[1] + right[5], 2)
    halves = [method.evaluate(rows_of(batch, list(rows))) for rows in (range(3), range(3, 8))]
    assert halves[0]["accuracy"] + halves[1]["accuracy"] == found["accuracy"]


def test_looking_inside_shows_the_choice_and_the_answer_and_changes_nothing():
    method, batch = vlap().train(), batch_of([12, 2, 7])
    batch = replace(batch, evidence=torch.tensor([[0.1, 0.3], [torch.nan] * 2, [0.0, 1.0]]))
    found = method.inspect(batch)
    assert method.training
    assert not method.teacher.training
    answer = method.eval()(batch)
    assert torch.equal(found.indices, answer.selection.indices)
    assert torch.equal(found.chosen, answer.selection.mask)
    torch.testing.assert_close(found.option_probs, answer.logits.softmax(1))
    torch.testing.assert_close(found.probs.sum(2), found.chosen.float())
    assert (found.scores.isfinite() == batch.mask).all()
    assert (found.entropy >= 0).all()
    assert not found.entropy[1].any()  # one frame a segment
    assert found.evidence[1].isnan().all()
    assert method.inspect(batch, select=5).indices.shape == (3, 5)
    for row, chosen in zip(found.probs, found.indices, strict=True):
        assert torch.equal(row.argmax(1)[row.any(1)], chosen[row.any(1)])


def test_the_answerer_learns_at_a_share_of_the_rate():
    method = vlap(config=replace(CONFIG, backbone_lr=0.1))
    assert set(method.lr_scales.values()) == {0.1}
    assert set(method.lr_scales) == set(method.student.backbone.parameters())


def test_what_does_not_fit_together_is_refused():
    backbone = SmallBackbone()
    prompter = FramePrompter(GLANCE_DIM, question_dim=7, hidden=8)
    with pytest.raises(ValueError, match="the teacher is the student's own backbone"):
        VLAP(backbone, prompter, config=CONFIG, teacher=backbone)
    wide = SmallBackbone()
    wide.visual_dim = 9
    with pytest.raises(ValueError, match=rf"\({DIM}, {TOKENS}, 9\) and \({DIM}, {TOKENS}, 6\)"):
        VLAP(backbone, prompter, config=CONFIG, teacher=wide)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        VLAP(backbone, prompter, config=CONFIG, steps=0)
    with pytest.raises(ValueError, match="made for 12 frames, the batch has 14"):
        vlap().loss(batch_of([14]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"select": 0}, "select is 1 to frames, got select=0, frames=32"),
        ({"select": 5, "frames": 4}, "select=5, frames=4"),
        ({"distillation": -1.0}, "distillation is a finite weight"),
        ({"last_temperature": 0.0}, "temperatures are finite and above 0"),
        ({"last_temperature": 2.0}, "the last is not above the first"),
        ({"backbone_lr": 0.0}, "requires_grad_"),
    ],
)
def test_a_configuration_of_no_meaning_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Config(**given)
