"""The whole way on real files at smoke size: a data set's name in, a trained teacher and its answers out."""

import pytest
import torch

from vkdlab import emtm
from vkdlab.data.prepared import prepare_grounding
from vkdlab.emtm import figures
from vkdlab.metrics import temporal_iou


@pytest.fixture(scope="module")
def splits():
    return prepare_grounding("tabletop", profile="smoke", extractors=["dis-flow"], progress=False)


@pytest.fixture(scope="module")
def trained(splits, tmp_path_factory):
    runs_dir = tmp_path_factory.mktemp("runs")
    return emtm.train_span_teacher(splits, profile="smoke", runs_dir=runs_dir, dim=32, progress=False), runs_dir


def test_every_test_query_is_answered_within_its_video(trained, splits):
    teacher, _ = trained
    assert [item.id for item in teacher.items] == [query.id for query in splits.test.dataset.queries]
    for item in teacher.items:
        assert len(item.predicted_s) == 5
        assert all(0 <= start <= end <= item.duration_s + 1e-3 for start, end in item.predicted_s)
        assert item.start_probs.sum() == pytest.approx(1, abs=1e-5)
        expected = temporal_iou(torch.tensor(item.predicted_s[0]), torch.tensor(item.moment_s)).item()
        assert item.iou == pytest.approx(expected, abs=1e-5)


def test_measures_of_the_answers_equal_those_of_the_loop(trained, splits):
    from vkdlab.training import evaluate

    teacher, _ = trained
    by_loop = evaluate(teacher.method, splits.test, device="cpu", progress=False)
    for name, mean in teacher.metrics["span teacher"].items():
        assert mean.value == pytest.approx(by_loop[name].value, abs=1e-6), name


def test_the_loss_falls(trained):
    losses = [row["loss/total"] for row in trained[0].history.rows]
    assert losses[-1] < losses[0]


def test_asking_again_loads_what_was_trained(trained, splits):
    first, runs_dir = trained
    again = emtm.train_span_teacher(splits, profile="smoke", runs_dir=runs_dir, dim=32, progress=False)
    assert again.run.folder == first.run.folder
    assert [path.name for path in runs_dir.iterdir()] == [first.run.folder.name]
    for name, weight in first.method.state_dict().items():
        assert torch.equal(weight, again.method.state_dict()[name]), name
    other = emtm.train_span_teacher(splits, profile="smoke", runs_dir=runs_dir, dim=32, seed=1, progress=False)
    assert other.run.folder != first.run.folder


def test_guessing_without_looking_gives_every_query_the_same_share(splits):
    guess = emtm.blind_guess(splits.train, splits.test)
    assert 0 <= guess["R1@0.5"].value <= guess["R5@0.5"].value <= 1
    assert guess["R1@0.5"].count == len(splits.test)


def test_no_teacher_beats_the_ceiling_of_its_grid(trained):
    metrics = trained[0].metrics
    assert metrics["span teacher"]["mIoU"].value <= metrics["ceiling of the grid"]["mIoU"].value


def test_figures_show_what_was_measured(trained):
    teacher, _ = trained
    bars = {trace.name: trace for trace in figures.recalls(teacher.metrics).data}
    position = list(bars["span teacher"].x).index("R1@0.5")
    assert bars["span teacher"].y[position] == pytest.approx(100 * teacher.metrics["span teacher"]["R1@0.5"].value)
    table = figures.metrics_table(teacher.metrics)
    assert "mIoU (snapped)" in table.index
    assert list(table.columns) == ["guess without looking", "span teacher", "ceiling of the grid"]
    grounded = figures.grounded(teacher.items[0])
    truth = next(trace for trace in grounded.data if trace.type == "bar" and trace.y[0] == "truth")
    assert (truth.base[0], truth.base[0] + truth.x[0]) == pytest.approx(teacher.items[0].moment_s)
    groups = figures.iou_by_group(teacher.items, title="t").data
    assert sum(int(name.split("n = ")[1]) for name in groups[0].x) == len(teacher.items)
    assert list(figures.transfer({"tabletop": teacher}).data[1].y) == [bars["span teacher"].y[position]]


def test_runs_over_seeds_are_drawn_with_the_interval_of_their_mean(trained):
    values = [0.4, 0.5, 0.6]
    runs = [
        {"parameters": {"data": "tabletop", "seed": seed}, "metrics": {"R1@0.5": v}} for seed, v in enumerate(values)
    ]
    dots, mean, fresh = figures.over_seeds(runs, {"tabletop": trained[0]}).data
    assert list(dots.y) == pytest.approx([40, 50, 60])
    assert mean.y[0] == pytest.approx(50)
    assert mean.error_y.array[0] == pytest.approx(10 / 3**0.5 * 4.302653, rel=1e-5)  # t of two degrees of freedom
    assert fresh.y[0] == pytest.approx(100 * trained[0].metrics["span teacher"]["R1@0.5"].value)


def test_the_surest_wrong_answer_is_wrong_and_sure(trained):
    items = trained[0].items
    worst = emtm.surest_wrong(items, iou=0.1)
    wrong = [item for item in items if item.iou < 0.1]
    assert worst.iou < 0.1 or not wrong
    assert all(
        worst.start_probs.max() * worst.end_probs.max() >= i.start_probs.max() * i.end_probs.max() for i in wrong
    )


def test_a_profile_that_is_none_is_refused(splits):
    with pytest.raises(ValueError, match="expected profile smoke, demo, full, got 'huge'"):
        emtm.train_span_teacher(splits, profile="huge")


def test_a_set_that_is_not_on_this_machine_is_left_out_and_named(monkeypatch, capsys):
    monkeypatch.delenv("VKDLAB_DATA", raising=False)
    assert emtm.train_where_present(["arid6"], profile="smoke", progress=False) == {}
    assert "arid6 is left out" in capsys.readouterr().out


def test_nothing_to_measure_is_said_so():
    with pytest.raises(ValueError, match="no predictions"):
        emtm.measure([])
