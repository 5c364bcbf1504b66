"""From a file and a sentence to seconds: on real files of the built-in world, and against a slow, obvious search."""

import dataclasses
import importlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.emtm.students import saved, world
from tests.test_cli import call
from vkdlab import student_files
from vkdlab.data import VideoError, write_video
from vkdlab.data.feature_store import FeatureMismatch
from vkdlab.emtm.ground import find_moments, ground, video_clips, window_starts
from vkdlab.emtm.student_files import load_student
from vkdlab.metrics import temporal_iou
from vkdlab.runs import Run

QUERY = "the red cup is lifted"
MODULE = importlib.import_module("vkdlab.emtm.ground")  # by name, as the package offers the function under it


@pytest.fixture(scope="module")
def splits():
    return world()


@pytest.fixture(scope="module")
def student(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    saved(folder, splits.train)
    return load_student(folder)


@pytest.fixture(scope="module")
def video(splits):
    return next(iter(splits.test.dataset.videos.values())).path


@pytest.fixture(scope="module")
def words(student):
    return student.words(QUERY)


def made_video(path, *, seconds, fps=8):
    frames = np.random.default_rng(0).integers(0, 255, (round(seconds * fps), 48, 64, 3), dtype=np.uint8)
    write_video(path, frames, fps=fps)
    return path


def slow_search(student, clips, words, *, duration_s, k, overlap=0.5, iou_limit=0.5):
    """Every pair of every window, one after another, in plain Python."""
    count, size = len(clips), min(len(clips), student.max_clips)
    starts, first = [], 0
    while first + size < count:
        starts.append(first)
        first += max(1, round(size * (1 - overlap)))
    starts.append(count - size)
    answers = []
    for first in starts:
        with torch.no_grad():
            output = student.network(
                clips[None, first : first + size], torch.ones(1, size, dtype=torch.bool), words[None],
                torch.ones(1, len(words), dtype=torch.bool),
            )  # fmt: skip
        answers.append((output.start_logits[0].double(), output.end_logits[0].double()))
    evidence = [(start.exp().sum().log() + end.exp().sum().log()) / 2 for start, end in answers]
    total = sum(value.exp() for value in evidence)
    candidates = []
    for first, (start, end), value in zip(starts, answers, evidence, strict=True):
        share = (value.exp() / total).item()
        start, end = start.softmax(0).tolist(), end.softmax(0).tolist()
        for i in range(size):
            for j in range(i, size):
                moment = ((first + i) * duration_s / count, (first + j + 1) * duration_s / count)
                candidates.append((share * start[i] * end[j], moment))
    candidates.sort(key=lambda candidate: -candidate[0])
    kept = []
    for score, moment in candidates:
        others = [torch.tensor(other, dtype=torch.float64) for _, other in kept]
        if all(temporal_iou(torch.tensor(moment, dtype=torch.float64), other) < iou_limit for other in others):
            kept.append((score, moment))
        if len(kept) == k:
            break
    return kept


def test_features_of_a_file_are_those_that_the_training_made_of_it(splits, student):
    name, known = next(iter(splits.test.videos.items()))
    clips, duration_s = video_clips(splits.test.dataset.videos[name].path, student, progress=False)
    assert torch.equal(clips, known)
    assert duration_s == pytest.approx(splits.test.dataset.videos[name].duration_s, abs=1e-6)


def test_a_student_that_sees_some_columns_gets_these(splits, tmp_path):
    first, last = columns = (1000, 1400)
    saved(tmp_path, splits.train, columns=columns)
    name, known = next(iter(splits.test.videos.items()))
    clips, _ = video_clips(splits.test.dataset.videos[name].path, load_student(tmp_path), progress=False)
    assert torch.equal(clips, known[:, first:last])


def test_a_short_video_is_answered_as_in_the_evaluation(splits, student):
    index = next(i for i in range(len(splits.test)) if splits.test.lengths[i] <= student.max_clips)
    batch = splits.test.collate([splits.test[index]])
    output = student.network(batch.video, batch.video_mask, batch.query, batch.query_mask)
    expected, scores = student.network.moments(output, batch, k=5)
    query = splits.test.dataset.queries[index]
    found = ground(splits.test.dataset.videos[query.video].path, query.sentence, student=student, progress=False)
    np.testing.assert_allclose(found.moments_s, expected[0][: len(found.scores)], atol=1e-4)
    np.testing.assert_allclose(found.scores, scores[0][: len(found.scores)], rtol=1e-3)
    np.testing.assert_allclose(found.start_probs, output.start_logits[0].softmax(0), atol=1e-5)


@pytest.mark.parametrize(("count", "overlap"), [(1, 0.5), (12, 0.5), (13, 0.5), (40, 0.5), (40, 0.0), (29, 0.8)])
def test_moments_agree_with_a_search_over_every_pair_of_every_window(student, words, count, overlap):
    student = dataclasses.replace(student, max_clips=12)
    clips = torch.randn(count, 1600)
    found = find_moments(student, clips, words, duration_s=0.5 * count, k=4, overlap=overlap, iou_limit=0.45)
    expected = slow_search(student, clips, words, duration_s=0.5 * count, k=4, overlap=overlap, iou_limit=0.45)
    assert len(found.scores) == len(expected)
    np.testing.assert_allclose(found.scores, [score for score, _ in expected], rtol=1e-3)
    np.testing.assert_allclose(found.moments_s, [moment for _, moment in expected], atol=1e-4)


@pytest.mark.parametrize("count", [1, 12, 13, 700])
def test_start_and_end_are_distributions_over_the_whole_video(student, words, count):
    student = dataclasses.replace(student, max_clips=12)
    found = find_moments(student, torch.randn(count, 1600), words, duration_s=0.4 * count)
    for probs in (found.start_probs, found.end_probs):
        assert probs.shape == (count,)
        assert (probs >= 0).all()
        assert probs.sum() == pytest.approx(1, abs=1e-4)
    assert (found.moments_s[:, 0] < found.moments_s[:, 1]).all()
    assert found.moments_s.max() <= 0.4 * count
    assert (np.diff(found.scores) <= 0).all()


def test_windows_overlap_and_the_last_ends_with_the_video():
    assert window_starts(64, size=64, overlap=0.5) == [0]
    assert window_starts(65, size=64, overlap=0.5) == [0, 1]
    assert window_starts(160, size=64, overlap=0.5) == [0, 32, 64, 96]
    assert window_starts(130, size=64, overlap=0.0) == [0, 64, 66]
    assert window_starts(3, size=2, overlap=0.99) == [0, 1]


def test_the_window_with_more_evidence_wins(student, words):
    """Logits of one window are raised: within it nothing changes, beside the others it does."""
    quiet = dataclasses.replace(student, max_clips=4)

    class Louder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, video, video_mask, query, query_mask):
            logits = video.sum(-1)
            return SimpleNamespace(start_logits=logits, end_logits=logits)

    clips = torch.zeros(8, 1600)
    clips[5, 0] = 3.0
    object.__setattr__(quiet, "network", Louder())
    found = find_moments(quiet, clips, words, duration_s=8.0, overlap=0.0, k=1)
    np.testing.assert_allclose(found.moments_s, [[5.0, 6.0]])


