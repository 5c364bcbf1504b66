"""The page over the benchmarks."""

from tests.benchmarks.records import FOLDER, PAGE, Figure, page, record
from vkdlab.files import read_json


def test_the_page_of_benchmarks_in_git_says_what_the_records_say():
    assert (FOLDER / PAGE).read_text() == page()


def test_a_record_is_written_with_its_machine_and_shown_with_those_there_are(tmp_path):
    record("fast", what="one thing", figures=[Figure("waiting", 0.04567, 0.3, "s")], folder=tmp_path, rounds=9)
    record(
        "slow",
        what="another",
        figures=[Figure("ratio", 1.2, 1.1, "x"), Figure("all", 250.4, 360, "s")],
        folder=tmp_path,
    )
    found = read_json(tmp_path / "fast.json")
    assert found["figures"] == [{"name": "waiting", "value": 0.04567, "limit": 0.3, "unit": "s"}]
    assert found["rounds"] == 9
    shown = (tmp_path / PAGE).read_text()
    for row in (
        "| [fast](fast.json) | waiting | 0.0457 s | 0.3 s | yes |",
        "| [slow](slow.json) | ratio | 1.2 x | 1.1 x | **no** |",
        "| [slow](slow.json) | all | 250 s | 360 s | yes |",
        f"- **slow**: another. {found['machine']['date']}, {found['machine']['kind']}, python ",
    ):
        assert row in shown
