"""What can be said about a video: clauses, names for objects, and queries that name exactly one moment (ours).

A query is kept as its sentence and as `logic`, what the sentence means, so that a resolver can be held against it:
`{"verb", "object", "other", "ordinal", "relation", "anchor"}`, where objects are given by the attributes that the
sentence mentions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vkdlab.data.tabletop.stage import Event, Object

NOUNS = {
    "cup": ("cup", "mug"),
    "bowl": ("bowl", "dish"),
    "block": ("block", "cube", "die"),
    "ball": ("ball", "striped ball"),
    "bottle": ("bottle", "flask"),
    "duck": ("duck", "rubber duck", "toy duck"),
}
CLAUSES = {
    "slide left": (
        "{o} slides to the left",
        "{o} slides left",
        "{o} moves leftwards across the table",
        "{o} glides left",
    ),
    "slide right": (
        "{o} slides to the right",
        "{o} slides right",
        "{o} moves rightwards across the table",
        "{o} glides right",
    ),
    "slide up": (
        "{o} slides away from the viewer",
        "{o} slides up the picture",
        "{o} moves to the far side",
        "{o} glides up",
    ),
    "slide down": (
        "{o} slides towards the viewer",
        "{o} slides down the picture",
        "{o} moves to the near side",
        "{o} glides down",
    ),
    "lift": ("{o} is lifted", "a hand lifts {o}", "{o} is raised above the table", "somebody holds {o} up"),
    "drop": ("{o} is dropped", "a hand lets {o} fall", "{o} falls onto the table", "somebody drops {o}"),
    "spin": ("{o} spins", "{o} turns round and round", "{o} whirls around", "{o} rotates"),
    "grow": ("{o} grows", "{o} gets bigger", "{o} becomes larger", "{o} swells"),
    "shrink": ("{o} shrinks", "{o} gets smaller", "{o} becomes tinier", "{o} dwindles"),
    "hide": ("{o} is covered with a cloth", "a cloth hides {o}", "somebody puts a cloth over {o}", "{o} is hidden"),
    "reveal": (
        "{o} is uncovered",
        "the cloth over {o} is taken away",
        "somebody pulls the cloth off {o}",
        "{o} is revealed",
    ),
    "collide": ("{o} bumps into {p}", "{o} hits {p}", "{o} runs into {p}", "{o} collides with {p}"),
    "shake": ("{o} is shaken", "{o} shakes from side to side", "{o} rattles to and fro", "{o} is wiggled"),
    "pour-into": (
        "{o} is emptied into {p}",
        "a hand pours from {o} into {p}",
        "{o} is tilted over {p}",
        "somebody fills {p} from {o}",
    ),
    "pick-up": (
        "{o} is taken away",
        "a hand picks up {o} and carries it off",
        "{o} is picked up and removed",
        "somebody takes {o}",
    ),
    "put-down": (
        "{o} is put on the table",
        "a hand brings {o} and puts it down",
        "{o} is placed on the table",
        "somebody sets down {o}",
    ),
}
ORDINALS = {1: "first", 2: "second", 3: "third"}
MIN_GAP_S = 0.4


@dataclass(frozen=True)
class Story:
    """What language needs of a video."""

    objects: tuple[Object, ...]
    events: tuple[Event, ...]
    fps: float

    def start_s(self, event: Event) -> float:
        """Start, seconds, exact to the frame."""
        return round(event.start_frame / self.fps, 4)

    def end_s(self, event: Event) -> float:
        """End, seconds, exact to the frame."""
        return round(event.end_frame / self.fps, 4)


def fits(thing: Object, wanted: dict[str, str]) -> bool:
    """Whether an object has all wanted attributes."""
    return all(getattr(thing, name) == value for name, value in wanted.items())


def attributes(thing: Object, story: Story, rng: np.random.Generator) -> dict[str, str]:
    """Attributes that single an object out in its video; short ones are allowed when they do."""
    resized = any(e.object == thing.id and e.verb in ("grow", "shrink") for e in story.events)
    choices = [("colour", "shape")] * 4 + [("shape",), ("colour",)] + ([] if resized else [("size", "colour", "shape")])
    for index in rng.permutation(len(choices)):
        wanted = {name: getattr(thing, name) for name in choices[index]}
        if sum(fits(other, wanted) for other in story.objects) == 1:
            return wanted
    return {"colour": thing.colour, "shape": thing.shape}


def phrase(wanted: dict[str, str], rng: np.random.Generator) -> str:
    """Attributes as words: "the small red cup", "the red thing", "something"."""
    if not wanted:
        return ("something", "an object")[int(rng.integers(2))]
    noun = choose(NOUNS[wanted["shape"]], rng) if "shape" in wanted else choose(("thing", "object"), rng)
    return " ".join(["the", *[wanted[name] for name in ("size", "colour") if name in wanted], noun])


def clause(logic: dict[str, Any], rng: np.random.Generator) -> str:
    """A sentence without capital and full stop for a verb and its objects."""
    words = {"o": phrase(logic["object"], rng)}
    if logic["other"] is not None:
        words["p"] = (
            phrase(logic["other"], rng).replace("something", "something else").replace("an object", "another object")
        )
    return choose(CLAUSES[logic["verb"]], rng).format(**words)


def choose(items, rng: np.random.Generator):
    """One of several, each as likely."""
    return items[int(rng.integers(len(items)))]


def describe(event: Event, story: Story, rng: np.random.Generator, *, anything: bool = False) -> dict[str, Any]:
    """The logic of a plain statement about an event; `anything` leaves the object open."""
    other = None
    if event.other is not None:
        other = {} if anything else attributes(story.objects[event.other - 1], story, rng)
    return {
        "verb": event.verb,
        "object": {} if anything else attributes(story.objects[event.object - 1], story, rng),
        "other": other,
    }


def matching(logic: dict[str, Any], story: Story) -> tuple[list[Event], list[Event]]:
    """Events that a statement describes, and events that a generous viewer could take for them."""
    exact, doubtful = [], []
    for event in story.events:
        subject = fits(story.objects[event.object - 1], logic["object"])
        second = event.other is not None and fits(story.objects[event.other - 1], logic["object"])
        if event.verb == logic["verb"]:
            target = logic["other"] is None or fits(story.objects[event.other - 1], logic["other"])
            if subject and target:
                exact.append(event)
            elif event.verb == "collide" and second:
                doubtful.append(event)
        elif logic["verb"] in event.also and (subject or second):
            doubtful.append(event)
    return exact, doubtful


def only(logic: dict[str, Any], story: Story) -> Event | None:
    """The one event that a plain statement describes, or None where there are none, several or doubtful ones."""
    exact, doubtful = matching(logic, story)
    return exact[0] if len(exact) == 1 and not doubtful else None


def queries(story: Story, rng: np.random.Generator) -> list[dict[str, Any]]:
    """About two queries an event: a plain one where it is unique, and one with order or a relation.

    Returns:
        Rows with `sentence`, `kind`, `event` (number) and `logic`.
    """
    rows, said = [], set()
    for event in story.events:
        makers = [_plain] + [(_ordinal, _after, _before, _while, _next, _anything)[i] for i in rng.permutation(6)]
        found = 0
        for maker in makers:
            row = maker(event, story, rng)
            if row and row["sentence"] not in said:
                said.add(row["sentence"])
                rows.append({**row, "event": event.id})
                found += 1
                if found == 2:
                    break
    return rows


def paraphrases(event: Event, story: Story, rng: np.random.Generator) -> list[str]:
    """Four ways to say the same event."""
    thing = {"colour": story.objects[event.object - 1].colour, "shape": story.objects[event.object - 1].shape}
    other = story.objects[event.other - 1] if event.other is not None else None
    words = {"p": phrase({"colour": other.colour, "shape": other.shape}, rng)} if other else {}
    return [_sentence(text.format(o=phrase(thing, rng), **words)) for text in CLAUSES[event.verb]]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _row(text: str, kind: str, statement: dict, *, ordinal=None, relation=None, anchor=None) -> dict[str, Any]:
    return {
        "sentence": _sentence(text),
        "kind": kind,
        "logic": {**statement, "ordinal": ordinal, "relation": relation, "anchor": anchor},
    }


def _plain(event, story, rng):
    statement = describe(event, story, rng)
    return _row(clause(statement, rng), "plain", statement) if only(statement, story) is event else None


def _anything(event, story, rng):
    statement = describe(event, story, rng, anything=True)
    return _row(clause(statement, rng), "verb", statement) if only(statement, story) is event else None


def _ordinal(event, story, rng):
    statement = describe(event, story, rng, anything=bool(rng.random() < 0.5))
    exact, doubtful = matching(statement, story)
    starts = [story.start_s(e) for e in exact]
    if doubtful or len(exact) < 2 or min(np.diff(starts)) < MIN_GAP_S or exact.index(event) > 2:
        return None
    place = exact.index(event) + 1
    text = clause(statement, rng)
    forms = (f"{text} for the {ORDINALS[place]} time", f"the {ORDINALS[place]} time that {text}")
    return _row(choose(forms, rng), "ordinal", statement, ordinal=place)


def _related(event, story, rng, relation: str, forms: tuple[str, ...], holds):
    """A statement that a relation to another, unmistakable event makes unique, the object left open if it can be."""
    for anything in (True, False):
        statement = describe(event, story, rng, anything=anything)
        exact, doubtful = matching(statement, story)
        for index in rng.permutation(len(story.events)):
            anchor = story.events[index]
            if anchor is event or (anchor.object == event.object and relation == "while"):
                continue
            mention = describe(anchor, story, rng)
            if only(mention, story) is not anchor or holds(event, anchor) != "yes":
                continue
            verdicts = [holds(e, anchor) for e in (*exact, *doubtful) if e is not event]
            if all(verdict == "no" for verdict in verdicts):
                text = choose(forms, rng).format(x=clause(statement, rng), a=clause(mention, rng))
                return _row(text, relation, statement, relation=relation, anchor=mention)
    return None


def _after(event, story, rng):
    def holds(e, anchor):
        return (
            "yes"
            if e.start_frame >= anchor.end_frame
            else "no"
            if e.end_frame <= anchor.start_frame or e is anchor
            else "?"
        )

    return _related(event, story, rng, "after", ("after {a}, {x}", "{x} after {a}", "once {a}, {x}"), holds)


def _before(event, story, rng):
    def holds(e, anchor):
        return (
            "yes"
            if e.end_frame <= anchor.start_frame
            else "no"
            if e.start_frame >= anchor.end_frame or e is anchor
            else "?"
        )

    return _related(event, story, rng, "before", ("before {a}, {x}", "{x} before {a}"), holds)


def _while(event, story, rng):
    def holds(e, anchor):
        shared = min(e.end_frame, anchor.end_frame) - max(e.start_frame, anchor.start_frame)
        return "no" if shared <= 0 or e is anchor else "yes" if shared >= MIN_GAP_S * story.fps else "?"

    return _related(event, story, rng, "while", ("while {a}, {x}", "{x} while {a}", "as {a}, {x}"), holds)


def following(anchor: Event, story: Story) -> Event | None:
    """What starts next once an event is over; None where that is not clear."""
    later = [e for e in story.events if e.start_frame >= anchor.end_frame]
    within = [e for e in story.events if anchor.end_frame - MIN_GAP_S * story.fps < e.start_frame < anchor.end_frame]
    if not later or any(e is not anchor for e in within):
        return None
    if len(later) > 1 and later[1].start_frame - later[0].start_frame < MIN_GAP_S * story.fps:
        return None
    return later[0]


def _next(event, story, rng):
    for index in rng.permutation(len(story.events)):
        anchor = story.events[index]
        if anchor is event or following(anchor, story) is not event:
            continue
        mention = describe(anchor, story, rng)
        if only(mention, story) is anchor:
            forms = ("the next thing to start after {a}", "what happens next after {a}")
            text = choose(forms, rng).format(a=clause(mention, rng))
            return _row(text, "next", {"verb": None, "object": {}, "other": None}, relation="next", anchor=mention)
    return None
