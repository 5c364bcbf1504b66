import pytest
import torch
from torch import nn

from tests.delta.small_networks import randomise
from vkdlab.data.dense_batches import DenseBatch
from vkdlab.delta.distill import Config, DeltaDistillation
from vkdlab.delta.layers import DeltaConv2d
from vkdlab.delta.networks import SegmentationConfig, SegmentationNetwork
from vkdlab.delta.tasks import DETECTION, SEGMENTATION, Truth
from vkdlab.training import TrainConfig, _optimiser

SHAPE = (3, 24, 32)


def _teacher(width=8):
    model = randomise(SegmentationNetwork(SegmentationConfig(classes=5, width=width, multiples=(1, 2))))
    model.head.weight.data.mul_(20)  # so that answers differ from place to place
    with torch.no_grad():
        model.head.bias.sub_(model(torch.rand(1, *SHAPE)).mean((0, 2, 3)))
    return model


def _method(config=Config(), *, steps=None, teacher=None):  # noqa: B008 - frozen
    return DeltaDistillation(
        teacher or _teacher(), config=config, task=SEGMENTATION, classes=5, frame_shape=SHAPE, steps=steps
    )


def _pairs(b=2, t=2, *, move=0.2, labels=True):
    frames = torch.rand(b, 1, *SHAPE) + move * torch.randn(b, t, *SHAPE)
    return DenseBatch(frames, torch.randint(0, 5, (b, t, *SHAPE[1:])) if labels else None)


