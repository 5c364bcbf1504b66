"""The whole way on real files at smoke size: a data set's name in, trained teachers and their answers out."""

import dataclasses

import pytest
import torch

from tests.emtm.conftest import RECIPE, TEACHERS
from vkdlab import emtm
from vkdlab.emtm import figures
from vkdlab.emtm.teachers import build_teacher, columns_of, task, train_teacher
from vkdlab.metrics import Mean, temporal_iou
from vkdlab.training import Data, evaluate


@pytest.fixture(scope="module")
def items(tiny):
    return {
        name: emtm.predict(each.method, tiny.splits.test, progress=False)
        for name, each in tiny.ensemble.teachers.items()
    }


def test_every_test_query_is_answered_within_its_video(items, tiny):
    for answers in items.values():
        assert [item.id for item in answers] == [query.id for query in tiny.splits.test.dataset.queries]
        for item in answers:
            assert len(item.predicted_s) == 5
            assert all(-1e-3 <= start <= end <= item.duration_s + 1e-3 for start, end in item.predicted_s)
            assert item.start_probs.sum() == pytest.approx(1, abs=1e-5)
            expected = temporal_iou(torch.tensor(item.predicted_s[0]), torch.tensor(item.moment_s)).item()
            assert item.iou == pytest.approx(expected, abs=1e-5)


def test_measures_of_the_answers_equal_those_of_the_loop(items, tiny):
    for name, each in tiny.ensemble.teachers.items():
        by_loop = evaluate(each.method, tiny.splits.test, device="cpu", progress=False)
        for metric, mean in emtm.measure(items[name]).items():
            assert mean.value == pytest.approx(by_loop[metric].value, abs=1e-6), metric


@pytest.mark.parametrize("family", ["span", "map", "proposal", "regression"])
def test_a_teacher_of_every_family_learns(family, tiny_splits, tmp_path):
    data = Data(tiny_splits.train, tiny_splits.val)
    trained = train_teacher(emtm.TeacherSpec(family), data, recipe=RECIPE, runs_dir=tmp_path, progress=False)
    losses = [row["loss/total"] for row in trained.history.rows]
    assert losses[-1] < losses[0]


def test_asking_again_trains_nothing_and_another_seed_trains_others(tiny):
    before = sorted(path.name for path in tiny.runs_dir.iterdir())
    again, _ = emtm.train_teachers(tiny.splits, teachers=TEACHERS, **tiny.settings)
    assert sorted(path.name for path in tiny.runs_dir.iterdir()) == before
    for name, each in again.items():
        for key, weight in each.method.state_dict().items():
            assert torch.equal(weight, tiny.ensemble.teachers[name].method.state_dict()[key])
    spec = TEACHERS["span"]
    one, other = (build_teacher(spec, tiny.splits.train, RECIPE, seed=seed).state_dict() for seed in (0, 1))
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_every_teacher_s_run_has_a_model_card(tiny):
    for name, each in tiny.ensemble.teachers.items():
        card = (each.run.folder / "README.md").read_text()
        assert card.startswith(f"# EMTM {name} teacher, trained on tabletop")
        for fact in ("dis-flow", "R1@0.5", "parameters", "Apache-2.0", "One seed", "validation split"):
            assert fact in card, fact


def test_a_worker_finds_the_same_run(tiny):
    from dataclasses import asdict

    setup = {
        "source": dict(tiny.splits.source), "teachers": {name: asdict(spec) for name, spec in TEACHERS.items()},
        "recipe": asdict(RECIPE), "cross_fit": 2, "seed": 0, "device": "auto", "runs_dir": str(tiny.runs_dir),
    }  # fmt: skip
    assert task(setup)("span|", -1) == tiny.ensemble.teachers["span"].run.folder.name


def test_a_fold_s_teacher_is_trained_on_other_queries_than_the_teacher_of_the_whole(tiny):
    whole, by_fold = emtm.train_teachers(tiny.splits, teachers=TEACHERS, cross_fit=2, **tiny.settings)
    folders = {each["span"].run.folder for each in (whole, *by_fold)}
    assert len(folders) == 3


def test_columns_are_those_of_the_features_that_are_named(tiny_splits):
    assert columns_of(tiny_splits.train, ()) == (0, tiny_splits.train.dim)
    assert columns_of(tiny_splits.train, ("dis-flow",)) == (0, 320)
    with pytest.raises(ValueError, match="has no features of 'i3d'; it has dis-flow"):
        columns_of(tiny_splits.train, ("i3d",))


def test_a_family_that_is_none_is_refused():
    with pytest.raises(ValueError, match="family is 'tree', expected one of span, map, proposal, regression"):
        emtm.TeacherSpec("tree")


def test_guessing_without_looking_gives_every_query_the_same_share(tiny_splits):
    guess = emtm.blind_guess(tiny_splits.train, tiny_splits.test)
    assert 0 <= guess["R1@0.5"].value <= guess["R5@0.5"].value <= 1
    assert guess["R1@0.5"].count == len(tiny_splits.test)


