"""Multiple-choice questions whose wrong options happen elsewhere in the same video: words alone do not help (ours)."""

from __future__ import annotations

from typing import Any

import numpy as np

from vkdlab.data.tabletop.events import Scene
from vkdlab.data.tabletop.language import Story, attributes, choose, clause, describe, following, matching, only, phrase
from vkdlab.data.tabletop.stage import STAGE_WIDTH, Event, Object
from vkdlab.data.tabletop.verbs import VERBS

ANSWERS = {
    "slide left": "it slides left",
    "slide right": "it slides right",
    "slide up": "it slides away from the viewer",
    "slide down": "it slides towards the viewer",
    "lift": "it is lifted",
    "drop": "it is dropped",
    "spin": "it spins",
    "grow": "it grows",
    "shrink": "it shrinks",
    "hide": "it is covered with a cloth",
    "reveal": "it is uncovered",
    "collide": "it bumps into something",
    "shake": "it is shaken",
    "pour-into": "something is poured out of it",
    "pick-up": "it is taken away",
    "put-down": "it is put on the table",
}
_WHICH = {
    "slide left": "slides left",
    "slide right": "slides right",
    "slide up": "slides away from the viewer",
    "slide down": "slides towards the viewer",
    "lift": "is lifted",
    "drop": "is dropped",
    "spin": "spins",
    "grow": "grows",
    "shrink": "shrinks",
    "hide": "is covered with a cloth",
    "reveal": "is uncovered",
    "collide": "bumps into another",
    "shake": "is shaken",
    "pick-up": "is taken away",
    "put-down": "is put on the table",
}
_COUNTS = ("not at all", "once", "twice")
_COUNT_KEPT = (0.07, 0.16, 1.0)
_PLACES = ("far left", "far right", "near left", "near right")
_STAYS = ("lift", "drop", "spin", "grow", "shrink", "hide", "reveal", "shake")


def questions(scene: Scene, story: Story, rng: np.random.Generator) -> list[dict[str, Any]]:
    """At most one question of each type.

    Returns:
        Rows with `question`, `options`, `answer` (index), `kind`, `evidence` (numbers of the first and the last event;
        None means all of the video).
    """
    makers = (_what, _which, _order, _count, _where)
    return [row for maker in makers if (row := maker(scene, story, rng))]


def _row(
    rng, question: str, kind: str, right: str, wrong: list[str], evidence: tuple[Event, Event] | None
) -> dict[str, Any]:
    options = [right, *wrong]
    order = rng.permutation(len(options)).tolist()
    return {
        "question": question,
        "options": [options[i] for i in order],
        "answer": order.index(0),
        "kind": kind,
        "evidence": evidence and (evidence[0].id, evidence[1].id),
    }


def _shuffled(items, rng) -> list:
    items = list(items)
    return [items[i] for i in rng.permutation(len(items))]


def _involved(thing: Object, story: Story) -> list[Event]:
    return [e for e in story.events if thing.id in (e.object, e.other)]


def _possible(verb: str, thing: Object) -> bool:
    return not (
        (verb == "pour-into" and thing.shape not in ("cup", "bottle"))
        or (verb == "grow" and thing.size == "large")
        or (verb == "shrink" and thing.size == "small")
    )


def _what(scene: Scene, story: Story, rng) -> dict[str, Any] | None:
    for event in _shuffled(story.events, rng):
        thing = story.objects[event.object - 1]
        if len(_involved(thing, story)) != 1:
            continue
        elsewhere = {e.verb for e in story.events if e.object != thing.id}
        # A drop follows a lift, so it is never all that happens to a thing, and as an option would give itself away.
        unlikely = (event.verb, "drop", *event.also)
        able = [v for v in VERBS if v not in unlikely and _possible(v, thing)]
        wrong = _shuffled([v for v in able if v in elsewhere], rng) + _shuffled(
            [v for v in able if v not in elsewhere], rng
        )
        name = phrase(attributes(thing, story, rng), rng)
        text = choose(
            (f"What happens to {name}?", f"What is done to {name}?", f"What does one see {name} go through?"), rng
        )
        return _row(rng, text, "verb", ANSWERS[event.verb], [ANSWERS[v] for v in wrong[:4]], (event, event))
    return None


