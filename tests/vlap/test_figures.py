"""What figures say of known choices and answers: titles, values of traces, marks at the right times."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.vlap.small_questions import SmallBackbone, batch_of
from vkdlab.data.datasets import Question
from vkdlab.metrics import Mean, mean_interval
from vkdlab.vlap.backbone import Prompt
from vkdlab.vlap.curve_figures import accuracy_against_latency, accuracy_by_frames, by_frames
from vkdlab.vlap.distill import VLAP, Config
from vkdlab.vlap.evaluate import CHANCE, Results, Row
from vkdlab.vlap.figures import (
    COLOURS,
    accuracy_by_kind,
    colours_of,
    entropy_and_segments,
    where_time_goes,
    worse_than_uniform,
)
from vkdlab.vlap.latency import KEPT, STAGES, WAYS, Seconds, WayTime
from vkdlab.vlap.prompter import FramePrompter
from vkdlab.vlap.selectors import ALL, LOCALIZER, NONE, PROMPTER, UNIFORM, rivals
from vkdlab.vlap.shown import Answered, Pictures
from vkdlab.vlap.strip_figures import CHOSEN, FORCED, SECOND, option_scores, strip, two_questions
from vkdlab.vlap.workshop import STUDENTS

PROMPT = Prompt("which <cup> moves?", ("the red one", "the blue one", "none"))
PICTURES = Pictures(
    np.random.default_rng(0).integers(0, 255, (6, 12, 16, 3)).astype(np.uint8),
    (0.5, 1.5, 2.5, 3.5, 4.5, 5.5),
    duration_s=6.0,
)


def answered(**changed) -> Answered:
    """Frames 1 and 4 of two segments of three, of which frame 4 lies within the evidence; the answer is right."""
    given = {
        "prompt": PROMPT,
        "frame_probs": np.array([0.1, 0.7, 0.2, 0.25, 0.5, 0.25]),
        "bounds": (0, 3, 6),
        "frames": (1, 4),
        "option_probs": (0.2, 0.7, 0.1),
        "answer": 1,
        "evidence": (0.7, 0.8),
    }
    return Answered(**given | changed)


def title(figure) -> str:
    return figure.layout.title.text


def subtitle(figure) -> str:
    return figure.layout.title.subtitle.text


def trace(figure, name):
    (found,) = [each for each in figure.data if each.name == name]
    return found


def boxes(figure, colour) -> list[tuple[float, float]]:
    """Middles and widths of outlines of a colour, in the order in which they were drawn."""
    found = [each for each in figure.layout.shapes if each.type == "rect" and each.line.color == colour]
    return [(round((each.x0 + each.x1) / 2, 6), round(each.x1 - each.x0, 6)) for each in found]


def test_a_strip_marks_the_chosen_frames_where_they_are_in_time():
    figure = strip(PICTURES, answered(), subtitle="made up")
    assert title(figure) == "1 of 2 chosen frames shows the evidence; the answer is right (70 %)"
    bars = {name: trace(figure, name) for name in ("chosen", "not chosen")}
    assert dict(zip(bars["chosen"].x, bars["chosen"].y, strict=True)) == {1.5: 0.7, 4.5: 0.5}
    assert list(bars["not chosen"].x) == [0.5, 2.5, 3.5, 5.5]
    small, large = boxes(figure, CHOSEN)[:2], boxes(figure, CHOSEN)[2:]
    assert [middle for middle, _ in small] == [1.5, 4.5]
    assert [middle for middle, _ in large] == [1.5, 4.5]  # each beside the other, over its half of the axis
    assert large[0][1] > small[0][1]
    assert len(figure.layout.images) == 6 + 2
    assert [each.text for each in figure.layout.annotations] == ["1.5 s", "4.5 s"]
    (evidence,) = [each for each in figure.data if each.y is not None and tuple(each.y) == ("evidence",)]
    assert (evidence.base[0], evidence.x[0]) == pytest.approx((4.2, 0.6))
    walls = [each for each in figure.layout.shapes if each.type == "line" and each.line.dash == "dot"]
    assert [(wall.x0, wall.x1) for wall in walls] == [(3.0, 3.0)]


def test_a_strips_subtitle_has_the_question_and_marks_answer_and_truth():
    assert subtitle(strip(PICTURES, answered(), subtitle="made up")).split("<br>") == [
        "“which &lt;cup&gt; moves?”; made up",
        "A the red one 20 %  ·  <b>B the blue one 70 % ✓</b>  ·  C none 10 %",
    ]
    wrong = strip(PICTURES, answered(answer=2))
    assert title(wrong).endswith("the answer is wrong (70 %)")
    assert subtitle(wrong).endswith("<b>B the blue one 70 % ✗</b>  ·  C none 10 % ✓")
    unknown = strip(PICTURES, answered(answer=None, evidence=None))
    assert title(unknown) == "From 2 of 6 frames the answer is “the blue one” (70 %)"
    assert "✓" not in subtitle(unknown)
    assert "✗" not in subtitle(unknown)


def test_the_end_of_the_evidence_counts_as_evidence():
    at_the_ends = answered(evidence=(0.25, 0.75))  # frames at 1.5 s and 4.5 s of 6 s
    assert title(strip(PICTURES, at_the_ends)).startswith("2 of 2 chosen frames show the evidence")
    between = answered(evidence=(0.3, 0.7))
    assert title(strip(PICTURES, between)).startswith("None of 2 chosen frames shows the evidence")
    one = answered(bounds=(0, 6), frames=(4,))
    assert title(strip(PICTURES, one)).startswith("The chosen frame shows the evidence")


def test_a_frame_that_was_put_there_by_hand_has_its_own_colour():
    figure = strip(PICTURES, answered(frames=(1, 3), forced=(3,)))
    assert [middle for middle, _ in boxes(figure, FORCED)] == [3.5, 4.5]  # small in time, large at its place
    assert [middle for middle, _ in boxes(figure, CHOSEN)] == [1.5, 1.5]
    assert list(trace(figure, "put there by hand").x) == [3.5]
    assert figure.layout.annotations[1].text == "3.5 s, by hand"


@pytest.mark.parametrize("select", [1, 2, 3, 6, 9])
def test_a_strip_can_be_drawn_for_any_number_of_frames(select):
    bounds = tuple(int(place) * 6 // select for place in range(select + 1))
    frames = tuple(sorted({*bounds} - {6}))
    figure = strip(PICTURES, answered(bounds=bounds, frames=frames))
    assert len(trace(figure, "chosen").x) == len(frames) == min(select, 6)
    assert figure.layout.height > 200


def test_a_strip_of_uneven_times_has_a_place_for_every_frame():
    uneven = Pictures(PICTURES.frames, [0.1, 0.2, 3.0, 3.1, 5.0, 5.9], duration_s=6.0)
    assert uneven.edges_s.tolist() == pytest.approx([0, 0.15, 1.6, 3.05, 4.05, 5.45, 6])
    ((middle, _), *_) = boxes(strip(uneven, answered(frames=(2,), bounds=(0, 6))), CHOSEN)
    assert middle == pytest.approx((1.6 + 3.05) / 2)


def test_pictures_and_answers_that_do_not_fit_are_named():
    frames = PICTURES.frames
    with pytest.raises(ValueError, match="at least one frame and one time per frame, got 0 frames and 0 times"):
        Pictures(frames[:0], [], duration_s=1.0)
    with pytest.raises(ValueError, match="got 6 frames and 2 times"):
        Pictures(frames, [0.1, 0.2], duration_s=1.0)
    with pytest.raises(ValueError, match=r"times ascend and lie within the video's 2\.0 s"):
        Pictures(frames[:2], [0.5, 2.5], duration_s=2.0)
    with pytest.raises(ValueError, match="there are 3 pictures, and 6 frames were looked at for 'which <cup> moves"):
        strip(Pictures(frames[:3], [0.1, 0.2, 0.3], duration_s=1.0), answered())
    for changed, why in (
        ({"frame_probs": np.zeros(0)}, "no frame was looked at"),
        ({"bounds": (0, 3, 5)}, "bounds of segments ascend from 0 to the number of frames, 6"),
        ({"frames": (1, 6)}, "different ones of 0 to 5, ascending"),
        ({"frames": (4, 1)}, "different ones of 0 to 5, ascending"),
        ({"forced": (2,)}, "forced ones are among them"),
        ({"option_probs": (0.5, 0.5)}, "one probability for each of 3 options, got 2"),
        ({"answer": 3}, "right one of 3 options is numbered from 0, got 3"),
    ):
        with pytest.raises(ValueError, match=why):
            answered(**changed)


def test_what_a_student_answered_is_what_is_shown():
    student = VLAP(SmallBackbone(), FramePrompter(5, question_dim=7), config=Config(select=2)).eval().student
    batch = batch_of([5, 9])
    batch.evidence[1] = math.nan
    with torch.no_grad():
        answer = student(batch)
    first, second = (Answered.of(answer, batch, row) for row in (0, 1))
    assert first.bounds == (0, 2, 5)
    assert first.frame_probs == pytest.approx(answer.selection.probs[0].sum(0)[:5].numpy())
    assert first.frames == tuple(answer.selection.indices[0].tolist())
    assert first.option_probs == pytest.approx(answer.probs[0, :2].tolist())
    assert (first.answer, second.answer) == tuple(batch.answers.tolist())
    assert first.evidence == pytest.approx((0.2, 0.4))
    assert second.evidence is None


def test_two_questions_tell_how_many_frames_move():
    other = answered(prompt=Prompt("where is it?", ("here", "there")), option_probs=(0.5, 0.5), answer=0, frames=(1, 5))
    figure = two_questions(PICTURES, answered(), other)
    assert title(figure) == "1 of 2 chosen frames move when the question changes"
    assert [middle for middle, _ in boxes(figure, CHOSEN)][:2] == [1.5, 4.5]
    assert [middle for middle, _ in boxes(figure, SECOND)][:2] == [1.5, 5.5]
    words = [each.text for each in figure.layout.annotations if "“" in each.text]
    assert ["“which &lt;cup&gt; moves?”" in words[0], "“where is it?”" in words[1]] == [True, True]
    assert [list(each.x) for each in figure.data if each.name == "chosen"] == [[1.5, 4.5], [1.5, 5.5]]
    assert title(two_questions(PICTURES, answered(), answered())) == "Both questions choose the same 2 frames"


def test_option_scores_compare_frames_and_mark_the_right_option():
    forced = answered(frames=(1, 3), forced=(3,), option_probs=(0.5, 0.3, 0.2))
    figure = option_scores({"prompter": answered(), "by hand": forced}, times_s=PICTURES.times_s)
    assert title(figure) == "Other frames move the answer from B (right) to A (wrong)"
    assert [each.name for each in figure.data] == ["prompter: 1.5, 4.5 s", "by hand: 1.5, 3.5 s"]
    assert list(figure.data[1].x) == pytest.approx([50, 30, 20])
    assert list(figure.data[0].y) == ["A the red one", "<b>B the blue one ✓</b>", "C none"]
    unmoved = option_scores({"prompter": answered(), "by hand": answered(option_probs=(0.3, 0.6, 0.1))})
    assert title(unmoved) == "With other frames the answer stays B (right): 60 % in place of 70 %"
    assert title(option_scores({"prompter": answered()})) == "The answer is right (70 %)"
    typed = [answered(answer=None, option_probs=probs) for probs in ((0.1, 0.2, 0.7), (0.6, 0.3, 0.1))]
    assert title(option_scores(dict(zip("ab", typed, strict=True)))).endswith("from C to A")
    with pytest.raises(ValueError, match="answers to one question are compared"):
        option_scores({"a": answered(), "b": answered(prompt=Prompt("where?", PROMPT.options))})
    with pytest.raises(ValueError, match=r"got 2 times for \[6\] frames"):
        option_scores({"a": answered()}, times_s=[0.1, 0.2])


KINDS = {"count": 4, "order": 8}


def results(right: dict[str, dict[str, int]], *, options: int = 4) -> Results:
    """For each way and kind, so many of the first questions are right."""
    rows = []
    for kind, number in KINDS.items():
        for i in range(number):
            facts = {"id": f"{kind} {i}", "video": "v", "kind": kind, "answer": 1, "evidence": None}
            for way, of_kind in right.items():
                hit = i < of_kind[kind]
                probs = (0.1, 0.6, 0.2, 0.1) if hit else (0.7 - 0.01 * i, 0.1 + 0.01 * i, 0.1, 0.1)
                said = {"predicted": int(hit), "right": float(hit), "probs": probs}
                rows.append(Row(way=way, **said, frames=(2,), times_s=(1.5,), **facts))
            said = {"predicted": None, "right": 1 / options, "probs": (1 / options,) * options}
            rows.append(Row(way=CHANCE, **said, frames=(), times_s=(), **facts))
    return Results(tuple(rows), {}, {})


def run(prompter=(3, 6), uniform=(4, 2)) -> Results:
    known = {PROMPTER: prompter, UNIFORM: uniform, ALL: (4, 8), NONE: (1, 2)}
    return results({way: dict(zip(KINDS, counts, strict=True)) for way, counts in known.items()})


def test_every_way_of_the_room_has_a_colour_of_its_own_and_unknown_ones_keep_theirs():
    ways = [*rivals(SmallBackbone(), select=4), PROMPTER, *WAYS, *STUDENTS]
    assert {*ways} <= COLOURS.keys()
    assert len({COLOURS[way] for way in ways}) == len({*ways})
    assert colours_of(["b", "a", PROMPTER]) == {**colours_of(["a", "b"]), PROMPTER: COLOURS[PROMPTER]}


def test_accuracy_by_frames_draws_means_bands_and_levels():
    seeds = [{2: run((2, 4)), 8: run((3, 6))}, {2: run((3, 7)), 8: run((4, 6))}]
    accuracies = by_frames(seeds)
    assert accuracies[PROMPTER] == {2: [6 / 12, 10 / 12], 8: [9 / 12, 10 / 12]}
    figure = accuracy_by_frames(accuracies)
    curve = trace(figure, PROMPTER)
    assert (list(curve.x), list(curve.y)) == ([2, 8], pytest.approx([800 / 12, 950 / 12]))
    bands = [each for each in figure.data if each.meta == "band" and each.legendgroup == PROMPTER]
    expected = mean_interval([100 * 6 / 12, 100 * 10 / 12])
    assert [bands[0].y[0], bands[0].y[-1]] == pytest.approx([expected.high, expected.low])
    assert list(trace(figure, CHANCE).y) == pytest.approx([25, 25])
    assert list(trace(figure, NONE).y) == pytest.approx([25, 25])
    assert list(trace(figure, ALL).y) == pytest.approx([100, 100])
    assert title(figure) == "The prompter gains most over uniform frames with 8 frames: +29.2 points"
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.tickvals) == [2, 8]


def test_one_run_has_no_band_and_a_prompter_that_loses_is_said_to():
    figure = accuracy_by_frames(by_frames([{1: run((2, 2), (3, 4)), 4: run((1, 2), (2, 2))}]))
    assert not [each for each in figure.data if each.meta == "band"]
    assert title(figure) == "The prompter is nowhere above uniform frames, closest with 4 frames (−8.3 points)"
    with pytest.raises(ValueError, match="no results of any run"):
        by_frames([])
    with pytest.raises(ValueError, match="numbers of frames from 1, got none"):
        accuracy_by_frames({CHANCE: {1: [0.25]}})


def test_accuracy_by_kind_counts_questions_and_says_where_the_prompter_gains():
    figure = accuracy_by_kind([run()], ways=[PROMPTER, UNIFORM])
    assert [each.name for each in figure.data] == [PROMPTER, UNIFORM, CHANCE]
    labels = ["count<br>n = 4", "order<br>n = 8", "<b>all</b><br>n = 12"]
    assert list(figure.data[0].x) == labels
    assert list(figure.data[0].y) == pytest.approx([75, 75, 75])
    assert list(figure.data[1].y) == pytest.approx([100, 25, 50])
    assert list(figure.data[2].y) == pytest.approx([25, 25, 25])
    assert title(figure) == (
        "The prompter against uniform frames: +25.0 points, from −25.0 in “count” to +50.0 in “order”"
    )
    assert not figure.data[0].error_y.visible
    several = accuracy_by_kind([run((2, 6)), run((4, 6))])
    assert list(several.data[0].y) == pytest.approx([75, 75, 75])
    assert several.data[0].error_y.array[0] == pytest.approx(mean_interval([50.0, 100.0]).high - 75)
    with pytest.raises(ValueError, match="no run"):
        accuracy_by_kind([])
    fewer = dataclasses.replace(run(), rows=run().rows[5:])
    with pytest.raises(ValueError, match="same questions"):
        accuracy_by_kind([run(), fewer])
    with pytest.raises(ValueError, match="asked for 'oracle'"):
        accuracy_by_kind([run()], ways=["oracle"])


def way_time(**stages_ms: float) -> WayTime:
    seconds = {stage: Seconds((stages_ms.get(stage, 0) / 1e3,) * 3) for stage in STAGES}
    total = sum(stages_ms.values()) / 1e3
    return WayTime(Seconds((0.5 * total, total, 1.5 * total)), seconds, Mean(32, 1), Mean(4, 1))


TIMES = {
    ALL: way_time(decode=40, see=40, look=20),
    PROMPTER: way_time(decode=40, glance=5, see=3, look=2),
    KEPT: way_time(decode=10, glance=5, see=3, look=2),
    LOCALIZER: way_time(decode=40, see=40, choose=120),
}


def test_where_time_goes_stacks_the_stages_and_tells_how_much_faster():
    figure = where_time_goes(TIMES)
    assert [each.name for each in figure.data] == ["decode", "glance", "choose", "see", "look"]
    assert dict(zip(figure.data[0].y, figure.data[0].x, strict=True)) == pytest.approx(
        {ALL: 40, PROMPTER: 40, KEPT: 10, LOCALIZER: 40}
    )
    texts = {each.y: each.text for each in figure.layout.annotations}
    assert texts[PROMPTER] == "<b>50 ms</b>  2.0× / 4.0×"
    assert texts[LOCALIZER] == "<b>200 ms</b>  0.5× / 1.0×"
    assert title(figure) == "Prompter: 50 ms, 80 % of it to decode; 2.0 times as fast as all frames"
    assert title(where_time_goes({UNIFORM: TIMES[KEPT]})) == "Uniform: 20 ms, 50 % of it to decode"
    with pytest.raises(ValueError, match="nothing was timed"):
        where_time_goes({})


def test_accuracy_against_latency_joins_what_was_timed_with_what_was_measured():
    figure = accuracy_against_latency(by_frames([{2: run((1, 4)), 4: run()}]), {2: TIMES, 4: TIMES})
    assert [each.name for each in figure.data] == [ALL, PROMPTER, KEPT]  # nobody measured the localizer
    assert (list(figure.data[1].x), list(figure.data[1].text)) == (pytest.approx([50, 50]), ["2", "4"])
    assert list(figure.data[1].y) == list(figure.data[2].y) == pytest.approx([500 / 12, 75])
    assert list(figure.data[0].y) == pytest.approx([100])
    assert list(figure.data[1].error_x.array) == pytest.approx([12.5, 12.5])
    assert title(figure) == "The prompter’s 4 frames: −25.0 points against all frames, 2.0 times as fast"
    assert {each.text for each in figure.layout.annotations} == {CHANCE, NONE}
    with pytest.raises(ValueError, match=r"timed were \['localizer'\]"):
        accuracy_against_latency(by_frames([{2: run()}]), {2: {LOCALIZER: TIMES[LOCALIZER]}})


def inspected(counts: list[int], *, select: int, scores=None):
    vlap = VLAP(SmallBackbone(), FramePrompter(5, question_dim=7), config=Config(select=select)).eval()
    return vlap.inspect(batch_of(counts))


def test_places_within_segments_are_counted_as_a_slow_count_counts_them():
    inspections = [inspected([8, 8, 7], select=2), inspected([6], select=2)]
    figure = entropy_and_segments(inspections)
    hits, there, entropy = np.zeros((2, 4)), np.zeros((2, 4)), []
    for each in inspections:
        for row in range(len(each.mask)):
            count = int(each.mask[row].sum())
            for segment in range(2):
                first, end = segment * count // 2, (segment + 1) * count // 2
                there[segment, : end - first] += 1
                hits[segment, int(each.indices[row, segment]) - first] += 1
                entropy.append(float(each.entropy[row, segment]))
    histogram, *segments = figure.data
    assert np.stack([bar.y for bar in segments]) == pytest.approx(100 * hits / there)
    assert sum(histogram.y) == pytest.approx(100)
    assert f"below {np.median(entropy):.2f} of {math.log(4):.2f} nats" in title(figure)
    segment, place = divmod(int((hits / there).argmax()), 4)
    assert f"frame {place + 1} of 4 in segment {segment + 1}" in title(figure)
    assert "4 questions" in subtitle(figure)


def test_choices_that_are_none_are_refused():
    with pytest.raises(ValueError, match="got none"):
        entropy_and_segments([])
    with pytest.raises(ValueError, match=r"got \[2, 3\]"):
        entropy_and_segments([inspected([8], select=2), inspected([8], select=3)])
    with pytest.raises(ValueError, match="nothing to choose"):
        entropy_and_segments([inspected([3], select=3)])


def test_worse_than_uniform_counts_by_kind_and_tells_the_clearest_example():
    # Of 4 questions of "count" uniform frames get one more, of 8 of "order" the prompter four more.
    asked = Question("order 5", "v", "What comes <first>?", ("a", "b", "c", "d"), 1, "order")
    figure = worse_than_uniform(run(), questions=[asked])
    lost, won = figure.data
    assert list(lost.y) == ["count (n = 4)", "order (n = 8)"]
    assert (list(lost.x), list(won.x)) == ([-1, 0], [0, 4])
    assert title(figure) == "Frames of the prompter win 4 and lose 1 of 12 questions against uniform ones"
    assert lost.hovertext[1] == won.hovertext[0] == "none"
    assert "question count 3" in lost.hovertext[0]
    assert "right: option 2<br>prompter: option 1, from 1.5 s" in lost.hovertext[0]
    assert "question order 2" in won.hovertext[1]  # there uniform frames are the surest of a wrong answer
    only = worse_than_uniform(run((4, 6), (4, 5)), questions=[asked])
    assert "<b>“What comes &lt;first&gt;?”</b><br>right: b<br>prompter: b" in only.data[1].hovertext[1]
    with pytest.raises(ValueError, match="asked for 'oracle'"):
        worse_than_uniform(run(), rival="oracle")
