"""Multiple-choice questions come out as they are published; what nobody can be judged by is named and left out."""

import csv
import gzip
import io
import json
import math
from collections import Counter

import pytest

from vkdlab.data import manifests
from vkdlab.data.check import check
from vkdlab.data.loading import load
from vkdlab.data.manifests import DataMissing

STAR = {
    "question_id": "Interaction_T1_13",
    "question": "Which object was tidied up by the person?",
    "video_id": "6H78U",
    "start": 11.1,
    "end": 19.6,
    "answer": "The clothes.",
    "choices": [
        {"choice_id": index, "choice": text, "choice_program": []}
        for index, text in enumerate(("The closet/cabinet.", "The blanket.", "The clothes.", "The table."))
    ],
    "situations": {"000349": {}},
}
VLEP = {
    "example_id": 21411,
    "vid_name": "OO9kSxcT9Rg_subs_012_00:13:00_00:14:00_ep",
    "ts": [10.54, 13.55],
    "events": ["The customer eats the food from the tray.", "The customer takes the tray of food."],
    "answer": 1,
    "split": "dev",
}
TVQA = {
    "a0": "A martini glass",
    "a1": "Nachos",
    "a2": "Her purse",
    "a3": "Marshall's book",
    "a4": "A  beer bottle ",
    "answer_idx": 4,
    "q": "What is Robin holding in her hand when she is talking to Ted about Zoey?",
    "qid": 7,
    "ts": "1.21-8.49",
    "vid_name": "met_s06e22_seg01_clip_02",
    "show_name": "How I Met Your Mother",
}
HOW2QA = ["NOuQuofjk44", "[7.2:18.0]", "10", "12", "16", "how many knives, or forks?", "1"]
NEXTQA = {
    "video": "4010069381",
    "frame_count": "369",
    "question": "how do the two man play the instrument",
    "answer": "0",
    "qid": "6",
    "type": "CH",
    **{f"a{index}": text for index, text in enumerate(("roll", "tap", "strum", "hit", "pat"))},
}


def _csv(rows, header=None):
    text = io.StringIO()
    csv.writer(text).writerows([*([header] if header else []), *rows])
    return text.getvalue()


def _text(name, rows):
    if name == "star":
        return json.dumps(rows)
    if name == "how2qa":
        return _csv(rows)
    if name == "nextqa":
        return _csv([list(row.values()) for row in rows], header=list(NEXTQA))
    return "\n".join(map(json.dumps, rows))


def _how2qa(**changes):
    columns = ("video", "window", "a", "b", "c", "question", "right")
    return list((dict(zip(columns, HOW2QA, strict=True)) | changes).values())


@pytest.fixture
def place(tmp_path):
    """Writes the text of a set's label file where it belongs, and gives the file."""

    def place(name, text, split="val"):
        manifest = manifests.get(name)
        path = tmp_path / manifest.folder / manifest.files(split)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return place


@pytest.fixture
def read(place, tmp_path):
    """Writes rows in a set's own form and loads them."""

    def read(name, *rows, split="val"):
        place(name, _text(name, rows), split)
        return load(name, split, root=tmp_path)

    return read


@pytest.mark.data
@pytest.mark.parametrize(
    ("split", "kinds"),
    [
        ("val", {"CW": 1924, "CH": 683, "TN": 895, "TC": 663, "TP": 54, "DO": 305, "DL": 295, "DC": 177}),
        ("test", {"CW": 3329, "CH": 1173, "TN": 1399, "TC": 1164, "TP": 93, "DO": 600, "DL": 483, "DC": 321}),
    ],
)
def test_the_real_files_of_nextqa_hold_as_many_questions_of_each_kind_as_published(split, kinds, data_root):
    data = load("nextqa", split, root=data_root)
    assert Counter(question.kind for question in data.questions) == kinds
    assert {len(question.options) for question in data.questions} == {5}
    assert {question.evidence_s for question in data.questions} == {None}
    assert all(math.isnan(video.duration_s) for video in data.videos.values())


@pytest.mark.data
def test_the_two_questions_of_nextqa_whose_answer_stands_under_two_options_are_named(data_root):
    problems = load("nextqa", "test", root=data_root).problems
    assert [(problem.row, problem.kept) for problem in problems] == [(4773, False), (6187, False)]
    assert problems[0].reason == "the answer 'happy' stands under more than one option: 3, 4"


