"""The figures hold what was computed elsewhere, and read as they should."""

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

from vkdlab import plots
from vkdlab.browse import figures
from vkdlab.browse.facts import facts
from vkdlab.browse.questions import QUESTIONS, answerable
from vkdlab.data import Dataset, FrameReader, Query, Video
from vkdlab.predictions import Predictions

WRONG = QUESTIONS["student_wrong_teacher_right"]


def _of(rows, *, path=None, **sources):
    """Answers to moments of one video of ten seconds: source to one moment per row."""
    queries = tuple(Query(id=f"q{place}", video="v", sentence=f"<b>{place}</b> & more", start_s=start_s, end_s=end_s)
                    for place, (start_s, end_s) in enumerate(rows))  # fmt: skip
    data = Dataset(name="d", split="test", profile="smoke", videos={"v": Video("v", path, 10.0)}, queries=queries)
    return Predictions(name="<i>run</i>", dataset=data, moments_s={name: np.array(s) for name, s in sources.items()})


def _overlap(a, b):
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return inter / ((a[1] - a[0]) + (b[1] - b[0]) - inter)


def _texts(figure):
    return [note.text for note in figure.layout.annotations]


@pytest.fixture(scope="module")
def some():
    return _of(
        [(1, 3), (2, 6), (0, 10)],
        student=[(1, 3), (7, 9), (np.nan, np.nan)],
        teacher_a=[(5, 6), (2, 5), (0, 9)],
        teacher_b=[(1, 2), (np.nan, np.nan), (0, 6)],
        label=[(1, 3), (2, 6), (0, 10)],
    )


def test_a_row_is_drawn_for_every_query_named_in_the_questions_order_and_its_count_is_told(predictions):
    table = facts(predictions)
    truth, student = predictions.truth_s, predictions.moments_s["student"]
    iou = [_overlap(*pair) for pair in zip(student, truth, strict=True)]
    best = [max(_overlap(predictions.moments_s[name][row], truth[row]) for name in predictions.teachers)
            for row in range(len(truth))]  # fmt: skip
    named = {query.id for query, s, t in zip(predictions.dataset.queries, iou, best, strict=True) if s < 0.5 <= t}
    figure = figures.moments(predictions, table, WRONG, count=3)
    assert 3 < len(named) < len(truth)
    assert figure.layout.title.text == (
        f"In {len(named)} of {len(truth)} queries the student is wrong where a teacher is right (the first 3)"
    )
    assert "IoU below 0.5" in figure.layout.title.subtitle.text
    assert len(figure.data) == 3
    by_id = {query.id: query for query in predictions.dataset.queries}
    for trace, name in zip(figure.data, WRONG.rows(table), strict=False):
        row = list(by_id).index(name)
        assert trace.y[:2] == ("truth", "student")
        assert (trace.base[0], trace.base[0] + trace.x[0]) == pytest.approx(truth[row])
        assert (trace.base[1], trace.base[1] + trace.x[1]) == pytest.approx(student[row])
        assert trace.marker.color[0] == plots.TRUTH
        assert any(f"“{by_id[name].sentence}”" in text for text in _texts(figure))
        assert f"{iou[row]:.2f}" in _texts(figure)


def test_the_pictures_are_the_first_the_middle_and_the_last_of_the_true_moment(predictions):
    table = facts(predictions)
    figure = figures.moments(predictions, table, WRONG, count=1)
    query = next(query for query in predictions.dataset.queries if query.id == WRONG.rows(table)[0])
    reader = FrameReader(predictions.dataset.videos[query.video].path)
    inside = [time for time in reader.timestamps_s if query.start_s - 1e-6 <= time < query.end_s - 1e-6]
    shown = [plots.picture_uri(reader.at([time])[0])
             for time in (inside[0], (query.start_s + query.end_s) / 2, inside[-1])]  # fmt: skip
    assert [image.source for image in figure.layout.images] == shown


def test_every_axis_is_as_long_as_its_video_and_the_last_one_tells_its_unit(predictions):
    figure = figures.moments(predictions, facts(predictions), WRONG, count=2)
    lengths = {video.duration_s for video in predictions.dataset.videos.values()}
    axes = [figure.layout.xaxis, figure.layout.xaxis3]
    assert all(axis.range[1] in lengths for axis in axes)
    assert [axis.title.text for axis in axes] == [None, "time in the video (s)"]


def test_a_question_that_names_nothing_and_no_rows_are_refused(some):
    table = facts(some)
    nothing = replace(WRONG, where=(replace(WRONG.where[0], value=-1.0), *WRONG.where[1:]))
    with pytest.raises(ValueError, match=r"'student_wrong_teacher_right' names none of the 3 queries"):
        figures.moments(some, table, nothing)
    with pytest.raises(ValueError, match="count is 0, expected at least 1"):
        figures.moments(some, table, WRONG, count=0)


def test_sentences_and_names_are_no_markup_and_a_video_without_file_is_grey(some):
    figure = figures.moments(some, facts(some), WRONG)
    assert any("“&lt;b&gt;1&lt;/b&gt; &amp; more”" in text for text in _texts(figure))
    assert figure.layout.title.subtitle.text.startswith("&lt;i&gt;run")
    assert {image.source for image in figure.layout.images} == {plots.picture_uri(figures._NO_PICTURE)}


