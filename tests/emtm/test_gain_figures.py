import numpy as np
import pytest

from vkdlab.emtm import gain_figures
from vkdlab.emtm.marks import COLOURS
from vkdlab.metrics import Interval, Mean, paired_interval

ROWS = {"span": 0.6, "uniform": 0.62, "constant": 0.65, "naive KAU": 0.4, "KAU: + calibration": 0.67, "oracle": 0.8}


def _values(figure):
    return {trace.name: trace.x[0] for trace in figure.data if trace.mode == "markers"}


def _notes(figure):
    return [note.text for note in figure.layout.annotations]


def test_rows_stand_in_their_order_with_the_control_and_the_ceiling_drawn_through_all():
    figure = gain_figures.aggregates(ROWS, subtitle="tabletop")
    assert list(_values(figure)) == list(ROWS)
    assert _values(figure)["naive KAU"] == pytest.approx(40)
    assert [shape.x0 for shape in figure.layout.shapes] == pytest.approx([65, 80])
    assert figure.layout.title.text == "KAU (+ calibration) is 2.0 points above constant weights, 13.0 below the oracle"
    assert figure.layout.title.subtitle.text == "tabletop; dashed: constant, dotted: oracle"
    assert figure.layout.yaxis.autorange == "reversed"


def test_values_may_be_measurements_or_have_intervals():
    rows = {"constant": {"R1@0.5": Mean(30, 50), "mIoU": Mean(20, 50)}, "KAU": {"R1@0.5": Mean(28, 50)}}
    figure = gain_figures.aggregates(rows)
    assert _notes(figure) == ["60.0", "56.0"]
    assert figure.layout.title.text == "KAU is 4.0 points below constant weights"
    named = gain_figures.aggregates({"constant weights": 0.6, "KAU": 0.56}, control="constant weights")
    assert named.layout.title.text == "KAU is 4.0 points below constant weights"
    figure = gain_figures.aggregates({"constant": Interval(0.5, 0.4, 0.6, 5)})
    assert figure.data[0].error_x.array[0] == pytest.approx(10)
    assert "over 5 seeds" in figure.layout.title.subtitle.text


def test_a_comparison_without_its_control_is_refused():
    with pytest.raises(ValueError, match="control 'constant' stands in every comparison; there are span"):
        gain_figures.aggregates({"span": 0.5})
    with pytest.raises(ValueError, match="control 'student alone'"):
        gain_figures.students({"student from KAU": 0.5})


def test_the_best_student_is_one_that_could_be_had_without_the_truth():
    rows = {"student alone": 0.5, "student from span": 0.52, "student from KAU": 0.53, "student from oracle": 0.6}
    figure = gain_figures.students(rows)
    assert figure.layout.title.text == "The best distilled student, from KAU, is 3.0 points above the student alone"
    assert figure.data[2].marker.color == COLOURS["kau"]
    rows |= {"EMTM": 0.55, "student alone, RGB": 0.7, "shared encoder alone": 0.7, "isomorphic teacher": 0.7}
    title = gain_figures.students(rows).layout.title.text
    assert title == "The best distilled student, EMTM, is 5.0 points above the student alone"


def test_parts_of_a_gain_add_up_and_have_paired_intervals():
    steps = {"student alone": [0.50, 0.52], "shared encoder": [0.51, 0.54], "KAU": [0.505, 0.53]}
    figure = gain_figures.gain_parts(steps)
    (bar,) = figure.data
    assert list(bar.y) == ["+ shared encoder", "+ KAU", "all together"]
    assert list(bar.x) == pytest.approx([1.5, -0.75, 0.75])
    assert list(bar.base) == pytest.approx([0, 1.5, 0])
    expected = paired_interval([51.0, 54.0], [50.0, 52.0])
    assert bar.error_x.array[0] == pytest.approx(expected.high - expected.mean)
    assert figure.layout.title.text == "Of +0.8 points of R1@0.5, +1.5 come with shared encoder"
    alone = gain_figures.gain_parts({"student alone": [0.5], "KAU": [0.6]})
    assert "one seed: no interval" in alone.layout.title.subtitle.text
    assert _notes(alone)[0] == "+10.0"


def test_a_gain_of_one_step_or_of_different_seeds_is_refused():
    with pytest.raises(ValueError, match="from two steps on, got"):
        gain_figures.gain_parts({"student alone": [0.5]})
    with pytest.raises(ValueError, match="a pair needs both"):
        gain_figures.gain_parts({"student alone": [0.5], "KAU": [0.5, 0.6]})


