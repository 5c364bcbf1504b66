import math
import statistics

import numpy as np
import pytest
import torch
from torch import nn

from tests.delta.small_networks import randomise
from vkdlab.data.dense import load_dense
from vkdlab.data.dense_batches import as_input
from vkdlab.delta import convert
from vkdlab.delta.evaluate import Measured, agreement, consistency, cut, evaluate, follow, measured_frames
from vkdlab.delta.floors import copying, per_frame
from vkdlab.delta.latency import FrameTime, interleaved, ready
from vkdlab.delta.points import Point, at_cost, points_of, table
from vkdlab.delta.tasks import DETECTION, SEGMENTATION
from vkdlab.dense_metrics import Confusion, temporal_consistency

CLASSES = 9


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return convert(randomise(SEGMENTATION.network(8, CLASSES)))


@pytest.fixture(scope="module")
def finder():
    torch.manual_seed(1)
    return convert(randomise(DETECTION.network(8, CLASSES)))


def _frame(dense, i):
    return as_input(dense.frame(i))[None]


def _one_by_one(network, dense, task, period, start):
    """Streams every sequence once per phase, frame by frame, and measures each frame where it is met."""
    sums = [[] for _ in range(period)]
    for sequence in dense.sequences:
        for phase in range(period):
            shown = sequence.frames[phase:]
            stream = network.stream((_frame(dense, i) for i in shown), period=period)
            for place, (i, output) in enumerate(zip(shown, stream, strict=True)):
                if i - sequence.first >= start:
                    sums[place % period].append(task.measure(output, dense, [i]))
    return [sum(each[1:], start=each[0]).value for each in sums]


@pytest.mark.parametrize("period", [1, 3, 4])
def test_values_are_those_of_streaming_every_sequence_once_per_phase(network, dense, period):
    found = evaluate(network, dense, SEGMENTATION, period=period, batch=7)
    expected = _one_by_one(network, dense, SEGMENTATION, period, period - 1)
    assert found.metric == "mIoU"
    assert found.by_distance == pytest.approx(expected, abs=1e-4)
    assert found.value == pytest.approx(statistics.fmean(expected), abs=1e-4)


def test_the_detectors_map_is_measured_likewise(finder, dense):
    found = evaluate(finder, dense, DETECTION, period=2)
    assert found.metric == "mAP@0.5"
    assert found.by_distance == pytest.approx(_one_by_one(finder, dense, DETECTION, 2, 1), abs=1e-4)


def test_every_distance_counts_the_same_pixels(network, dense):
    found = evaluate(network, dense, SEGMENTATION, period=5)
    truth = [each.counts.sum(axis=1).tolist() for each in found.sums]
    assert all(each == truth[0] for each in truth)
    assert sum(truth[0]) == (7 + 7 + 9) * 48 * 32


def test_a_long_period_holds_the_shorter_ones(network, dense):
    long = evaluate(network, dense, SEGMENTATION, period=6)
    short = evaluate(network, dense, SEGMENTATION, period=3, start=5)
    assert long.at(3).by_distance == pytest.approx(short.by_distance, abs=1e-6)
    with pytest.raises(ValueError, match="at distances below 6, not up to period 7"):
        long.at(7)


def test_a_part_of_the_frames_is_measured_as_the_whole_would_measure_them(network, dense):
    found = evaluate(network, dense, SEGMENTATION, period=3, every=4)
    frames = measured_frames(dense, period=3, every=4)
    assert frames == [2, 6, 10, 13, 17, 21, 24, 28, 32]
    expected = [Confusion(np.zeros((CLASSES, CLASSES + 1), np.int64))] * 3
    for i in frames:
        for distance in range(3):
            _, state = network(_frame(dense, i - distance))
            output = network(_frame(dense, i), state if distance else None)[0]
            expected[distance] += SEGMENTATION.measure(output, dense, [i])
    assert found.by_distance == pytest.approx([each.value for each in expected], abs=1e-4)


