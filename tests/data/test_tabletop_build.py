"""Building the world: what is finished stays, what is not is made again, and mistakes are named."""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from vkdlab.data import FrameReader, tabletop

BUILD = """
import sys
from vkdlab.data import tabletop
tabletop.build("smoke", root=sys.argv[1], workers=int(sys.argv[2]), progress=False)
"""


def _start(root, workers=2):
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(root), str(workers)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _videos(root):
    return sorted(root.glob("smoke-*/videos/smoke-*.mp4"))


def _wait_for(condition, *, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the build did not get far enough"
        time.sleep(0.02)


def _half_written(root):
    return [path for path in root.rglob(".*") if path.name != ".lock"]


def test_ctrl_c_keeps_what_is_finished_and_the_next_call_goes_on(tmp_path):
    process = _start(tmp_path)
    _wait_for(lambda: tabletop.built("smoke", root=tmp_path)[0] >= 2)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    done, total = tabletop.built("smoke", root=tmp_path)
    assert 1 <= done < total == 16
    assert _half_written(tmp_path) == []
    before = {path: path.stat().st_mtime_ns for path in _videos(tmp_path)}
    tabletop.build("smoke", root=tmp_path, workers=2, progress=False)
    assert tabletop.built("smoke", root=tmp_path) == (16, 16)
    kept = sum(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert kept >= done


def test_a_killed_build_is_resumed_and_leaves_nothing_half_written(tmp_path):
    process = _start(tmp_path)
    _wait_for(lambda: tabletop.built("smoke", root=tmp_path)[0] >= 2)
    process.kill()
    process.communicate(timeout=60)
    done, _ = tabletop.built("smoke", root=tmp_path)
    assert done >= 1
    (folder,) = tmp_path.iterdir()
    (folder / "videos" / ".left-behind.mp4").write_bytes(b"half a vid")
    tabletop.build("smoke", root=tmp_path, workers=1, progress=False)
    assert tabletop.built("smoke", root=tmp_path) == (16, 16)
    assert _half_written(tmp_path) == []


def test_a_finished_world_is_not_touched_and_a_deleted_video_alone_is_made_again(tmp_path):
    tiny = replace(tabletop.config_of("smoke"), videos={"train": 2, "val": 0, "test": 0})
    folder = tabletop.build(tiny, root=tmp_path, workers=1, progress=False)
    first, second = sorted((folder / "videos").iterdir())
    stamp, pictures = second.stat().st_mtime_ns, FrameReader(first).frames(range(0, 60, 10))
    first.unlink()
    assert tabletop.build(tiny, root=tmp_path, workers=1, progress=False) == folder
    assert second.stat().st_mtime_ns == stamp
    assert np.abs(FrameReader(first).frames(range(0, 60, 10)).astype(int) - pictures).mean() < 1


def test_another_seed_is_another_world_in_another_folder():
    one, other = tabletop.config_of("smoke"), tabletop.config_of("smoke", seed=7)
    assert tabletop.world_folder(one) != tabletop.world_folder(other)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_named_and_nothing_half_written_remains(tmp_path, workers):
    code = (
        f"import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (20000, {resource.RLIM_INFINITY}))\n" + BUILD
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(workers)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "OSError" in done.stderr
    assert _half_written(tmp_path) == []
    assert tabletop.built("smoke", root=tmp_path)[0] < 16


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file.* cannot be written to: .*Choose another folder.*VKDLAB_CACHE"):
        tabletop.build("smoke", root=tmp_path / "file", progress=False)


def test_an_unknown_profile_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match="no profile 'huge': choose one of smoke, demo, full"):
        tabletop.build("huge")


def test_an_unknown_split_is_answered_with_those_that_exist():
    with pytest.raises(ValueError, match="no split 'dev': choose one of train, val, test"):
        tabletop.dataset("dev", profile="smoke")


@pytest.mark.parametrize("name", ["smoke-train-0010", "smoke-train-7", "demo-val-0000"])
def test_an_unknown_video_is_answered_with_what_ids_look_like(name):
    with pytest.raises(ValueError, match=r"no video '.*': ids look like 'smoke-train-0000', and there are train 10"):
        tabletop.annotations(name, profile="smoke")


def test_workers_must_be_a_positive_number(tmp_path):
    with pytest.raises(ValueError, match="workers must be at least 1, was given 0"):
        tabletop.build("smoke", root=tmp_path, workers=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 100, "the picture must be 4:3"),
        ("difficulty", 2.0, r"difficulty must lie in 0\.\.1, was given 2\.0"),
        ("duration_s", (3.0, 2.0), "duration_s must be"),
    ],
)
def test_a_configuration_out_of_range_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(tabletop.config_of("smoke"), **{field: value})


def test_a_contact_sheet_is_drawn_without_a_build():
    sheet = tabletop.contact_sheet("smoke", rows=2, columns=3, width=300)
    assert sheet.shape == (150, 300, 3)
    assert sheet.dtype == np.uint8
    assert sheet.std() > 20