def test_gradients_are_compared_on_a_log_axis_with_the_hard_labels():
    norms = {"hard cross-entropy": 0.6, "one softmax": 1e-3, "released: two softmaxes": 2.5e-7}
    labels = {"integrated label": np.array([0.0, 0.8, 0.2]), "after two": np.array([0.33, 0.336, 0.334])}
    figure = gain_figures.double_softmax(norms, labels)
    assert figure.layout.xaxis2.type == "log"
    assert figure.layout.title.text == "Two softmaxes leave a gradient 2.4 million times smaller than the hard label's"
    assert "1.018" in figure.layout.title.subtitle.text
    assert list(figure.data[-1].text) == ["0.6", "1.0·10<sup>−3</sup>", "2.5·10<sup>−7</sup>"]
    thousand = gain_figures.double_softmax({"hard": 1.0, "two": 1 / 1234}, labels).layout.title.text
    assert "1,200 times" in thousand


def test_gradients_without_labels_are_refused():
    with pytest.raises(ValueError, match="both needed"):
        gain_figures.double_softmax({"hard": 1.0}, {})


RUNS = [
    {
        "parameters": {"seed": seed},
        "metrics": {"KAU/R1@0.5": 0.60 + 0.01 * seed, "constant/R1@0.5": 0.59 + 0.008 * seed},
    }
    for seed in range(5)
]
SOURCES = {"constant": "constant/R1@0.5", "KAU": "KAU/R1@0.5"}


def test_seeds_are_paired_with_the_control_and_the_readers_own_run_is_a_cross():
    figure = gain_figures.over_seeds_paired(RUNS, SOURCES, fresh={"KAU/R1@0.5": 0.7})
    expected = paired_interval([60.0, 61.0, 62.0, 63.0, 64.0], [59.0, 59.8, 60.6, 61.4, 62.2])
    (paired,) = [trace for trace in figure.data if trace.xaxis == "x2"]
    assert paired.x[0] == pytest.approx(expected.mean)
    assert paired.error_x.array[0] == pytest.approx(expected.high - expected.mean)
    dots = [trace for trace in figure.data if trace.marker.opacity == 0.55 and trace.x[0] is not None]
    assert list(dots[1].x) == pytest.approx([60, 61, 62, 63, 64])
    (own,) = [trace for trace in figure.data if trace.name == "this run"]
    assert list(own.x) == pytest.approx([70])
    assert own.y[0] == pytest.approx(1 - gain_figures.OFF)
    assert figure.layout.title.text.startswith("KAU: +1.4 [+")
    assert "not told from 0" not in figure.layout.title.text
    # A student is no label: what the title tells is how the labels compare.
    students = gain_figures.over_seeds_paired(RUNS, SOURCES | {"EMTM": "constant/R1@0.5"})
    assert students.layout.title.text.startswith("KAU: +1.4 [+")


def test_a_difference_whose_interval_holds_zero_is_called_so():
    runs = [
        {"parameters": {"seed": seed}, "metrics": {"KAU/R1@0.5": value, "constant/R1@0.5": 0.6}}
        for seed, value in enumerate((0.5, 0.71))
    ]
    assert "not told from 0" in gain_figures.over_seeds_paired(runs, SOURCES).layout.title.text


def test_a_single_seed_is_shown_without_an_interval():
    figure = gain_figures.over_seeds_paired(RUNS[:1], SOURCES)
    assert figure.layout.title.text == "KAU: +1.0 points of R1@0.5 against constant"
    assert "one seed: no interval" in figure.layout.title.subtitle.text


def test_runs_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="one run per seed"):
        gain_figures.over_seeds_paired([*RUNS, RUNS[0]], SOURCES)
    with pytest.raises(ValueError, match="one run per seed"):
        gain_figures.over_seeds_paired([], SOURCES)
    with pytest.raises(ValueError, match=r"no run has the metric 'KAU/R1@0.9'; the first has KAU/R1@0.5"):
        gain_figures.over_seeds_paired(RUNS, SOURCES | {"KAU": "KAU/R1@0.9"})
    with pytest.raises(ValueError, match="control 'uniform'"):
        gain_figures.over_seeds_paired(RUNS, SOURCES, control="uniform")