def test_at_the_key_frame_the_delta_network_is_its_teacher(network, dense):
    teacher = per_frame(network.reference, dense, SEGMENTATION, start=3)
    assert evaluate(network, dense, SEGMENTATION, period=4).by_distance[0] == pytest.approx(teacher.value, abs=1e-4)
    assert len(teacher.sums) == 1


def test_a_module_is_measured_frame_by_frame(dense):
    torch.manual_seed(2)
    small = randomise(SEGMENTATION.network(4, CLASSES))
    with torch.no_grad():
        expected = [SEGMENTATION.measure(small(_frame(dense, i)), dense, [i]) for i in range(0, 11, 5)]
        expected += [SEGMENTATION.measure(small(_frame(dense, i)), dense, [i]) for i in range(11, 22, 5)]
        expected += [SEGMENTATION.measure(small(_frame(dense, i)), dense, [i]) for i in range(22, 35, 5)]
    found = per_frame(small, dense, SEGMENTATION, every=5, batch=2)
    assert found.value == pytest.approx(sum(expected[1:], start=expected[0]).value, abs=1e-5)


def test_copying_shows_the_key_frames_answer_to_the_frames_after_it(network, dense):
    found = copying(network, dense, SEGMENTATION, period=3, batch=5)
    expected = [Confusion(np.zeros((CLASSES, CLASSES + 1), np.int64))] * 3
    for sequence in dense.sequences:
        for i in sequence.frames[2:]:
            for distance in range(3):
                answer = network.reference(_frame(dense, i - distance))
                expected[distance] += SEGMENTATION.measure(answer, dense, [i])
    assert found.by_distance == pytest.approx([each.value for each in expected], abs=1e-4)
    assert copying(network.reference, dense, SEGMENTATION, period=3).by_distance == found.by_distance


def test_measurements_of_parts_add_up(network, dense):
    found = evaluate(network, dense, SEGMENTATION, period=2)
    assert (found + found).by_distance == pytest.approx(found.by_distance)
    with pytest.raises(ValueError, match="mIoU at 2 distances cannot be added to mIoU at 1"):
        _ = found + found.at(1)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"period": 0}, "at least 1, got 0"),
        ({"period": 4, "start": 2}, "start is at least 3 for a period of 4"),
        ({"period": 4, "every": 0}, "every at least 1, got 3 and 0"),
        ({"period": 20}, "no frame has 19 frames before it: the longest sequence of tabletop has 13 frames"),
    ],
)
def test_numbers_that_make_no_measurement_are_refused(network, dense, numbers, message):
    with pytest.raises(ValueError, match=message):
        evaluate(network, dense, SEGMENTATION, **numbers)


def test_agreement_needs_no_labels_and_is_whole_at_the_key_frame(network):
    bare = load_dense("tabletop", "test", profile="smoke", size=(48, 32), every=8, progress=False)
    bare = type(bare)(
        **{name: getattr(bare, name) for name in ("name", "split", "profile", "sequences", "fingerprint", "frames")},
        classes=(),
    )
    found = agreement(network, bare, period=3)
    assert found.by_distance[0] == 1
    expected = Confusion(np.zeros((CLASSES, CLASSES + 1), np.int64))
    for sequence in bare.sequences:
        for i in sequence.frames[2:]:
            _, state = network(_frame(bare, i - 2))
            ours, theirs = network(_frame(bare, i), state)[0], network.reference(_frame(bare, i))
            expected += Confusion.of(ours.argmax(1).numpy(), theirs.argmax(1).numpy(), classes=CLASSES)
    assert found.by_distance[2] == pytest.approx(expected.value, abs=1e-4)


def test_consistency_follows_one_stream_from_the_start_of_every_sequence(network, dense):
    found = consistency(network, dense, period=3)
    sums = {name: [Confusion(np.zeros((CLASSES, CLASSES + 1), np.int64))] * 3 for name in found}
    for sequence in dense.sequences:
        frames = [_frame(dense, i) for i in sequence.frames]
        answers = {
            "teacher": [network.reference(frame) for frame in frames],
            "delta": list(network.stream(frames, period=3)),
        }
        answers = {name: [each[0].argmax(0).numpy().astype(np.uint8) for each in row] for name, row in answers.items()}
        answers["copying"] = [answers["teacher"][place - place % 3] for place in range(len(frames))]
        answers["labels"] = [dense.labels(i) for i in sequence.frames]
        for place in range(1, len(frames)):
            motion, visible = dense.motion(sequence.first + place)
            for name, row in answers.items():
                sums[name][place % 3] += temporal_consistency(
                    row[place], row[place - 1], motion=motion, visible=visible, classes=CLASSES
                )
    assert list(found) == ["teacher", "delta", "copying", "labels"]
    for name, measured in found.items():
        assert measured.by_distance == pytest.approx([each.value for each in sums[name]], abs=1e-4), name


