"""Teacher and delta network over a file: against both networks run by hand, as a library and as a command."""

import math
import time

import numpy as np
import pytest
import torch

from tests.delta.students import DETECTION, saved, world
from tests.test_cli import call
from vkdlab import student_files
from vkdlab.data import FrameReader, VideoError, write_video
from vkdlab.delta.detector import Detections, decode
from vkdlab.delta.side_by_side import PANEL, Shown, SideBySide
from vkdlab.delta.state import DeltaState
from vkdlab.delta.student_files import load_student
from vkdlab.delta.watch import fitted, watch
from vkdlab.dense_metrics import AveragePrecision, Confusion
from vkdlab.runs import Run


@pytest.fixture(scope="module")
def dataset():
    return world()


@pytest.fixture(scope="module")
def student(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    saved(folder, dataset)
    return load_student(folder)


@pytest.fixture(scope="module")
def video(dataset, tmp_path_factory):
    """Twelve frames at the student's size, with a cut before the eighth."""
    path = tmp_path_factory.mktemp("video") / "cut.mp4"
    others = [np.ascontiguousarray(255 - dataset.frame(i)[:, ::-1]) for i in range(len(dataset) - 5, len(dataset))]
    write_video(path, [dataset.frame(i) for i in range(7)] + others, fps=10)
    return path


def frames_of(path):
    frames = FrameReader(path).frames(range(FrameReader(path).num_frames))
    return [torch.from_numpy(frame).permute(2, 0, 1)[None] / 255 for frame in frames]


def test_agreement_cost_and_energy_are_those_of_both_networks_run_by_hand(student, video):
    found = watch(video, student=student, progress=False)
    frames, network = frames_of(video), student.network.deploy()
    steps = list(network.steps(frames, period=3, threshold=1e9))
    agreed, by_frame = 0, []
    for frame, step in zip(frames, steps, strict=True):
        ours, theirs = step.output.argmax(1).numpy(), network.reference(frame).argmax(1).numpy()
        part = Confusion.of(ours, theirs, classes=9)
        by_frame.append(part.value)
        agreed = part if agreed == 0 else agreed + part
    assert found.agreement == agreed.value
    assert 0 < found.agreement < 1
    np.testing.assert_array_equal(found.by_frame, by_frame)
    np.testing.assert_allclose(found.energy, [step.energy or 0 for step in steps], rtol=1e-6)
    assert found.key_frames == (0, 3, 6, 9)
    costs = network.costs((3, 72, 96))
    assert found.gmac == (costs.teacher / 1e9, pytest.approx((4 * costs.key + 8 * costs.delta(())) / 12e9))
    assert min(found.ms) > 0
    assert (found.size, found.metric, found.out, found.video) == ((96, 72), "mIoU", None, video)
    table = found.table()
    assert list(table.index) == ["teacher", "delta network"]
    assert table["key frames"].tolist() == [12, 4]
    assert "times faster" in found.text()


def test_energies_that_nobody_asked_for_are_told_outside_of_the_clock(student, video, monkeypatch):
    """Everything but asking for energies takes no time here."""
    now = [0.0]

    def slow(state, frame):
        now[0] += 1.0
        return 0.25

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(DeltaState, "energy", slow)
    found = watch(video, student=student, progress=False)
    assert found.energy.tolist() == [0] + [0.25] * 11
    assert found.ms == (0, 0)
    # Every frame but the first is asked for its energy where that decides.
    assert watch(video, student=student, threshold=1, progress=False).ms == (0, 1000)


def test_a_cut_becomes_a_key_frame_where_it_is_asked_for(student, video):
    found = watch(video, student=student, period=100, threshold=1.5, progress=False)
    assert found.key_frames == (0, 7)
    assert found.energy[7] > 1.5
    assert found.energy[0] == 0
    assert watch(video, student=student, period=100, progress=False).key_frames == (0,)


def test_with_every_frame_a_key_frame_both_networks_are_one(student, video):
    found = watch(video, student=student, period=1, progress=False)
    assert found.agreement == 1
    assert found.key_frames == tuple(range(12))


def test_another_teacher_is_held_against(student, video):
    found = watch(video, student=student, teacher=lambda frame: -student.network.reference(frame), progress=False)
    assert found.agreement < 0.5


def test_a_teacher_that_changes_its_frames_in_place_leaves_the_delta_network_its_own(student, video):
    reference = student.deployed.reference
    found = watch(video, student=student, teacher=lambda frame: (reference(frame), frame.zero_())[0], progress=False)
    assert found.agreement == watch(video, student=student, progress=False).agreement


def test_a_detector_is_watched_as_well(dataset, video, tmp_path):
    saved(tmp_path / "student", dataset, task=DETECTION)
    student = load_student(tmp_path / "student")
    with torch.no_grad():
        student.network.model.head.bias[:8] += 3.5  # so that an untrained one finds something
    found = watch(video, student=student, out=tmp_path / "out.mp4", progress=False)
    frames, total = frames_of(video), None
    for frame, output in zip(frames, student.deployed.stream(frames, period=3), strict=True):
        ours = decode(output, classes=8)[0]
        theirs = decode(student.deployed.reference(frame), classes=8, least=0.3)[0]
        part = AveragePrecision.of(
            ours.boxes.numpy(), ours.scores.numpy(), ours.labels.numpy(), classes=9,
            true_boxes=theirs.boxes.numpy(), true_labels=theirs.labels.numpy(),
        )  # fmt: skip
        total = part if total is None else total + part
    assert total.things.sum() > 0
    assert found.agreement == total.value
    assert found.metric == "mAP@0.5"
    assert FrameReader(tmp_path / "out.mp4").num_frames == 12


def test_the_video_is_as_long_and_as_fast_as_what_was_filmed(student, video, tmp_path):
    found = watch(video, student=student, out=tmp_path / "out.mp4", progress=False)
    reader = FrameReader(found.out)
    assert (reader.num_frames, reader.fps) == (12, 10)
    assert reader.width == 2 * PANEL
    first, last = reader.frames([1, 11])
    assert np.abs(first.astype(float) - last).mean() > 5


def test_another_size_is_brought_to_as_many_pixels_and_keeps_its_proportions(student, tmp_path):
    path = tmp_path / "wide.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (3, 90, 320, 3), dtype=np.uint8)
    write_video(path, frames, fps=5)
    found = watch(path, student=student, out=tmp_path / "out.mp4", progress=False)
    assert found.size == (160, 48)
    assert len(found.energy) == 3
    assert math.isnan(found.ms[1])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((640, 480), (320, 240)),
        ((480, 640), (240, 320)),
        ((320, 240), (320, 240)),
        ((1920, 1080), (368, 208)),
        ((4000, 8), (6192, 16)),
        ((1, 1), (272, 272)),
    ],
)
def test_fitted_sizes_are_whole_multiples(given, expected):
    assert fitted(*given, size=(320, 240), multiple=16) == expected


