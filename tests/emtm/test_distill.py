import dataclasses
import math

import pytest
import torch

from tests.emtm.test_labelled import part_of, queries_of, whole
from vkdlab.emtm import GroundingTeacher, SpanConfig, SpanNetwork
from vkdlab.emtm.distill import EMTM, Config
from vkdlab.emtm.labelled import DistillationDataset, Part
from vkdlab.emtm.losses import soft_target
from vkdlab.emtm.moments import best_moments, moment_to_clips
from vkdlab.emtm.soft_losses import released_soft_loss, soft_loss
from vkdlab.runs import Run
from vkdlab.training import Data, TrainConfig, fit

STUDENT = SpanConfig(video_dim=3, dim=16, heads=4, max_clips=12, max_words=4, dropout=0.0, dual_layers=0)
CONFIG = Config(student=STUDENT)
ALONE = Config(student=STUDENT, shared_encoder=False, distill=False)
RELEASED = Config(student=STUDENT, as_released=True, teachers=2)
EVERY = (
    CONFIG,
    ALONE,
    RELEASED,
    Config(student=STUDENT, labels="hard"),
    Config(student=STUDENT, shared_encoder=False),
    Config(student=STUDENT, distill=False),
)


def emtm(config=CONFIG, **changes):
    torch.manual_seed(3)
    return EMTM(dataclasses.replace(config, **changes))


@pytest.fixture
def labelled(tmp_path):
    return queries_of(tmp_path / "a")


@pytest.fixture
def unlabelled(tmp_path):
    return queries_of(tmp_path / "b", name="b", split="test", clips=(9, 1), seed=1)


@pytest.fixture
def batch(labelled):
    return whole(DistillationDataset([part_of(labelled, teachers=2)]))


@pytest.fixture
def mixed(labelled, unlabelled):
    """Six queries with moments and labels, six with labels alone."""
    return whole(
        DistillationDataset([part_of(labelled, teachers=2), part_of(unlabelled, teachers=2, has_moment=False)])
    )


def _softmax(values):
    return [math.exp(value) / sum(math.exp(other) for other in values) for value in values]


def _gradients(method, batch, name="total"):
    method.zero_grad()
    method.loss(batch)[name].backward()
    return {name: weight.grad.clone() for name, weight in method.named_parameters() if weight.grad is not None}


def test_a_student_alone_is_a_span_network_with_its_hard_losses(labelled, batch):
    method = emtm(ALONE)
    torch.manual_seed(3)
    teacher = GroundingTeacher(SpanNetwork(STUDENT))
    for given in (batch, whole(labelled)):
        assert set(method.loss(given)) == {"total", "student"}
        assert torch.equal(method.loss(given)["total"], teacher.loss(given)["total"])
        ours, theirs = _gradients(method, given), _gradients(teacher, given)
        assert all(torch.equal(gradient, theirs[name.replace("student", "network")]) for name, gradient in ours.items())
    assert torch.equal(method.predict(batch)[0], teacher.predict(batch)[0])


def test_every_student_starts_from_the_same_weights():
    alone = emtm(ALONE).student.state_dict()
    for config in EVERY:
        other = emtm(config).student.state_dict()
        assert all(torch.equal(other[name], weight) for name, weight in alone.items())


def test_the_total_is_the_sum_of_its_terms_with_alpha_before_the_label(batch):
    for alpha in (0.0, 0.1, 2.0):
        losses = emtm(alpha=alpha, temperature=2.0).loss(batch)
        parts = losses["student"] + losses["isomorphic"] + alpha * losses["soft"]
        assert losses["total"].item() == pytest.approx(parts.item(), rel=1e-6)
        output = emtm()(batch)
        label = soft_loss(output.start_logits, batch.label_start, output.mask, temperature=2.0)
        label = label + soft_loss(output.end_logits, batch.label_end, output.mask, temperature=2.0)
        assert losses["soft"].item() == pytest.approx(label.item(), rel=1e-6)


def test_the_encoder_runs_once_for_student_and_isomorphic_teacher_and_learns_from_both(batch):
    method, calls = emtm(), []
    method.student.encoder.register_forward_hook(lambda *_: calls.append(1))
    encoder = {name for name, _ in method.named_parameters() if name.startswith("student.encoder")}
    assert encoder <= set(_gradients(method, batch, "isomorphic"))
    assert encoder <= set(_gradients(method, batch, "student"))
    assert not any(name.startswith("student.branch") for name in _gradients(method, batch, "isomorphic"))
    assert len(calls) == 3
    method.evaluate(batch)
    assert len(calls) == 4


