"""Multiple-choice questions about the order of labelled actions in real videos, which words alone do not answer (ours).

A question is asked only where the labels give it one answer: an action that occurs several times is named with "for the
first time", and what overlaps with others, or lies too far from what it is asked about, is passed over. Wrong options
are actions of the same video first. Language must not tell the answer, so these are drawn such that, within each kind
of question, every action is right in about the same share of the questions that offer it, as nearly as the videos
allow. Joined clips allow it; in GMDCSA-24 most videos end with a fall, and who knows that answers more than chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .datasets import Action, Dataset, Question, spread

OPTIONS = {"after": 4, "before": 4, "between": 3, "first": 4, "last": 4, "count": 3}
"""How many options a question of each kind offers. Two actions are no option "between" them: with four options,
frequent actions could not be offered as wrong ones often enough."""
FEWEST_OPTIONS = 3
"""A question for which there are not as many options is not asked."""
CLOSE_S = 0.25
"""Labels of two actions that follow one another may overlap by as much, seconds."""
APART_S = 0.5
"""Two actions that start closer to one another have no order that could be asked for, seconds."""
LONGEST_GAP_S = 1.0
"""What starts later than this after an action does not come right after it, seconds."""
COUNTS = ("not at all", "once", "twice")
ORDINALS = ("first", "second", "third")

PHRASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "Jump": ("jumps", ("jumping", "jumping up and down")),
    "Run": ("runs", ("running", "running along")),
    "Sit": ("sits down", ("sitting down", "taking a seat")),
    "Stand": ("stands up", ("standing up", "getting up")),
    "Turn": ("turns around", ("turning around", "turning to another direction")),
    "Walk": ("walks", ("walking", "walking along")),
    "Drinking": ("drinks", ("drinking",)),
    "Eating": ("eats", ("eating",)),
    "Exercising": ("does exercises", ("exercising", "doing exercises")),
    "Falling (BW)": ("falls backward", ("falling backward",)),
    "Falling (FW)": ("falls forward", ("falling forward",)),
    "Falling (SW)": ("falls sideways", ("falling sideways", "falling to the side")),
    "Reading": ("reads", ("reading",)),
    "Sitting": ("is sitting", ("sitting",)),
    "Sleeping": ("is sleeping", ("sleeping", "lying asleep")),
    "Standing": ("is standing", ("standing",)),
    "Walking": ("walks", ("walking",)),
    "Writing": ("writes", ("writing",)),
}
"""For each label what the person does, as an option says it, and what questions call it."""

_FORMS = {
    "after": (
        "What does the person do right after {x}?",
        "What is the next thing that the person does after {x}?",
        "Which action comes directly after {x}?",
        "What does one see the person do next after {x}?",
    ),
    "before": (
        "What does the person do right before {x}?",
        "What is the last thing that the person does before {x}?",
        "Which action comes directly before {x}?",
        "What does one see the person do just before {x}?",
    ),
    "between": (
        "What does the person do between {x} and {y}?",
        "Which action comes after {x} and before {y}?",
        "After {x}, what does the person do before {y}?",
    ),
    "first": (
        "What does the person do first?",
        "Which action comes first in the video?",
        "What does the person do at the beginning of the video?",
        "With which action does the video start?",
    ),
    "last": (
        "What does the person do last?",
        "Which action comes last in the video?",
        "What does the person do at the end of the video?",
        "With which action does the video end?",
    ),
    "count": (
        "How often does one see the person {x}?",
        "How many times is the person seen {x}?",
        "How often is the person {x} in this video?",
    ),
}


@dataclass(frozen=True)
class _Asked:
    """A question whose options are still labels: the right one, and what may be offered as a wrong one."""

    id: str
    video: str
    kind: str
    text: str
    right: str
    near: tuple[str, ...]
    """Labels of the same video."""
    far: tuple[str, ...]
    """Labels of other videos."""
    evidence_s: tuple[float, float]


def with_questions(dataset: Dataset, *, seed: int = 0) -> Dataset:
    """The same data set with questions about the order of its labelled actions.

    Kinds: what comes right "after" or "before" an action or "between" two, what comes "first" and "last", and, where
    the labels fill a video one after another, how often it shows an action ("count"). Evidence reaches from the first
    to the last of the actions that the question and its answer name; for "count" it is the whole video. Wording and
    order of the options depend on the seed, the video and the question alone, which options are wrong on all videos:
    ask first and take subsets afterwards.

    Args:
        dataset: its actions say what a person does and when; an action without an entry in `PHRASES` is quoted.
        seed: another one gives other words and other wrong options.

    Raises:
        ValueError: the data set has no actions, has questions already, or two of its actions read the same.
    """
    if dataset.questions:
        raise ValueError(f"{dataset.name} {dataset.split} has {len(dataset.questions)} questions already")
    if not dataset.actions:
        raise ValueError(f"{dataset.name} {dataset.split} has no labelled actions that could be asked about")
    labels = sorted({action.label for action in dataset.actions})
    said: dict[str, str] = {}
    for label in labels:
        if (other := said.setdefault(does(label), label)) != label:
            raise ValueError(
                f"{dataset.name} {dataset.split}: the actions {other!r} and {label!r} both read {does(label)!r}, "
                "and options must differ: give them one label, or one of them another phrase"
            )
    timelines: dict[str, list[Action]] = {name: [] for name in dataset.videos}
    for action in sorted(dataset.actions, key=lambda action: (action.start_s, action.end_s, action.label)):
        timelines[action.video].append(action)
    durations_s = {name: video.duration_s for name, video in dataset.videos.items()}
    asked = [row for name in timelines for row in _about_order(timelines[name], durations_s[name], labels, seed)]
    questions = _counts(timelines, durations_s, labels, seed)
    for kind in OPTIONS:
        questions += _with_wrong([row for row in asked if row.kind == kind], seed)
    place = {name: number for number, name in enumerate(dataset.videos)}
    questions.sort(key=lambda row: (place[row.video], tuple(OPTIONS).index(row.kind), row.id))
    return replace(dataset, questions=tuple(questions))


def does(label: str) -> str:
    """What the person does, as an option says it: "sits down" for "Sit"; the label itself where it has no phrase."""
    return PHRASES[label][0] if label in PHRASES else label.lower()


def _about_order(timeline: list[Action], duration_s: float, labels: list[str], seed: int) -> Iterator[_Asked]:
    spans = [(action.start_s, action.end_s) for action in timeline]
    mirrored = [(-end_s, -start_s) for start_s, end_s in spans]
    after = [_following(spans, index) for index in range(len(spans))]
    before = [_following(mirrored, index) for index in range(len(spans))]
    found = [("first", _outermost(spans, 0.0)), ("last", _outermost(mirrored, -duration_s))]
    for index, (earlier, later) in enumerate(zip(before, after, strict=True)):
        found += [("after", later, index), ("before", earlier, index)]
        if None not in (earlier, later) and after[earlier] == before[later] == index:
            found.append(("between", index, earlier, later))
    for kind, answer, *anchors in found:
        if answer is not None and (row := _asked(timeline, kind, answer, anchors, labels, seed)):
            yield row


def _asked(
    timeline: list[Action], kind: str, answer: int, anchors: list[int], labels: list[str], seed: int
) -> _Asked | None:
    """The question to which one of the timeline is the answer; None where what it names would give that away."""
    right, named = timeline[answer], [timeline[index].label for index in anchors]
    ident = ":".join([right.video, kind, *map(str, anchors)])
    called = [_called(timeline, index, f"{seed} {ident}") for index in anchors]
    if len({right.label, *named}) <= len(named) or None in called:
        return None
    involved = [right, *(timeline[index] for index in anchors)]
    shown = {action.label for action in timeline}
    # What goes on at the same time could be taken for a right answer too.
    at_once = {action.label for action in timeline if any(_shared_s(action, other) > CLOSE_S for other in involved)}
    return _Asked(
        id=ident,
        video=right.video,
        kind=kind,
        text=_pick(_FORMS[kind], f"{seed} {ident}").format(**dict(zip("xy", called, strict=False))),
        right=right.label,
        near=tuple(sorted(shown - at_once)),
        far=tuple(label for label in labels if label not in shown),
        evidence_s=(min(action.start_s for action in involved), max(action.end_s for action in involved)),
    )


def _shared_s(one: Action, two: Action) -> float:
    return min(one.end_s, two.end_s) - max(one.start_s, two.start_s)


def _following(spans: Sequence[tuple[float, float]], index: int) -> int | None:
    """What starts next once a moment is over, None where that is not clear; for mirrored times, what ends before."""
    start_s, end_s = spans[index]
    others = [(*span, other) for other, span in enumerate(spans) if other != index]
    if any(start < end_s - CLOSE_S and end > end_s + CLOSE_S for start, end, _ in others):
        return None
    later = sorted(row for row in others if row[0] >= end_s - CLOSE_S and row[0] > start_s)
    if not later or later[0][0] - end_s > LONGEST_GAP_S or (later[1:] and later[1][0] - later[0][0] < APART_S):
        return None
    return later[0][2]


def _outermost(spans: Sequence[tuple[float, float]], border_s: float) -> int | None:
    """What comes first after the video's border, None where that is not clear or nothing else comes."""
    if len(spans) < 2:
        return None
    index = min(range(len(spans)), key=spans.__getitem__)
    start_s, end_s = spans[index]
    clear = all(start >= end_s - CLOSE_S for other, (start, _) in enumerate(spans) if other != index)
    return index if clear and start_s - border_s <= LONGEST_GAP_S else None


