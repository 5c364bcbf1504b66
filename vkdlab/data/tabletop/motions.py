"""How each verb moves: every motion is written into tracks, frame by frame, from sums, products and sines (ours)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vkdlab.data.tabletop.stage import HAND_SCALE, STAGE_WIDTH, Track, nearness

APPROACH_S, WITHDRAW_S = 0.56, 0.56


@dataclass
class Visit:
    """One hand that comes, holds something and goes."""

    slot: int
    angle: float
    grab: int
    release: int
    target: Track
    comes: bool = True
    goes: bool = True


@dataclass(frozen=True)
class Stream:
    """Something poured: from one track's mouth into another, between two frames."""

    source: int
    target: int
    start_frame: int
    end_frame: int


class Motion:
    """Writes one event's motion into a track, from its first to its last frame, and leaves the end state behind it."""

    def __init__(self, rng: np.random.Generator, fps: float, track: Track, start: int, end: int):
        self.rng, self.fps, self.track, self.start, self.end = rng, fps, track, start, end
        self.x, self.y, self.z = track.x[start], track.y[start], track.z[start]
        self.scale = track.scale[start]

    def _each(self):
        for i in range(self.start, self.end + 1):
            yield i, (i - self.start) / (self.end - self.start)

    def move(self, x: float, y: float) -> None:
        for i, u in self._each():
            self.track.x[i], self.track.y[i] = self.x + (x - self.x) * ease(u), self.y + (y - self.y) * ease(u)
        self.track.hold(self.end, x=x, y=y)

    def lift(self) -> None:
        height = 0.17 + 0.07 * self.rng.random()
        for i, u in self._each():
            self.track.z[i] = height * ease(u)
        self.track.hold(self.end, z=height)

    def drop(self) -> None:
        for i, u in self._each():
            fall = 1 - (u / 0.42) ** 2
            bounce = 4 * 0.24 * ((u - 0.42) / 0.34) * (1 - (u - 0.42) / 0.34)
            again = 4 * 0.07 * ((u - 0.76) / 0.24) * (1 - (u - 0.76) / 0.24)
            self.track.z[i] = self.z * max(0.0, fall if u < 0.42 else bounce if u < 0.76 else again)
        self.track.hold(self.end, z=0.0)

    def spin(self) -> None:
        turns = (1 if self.rng.random() < 0.5 else -1) * max(1, round((self.end - self.start) / self.fps / 1.1))
        for i, u in self._each():
            self.track.angle[i] = 2 * math.pi * turns * ease(u)
            self.track.z[i] = 0.05 * min(1.0, 5 * u, 5 * (1 - u))
        self.track.hold(self.end, angle=0.0, z=0.0)

    def _scale_to(self, scale: float) -> None:
        for i, u in self._each():
            self.track.scale[i] = self.scale + (scale - self.scale) * ease(u)
        self.track.hold(self.end, scale=scale)

    def grow(self) -> None:
        self._scale_to(self.scale * 1.5)

    def shrink(self) -> None:
        self._scale_to(self.scale / 1.5)

    def shake(self) -> None:
        rate = (2.3 + 0.7 * self.rng.random()) / self.fps
        for i, u in self._each():
            swing = min(1.0, 6 * u, 6 * (1 - u)) * math.sin(2 * math.pi * rate * (i - self.start))
            self.track.x[i] = self.x + 0.045 * swing
            self.track.angle[i] = -0.24 * swing
        self.track.hold(self.end, x=self.x, angle=0.0)

    def carry(self, away: tuple[float, float], *, leaves: bool) -> None:
        """Taken out of the picture along an arm, or brought in; settles on or rises from the table by the way."""
        for i, u in self._each():
            v = u if leaves else 1 - u
            gone = ease((v - 0.2) / 0.8)
            self.track.x[i] = self.x + away[0] * gone
            self.track.y[i] = self.y + away[1] * gone
            self.track.z[i] = 0.17 * ease(v / 0.45)
            self.track.present[i] = True
        self.track.hold(self.end, x=self.x, y=self.y, z=0.0, present=not leaves)

    def collide(
        self, hit: Track, contact: tuple[float, float], knocked: tuple[float, float]
    ) -> tuple[tuple[float, float], tuple[str, ...]]:
        """Runs to the contact and knocks the other track on; returns where it ends and the slides it looks like."""
        (cx, cy), (kx, ky), track = contact, knocked, self.track
        bx, by = hit.x[self.start], hit.y[self.start]
        back = (cx - 0.12 * (kx - bx), cy - 0.12 * (ky - by))
        for i, u in self._each():
            if u < 0.55:
                v = (u / 0.55) ** 1.7
                track.x[i], track.y[i] = self.x + (cx - self.x) * v, self.y + (cy - self.y) * v
            else:
                v = 1 - (1 - (u - 0.55) / 0.45) ** 2
                track.x[i], track.y[i] = cx + (back[0] - cx) * v, cy + (back[1] - cy) * v
                hit.x[i], hit.y[i] = bx + (kx - bx) * v, by + (ky - by) * v
                hit.angle[i] = 0.22 * math.sin(math.pi * 2 * v) * (1 - v) * (1 if kx > bx else -1)
        track.hold(self.end, x=back[0], y=back[1])
        hit.hold(self.end, x=kx, y=ky, angle=0.0)
        dx, dy = cx - self.x, cy - self.y
        also = ["slide left" if dx < 0 else "slide right"] if abs(dx) > 0.05 else []
        also += ["slide up" if dy < 0 else "slide down"] if abs(dy) > 0.05 else []
        return back, tuple(also)

    def pour(self, goal: Track) -> tuple[int, int]:
        """Up, over, tilted and back; returns the first and the last frame in which something runs out."""
        track = self.track
        side = -1 if self.x < goal.x[self.start] else 1
        into = goal.extent * goal.scale[self.start] * nearness(goal.y[self.start])
        tall = track.extent * self.scale * nearness(goal.y[self.start])
        x = goal.x[self.start] + side * 0.46 * tall
        y, z = goal.y[self.start] + 0.01, 0.50 * into + 0.22 * tall
        for i, u in self._each():
            out = ease(u / 0.26) * ease((1 - u) / 0.26)
            track.x[i] = self.x + (x - self.x) * out
            track.y[i] = self.y + (y - self.y) * out
            track.z[i] = z * ease(u / 0.2) * ease((1 - u) / 0.2)
            track.angle[i] = side * 1.95 * ease((u - 0.26) / 0.14) * ease((0.76 - u) / 0.14)
        track.hold(self.end, x=self.x, y=self.y, z=0.0, angle=0.0)
        length = self.end - self.start
        return self.start + round(0.38 * length), self.start + round(0.66 * length)


