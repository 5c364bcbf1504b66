"""From a file, a question and its options to an answer: against the student as it was trained, and as a command."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch

from tests.data.media import write
from tests.test_cli import call
from tests.vlap.test_student_files import ABOUT, SIZES, smoke_study, untrained
from vkdlab.data import FrameReader, VideoError
from vkdlab.vlap import student_files
from vkdlab.vlap.ask import ask
from vkdlab.vlap.contact_sheet import WIDTH, contact_sheet, sheet_path, write_contact_sheet
from vkdlab.vlap.latency import STAGES
from vkdlab.vlap.prompter import ReleasedPrompter
from vkdlab.vlap.student_files import latest_student, load_student, save_student
from vkdlab.vlap.workshop import OURS

QUESTION, OPTIONS = "What happens to the red cup?", ("it spins", "it slides to the left", "it drops")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    return smoke_study(tmp_path_factory)


@pytest.fixture(scope="module")
def student(trained):
    return load_student(latest_student(trained[1]))


@pytest.fixture
def video(tmp_path, monkeypatch):
    """Thirty frames, and a cache that knows nothing of them."""
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "video.mp4", count=30)


def test_a_saved_student_answers_as_the_one_that_was_trained(trained, student):
    study, test = trained[0], trained[0].splits.test
    for index in range(0, len(test), 2):
        row = test.questions[index]
        found = ask(test.dataset.videos[row.video].path, row.question, row.options, student=student)
        with torch.no_grad():
            expected = study.students[OURS](test.collate([test[index]]))
        assert found.chosen == tuple(expected.selection.indices[0].tolist())
        np.testing.assert_allclose(found.scores, expected.selection.scores[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.probs, expected.selection.probs[0].sum(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.option_probs, expected.probs[0], rtol=1e-4, atol=1e-5)
        assert found.answer == expected.logits.argmax(1).item()


def test_another_question_has_nothing_decoded_but_the_frames_that_it_reads(student, video):
    first = ask(video, QUESTION, OPTIONS, student=student)
    assert first.decoded == 8
    second = ask(video, "Where is the green book?", ("in front", "far away"), student=student)
    assert second.decoded == len(second.chosen) == 2
    again = ask(video, QUESTION, OPTIONS, student=student)
    assert again.decoded == 2
    assert (again.chosen, again.option_probs.tolist()) == (first.chosen, first.option_probs.tolist())
    assert ask(video, QUESTION, OPTIONS, student=student, kept=False).decoded == 8


def test_frames_are_told_by_number_second_score_and_part(student, video):
    found = ask(video, QUESTION, OPTIONS, student=student)
    assert found.numbers.tolist() == [1, 5, 9, 13, 16, 20, 24, 28]
    assert found.times_s == pytest.approx(found.numbers / 10)
    assert found.parts.tolist() == [0] * 4 + [1] * 4
    for part in (0, 1):
        scores = torch.tensor(found.scores[found.parts == part])
        np.testing.assert_allclose(found.probs[found.parts == part], scores.softmax(0), rtol=1e-5)
        assert found.chosen[part] == 4 * part + scores.argmax().item()
    assert found.frames == tuple(found.numbers[list(found.chosen)])
    assert found.option_probs.sum() == pytest.approx(1)
    assert found.thumbnails.shape == (8, 24, 32, 3)
    assert tuple(found.seconds) == STAGES
    assert all(each_s > 0 for each_s in found.seconds.values())


def test_other_numbers_of_frames_are_read_when_asked_for(student, video):
    for select in (1, 3, 8):
        found = ask(video, QUESTION, OPTIONS, student=student, select=select)
        assert len(found.chosen) == select
        assert found.parts.max() == select - 1
    with pytest.raises(ValueError, match="looks at 8 frames of a video and cannot read 9 of them"):
        ask(video, QUESTION, OPTIONS, student=student, select=9)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_a_video_with_few_frames_all_are_read(student, video, count):
    short = write(video.with_name("short.mp4"), count=count)
    found = ask(short, QUESTION, OPTIONS, student=student, select=5)
    assert found.chosen == found.frames == tuple(range(count))
    assert found.parts.tolist() == list(range(count))
    assert found.probs.tolist() == [1.0] * count
    assert contact_sheet(found).shape[1] == WIDTH


def test_words_that_no_training_had_are_read_all_the_same(student, video):
    found = ask(video, "Does the zeppelin outpace a cassowary?", ("Ünlikely", "kwyjibo 42"), student=student)
    assert found.option_probs.sum() == pytest.approx(1)
    other = ask(video, "Does the zeppelin outpace a cassowary?", ("kwyjibo 42", "Ünlikely"), student=student)
    np.testing.assert_allclose(other.option_probs, found.option_probs[::-1], rtol=1e-4)


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (" \n", OPTIONS, "the question is empty: ask something, such as"),
        (QUESTION, (), "needs 2 to 5 options to choose from, got 0$"),
        (QUESTION, ("it spins",), "needs 2 to 5 options to choose from, got 1: 'it spins'"),
        (QUESTION, "it spins", "needs 2 to 5 options to choose from, got 1: 'it spins'"),
        (QUESTION, tuple("abcdef"), "needs 2 to 5 options to choose from, got 6: 'a', 'b'"),
        (QUESTION, ("it spins", "it drops", "it  Spins "), "options 1 and 3 are the same, 'it Spins'"),
        (QUESTION, ("it spins", " "), "option 2 is empty"),
        (QUESTION, ("it spins", "\u200b"), "has no word that could be read"),
        ("what " * 80, OPTIONS, "at most 63 word pieces"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(student, video, question, options, message):
    with pytest.raises(ValueError, match=message):
        ask(video, question, options, student=student)


def test_a_bad_question_is_told_before_a_missing_video_and_that_before_a_missing_student(tmp_path):
    with pytest.raises(ValueError, match="needs 2 to 5 options"):
        ask(tmp_path / "no.mp4", QUESTION, (), student=tmp_path / "nobody")
    with pytest.raises(FileNotFoundError, match=r"no\.mp4"):
        ask(tmp_path / "no.mp4", QUESTION, OPTIONS, student=tmp_path / "nobody")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        ask(tmp_path / "text.mp4", QUESTION, OPTIONS, student=tmp_path / "nobody")


def test_a_student_with_the_released_prompter_is_asked_as_well(trained, video, tmp_path):
    made, glance = untrained(ReleasedPrompter(12, frames=8, select=2))
    save_student(tmp_path / "released", made, glance, **SIZES, dataset=trained[0].splits.train, **ABOUT)
    student = load_student(tmp_path / "released")
    choices = {ask(video, QUESTION, OPTIONS, student=student).chosen for _ in range(8)}
    assert len(choices) > 1  # it is noisy
    with pytest.raises(ValueError, match="this prompter keeps 2 of 8 frames, no other numbers"):
        ask(video, QUESTION, OPTIONS, student=student, select=4)


def test_the_contact_sheet_shows_the_frames_that_were_read_in_the_order_of_time(student, video):
    found = ask(video, QUESTION, OPTIONS, student=student, select=4)
    sheet = contact_sheet(found)
    side = (WIDTH - 2 * 16 - 3 * 8) // 4
    height = round(side * 48 / 64)
    frames = [
        cv2.resize(frame, (side, height), interpolation=cv2.INTER_CUBIC)
        for frame in FrameReader(video).frames(found.frames)
    ]
    top = next(
        y for y in range(len(sheet) - height) if np.array_equal(sheet[y : y + height, 16 : 16 + side], frames[0])
    )
    for place, frame in enumerate(frames):
        left = 16 + place * (side + 8)
        assert np.array_equal(sheet[top : top + height, left : left + side], frame)


def bars(sheet, found):
    """Rows of chosen colour in a column of each thumbnail of eight, below the large frames."""
    side = (WIDTH - 2 * 16) // 8
    chosen = (sheet == (213, 94, 0)).all(2)
    return [int(chosen[-180:, 16 + place * side + 20].sum()) for place in range(len(found.thumbnails))]


def test_the_contact_sheet_marks_the_frames_that_were_read_among_all(student, video):
    found = ask(video, QUESTION, OPTIONS, student=student)
    marked = bars(contact_sheet(found), found)
    assert {place for place, count in enumerate(marked) if count} == set(found.chosen)
    surer = bars(contact_sheet(with_probs(found, 1.0)), found)
    assert all(surer[place] > marked[place] for place in found.chosen)


def with_probs(found, value):
    return type(found)(**(vars(found) | {"probs": np.full_like(found.probs, value)}))


def test_long_and_foreign_texts_stay_within_the_contact_sheet(student, video):
    short = contact_sheet(ask(video, QUESTION, ("a", "b"), student=student))
    options = ("Wäre es möglich, daß " + "W" * 200, "它消失了")
    long = contact_sheet(ask(video, "Is it “that” – or not? " * 6, options, student=student))
    assert len(long) > len(short)
    assert (long[:120, -12:] == 255).all()


def test_a_contact_sheet_is_a_png_file_and_never_the_video(student, video, monkeypatch):
    monkeypatch.chdir(video.parent)
    found = ask(video, QUESTION, OPTIONS, student=student)
    write_contact_sheet(found, "new/sheet.png")
    written = cv2.cvtColor(cv2.imread("new/sheet.png"), cv2.COLOR_BGR2RGB)
    assert np.array_equal(written, contact_sheet(found))
    assert str(sheet_path(video)) == "video-answer.png"
    with pytest.raises(ValueError, match=r"is a PNG file, such as a\.png, got a\.jpg"):
        write_contact_sheet(found, "a.jpg")
    shutil.copy(video, "film.png")
    with pytest.raises(ValueError, match=r"film\.png is the video itself"):
        sheet_path("film.png", "film.png")


def test_the_command_prints_options_frames_and_seconds_and_writes_the_sheet(monkeypatch, capsys, student, video):
    monkeypatch.chdir(video.parent)
    expected = ask(video, QUESTION, OPTIONS, student=student)
    assert call(monkeypatch, "ask", video, QUESTION, "--options", *OPTIONS, "--student", student.folder) == 0
    shown = capsys.readouterr()
    who, head, *options, frames_head, first, last, frames, seconds, where = shown.out.splitlines()
    assert who == f"Student: trained on tabletop smoke ({student.folder})"
    assert head.split() == ["probability", "option"]
    for place, (line, option, prob) in enumerate(zip(options, OPTIONS, expected.option_probs, strict=True)):
        mark = ">" if place == expected.answer else " "
        assert re.fullmatch(rf"{mark} {'ABC'[place]} +{prob:.3f}  {option}", line)
    assert frames_head.split()[:3] == ["read", "at", "(s)"]
    for line, place in zip((first, last), expected.chosen, strict=True):
        numbers = expected.times_s[place], expected.numbers[place], expected.scores[place], expected.probs[place]
        assert [float(number) for number in line.split()] == pytest.approx(numbers, abs=0.006)
    assert frames == "Frames: 8 looked at, 2 read, 2 decoded"
    assert all(stage in seconds for stage in STAGES)
    assert where == "Contact sheet: video-answer.png"
    assert cv2.imread("video-answer.png").shape[1] == WIDTH
    assert "knows the built-in world only" in shown.err


def test_the_command_prints_nothing_but_json_when_asked(monkeypatch, capsys, student, video):
    out = video.parent / "a.png"
    given = ("--json", "--frames", 3, "-o", out, "--student", student.folder, "--options", *OPTIONS)
    assert call(monkeypatch, "ask", video, QUESTION, *given) == 0
    found = json.loads(capsys.readouterr().out)
    expected = ask(video, QUESTION, OPTIONS, student=student, select=3)
    assert [row["option"] for row in found["options"]] == list(OPTIONS)
    assert [row["prob"] for row in found["options"]] == pytest.approx(expected.option_probs.tolist(), rel=1e-4)
    assert found["answer"] == OPTIONS[expected.answer]
    assert tuple(row["frame"] for row in found["frames"] if row["read"]) == expected.frames
    assert [row["score"] for row in found["frames"]] == pytest.approx(expected.scores.tolist(), rel=1e-4)
    assert (found["decoded"], found["sheet"], set(found["seconds"])) == (8, str(out), set(STAGES))
    assert out.is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["{video}", "Q?", "--options", "-5", "-3"],
        ["{video}", "Q?", "--options", "-5", "--options", "-3"],
        ["{video}", "Q?", "--options=-5", "--options=-3"],
        ["--options", "-5", "-3", "--json", "{video}", "Q?"],
        ["--options", "-5", "-3", "--", "{video}", "Q?"],
    ],
)
def test_options_are_given_together_or_one_by_one(monkeypatch, capsys, student, video, arguments):
    monkeypatch.chdir(video.parent)
    words = (word.format(video=video) for word in arguments)
    assert call(monkeypatch, "ask", "--json", "--student", student.folder, *words) == 0
    assert [row["option"] for row in json.loads(capsys.readouterr().out)["options"]] == ["-5", "-3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{video}", "Q?"], "needs 2 to 5 options to choose from, got 0"),
        (["{video}", "Q?", "--options"], "needs 2 to 5 options to choose from, got 0"),
        (["{video}", "Q?", "--options", "a"], "needs 2 to 5 options to choose from, got 1: 'a'"),
        (["{video}", "Q?", "--options", "a", "b", "A"], "options 1 and 3 are the same"),
        (["{video}", "Q?", "--options", *"abcdef"], "needs 2 to 5 options to choose from, got 6"),
        (["{video}", "", "--options", "a", "b"], "the question is empty"),
        (["no.mp4", "Q?", "--options", "a", "b"], "no.mp4"),
        (["text.mp4", "Q?", "--options", "a", "b"], "text.mp4"),
        (
            ["{video}", "Q?", "--options", "a", "b", "--frames", "0"],
            "the number of frames to read is at least 1, got 0",
        ),
        (["{video}", "Q?", "--options", "a", "b", "--frames", "9"], "cannot read 9 of them"),
        (["{video}", "Q?", "--options", "a", "b", "-o", "a.gif"], "is a PNG file, such as a.png, got a.gif"),
        (
            ["{video}", "Q?", "--options", "a", "b", "--student", "no"],
            "no is no folder of a student. Train one: vkdlab run 05",
        ),
    ],
)
def test_what_was_asked_wrongly_ends_with_one_line_and_exit_code_two(
    monkeypatch, capsys, student, video, arguments, message
):
    monkeypatch.chdir(video.parent)
    (video.parent / "text.mp4").write_text("no video")
    words = [word.format(video=video) for word in arguments]
    who = [] if "--student" in words else ["--student", student.folder]
    assert call(monkeypatch, "ask", *words[:2], *who, *words[2:]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""
    assert not list(video.parent.glob("*.png"))


def test_without_a_trained_student_the_command_says_how_to_train_one(monkeypatch, capsys, video):
    assert call(monkeypatch, "ask", video, "Q?", "--options", "a", "b") == 2
    shown = capsys.readouterr().err
    assert f"there is no trained student that answers questions in {video.parent / 'cache' / 'runs'}" in shown
    assert student_files.FILES.train_one in shown


def test_a_mistyped_option_is_no_answer(monkeypatch, capsys, video):
    assert call(monkeypatch, "ask", video, "Q?", "--options", "a", "b", "--frame", "2") == 2
    assert "No such option" in capsys.readouterr().err