def test_star_takes_the_answer_by_its_text_and_the_kind_from_the_id(read):
    data = read("star", STAR, STAR | {"question_id": "Sequence_T6_2", "answer": "The table."})
    first, second = data.questions
    assert (first.id, first.video, first.kind) == ("Interaction_T1_13", "6H78U", "Interaction")
    assert first.options == ("The closet/cabinet.", "The blanket.", "The clothes.", "The table.")
    assert (first.answer, first.evidence_s) == (2, (11.1, 19.6))
    assert (second.answer, second.kind) == (3, "Sequence")
    assert not data.problems


def test_vlep_asks_one_question_of_two_events(read):
    (question,) = read("vlep", VLEP).questions
    assert (question.id, question.video) == ("21411", "OO9kSxcT9Rg_subs_012_00:13:00_00:14:00_ep")
    assert question.question == "What is more likely to happen next?"
    assert question.options == ("The customer eats the food from the tray.", "The customer takes the tray of food.")
    assert (question.answer, question.evidence_s) == (1, (10.54, 13.55))


def test_tvqa_takes_the_window_from_its_text_and_groups_videos_by_series(read):
    data = read("tvqa", TVQA, {key: value for key, value in TVQA.items() if key != "show_name"} | {"qid": 8})
    first = data.questions[0]
    assert (first.id, first.video, first.answer, first.evidence_s) == ("7", "met_s06e22_seg01_clip_02", 4, (1.21, 8.49))
    assert first.options == ("A martini glass", "Nachos", "Her purse", "Marshall's book", "A beer bottle")
    assert read("tvqa", TVQA).videos["met_s06e22_seg01_clip_02"].group == "How I Met Your Mother"


def test_how2qa_keeps_the_right_option_right_wherever_it_is_dealt(read):
    rights = [f"one, or {row}" for row in range(400)]
    questions = read("how2qa", *(_how2qa(right=right) for right in rights)).questions
    assert [question.options[question.answer] for question in questions] == rights
    for question, right in zip(questions, rights, strict=True):
        assert [option for option in question.options if option != right] == ["10", "12", "16"]
    places = Counter(question.answer for question in questions)
    assert sorted(places) == [0, 1, 2, 3]
    assert min(places.values()) > 70
    assert (questions[399].id, questions[399].evidence_s) == ("NOuQuofjk44:400", (7.2, 18.0))


def test_how2qa_deals_by_video_and_row_alone(read):
    places = [question.answer for question in read("how2qa", *[HOW2QA] * 40).questions]
    other = [question.answer for question in read("how2qa", *[_how2qa(right="none", a="x")] * 40).questions]
    assert places == other
    assert places != [question.answer for question in read("how2qa", *[_how2qa(video="other")] * 40).questions]


ONE = {"star": STAR, "vlep": VLEP, "tvqa": TVQA, "how2qa": HOW2QA, "nextqa": NEXTQA}
ID = {"star": "question_id", "vlep": "example_id", "tvqa": "qid", "nextqa": "qid"}


