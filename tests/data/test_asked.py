"""Questions about the order of labelled actions: true by an independent reading, and not to be told from words."""

import random
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from vkdlab.data import arid, load, manifests
from vkdlab.data.asked import PHRASES, does, with_questions
from vkdlab.data.datasets import Action, Dataset, Query, Question, Video
from vkdlab.files import hash_of


def _dataset(timelines, *, durations_s=None, split="test", name="made"):
    """A data set of `{video: [(label, start_s, end_s), ...]}`; a video ends with its last action unless told."""
    actions = [
        Action(f"{video}:{number}", video, *row) for video, rows in timelines.items() for number, row in enumerate(rows)
    ]
    ends = {video: max(end for _, _, end in rows) for video, rows in timelines.items()} | (durations_s or {})
    return Dataset(name, split, "demo", {video: Video(video, None, ends[video]) for video in timelines}, (), actions)


def _chains(count, *, seed, split="test"):
    """Videos of five to eight actions one after another, none more than twice, neighbours different."""
    rng, timelines = random.Random(seed), {}
    while len(timelines) < count:
        labels = [rng.choice(arid.ACTIONS) for _ in range(rng.randint(5, 8))]
        if any(one == two for one, two in pairwise(labels)) or max(map(labels.count, labels)) > 2:
            continue
        ends = [0.0]
        for _ in labels:
            ends.append(ends[-1] + rng.choice((1.5, 2.0, 2.75)))
        timelines[f"{split}-{len(timelines):03d}"] = [
            (label, *span) for label, span in zip(labels, pairwise(ends), strict=True)
        ]
    return _dataset(timelines, split=split)


@pytest.fixture(scope="module")
def chains():
    return with_questions(_chains(96, seed=1))


def _joined(name, split, data_root):
    """The labels of joined ARID clips, without making the videos."""
    manifest = manifests.get(name)
    timelines = {}
    for video in arid.plan(manifest, manifest.at(data_root), split, profile="demo"):
        ends = [0.0]
        for clip in video.clips:
            ends.append(ends[-1] + clip.frames / arid.FPS)
        rows = [(clip.action, *span) for clip, span in zip(video.clips, pairwise(ends), strict=True)]
        timelines[video.id] = rows
    return _dataset(timelines, split=split, name=name)


_CALLED = {words: label for label in arid.ACTIONS for words in PHRASES[label][1]}
_MENTION = re.compile(rf"({'|'.join(sorted(_CALLED, key=len, reverse=True))})(?: for the (first|second) time)?")


def _mentions(text, actions):
    """The actions that a question names: each must be one alone."""
    found = []
    for words, ordinal in _MENTION.findall(text):
        same = [number for number, action in enumerate(actions) if action.label == _CALLED[words]]
        assert (len(same) > 1) == bool(ordinal), text
        found.append(same[("first", "second").index(ordinal)] if ordinal else same[0])
    return found


def _read(question, actions):
    """Slow and obvious: kind, right answer and evidence of a question about a chain, from its words alone."""
    text = question.question
    if text.startswith("How "):
        label = _CALLED[_MENTION.search(text)[1]]
        times = sum(action.label == label for action in actions)
        return "count", ("not at all", "once", "twice")[times], (0.0, actions[-1].end_s)
    named = _mentions(text, actions)
    if len(named) == 2:
        assert named[1] == named[0] + 2
        assert "between" in text or re.search("[Aa]fter .* before ", text)
        kind, answer, (first, last) = "between", named[0] + 1, named
    elif named and " after " in text:
        kind, answer, first, last = "after", named[0] + 1, named[0], named[0] + 1
    elif named and " before " in text:
        kind, answer, first, last = "before", named[0] - 1, named[0] - 1, named[0]
    elif re.search("first|beginning|start", text):
        kind, answer, first, last = "first", 0, 0, 0
    else:
        assert re.search(r"\b(last|end)\b", text), text
        kind, answer, first, last = "last", len(actions) - 1, len(actions) - 1, len(actions) - 1
    assert answer >= 0
    return kind, does(actions[answer].label), (actions[first].start_s, actions[last].end_s)


def _by_video(dataset):
    return {video: [action for action in dataset.actions if action.video == video] for video in dataset.videos}


