"""The audio track: every verb has its own gesture, every material its own voice, made of noise and partials (ours)."""

from __future__ import annotations

import numpy as np

from vkdlab.data.tabletop.events import Scene
from vkdlab.data.tabletop.stage import MATERIALS, generator

RATE_HZ = 16000

# Partials of a struck thing (Hz), how long it rings (s) and the band of its scraping (Hz).
_VOICES = {
    "china": ((1850, 3120, 4470, 5900), 0.16, (1500, 4200)),
    "metal": ((920, 2210, 3560, 5230), 0.55, (2200, 6500)),
    "wood": ((410, 980, 1630), 0.06, (300, 1300)),
    "rubber": ((140, 260), 0.10, (120, 520)),
    "glass": ((2480, 4310, 6180), 0.35, (3200, 7000)),
    "squeaky rubber": ((700, 1240), 0.09, (600, 1800)),
}


def sound_track(scene: Scene) -> np.ndarray:
    """The sound of a scene: float32 (n, 1) in [-1, 1] at 16 kHz, as long as the video."""
    rng = generator(scene.config, scene.split, scene.index, "sound")
    fps = scene.config.fps
    total = round(scene.frames / fps * RATE_HZ)
    track = 0.004 * _band(rng.standard_normal(total), 60, 900)
    for event in scene.events:
        thing = scene.objects[event.object - 1]
        other = scene.objects[event.other - 1] if event.other else None
        seconds = (event.end_frame - event.start_frame) / fps
        sound = event_sound(
            event.verb, MATERIALS[thing.shape], seconds, rng, other=MATERIALS[other.shape] if other else None
        )
        start = round(event.start_frame / fps * RATE_HZ)
        end = min(total, start + len(sound))
        track[start:end] += sound[: end - start]
    return np.clip(track, -1, 1).astype(np.float32)[:, None]


def event_sound(
    verb: str, material: str, seconds: float, rng: np.random.Generator, *, other: str | None = None
) -> np.ndarray:
    """One event's sound.

    Args:
        verb: one of the sixteen verbs.
        material: what the thing is made of, one of `stage.MATERIALS`.
        seconds: length of the event, seconds.
        rng: draws the noise.
        other: material of the thing that is hit.

    Returns:
        float64 (n,) in [-1, 1] at 16 kHz.
    """
    n = round(seconds * RATE_HZ)
    u, noise = np.linspace(0, 1, n), rng.standard_normal(n)
    low, high = _VOICES[material][2]
    swell = np.sin(np.pi * u) ** 0.7
    kind = verb.split()[0]
    if kind == "slide":
        # Pitch of the scrape falls, rises, or holds with the direction.
        bend = {"left": 0.72, "right": 1.0, "up": 1.35, "down": 0.55}[verb.split()[1]]
        return 0.30 * swell * _band(noise, low * bend, high * bend) * (1 + 0.3 * np.sin(2 * np.pi * 11 * u * seconds))
    if kind == "lift":
        return 0.22 * swell * _tone(320 * 2 ** (1.2 * u)) + _at(n, 0.0, 0.3 * _strike(material, rng))
    if kind == "drop":
        hits = ((0.42, 0.9), (0.76, 0.35), (0.97, 0.15))
        return sum(_at(n, when, loud * _strike(material, rng)) for when, loud in hits)
    if kind == "spin":
        whirr = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * np.cumsum(7 + 16 * swell) / RATE_HZ))
        return 0.26 * swell * whirr * _band(noise, low * 0.8, high)
    if kind == "grow":
        return 0.24 * swell * (_tone(220 * 2 ** (2 * u)) + 0.5 * _tone(330 * 2 ** (2 * u)))
    if kind == "shrink":
        return 0.24 * swell * (_tone(880 * 2 ** (-2 * u)) + 0.5 * _tone(1320 * 2 ** (-2 * u)))
    if kind in ("hide", "reveal"):
        rustle = _band(noise, 900, 5200) * np.abs(_band(rng.standard_normal(n), 2, 14)) * 1.6
        return 0.4 * rustle * (u**1.5 if kind == "hide" else (1 - u) ** 1.5)
    if kind == "collide":
        roll = 0.14 * _band(noise, low, high) * (u < 0.55) * u
        return roll + _at(n, 0.55, 0.8 * _strike(material, rng)) + _at(n, 0.555, 0.7 * _strike(other or material, rng))
    if kind == "shake":
        beat = np.clip(np.sin(2 * np.pi * 5.4 * u * seconds), 0, 1) ** 6
        return 0.55 * np.minimum(1, 8 * np.minimum(u, 1 - u)) * beat * _band(noise, low, high * 1.2)
    if kind == "pour-into":
        return _pouring(n, u, rng)
    if kind == "pick-up":
        return _at(n, 0.0, 0.4 * _strike(material, rng)) + 0.2 * swell * _tone(520 * 2 ** (0.8 * np.floor(4 * u) / 4))
    return _at(n, 0.82, 0.7 * _strike(material, rng)) + 0.2 * swell * _tone(700 * 2 ** (-0.9 * np.floor(4 * u) / 4))


def _tone(frequency: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * np.cumsum(frequency) / RATE_HZ)


def _band(noise: np.ndarray, low: float, high: float) -> np.ndarray:
    """Noise between two frequencies (Hz), brought back to unit strength."""
    spectrum = np.fft.rfft(noise)
    frequency = np.fft.rfftfreq(len(noise), 1 / RATE_HZ)
    spectrum[(frequency < low) | (frequency > high)] = 0
    band = np.fft.irfft(spectrum, len(noise))
    return 0.35 * band / max(float(np.sqrt(np.mean(band * band))), 1e-9)


def _strike(material: str, rng: np.random.Generator) -> np.ndarray:
    partials, ring, _ = _VOICES[material]
    time = np.arange(round((0.05 + 4 * ring) * RATE_HZ)) / RATE_HZ
    sound = np.zeros_like(time)
    for n, frequency in enumerate(partials):
        detune = 1 + 0.01 * (rng.random() - 0.5)
        sound += np.sin(2 * np.pi * frequency * detune * time) * np.exp(-time * (1 + 0.5 * n) / ring) / (n + 1)
    sound += 0.5 * rng.standard_normal(len(time)) * np.exp(-time / 0.006)
    return 0.6 * sound / np.abs(sound).max()


def _pouring(n: int, u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A hiss, and bubbles whose pitch rises as the vessel fills."""
    flows = (u > 0.36) & (u < 0.70)
    sound = 0.12 * _band(rng.standard_normal(n), 2500, 6500) * flows
    for _ in range(round(26 * n / RATE_HZ)):
        when = 0.38 + 0.3 * rng.random()
        time = np.arange(round(0.05 * RATE_HZ)) / RATE_HZ
        pitch = (420 + 900 * (when - 0.38) / 0.3) * (0.9 + 0.2 * rng.random())
        sound += _at(n, when, 0.3 * np.sin(2 * np.pi * pitch * time * (1 + 3 * time)) * np.exp(-time / 0.014))
    return sound


def _at(n: int, share: float, sound: np.ndarray) -> np.ndarray:
    out = np.zeros(n)
    start = round(share * n)
    out[start : start + len(sound)] = sound[: n - start]
    return out