def test_no_gradient_reaches_what_made_the_label(batch):
    batch.label_start.requires_grad_()
    batch.label_end.requires_grad_()
    for labels in ("soft", "hard"):
        emtm(labels=labels).loss(batch)["total"].backward()
        assert batch.label_start.grad is None
        assert batch.label_end.grad is None


def test_terms_are_means_over_the_queries_that_have_what_they_need(mixed, batch, unlabelled):
    method = emtm()
    both, annotated = method.loss(mixed), method.loss(batch)
    dropped = method.loss(whole(DistillationDataset([part_of(unlabelled, has_moment=False)])))
    for name in ("student", "isomorphic"):
        assert both[name].item() == pytest.approx(annotated[name].item(), rel=1e-5)
        assert dropped[name] == 0
    assert both["soft"].item() == pytest.approx((annotated["soft"] + dropped["soft"]).item() / 2, rel=1e-5)
    assert dropped["total"].requires_grad


def test_a_hard_label_stands_for_the_truth_where_there_is_none_and_beside_it_where_there_is(labelled, tmp_path):
    part = part_of(labelled)
    annotated = whole(DistillationDataset([part]))
    moments_s, _ = best_moments(
        annotated.label_start,
        annotated.label_end,
        duration_s=annotated.duration_s,
        mask=annotated.video_mask,
        k=1,
    )
    told = dataclasses.replace(whole(labelled), moment_s=moments_s[:, 0])
    method = emtm(labels="hard")
    expected = emtm(ALONE).loss(told)
    alone = method.loss(whole(DistillationDataset([dataclasses.replace(part, has_moment=False)])))
    assert alone["student"].item() == pytest.approx(expected["total"].item(), rel=1e-6)
    assert alone["soft"] == 0
    beside = method.loss(annotated)
    assert beside["student"].item() == pytest.approx(emtm(ALONE).loss(whole(labelled))["total"].item(), rel=1e-6)
    location = GroundingTeacher(method.student).loss(told)["location"]
    assert beside["soft"].item() == pytest.approx(location.item(), rel=1e-6)


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_the_truth_of_unlabelled_videos_changes_nothing(labelled, tmp_path, labels):
    losses = []
    for truth in ((0.0, 1.0), (2.0, 5.0)):
        dropped = queries_of(tmp_path / f"{truth}", name="b", truth=truth, seed=5)
        given = whole(DistillationDataset([part_of(labelled), part_of(dropped, has_moment=False)]))
        method = emtm(labels=labels)
        losses.append((method.loss(given)["total"], _gradients(method, given)))
    assert torch.equal(losses[0][0], losses[1][0])
    assert losses[0][0].isfinite()
    assert all(torch.equal(gradient, losses[1][1][name]) for name, gradient in losses[0][1].items())


def _certain(dataset):
    """Labels of a teacher that is right: most of each distribution on the true boundary."""
    plain = whole(dataset)
    clips = moment_to_clips(plain.moment_s, plain.duration_s, plain.video_mask.sum(1))
    return {"start": soft_target(clips[:, 0], plain.video_mask), "end": soft_target(clips[:, 1], plain.video_mask)}


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_a_student_learns_from_unlabelled_videos_what_their_labels_say(tmp_path, labels):
    known = queries_of(tmp_path / "known", videos=8, clips=(12, 9))
    hidden = queries_of(tmp_path / "hidden", videos=8, clips=(12, 9), truth=(0.0, 1.0))  # the truth would mislead
    part = part_of(hidden, has_moment=False, **_certain(known))
    given = whole(DistillationDataset([part]))
    method = emtm(shared_encoder=False, alpha=1.0, labels=labels)
    optimiser = torch.optim.Adam(method.parameters(), lr=1e-2)
    before = method.evaluate(whole(known))["R1@0.5"].value
    for _ in range(40):
        optimiser.zero_grad()
        method.loss(given)["total"].backward()
        optimiser.step()
    assert before < 0.6
    assert method.eval().evaluate(whole(known))["R1@0.5"].value > 0.9


