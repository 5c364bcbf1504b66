"""Manifests are checked field by field, and every shipped one is right."""

import csv
import subprocess
import sys

import pytest
import yaml

from tests.data.toy_manifest import TOY
from vkdlab.data import manifests
from vkdlab.data.field_errors import model_in
from vkdlab.data.loading import load
from vkdlab.data.manifests import DataMissing, Manifest, ManifestError

GOOD = TOY | {
    "splits": {"train": {"files": ["a.txt"]}, "test": {"files": ["b.txt"]}},
}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        values = {key: value for key, value in (GOOD | changes).items() if value is not None}
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return tmp_path

    return write


def test_every_shipped_manifest_is_valid_and_its_checksums_exist():
    assert len(manifests.names()) >= 20
    for name in manifests.names():
        manifest = manifests.get(name)
        assert all(len(digest) == 64 for _, digest in manifests.checksums(manifest).values())


def test_every_field_tells_what_it_means():
    models = [Manifest]
    while models:
        for name, field in models.pop().model_fields.items():
            assert field.description, name
            inner = model_in(field.annotation)
            if inner:
                models.append(inner)


def test_an_unknown_field_is_named_with_the_one_that_was_meant(write):
    with pytest.raises(ManifestError, match=r"toy.yaml: unknown field 'licnce': did you mean 'licence'"):
        manifests.get("toy", folder=write(licnce="CC0"))


def test_an_unknown_field_within_a_split_is_named_with_its_place(write):
    splits = {"train": {"files": ["a.txt"], "vidoes": 3}}
    with pytest.raises(ManifestError, match=r"unknown field 'splits.train.vidoes': did you mean 'videos'"):
        manifests.get("toy", folder=write(splits=splits))


def test_a_missing_field_is_named_with_its_meaning(write):
    with pytest.raises(ManifestError, match=r"toy.yaml: field 'licence' is missing: Terms"):
        manifests.get("toy", folder=write(licence=None))


def test_a_wrong_value_is_named_with_what_was_given(write):
    with pytest.raises(ManifestError, match=r"field 'fps': Input should be greater than 0, got -5"):
        manifests.get("toy", folder=write(fps=-5))
    with pytest.raises(ManifestError, match=r"field 'task': Input should be 'grounding'.*got 'cooking'"):
        manifests.get("toy", folder=write(task="cooking"))


def test_splits_that_read_the_same_file_overlap_and_are_refused(write):
    splits = {"train": {"files": ["a.txt"]}, "test": {"files": ["a.txt"]}}
    with pytest.raises(ManifestError, match=r"splits.test and splits.train overlap: both read 'a.txt'"):
        manifests.get("toy", folder=write(splits=splits))


def test_a_path_that_leaves_the_data_root_is_refused(write):
    for path in ("../secret", "/etc", "a\\b"):
        with pytest.raises(ManifestError, match=r"field 'folder': expected a path below the data root"):
            manifests.get("toy", folder=write(folder=path))


def test_held_out_of_a_split_that_is_not_there_is_refused(write):
    splits = GOOD["splits"] | {"val": {"held_out": {"of": "trian", "fraction": 0.1}}}
    with pytest.raises(ManifestError, match=r"splits.val.held_out.of: expected a split that has files, got 'trian'"):
        manifests.get("toy", folder=write(splits=splits))


def test_a_name_that_is_not_the_files_is_refused(write):
    with pytest.raises(ManifestError, match="expected 'toy' as the file is called, got 'other'"):
        manifests.get("toy", folder=write(name="other"))


@pytest.mark.parametrize(
    ("text", "reason"), [("a: [", "not valid YAML"), ("- 1", "expected fields"), ("", "expected fields")]
)
def test_a_file_that_is_no_manifest_is_named(tmp_path, text, reason):
    (tmp_path / "toy.yaml").write_text(text)
    with pytest.raises(ManifestError, match=rf"toy.yaml.*{reason}"):
        manifests.get("toy", folder=tmp_path)


def test_yaml_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "toy.yaml").write_text("name: !!python/object/apply:os.getcwd []")
    with pytest.raises(ManifestError, match="not valid YAML"):
        manifests.get("toy", folder=tmp_path)


def test_a_checksum_that_is_none_is_named(write):
    folder = write(checksums="sums.csv")
    manifest = manifests.get("toy", folder=folder)
    with pytest.raises(ManifestError, match="there is no file"):
        manifests.checksums(manifest, folder=folder)
    with open(folder / "sums.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "bytes", "sha256"], ["a.txt", "3", "abc"]])
    with pytest.raises(ManifestError, match=r"sha256 of 64 digits for 'a.txt'"):
        manifests.checksums(manifest, folder=folder)


def test_an_unknown_name_gets_the_closest_ones_suggested():
    with pytest.raises(ManifestError, match=r"no data set is named 'charades'. Did you mean charades-sta"):
        load("charades", "train")
    with pytest.raises(ManifestError, match=r"no data set is named 'zzzz'. Known: actionsense"):
        load("zzzz", "train")


def test_a_missing_data_root_is_told_with_both_ways_to_give_it(monkeypatch):
    monkeypatch.delenv("VKDLAB_DATA", raising=False)
    with pytest.raises(DataMissing, match=r"VKDLAB_DATA.*--data-root"):
        load("charades-sta", "train")


def test_a_data_root_that_is_no_folder_is_named(tmp_path):
    with pytest.raises(DataMissing, match="no_such is no folder: correct VKDLAB_DATA or --data-root"):
        load("charades-sta", "train", root=tmp_path / "no_such")


def test_a_data_root_without_the_set_says_where_a_person_gets_it(tmp_path):
    with pytest.raises(
        DataMissing, match=r"there is no folder .*charades_sta. Get it: .*vkdlab data show charades-sta"
    ):
        load("charades-sta", "train", root=tmp_path)


def test_an_unknown_split_or_profile_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="gmdcsa24 has no split 'train'; it has test"):
        load("gmdcsa24", "train", root=tmp_path)
    with pytest.raises(ValueError, match="expected profile smoke, demo, full, got 'tiny'"):
        load("gmdcsa24", "test", root=tmp_path, profile="tiny")


def test_a_set_that_is_only_named_says_so(tmp_path):
    with pytest.raises(DataMissing, match="only names UCF101 and has no reader for it yet"):
        load("ucf101", "train", root=tmp_path)


def test_reading_labels_imports_no_notebook_browser_network_or_picture_library():
    heavy = "fiftyone", "ray", "IPython", "jupyterlab", "transformers", "torch", "pandas", "cv2"
    code = f"import sys, vkdlab.data; from vkdlab.data import load; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
