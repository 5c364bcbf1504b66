import base64
import json

import cv2
import numpy as np
import pytest

from vkdlab import plots
from vkdlab.history import History


def _frames(count=3, height=12, width=20):
    return np.random.default_rng(0).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


def _decoded(uri):
    data = np.frombuffer(base64.b64decode(uri.split(",")[1]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_a_picture_travels_inside_the_figure_with_its_colours():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    decoded = _decoded(plots.picture_uri(red, quality=95))
    assert np.abs(decoded.astype(int) - red).max() <= 4


def test_no_figure_asks_for_anything_from_elsewhere():
    figure = plots.frame_strip(
        _frames(), [0.5, 1.5, 2.5], duration_s=3.0, moments_s={"truth": [(1, 2)]}, title="t", subtitle="s"
    )
    figure = json.loads(figure.to_json())
    sources = [image["source"] for image in figure["layout"]["images"]]
    assert len(sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_bars_of_a_strip_lie_where_the_moments_lie():
    figure = plots.frame_strip(
        _frames(),
        [0.5, 1.5, 2.5],
        duration_s=3.0,
        moments_s={"truth": [(1.0, 2.5)], "guess": [(0.0, 1.0), (2.0, 3.0)]},
        curves={"probability": {"start": np.array([0.1, 0.9])}},
        title="t",
    )
    bars = [trace for trace in figure.data if trace.type == "bar"]
    drawn = [moment for bar in bars for moment in zip(bar.y, bar.base, bar.x, strict=True)]
    assert drawn == [("truth", 1.0, 1.5), ("guess", 0.0, 1.0), ("guess", 2.0, 1.0)]
    assert bars[0].marker.color == plots.TRUTH
    assert bars[1].marker.opacity[0] > bars[1].marker.opacity[1]
    (curve,) = (trace for trace in figure.data if trace.name == "start")
    assert list(curve.x) == [0.75, 2.25]  # the middle of each of two clips
    assert figure.layout.xaxis3.title.text == "time (s)"


def test_curves_of_two_panels_share_a_colour_and_an_entry_of_the_legend():
    panels = {"start": {"a": np.ones(2), "b": np.ones(2)}, "end": {"a": np.ones(3)}}
    figure = plots.frame_strip(_frames(), [0.5, 1.5, 2.5], duration_s=3.0, moments_s={}, curves=panels, title="t")
    curves = [trace for trace in figure.data if trace.mode == "lines"]
    assert [(trace.name, trace.yaxis, trace.showlegend) for trace in curves] == [
        ("a", "y3", True),
        ("b", "y3", True),
        ("a", "y4", False),
    ]
    assert curves[0].line.color == curves[2].line.color != curves[1].line.color
    assert [figure.layout.yaxis3.title.text, figure.layout.yaxis4.title.text] == ["start", "end"]
    assert figure.layout.xaxis4.title.text == "time (s)"


def test_every_source_of_a_strip_has_its_own_colour():
    sources = {f"teacher {place}": [(0, 1)] for place in range(5)}
    figure = plots.frame_strip(_frames(1), [0.5], duration_s=1.0, moments_s=sources, title="t")
    colours = {trace.marker.color for trace in figure.data if trace.type == "bar"}
    assert len(colours) == 5


@pytest.mark.parametrize("times", [[], [0.5]])
def test_a_strip_without_one_time_per_frame_is_refused(times):
    with pytest.raises(ValueError, match=r"one time per frame.*2 frames"):
        plots.frame_strip(_frames(2), times, duration_s=1.0, moments_s={}, title="t")


HISTORY = History(
    [
        {"epoch": 1, "loss/total": 3.0, "val/R1@0.5": 0.25},
        {"epoch": 2, "loss/total": 2.0, "val/R1@0.5": 0.5},
    ],
    best_epoch=2,
)


def test_curves_show_losses_as_they_are_and_metrics_in_per_cent():
    figure = plots.training_curves(HISTORY, losses=["total"], metrics=["R1@0.5"], title="t")
    assert list(figure.data[0].y) == [3.0, 2.0]
    assert list(figure.data[1].y) == [25.0, 50.0]
    assert figure.layout.shapes[0].x0 == 2
    assert [trace.legend for trace in figure.data] == ["legend", "legend2"]


def test_a_metric_that_the_history_lacks_is_named_with_what_it_has():
    with pytest.raises(ValueError, match="no 'val/mIoU'; it has epoch, loss/total"):
        plots.training_curves(HISTORY, losses=["total"], metrics=["mIoU"], title="t")


def test_pictures_of_different_shapes_are_all_shown_whole():
    wide, tall = np.zeros((10, 40, 3), np.uint8), np.zeros((40, 10, 3), np.uint8)
    figure = plots.picture_grid([wide, tall, wide], ["a", "b", "c"], columns=2, title="t")
    assert all(image.sizing == "contain" for image in figure.layout.images)
    assert [note.text for note in figure.layout.annotations] == ["a", "b", "c"]
    assert figure.layout.images[2].y > figure.layout.images[0].y  # the third begins a second row; y runs down


def test_a_grid_needs_pictures_and_a_caption_for_each():
    with pytest.raises(ValueError, match="got 0 and 0"):
        plots.picture_grid([], [], title="t")
    with pytest.raises(ValueError, match="got 1 and 2"):
        plots.picture_grid([np.zeros((4, 4, 3), np.uint8)], ["a", "b"], title="t")


def test_the_moment_map_counts_every_query_once():
    figure = plots.moment_map([0, 2, 5], [1, 4, 10], [10, 10, 10], title="t")
    assert np.nansum(figure.data[0].z) == 3
    assert list(figure.data[1].x) == [1, 2, 5]


def test_still_flow_is_white_and_opposite_directions_have_opposite_hues():
    flow = np.zeros((1, 3, 2), np.float32)
    flow[0, 1] = (3, 0)
    flow[0, 2] = (-3, 0)
    still, right, left = plots.flow_picture(flow)[0].astype(int)
    assert still.tolist() == [255, 255, 255]
    assert np.abs(right + left - 255).max() <= 10  # OpenCV has 180 hues


def test_bars_leave_a_gap_where_a_value_is_missing():
    figure = plots.bars({"a": {"x": 0.5, "y": float("nan")}}, title="t", y="share (%)")
    assert figure.data[0].y[0] == 50
    assert np.isnan(figure.data[0].y[1])