def test_as_released_the_unit_learns_with_the_student(batch):
    method = emtm(RELEASED)
    losses = method.loss(batch)
    parts = losses["student"] + losses["isomorphic"] + losses["ensemble"] + 0.1 * losses["soft"]
    assert losses["total"].item() == pytest.approx(parts.item(), rel=1e-6)
    # An untrained unit believes all alike.
    label = (
        torch.nn.functional.normalize(batch.teacher_start, dim=2).mean(1),
        torch.nn.functional.normalize(batch.teacher_end, dim=2).mean(1),
    )
    clips = moment_to_clips(batch.moment_s, batch.duration_s, batch.video_mask.sum(1))
    ensemble = 0.0
    for row in range(6):
        for side in range(2):
            probs = _softmax(label[side][row][batch.video_mask[row]].tolist())
            target = soft_target(clips[:, side], batch.video_mask)[row].tolist()
            ensemble -= sum(y * math.log(p) for y, p in zip(target, probs, strict=False)) / 6
    assert losses["ensemble"].item() == pytest.approx(ensemble, rel=1e-5)
    output = method(batch)
    logits = (output.start_logits, output.end_logits)
    soft = sum(released_soft_loss(*pair, output.mask) for pair in zip(logits, label, strict=True))
    assert output.mask.shape[1] == STUDENT.max_clips
    assert losses["soft"].item() == pytest.approx(soft.item(), rel=1e-3)
    for name in ("ensemble", "soft"):
        assert _gradients(method, batch, name)["kau.by_teacher"].any()
    assert torch.equal(method.inspect(batch).weights, torch.full((6, 2, 2), 0.5))


def test_as_released_an_unlabelled_video_has_the_soft_loss_alone(unlabelled):
    given = whole(DistillationDataset([part_of(unlabelled, teachers=2, has_moment=False)]))
    losses = emtm(RELEASED).loss(given)
    assert losses["student"] == losses["isomorphic"] == losses["ensemble"] == 0
    assert losses["total"].item() == pytest.approx(0.1 * losses["soft"].item())


@pytest.mark.parametrize("config", EVERY)
def test_a_batch_of_one_query_of_one_word_on_a_video_of_one_clip(tmp_path, config):
    dataset = queries_of(tmp_path / "one", videos=1, clips=(1,))
    part = part_of(dataset, teachers=2)
    distillation = DistillationDataset([part])
    given = distillation.collate([distillation[0]])
    assert given.video_mask.shape == given.query_mask.shape == (1, 1)
    method = emtm(config)
    losses = method.loss(given)
    losses["total"].backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(weight.grad.isfinite().all() for weight in method.parameters() if weight.grad is not None)
    moments_s, _ = method.predict(given)
    assert moments_s.tolist() == [[[0.0, 1.0]] * 5]


@pytest.mark.parametrize("config", EVERY)
def test_padding_changes_no_loss(labelled, config):
    distillation = DistillationDataset([part_of(labelled, teachers=2)])
    short = [distillation[row] for row in (2, 3)]
    together = distillation.collate([*short, distillation[0]])
    alone = distillation.collate(short)
    padded = type(alone)(
        **{
            name: value[:2] if isinstance(value, torch.Tensor | list) else value
            for name, value in vars(together).items()
        }
    )
    assert padded.video.shape[1] > alone.video.shape[1]
    method = emtm(config)
    before, after = method.loss(alone), method.loss(padded)
    for name, value in before.items():
        assert after[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6), name


def test_the_isomorphic_teacher_is_measured_beside_the_student(batch):
    measured = emtm().evaluate(batch)
    assert {name for name in measured if "/" in name} == {"isomorphic/R1@0.5", "isomorphic/mIoU"}
    assert not [name for name in emtm(ALONE).evaluate(batch) if "/" in name]
    assert measured["R1@0.5"].count == measured["isomorphic/R1@0.5"].count == 6
    method = emtm()
    teacher = GroundingTeacher(SpanNetwork(dataclasses.replace(STUDENT, dual_layers=2)))
    teacher.network.encoder.load_state_dict(method.student.encoder.state_dict())
    teacher.network.branch.load_state_dict(method.isomorphic.state_dict())
    assert teacher.evaluate(batch)["mIoU"] == measured["isomorphic/mIoU"]