def _called(timeline: list[Action], index: int, key: str) -> str | None:
    """What a question calls one of several actions; None where there is no ordinal for it."""
    label = timeline[index].label
    same = [other for other, action in enumerate(timeline) if action.label == label]
    if len(same) == 1:
        return _doing(label, key)
    nth = same.index(index)
    return f"{_doing(label, key)} for the {ORDINALS[nth]} time" if nth < len(ORDINALS) else None


def _doing(label: str, key: str) -> str:
    return _pick(PHRASES[label][1], f"{key} {label}") if label in PHRASES else f'"{label.lower()}"'


def _pick(items: Sequence[str], key: str) -> str:
    return items[int(spread(key) * len(items))]


def _with_wrong(asked: list[_Asked], seed: int) -> list[Question]:
    """Questions of one kind: the more an action is still owed as a wrong option, the likelier it is drawn."""
    asked = [row for row in asked if 1 + len(row.near) + len(row.far) >= FEWEST_OPTIONS]
    owed: Counter[str] = Counter()
    for row in asked:
        owed[row.right] += OPTIONS[row.kind] - 1
    questions = []
    for row in sorted(asked, key=lambda row: (spread(f"{seed} {row.id}"), row.id)):
        luck = {label: max(owed[label], 1) * spread(f"{seed} {row.id} {label}") for label in (*row.near, *row.far)}
        drawn = [label for part in (row.near, row.far) for label in sorted(part, key=luck.__getitem__, reverse=True)]
        wrong = drawn[: OPTIONS[row.kind] - 1]
        owed.subtract(wrong)
        questions.append(_question(row, [does(row.right), *map(does, wrong)], seed))
    return questions


