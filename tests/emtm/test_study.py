"""Teachers, aggregates and students together, at smoke size: what was held out of what, and what is reported."""

import dataclasses

import pytest
import torch

from tests.emtm.conftest import RECIPE, TEACHERS
from vkdlab import emtm
from vkdlab.data.folds import folds, halves
from vkdlab.emtm.student_files import latest_student, load_student
from vkdlab.emtm.study import CONSTANT, KAU, NAIVE, ORACLE, UNIFORM
from vkdlab.emtm.study_report import ALL, FEW, STEPS


def test_a_held_out_answer_comes_from_teachers_that_never_saw_its_video(tiny):
    ensemble = tiny.ensemble
    assert ensemble.held_out_by == "folds"
    assert list(ensemble.held_out.ids) == [query.id for query in tiny.splits.train.dataset.queries]
    _, by_fold = emtm.train_teachers(tiny.splits, teachers=TEACHERS, cross_fit=2, **tiny.settings)
    row_of = {name: row for row, name in enumerate(ensemble.held_out.ids)}
    for teachers, (_, held) in zip(by_fold, folds(tiny.splits.train, 2), strict=True):
        methods = {name: each.method for name, each in teachers.items()}
        said = emtm.collect(methods, held, progress=False)
        rows = torch.tensor([row_of[name] for name in said.ids])
        torch.testing.assert_close(ensemble.held_out.start[rows], said.start)


def test_a_single_training_video_cannot_be_dealt_into_folds_and_the_validation_split_serves(tiny):
    first = next(iter(tiny.splits.train.dataset.videos))
    splits = dataclasses.replace(tiny.splits, train=tiny.splits.train.subset([first]))
    ensemble = emtm.train_ensemble(splits, teachers={"span": TEACHERS["span"]}, **tiny.settings)
    assert ensemble.held_out_by == "validation"
    assert emtm.compare(ensemble).test["KAU"].ids == ensemble.test.ids


def test_the_validation_split_takes_the_folds_place_where_it_is_asked_to(tiny):
    ensemble = emtm.train_ensemble(tiny.splits, teachers=TEACHERS, held_out_by="validation", **tiny.settings)
    assert list(ensemble.held_out.ids) == [query.id for query in tiny.splits.val.dataset.queries]
    with pytest.raises(ValueError, match=r"expected held_out_by auto, folds, validation .* got 'test'"):
        emtm.train_ensemble(tiny.splits, teachers=TEACHERS, held_out_by="test", **tiny.settings)


def test_the_cross_scene_set_is_fitted_on_other_recordings_and_the_random_one_on_folds(data_root):
    from vkdlab.data.prepared import prepare_grounding
    from vkdlab.emtm.ensemble import _validates_on_other_recordings

    for name, expected in (("arid6", True), ("arid6-random", False)):
        splits = prepare_grounding(name, profile="smoke", extractors=["dis-flow"], progress=False)
        assert _validates_on_other_recordings(splits) is expected


def test_answers_are_computed_once_and_kept(tiny, monkeypatch):
    from vkdlab.emtm import ensemble

    monkeypatch.setattr(ensemble, "collect", lambda *_, **__: pytest.fail("asked again"))
    again = emtm.answer(tiny.ensemble.teachers, tiny.splits.test, runs_dir=tiny.runs_dir)
    assert again.fingerprint == tiny.ensemble.test.fingerprint


def test_every_table_has_the_controls_and_the_oracle_reaches_what_the_best_teacher_does(tiny):
    rows = tiny.study.rows
    assert {*TEACHERS, UNIFORM, CONSTANT, NAIVE, KAU, ORACLE} <= set(rows)
    assert list(rows)[: len(TEACHERS)] == list(TEACHERS)
    best = max(rows[name]["mIoU"].value for name in TEACHERS)
    assert rows[ORACLE]["mIoU"].value >= best
    table = emtm.label_table(tiny.study)
    assert table.loc[UNIFORM, "R1@0.5"] == pytest.approx(100 * rows[UNIFORM]["R1@0.5"].value, abs=0.06)
    assert tiny.study.best_in_hindsight in TEACHERS


def test_the_naive_unit_alone_is_fitted_on_training_samples(tiny):
    naive, ours = (tiny.study.aggregators[name].config for name in (NAIVE, KAU))
    assert naive.as_released
    assert not ours.as_released
    label = tiny.study.label(KAU)
    expected = tiny.study.aggregators[KAU].integrate(tiny.ensemble.train, dataset=tiny.splits.train)
    torch.testing.assert_close(label.start[: len(expected.ids)], expected.start)
    assert set(label.ids[len(expected.ids) :]) == {query.id for query in tiny.splits.test.dataset.queries}


def test_nobody_can_learn_the_truth_of_test_queries_from_the_oracle(tiny):
    label = tiny.study.label(ORACLE)
    assert set(label.ids) == {query.id for query in tiny.splits.train.dataset.queries}
    spec = {"told": emtm.StudentSpec(label=ORACLE, unlabelled=True)}
    with pytest.raises(ValueError, match="queries have no label"):
        emtm.train_students(tiny.splits, spec, {ORACLE: label}, **tiny.settings)