def test_the_timeline_shows_what_everybody_says_with_its_iou_and_a_dash_for_no_answer(some):
    figure = figures.timeline(some, "q1")
    bars = {trace.y[0]: (trace.base[0], trace.base[0] + trace.x[0]) for trace in figure.data
            if isinstance(trace, go.Bar) and trace.y}  # fmt: skip
    assert bars == {"truth": (2, 6), "student": (7, 9), "mixture": (2, 6), "a teacher": (2, 5)}
    assert list(figure.layout.yaxis2.categoryarray) == ["truth", "student", "mixture", "a teacher", "b teacher"]
    numbers = {note.y: note.text for note in figure.layout.annotations if note.text != "IoU"}
    assert numbers == {"student": "0.00", "mixture": "1.00", "a teacher": "0.75", "b teacher": "–"}
    assert "“&lt;b&gt;1&lt;/b&gt; &amp; more”" in figure.layout.title.subtitle.text


def test_the_timeline_tells_the_weights_of_start_and_end_and_frame_scores_at_their_own_times(predictions):
    query = predictions.dataset.queries[4]
    figure = figures.timeline(predictions, query.id)
    for pair in (weights[4] for weights in predictions.weights.values()):
        assert {f"{pair[0]:.2f}", f"{pair[1]:.2f}"} <= set(_texts(figure))
    assert {"IoU", "weight<br>of start", "weight<br>of end"} <= set(_texts(figure))
    score = predictions.scores["relevance"][query.video]
    assert figure.data[-1].x == pytest.approx(score.times_s)
    assert figure.data[-1].y == pytest.approx(score.values)


@pytest.mark.parametrize(
    ("sources", "told"),
    [
        ({"student": [(1, 3)], "teacher_a": [(1, 3)]}, "The student finds the moment, so does the a teacher"),
        ({"student": [(1, 3)], "teacher_a": [(5, 6)]}, "The student finds the moment, no teacher does"),
        ({"student": [(5, 6)], "teacher_a": [(5, 6)], "teacher_b": [(1, 2)]},
         "The student misses what the b teacher finds"),
        ({"student": [(5, 6)], "teacher_a": [(5, 6)]}, "Neither student nor teachers find the moment"),
        ({"student": [(np.nan, np.nan)]}, "The student misses the moment"),
        ({"student": [(1, 2)]}, "The student finds the moment"),
        ({"teacher_a": [(1, 3)], "teacher_b": [(5, 6)]}, "The a teacher finds the moment"),
        ({"teacher_a": [(5, 6)]}, "No teacher finds the moment"),
        ({"teacher_a": [(np.nan, np.nan)]}, "No teacher answers; the moment lasts 2.0 s of 10.0 s"),
        ({"label": [(1, 3)]}, "The moment lasts 2.0 s of 10.0 s"),
        ({}, "The moment lasts 2.0 s of 10.0 s"),
    ],
)  # fmt: skip
def test_the_timelines_title_says_who_finds_the_moment(sources, told):
    assert figures.timeline(_of([(1, 3)], **sources), "q0").layout.title.text == told


def test_a_label_that_ends_after_its_file_is_drawn(predictions):
    video = next(iter(predictions.dataset.videos.values()))
    assert FrameReader(video.path).duration_s < 10
    longer = _of([(1, 10)], path=video.path, student=[(0, 0.5)], teacher_a=[(1, 9)])
    assert len(figures.moments(longer, facts(longer), WRONG).layout.images) == 3
    assert len(figures.timeline(longer, "q0").layout.images) == 8


def test_an_unknown_query_is_refused_by_name(some):
    with pytest.raises(KeyError, match="d test has no query 'q9'"):
        figures.timeline(some, "q9")


def test_sources_keep_their_colour_whatever_is_asked_and_no_two_share_one(predictions):
    known = figures.colours(predictions)
    assert known["gt"] == plots.TRUTH
    shown = {source: known[source] for source in ("gt", *predictions.moments_s)}
    assert len(set(shown.values())) == len(shown)


def test_questions_are_counted_with_their_share_most_on_top(predictions):
    table = facts(predictions)
    asked = list(answerable(table))
    counts = {len(question.rows(table)) for question in asked}
    figure = figures.how_many(table, asked, subtitle="here")
    (bars,) = figure.data
    assert sorted(bars.x) == list(bars.x)
    assert set(bars.x) == counts
    assert bars.text[-1] == f"{bars.x[-1]} ({100 * bars.x[-1] / len(table):.0f} %)"
    about = sorted(len(question.rows(table)) for question in asked if "est" not in question.name)
    assert about[-1] == about[-2]
    most = f"{about.count(about[-1])} questions name the most queries, {about[-1]} of 20 each"
    assert figure.layout.title.text == most
    first = figures.how_many(table, [QUESTIONS["teachers_disagree"]])
    named = len(QUESTIONS["teachers_disagree"].rows(table))
    assert first.layout.title.text == f"Most often, in {named} of 20 queries, the teachers disagree"
    assert figure.layout.xaxis.title.text == "queries"


def test_where_no_question_about_answers_names_anything_the_title_says_so(predictions):
    right = replace(predictions, moments_s={"student": predictions.truth_s}, confidence={}, weights={})
    table = facts(right)
    figure = figures.how_many(table, answerable(table))
    assert figure.layout.title.text == f"No question about answers names any of the {len(table)} queries"
    assert max(figure.data[0].x) > 0


def test_no_question_to_count_is_refused(predictions):
    with pytest.raises(ValueError, match="no question to count"):
        figures.how_many(facts(predictions), [])
