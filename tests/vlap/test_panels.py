"""The panel asks a real, small student: questions move its choice, frames by hand move its answer."""

import dataclasses
import json
import statistics
import time

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from tests.vlap.small_questions import PROMPTS, SmallBackbone, batch_of
from vkdlab.data.datasets import Question
from vkdlab.vlap.backbone import Prompt
from vkdlab.vlap.distill import Student
from vkdlab.vlap.panels import BY_HAND, OWN, ask_panel, asking
from vkdlab.vlap.prompter import FramePrompter, ReleasedPrompter
from vkdlab.vlap.selectors import selection_of
from vkdlab.vlap.shown import Pictures
from vkdlab.vlap.strip_figures import option_scores, strip

T = 12
PICTURES = Pictures(
    np.random.default_rng(0).integers(0, 255, (T, 24, 32, 3)).astype(np.uint8), np.arange(T) + 0.5, duration_s=12.0
)
QUESTIONS = [
    Question(f"q{i}", "v", prompt.question, prompt.options, 1, "", (3.0, 6.0) if i else None)
    for i, prompt in enumerate(PROMPTS[:3])
]


@pytest.fixture
def student():
    made = Student(SmallBackbone(seed=2), FramePrompter(5, question_dim=7), select=3).eval()
    with torch.no_grad():
        for parameter in made.prompter.parameters():
            parameter.mul_(3)  # an untrained prompter hardly listens to the question
    return made


@pytest.fixture
def ask(student):
    return asking(student, batch_of([T]))


@pytest.fixture
def live(ask, monkeypatch):
    """A live panel's widgets by what they are, and every figure it sent to be displayed."""
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda figure: shown.append(go.Figure(figure)))
    panel = ask_panel(PICTURES, ask, questions=QUESTIONS, live=True)
    chosen, question, options, row, note, *_ = panel.children
    *sliders, button = row.children
    return dict(chosen=chosen, question=question, options=options, sliders=sliders, button=button, note=note), shown


def _asked(question, ask, frames=None):
    evidence = question.evidence_s and tuple(each / 12 for each in question.evidence_s)
    found = ask(question.question, question.options, frames)
    return dataclasses.replace(found, answer=question.answer, evidence=evidence)


def _same(a, b):
    return json.loads(a.to_json()) == json.loads(b.to_json())


def _other(slider):
    return next(frame for _, frame in slider.options if frame != slider.value)


def test_asking_answers_as_the_student_does(student, ask):
    batch = dataclasses.replace(batch_of([T]), prompts=(PROMPTS[2],))
    with torch.no_grad():
        expected = student(batch)
    found = ask(PROMPTS[2].question, PROMPTS[2].options)
    assert found.prompt == PROMPTS[2]
    assert found.frames == tuple(expected.selection.indices[0].tolist())
    assert found.option_probs == pytest.approx(expected.probs[0].tolist())
    assert (found.answer, found.evidence, found.forced) == (None, None, ())


def test_frames_by_hand_are_answered_from_as_if_they_had_been_chosen(student, ask):
    own = ask(*dataclasses.astuple(PROMPTS[1]))
    frames = tuple(sorted({0, *own.frames[1:]}))
    batch = dataclasses.replace(batch_of([T]), prompts=(PROMPTS[1],))
    marked = torch.zeros(1, T, dtype=torch.bool)
    marked[0, list(frames)] = True
    with torch.no_grad():
        expected = student(batch, selection=selection_of(marked, mask=batch.mask, select=3)).probs[0]
    found = ask(*dataclasses.astuple(PROMPTS[1]), frames)
    assert found.option_probs == pytest.approx(expected.tolist())
    assert found.option_probs != pytest.approx(own.option_probs)
    assert (found.frames, found.forced) == (frames, tuple({0} - {*own.frames}))
    assert (found.frame_probs == own.frame_probs).all()
    assert ask(*dataclasses.astuple(PROMPTS[1]), own.frames).forced == ()


def test_asking_answers_in_evaluation_mode_and_leaves_the_mode_alone(student):
    student.train()
    ask = asking(student, batch_of([T]))
    first = ask(*dataclasses.astuple(PROMPTS[0]))
    assert asking(student, batch_of([T]))(*dataclasses.astuple(PROMPTS[0])).frames == first.frames  # no noise
    assert student.training
    assert student.prompter.training


def test_a_noisy_prompter_is_asked_once_so_that_frames_by_hand_stand_beside_one_choice():
    ask = asking(Student(SmallBackbone(), ReleasedPrompter(2, frames=T, select=3), select=3).eval(), batch_of([T]))
    assert len({ask(*dataclasses.astuple(PROMPTS[0])).frames for _ in range(9)}) == 1


def test_what_cannot_be_asked_is_named(student, ask):
    with pytest.raises(ValueError, match="needs a question"):
        ask(" ", ("a", "b"))
    with pytest.raises(ValueError, match="expected 2 to 5 options, got 1"):
        ask("what?", ("a",))
    with pytest.raises(ValueError, match=r"frames are numbers from 0 to 11, at least one, got \(12,\)"):
        ask("what?", ("a", "b"), (12,))
    with pytest.raises(ValueError, match="one question about the video is needed, got 2"):
        asking(student, batch_of([T, T]))