def test_one_clip_can_only_be_the_moment_itself(student, tmp_path):
    found = ground(made_video(tmp_path / "one.mp4", seconds=0.5), QUERY, student=student, k=5, progress=False)
    assert found.moments_s.shape == (1, 2)
    np.testing.assert_allclose(found.moments_s, [[0, found.duration_s]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [1.0], atol=1e-5)


def test_fewer_moments_come_than_asked_for_where_no_more_are_apart(student, tmp_path):
    found = ground(made_video(tmp_path / "two.mp4", seconds=1.0), QUERY, student=student, k=50, progress=False)
    assert 1 <= len(found.scores) <= 3
    assert len({tuple(moment) for moment in found.moments_s.tolist()}) == len(found.scores)


def test_a_long_video_is_answered_with_a_picture(student, tmp_path):
    path = made_video(tmp_path / "long.mp4", seconds=70, fps=4)
    found = ground(path, "a <b>cup</b> moves", student=student, k=3, progress=False)
    assert len(found.start_probs) == 140
    figure = found.figure(frames=4)
    assert figure.layout.title.text.startswith("“a &lt;b&gt;cup&lt;/b&gt; moves”: ")
    assert figure.layout.title.subtitle.text == "long.mp4; the moments with their scores, best first"
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [bar.y[0] for bar in bars] == [f"{i + 1}. {score:.3f}" for i, score in enumerate(found.scores)]
    np.testing.assert_allclose([(bar.base[0], bar.base[0] + bar.x[0]) for bar in bars], found.moments_s, rtol=1e-5)
    assert {trace.name for trace in figure.data if trace.type == "scatter" and trace.name} == {"start", "end"}


@pytest.mark.parametrize("query", ["ᚠᛇᚻ ᛒᛦᚦ", "🦄🦄", "xqzt brrgl", "word " * 200])
def test_words_that_nobody_knows_are_answered_all_the_same(student, video, query):
    found = ground(video, query, student=student, progress=False)
    assert np.isfinite(found.scores).all()
    assert (found.scores > 0).all()


def test_the_second_query_reads_features_from_the_cache_and_a_copy_of_the_file_too(
    student, video, tmp_path, monkeypatch
):
    first = ground(video, QUERY, student=student, progress=False)
    copy = tmp_path / "renamed.mp4"
    copy.write_bytes(video.read_bytes())

    def refuse(*_, **__):
        raise AssertionError("features were made again")

    monkeypatch.setattr(MODULE, "encode_video", refuse)
    again = ground(copy, QUERY, student=student, progress=False)
    np.testing.assert_array_equal(again.scores, first.scores)


def test_a_query_alone_says_how_far_its_features_are(student, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(MODULE, "cache_dir", lambda *parts: tmp_path.joinpath(*parts))
    ground(made_video(tmp_path / "shown.mp4", seconds=2, fps=9), QUERY, student=student)
    shown = capfd.readouterr().err
    assert "efficientnet-lite0 features: 100%" in shown
    assert "4/4" in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k is the number of moments, at least 1, got 0"),
        ({"overlap": 1.0}, "overlap is a share of a window, 0 to below 1, got 1.0"),
        ({"iou_limit": 0.0}, "iou_limit is a temporal IoU, above 0 to 1, got 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(student, video, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ground(video, QUERY, student=student, progress=False, **changes)


def test_a_file_that_is_not_there_or_is_no_video_is_named(student, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.mp4"):
        ground(tmp_path / "no.mp4", QUERY, student=student)
    (tmp_path / "text.mp4").write_text("a person opens the door")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        ground(tmp_path / "text.mp4", QUERY, student=student)


def test_an_empty_query_is_refused_before_any_work(student, tmp_path):
    path = made_video(tmp_path / "unseen.mp4", seconds=1, fps=10)
    with pytest.raises(ValueError, match="the query is empty"):
        ground(path, " ", student=student, progress=True)


def test_a_student_of_features_that_cannot_be_made_is_refused(student, video):
    published = dataclasses.replace(student.features[0], extractor="i3d")
    with pytest.raises(FeatureMismatch, match=r"trained on 'i3d' features, which vkdlab cannot make.*-p data=tabletop"):
        ground(video, QUERY, student=dataclasses.replace(student, features=(published, student.features[1])))
    older = dataclasses.replace(student.features[0], input="short side 224 px")
    with pytest.raises(FeatureMismatch, match=r"input: trained on 'short side 224 px', made here 'RGB, short side 128"):
        ground(video, QUERY, student=dataclasses.replace(student, features=(older, student.features[1])))


def test_the_command_prints_moments_and_writes_a_page_that_needs_no_network(
    monkeypatch, capsys, tmp_path, student, video
):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "ground", video, QUERY, "--student", student.folder, "-k", 2) == 0
    who, *lines = capsys.readouterr().out.splitlines()
    assert who == f"Student: trained on {student.data} ({student.folder})"
    assert lines[0].split() == ["start", "(s)", "end", "(s)", "score"]
    assert 1 <= len(lines[1:-1]) <= 2
    for line in lines[1:-1]:
        start_s, end_s, score = map(float, line.split())
        assert 0 <= start_s < end_s
        assert 0 <= score <= 1
    assert lines[-1] == f"Timeline: {video.stem}-moments.html"
    page = (tmp_path / f"{video.stem}-moments.html").read_text()
    assert all(word in page for word in QUERY.split())
    assert not re.search(r"<(script|link)[^>]+(src|href)=.?https?:", page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{video}", " ", "--student", "{student}"], "the query is empty"),
        (["no.mp4", QUERY, "--student", "{student}"], "no.mp4"),
        (["{video}", QUERY, "--student", "nowhere"], "nowhere is no folder of a student. Train one"),
        (["{video}", QUERY], "there is no trained student that finds moments in"),
        (["{video}", QUERY, "--student", "{student}", "-k", "0"], "k is the number of moments"),
        (["{video}", QUERY, "--student", "{student}", "--out", "a.png"], "--out is an HTML file, such as a.html"),
    ],
)
def test_what_was_asked_wrongly_ends_with_one_line_and_exit_code_two(
    monkeypatch, capsys, tmp_path, student, video, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(student_files, "cache_dir", lambda *parts: tmp_path.joinpath(*parts))
    assert call(monkeypatch, "ground", *(text.format(video=video, student=student.folder) for text in arguments)) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""
    assert not list(tmp_path.glob("*.html"))


def test_without_a_folder_the_newest_student_answers(splits, student, video, tmp_path, monkeypatch):
    run = Run.open("emtm-student", {}, data="", runs_dir=tmp_path / "runs")
    saved(run.folder, splits.train)
    run.note(status="done")
    monkeypatch.setattr(student_files, "cache_dir", lambda *parts: tmp_path.joinpath(*parts))
    found = ground(video, QUERY, progress=False)
    np.testing.assert_allclose(found.scores, ground(video, QUERY, student=student, progress=False).scores, rtol=1e-5)
