"""The panel that needs no FiftyOne: what it shows headless, and what it redraws when something is chosen."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from vkdlab.browse import panels
from vkdlab.browse.facts import facts
from vkdlab.browse.questions import answerable
from vkdlab.data import Dataset, Query, Video
from vkdlab.predictions import Predictions


def _parts(panel):
    question, query, below = panel.children
    video, picture = below.children
    return question, query, video, picture


def _naming(predictions):
    table = facts(predictions)
    return {question: rows for question in answerable(table) if (rows := question.rows(table))}


def _with(predictions, videos):
    return replace(predictions, dataset=replace(predictions.dataset, videos=videos))


def test_headless_it_is_the_figure_of_the_first_question_that_names_something(predictions):
    question, rows = next(iter(_naming(predictions).items()))
    figure = panels.browse(predictions)
    assert isinstance(figure, go.Figure)
    told = f"In {len(rows)} of {len(predictions.dataset.queries)} queries {question.asks.split(' (')[0]}"
    assert figure.layout.title.text.startswith(told)


def test_headless_with_answers_of_nobody_it_is_a_figure_all_the_same(predictions):
    assert isinstance(panels.browse(replace(predictions, moments_s={}, confidence={}, weights={})), go.Figure)


def test_without_a_query_it_refuses(predictions):
    nobody = Predictions(name="n", dataset=replace(predictions.dataset, queries=()))
    with pytest.raises(ValueError, match="tabletop test has no query to look at"):
        panels.browse(nobody)


def test_live_it_offers_every_question_that_names_something_and_all_queries(predictions):
    question, query, video, _ = _parts(panels.browse(predictions, live=True))
    naming = _naming(predictions)
    assert [label.rsplit(" (", 1)[1] for label, _ in question.options] == [
        f"{len(rows)})" for rows in (*naming.values(), predictions.dataset.queries)
    ]
    first = next(iter(naming.values()))
    assert [name for _, name in query.options] == first
    asked = next(each for each in predictions.dataset.queries if each.id == first[0])
    assert f"#t={asked.start_s:.3f},{asked.end_s:.3f}" in video.value


def test_live_another_question_lists_its_queries_and_plays_the_first(predictions):
    question, query, video, _ = _parts(panels.browse(predictions, live=True))
    question.index = len(question.options) - 1
    assert [name for _, name in query.options] == [each.id for each in predictions.dataset.queries]
    chosen = predictions.dataset.queries[-1]
    query.value = chosen.id
    assert f"#t={chosen.start_s:.3f},{chosen.end_s:.3f}" in video.value
    assert f"plays the true moment, {chosen.start_s:.2f} to {chosen.end_s:.2f} s" in video.value


def test_live_a_choice_is_drawn_once(predictions, monkeypatch):
    drawn = []
    real = panels.figures.timeline
    monkeypatch.setattr(panels.figures, "timeline", lambda *given: drawn.append(given[1]) or real(*given))
    question, query, _, _ = _parts(panels.browse(predictions, live=True))
    assert drawn == [query.options[0][1]]
    query.index = 1
    assert drawn == [query.options[0][1], query.options[1][1]]
    question.index = len(question.options) - 1
    assert drawn[2:] == [query.options[0][1]]


def test_live_a_redraw_takes_less_than_a_tenth_of_a_second_of_the_processor(predictions):
    _, query, _, _ = _parts(panels.browse(predictions, live=True))
    taken = []
    for index in range(1, min(6, len(query.options))):
        begun = time.process_time()
        query.index = index
        taken.append(time.process_time() - begun)
    assert min(taken) < 0.1


def test_live_a_video_without_a_file_or_with_a_damaged_one_is_told_in_words(predictions, tmp_path):
    videos = predictions.dataset.videos
    without = {name: replace(video, path=None) for name, video in videos.items()}
    told = _parts(panels.browse(_with(predictions, without), live=True))[2].value
    assert told.endswith(" comes without a video file.</p>")
    gone = {name: replace(video, path=tmp_path / "<gone>.mp4") for name, video in videos.items()}
    told = _parts(panels.browse(_with(predictions, gone), live=True))[2].value
    assert told.startswith("<p>there is no video file ")
    assert told.endswith("&lt;gone&gt;.mp4</p>")


def test_live_at_most_500_queries_are_listed_and_the_number_of_all_is_told():
    queries = tuple(Query(id=f"q{place}", video="v", sentence="s", start_s=1, end_s=2) for place in range(700))
    data = Dataset(name="d", split="test", profile="smoke", videos={"v": Video("v", None, 10.0)}, queries=queries)
    answers = Predictions(name="n", dataset=data, moments_s={"student": np.full((700, 2), np.nan)})
    question, query, _, _ = _parts(panels.browse(answers, live=True))
    question.index = len(question.options) - 1
    assert question.options[-1][0] == "all queries (700, the first 500 listed)"
    assert len(query.options) == 500
    assert query.options[0][0] == "1. “s” – no answer"


def test_neither_player_nor_figures_nor_panels_import_fiftyone_and_nothing_takes_pandas_before_it_is_used():
    code = "import sys, vkdlab.browse; sys.exit(bool({'fiftyone', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0
