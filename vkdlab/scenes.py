"""Pictures of data: contact sheets, timelines, exact labels, sound, and what features see (ours)."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from vkdlab import plots
from vkdlab.data import Dataset, FrameReader
from vkdlab.data.datasets import Action
from vkdlab.data.feature_store import FeatureStore
from vkdlab.data.tabletop import VideoAnnotations


def contact_sheet(dataset: Dataset, *, videos: int = 12, columns: int = 4) -> go.Figure:
    """One frame of each of the first videos, from the middle of its first moment, with what is said about it.

    Raises:
        ValueError: no video of the data set has a file.
    """
    shown = [video for video in dataset.videos.values() if video.path is not None][:videos]
    if not shown:
        raise ValueError(f"{dataset.name} comes without video files, so there is nothing to look at")
    first = {query.video: query for query in reversed(dataset.queries)}
    pictures, captions = [], []
    for video in shown:
        query = first.get(video.id)
        time_s = (query.start_s + query.end_s) / 2 if query else video.duration_s / 2
        pictures.append(FrameReader(video.path).at([time_s])[0])
        captions.append(f"“{_shortened(query.sentence, 32)}”" if query else video.id)
    return plots.picture_grid(
        pictures,
        captions,
        columns=columns,
        title=f"{dataset.name}: one frame from each of {len(pictures)} videos",
        subtitle="each from the middle of a moment, with the sentence that describes it"
        if first
        else "from the middle",
    )


def timeline(dataset: Dataset, video: str, *, frames: int = 8, rows: int = 12) -> go.Figure:
    """Frames of a video, and a bar for each thing that is known to happen in it.

    Args:
        dataset: holds the video.
        video: its id.
        frames: pictures in the strip.
        rows: bars at most.

    Raises:
        KeyError: there is no such video.
    """
    if video not in dataset.videos:
        raise KeyError(f"{dataset.name} {dataset.split} has no video {video!r}")
    known = dataset.videos[video]
    events = [(_event_name(action), action) for action in dataset.actions if action.video == video]
    events = events or [(_shortened(query.sentence, 28), query) for query in dataset.queries if query.video == video]
    moments: dict[str, list[tuple[float, float]]] = {}
    for label, event in sorted(events, key=lambda pair: pair[1].start_s)[:rows]:
        moments.setdefault(label, []).append((event.start_s, event.end_s))
    times_s = (np.arange(frames) + 0.5) * known.duration_s / frames
    return plots.frame_strip(
        FrameReader(known.path).at(times_s),
        times_s,
        duration_s=known.duration_s,
        moments_s=moments,
        ranked=False,
        title=f"{video}: {len(events)} things happen in {known.duration_s:.1f} s",
        subtitle=f"{dataset.name}{_split_of(dataset)}; a bar runs from a moment's start to its end",
    )


def exact_labels(frames: np.ndarray, labels: VideoAnnotations, *, frame: int) -> go.Figure:
    """What the built-in world knows of one frame: picture, instances, boxes, true optical flow.

    Args:
        frames: all frames of the video, uint8 (t, h, w, 3).
        labels: its annotations.
        frame: which frame, from 0; one before the last at most, since flow leads to the next.
    """
    image = frames[frame]
    instances = instance_colours(labels.masks[frame])
    boxed = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    for place, box in enumerate(labels.boxes[frame]):
        if np.isfinite(box).all():
            x0, y0, x1, y1 = (round(3 * float(side)) for side in box)
            cv2.rectangle(boxed, (x0, y0), (x1, y1), _rgb(plots.PALETTE[place % len(plots.PALETTE)]), 2)
    flow = labels.flow(frame)
    return plots.picture_grid(
        [image, (0.35 * image + 0.65 * instances).astype(np.uint8), boxed, plots.flow_picture(flow)],
        ["frame", "instances", "boxes", f"true flow, up to {np.linalg.norm(flow, axis=-1).max():.1f} px a frame"],
        columns=4,
        title="Every pixel of the built-in world is known",
        subtitle=f"frame {frame}; hue of the flow is its direction, saturation its speed",
    )


def instance_colours(mask: np.ndarray) -> np.ndarray:
    """Instance ids (h, w) as colours (h, w, 3); 0, the background, is dark."""
    colours = np.array([(40, 40, 40), *map(_rgb, plots.PALETTE)], np.uint8)
    return colours[np.where(mask == 0, 0, (mask.astype(int) - 1) % len(plots.PALETTE) + 1)]


def sound(dataset: Dataset, video: str, *, rate_hz: int = 16000) -> go.Figure:
    """Spectrogram of a video's sound with its events above it.

    Args:
        dataset: holds the video.
        video: its id.
        rate_hz: sampling rate to which the sound is brought.
    """
    known = dataset.videos[video]
    wave = torch.from_numpy(FrameReader(known.path).audio(rate_hz=rate_hz).mean(axis=1))
    window = torch.hann_window(1024)
    power = torch.stft(wave, 1024, hop_length=512, window=window, return_complex=True).abs().square()
    decibel = (10 * (power + 1e-10).log10()).clamp(min=-60)
    events = sorted((action for action in dataset.actions if action.video == video), key=lambda action: action.start_s)
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[22 * max(len(events), 1), 190], vertical_spacing=0.03
    )
    figure.add_trace(
        go.Bar(
            y=[_event_name(event) for event in events], base=[event.start_s for event in events],
            x=[event.end_s - event.start_s for event in events], showlegend=False, width=0.7, orientation="h",
            marker_color=[plots.PALETTE[place % len(plots.PALETTE)] for place in range(len(events))],
        ),
        row=1, col=1,
    )  # fmt: skip
    figure.add_trace(
        go.Heatmap(
            x=np.arange(decibel.shape[1]) * 512 / rate_hz, y=np.arange(0, 513, 4) * rate_hz / 1024 / 1000,
            z=decibel[::4].numpy().round(1), colorscale="Magma", colorbar={"title": "dB", "thickness": 12, "len": 0.6},
        ),
        row=2, col=1,
    )  # fmt: skip
    plots.styled(
        figure,
        title="Every event has its own sound, at its own time",
        subtitle=f"{video}: events above, spectrogram of the audio track below",
        height=22 * max(len(events), 1) + 360,
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, row=1, col=1)
    figure.update_yaxes(title_text="frequency (kHz)", row=2, col=1)
    figure.update_xaxes(range=[0, known.duration_s])
    return figure.update_xaxes(title_text="time (s)", row=2, col=1)


def similarity(
    stores: Mapping[str, FeatureStore],
    dataset: Dataset,
    video: str,
    *,
    title: str = "How alike the clips of a video are, by picture and by motion",
) -> go.Figure:
    """How alike the clips of a video are to each extractor; lines where something starts or ends.

    A block along the diagonal is a stretch that looks, or moves, alike.

    Args:
        stores: extractor to its features.
        dataset: holds the video.
        video: its id.
        title: the message.
    """
    known = dataset.videos[video]
    events = [row for row in (dataset.actions or dataset.queries) if row.video == video]
    marks = []
    figure = make_subplots(rows=1, cols=len(stores), subplot_titles=list(stores), horizontal_spacing=0.12)
    for column, store in enumerate(stores.values(), start=1):
        clips, axis = store.clips(video), column if column > 1 else ""
        centred = torch.nn.functional.normalize(clips - clips.mean(0), dim=1)
        times_s = (np.arange(len(clips)) + 0.5) * known.duration_s / len(clips)
        figure.add_trace(
            go.Heatmap(
                x=times_s, y=times_s, z=(centred @ centred.T).numpy().round(3), zmin=-1, zmax=1, colorscale="RdBu_r",
                showscale=column == len(stores), colorbar={"title": "cosine", "thickness": 12},
            ),
            row=1, col=column,
        )  # fmt: skip
        marks += [
            {"type": "line", "xref": f"x{axis}", "yref": f"y{axis}", "x0": time_s, "x1": time_s, "y0": 0,
             "y1": known.duration_s, "line": {"color": "#222222", "width": 0.7, "dash": "dot"}}
            for event in events for time_s in (event.start_s, event.end_s)
        ]  # fmt: skip
        figure.update_yaxes(range=[known.duration_s, 0], row=1, col=column, showgrid=False)
    plots.styled(
        figure,
        title=title,
        subtitle=f"{video}: cosine similarity of every pair of clips, mean subtracted; dotted: a start or an end",
        x="time (s)",
        height=480,
    )
    figure.update_layout(shapes=marks, margin_t=104, title_pad_b=58)
    figure.update_xaxes(showgrid=False)
    return figure.update_yaxes(title_text="time (s)", row=1, col=1)


def _event_name(action: Action) -> str:
    return f"{action.noun}: {action.label}" if action.noun else action.label


def _split_of(dataset: Dataset) -> str:
    return "" if dataset.split == "all" else f", {dataset.split} split"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))
