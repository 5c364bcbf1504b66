"""More questions about the built-in world: as true as its own, and no easier to tell from words."""

from collections import Counter
from dataclasses import replace

import pytest

from vkdlab.data import Dataset, Question, Video, load
from vkdlab.data.tabletop import config_of
from vkdlab.data.tabletop.asked import with_more_questions
from vkdlab.data.tabletop.build import WORLD_FILE, labels_of
from vkdlab.data.tabletop.events import plan
from vkdlab.data.tabletop.language import NOUNS
from vkdlab.data.tabletop.questions import _WHICH, ANSWERS
from vkdlab.files import read_json, write_json

KINDS = ("verb", "object", "order", "count", "where")


@pytest.fixture(scope="module")
def labels():
    """Labels of sixty demo videos; planning needs no rendering."""
    return {rows["id"]: rows for rows in (labels_of(plan(config_of("demo"), "train", n)) for n in range(60))}


@pytest.fixture(scope="module")
def planned(labels, tmp_path_factory):
    """The same videos as a data set."""
    root = tmp_path_factory.mktemp("world")
    write_json(root / WORLD_FILE, {"config": config_of("demo")})
    questions = [
        Question(**{**row, "options": tuple(row["options"]), "evidence_s": tuple(row["evidence_s"]), "video": name})
        for name, rows in labels.items()
        for row in rows["questions"]
    ]
    videos = {name: Video(name, None, rows["duration_s"]) for name, rows in labels.items()}
    return Dataset("tabletop", "train", "demo", videos, (), (), questions, root=root)


@pytest.fixture(scope="module")
def more(planned):
    return with_more_questions(planned, draws=10)


def _new(planned, more):
    return more.questions[len(planned.questions) :]


@pytest.mark.parametrize("draws", [1, 3])
def test_a_built_worlds_own_questions_come_first_and_more_lie_within_its_videos(draws):
    world = load("tabletop", "train", profile="smoke", progress=False)
    more = with_more_questions(world, draws=draws)
    own = [row["id"] for name in world.videos for row in read_json(world.root / "labels" / f"{name}.json")["questions"]]
    assert [question.id for question in more.questions[: len(own)]] == own
    assert more.questions[: len(own)] == world.questions
    assert replace(more, questions=world.questions) == world
    new = _new(world, more)
    assert len(new) > 10 * draws
    for question in new:
        start_s, end_s = question.evidence_s
        assert 0 <= start_s < end_s <= world.videos[question.video].duration_s
    assert max(Counter((question.video, question.kind) for question in new).values()) <= draws


def test_no_question_offers_the_same_options_in_the_same_words_as_another_of_its_video(more):
    said = Counter((question.video, question.question, frozenset(question.options)) for question in more.questions)
    assert max(said.values()) == 1


def test_draws_bring_many_new_questions_of_every_kind(planned, more):
    own, new = (Counter(question.kind for question in rows) for rows in (planned.questions, _new(planned, more)))
    assert set(new) == set(KINDS)
    assert all(new[kind] > 3 * own[kind] for kind in ("verb", "object", "order", "where")), (own, new)


def _named(text, video):
    """The one object of a video that a phrase such as "the small red mug" names."""
    words = f" {text} "
    found = []
    for thing in video["instances"]:
        if not thing.get("colour"):
            continue
        others = {row[name] for row in video["instances"] for name in ("colour", "size") if row.get(name)}
        if any(f" {word} " in words for word in others - {thing["colour"], thing["size"]}):
            continue
        nouns = [noun for shape, nouns in NOUNS.items() for noun in nouns if shape != thing["kind"]]
        mine = any(f" {noun} " in words for noun in NOUNS[thing["kind"]])
        if mine or not any(f" {noun} " in words for noun in nouns):
            found.append(thing["id"])
    assert len(found) == 1, (text, found)
    return found[0]


def _span(event):
    return event["start_s"], event["end_s"]