def test_kind_answer_and_evidence_follow_from_the_words_alone(chains):
    actions = _by_video(chains)
    for question in chains.questions:
        found = _read(question, actions[question.video])
        assert (question.kind, question.options[question.answer], question.evidence_s) == found, question
    assert set(Counter(question.kind for question in chains.questions)) == {
        "after",
        "before",
        "between",
        "first",
        "last",
        "count",
    }


def test_every_kind_is_asked_in_several_ways_and_with_all_names_of_an_action(chains):
    words = {kind: set() for kind in ("after", "before", "between", "first", "last", "count")}
    for question in chains.questions:
        words[question.kind].add(_MENTION.sub("x", question.question))
    assert all(len(found) >= 3 for found in words.values()), words
    said = {name for question in chains.questions for name, _ in _MENTION.findall(question.question)}
    assert said == set(_CALLED)


def test_every_neighbour_of_a_chain_is_asked_about_but_none_between_two_of_a_kind(chains):
    asked = Counter((question.video, question.kind) for question in chains.questions)
    for video, actions in _by_video(chains).items():
        labels = [action.label for action in actions]
        assert asked[video, "after"] == asked[video, "before"] == len(labels) - 1
        assert asked[video, "between"] == sum(a != b for a, b in zip(labels, labels[2:], strict=False))
        assert asked[video, "first"] == asked[video, "last"] == 1


def test_wrong_options_are_of_the_same_video_first_and_never_what_the_question_names(chains):
    actions = _by_video(chains)
    for question in (question for question in chains.questions if question.kind != "count"):
        assert len(question.options) == (3 if question.kind == "between" else 4)
        assert len(set(question.options)) == len(question.options)
        named = {does(actions[question.video][n].label) for n in _mentions(question.question, actions[question.video])}
        assert not named & set(question.options)
        shown = {does(action.label) for action in actions[question.video]}
        able = shown - named - {question.options[question.answer]}
        wrong = set(question.options) - {question.options[question.answer]}
        assert len(wrong & shown) == min(len(wrong), len(able))


def _shares(questions):
    """How often an option is right among the questions that offer it, by kind and option."""
    right, offered = Counter(), Counter()
    for question in questions:
        right[question.kind, question.options[question.answer]] += 1
        offered.update((question.kind, option) for option in question.options)
    return {key: right[key] / count for key, count in offered.items()}


def _prior_accuracy(train, test):
    """What the shares of options in `train` answer in `test`: accuracy and chance by kind, luck where shares tie."""
    shares, sums = _shares(train.questions), {}
    for question in test.questions:
        found = [shares.get((question.kind, option), 0.0) for option in question.options]
        best = [number for number, share in enumerate(found) if share == max(found)]
        one = ((question.answer in best) / len(best), 1 / len(question.options), 1)
        for kind in (question.kind, "all"):
            sums[kind] = [a + b for a, b in zip(sums.get(kind, (0, 0, 0)), one, strict=True)]
    return {kind: (hits / count, chance / count) for kind, (hits, chance, count) in sums.items()}


def test_no_action_is_right_much_more_often_than_the_number_of_options_says():
    shares = _shares(with_questions(_chains(240, seed=2)).questions)
    assert len(shares) == 5 * 6 + 3
    for (kind, option), share in shares.items():
        chance = 1 / 3 if kind in ("between", "count") else 1 / 4
        assert abs(share - chance) < 0.06, (kind, option, share)


def test_what_is_often_right_is_often_offered_as_a_wrong_option_too():
    rng, timelines = random.Random(4), {}
    for number in range(240):
        # A quarter of the videos ends with sitting down, 15 % with each other action.
        last = "Sit" if number < 60 else [action for action in arid.ACTIONS if action != "Sit"][number % 5]
        others = [action for action in arid.ACTIONS if action != last]
        labels = [*rng.sample(others, 5), last]
        timelines[f"v{number:03d}"] = [(label, 2.0 * n, 2.0 * n + 2) for n, label in enumerate(labels)]
    shares = _shares(with_questions(_dataset(timelines)).questions)
    # Drawn evenly from the five others, it would be right in 36 % of the questions that offer it.
    assert shares["last", "sits down"] < 0.29
    assert min(shares["last", does(label)] for label in arid.ACTIONS) > 0.22