def test_headless_the_panel_is_the_strip_of_the_first_question(ask):
    figure = ask_panel(PICTURES, ask, questions=QUESTIONS, subtitle="made up")
    assert _same(figure, strip(PICTURES, _asked(QUESTIONS[0], ask), subtitle="made up"))


def test_another_question_of_the_list_moves_the_choice_the_words_and_the_sliders(ask, live):
    panel, shown = live
    first, second = (_asked(question, ask) for question in QUESTIONS[:2])
    assert first.frames != second.frames
    assert tuple(slider.value for slider in panel["sliders"]) == first.frames
    panel["chosen"].value = QUESTIONS[1]
    assert (panel["question"].value, panel["options"].value) == ("where is it?", " | ".join(PROMPTS[1].options))
    assert tuple(slider.value for slider in panel["sliders"]) == second.frames
    assert _same(shown[-2], strip(PICTURES, second))
    assert _same(shown[-1], option_scores({OWN: second}, times_s=PICTURES.times_s))
    assert len(shown) == 4  # two figures, twice: widgets that are set are no hands


def test_a_slider_puts_another_frame_in_its_segment_and_the_button_takes_it_back(ask, live):
    panel, shown = live
    own = _asked(QUESTIONS[0], ask)
    slider = panel["sliders"][1]
    assert [frame for _, frame in slider.options] == [4, 5, 6, 7]
    assert slider.options[0][0] == "4.5 s"
    forced = _other(slider)
    slider.value = forced
    expected = _asked(QUESTIONS[0], ask, (own.frames[0], forced, own.frames[2]))
    assert _same(shown[-2], strip(PICTURES, expected))
    assert [trace.meta for trace in shown[-1].data] == [OWN, BY_HAND]
    assert list(shown[-1].data[0].x) == pytest.approx([100 * prob for prob in own.option_probs])
    assert list(shown[-1].data[1].x) == pytest.approx([100 * prob for prob in expected.option_probs])
    assert list(shown[-1].data[0].x) != pytest.approx(list(shown[-1].data[1].x))
    panel["button"].click()
    assert tuple(slider.value for slider in panel["sliders"]) == own.frames
    assert _same(shown[-2], strip(PICTURES, own))
    assert len(shown[-1].data) == 1
    slider.value = forced  # sliders are still listened to
    assert len(shown[-1].data) == 2


def test_a_question_that_was_typed_is_answered_though_nobody_knows_its_truth(ask, live):
    panel, shown = live
    panel["question"].value = "how   often does it spin?"
    panel["options"].value = "never|once |  twice"
    found = ask("how often does it spin?", ("never", "once", "twice"))
    assert found.prompt == Prompt("how often does it spin?", ("never", "once", "twice"))
    assert _same(shown[-2], strip(PICTURES, found))
    assert "✓" not in shown[-2].layout.title.subtitle.text
    assert tuple(slider.value for slider in panel["sliders"]) == found.frames


def test_words_that_cannot_be_asked_are_answered_by_a_note_and_the_figures_stay(live):
    panel, shown = live
    before = len(shown)
    panel["options"].value = "<only one>"
    assert "expected 2 to 5 options, got 1" in panel["note"].value
    panel["question"].value = "<script>"
    assert "&lt;script&gt;" in panel["note"].value
    panel["sliders"][0].value = _other(panel["sliders"][0])
    assert len(shown) == before
    panel["options"].value = "a | b"
    assert panel["note"].value == ""
    assert len(shown) == before + 2


def test_a_video_with_fewer_frames_than_segments_has_a_slider_for_each_frame(student, monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    pictures = Pictures(PICTURES.frames[:2], [0.5, 1.5], duration_s=2.0)
    asked = [dataclasses.replace(QUESTIONS[0], evidence_s=None)]
    panel = ask_panel(pictures, asking(student, batch_of([2], frames=4)), questions=asked, live=True)
    *sliders, _ = panel.children[3].children
    assert [slider.value for slider in sliders] == [0, 1]
    assert len(shown) == 2


def test_a_panel_needs_questions_about_one_video(ask):
    with pytest.raises(ValueError, match="no question to choose from"):
        ask_panel(PICTURES, ask, questions=[])
    others = [QUESTIONS[0], dataclasses.replace(QUESTIONS[1], video="w")]
    with pytest.raises(ValueError, match=r"about one video, got \['v', 'w'\]"):
        ask_panel(PICTURES, ask, questions=others)


def test_a_moved_slider_redraws_32_frames_in_under_100_ms(student, monkeypatch):
    import IPython.display

    monkeypatch.setattr(IPython.display, "display", lambda figure: figure.to_json())
    frames = np.random.default_rng(0).integers(0, 255, (32, 96, 128, 3)).astype(np.uint8)
    pictures = Pictures(frames, (np.arange(32) + 0.5) / 2, duration_s=16.0)
    panel = ask_panel(pictures, asking(student, batch_of([32])), questions=QUESTIONS, live=True)
    slider = panel.children[3].children[0]
    took = []
    for frame in (0, 1, 2, 3, 4, 5, 6):
        began = time.process_time()
        slider.value = frame
        took.append(time.process_time() - began)
    assert statistics.median(took) < 0.1