def test_steps_never_leave_distances_out(network, dense):
    asked, next_larger = (consistency(network, dense, period=4, every=every) for every in (2, 3))
    assert {name: each.by_distance for name, each in asked.items()} == {
        name: each.by_distance for name, each in next_larger.items()
    }


def test_consistency_refuses_what_makes_no_sense(network, dense):
    with pytest.raises(ValueError, match="every is at least 1, got 0"):
        consistency(network, dense, period=4, every=0)
    with pytest.raises(ValueError, match="too short for a period of 40"):
        consistency(network, dense, period=40)


def test_a_cut_is_the_end_of_one_sequence_and_the_start_of_another(dense):
    assert cut(dense, before=2, after=3, sequences=(0, 2)) == [9, 10, 22, 23, 24]
    for wrong, message in (
        ({"sequences": (0, 3)}, "two of the sequences 0 to 2"),
        ({"sequences": (1, 1)}, "two of the sequences 0 to 2"),
        ({"before": 12}, "before is from 1 to 11"),
        ({"after": 0}, "after from 1 to 11"),
    ):
        with pytest.raises(ValueError, match=message):
            cut(dense, **wrong)


def test_following_tells_of_every_frame_what_streaming_it_gives(network, dense):
    frames = cut(dense, before=5, after=5)
    found = follow(network, dense, frames, period=4, task=SEGMENTATION)
    stream = list(network.stream([_frame(dense, i) for i in frames], period=4))
    assert found.key == tuple(place % 4 == 0 for place in range(10))
    for place, i in enumerate(frames):
        teacher = network.reference(_frame(dense, i))
        apart = ((stream[place] - teacher).square().sum() / teacher.square().sum()).item()
        assert found.drift[place] == pytest.approx(apart, rel=1e-3, abs=1e-9)
        measured = [SEGMENTATION.measure(each, dense, [i]).value for each in (stream[place], teacher)]
        assert [found.values[place], found.teacher_values[place]] == pytest.approx(measured, abs=1e-5)
    assert found.drift[0] == found.drift[4] == 0
    assert math.isnan(found.energy[0])
    assert found.threshold is None


def test_a_threshold_below_the_cuts_energy_makes_the_first_frame_after_it_a_key_frame(network, dense):
    frames = cut(dense, before=2, after=3)
    plain = follow(network, dense, frames, period=8)
    assert plain.key == (True, False, False, False, False)
    before, at_cut = plain.energy[1:3]
    assert at_cut > before
    mended = follow(network, dense, frames, period=8, threshold=(before + at_cut) / 2)
    assert mended.key[:3] == (True, False, True)
    assert mended.drift[2] == 0 < plain.drift[2]
    assert all(math.isnan(value) for value in mended.values)
    with pytest.raises(ValueError, match="no frame to follow"):
        follow(network, dense, [], period=4)


def test_times_are_per_frame_and_networks_are_timed_in_turns():
    network = convert(randomise(SEGMENTATION.network(4, 3)))
    calls = []

    def teacher(frame):
        calls.append(torch.is_inference_mode_enabled())
        return frame

    found = interleaved(
        {"delta": network, "small": SEGMENTATION.network(4, 3), "teacher": teacher},
        torch.rand(3, 3, 32, 32),
        periods=(1, 4),
        repeats=3,
        warmup=1,
        threads=1,
    )
    assert {name: list(times) for name, times in found.items()} == {"delta": [1, 4], "small": [1], "teacher": [1]}
    assert calls == [True] * 16
    for times in found.values():
        for time in times.values():
            assert len(time.times_ms) == 3
            assert 0 < time.low_ms <= time.ms <= time.high_ms < 1000
            assert statistics.median(time.times_ms) == pytest.approx(time.ms)


