"""What is said about the built-in world: each query names one moment, and questions cannot be answered from words."""

import math
from collections import Counter

import pytest

from vkdlab.data.tabletop import VERBS, config_of
from vkdlab.data.tabletop.build import labels_of
from vkdlab.data.tabletop.events import plan
from vkdlab.data.tabletop.language import CLAUSES, NOUNS


@pytest.fixture(scope="module")
def videos():
    """Labels of forty demo videos; planning needs no rendering."""
    config = config_of("demo")
    return [labels_of(plan(config, "train", index)) for index in range(40)]


def _is(video, ident, wanted):
    thing = next(row for row in video["instances"] if row["id"] == ident)
    return all(thing["kind" if name == "shape" else name] == value for name, value in wanted.items())


def _said(video, logic):
    """Events that a plain statement fits, however generously it is read."""
    found = []
    for event in video["events"]:
        parts = [event["object"]] + ([event["other"]] if event["other"] else [])
        if event["verb"] == logic["verb"]:
            candidates = parts if event["verb"] == "collide" else parts[:1]
            if any(_is(video, part, logic["object"]) for part in candidates) and (
                logic["other"] is None or any(_is(video, part, logic["other"]) for part in parts)
            ):
                found.append(event)
        elif logic["verb"] in event["also"] and any(_is(video, part, logic["object"]) for part in parts):
            found.append(event)
    return sorted(found, key=lambda event: event["start_s"])


def _resolve(video, logic):
    """Slow and obvious: the events that a query names, written from the meaning of its words alone."""
    if logic["relation"] is None:
        found = _said(video, logic)
        return found if logic["ordinal"] is None else found[logic["ordinal"] - 1 : logic["ordinal"]]
    anchors = _said(video, logic["anchor"])
    if len(anchors) != 1:
        return []
    (anchor,) = anchors
    if logic["relation"] == "next":
        later = [event for event in video["events"] if event["start_s"] >= anchor["end_s"]]
        return sorted(later, key=lambda event: event["start_s"])[:1]
    others = [event for event in _said(video, logic) if event["id"] != anchor["id"]]
    return {
        "after": [event for event in others if event["end_s"] > anchor["start_s"]],
        "before": [event for event in others if event["start_s"] < anchor["end_s"]],
        "while": [
            event for event in others if event["start_s"] < anchor["end_s"] and event["end_s"] > anchor["start_s"]
        ],
    }[logic["relation"]]


def test_every_query_names_exactly_one_moment_by_an_independent_resolver(videos):
    kinds = Counter()
    for video in videos:
        for query in video["queries"]:
            found = _resolve(video, query["logic"])
            assert [event["id"] for event in found] == [query["event"]], (video["id"], query)
            assert (found[0]["start_s"], found[0]["end_s"]) == (query["start_s"], query["end_s"])
            kinds[query["kind"]] += 1
    assert set(kinds) == {"plain", "verb", "ordinal", "after", "before", "while", "next"}
    assert sum(kinds.values()) - kinds["plain"] >= 0.45 * sum(kinds.values())


def test_after_and_before_hold_strictly_and_while_overlaps(videos):
    for video in videos:
        for query in video["queries"]:
            relation, anchor = query["logic"]["relation"], query["logic"]["anchor"]
            if relation:
                (other,) = _said(video, anchor)
                if relation in ("after", "next"):
                    assert query["start_s"] >= other["end_s"]
                elif relation == "before":
                    assert query["end_s"] <= other["start_s"]
                else:
                    assert min(query["end_s"], other["end_s"]) - max(query["start_s"], other["start_s"]) > 0.399


def test_a_sentence_says_the_attributes_that_its_meaning_names(videos):
    for video in videos:
        for query in video["queries"]:
            words = query["sentence"].lower()
            for statement in filter(None, (query["logic"], query["logic"]["anchor"])):
                for wanted in filter(None, (statement["object"], statement["other"])):
                    for name, value in wanted.items():
                        assert any(word in words for word in (NOUNS[value] if name == "shape" else [value])), query
            if query["logic"]["ordinal"]:
                assert ("first", "second", "third")[query["logic"]["ordinal"] - 1] in words