@pytest.fixture(scope="module")
def students(tiny):
    specs = emtm.student_specs("few") | {
        "new scenes": emtm.StudentSpec(label=KAU, labels="hard", unlabelled=True),
    }
    labels = {name: tiny.study.label(name) for name in emtm.labels_of(specs)}
    return emtm.train_students(tiny.splits, specs, labels, **tiny.settings)


def test_every_student_answers_every_test_query_once(students, tiny):
    asked = sorted(query.id for query in tiny.splits.test.dataset.queries)
    for student in students.values():
        assert sorted(item.id for item in student.items) == asked
        assert student.metrics["R1@0.5"].count == len(asked)


def test_students_start_from_the_same_weights_and_are_as_large(students):
    sizes = {sum(weight.numel() for weight in each.method.student.parameters()) for each in students.values()}
    assert len(sizes) == 1
    assert students["EMTM"].method.isomorphic is not None
    assert students["student alone"].method.isomorphic is None


def test_a_student_of_new_scenes_is_measured_on_the_other_half(students, tiny):
    first, second = halves(tiny.splits.test)
    answered = [item.id for item in students["new scenes"].items]
    count = len(second.dataset.queries)
    assert set(answered[:count]) == {query.id for query in second.dataset.queries}
    assert set(answered[count:]) == {query.id for query in first.dataset.queries}


def test_a_student_s_folder_is_all_that_grounding_needs(students, tiny):
    folder = students["EMTM"].run.folder
    loaded = load_student(folder)
    for name, weight in students["EMTM"].method.student.state_dict().items():
        assert torch.equal(weight, loaded.network.state_dict()[name])
    card = (folder / "README.md").read_text()
    assert "tabletop" in card
    assert "R1@0.5" in card
    assert latest_student(tiny.runs_dir).name.startswith("emtm-student")


def test_other_labels_make_other_runs_and_the_same_ones_are_found_again(students, tiny):
    spec = {"student from KAU": FEW["student from KAU"]}
    label = tiny.study.label(KAU)
    again = emtm.train_students(tiny.splits, spec, {KAU: label}, **tiny.settings)
    assert again["student from KAU"].run.folder == students["student from KAU"].run.folder
    uniform = tiny.study.label(UNIFORM)
    other = emtm.train_students(tiny.splits, spec, {KAU: uniform}, **tiny.settings)
    assert (other["student from KAU"].run.folder != again["student from KAU"].run.folder) == (
        not torch.allclose(label.start, uniform.start, atol=1e-5)
    )


def test_numbers_of_a_study_are_named_by_source_and_metric(students, tiny):
    found = emtm.study_metrics(tiny.study, students)
    assert {"span R1@0.5", f"{CONSTANT} R1@0.5", "EMTM mIoU", "student alone R1@0.7"} <= set(found)
    steps = emtm.gain_steps([], students)
    assert list(steps) == list(STEPS)
    committed = [{"metrics": {f"{name} R1@0.5": 0.1 * seed for name in STEPS.values()}} for seed in range(3)]
    assert emtm.gain_steps(committed, students)["KAU"] == pytest.approx([0, 0.1, 0.2])
    assert CONSTANT in emtm.over_seeds([], tiny.study, students).layout.title.text


def test_a_label_or_a_set_of_students_that_is_none_is_refused(tiny):
    with pytest.raises(ValueError, match="there is no label 'KAU'; there are none"):
        emtm.train_students(tiny.splits, FEW, {}, **tiny.settings)
    with pytest.raises(ValueError, match="expected students few, labels, all, got 'some'"):
        emtm.student_specs("some")
    with pytest.raises(ValueError, match="nothing on unlabelled videos without a label"):
        emtm.StudentSpec(unlabelled=True)
    assert set(FEW) < set(ALL)


def test_ablations_are_asked_for_by_name(tiny):
    specs = emtm.student_specs("few", aggregate="uniform", shared_encoder=False)
    assert specs["EMTM"] == emtm.StudentSpec(label=UNIFORM)
    assert emtm.student_specs("few", distill=False)["EMTM"] == emtm.StudentSpec(shared_encoder=True)
    with pytest.raises(
        ValueError, match="expected aggregate kau, constant, uniform, best_held_out, oracle, got 'mean'"
    ):
        emtm.student_specs("few", aggregate="mean")
    assert list(emtm.choose_teachers("map, span")) == ["map", "span"]
    assert emtm.choose_teachers("all") == emtm.TEACHERS
    with pytest.raises(ValueError, match="there is no teacher 'tree'; there are span, map"):
        emtm.choose_teachers("tree")


def test_a_recipe_is_part_of_a_run(tiny):
    wider = dataclasses.replace(RECIPE, dim=32)
    trained = emtm.train_students(tiny.splits, {"alone": emtm.StudentSpec()}, {}, **(tiny.settings | {"recipe": wider}))
    assert trained["alone"].method.student.config.dim == 32
