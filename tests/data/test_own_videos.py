"""A folder and a CSV become a data set; every bad row is reported, every good one kept."""

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from vkdlab.data import own_videos
from vkdlab.data.check import check
from vkdlab.data.loading import load
from vkdlab.data.manifests import ManifestError
from vkdlab.data.video import write_video

HEADER = "file,start,end,sentence\n"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "made.mp4"
    frames = (np.full((48, 64, 3), 5 * index, np.uint8) for index in range(30))
    write_video(path, frames, fps=10)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path, video):
    def make(text, *, encoding="utf-8", videos=("cup.mp4",)):
        for name in videos:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(video)
        (tmp_path / "moments.csv").write_bytes(text.encode(encoding))
        return tmp_path

    return make


@pytest.fixture
def unreadable_folder():
    """Calls a function on a folder that may not be read and gives the error's text; root gives up its rights first."""

    def call(function):
        with tempfile.TemporaryDirectory() as outer:
            os.chmod(outer, 0o755)
            inner = Path(outer) / "closed"
            inner.mkdir(mode=0)
            reading, writing = os.pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                try:
                    if os.geteuid() == 0:
                        os.setuid(65534)
                    function(inner)
                except OSError as error:
                    os.write(writing, str(error).encode())
                finally:
                    os._exit(0)
            os.close(writing)
            os.waitpid(child, 0)
            with os.fdopen(reading) as pipe:
                return pipe.read()

    return call


def test_a_folder_and_a_csv_become_a_data_set_with_one_call(folder):
    data, bad = own_videos(
        folder(HEADER + "cup.mp4,0:00.5,2,someone lifts a cup\ncup.mp4,0:00:01.250,0:02.5,it is put down\n")
    )
    assert bad == []
    assert [(query.start_s, query.end_s) for query in data.queries] == [(0.5, 2.0), (1.25, 2.5)]
    assert data.videos["cup.mp4"].duration_s == pytest.approx(3.0)
    assert data.queries[0].sentence == "someone lifts a cup"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("bowl.mp4,0,1,a", "the file bowl.mp4 is missing in /"),
        ("/gone/bowl.mp4,0,1,a", "the file /gone/bowl.mp4 is missing"),
        ("broken.mp4,0,1,a", "broken.mp4"),
        ("cup.mp4,soon,1,a", "start 'soon' is no time: expected seconds"),
        ("cup.mp4,0,,a", "end '' is no time"),
        ("cup.mp4,0,1:75,a", "end '1:75' is no time"),
        ("cup.mp4,2,1,a", "ends at 1 s, not after its start at 2 s"),
        ("cup.mp4,1,1,a", "not after its start"),
        ("cup.mp4,-1,1,a", "before the video"),
        ("cup.mp4,1,9,a", "1 to 9 s lies beyond the video, which is 3 s long"),
        ("cup.mp4,0,1,", "the sentence is empty"),
        (",0,1,a", "the file name is empty"),
        ("cup.mp4", "is no time"),
    ],
)
def test_a_bad_row_is_reported_by_number_and_the_good_ones_stay(folder, row, reason):
    path = folder(HEADER + f"cup.mp4,0,1,first\n{row}\ncup.mp4,1,2,last\n")
    (path / "broken.mp4").write_bytes(b"no video at all")
    data, bad = own_videos(path)
    assert [query.sentence for query in data.queries] == ["first", "last"]
    assert [each.row for each in bad] == [3]
    assert reason in bad[0].reason
    assert str(data.problems[0]).startswith("moments.csv, row 3: ")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_what_spreadsheets_write_is_read(folder, encoding, separator):
    rows = [["sentence", "END", " File ", "start", "note"], ["jemand öffnet die Tür", "2", "cup.mp4", "1", "x"]]
    data, bad = own_videos(folder("\r\n".join(separator.join(row) for row in rows), encoding=encoding))
    assert bad == []
    assert data.queries[0].sentence == "jemand öffnet die Tür"


def test_decimal_commas_are_read_where_semicolons_separate(folder):
    data, _ = own_videos(folder("file;start;end;sentence\ncup.mp4;0,5;1,5;a\n"))
    assert (data.queries[0].start_s, data.queries[0].end_s) == (0.5, 1.5)