def test_the_layers_errors_are_those_of_a_slow_computation_relative_to_what_the_teacher_changed():
    method = _method().eval()
    batch = _pairs()
    key, later = batch.frames[:, 0], batch.frames[:, 1]

    def outputs(frame, state=None, *, teacher=False):
        return method.student.traced(frame, state, teacher=teacher)

    first, reference = outputs(key), outputs(later, teacher=True)
    ours = outputs(later, first.state)
    errors = []
    for name in ours.outputs:
        target = reference.outputs[name] - first.outputs[name]
        wrong = ours.outputs[name] - reference.outputs[name]
        rounding = 1e-4 * first.outputs[name].square().mean()
        errors.append((wrong.square().mean() / (target.square().mean() + rounding)).item())
    losses = method.loss(batch)
    assert losses["distill"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    assert losses["output"].item() == pytest.approx(SEGMENTATION.soft(ours.output, reference.output).item(), rel=1e-4)
    task = nn.functional.cross_entropy(ours.output, batch.labels[:, 1])
    assert losses["task"].item() == pytest.approx(task.item(), rel=1e-4)


def test_the_total_is_the_weighted_sum_of_the_terms():
    method = _method(Config(task=0.5, alpha=3, output=2)).eval()
    losses = method.loss(_pairs())
    expected = 0.5 * losses["task"] + 3 * losses["distill"] + 2 * losses["output"]
    assert losses["total"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_pair_of_one_frame_has_no_error_to_learn_from():
    losses = _method(Config(task=0)).eval().loss(_pairs(move=0.0))
    assert losses["distill"].item() == pytest.approx(0, abs=1e-9)
    assert losses["total"].item() == pytest.approx(0, abs=1e-5)


class Normalising(nn.Module):
    """Normalises its frames in place."""

    def __init__(self):
        super().__init__()
        self.network = _teacher()

    def forward(self, x):
        return self.network(x.sub_(0.5).div_(0.25))


def test_a_teacher_that_changes_its_frames_in_place_sees_the_frames_that_its_students_see():
    method = _method(Config(task=0), teacher=Normalising().eval()).eval()
    frames = torch.rand(1, 2, *SHAPE[1:], 3).permute(0, 1, 4, 2, 3)
    frames[:, 1] = frames[:, 0]
    losses = method.loss(DenseBatch(frames, None))
    assert losses["distill"].item() == pytest.approx(0, abs=1e-9)
    assert method.evaluate(DenseBatch(frames, None))["mIoU"].value == pytest.approx(1)


def test_only_small_students_learn_by_default_and_the_teacher_answers_as_before():
    teacher = _teacher()
    method = _method(teacher=teacher).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimiser = _optimiser(method, TrainConfig(lr=1e-2))
    for _ in range(2):
        optimiser.zero_grad()
        method.loss(_pairs())["total"].backward()
        optimiser.step()
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    small = {f"student.model.{name}.small.{i}.weight" for name in method.student.layers for i in (0, 1)}
    assert changed == small | {"step"}
    frame = torch.rand(1, *SHAPE)
    assert torch.allclose(method.student.reference(frame), teacher(frame), atol=1e-5)


def test_students_come_closer_to_the_teachers_changes():
    method = _method(Config(task=0)).train()
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    batch = _pairs(b=4)
    first = method.loss(batch)
    for _ in range(30):
        losses = method.loss(batch)
        optimiser.zero_grad()
        losses["total"].backward()
        optimiser.step()
    last = method.loss(batch)
    assert last["distill"] < 0.9 * first["distill"]
    assert last["output"] < 0.9 * first["output"]


def test_the_released_schedule_divides_by_the_first_step_and_ends_after_a_third():
    method = _method(Config.as_released(), steps=9).train()
    for gate in method.student.gate_parameters():
        gate.data.fill_(-50)  # a full student has no error of its own
    seen = []
    for _ in range(5):
        losses = method.loss(_pairs())
        rest = losses["task"] + 0.1 * losses["cost"]
        seen.append((losses["total"] - rest).item())
        assert losses["distill"] > 0
    assert seen[0] == pytest.approx(0.01, abs=1e-5)
    assert all(value > 1e-3 for value in seen[:3])
    assert seen[3:] == pytest.approx([0, 0], abs=1e-6)


def test_a_training_that_is_taken_up_again_keeps_the_normalisation_and_the_schedule():
    """The released code keeps both in globals, so that a resumed run starts them anew."""
    method = _method(Config.as_released(), steps=9).train()
    batch = _pairs()
    method.loss(batch)
    again = _method(Config.as_released(), steps=9).train()
    again.load_state_dict(method.state_dict())
    assert again.step.item() == 1
    assert again.first.item() == method.first.item() > 0
    still = _pairs(move=0.01)
    torch.manual_seed(3)
    ours = method.loss(still)["distill"].item()
    torch.manual_seed(3)
    assert again.loss(still)["distill"].item() == pytest.approx(ours, rel=1e-5)
    assert ours < 0.5  # of the first step's error, not of its own


def test_looking_at_a_loss_in_evaluation_mode_does_not_count_as_a_step():
    method = _method(Config.as_released(), steps=9).eval()
    method.loss(_pairs())
    assert method.step.item() == 0
    assert method.first.item() == 0


def test_the_released_recipe_trains_teacher_students_and_gates_with_learning_rates_by_the_kind_of_module():
    """There, a parameter gets the student's rate where its name contains "g_", as does one of any layer named so."""
    teacher = nn.Sequential()
    for name, module in (("first", nn.Conv2d(3, 8, 3)), ("big_conv", nn.Conv2d(8, 8, 3)), ("last", nn.Conv2d(8, 5, 1))):
        teacher.add_module(name, module)
    method = DeltaDistillation(
        teacher.eval(), config=Config.as_released(), task=SEGMENTATION, classes=5, frame_shape=SHAPE, steps=3
    )
    names = {parameter: name for name, parameter in method.named_parameters()}
    groups = _optimiser(method, TrainConfig(lr=1.0)).param_groups
    rates = {names[p].removeprefix("student.model."): group["scale"] for group in groups for p in group["params"]}
    assert rates == {
        "first.weight": 0.1, "first.bias": 0.1, "last.weight": 0.1, "last.bias": 0.1,
        "big_conv.teacher.weight": 0.1, "big_conv.teacher.bias": 0.1,
        "big_conv.full.weight": 1.0, "big_conv.small.0.weight": 1.0, "big_conv.small.1.weight": 1.0,
        "big_conv.gate_logit": 1.0,
    }  # fmt: skip
    method.train().loss(_pairs_of(5))["total"].backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def _pairs_of(classes):
    frames = torch.rand(2, 2, *SHAPE)
    height, width = SHAPE[1] - 4, SHAPE[2] - 4  # no padding above
    return DenseBatch(frames, torch.randint(0, classes, (2, 2, height, width)))


def test_the_teachers_own_changes_and_the_students_are_of_the_same_batch_norm():
    """There, the teacher's pass is in evaluation mode and the students' in training mode, even without any change."""
    method = _method(Config.as_released(), steps=3).train()
    assert not any(module.training for module in method.student.model.modules())
    assert method.loss(_pairs(move=0.0))["distill"].item() == pytest.approx(0, abs=1e-6)


def test_a_search_with_a_budget_costs_nothing_within_it_and_more_the_further_it_is_exceeded():
    method = _method(Config(search=True)).train()
    least = method.costs.per_frame(4, ()) / method.costs.teacher
    cost = {}
    for budget in (1.0, 0.9 * least, 0.5 * least):
        method.config = Config(search=True, budget=budget)
        torch.manual_seed(5)
        losses = method.loss(_pairs())
        cost[budget] = losses["cost"].item()
    assert 0 == cost[1.0] < cost[0.9 * least] < cost[0.5 * least]
    losses["total"].backward()
    gates = [layer.gate_logit for layer in method.student.layers.values() if isinstance(layer, DeltaConv2d)]
    assert all(gate.grad is not None for gate in gates)
    full = [layer.full.weight for layer in method.student.layers.values()]
    assert not any(weight.requires_grad for weight in full)


def test_no_gate_is_drawn_without_a_search():
    method = _method().train()
    assert "cost" not in method.loss(_pairs())
    assert not any(layer.gate_logit.requires_grad for layer in method.student.layers.values())


def test_the_metric_is_taken_on_all_frames_of_a_clip():
    method = _method().eval()
    batch = _pairs(b=2, t=4)
    found = method.evaluate(batch)["mIoU"]
    answers = [torch.stack(list(method.student.stream(clip[:, None], period=4)))[:, 0] for clip in batch.frames]
    assert torch.allclose(torch.stack(answers), method.predict(batch), atol=1e-4)
    expected = sum((a.argmax(1) == b).sum().item() for a, b in zip(answers, batch.labels, strict=True))
    assert found.counts.trace() == pytest.approx(expected, abs=2)
    assert found.counts.sum() == batch.labels.numel()


def test_where_nobody_labelled_anything_the_teacher_is_the_reference():
    method = _method().eval()
    still = _pairs(t=3, move=0.0, labels=False)
    assert method.evaluate(still)["mIoU"].value == pytest.approx(1)
    losses = method.loss(still)
    assert losses["task"].item() == 0
    assert method.evaluate(_pairs(t=3, move=0.5, labels=False))["mIoU"].value < 1


def test_one_looks_into_the_first_clip_of_a_batch():
    method = _method().eval()
    inspection = method.inspect(_pairs(t=3))
    assert inspection.input_energy.shape == (len(method.student.layers), 3)
    assert inspection.input_energy[:, 0].sum() == 0


def test_a_detector_is_distilled_alike():
    teacher = randomise(DETECTION.network(8, 4))
    method = DeltaDistillation(teacher, config=Config(), task=DETECTION, classes=4, frame_shape=SHAPE).train()
    boxes = torch.tensor([[4.0, 4.0, 16.0, 20.0]])
    batch = DenseBatch(torch.rand(2, 2, *SHAPE), None, ((boxes, boxes),) * 2, ((torch.tensor([2]),) * 2,) * 2)
    losses = method.loss(batch)
    losses["total"].backward()
    assert losses["task"] > 0


def test_a_detector_is_measured_on_all_frames_of_its_clips_against_the_truth_or_its_teacher():
    teacher = randomise(DETECTION.network(8, 4))
    teacher.head.weight.data[:3] *= 30  # so that an untrained one finds something
    teacher.head.bias.data[:3] += 3
    method = DeltaDistillation(teacher, config=Config(), task=DETECTION, classes=4, frame_shape=SHAPE).eval()
    frames = torch.rand(2, 1, *SHAPE) + 0.4 * torch.randn(2, 3, *SHAPE)
    frames[:, 0] = frames[:, 1]
    with torch.no_grad():
        answers = DETECTION.answers(method.student.reference(frames.flatten(0, 1)))
    assert sum(map(len, answers.boxes)) > 0
    still = DenseBatch(frames[:, :2], None)
    assert method.evaluate(still)["mAP@0.5"].value == 1
    # A labelled clip in which the teacher is right by definition, added up by hand from what the stream answers.
    boxes, labels = ((each[:3], each[3:]) for each in (answers.boxes, answers.box_labels))
    found = method.evaluate(DenseBatch(frames, None, boxes, labels))["mAP@0.5"]
    parts = [
        DETECTION.compare(output, Truth(None, (boxes[clip][i],), (labels[clip][i],)), classes=4)
        for clip in range(2)
        for i, output in enumerate(method.student.stream(list(frames[clip][:, None]), period=3))
    ]
    assert found.value == pytest.approx(sum(parts[1:], start=parts[0]).value, abs=1e-6)
    assert 0 < found.value < 1


def test_a_block_gets_a_student_that_learns():
    method = _method(Config(blocks=("features.down.1",))).train()
    method.loss(_pairs())["total"].backward()
    student = method.student.layers["features.down.1"].student
    assert student[-1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gamma": 0.5}, "gamma of at least 1"),
        ({"until": 0.0}, "until above 0"),
        ({"until": 1.5}, "until above 0"),
        ({"teacher_lr": -1.0}, "teacher_lr of at least 0"),
        ({"alpha": -1.0}, "weights are 0 or more"),
        ({"task": 0, "alpha": 0, "output": 0}, "not all 0"),
        ({"gaps": (3, 2)}, "gaps is"),
        ({"gaps": (0, 2)}, "gaps is"),
        ({"budget": 0.5}, "kept by a search"),
        ({"budget": 1.5, "search": True}, "at most 1"),
        ({"period": 0}, "period must be at least 1"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Config(**wrong)


def test_single_frames_and_missing_steps_are_refused():
    with pytest.raises(ValueError, match="clips of one frame"):
        _method().loss(_pairs(t=1))
    with pytest.raises(ValueError, match="steps is needed"):
        _method(Config.as_released())
