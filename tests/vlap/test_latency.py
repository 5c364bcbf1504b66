"""Every way is timed on the same questions in one run, and decodes no frame that it does not need."""

import pytest
import torch
from torch import nn

from tests.data.media import write
from tests.vlap.small_backbone import OPTIONS, SmallBackbone
from vkdlab.vlap.backbone import Prompt
from vkdlab.vlap.latency import KEPT, STAGES, WAYS, Seconds, WayTime, interleaved, table
from vkdlab.vlap.prompter import FramePrompter
from vkdlab.vlap.selectors import ALL, LOCALIZER, PROMPTER, UNIFORM

PROMPT = Prompt("where does it go?", OPTIONS[:3])


class Glance(nn.Module):
    """Mean colours of thumbnails; it has a mode, as batch norms have."""

    def __init__(self):
        super().__init__()
        self.modes = set()

    def forward(self, frames):
        self.modes.add((self.training, tuple(frames.shape)))
        return frames.float().mean((1, 2))[:, None] / 255


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write(tmp_path_factory.mktemp("videos") / "video.mp4", count=50)


@pytest.fixture(autouse=True)
def _own_thumbnails(tmp_path, monkeypatch):
    monkeypatch.setenv("VKDLAB_CACHE", str(tmp_path / "cache"))


def networks() -> tuple[SmallBackbone, FramePrompter, Glance]:
    return SmallBackbone(), FramePrompter(3, question_dim=3, hidden=8, heads=2), Glance()


@pytest.fixture
def times(video) -> dict[str, WayTime]:
    asked = [(video, PROMPT), (video, Prompt("why?", OPTIONS[:2]))]
    return interleaved(*networks(), asked, repeats=3, warmup=1)


def test_only_frames_that_a_way_needs_are_decoded(times):
    decoded = {way: each.decoded.value for way, each in times.items()}
    assert decoded == {ALL: 32, UNIFORM: 4, PROMPTER: 32, KEPT: 4, LOCALIZER: 32}
    kept = {way: each.kept.value for way, each in times.items()}
    assert kept == {ALL: 32, UNIFORM: 4, PROMPTER: 4, KEPT: 4, LOCALIZER: 4}


def test_stages_that_a_way_has_take_time_and_are_no_more_than_the_whole(times):
    without = {"glance": {ALL, UNIFORM, LOCALIZER}}
    for way, each in times.items():
        assert tuple(each.stages) == STAGES
        assert len(each.total.times_s) == 2 * 3
        for stage, seconds in each.stages.items():
            there = [time_s > 0 for time_s in seconds.times_s]
            assert there == [way not in without.get(stage, ())] * 6
        parts = zip(*(seconds.times_s for seconds in each.stages.values()), strict=True)
        assert all(sum(part) <= whole for part, whole in zip(parts, each.total.times_s, strict=True))


def test_ratios_are_of_the_same_question_in_the_same_round(times):
    assert times[ALL].faster_than(times[ALL]) == (1, 1, 1)
    for way in WAYS:
        middle, low, high = times[way].faster_than(times[LOCALIZER])
        assert 0 < low <= middle <= high
    fast, slow = (
        WayTime(Seconds(seconds), {}, times[ALL].decoded, times[ALL].kept)
        for seconds in ((1.0, 10.0, 2.0), (2.0, 30.0, 8.0))
    )
    assert fast.faster_than(slow) == pytest.approx((3, 2.5, 3.5))
    assert slow.faster_than(fast)[0] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="one was timed 3 times and the other 6"):
        fast.faster_than(times[ALL])


def test_a_time_has_a_median_and_quartiles():
    assert Seconds((4.0, 1.0, 2.0, 3.0, 5.0)).median_s == 3
    assert Seconds((4.0, 1.0, 2.0, 3.0, 5.0)).quartiles_s == (2, 4)
    assert Seconds((4.0,)).quartiles_s == (4, 4)


def test_threads_and_modes_are_given_back_and_networks_are_timed_in_evaluation_mode(video):
    backbone, prompter, glance = networks()
    backbone.mix.eval()
    before = torch.get_num_threads()
    during = []
    prompter.register_forward_hook(lambda module, *_: during.append((torch.get_num_threads(), module.training)))
    interleaved(backbone, prompter, glance, [(video, PROMPT)], ways=[PROMPTER], repeats=2, warmup=0, threads=before + 1)
    assert during == [(before + 1, False)] * 2
    assert torch.get_num_threads() == before
    assert glance.modes == {(False, (32, 48, 64, 3))}
    assert prompter.training
    assert glance.training
    assert (backbone.training, backbone.mix.training, backbone.dropout.training) == (True, False, True)


def test_modes_and_threads_are_given_back_after_an_error(video):
    backbone, prompter, _ = networks()
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no glance"):
        interleaved(backbone, prompter, _raises, [(video, PROMPT)], repeats=1, threads=before + 1)
    assert torch.get_num_threads() == before
    assert backbone.training


def _raises(frames):
    raise RuntimeError("no glance")


def test_a_short_video_gives_all_it_has(tmp_path):
    short = write(tmp_path / "short.mp4", count=3)
    found = interleaved(*networks(), [(short, PROMPT)], repeats=1, warmup=0)
    assert {way: (each.decoded.value, each.kept.value) for way, each in found.items()} == dict.fromkeys(WAYS, (3, 3))


def test_means_are_over_questions(tmp_path, video):
    short = write(tmp_path / "short.mp4", count=2)
    found = interleaved(*networks(), [(short, PROMPT), (video, PROMPT)], ways=[ALL], count=10, repeats=2, warmup=0)
    assert (found[ALL].decoded.sum, found[ALL].decoded.count) == (24, 4)


def test_a_table_has_a_row_a_way(times):
    found = table(times)
    assert found.index.tolist() == list(WAYS)
    assert (found[["ms", *(f"{stage} ms" for stage in ("decode", "see", "look", "score"))]] > 0).all(axis=None)
    assert (found["ms, first quartile"] <= found["ms"]).all()
    assert found["frames decoded"].tolist() == [32, 4, 32, 4, 32]
    assert found.loc[ALL, "times faster than all frames"] == 1
    assert "times faster than localizer" not in table({ALL: times[ALL]}).columns


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"asked": []}, "got 0 questions"),
        ({"ways": ["by chance"]}, "by chance and 4 frames"),
        ({"ways": []}, "no way and 4 frames"),
        ({"select": 0}, "and 0 frames"),
        ({"repeats": 0}, "0 repeats"),
    ],
)
def test_what_cannot_be_timed_is_refused(video, changed, message):
    with pytest.raises(ValueError, match=message):
        interleaved(*networks(), **{"asked": [(video, PROMPT)], "ways": [UNIFORM], "repeats": 1} | changed)