def test_a_video_of_one_frame_is_watched(student, tmp_path):
    write_video(tmp_path / "one.mp4", [np.zeros((72, 96, 3), np.uint8)], fps=1)
    found = watch(tmp_path / "one.mp4", student=student, out=tmp_path / "out.mp4", progress=False)
    assert found.agreement == 1
    assert all(math.isnan(ms) for ms in found.ms)
    assert "–" in found.text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"period": 0}, "a period is a whole number of frames"),
        ({"threshold": 0}, "a threshold must be above 0, got 0"),
        ({"threshold": math.nan}, "a threshold must be above 0, got nan"),
        ({"out": "a.avi"}, "is an MP4 file, such as a.mp4, got a.avi"),
    ],
)
def test_numbers_out_of_range_are_refused(student, video, changes, message):
    with pytest.raises(ValueError, match=message):
        watch(video, student=student, progress=False, **changes)


def test_the_video_itself_is_not_written_over(student, video):
    before = video.read_bytes()
    with pytest.raises(ValueError, match="is the video itself: write the side-by-side video to another file"):
        watch(video, student=student, out=video, progress=False)
    assert video.read_bytes() == before


def test_what_is_no_video_is_named(student, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.mp4"):
        watch(tmp_path / "no.mp4", student=student)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        watch(tmp_path / "text.mp4", student=student)


def shown(**changes):
    labels = np.zeros((72, 96), np.uint8)
    given = {"frame": np.full((72, 96, 3), 120, np.uint8), "teacher": labels, "student": labels, "key": False}
    return Shown(**(given | {"energy": 0.1, "agreement": 0.5} | changes))


def sheet(classes=("a", "b"), **changes):
    return SideBySide((96, 72), classes=classes, count=10, fps=5, metric="mIoU", **changes)


def red(picture):
    """Where a picture is of the colour of a disagreement."""
    return (np.abs(picture.astype(int) - (213, 40, 0)) < 12).all(-1)


def test_what_differs_is_red_at_its_place_and_nothing_else_is():
    student = np.zeros((72, 96), np.uint8)
    student[36:, 48:] = 1
    picture = sheet().draw(shown(student=student))
    height, width = 300, PANEL
    panel = red(picture[22 + height + 22 :][:height, width:])
    assert panel[height // 2 + 2 :, width // 2 + 2 :].all()
    assert panel.sum() == pytest.approx(height * width / 4, rel=0.02)
    assert not red(sheet().draw(shown())).any()


def test_boxes_of_a_detector_are_drawn_for_both():
    one = Detections(torch.tensor([[10.0, 10, 50, 50]]), torch.tensor([0.9]), torch.tensor([1]))
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert red(sheet().draw(shown(teacher=none, student=one))).any()
    assert not red(sheet().draw(shown(teacher=one, student=none, agreement=math.nan))).any()


def test_boxes_carry_the_names_of_their_classes_within_the_picture():
    corners = [(20.0, 20.0, 60.0, 60.0), (90.0, 0.0, 96.0, 30.0)]  # one with no room above nor at its right
    two = Detections(torch.tensor(corners), torch.tensor([0.9, 0.5]), torch.tensor([1, 2]))
    long, short = (
        sheet(classes=("background", name, "b", *"cdefgh")).draw(shown(teacher=two, student=two))
        for name in ("a very long name", "a")
    )
    assert (long != short).any()
    named = sheet(classes=("background", "a", "a very long name", *"cdefgh")).draw(shown(teacher=two, student=two))
    assert (named != short).any()
    head = slice(0, 22)
    assert (named[head] == short[head]).all()  # nothing was written outside


def test_the_curve_goes_on_from_frame_to_frame_and_a_threshold_is_a_line():
    drawn = sheet()
    blue = [(np.abs(drawn.draw(shown(energy=0.2 * i)).astype(int) - (0, 114, 178)) < 25).all(-1) for i in range(10)]
    right = [np.flatnonzero(picture[-130:].any(0)).max() for picture in blue]
    assert right == sorted(right)
    assert right[-1] > 2 * PANEL - 20
    assert red(sheet(threshold=0.5).draw(shown())).any()


def test_the_legend_names_few_classes_and_leaves_out_many():
    few, many = sheet(classes=("a",) * 9).draw(shown()), sheet(classes=("a",) * 51).draw(shown())
    assert few.shape[0] == many.shape[0] + 40
    assert all(side % 2 == 0 for side in (*few.shape[:2], *many.shape[:2]))


def test_the_command_runs_a_detector(monkeypatch, capsys, tmp_path, dataset, video):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "student", dataset, task=DETECTION)
    assert call(monkeypatch, "delta", video, "--student", tmp_path / "student") == 0
    who, _, head, *_ = capsys.readouterr().out.splitlines()
    assert who.startswith("Delta network: detection, trained on tabletop smoke")
    assert "mAP@0.5 against the teacher, %" in head
    (written,) = tmp_path.glob("*.mp4")
    assert FrameReader(written).num_frames == 12


def test_the_command_prints_a_table_and_writes_the_video(monkeypatch, capsys, tmp_path, student, video):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "delta", video, "--student", student.folder, "--period", 4, "--auto-key", 1.5) == 0
    who, frames, head, teacher, delta, where = capsys.readouterr().out.splitlines()
    assert who == f"Delta network: segmentation, trained on tabletop smoke ({student.folder})"
    assert frames.startswith("Frames: 12 of 96x72 pixels; threads: ")
    assert head.split("  ")[-1].strip() == "key frames"
    assert teacher.split()[:2] == ["teacher", "100.00"]
    assert delta.split()[-1] == "4"  # 0, 4, the cut at 7, 11
    assert where == "Video: cut-delta.mp4"
    assert FrameReader(tmp_path / "cut-delta.mp4").num_frames == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.mp4", "--student", "{student}"], "no.mp4"),
        (["{video}", "--student", "nowhere"], "nowhere is no folder of a student. Train one: vkdlab run 04_delta"),
        (["{video}"], "there is no trained delta network in"),
        (["{video}", "--student", "{student}", "--period", "0"], "a period is a whole number of frames"),
        (["{video}", "--student", "{student}", "--auto-key", "-1"], "a threshold must be above 0"),
        (["{video}", "--student", "{student}", "-o", "a.png"], "is an MP4 file, such as a.mp4"),
    ],
)
def test_what_was_asked_wrongly_ends_with_one_line_and_exit_code_two(
    monkeypatch, capsys, tmp_path, student, video, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(student_files, "cache_dir", lambda *parts: tmp_path.joinpath(*parts))
    assert call(monkeypatch, "delta", *(text.format(video=video, student=student.folder) for text in arguments)) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1


def test_the_newest_student_is_taken_where_none_is_named(monkeypatch, dataset, tmp_path, video):
    monkeypatch.setattr(student_files, "cache_dir", lambda *parts: tmp_path.joinpath(*parts))
    saved(tmp_path / "runs" / "delta-a-1", dataset)
    Run(tmp_path / "runs" / "delta-a-1").note(status="done")
    assert watch(video, period=1, progress=False).agreement == 1
