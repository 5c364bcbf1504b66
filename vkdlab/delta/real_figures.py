"""Real video in a few figures: agreement, steadiness, still tiles; all that a notebook asks of it (ours)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor, nn

from vkdlab import plots
from vkdlab.delta import curve_figures, figures
from vkdlab.delta.marks import COLOURS, signed
from vkdlab.delta.network import DeltaNetwork
from vkdlab.delta.real import OnVideo, OnVideos, Steadiness, load_videos, on_videos, steadiness
from vkdlab.delta.still import FIXED, TiledVideos, fixed_cameras, on_fixed_cameras
from vkdlab.delta.tasks import SEGMENTATION, Task
from vkdlab.metrics import Interval

HOW = (
    'Nothing was measured: name data sets in the parameter `real`, such as "clips,davis20" (both in $VKDLAB_DATA), or '
    "the folder of your own videos and their moments.csv."
)
_AMOUNTS = {
    "smoke": {"videos": 4, "measured": 1, "followed": 20, "shown": 20},
    "demo": {"videos": 24, "measured": 4, "followed": 40, "shown": 48},
    "full": {"videos": None, "measured": 24, "followed": None, "shown": 96},
}


@dataclass(frozen=True)
class RealVideo:
    """What was measured on real video, if anything."""

    names: tuple[str, ...] = ()
    """Of the data sets."""
    agreed: OnVideos | None = None
    """Agreement with the teacher."""
    steady: Mapping[str, Steadiness] = field(default_factory=dict)
    """Data set to temporal consistency."""
    tiles: TiledVideos | None = None
    """Still tiles on the videos of fixed cameras."""
    notes: tuple[str, ...] = ()
    """What was not measured, and why."""

    def metrics(self) -> dict[str, float | int]:
        """All numbers by name, as a notebook keeps them; none where nothing was measured."""
        found: dict[str, float | int] = {}
        for part in (self.agreed, self.tiles):
            found |= part.metrics() if part is not None else {}
        for data, each in self.steady.items():
            found |= each.metrics(data)
        return found

    def figures(self) -> dict[str, go.Figure]:
        """Title to figure, for a report; none where nothing was measured."""
        titles = {"On real video": self.apart, "Is it steady on real video": self.steadiness, "Still tiles": self.still}
        return {title: figure for title, figure in titles.items() if figure is not None}

    @property
    def apart(self) -> go.Figure | None:
        """Agreement by distance from the key frame, beside copying."""
        if self.agreed is None or len(self.agreed.videos[0].energy) < 2:
            return None
        total = {source: self.agreed.total(source) for source in ("delta", "copying")}
        over = "delta above copying, a video: " + _points(self.agreed.gain)
        return curve_figures.by_distance(
            total, subtitle=f"{', '.join(self.names)}: {len(self.agreed.videos)} videos; {over}"
        )

    @property
    def steadiness(self) -> go.Figure | None:
        """Temporal consistency on DAVIS where it is among the data sets, else on the first one."""
        if not self.steady:
            return None
        data = "davis20" if "davis20" in self.steady else next(iter(self.steady))
        found = self.steady[data]
        return figures.consistent(
            found.total(),
            subtitle=f"{data}, {len(found.sequences)} sequences; above the teacher: delta "
            f"{_points(found.gain('delta'))}, copying {_points(found.gain('copying'))}"
            "<br>95 % intervals over sequences",
        ).update_layout(margin={"t": 112})

    @property
    def still(self) -> go.Figure | None:
        """Times faster, and agreement, against the share of tiles that change."""
        return None if self.tiles is None else still_tiles(self.tiles)

    def __repr__(self) -> str:
        if not self.names:
            return HOW
        lines = [f"Measured on {', '.join(self.names)}; the teacher's answers are the reference."]
        if self.tiles is not None:
            lines.append(
                f"Fixed cameras, by motion of the whole picture up to {100 * FIXED:g} % of its width a frame: "
                + ", ".join(f"{video.data} {video.video}" for video in self.tiles.videos)
                + "; and to choose the threshold: " + (", ".join(self.tiles.chosen_on) or "none") + "."
            )  # fmt: skip
        return "\n".join([*lines, *self.notes])


def measure_real(
    names: str,
    network: DeltaNetwork,
    *,
    task: Task = SEGMENTATION,
    teacher: nn.Module | Callable[[Tensor], Any] | None = None,
    period: int = 8,
    profile: str = "demo",
    size: tuple[int, int] = (320, 240),
    workers: int | None = None,
    progress: bool = True,
) -> RealVideo:
    """Agreement, temporal consistency and still tiles on real videos; nothing where none is named.

    Args:
        names: of data sets or folders, separated by commas, as `load_videos` takes them; empty for none.
        network: on the processor.
        task: of the network.
        teacher: as `tiled` takes it.
        period: frames from one key frame to the next.
        profile: "smoke", "demo" or "full": how many videos and frames.
        size: as `load_videos` takes it.
        workers: likewise.
        progress: shows progress bars.

    Raises:
        ValueError: another profile, or as `load_videos`, `on_videos` and `steadiness`. A network that cannot run on
            parts of a frame has no still tiles, which is noted.
    """
    if profile not in _AMOUNTS:
        raise ValueError(f"profile is one of {', '.join(_AMOUNTS)}, got {profile!r}")
    if not names.strip():
        return RealVideo()
    amounts = _AMOUNTS[profile]
    datasets = load_videos(names, size=size, videos=amounts["videos"], workers=workers, progress=progress)
    agreed = on_videos(network, datasets, task=task, period=period, frames=amounts["measured"])
    notes = [f"{name} was left out: {why}." for name, why in agreed.left_out.items()]
    blind = [video.video for video in agreed.videos if not task.boxes and _classes_seen(video) < 2]
    if blind:
        notes.append(
            f"In {len(blind)} of {len(agreed.videos)} videos the teacher answers with one class alone, so that all "
            "agree with it: there nothing is shown."
        )
    steady = {
        name: steadiness(network, dense, task=task, period=period, frames=amounts["followed"])
        for name, dense in datasets.items()
    }
    fixed, tiles = fixed_cameras(datasets), None
    if len(fixed) < 2:
        notes.append(
            f"{len(fixed)} videos are of fixed cameras: still tiles need one, and another to choose their threshold on."
        )
    else:
        try:
            tiles = on_fixed_cameras(
                network, fixed, task=task, teacher=teacher, period=period, frames=amounts["shown"]
            )  # fmt: skip
        except ValueError as error:
            notes.append(f"Still tiles were not measured: {error}.")
    return RealVideo(tuple(datasets), agreed, steady, tiles, tuple(notes))


def still_tiles(tiles: TiledVideos, *, subtitle: str = "") -> go.Figure:
    """Still tiles, video by video: times faster than the teacher, and how much of the answer is as the teacher's.

    Args:
        tiles: what was measured.
        subtitle: what else is to be said.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.11)
    x = [100 * video.changed for video in tiles.videos]
    names = [f"{video.data}, {video.video}" for video in tiles.videos]
    figure.add_scatter(
        x=x, y=[video.times_faster for video in tiles.videos], mode="markers", name="delta with still tiles",
        text=names, marker={"size": 10, "color": plots.PALETTE[2]}, legendgroup="tiles",
        hovertemplate="%{text}: %{y:.2f} times faster, %{x:.1f} % of the tiles change<extra></extra>", row=1, col=1,
    )  # fmt: skip
    figure.add_scatter(
        x=x, y=[video.ms["teacher"] / video.ms["delta"] for video in tiles.videos], mode="markers", text=names,
        name="delta without them", marker={"size": 8, "color": COLOURS["delta"], "symbol": "circle-open"},
        legendgroup="delta", hovertemplate="%{text}: %{y:.2f} times faster<extra></extra>", row=1, col=1,
    )  # fmt: skip
    for source, marker in (
        ("tiles", {"size": 10, "color": plots.PALETTE[2]}),
        ("delta", {"size": 8, "color": COLOURS["delta"], "symbol": "circle-open"}),
    ):
        figure.add_scatter(
            x=x, y=[100 * video.same(source) for video in tiles.videos], mode="markers", marker=marker, text=names,
            legendgroup=source, showlegend=False, hovertemplate="%{text}: %{y:.2f} %<extra></extra>", row=1, col=2,
        )  # fmt: skip
    figure.add_hline(y=1, line={"dash": "dot", "color": COLOURS["teacher"], "width": 1}, row=1, col=1)
    figure.update_yaxes(title_text="times faster than the teacher", rangemode="tozero", row=1, col=1)
    same = "pixels with the teacher's class" if tiles.metric == "mIoU" else f"{tiles.metric} with the teacher"
    figure.update_yaxes(title_text=f"{same} (%)", row=1, col=2)
    figure.update_xaxes(title_text="share of tiles that change (%)", rangemode="tozero")
    faster, lost = tiles.times_faster, tiles.same("delta") - tiles.same("tiles")
    title = f"Still tiles under fixed cameras: {faster.mean:.1f} times faster than the teacher"
    if math.isfinite(lost):
        title += f", {abs(100 * lost):.1f} points {'less' if lost >= 0 else 'more'} agreement"
    plots.styled(
        figure,
        title=title,
        subtitle=f"{subtitle}{'; ' * bool(subtitle)}{len(names)} videos, one thread, period {tiles.period}, threshold "
        f"{tiles.threshold:g}",
        height=430,
    )
    return figure


def _classes_seen(video: OnVideo) -> int:
    return int((video.delta.sums[0].counts.sum(axis=1) > 0).sum())


def _points(interval: Interval) -> str:
    if not math.isfinite(interval.low):
        return f"{signed(100 * interval.mean)} points"
    return f"{signed(100 * interval.mean)} points ({signed(100 * interval.low)} to {signed(100 * interval.high)})"