@pytest.mark.data
@pytest.mark.parametrize("name", ["arid6", "arid6-random"])
def test_words_alone_do_not_answer_joined_clips(name, data_root):
    train, test = (with_questions(_joined(name, split, data_root)) for split in ("train", "test"))
    found = _prior_accuracy(train, test)
    assert len(train.questions) > 4000
    assert len(test.questions) > 1500
    for kind, (accuracy, chance) in found.items():
        assert accuracy < chance + (0.02 if kind == "all" else 0.06), (kind, found)
    for (kind, option), share in _shares(train.questions).items():
        chance = 1 / 3 if kind in ("between", "count") else 1 / 4
        assert abs(share - chance) < 0.06, (kind, option, share)


@pytest.mark.data
def test_questions_about_joined_clips_are_true(data_root):
    data = with_questions(_joined("arid6", "test", data_root))
    actions = _by_video(data)
    for question in data.questions:
        kind, right, evidence_s = _read(question, actions[question.video])
        assert (question.kind, question.options[question.answer], question.evidence_s) == (kind, right, evidence_s)


@pytest.mark.data
def test_real_annotations_with_overlaps_give_few_questions_that_are_clear(data_root):
    plain = load("gmdcsa24", "test", root=data_root)
    data = with_questions(plain)
    assert {action.label for action in data.actions} <= set(PHRASES)
    kinds = Counter(question.kind for question in data.questions)
    assert kinds == {"before": 17, "after": 15, "first": 15, "last": 13}
    assert replace(data, questions=()) == plain
    by_id = {question.id: question for question in data.questions}
    # Drinking starts while the person still walks, and goes on while the person stands.
    assert "s2_Fall_12:after:0" not in by_id
    assert "s2_Fall_12:after:1" not in by_id
    fall = by_id["s1_Fall_15:after:0"]
    assert fall.options[fall.answer] == "falls sideways"
    assert fall.evidence_s == (0.0, 6.0)


WALK_SIT_EAT = [("Walking", 0.0, 2.0), ("Sitting", 2.1, 9.0), ("Eating", 5.0, 6.0)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("Sitting", 0.0, 4.0), ("Reading", 4.0, 8.0)], {"after:0", "before:1", "first", "last"}),
        (WALK_SIT_EAT, {"after:0", "before:1", "first"}),
        ([("Sitting", 0.0, 9.0), ("Reading", 0.0, 9.0)], set()),
        ([("Sitting", 0.0, 4.0), ("Reading", 3.8, 8.0)], {"after:0", "before:1", "first", "last"}),
        ([("Sitting", 0.0, 4.0), ("Reading", 3.5, 8.0)], set()),
        ([("Sitting", 0.0, 4.0), ("Reading", 5.5, 8.0)], {"first", "last"}),
        ([("Sitting", 1.5, 4.0), ("Reading", 4.0, 8.0)], {"after:0", "before:1", "last"}),
        ([("Sitting", 0.0, 4.0)], set()),
        ([("Sitting", 0.0, 4.0), ("Sitting", 4.5, 8.0)], {"first", "last"}),
        ([("Sitting", 0.0, 4.0), ("Reading", 4.0, 8.0), ("Eating", 4.2, 9.0)], {"before:1", "before:2", "first"}),
    ],
    ids=[
        "one after the other",
        "one within another",
        "at once",
        "overlap of careless labels",
        "true overlap",
        "long gap",
        "late start",
        "alone",
        "twice the same",
        "two start together",
    ],
)
def test_only_what_is_clear_is_asked(rows, expected):
    other = [("Walking", 0.0, 2.0), ("Drinking", 9.0, 12.0), ("Sleeping", 19.0, 22.0)]
    data = with_questions(_dataset({"v": rows, "other": other}))
    assert {question.id.removeprefix("v:") for question in data.questions if question.video == "v"} == expected


def test_what_goes_on_during_the_right_answer_is_no_wrong_option():
    data = with_questions(
        _dataset({"v": WALK_SIT_EAT, "w": [("Drinking", 0, 2), ("Reading", 3, 5), ("Sleeping", 7, 9)]})
    )
    (question,) = (question for question in data.questions if question.id == "v:after:0")
    assert set(question.options) == {"is sitting", "drinks", "reads", "is sleeping"}