def test_quoted_sentences_keep_their_commas_and_empty_lines_are_passed_over(folder):
    data, bad = own_videos(folder(HEADER + '\ncup.mp4,0,1,"first, second"\n\n'))
    assert data.queries[0].sentence == "first, second"
    assert bad == []


def test_no_good_row_at_all_is_an_error_that_lists_the_rows(folder):
    with pytest.raises(ValueError, match=r"moments.csv has no good row: row 2: .*is missing in"):
        own_videos(folder(HEADER + "bowl.mp4,0,1,a\n"))
    with pytest.raises(ValueError, match="a header and nothing else"):
        own_videos(folder(HEADER))


@pytest.mark.parametrize("text", ["", "cup.mp4,0,1,a\n", "file,start,end\ncup.mp4,0,1\n"])
def test_a_csv_without_the_header_is_an_error_that_tells_the_columns(folder, text):
    with pytest.raises(ValueError, match="row 1: expected a header with the columns file, start, end, sentence"):
        own_videos(folder(text))


def test_a_csv_that_is_no_text_is_an_error(folder):
    path = folder(HEADER)
    (path / "moments.csv").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="is no text: save it as CSV in UTF-8"):
        own_videos(path)


def test_a_missing_folder_or_csv_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        own_videos(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"there is no .*moments.csv: write one with the columns"):
        own_videos(tmp_path)


def test_a_folder_that_may_not_be_read_is_named_with_the_cure(unreadable_folder):
    assert "may not be read by you: change its permissions" in unreadable_folder(own_videos)
    assert "may not be read by you: change its permissions" in unreadable_folder(
        lambda path: load("tacos", "test", root=path)
    )


def test_a_split_column_is_followed(folder):
    text = "file,start,end,sentence,split\na.mp4,0,1,x,train\nb.mp4,0,1,y,test\na.mp4,1,2,z,train\n"
    path = folder(text, videos=("a.mp4", "b.mp4"))
    assert set(own_videos(path, split="train")[0].videos) == {"a.mp4"}
    assert set(own_videos(path, split="test")[0].videos) == {"b.mp4"}
    assert set(own_videos(path)[0].videos) == {"a.mp4", "b.mp4"}
    with pytest.raises(ValueError, match="no video in split 'val': write it into the column split"):
        own_videos(path, split="val")


def test_a_video_in_two_splits_is_reported_as_overlap(folder):
    text = "file,start,end,sentence,split\ncup.mp4,0,1,x,train\ncup.mp4,0,1,y,test\ncup.mp4,0,1,z,exam\n"
    data, bad = own_videos(folder(text))
    assert len(data.queries) == 1
    assert [each.row for each in bad] == [3, 4]
    assert "splits overlap" in bad[0].reason
    assert "split 'exam': expected train, val, test" in bad[1].reason


def test_without_a_split_column_videos_are_dealt_out_without_overlap(folder):
    videos = tuple(f"{index}.mp4" for index in range(7))
    path = folder(HEADER + "".join(f"{name},0,1,a\n" for name in videos), videos=videos)
    parts = [set(load(str(path), split).videos) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 7
    assert all(parts)
    assert set(load(str(path), "all").videos) == set(videos)


def test_a_single_video_is_all_there_is_for_training(folder):
    path = folder(HEADER + "cup.mp4,0,1,a\n")
    assert len(load(str(path), "train").queries) == 1
    with pytest.raises(ValueError, match="three videos are needed"):
        load(str(path), "test")


def test_load_takes_the_folder_by_path_and_says_what_a_folder_needs(folder, tmp_path):
    path = folder(HEADER + "sub/cup.mp4,0,1,a\n", videos=("sub/cup.mp4",))
    assert load(path, "all").fingerprint == own_videos(path)[0].fingerprint
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ManifestError, match=r"holds no moments.csv: put one there with the columns"):
        load(str(empty), "all")


def test_checking_the_folder_reports_the_bad_rows(folder):
    path = folder(HEADER + "cup.mp4,0,1,a\ncup.mp4,5,9,b\n")
    report = check(path)
    assert not report.ok
    assert "row 3: the moment 5 to 9 s lies beyond the video" in report.text()