def test_what_happens_to_a_thing_is_the_one_event_of_the_worlds_list(planned, more, labels):
    asked = [question for question in _new(planned, more) if question.kind == "verb"]
    for question in asked:
        video = labels[question.video]
        text = question.question.rstrip("?").removesuffix(" go through")
        thing = _named(text[text.index(" the ") :], video)
        (event,) = (event for event in video["events"] if thing in (event["object"], event["other"]))
        assert event["object"] == thing
        assert question.options[question.answer] == ANSWERS[event["verb"]]
        assert question.evidence_s == _span(event)
    assert len(asked) > 100


def test_which_thing_it_happens_to_is_the_one_object_of_the_worlds_list(planned, more, labels):
    asked = [question for question in _new(planned, more) if question.kind == "object"]
    for question in asked:
        video = labels[question.video]
        (verb,) = (verb for verb, words in _WHICH.items() if question.question.endswith(f" {words}?"))
        (event,) = (event for event in video["events"] if event["verb"] == verb)
        names = {row["id"]: f"the {row['colour']} {row['kind']}" for row in video["instances"] if row.get("colour")}
        assert question.options[question.answer] == names[event["object"]]
        assert set(question.options) <= set(names.values())
        assert question.evidence_s == _span(event)
    assert len(asked) > 100


def test_counts_are_those_of_the_worlds_list(planned, more, labels):
    for question in (question for question in _new(planned, more) if question.kind == "count"):
        words = question.question.removeprefix("How often does it happen that something ").rstrip("?")
        (verb,) = (verb for verb, text in _WHICH.items() if text.replace("another", "something else") == words)
        events = [event for event in labels[question.video]["events"] if event["verb"] == verb]
        assert question.options[question.answer] == ("not at all", "once", "twice")[len(events)]
        if events:
            assert question.evidence_s == (events[0]["start_s"], events[-1]["end_s"])
        else:
            assert question.evidence_s == (0.0, labels[question.video]["duration_s"])


def test_options_that_recur_are_right_about_as_often_as_chance_says(more):
    right, offered = Counter(), Counter()
    for question in more.questions:
        right[question.kind, question.options[question.answer]] += 1
        offered.update((question.kind, option) for option in question.options)
    assert right["count", "not at all"] < 0.45 * offered["count", "not at all"]
    for (kind, option), times in right.items():
        # What is offered a few times only has its share by luck.
        if kind in ("verb", "count", "where") and offered[kind, option] >= 40:
            chance = {"verb": 1 / 5, "count": 1 / 3, "where": 1 / 4}[kind]
            assert abs(times / offered[kind, option] - chance) < 0.1, (kind, option, times, offered[kind, option])


def test_questions_depend_on_the_seed_and_on_nothing_else(planned):
    few = planned.of_videos(list(planned.videos)[:6])
    one, again, other = (with_more_questions(few, draws=2, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one.fingerprint != other.fingerprint
    assert not {question.id for question in _new(few, one)} & {question.id for question in _new(few, other)}
    turned = replace(few, videos=dict(reversed(few.videos.items())))
    assert set(with_more_questions(turned, draws=2, seed=1).questions) == set(one.questions)


def test_a_part_of_a_split_without_questions_gets_some(planned):
    (name, *_) = planned.videos
    alone = replace(planned.of_videos([name]), questions=())
    assert {question.video for question in with_more_questions(alone, draws=4).questions} == {name}


def test_other_data_sets_have_no_planned_scenes(planned):
    with pytest.raises(ValueError, match="which only 'tabletop' has, got 'arid6'"):
        with_more_questions(replace(planned, name="arid6"), draws=1)


@pytest.mark.parametrize("draws", [0, -3])
def test_less_than_one_draw_is_refused(planned, draws):
    with pytest.raises(ValueError, match=f"draws must be at least 1, got {draws}"):
        with_more_questions(planned, draws=draws)


def test_a_world_that_other_code_made_is_refused(planned):
    (name, video), *_ = planned.videos.items()
    longer = {**planned.videos, name: replace(video, duration_s=video.duration_s + 1)}
    with pytest.raises(ValueError, match=f"{name} lasts .* was made by other code. Delete it and build again"):
        with_more_questions(replace(planned, videos=longer), draws=1)
