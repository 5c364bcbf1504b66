"""What happens: draws objects, events and hands, and writes every motion into tracks (ours)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from vkdlab.data.tabletop.cast import draw_objects, dressed
from vkdlab.data.tabletop.motions import APPROACH_S, WITHDRAW_S, Motion, Stream, Visit, hand_track, outside
from vkdlab.data.tabletop.stage import (
    STAGE_WIDTH,
    Event,
    Layer,
    Object,
    Track,
    WorldConfig,
    camera_path,
    generator,
    nearness,
)
from vkdlab.data.tabletop.verbs import DIRECTIONS, MAY_HAVE_HAND, NEEDS_HAND, SECONDS, VERBS, WEIGHT

HANDS, CLOTHS = 2, 2


@dataclass(frozen=True)
class Scene:
    """Everything about one video but its pixels."""

    config: WorldConfig
    split: str
    index: int
    frames: int
    objects: tuple[Object, ...]
    events: tuple[Event, ...]
    layers: tuple[Layer, ...]
    streams: tuple[Stream, ...]
    camera: np.ndarray = field(repr=False)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return round(self.frames / self.config.fps, 4)


def plan(config: WorldConfig, split: str, index: int) -> Scene:
    """Draws one video. Nothing enters but the arguments, so the same scene comes out on every machine."""
    rng = generator(config, split, index, "labels")
    low, high = config.duration_s
    frames = round((low + (high - low) * rng.random() ** config.duration_bend) * config.fps)
    while True:
        planner = _Planner(rng, config, frames)
        if planner.fill():
            return planner.scene(split, index)


class _Planner:
    """Places events one after another by onset; keeps where each object is and until when it is busy."""

    def __init__(self, rng: np.random.Generator, config: WorldConfig, frames: int):
        self.rng, self.config, self.frames, self.fps = rng, config, frames, config.fps
        self.objects = draw_objects(rng, config)
        self.tracks = {o.id: Track(frames, o.extent) for o in self.objects}
        self.cloths = [Track(frames, 0.3) for _ in range(CLOTHS)]
        self.cloth_of: dict[int, int] = {}
        self.state = {o.id: "table" for o in self.objects}
        self.free_at = {o.id: 0 for o in self.objects}
        self.spots: dict[int, tuple[float, float]] = {}
        self.old_spots: dict[int, tuple[float, float]] = {}
        self.visits: list[Visit] = []
        self.held: dict[int, Visit] = {}
        self.events: list[Event] = []
        self.streams: list[Stream] = []

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def _pick(self, items):
        return items[int(self.rng.integers(len(items)))]

    def fill(self) -> bool:
        """Places things and events; False when there was no room for three events."""
        for o in self.objects:
            place = self._free_place(o)
            if place is None:
                return False
            track = self.tracks[o.id]
            track.hold(0, x=place[0], y=place[1], present=True)
            self.spots[o.id] = place
        order = [self.objects[i] for i in self.rng.permutation(len(self.objects))]
        if self.rng.random() < 0.55:
            self.state[order[0].id] = "absent"
            self.tracks[order[0].id].hold(0, present=False)
            self.spots.pop(order[0].id)
        if self.rng.random() < 0.4:
            self._cover(order[1].id, 0)
        seconds = self.frames / self.fps
        wanted = min(8, max(3, round(seconds / 2.5 + self._uniform(-1.2, 1.2))))
        onset, last = self._uniform(0.7, 1.4), seconds - 0.5
        while len(self.events) < wanted and onset < last - 1.0:
            if self._place_event(round(onset * self.fps), round(last * self.fps)):
                left = wanted - len(self.events)
                if left:
                    room = (last - 1.8 - onset) / left
                    onset += max(0.4, room * self._uniform(0.45, 1.5))
            else:
                onset += 0.24
        return len(self.events) >= 3

    def _cover(self, ident: int, frame: int) -> None:
        cloth = next(c for c in range(CLOTHS) if c not in self.cloth_of.values())
        self.cloth_of[ident] = cloth
        self.state[ident] = "covered"
        track, over = self.cloths[cloth], self.tracks[ident]
        track.extent = over.extent * over.scale[frame] * 1.25
        track.hold(frame, x=over.x[frame], y=over.y[frame] + 0.004, present=True)

    def _free_place(self, thing: Object, *, near: tuple[float, float] | None = None) -> tuple[float, float] | None:
        for _ in range(40):
            place = (self._uniform(0.16, STAGE_WIDTH - 0.16), self._uniform(0.36, 0.93))
            if self._clear(thing, place, share=0.62):
                return place
        return None

    def _clear(self, thing: Object, place: tuple[float, float], *, share: float, but: int | None = None) -> bool:
        x, y = place
        margin = 0.5 * self._width(thing)
        if not (margin * 0.8 < x < STAGE_WIDTH - margin * 0.8 and 0.10 + margin * 1.5 < y < 0.96):
            return False
        for spots in (self.spots, self.old_spots):
            for ident, (ox, oy) in spots.items():
                if ident in (thing.id, but):
                    continue
                reach = share * (self._width(thing) + self._width(self._object(ident)))
                if math.hypot(x - ox, 1.25 * (y - oy)) < reach:
                    return False
        return True

    def _object(self, ident: int) -> Object:
        return self.objects[ident - 1]

    def _width(self, thing: Object) -> float:
        return thing.extent * float(self.tracks[thing.id].scale[-1])

    def _place_event(self, start: int, last: int) -> bool:
        self.old_spots = {
            e.object: (self.tracks[e.object].x[start], self.tracks[e.object].y[start])
            for e in self.events
            if e.end_frame > start
        }
        free = [o for o in self.objects if self.free_at[o.id] <= start]
        used = [e.verb for e in self.events]
        options = []
        for verb in VERBS:
            able = [o for o in free if self._feasible(verb, o)]
            if able:
                options.append((verb, able))
        repeat = [
            (e.verb, [self._object(e.object)])
            for e in self.events
            if (e.verb, self._object(e.object)) in [(v, o) for v, able in options for o in able]
        ]
        if repeat and self.rng.random() < 0.3:
            options = [self._pick(repeat)]
        for _ in range(8):
            if not options:
                return False
            weights = np.array([WEIGHT.get(verb, 1.0) / (1 + used.count(verb)) for verb, _ in options])
            verb, able = options[int(np.searchsorted(np.cumsum(weights), self.rng.random() * weights.sum()))]
            thing = self._pick(able)
            low, high = SECONDS[verb]
            end = start + max(6, round(self._uniform(low, high) * self.fps))
            if end <= last and self._perform(verb, thing, start, end):
                return True
        return False

    def _feasible(self, verb: str, thing: Object) -> bool:
        state, scale = self.state[thing.id], float(self.tracks[thing.id].scale[-1])
        if verb == "drop":
            return state == "held"
        if verb == "shake":
            return state in ("table", "held")
        if verb == "reveal":
            return state == "covered"
        if verb == "put-down":
            return state == "absent"
        if state != "table":
            return False
        if verb == "hide":
            return len(self.cloth_of) < CLOTHS
        if verb == "grow":
            return scale < 1.1 and thing.size != "large"
        if verb == "shrink":
            return scale > 0.9 and thing.size != "small"
        if verb == "pour-into":
            return thing.shape in ("cup", "bottle")
        if verb == "pick-up":
            return sum(s != "absent" for s in self.state.values()) > 3
        return True

    def _perform(self, verb: str, thing: Object, start: int, end: int) -> bool:
        ident, track = thing.id, self.tracks[thing.id]
        hand = verb in NEEDS_HAND or (verb in MAY_HAVE_HAND and self.rng.random() < 0.4)
        if self.state[ident] == "held":
            return self._perform_held(verb, thing, start, end)
        angle = self._arm_angle(track.x[start]) if verb != "put-down" else 0.0
        other, also, visit = None, (), None
        script = Motion(self.rng, self.fps, track, start, end)
        if verb == "put-down":
            place = self._free_place(thing)
            if place is None:
                return False
            angle = self._arm_angle(place[0])
        if hand:
            comes, goes = verb not in ("put-down", "hide"), verb not in ("pick-up", "reveal")
            slot = self._free_slot(start, self.frames if verb == "lift" else end, comes, goes)
            if slot is None:
                return False
            visit = Visit(slot, angle, start, self.frames if verb == "lift" else end, track, comes, goes)
        if verb in DIRECTIONS:
            target = self._slide_target(thing, DIRECTIONS[verb])
            if target is None:
                return False
            script.move(*target)
            self.spots[ident] = target
        elif verb == "collide":
            struck = self._struck(thing, start)
            if struck is None:
                return False
            other, contact, knocked = struck[0].id, *struck[1:]
            self.spots[ident], also = script.collide(self.tracks[other], contact, knocked)
            self.spots[other] = knocked
            self.free_at[other] = end + round(0.3 * self.fps)
        elif verb == "pour-into":
            cup = self._vessel(thing, start)
            if cup is None:
                return False
            # An arm from the vessel's side would cover what runs out.
            side = -1 if track.x[start] < self.tracks[cup.id].x[start] else 1
            visit.angle = side * math.radians(self._uniform(25, 65))
            other, also = cup.id, ("lift",)
            self.streams.append(Stream(ident, other, *script.pour(self.tracks[other])))
            self.free_at[other] = end + round(0.2 * self.fps)
        elif verb == "lift":
            script.lift()
            self.state[ident] = "held"
            self.held[ident] = visit
        elif verb == "pick-up":
            also = ("lift",)
            script.carry(outside(track.x[start], track.y[start], angle), leaves=True)
            self.state[ident] = "absent"
            self.spots.pop(ident)
        elif verb == "put-down":
            track.hold(start, x=place[0], y=place[1], z=0.0, angle=0.0)
            script.carry(outside(*place, angle), leaves=False)
            self.state[ident], self.spots[ident] = "table", place
        elif verb in ("hide", "reveal"):
            if verb == "hide":
                self._cover(ident, start)
            cloth = self.cloths[self.cloth_of[ident]]
            visit.target = cloth
            Motion(self.rng, self.fps, cloth, start, end).carry(
                outside(track.x[start], track.y[start], angle), leaves=verb == "reveal"
            )
            if verb == "reveal":
                del self.cloth_of[ident]
                self.state[ident] = "table"
        else:
            getattr(script, verb)()
        if visit:
            self.visits.append(visit)
        self._record(verb, thing, other, start, end, hand, also)
        return True

    def _perform_held(self, verb: str, thing: Object, start: int, end: int) -> bool:
        script = Motion(self.rng, self.fps, self.tracks[thing.id], start, end)
        if verb == "drop":
            visit = self.held.pop(thing.id)
            visit.release = start
            script.drop()
            self.state[thing.id] = "table"
        else:
            script.shake()
        self._record(verb, thing, None, start, end, True, ())
        return True

    def _record(self, verb, thing, other, start, end, hand, also) -> None:
        self.free_at[thing.id] = end + round((0.12 if verb == "lift" else 0.72 if hand else 0.3) * self.fps)
        self.events.append(Event(len(self.events), verb, thing.id, other, start, end, hand, tuple(also)))

    def _free_slot(self, start: int, end: int, comes: bool, goes: bool) -> int | None:
        begin = start - round(APPROACH_S * self.fps) * comes
        finish = end + round(WITHDRAW_S * self.fps) * goes
        for slot in range(HANDS):
            busy = [
                (v.grab - round(APPROACH_S * self.fps) * v.comes, v.release + round(WITHDRAW_S * self.fps) * v.goes)
                for v in self.visits
                if v.slot == slot
            ]
            if begin >= 0 and all(finish < a or begin > b for a, b in busy):
                return slot
        return None

    def _arm_angle(self, x: float) -> float:
        middle = (x / STAGE_WIDTH - 0.5) * 1.9
        return math.radians(max(-72, min(72, 60 * middle + self._uniform(-22, 22))))

    def _slide_target(self, thing: Object, direction: tuple[int, int]) -> tuple[float, float] | None:
        x, y = self.spots[thing.id]
        for _ in range(6):
            reach = self._uniform(0.2, 0.55) if direction[0] else self._uniform(0.15, 0.36)
            target = (x + direction[0] * reach, y + direction[1] * reach)
            steps = [(x + direction[0] * reach * s, y + direction[1] * reach * s) for s in (0.34, 0.67)]
            if self._clear(thing, target, share=0.6) and all(self._clear(thing, step, share=0.34) for step in steps):
                return target
        return None

    def _on_table(self, start: int, but: int) -> list[Object]:
        return [o for o in self.objects if o.id != but and self.state[o.id] == "table" and self.free_at[o.id] <= start]

    def _struck(self, thing: Object, start: int) -> tuple[Object, tuple[float, float], tuple[float, float]] | None:
        x, y = self.spots[thing.id]
        near = self._on_table(start, thing.id)
        for other in (near[i] for i in self.rng.permutation(len(near))):
            ox, oy = self.spots[other.id]
            gap = math.hypot(ox - x, oy - y)
            touch = 0.46 * (self._width(thing) * nearness(oy) + self._width(other) * nearness(oy))
            if gap < touch + 0.12 or abs(oy - y) > 0.9 * abs(ox - x):
                continue
            ux, uy = (ox - x) / gap, (oy - y) / gap
            contact, knock = (ox - ux * touch, oy - uy * touch), (ox + ux * 0.11, oy + uy * 0.11)
            halfway = ((x + contact[0]) / 2, (y + contact[1]) / 2)
            if self._clear(thing, halfway, share=0.36, but=other.id) and self._clear(
                other, knock, share=0.5, but=thing.id
            ):
                return other, contact, knock
        return None

    def _vessel(self, thing: Object, start: int) -> Object | None:
        able = [o for o in self._on_table(start, thing.id) if o.shape in ("cup", "bowl")]
        able = [o for o in able if 0.34 < self.spots[o.id][0] < STAGE_WIDTH - 0.34 and self.spots[o.id][1] > 0.5]
        return self._pick(able) if able else None

    def scene(self, split: str, index: int) -> Scene:
        """Adds idle hands and gathers everything."""
        self._idle_hands()
        hands = [hand_track(self.visits, slot, frames=self.frames, fps=self.fps) for slot in range(HANDS)]
        look = generator(self.config, split, index, "colours")
        layers = dressed(self.objects, list(self.tracks.values()), self.cloths, hands, look)
        camera = camera_path(self.rng, self.config, self.frames)
        objects, events, streams = tuple(self.objects), tuple(self.events), tuple(self.streams)
        return Scene(self.config, split, index, self.frames, objects, events, layers, streams, camera)

    def _idle_hands(self) -> None:
        """A hand that comes, hovers and goes without touching anything: presence of a hand proves no event."""
        for _ in range(2):
            if self.rng.random() > 0.2 + 0.6 * self.config.difficulty:
                continue
            stay = round(self._uniform(0.3, 1.2) * self.fps)
            start = int(
                self.rng.integers(round(self.fps), max(round(self.fps) + 1, self.frames - stay - round(2 * self.fps)))
            )
            slot = self._free_slot(start, start + stay, True, True)
            if slot is not None:
                point = Track(self.frames, 0.0)
                x, y = self._uniform(0.3, STAGE_WIDTH - 0.3), self._uniform(0.7, 0.95)
                point.hold(0, x=x, y=y)
                self.visits.append(Visit(slot, self._arm_angle(x), start, start + stay, point))