def test_a_fourth_time_is_not_asked_about():
    labels = ("Sit", "Jump", "Sit", "Run", "Sit", "Walk", "Sit", "Turn")
    rows = [(label, 2.0 * number, 2.0 * number + 2) for number, label in enumerate(labels)]
    data = with_questions(_dataset({"v": rows}))
    asked = {question.id for question in data.questions if question.kind == "after"}
    assert asked == {f"v:after:{number}" for number in (0, 1, 2, 3, 4, 5)}
    texts = {question.id: question.question for question in data.questions}
    assert texts["v:after:4"].endswith("for the third time?")


def test_too_few_other_actions_give_no_question():
    data = with_questions(_dataset({"v": [("Sitting", 0.0, 4.0), ("Reading", 4.0, 8.0)]}))
    assert data.questions == ()


def test_every_count_is_right_equally_often_for_every_action(chains):
    counts = Counter()
    for question in (question for question in chains.questions if question.kind == "count"):
        label = _CALLED[_MENTION.search(question.question)[1]]
        counts[label, question.options[question.answer]] += 1
        assert set(question.options) == {"not at all", "once", "twice"}
    for label in arid.ACTIONS:
        assert counts[label, "not at all"] == counts[label, "once"] == counts[label, "twice"] > 0


def test_videos_with_gaps_are_not_counted_in():
    made = _chains(60, seed=3)
    longer = {name: replace(video, duration_s=video.duration_s + 1) for name, video in made.videos.items()}
    assert "count" in {question.kind for question in with_questions(made).questions}
    assert "count" not in {question.kind for question in with_questions(replace(made, videos=longer)).questions}


def test_right_options_stand_at_every_place(chains):
    for size in (3, 4):
        places = Counter(question.answer for question in chains.questions if len(question.options) == size)
        total = sum(places.values())
        assert all(abs(places[place] / total - 1 / size) < 0.06 for place in range(size)), places


def test_an_action_without_phrase_is_quoted():
    rows = [("Open door", 0.0, 2.0), ("Sit", 2.0, 4.0), ("Wash Hands", 4.0, 6.0), ("Run", 6.0, 8.0)]
    data = with_questions(_dataset({"v": rows}))
    asked = {question.id: question for question in data.questions}
    assert '"open door"' in asked["v:after:0"].question
    assert asked["v:after:1"].options[asked["v:after:1"].answer] == "wash hands"


def test_the_same_questions_come_out_whatever_the_order_of_the_labels(chains):
    plain = replace(chains, questions=())
    names = sorted(plain.videos, reverse=True)
    turned = replace(plain, videos={name: plain.videos[name] for name in names}, actions=plain.actions[::-1])
    assert set(with_questions(turned).questions) == set(chains.questions)
    assert [question.video for question in with_questions(turned).questions] == sorted(
        (question.video for question in chains.questions), reverse=True
    )


def test_questions_are_the_same_on_every_machine_and_change_with_the_seed():
    data = _chains(12, seed=5)
    assert hash_of(with_questions(data).questions) == "507a278ba4ab62ee"
    one, two = with_questions(data, seed=1), with_questions(data, seed=2)
    assert [question.id for question in one.questions if question.kind != "count"] == [
        question.id for question in two.questions if question.kind != "count"
    ]
    assert one.questions != two.questions


def test_all_else_stays_as_it_was_and_the_fingerprint_tells():
    data = replace(_chains(4, seed=6), queries=(Query("q", "test-000", "a person sits down", 0.0, 1.5),))
    asked = with_questions(data)
    assert replace(asked, questions=()) == data
    assert asked.fingerprint != data.fingerprint


def test_a_data_set_without_actions_is_refused():
    data = Dataset("mine", "train", "demo", {"v": Video("v", None, 3.0)}, [Query("q", "v", "a man sits", 0, 1)])
    with pytest.raises(ValueError, match="mine train has no labelled actions that could be asked about"):
        with_questions(data)


def test_a_data_set_that_has_questions_is_refused():
    data = replace(_chains(2, seed=7), questions=(Question("a", "test-000", "What?", ("this", "that"), 0),))
    with pytest.raises(ValueError, match="made test has 1 questions already"):
        with_questions(data)


def test_actions_that_read_the_same_are_refused():
    data = _dataset({"v": [("Walk", 0.0, 2.0), ("Walking", 2.0, 4.0), ("Run", 4.0, 6.0)]})
    with pytest.raises(ValueError, match="the actions 'Walk' and 'Walking' both read 'walks'"):
        with_questions(data)