def test_no_span_teacher_beats_the_ceiling_of_its_grid(items, tiny_splits):
    assert emtm.measure(items["span"])["mIoU"].value <= emtm.ceiling(tiny_splits.test)["mIoU"].value


def test_figures_show_what_was_measured(items, tiny):
    rows = {
        figures.GUESS: emtm.blind_guess(tiny.splits.train, tiny.splits.test),
        **{name: emtm.measure(answers) for name, answers in items.items()},
        figures.CEILING: emtm.ceiling(tiny.splits.test),
    }
    bars = {trace.name: trace for trace in figures.recalls(rows).data}
    position = list(bars["span"].x).index("R1@0.5")
    assert bars["span"].y[position] == pytest.approx(100 * rows["span"]["R1@0.5"].value)
    table = figures.metrics_table(rows)
    assert "mIoU (snapped)" in table.index
    assert list(table.columns) == list(rows)
    grounded = figures.grounded(items["span"][0])
    truth = next(trace for trace in grounded.data if trace.type == "bar" and trace.y[0] == "truth")
    assert (truth.base[0], truth.base[0] + truth.x[0]) == pytest.approx(items["span"][0].moment_s)
    without_file = figures.grounded(dataclasses.replace(items["span"][0], path=None))
    assert [trace.type for trace in without_file.data] == [trace.type for trace in grounded.data]
    groups = figures.iou_by_group(items["span"], title="t").data
    assert sum(int(name.split("n = ")[1]) for name in groups[0].x) == len(items["span"])


def test_transfer_says_how_far_the_best_teacher_is_above_a_guess_on_each_data_set():
    def metrics(value):
        return {"R1@0.5": Mean(value, 1)}

    rows = {
        "own": {figures.GUESS: metrics(0.1), "span": metrics(0.5), figures.CEILING: metrics(1.0)},
        "other": {figures.GUESS: metrics(0.2), "span": metrics(0.15)},
    }
    figure = figures.transfer(rows)
    assert (
        figure.layout.title.text == "The best teacher is +40 points above a guess here and -5 on videos of another kind"
    )
    assert [trace.name for trace in figure.data] == [figures.GUESS, "span"]
    assert "no other videos" in figures.transfer({"own": rows["own"], "other": {}}).layout.title.text


def test_learning_curves_ring_the_epoch_that_is_kept(tiny):
    histories = {name: each.history for name, each in tiny.ensemble.teachers.items()}
    rings = [trace for trace in figures.learning(histories).data if trace.marker.symbol == "circle-open"]
    assert [ring.x[0] for ring in rings] == [history.best_epoch for history in histories.values()]


def test_the_teachers_that_find_a_moment_are_counted(tiny):
    outputs = tiny.ensemble.test
    (bars,) = figures.how_many_right(outputs).data
    right = [sum(iou >= 0.5 for iou in row) for row in outputs.iou.tolist()]
    assert list(bars.y) == pytest.approx([100 * right.count(number) / len(right) for number in range(3)])


def test_runs_over_seeds_are_drawn_with_the_interval_of_their_mean():
    dots, mean, fresh = figures.over_seeds({"span": [0.4, 0.5, 0.6]}, {"span": 0.45}).data
    assert list(dots.y) == pytest.approx([40, 50, 60])
    assert mean.y[0] == pytest.approx(50)
    assert mean.error_y.array[0] == pytest.approx(10 / 3**0.5 * 4.302653, rel=1e-5)  # t of two degrees of freedom
    assert fresh.y[0] == pytest.approx(45)


def test_the_surest_wrong_answer_is_wrong_and_sure(items):
    worst = emtm.surest_wrong(items["span"], iou=0.1)
    wrong = [item for item in items["span"] if item.iou < 0.1]
    assert worst.iou < 0.1 or not wrong
    assert all(
        worst.start_probs.max() * worst.end_probs.max() >= i.start_probs.max() * i.end_probs.max() for i in wrong
    )


def test_a_set_that_is_not_on_this_machine_is_left_out_and_named(tiny, monkeypatch, capsys):
    monkeypatch.delenv("VKDLAB_DATA", raising=False)
    assert emtm.transfer_rows("gmdcsa24", tiny.ensemble.teachers, tiny.splits, progress=False) == {}
    assert "gmdcsa24 is left out" in capsys.readouterr().out


def test_teachers_are_tried_on_videos_of_another_set(tiny, data_root):
    rows = emtm.transfer_rows("gmdcsa24", tiny.ensemble.teachers, tiny.splits, progress=False)
    assert list(rows) == ["guess without looking", *TEACHERS]
    assert all(row["R1@0.5"].count == 48 for row in rows.values())


def test_nothing_to_measure_is_said_so():
    with pytest.raises(ValueError, match="no predictions"):
        emtm.measure([])
