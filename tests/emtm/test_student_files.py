import json
import os

import pytest
import torch

from tests.emtm.students import METRICS, RECIPE, network, saved, world
from vkdlab.data.sentences import sentence_features
from vkdlab.emtm.student_files import latest_student, load_student, save_student
from vkdlab.files import read_json, write_json
from vkdlab.runs import Run


@pytest.fixture(scope="module")
def splits():
    return world()


@pytest.fixture
def folder(splits, tmp_path):
    saved(tmp_path / "run", splits.train)
    return tmp_path / "run"


def test_a_saved_student_is_loaded_with_all_it_needs(splits, tmp_path):
    columns = splits.train.columns["dis-flow"]
    made = saved(tmp_path, splits.train, columns=columns)
    student = load_student(tmp_path)
    assert not student.network.training
    assert student.network.config == made.config
    for name, value in made.state_dict().items():
        assert torch.equal(value, student.network.state_dict()[name]), name
    assert torch.equal(student.standardisation.mean, splits.train.standardisation.mean)
    assert torch.equal(student.standardisation.std, splits.train.standardisation.std)
    assert student.features == splits.train.manifests
    assert (student.seen, student.stride_s, student.max_clips) == (columns, 0.5, splits.train.max_clips)
    assert student.data == "tabletop smoke"


def test_saving_leaves_the_network_as_it_is_and_replaces_an_older_student(splits, folder):
    made = network(splits.train).train()
    save_student(folder, made, dataset=splits.train, metrics=METRICS, recipe=RECIPE)
    assert made.training
    assert all(weight.requires_grad for weight in made.parameters())
    assert torch.equal(load_student(folder).network.branch.match_head.weight, made.branch.match_head.weight)


def test_words_of_a_query_are_those_of_the_training(splits, folder, tmp_path):
    student, sentence = load_student(folder), splits.train.dataset.queries[0].sentence
    expected = sentence_features([sentence], folder=tmp_path, progress=False).tokens(sentence)
    assert torch.equal(student.words(sentence), expected)


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_is_refused(folder, query):
    with pytest.raises(ValueError, match="the query is empty: say what to look for"):
        load_student(folder).words(query)


def test_a_query_without_anything_readable_is_refused(folder):
    with pytest.raises(ValueError, match="has no word that the encoder could read"):
        load_student(folder).words("\u200b\u200b")


def test_the_card_tells_data_features_seed_metrics_cost_licences_and_limits(splits, folder):
    card = (folder / "README.md").read_text()
    queries, videos = len(splits.train.dataset.queries), len(splits.train.videos)
    for expected in (
        "# EMTM student, trained on tabletop",
        f"train: {queries} queries over {videos} videos",
        "| efficientnet-lite0 | 1280 numbers every 0.5 s",
        "| dis-flow | 320 numbers every 0.5 s",
        "| seed | 3 |",
        "On the test split of tabletop, in per cent. One seed (3)",
        "| R1@0.5 | 25.0 |",
        "million |",
        "ms (median;",
        "| tabletop (data) | Apache-2.0, as vkdlab |",
        "EfficientNet-Lite0 weights: Apache-2.0",
        "It always names a moment",
    ):
        assert expected in card, expected


def test_the_card_names_only_features_that_the_student_sees(splits, tmp_path):
    saved(tmp_path, splits.train, columns=splits.train.columns["dis-flow"])
    card = (tmp_path / "README.md").read_text()
    assert "| dis-flow |" in card
    assert "efficientnet" not in card


def test_columns_that_are_not_the_networks_are_refused(splits, tmp_path):
    made = network(splits.train)
    for columns in ((0, 320), (1280, 2000), (5, 5)):
        with pytest.raises(ValueError, match=r"of 1600 features were given for a network that takes 1600"):
            save_student(tmp_path, made, dataset=splits.train, columns=columns, metrics=METRICS, recipe=RECIPE)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s | {"version": 2}, "student.json is of version 2, this vkdlab reads version 1"),
        (lambda s: s | {"network": s["network"] | {"layers": 3}}, "is not as this vkdlab writes it"),
        (lambda s: {name: value for name, value in s.items() if name != "features"}, "is not as this .*KeyError"),
        (lambda s: s | {"network": s["network"] | {"dim": 16}}, "does not fit SpanNetwork"),
    ],
)
def test_settings_that_are_not_ours_are_refused(folder, spoil, message):
    path = folder / "student.json"
    write_json(path, spoil(read_json(path)))
    with pytest.raises(ValueError, match=message):
        load_student(folder)


def test_a_fingerprint_is_written_beside_every_part_of_the_features(splits, folder):
    written = json.loads((folder / "student.json").read_text())["features"]
    assert [part["fingerprint"] for part in written] == [manifest.fingerprint for manifest in splits.train.manifests]


def test_the_newest_student_whose_training_ended_is_found(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no trained student that finds .* Train one: vkdlab run 03_kau_weights"
    ):
        latest_student(tmp_path)
    runs = {}
    for age, (name, status) in enumerate(
        [("emtm-student-open", "training"), ("emtm-student-new", "done"), ("emtm-student-old", "done")]
    ):
        run = runs[name] = Run.open(name, {}, data="", runs_dir=tmp_path)
        run.note(status=status)
        write_json(run.folder / "student.json", {})
        os.utime(run.folder / "student.json", (1e9 - age, 1e9 - age))
    Run.open("emtm-student-bare", {}, data="", runs_dir=tmp_path).note(status="done")
    other = Run.open("span-teacher", {}, data="", runs_dir=tmp_path)
    other.note(status="done")
    write_json(other.folder / "student.json", {})
    assert latest_student(tmp_path) == runs["emtm-student-new"].folder
