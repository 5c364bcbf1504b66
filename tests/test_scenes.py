import numpy as np
import pytest

from vkdlab import scenes
from vkdlab.data import FrameReader, features, load, tabletop


@pytest.fixture(scope="module")
def world():
    return load("tabletop", "test", profile="smoke", progress=False)


def test_a_contact_sheet_shows_each_video_in_a_moment_that_is_described(world):
    sheet = scenes.contact_sheet(world, videos=2)
    assert len(sheet.layout.images) == 2
    sentences = {query.sentence for query in world.queries}
    for note in sheet.layout.annotations:
        assert any(sentence.startswith(note.text.strip("“”…")) for sentence in sentences)


def test_a_timeline_has_a_bar_for_every_event_of_the_video(world):
    video = next(iter(world.videos))
    events = {(action.start_s, action.end_s) for action in world.actions if action.video == video}
    bars = [trace for trace in scenes.timeline(world, video).data if trace.type == "bar"]
    drawn = {(base, base + length) for bar in bars for base, length in zip(bar.base, bar.x, strict=True)}
    assert len(drawn) == len(events)
    assert np.allclose(sorted(drawn), sorted(events))


def test_a_video_that_is_not_there_is_named(world):
    with pytest.raises(KeyError, match="tabletop test has no video 'nothing'"):
        scenes.timeline(world, "nothing")


def test_exact_labels_are_shown_in_four_ways(world):
    video = next(iter(world.videos.values()))
    labels = tabletop.annotations(video.id, profile="smoke")
    frames = FrameReader(video.path).frames(range(len(labels.masks)))
    figure = scenes.exact_labels(frames, labels, frame=3)
    assert [note.text.split(",")[0] for note in figure.layout.annotations] == [
        "frame",
        "instances",
        "boxes",
        "true flow",
    ]


def test_instances_next_to_each_other_in_number_differ_in_colour():
    colours = scenes.instance_colours(np.arange(9)[None])
    assert len({tuple(colour) for colour in colours[0].tolist()}) == 9


def test_the_spectrogram_covers_the_whole_video(world):
    video = next(iter(world.videos.values()))
    heat = next(trace for trace in scenes.sound(world, video.id).data if trace.type == "heatmap")
    assert heat.x[-1] == pytest.approx(video.duration_s, abs=0.1)
    assert heat.z.max() > heat.z.min() + 20


def test_a_clip_is_most_like_itself(world):
    video = next(iter(world.videos))
    store = features.extract(world.subset(len(world.videos)), "dis-flow", progress=False)
    figure = scenes.similarity({"dis-flow": store}, world, video)
    similarity = np.array(figure.data[0].z)
    assert np.allclose(np.diag(similarity), 1, atol=1e-2)
    assert np.allclose(similarity, similarity.T, atol=1e-2)


def test_starts_and_ends_are_marked_in_every_panel(world):
    video = next(iter(world.videos))
    store = features.extract(world, "dis-flow", progress=False)
    figure = scenes.similarity({"left": store, "right": store}, world, video)
    events = [action for action in world.actions if action.video == video]
    assert [shape.xref for shape in figure.layout.shapes] == ["x"] * 2 * len(events) + ["x2"] * 2 * len(events)