def test_a_video_has_no_sentence_twice(videos):
    for video in videos:
        sentences = [query["sentence"] for query in video["queries"]]
        assert len(set(sentences)) == len(sentences)


def test_every_event_has_four_different_paraphrases(videos):
    assert set(CLAUSES) == set(VERBS)
    for video in videos:
        for event in video["events"]:
            assert len(set(event["paraphrases"])) == 4


def test_questions_have_three_to_five_different_options_and_evidence_within_the_video(videos):
    for video in videos:
        for question in video["questions"]:
            assert 3 <= len(question["options"]) <= 5
            assert len(set(question["options"])) == len(question["options"])
            start_s, end_s = question["evidence_s"]
            assert 0 <= start_s < end_s <= video["duration_s"]
    assert {question["kind"] for video in videos for question in video["questions"]} == {
        "verb",
        "object",
        "order",
        "count",
        "where",
    }


def test_the_answers_position_is_uniform(videos):
    questions = [question for video in videos for question in video["questions"]]
    for size in (3, 4, 5):
        positions = Counter(question["answer"] for question in questions if len(question["options"]) == size)
        total = sum(positions.values())
        surprise = sum((positions[i] - total / size) ** 2 / (total / size) for i in range(size))
        assert surprise < 3 * size + 3 * math.sqrt(2 * size), (size, positions)


def test_wrong_objects_are_in_the_video_and_do_not_do_it(videos):
    from vkdlab.data.tabletop.questions import _WHICH

    asked = 0
    for video in videos:
        for question in (row for row in video["questions"] if row["kind"] == "object"):
            verb = next(verb for verb, words in _WHICH.items() if question["question"].endswith(f"{words}?"))
            names = {f"the {row.get('colour')} {row['kind']}": row["id"] for row in video["instances"]}
            doing = {event["object"] for event in video["events"] if event["verb"] == verb}
            right = question["options"][question["answer"]]
            for option in question["options"]:
                assert (names[option] in doing) == (option == right)
            asked += 1
    assert asked > 20


def test_counts_are_right_and_no_count_is_the_usual_answer(videos):
    from vkdlab.data.tabletop.questions import _WHICH

    answers = Counter()
    for video in videos:
        for question in (row for row in video["questions"] if row["kind"] == "count"):
            words = question["question"].removeprefix("How often does it happen that something ").rstrip("?")
            verb = next(verb for verb, text in _WHICH.items() if text.replace("another", "something else") == words)
            count = sum(event["verb"] == verb for event in video["events"])
            right = question["options"][question["answer"]]
            assert right == ("not at all", "once", "twice")[count]
            answers[right] += 1
    assert max(answers.values()) <= 0.6 * sum(answers.values())


def test_wrong_verbs_do_not_happen_to_the_object_and_mostly_happen_elsewhere(videos):
    from vkdlab.data.tabletop.questions import ANSWERS

    elsewhere = total = 0
    for video in videos:
        for question in (row for row in video["questions"] if row["kind"] == "verb"):
            happening = {ANSWERS[event["verb"]] for event in video["events"]}
            assert question["options"][question["answer"]] in happening
            wrong = [option for n, option in enumerate(question["options"]) if n != question["answer"]]
            elsewhere += sum(option in happening for option in wrong)
            total += len(wrong)
    assert elsewhere / total > 0.5


def test_the_next_thing_in_an_order_question_starts_after_the_first_is_over(videos):
    asked = 0
    for video in videos:
        for question in (row for row in video["questions"] if row["kind"] == "order"):
            start_s, end_s = question["evidence_s"]
            inside = [event for event in video["events"] if start_s <= event["start_s"] and event["end_s"] <= end_s]
            assert inside[0]["start_s"] == start_s
            assert any(event["end_s"] == end_s and event["start_s"] >= inside[0]["end_s"] for event in inside)
            asked += 1
    assert asked > 10