def test_speed_is_the_median_of_ratios_within_a_round():
    fast = FrameTime(2.0, 1.0, 3.0, 2.0, (1.0, 2.0, 4.0))
    slow = FrameTime(4.0, 3.0, 8.0, 4.0, (3.0, 4.0, 8.0))
    assert fast.faster_than(slow) == (2, 2, 2.5)
    with pytest.raises(ValueError, match="timed 3 times and the other 1: time both in one run"):
        fast.faster_than(FrameTime(1.0, 1.0, 1.0, 1.0, (1.0,)))


def test_timing_refuses_nothing_to_time():
    frame = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match="needs a network and a period"):
        interleaved({}, frame)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        interleaved({"one": nn.Identity()}, frame, periods=(0,))
    with pytest.raises(ValueError, match="three channels"):
        interleaved({"one": nn.Identity()}, frame[:, :1])


def test_a_network_made_ready_answers_as_before_and_is_a_copy():
    network = randomise(SEGMENTATION.network(8, 4))
    frame = torch.rand(1, 3, 32, 32)
    other = ready(network)
    with torch.no_grad():
        torch.testing.assert_close(other(frame), network(frame), rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in other.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def _confusion(right):
    return Confusion(np.array([[right, 10 - right, 0], [10 - right, right, 0]]))


def test_one_measurement_gives_the_points_of_all_its_periods():
    measured = Measured("mIoU", tuple(map(_confusion, (10, 8, 5))))
    values = [1.0, 8 / 12, 5 / 15]
    assert measured.by_distance == pytest.approx(values)
    points = points_of(
        measured, name="delta", kind="delta", gamma=4, periods=(1, 3), gmac=lambda period: 6 / period, ms={3: 7.5}
    )
    assert [(point.period, point.gmac) for point in points] == [(1, 6), (3, 2)]
    assert [point.value for point in points] == pytest.approx([1, sum(values) / 3])
    assert math.isnan(points[0].ms)
    assert points[1].ms == 7.5
    with pytest.raises(ValueError, match="not up to period 4"):
        points_of(measured, name="delta", kind="delta", periods=(4,), gmac=1)


def _point(period, value, gmac, *, name="copying", kind="copy", seed=0):
    return Point(name, kind, 1.0, period, value, (value,) * period, gmac, seed=seed)


def test_between_two_points_a_curve_is_straight_and_beyond_its_ends_unknown():
    points = [_point(1, 0.9, 6.0), _point(3, 0.5, 2.0), _point(2, 0.7, 3.0)]
    assert at_cost(points, 3) == pytest.approx(0.7)
    assert at_cost(points, 4) == pytest.approx(0.7 + 0.2 / 3)
    assert at_cost(points, 2.5) == pytest.approx(0.6)
    assert math.isnan(at_cost(points, 1.9))
    assert math.isnan(at_cost(points, 6.1))
    with pytest.raises(ValueError, match="one curve of one seed"):
        at_cost([*points, _point(1, 0.9, 6.0, seed=1)], 3)


def test_points_that_contradict_themselves_are_refused():
    with pytest.raises(ValueError, match="kind is one of teacher, delta, copy"):
        Point("x", "flow", 1.0, 1, 0.5, (0.5,), 1.0)
    with pytest.raises(ValueError, match="got 1 for a period of 2"):
        Point("x", "copy", 1.0, 2, 0.5, (0.5,), 1.0)


def test_the_table_gives_shares_of_the_same_seeds_teacher():
    teacher = _point(1, 0.9, 6.0, name="teacher", kind="teacher")
    rows = table([teacher, _point(2, 0.7, 3.0), _point(2, 0.7, 3.0, seed=1)])
    assert rows["of the teacher (%)"].tolist()[:2] == [100, 50]
    assert math.isnan(rows["of the teacher (%)"][2])
    assert rows["value (%)"].tolist() == pytest.approx([90, 70, 70])
