"""`tabletop`, the built-in world: real video files in which everything is known exactly (ours).

Objects stand on a textured table under a swaying camera; hands enter, grasp and carry; things slide, spin, pour, hide
and collide, with a sound for each. A video is planned from a seed (`events`, `motions`), drawn (`solids`, `shapes`,
`textures`, `render`), heard (`sound`) and spoken about (`language`, `questions`); `build` writes files and `dataset`
reads them. Labels are the same bits on every machine; encoded video may differ with the encoder.
"""

from __future__ import annotations

import os

import numpy as np

from vkdlab.data.datasets import SPLITS, Action, Dataset, Query, Question, Video
from vkdlab.data.tabletop import labels
from vkdlab.data.tabletop.build import build, built, changed_labels, world_folder
from vkdlab.data.tabletop.labels import Instance, VideoAnnotations
from vkdlab.data.tabletop.stage import PROFILES, SEMANTICS, VERSION, WorldConfig, config_of, video_id
from vkdlab.data.tabletop.verbs import VERBS
from vkdlab.files import read_json

__all__ = [
    "PROFILES",
    "SEMANTICS",
    "VERBS",
    "VERSION",
    "Instance",
    "VideoAnnotations",
    "WorldConfig",
    "annotations",
    "build",
    "built",
    "changed_labels",
    "config_of",
    "contact_sheet",
    "dataset",
    "world_folder",
]


def dataset(
    split: str,
    *,
    profile: str = "demo",
    seed: int | None = None,
    root: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Dataset:
    """One split of the world, built on first use.

    Args:
        split: "train", "val" or "test".
        profile: "smoke", "demo" or "full".
        seed: another seed than the manifest's.
        root: folder that holds built worlds instead of the cache.
        workers: processes for a build, default one a core.
        progress: shows a build's progress bar.

    Returns:
        The split's videos with queries, actions (label is the verb, noun the shape) and questions.

    Raises:
        ValueError: there is no such split or profile.
    """
    config = config_of(profile, seed=seed)
    if split not in config.videos:
        raise ValueError(f"tabletop has no split {split!r}: choose one of {', '.join(SPLITS)}")
    folder = build(config, root=root, workers=workers, progress=progress)
    videos, queries, actions, questions = {}, [], [], []
    for index in range(config.videos[split]):
        name = video_id(config, split, index)
        rows = read_json(folder / "labels" / f"{name}.json")
        videos[name] = Video(name, folder / "videos" / f"{name}.mp4", rows["duration_s"])
        nouns = {row["id"]: row["kind"] for row in rows["instances"]}
        for row in rows["queries"]:
            queries.append(Query(row["id"], name, row["sentence"], row["start_s"], row["end_s"], row["kind"]))
        for row in rows["events"]:
            verb, noun = row["verb"], nouns[row["object"]]
            actions.append(Action(f"{name}-e{row['id']:02d}", name, verb, row["start_s"], row["end_s"], verb, noun))
        for row in rows["questions"]:
            evidence = tuple(row["evidence_s"])
            options = tuple(row["options"])
            questions.append(Question(row["id"], name, row["question"], options, row["answer"], row["kind"], evidence))
    return Dataset(
        "tabletop",
        split,
        profile,
        videos,
        tuple(queries),
        tuple(actions),
        tuple(questions),
        root=folder,
        version=str(VERSION),
    )


def annotations(
    video: str, *, profile: str | None = None, seed: int | None = None, root: str | os.PathLike | None = None
) -> VideoAnnotations:
    """Masks, boxes, flow, instances and events of one video, built on first use.

    Args:
        video: the video's id, such as "demo-train-0007".
        profile: its profile; read from the id when it is not given.
        seed: another seed than the manifest's.
        root: folder that holds built worlds instead of the cache.

    Raises:
        ValueError: there is no such profile or video; the message says what ids look like.
    """
    config = config_of(profile or video.split("-")[0], seed=seed)
    known = {video_id(config, split, index) for split in config.videos for index in range(config.videos[split])}
    if video not in known:
        counts = ", ".join(f"{split} {count}" for split, count in config.videos.items())
        raise ValueError(
            f"tabletop {config.profile} has no video {video!r}: "
            f"ids look like {video_id(config, 'train', 0)!r}, and there are {counts}"
        )
    return labels.read(build(config, root=root), video)


def contact_sheet(
    profile: str | WorldConfig = "demo", *, split: str = "train", rows: int = 6, columns: int = 6, width: int = 960
) -> np.ndarray:
    """Moments of several videos side by side, drawn afresh without a build: a row a video, a column a moment.

    Args:
        profile: a profile's name or a configuration of one's own.
        split: "train", "val" or "test".
        rows: number of videos, from the first.
        columns: pictures of each.
        width: width of the sheet, pixels; pictures are drawn at the size that this needs.

    Returns:
        uint8 (h, width, 3), red green blue.
    """
    from vkdlab.data.tabletop.sheet import draw_sheet  # draws with OpenCV, which reading a world does without

    config = profile if isinstance(profile, WorldConfig) else config_of(profile)
    if split not in config.videos:
        raise ValueError(f"tabletop has no split {split!r}: choose one of {', '.join(SPLITS)}")
    return draw_sheet(config, split, rows=rows, columns=columns, width=width)