def _choices(*texts):
    return [{"choice_id": index, "choice": text} for index, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("name", "wrong", "row", "reason"),
    [
        ("star", STAR | {"answer": "The dog."}, "bad", "the answer 'The dog.' is none of the 4 options, 0 to 3"),
        ("star", STAR | {"choices": _choices("The clothes.")}, "bad", "expected two options or more, there are 1"),
        ("star", STAR | {"choices": []}, "bad", "expected two options or more, there are 0"),
        (
            "star",
            STAR | {"choices": _choices("The clothes.", "A cup.", "the  clothes.")},
            "bad",
            "the answer 'The clothes.' stands under more than one option: 0, 2",
        ),
        ("star", STAR | {"question": " "}, "bad", "the question is empty"),
        ("vlep", VLEP | {"answer": 2}, 2, "the answer 2 is none of the 2 options, 0 to 1"),
        ("vlep", VLEP | {"answer": -1}, 2, "the answer -1 is none of the 2 options, 0 to 1"),
        ("vlep", VLEP | {"answer": None}, 2, "the answer None is none of the 2 options, 0 to 1"),
        ("vlep", VLEP | {"answer": True}, 2, "the answer True is none of the 2 options, 0 to 1"),
        ("vlep", VLEP | {"answer": 0.5}, 2, "the answer 0.5 is none of the 2 options, 0 to 1"),
        ("vlep", VLEP | {"events": ["He sits."], "answer": 0}, 2, "expected two options or more, there are 1"),
        (
            "vlep",
            VLEP | {"events": ["He sits.", "He sits."]},
            2,
            "the answer 'He sits.' stands under more than one option: 0, 1",
        ),
        ("tvqa", TVQA | {"answer_idx": "5"}, 2, "the answer '5' is none of the 5 options, 0 to 4"),
        ("tvqa", TVQA | {"answer_idx": "a1"}, 2, "the answer 'a1' is none of the 5 options, 0 to 4"),
        ("tvqa", TVQA | {"q": ""}, 2, "the question is empty"),
        ("tvqa", TVQA | {"a3": ""}, 2, "option 3 is empty"),
        ("how2qa", _how2qa(question=""), 2, "the question is empty"),
        ("how2qa", _how2qa(b="1"), 2, "the answer '1' stands under more than one option"),
        ("nextqa", NEXTQA | {"answer": "5"}, 3, "the answer '5' is none of the 5 options, 0 to 4"),
        ("nextqa", NEXTQA | {"answer": ""}, 3, "the answer '' is none of the 5 options, 0 to 4"),
        ("nextqa", NEXTQA | {"answer": "1.0"}, 3, "the answer '1.0' is none of the 5 options, 0 to 4"),
        ("nextqa", NEXTQA | {"question": ""}, 3, "the question is empty"),
        ("nextqa", NEXTQA | {"a0": "Pat"}, 3, "the answer 'Pat' stands under more than one option: 0, 4"),
    ],
)
def test_a_question_that_nobody_can_be_judged_by_is_left_out_and_named(read, name, wrong, row, reason):
    if name in ID:
        wrong = wrong | {ID[name]: "bad"}
    data = read(name, ONE[name], wrong)
    (problem,) = data.problems
    assert (problem.file, problem.row, problem.kept) == (manifests.get(name).files("val")[0], row, False)
    assert problem.reason.startswith(reason)
    assert len(data.questions) == len(read(name, ONE[name]).questions) == 1


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("star", STAR | {"choices": _choices("A cup.", "A cup.", "The clothes.")}),
        ("tvqa", TVQA | {"a0": "Nachos"}),
        ("how2qa", _how2qa(a="12")),
        ("nextqa", NEXTQA | {"a1": "strum"}),
    ],
)
def test_two_wrong_options_of_the_same_words_do_no_harm(read, name, row):
    data = read(name, row)
    assert len(data.questions) == 1
    assert len(set(data.questions[0].options)) == len(data.questions[0].options) - 1
    assert not data.problems


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("tvqa", TVQA | {"ts": "NaN-NaN"}, "the moment nan to nan s is not a pair of finite numbers"),
        ("tvqa", TVQA | {"ts": "19.18-19.18"}, "the moment ends at 19.18 s, not after its start at 19.18 s"),
        ("vlep", VLEP | {"ts": [-3, 5]}, "the moment starts at -3 s, before the video"),
        ("star", STAR | {"start": 20, "end": 11}, "the moment ends at 11 s, not after its start at 20 s"),
        ("how2qa", _how2qa(window="[9:7.5]"), "the moment ends at 7.5 s, not after its start at 9 s"),
    ],
)
def test_a_window_that_is_no_moment_is_named_and_its_question_kept_without_evidence(read, name, row, reason):
    data = read(name, row)
    (problem,) = data.problems
    assert problem.kept
    assert problem.reason == f"{reason}; kept without evidence"
    assert data.questions[0].evidence_s is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tvqa", json.dumps(TVQA) + '\n{"qid": 8', r"tvqa_val.jsonl, row 2: JSONDecodeError: Expecting"),
        ("tvqa", json.dumps(TVQA | {"ts": "early"}), r"row 1: ValueError: expected a window 'start-end' in seconds"),
        ("tvqa", json.dumps({"qid": 8, "vid_name": "a", "q": "why?"}), "row 1: expected a field 'a0', there is none"),
        ("vlep", json.dumps(VLEP | {"ts": [1, 2, 3]}), "row 1: ValueError: too many values"),
        ("vlep", json.dumps({key: VLEP[key] for key in VLEP if key != "answer"}), "row 1: expected a field 'answer'"),
        ("star", json.dumps([STAR])[:-9], r"STAR_val.json, row 1: JSONDecodeError: .* line 1 column"),
        ("star", json.dumps([STAR, STAR | {"question_id": "X_1", "choices": 3}]), "row X_1: TypeError"),
        ("star", json.dumps({"questions": []}), "row 1: TypeError"),
        ("how2qa", _csv([HOW2QA, HOW2QA[:4]]), r"row 2: ValueError: expected 7 fields \(video, .*\), there are 4"),
        (
            "how2qa",
            _csv([["video_id", *HOW2QA[1:]], _how2qa(window="window")]),
            r"row 2: .*'start:end' in seconds, got",
        ),
        ("how2qa", _csv([HOW2QA]) + 'a,[1:2],"b"c,d,e,f?,g', r"row 2: Error: ',' expected after '\"'"),
        ("nextqa", _text("nextqa", [NEXTQA]) + "b,1,why", "row 3: AttributeError"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_file_row_and_cure(place, tmp_path, name, text, message):
    place(name, text)
    with pytest.raises(ValueError, match=rf"{message}.*damaged, or of another version than .*Get it: "):
        load(name, "val", root=tmp_path)


def test_a_label_file_that_is_cut_off_is_named(place, tmp_path):
    path = place("star", "")
    packed = gzip.compress(
        json.dumps([STAR | {"question_id": f"Sequence_T1_{index}"} for index in range(999)]).encode()
    )
    path.unlink()
    path.with_name("STAR_val.json.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"STAR_val\.json, row 1: EOFError: Compressed file ended"):
        load("star", "val", root=tmp_path)


@pytest.mark.parametrize("name", sorted(ONE))
def test_packed_and_plain_files_give_the_same_questions(read, place, tmp_path, name):
    plain = read(name, ONE[name])
    path = place(name, "")
    path.unlink()
    with gzip.open(path.with_name(f"{path.name}.gz"), "wt") as file:
        file.write(_text(name, [ONE[name]]))
    assert load(name, "val", root=tmp_path).fingerprint == plain.fingerprint


def test_an_empty_line_between_questions_is_no_question(place, tmp_path):
    place("vlep", f"{json.dumps(VLEP)}\n\n{json.dumps(VLEP | {'example_id': 2, 'answer': 9})}\n\n")
    data = load("vlep", "val", root=tmp_path)
    assert [question.id for question in data.questions] == ["21411"]
    assert [problem.row for problem in data.problems] == [3]


@pytest.mark.parametrize("name", sorted(ONE))
def test_questions_load_without_videos_and_find_them_when_they_are_there(read, tmp_path, name):
    ((video, known),) = read(name, ONE[name]).videos.items()
    assert known.path is None
    assert math.isnan(known.duration_s)
    folder = tmp_path / manifests.get(name).folder / "videos"
    folder.mkdir()
    (folder / f"{video}.mp4").touch()
    assert read(name, ONE[name]).videos[video].path == folder / f"{video}.mp4"


@pytest.mark.parametrize("name", sorted(ONE))
def test_a_missing_label_file_is_named_with_where_to_get_it(read, tmp_path, name):
    read(name, ONE[name])
    file = manifests.get(name).files("train")[0]
    with pytest.raises(DataMissing, match=rf"{file} is missing \(with or without .gz\). Get it: "):
        load(name, "train", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("star", "star: the answers of STAR_test.json are not published, .*eval.ai.*; report val"),
        ("vlep", "vlep: the answers of vlep_test_release.jsonl are not published, .*CodaLab; report val"),
        ("tvqa", "tvqa: the answers of tvqa_test_public.jsonl are not published, .*tvqa.cs.unc.edu; report val"),
    ],
)
def test_a_test_split_whose_answers_are_withheld_says_so_and_what_to_use(read, tmp_path, name, message):
    read(name, ONE[name])
    with pytest.raises(DataMissing, match=message):
        load(name, "test", root=tmp_path)


def test_checking_a_set_names_the_files_that_are_missing_and_asks_for_no_withheld_answers(tmp_path):
    assert "star: the whole folder. Get it:" in check("star", root=tmp_path).missing[0]
    (tmp_path / "star").mkdir()
    report = check("star", root=tmp_path)
    assert report.missing == ("STAR_train.json", "STAR_val.json")
    assert not report.damaged
    assert "split test cannot be loaded: star: the answers of STAR_test.json are not published" in report.text()
    assert "https://github.com/csbobby/STAR_Benchmark" in report.text()


def test_checking_a_set_counts_the_rows_that_were_left_out(read, tmp_path):
    read("tvqa", TVQA, TVQA | {"qid": 8, "answer_idx": 7})
    report = check("tvqa", root=tmp_path)
    assert report.missing == ("tvqa_train.jsonl",)
    assert report.counts == ("tvqa_val.jsonl: expected 15253 rows as published, found 2",)
    (line,) = report.out_of_range
    assert line == "tvqa_val.jsonl, row 2: the answer 7 is none of the 5 options, 0 to 4"