def _which(scene: Scene, story: Story, rng) -> dict[str, Any] | None:
    for event in _shuffled(story.events, rng):
        if event.verb not in _WHICH or only(describe(event, story, rng, anything=True), story) is not event:
            continue
        thing = story.objects[event.object - 1]
        others = [o for o in story.objects if o.id not in (thing.id, event.other) and _possible(event.verb, o)]
        if len(others) >= 2:
            wrong = [f"the {o.colour} {o.shape}" for o in _shuffled(others, rng)[:3]]
            text = choose((f"Which object {_WHICH[event.verb]}?", f"What is it that {_WHICH[event.verb]}?"), rng)
            return _row(rng, text, "object", f"the {thing.colour} {thing.shape}", wrong, (event, event))
    return None


def _order(scene: Scene, story: Story, rng) -> dict[str, Any] | None:
    for anchor in _shuffled(story.events, rng):
        answer, mention = following(anchor, story), describe(anchor, story, rng)
        if answer is None or only(mention, story) is not anchor:
            continue
        texts: dict[int, str] = {}
        for e in story.events:
            statement = describe(e, story, rng)
            # What a thing was lifted for or put under a cloth for gives itself away: the same object is no option.
            if e is not anchor and e.object != anchor.object and only(statement, story) is e:
                texts[e.id] = clause(statement, rng)
        if answer.id in texts and len(texts) >= 3:
            wrong = _shuffled([text for ident, text in texts.items() if ident != answer.id], rng)[:3]
            text = clause(mention, rng)
            forms = (f"What happens next after {text}?", f"What is the next thing to start after {text}?")
            return _row(rng, choose(forms, rng), "order", texts[answer.id], wrong, (anchor, answer))
    return None


def _count(scene: Scene, story: Story, rng) -> dict[str, Any] | None:
    """Tries verbs in any order and passes over most frequent counts, so that a verb tells little about its count."""
    for verb in _shuffled(_WHICH, rng):
        events, doubtful = matching({"verb": verb, "object": {}, "other": None}, story)
        if doubtful or len(events) > 2 or rng.random() > _COUNT_KEPT[len(events)]:
            continue
        evidence = (events[0], events[-1]) if events else None
        wrong = [text for n, text in enumerate(_COUNTS) if n != len(events)]
        text = f"How often does it happen that something {_WHICH[verb].replace('another', 'something else')}?"
        return _row(rng, text, "count", _COUNTS[len(events)], wrong, evidence)
    return None


def _where(scene: Scene, story: Story, rng) -> dict[str, Any] | None:
    found: dict[str, list[Event]] = {}
    for event in story.events:
        if event.verb not in _STAYS:
            continue
        track = scene.layers[event.object - 1].track
        x, y = track.x[event.start_frame] / STAGE_WIDTH - 0.5, track.y[event.start_frame] - 0.66
        if abs(x) > 0.06 and abs(y) > 0.04:
            place = f"{'far' if y < 0 else 'near'} {'left' if x < 0 else 'right'}"
            found.setdefault(place, []).append(event)
    for place in _shuffled(_PLACES, rng):
        for event in _shuffled(found.get(place, []), rng):
            statement = describe(event, story, rng, anything=bool(rng.random() < 0.5))
            if only(statement, story) is event:
                text = clause(statement, rng)
                forms = (
                    f"In which part of the table is it that {text}?",
                    f"Where on the table does one see that {text}?",
                )
                return _row(rng, choose(forms, rng), "where", place, [p for p in _PLACES if p != place], (event, event))
    return None
