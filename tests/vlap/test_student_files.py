import os
import shutil

import pytest
import torch

from tests.vlap.small_backbone import SmallBackbone
from vkdlab.data.encoders import SENTENCE_DIM
from vkdlab.files import read_json, write_json
from vkdlab.runs import Run
from vkdlab.vlap.distill import Student
from vkdlab.vlap.mentions import Mentions
from vkdlab.vlap.networks import CompactBackbone, CompactConfig, FrameEncoder
from vkdlab.vlap.prompter import FramePrompter, ReleasedPrompter
from vkdlab.vlap.student_files import SavedStudent, latest_student, load_student, save_student
from vkdlab.vlap.study import train_study
from vkdlab.vlap.workshop import OURS

DIM, NAMED = 12, 4
ASKED = SENTENCE_DIM + NAMED * DIM
"""Numbers of a question: its sentence, two things, and two that are always looked up."""
SIZES = {"frames": 8, "thumbnail": (32, 24)}
ABOUT = {"metrics": {"accuracy": 0.625}, "recipe": {"student": "prompter", "seed": 3, "epochs": 2}}


def smoke_study(tmp_path_factory):
    """The smallest study, trained once in a test session, and its runs."""
    runs_dir = tmp_path_factory.getbasetemp() / "vlap-runs"
    return train_study(profile="smoke", students=[OURS], runs_dir=runs_dir, workers=1, progress=False), runs_dir


def untrained(prompter, *, mentions=None, always=2, **sizes):
    """A student with random weights, and an encoder that glances."""
    torch.manual_seed(7)
    config = CompactConfig(grid=(6, 5), hidden=16, heads=2, **{"score_layers": 1} | sizes)
    mentions = Mentions(DIM) if mentions is None else mentions
    backbone = CompactBackbone(FrameEncoder(4, dim=DIM), mentions, always=torch.randn(always, DIM), config=config)
    return Student(backbone, prompter, select=2), FrameEncoder(3, dim=DIM)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    return smoke_study(tmp_path_factory)


@pytest.fixture
def folder(trained, tmp_path):
    """A folder with a student, to be damaged."""
    shutil.copytree(latest_student(trained[1]), tmp_path / "student")
    return tmp_path / "student"


def same(first, second):
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_study_keeps_its_student_and_the_newest_one_is_found(trained):
    study, runs_dir = trained
    folder = latest_student(runs_dir)
    assert folder.name.startswith("vlap-prompter-")
    student = load_student(folder)
    assert same(student.student, study.students[OURS].student)
    assert same(student.glance, study.glance.encoder)
    recipe = study.recipe
    assert (student.frames, student.select) == (recipe.frames, recipe.method.select) == (8, 2)
    assert (student.size, student.thumbnail) == (recipe.size, recipe.thumbnail)
    assert student.student.backbone.config == recipe.compact
    assert (student.data, student.folder) == ("tabletop smoke", folder)
    assert student.knows_built_in_world_only
    for part in (student.student, student.glance):
        assert not any(module.training for module in part.modules())
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_a_student_that_is_there_is_not_written_again_and_a_missing_one_is(trained):
    study, runs_dir = trained
    path = latest_student(runs_dir) / "student.json"
    before = path.stat().st_mtime_ns
    again = {"profile": "smoke", "students": [OURS], "runs_dir": runs_dir, "progress": False}
    train_study(**again)
    assert path.stat().st_mtime_ns == before
    path.unlink()
    train_study(**again)
    assert same(load_student(path.parent).student, study.students[OURS].student)


@pytest.mark.parametrize(
    "prompter",
    [
        FramePrompter(DIM, question_dim=ASKED, named=NAMED, grid=(4, 3), hidden=12, heads=3, reach=1),
        FramePrompter(DIM, question_dim=ASKED, hidden=8, heads=2, reach=0, question_aware=False),
        ReleasedPrompter(4 * 3, frames=8, select=2),
        ReleasedPrompter(4 * 3, frames=8, select=2, noisy=False),
    ],
    ids=["question-aware", "blind", "as released", "as released, without noise"],
)
def test_every_prompter_is_loaded_as_it_was(trained, tmp_path, prompter):
    mentions = Mentions(DIM, things=3, hidden=10)
    student, glance = untrained(prompter, mentions=mentions, always=1, score_layers=2, dropout=0.0)
    student.train()
    save_student(tmp_path, student, glance, **SIZES, dataset=trained[0].splits.train, **ABOUT)
    assert student.training
    assert all(parameter.requires_grad for parameter in prompter.parameters())
    found = load_student(tmp_path)
    assert same(found.student, student)
    assert same(found.glance, glance)
    assert type(found.student.prompter) is type(prompter)
    assert found.student.prompter.question_aware == prompter.question_aware
    assert getattr(found.student.prompter, "noisy", None) == getattr(prompter, "noisy", None)
    glances, question = torch.randn(1, 8, 12, DIM), torch.randn(1, ASKED)
    answers = []
    for each in (prompter.eval(), found.student.prompter):
        torch.manual_seed(1)
        answers.append(each(glances, question, select=2))
    assert torch.equal(answers[0].indices, answers[1].indices)
    assert torch.equal(answers[0].scores, answers[1].scores)