def _counts(
    timelines: Mapping[str, list[Action]], durations_s: Mapping[str, float], labels: list[str], seed: int
) -> list[Question]:
    """As many questions with each count for every action, so that the action does not tell its count."""
    filled = [name for name, timeline in timelines.items() if _fill(timeline, durations_s[name])]
    questions = []
    for label in labels:
        by_count: list[list[str]] = [[] for _ in COUNTS]
        for name in sorted(filled, key=lambda name: (spread(f"{seed} {name} {label}"), name)):
            count = sum(action.label == label for action in timelines[name])
            if count < len(COUNTS):
                by_count[count].append(name)
        for right, names in zip(COUNTS, by_count, strict=True):
            for name in names[: min(map(len, by_count))]:
                ident = f"{name}:count:{label}"
                text = _pick(_FORMS["count"], f"{seed} {ident}").format(x=_doing(label, f"{seed} {ident}"))
                row = _Asked(ident, name, "count", text, right, (), (), (0.0, durations_s[name]))
                questions.append(_question(row, [right, *(count for count in COUNTS if count != right)], seed))
    return questions


def _fill(timeline: list[Action], duration_s: float) -> bool:
    """Whether one action after another is labelled from the video's start to its end."""
    ends_s = [0.0, *(action.end_s for action in timeline)]
    starts_s = [*(action.start_s for action in timeline), duration_s]
    return all(abs(end - start) <= CLOSE_S for end, start in zip(ends_s, starts_s, strict=True))


def _question(row: _Asked, options: list[str], seed: int) -> Question:
    """The first option is the right one; they are put into another order."""
    order = sorted(options, key=lambda option: spread(f"{seed} {row.video} {row.text} {option}"))
    return Question(row.id, row.video, row.text, tuple(order), order.index(options[0]), row.kind, row.evidence_s)
