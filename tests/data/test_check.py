"""`check` finds what is missing, damaged, out of range or in two splits, and passes what is whole."""

import csv
import gzip
import hashlib
import json
from dataclasses import replace

import pytest
import yaml

from tests.data.toy_manifest import TOY
from vkdlab.data import catalogue, manifests, tabletop
from vkdlab.data.check import check
from vkdlab.data.manifests import DataMissing, ManifestError

LINES = ["AAAAA 1.0 2.5##a person waves.", "BBBBB 3.0 9.0##a person sits."]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A small set in the form of Charades-STA with its own manifest; returns a function that changes and checks it."""
    shelf, root = tmp_path / "manifests", tmp_path / "root"
    (root / "toy").mkdir(parents=True)
    shelf.mkdir()
    texts = {
        "charades.json": json.dumps(
            {"AAAAA": {"duration": 10.0}, "BBBBB": {"duration": 10.0}, "CCCCC": {"duration": 10.0}}
        ),
        "a.txt": "\n".join(LINES),
        "b.txt": "CCCCC 1.0 2.0##a person runs.",
    }

    def run(*, change=lambda folder: None, listed=None, **fields):
        for name, text in texts.items():
            (root / "toy" / name).write_text(text)
        rows = [
            (name, len(text), hashlib.sha256(text.encode()).hexdigest()) for name, text in (listed or texts).items()
        ]
        with open(shelf / "sums.csv", "w", newline="") as file:
            csv.writer(file).writerows([["path", "bytes", "sha256"], *rows])
        values = TOY | {
            "checksums": "sums.csv",
            "splits": {
                "train": {"files": ["a.txt"], "videos": 2, "queries": 2},
                "test": {"files": ["b.txt"], "videos": 1},
            },
            "published_rows": {"a.txt": 2},
        }
        (shelf / "toy.yaml").write_text(yaml.safe_dump(values | fields, sort_keys=False))
        monkeypatch.setattr(manifests, "folder_of_manifests", lambda: shelf)
        change(root / "toy")
        return check("toy", root=root, progress=False)

    return run


def _rewrite(name, text):
    return lambda folder: (folder / name).write_text(text)


def test_a_whole_set_passes(toy):
    report = toy()
    assert report.ok
    assert report.present == 3
    assert report.text() == "toy: complete, 3 files present"


def test_a_gzipped_file_is_held_against_the_hash_of_its_content(toy):
    def zip_it(folder):
        with gzip.open(folder / "a.txt.gz", "wb") as file:
            file.write((folder / "a.txt").read_bytes())
        (folder / "a.txt").unlink()

    assert toy(change=zip_it).ok


def test_a_missing_file_is_named_with_where_to_get_it(toy):
    report = toy(change=lambda folder: (folder / "b.txt").unlink())
    assert report.missing == ("b.txt",)
    assert not report.ok
    assert "ask the authors." in report.text()


def test_a_wrong_hash_is_damage_and_both_sides_are_told(toy):
    report = toy(change=_rewrite("b.txt", "CCCCC 1.0 2.0##a person runs!"))
    (line,) = report.damaged
    assert line.startswith("b.txt: expected 29 bytes with sha256 ")
    assert "found 29 with" in line
    assert "to mend: put these files below" in report.text()
    assert "not of the version that the manifest describes (1). Get it: ask the authors." in report.text()


def test_an_empty_file_is_damage(toy):
    assert "b.txt: the file is empty" in toy(change=_rewrite("b.txt", "")).damaged


def test_a_truncated_gzip_is_damage(toy):
    def cut(folder):
        packed = gzip.compress((folder / "charades.json").read_bytes())
        (folder / "charades.json.gz").write_bytes(packed[:-12])
        (folder / "charades.json").unlink()

    assert any("charades.json" in line for line in toy(change=cut).damaged)


def test_a_moment_outside_its_video_is_out_of_range_by_file_and_row(toy):
    text = "CCCCC 1.0 2.0##good.\nCCCCC 5.0 50.0##beyond.\nCCCCC 4.0 3.0##reversed."
    report = toy(change=_rewrite("b.txt", text))
    assert [line[:13] for line in report.out_of_range] == ["b.txt, row 2:", "b.txt, row 3:"]
    assert not report.ok


def test_rows_that_the_manifest_knows_of_are_a_note(toy):
    text = "CCCCC 1.0 2.0##good.\nCCCCC 4.0 3.0##reversed."
    report = toy(change=_rewrite("b.txt", text), listed={"b.txt": text}, known_problems={"b.txt": 1})
    assert report.ok
    assert "b.txt: 1 rows with a fault, as published" in report.text()


def test_splits_that_share_a_video_overlap(toy):
    text = "AAAAA 1.0 2.0##a person runs."
    report = toy(change=_rewrite("b.txt", text), listed={"b.txt": text})
    assert report.overlapping == ("train and test share 1 videos, such as AAAAA",)
    shared = [{"splits": ["train", "test"], "videos": 1, "reason": "by design"}]
    assert toy(change=_rewrite("b.txt", text), listed={"b.txt": text}, shared_videos=shared).ok


def test_counts_that_differ_from_the_manifest_are_told(toy):
    splits = {"train": {"files": ["a.txt"], "videos": 3}, "test": {"files": ["b.txt"]}}
    report = toy(splits=splits, published_rows={"a.txt": 9})
    assert report.counts == ("split train: expected 3 videos, found 2", "a.txt: expected 9 rows as published, found 2")


def test_videos_that_a_person_may_add_are_a_note_when_absent_and_damage_when_broken(toy):
    report = toy(videos={"folder": "videos"})
    assert report.ok
    assert "3 of 3 videos are not there, such as AAAAA, BBBBB, CCCCC" in report.text()

    def broken(folder):
        (folder / "videos").mkdir()
        (folder / "videos" / "AAAAA.mp4").write_bytes(b"no video at all")

    (line,) = toy(videos={"folder": "videos"}, change=broken).damaged
    assert line.startswith("AAAAA.mp4: it cannot be decoded")


def test_a_long_list_of_findings_is_shortened_in_the_text(toy):
    text = "\n".join("CCCCC 4.0 3.0##reversed." for _ in range(25))
    assert "... and 15 more" in toy(change=_rewrite("b.txt", text)).text()


def test_a_set_that_is_not_there_is_missing_as_a_whole(tmp_path):
    report = check("tvqa", root=tmp_path)
    assert not report.ok
    assert "the whole folder. Get it:" in report.missing[0]


def test_an_unknown_set_and_a_missing_root_are_errors(monkeypatch):
    monkeypatch.delenv("VKDLAB_DATA", raising=False)
    with pytest.raises(ManifestError, match="Did you mean tacos"):
        check("tacoss")
    with pytest.raises(DataMissing, match="set VKDLAB_DATA"):
        check("tacos")


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "actionsense",
        "activitynet-captions",
        "arid6",
        "arid6-random",
        "camvid",
        "charades-sta",
        "davis20",
        "epic-kitchens-100",
        "gmdcsa24",
        "qvhighlights",
        "tacos",
        "tvsum",
        "youtube-highlights",
    ],
)
def test_the_real_sets_are_whole(name, data_root):
    report = check(name, root=data_root, profile="smoke", progress=False)
    assert report.ok, report.text()


@pytest.mark.data
def test_what_is_not_there_of_a_real_set_is_reported(data_root):
    report = check("nextqa", root=data_root, progress=False)
    assert report.missing == ("train.csv",)


def test_checking_a_set_that_vkdlab_makes_builds_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path))
    report = check("tabletop", profile="smoke")
    assert report.ok
    assert "0 of 16 videos of profile smoke are built" in report.text()
    assert list(tmp_path.iterdir()) == []


def test_a_broken_video_of_a_set_that_vkdlab_makes_is_damage(tmp_path, monkeypatch):
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path))
    folder = tabletop.world_folder(tabletop.config_of("smoke")) / "videos"
    folder.mkdir(parents=True)
    (folder / "smoke-train-0000.mp4").touch()
    (line,) = check("tabletop", profile="smoke").damaged
    assert "the file is empty. Delete it and build again" in line


@pytest.fixture
def tiny_world(tmp_path, monkeypatch):
    """A finished world of two videos that is taken for the smoke profile; gives its folder."""
    config = replace(tabletop.config_of("smoke"), videos={"train": 2, "val": 0, "test": 0})
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(tabletop, "config_of", lambda profile: config)
    return tabletop.build(config, workers=1, progress=False)


def test_labels_of_the_world_that_cannot_be_read_are_damage(tiny_world):
    assert check("tabletop", profile="smoke").ok
    path = tiny_world / "labels" / "smoke-train-0001.npz"
    path.write_bytes(path.read_bytes()[:-2000])
    (line,) = check("tabletop", profile="smoke").damaged
    assert line.startswith("labels of smoke-train-0001 in ")
    assert line.endswith("Delete both files and build again")
    (tiny_world / "labels" / "smoke-train-0000.json").unlink()
    assert "FileNotFoundError" in check("tabletop", profile="smoke").damaged[0]


def test_labels_of_the_world_that_were_changed_are_damage(tiny_world):
    path = tiny_world / "labels" / "smoke-train-0001.json"
    path.write_text(path.read_text().replace('"start_s"', '"start_s" ').replace('"verb"', '"kind of verb"'))
    (line,) = check("tabletop", profile="smoke").damaged
    assert "they were changed after the build. Delete the folder and build again" in line


def test_the_list_of_sets_tells_what_is_there(tmp_path, monkeypatch):
    monkeypatch.delenv("VKDLAB_DATA", raising=False)
    states = {row["name"]: row["state"] for row in catalogue.list_sets()}
    assert states["charades-sta"] == "no data root"
    (tmp_path / "gmdcsa24").mkdir()
    states = {row["name"]: row["state"] for row in catalogue.list_sets(root=tmp_path)}
    assert (states["gmdcsa24"], states["tacos"], states["ucf101"]) == ("there", "not there", "named only")


def test_showing_a_set_tells_licence_layout_counts_and_traps():
    text = catalogue.show("charades-sta")
    for part in ("licence", "charades_sta_train.txt", "12,408", "1,334 videos, 3,720 queries", "traps"):
        assert part in text


def test_building_what_is_not_built_here_says_where_it_comes_from():
    with pytest.raises(ValueError, match=r"tacos is not built by vkdlab; .*arid6.* are. Get it:"):
        catalogue.build("tacos")