def test_the_card_tells_data_sizes_seed_metric_cost_and_limits(trained, tmp_path):
    train = trained[0].splits.train
    student, glance = untrained(FramePrompter(DIM, question_dim=ASKED))
    save_student(tmp_path, student, glance, **SIZES, dataset=train, **ABOUT)
    card = (tmp_path / "README.md").read_text()
    for expected in (
        "# VLAP student (prompter), trained on tabletop",
        "It glances at 8 frames, chooses 2 by the question",
        "vkdlab ask VIDEO",
        "| data set | tabletop, profile smoke |",
        f"train: {len(train)} questions about {len({row.video for row in train.questions})} videos",
        "48x40 where frames are read, 32x24 where they are glanced at",
        "| seed | 3 |",
        "On the test split of tabletop, in per cent. One seed (3)",
        "| accuracy | 62.5 |",
        "| parameters of the prompter | 0.108 million |",
        "| multiply-accumulates of glancing at 8 frames and choosing 2 | ",
        "| tabletop (data) | Apache-2.0, as vkdlab |",
        "It always takes one of the options",
    ):
        assert expected in card, expected


def test_the_card_of_a_study_names_what_its_accuracy_is_of(trained):
    study, runs_dir = trained
    card = (latest_student(runs_dir) / "README.md").read_text()
    assert "On the validation split of tabletop, which chose the best epoch" in card
    batch = study.splits.val.collate([study.splits.val[i] for i in range(len(study.splits.val))])
    assert f"| accuracy | {100 * study.students[OURS].evaluate(batch)['accuracy'].value:.1f} |" in card


@pytest.mark.parametrize(
    ("prompter", "changes", "message"),
    [
        (FramePrompter(11, question_dim=ASKED), {}, "prompter was made for dim=11 where it is given 12$"),
        (FramePrompter(DIM, question_dim=SENTENCE_DIM), {}, "made for question_dim=384 where it is given 432$"),
        (FramePrompter(DIM, question_dim=ASKED, named=3), {}, "made for named=3 where it is given 4$"),
        (
            FramePrompter(DIM, question_dim=ASKED, named=NAMED, grid=(3, 4)),
            {},
            r"made for grid=\(3, 4\) where it is given \(4, 3\)$",
        ),
        (
            FramePrompter(11, question_dim=SENTENCE_DIM, grid=(4, 3)),
            {"thumbnail": (48, 24)},
            r"dim=11 where it is given 12, question_dim=384 where .* 432, grid=\(4, 3\) where it is given \(6, 3\)$",
        ),
        (ReleasedPrompter(12, frames=4, select=2), {}, "made for frames=4 where it is given 8$"),
        (ReleasedPrompter(6, frames=8, select=2), {}, "made for tokens=6 where it is given 12$"),
        (FramePrompter(DIM, question_dim=ASKED), {"frames": 1}, "reads 1 frame to all that it looks at, got 2"),
        (FramePrompter(DIM, question_dim=ASKED), {"thumbnail": (30, 24)}, "multiples of 8, got 30 and 24"),
        (FramePrompter(DIM, question_dim=ASKED), {"metrics": {}}, "needs a seed and a metric"),
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_written(trained, tmp_path, prompter, changes, message):
    student, glance = untrained(prompter)
    with pytest.raises(ValueError, match=message):
        save_student(tmp_path, student, glance, **SIZES | {"dataset": trained[0].splits.train} | ABOUT | changes)
    assert not any(tmp_path.iterdir())


def test_a_backbone_of_another_kind_is_refused(trained, tmp_path):
    student = Student(SmallBackbone(), FramePrompter(5, question_dim=3), select=2)
    with pytest.raises(ValueError, match="kept with its CompactBackbone, not with a SmallBackbone"):
        save_student(tmp_path, student, FrameEncoder(3, dim=DIM), **SIZES, dataset=trained[0].splits.train, **ABOUT)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "is of version 1, this vkdlab reads version 2"),
        ({"method": "delta"}, "of another method, no student that answers questions"),
        ({"backbone": "resnet"}, "not as this vkdlab writes it"),
        ({"prompter": {"kind": "unknown"}}, "not as this vkdlab writes it"),
        ({"prompter": {"kind": "as released", "tokens": 12, "frames": 9, "select": 3}}, "not as this vkdlab writes it"),
        ({"thumbnail": 7}, "not as this vkdlab writes it"),
        ({"select": 0}, "reads 1 frame to all that it looks at, got 0 of 8"),
        ({"glance": {"width": 5, "dim": 16}}, "does not fit"),
    ],
)
def test_settings_that_are_not_ours_are_refused(folder, change, message):
    path = folder / "student.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(ValueError, match=message):
        load_student(folder)


def test_loading_leaves_the_random_numbers_as_they_were(folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert isinstance(load_student(folder), SavedStudent)
    assert torch.equal(torch.rand(3), expected)


def test_the_latest_student_is_of_the_run_that_ended_last(folder, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no trained student that answers questions in .*Train one: vkdlab run 05"
    ):
        latest_student(tmp_path / "runs")
    for place, (name, status) in enumerate(
        [("vlap-prompter-1", "done"), ("vlap-b-2", "done"), ("vlap-c-3", "training"), ("delta-a-1", "done")]
    ):
        run = tmp_path / "runs" / name
        shutil.copytree(folder, run)
        Run(run).note(status=status)
        os.utime(run / "student.json", (1e9 + place, 1e9 + place))
    assert latest_student(tmp_path / "runs") == tmp_path / "runs" / "vlap-b-2"