def test_the_students_weights_alone_are_enough_to_answer(batch):
    method = emtm(RELEASED)
    student = SpanNetwork(STUDENT)
    student.load_state_dict(method.student.state_dict())
    assert torch.equal(GroundingTeacher(student).predict(batch)[0], method.predict(batch)[0])


@pytest.mark.parametrize("config", EVERY)
def test_looking_inside_changes_nothing(batch, config):
    method = emtm(config, student=dataclasses.replace(STUDENT, dropout=0.5)).train()
    weights = {name: weight.clone() for name, weight in method.state_dict().items()}
    torch.manual_seed(0)
    before = method(batch)
    torch.manual_seed(0)
    seen = method.inspect(batch)
    after = method(batch)
    assert method.training
    assert torch.equal(before.start_logits, after.start_logits)
    assert all(torch.equal(weight, weights[name]) for name, weight in method.state_dict().items())
    quiet = method.eval()(batch)
    assert torch.equal(seen.student_start, quiet.start_logits.softmax(1))
    assert seen.clips.shape == (6, 12, 16)
    for name, value in vars(seen).items():
        if name.endswith(("_start", "_end")) and value is not None:
            torch.testing.assert_close(value.sum(1), torch.ones(6), msg=name)
            assert not value[~batch.video_mask].any()
    assert (seen.isomorphic_start is None) == (not config.shared_encoder)
    assert (seen.weights is None) == (not config.as_released)


def test_a_plain_batch_can_be_looked_into(labelled):
    seen = emtm(RELEASED).inspect(whole(labelled))
    assert seen.label_start is None
    assert seen.weights is None


def test_the_student_sees_its_columns_alone(batch):
    torch.manual_seed(3)
    method = EMTM(Config(student=dataclasses.replace(STUDENT, video_dim=2)), columns=(0, 2))
    before = method.loss(batch)["total"]
    batch.video[..., 2] = 100.0
    assert torch.equal(method.loss(batch)["total"], before)
    assert torch.equal(method.inspect(batch).student_start, method(batch).start_logits.softmax(1))


def test_the_training_loop_takes_it(labelled, unlabelled, tmp_path):
    train = DistillationDataset([part_of(labelled), part_of(unlabelled, has_moment=False)])
    data = Data(train=train, val=queries_of(tmp_path / "val", name="v", split="val"))
    run = Run.open("emtm", {}, data="", runs_dir=tmp_path / "runs")
    config = TrainConfig(epochs=2, batch_size=4, device="cpu", num_threads=1)
    history = fit(emtm(), data, config, run=run, progress=False)
    assert {"loss/soft", "loss/isomorphic", "val/R1@0.5", "val/isomorphic/R1@0.5"} <= set(history.rows[0])


def test_a_batch_that_teaches_nothing_is_refused(labelled, mixed, batch):
    with pytest.raises(ValueError, match="the batch has no labels to distil from"):
        emtm().loss(whole(labelled))
    with pytest.raises(ValueError, match="query 'b0-0' has no moment, and no label that distill=False"):
        emtm(ALONE).loss(mixed)
    with pytest.raises(ValueError, match=r"the batch has the outputs of 2 teachers, Config.teachers is 3"):
        emtm(RELEASED, teachers=3).loss(batch)
    with pytest.raises(ValueError, match="as_released needs what every teacher says"):
        emtm(RELEASED).loss(whole(DistillationDataset([Part(dataset=labelled)])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": dataclasses.replace(STUDENT, dual_layers=1)}, "student.dual_layers must be 0, got 1"),
        ({"dual_layers": 0}, "Config.dual_layers must be at least 1, got 0"),
        ({"alpha": -0.1}, "alpha must be a finite number, 0 or more, got -0.1"),
        ({"alpha": math.nan}, "alpha must be a finite number, 0 or more, got nan"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0, got 0.0"),
        ({"labels": "firm"}, "labels must be 'soft' or 'hard', got 'firm'"),
        ({"as_released": True}, "as_released needs teachers of at least 1.*got teachers=0"),
        ({"as_released": True, "teachers": 2, "labels": "hard"}, "as_released needs.*labels='hard'"),
        ({"as_released": True, "teachers": 2, "distill": False}, "as_released needs.*distill=False"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)
