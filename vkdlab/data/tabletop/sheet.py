"""A contact sheet: what a person looks at to see whether the world is worth looking at (ours)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vkdlab.data.tabletop import render
from vkdlab.data.tabletop.events import plan
from vkdlab.data.tabletop.stage import WorldConfig


def draw_sheet(config: WorldConfig, split: str, *, rows: int, columns: int, width: int) -> np.ndarray:
    """See `tabletop.contact_sheet`."""
    height = max(24, width // columns // 4 * 3)
    strips = []
    for index in range(min(rows, config.videos[split])):
        scene = plan(config, split, index)
        scene = replace(
            scene, config=replace(config, width=height // 3 * 4, height=height), camera=_scaled(scene, height)
        )
        renderer = render.Renderer(scene, render.affines(scene))
        middles = sorted((e.start_frame + e.end_frame) // 2 for e in scene.events)
        spare = np.linspace(2, scene.frames - 3, columns).round().astype(int).tolist()
        chosen = sorted((middles + spare)[:columns])
        strips.append(np.hstack([renderer.frame(i) for i in chosen]))
    sheet = np.vstack(strips)
    return np.pad(sheet, ((0, 0), (0, max(0, width - sheet.shape[1])), (0, 0)))[:, :width]


def _scaled(scene, height: int) -> np.ndarray:
    return scene.camera * (height / scene.config.height)