def hand_track(visits: list[Visit], slot: int, *, frames: int, fps: float) -> Track:
    """Where one hand is: it comes along its arm's line, follows what it holds, and goes."""
    track = Track(frames, HAND_SCALE)
    before, after = round(APPROACH_S * fps), round(WITHDRAW_S * fps)
    for visit in (v for v in visits if v.slot == slot):
        idle = visit.target.extent == 0.0
        first = visit.grab - before if visit.comes else visit.grab
        final = visit.release + after if visit.goes else visit.release
        for i in range(max(0, first), min(frames, final + 1)):
            anchor = min(max(i, visit.grab), visit.release, frames - 1)
            gx, gy = visit.target.grip(anchor)
            away = 0.0
            if i < visit.grab:
                away = 1 - ease((i - first) / before)
            elif i > visit.release:
                away = ease((i - visit.release) / after)
            ox, oy = outside(gx, gy, visit.angle)
            track.x[i], track.y[i] = gx + away * ox, gy + away * oy
            track.z[i] = 0.0
            track.angle[i] = visit.angle
            track.pose[i] = visit.grab <= i < visit.release and not idle
            track.present[i] = True
    return track


def ease(u: float) -> float:
    u = min(max(u, 0.0), 1.0)
    return u * u * (3 - 2 * u)


def outside(x: float, y: float, angle: float) -> tuple[float, float]:
    """The shift along the arm that takes a hand at (x, y) out of the picture."""
    fx, fy = math.sin(angle), math.cos(angle)
    ways = [(1.42 - y) / fy]
    if fx > 0.2:
        ways.append((STAGE_WIDTH + 0.42 - x) / fx)
    if fx < -0.2:
        ways.append((x + 0.42) / -fx)
    far = min(ways)
    return fx * far, fy * far
