import dataclasses

import pytest
import torch

from vkdlab.emtm import SpanConfig, SpanNetwork

CONFIG = SpanConfig(video_dim=10, query_dim=6, dim=16, heads=4, max_clips=12, max_words=7)


def _inputs(clips=(12, 5, 1), words=(7, 2, 1)):
    video, query = torch.randn(len(clips), max(clips), 10), torch.randn(len(words), max(words), 6)
    return (
        video,
        torch.arange(max(clips)) < torch.tensor(clips)[:, None],
        query,
        torch.arange(max(words)) < torch.tensor(words)[:, None],
    )


@pytest.fixture
def teacher():
    return SpanNetwork(CONFIG).eval()


def test_padding_has_no_probability_and_real_clips_have_finite_logits(teacher):
    output = teacher(*_inputs())
    assert output.start_logits.shape == output.end_logits.shape == (3, 12)
    assert output.match_logits.shape == (3, 12, 4)
    for logits in (output.start_logits, output.end_logits):
        assert torch.isfinite(logits[output.mask]).all()
        assert (logits.softmax(1)[~output.mask] == 0).all()


def test_what_stands_in_the_padding_has_no_influence(teacher):
    video, video_mask, query, query_mask = _inputs()
    noisy_video = torch.where(video_mask[..., None], video, 1e3)
    noisy_query = torch.where(query_mask[..., None], query, -1e3)
    before = teacher(video, video_mask, query, query_mask)
    after = teacher(noisy_video, video_mask, noisy_query, query_mask)
    torch.testing.assert_close(after.start_logits, before.start_logits)
    torch.testing.assert_close(after.end_logits, before.end_logits)


def test_a_sample_gets_the_same_answer_alone_as_in_a_padded_batch(teacher):
    video, video_mask, query, query_mask = _inputs()
    together = teacher(video, video_mask, query, query_mask)
    alone = teacher(video[1:2, :5], video_mask[1:2, :5], query[1:2, :2], query_mask[1:2, :2])
    torch.testing.assert_close(alone.start_logits[0], together.start_logits[1, :5], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.end_logits[0], together.end_logits[1, :5], rtol=1e-4, atol=1e-5)


def test_the_answer_depends_on_the_query(teacher):
    video, video_mask, query, query_mask = _inputs()
    before = teacher(video, video_mask, query, query_mask).start_logits
    after = teacher(video, video_mask, query.flip(0), query_mask).start_logits
    assert not torch.allclose(before[0], after[0])


def test_every_weight_gets_a_gradient():
    teacher = SpanNetwork(dataclasses.replace(CONFIG, dropout=0.0))
    output = teacher(*_inputs())
    (
        output.start_logits[output.mask].square().sum()
        + output.end_logits[output.mask].square().sum()
        + output.match_logits.square().sum()
    ).backward()
    without = [name for name, weight in teacher.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A bias added to every key shifts all scores of a row alike: softmax cannot see it.
    assert [name for name in without if not name.endswith("key.bias")] == []


def test_the_light_fusion_has_no_dual_attention():
    light = SpanNetwork(dataclasses.replace(CONFIG, dual_layers=0))
    assert not list(light.branch.video_attention.parameters())
    assert light.eval()(*_inputs()).start_logits.shape == (3, 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 15}, "dim must be a multiple of heads"),
        ({"kernel": 4}, "kernel must be odd"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1"),
        ({"dual_layers": -1}, "dual_layers must be 0 or more"),
        ({"max_clips": 0}, "max_clips must be at least 1"),
    ],
)
def test_sizes_that_make_no_network_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v, vm, q, qm: (v[..., :9], vm, q, qm), "video features have 9 numbers a step, this network takes 10"),
        (lambda v, vm, q, qm: (v, vm, q.repeat(1, 2, 1), qm.repeat(1, 2)), "query has 14 steps.*positions for 7"),
        (lambda v, vm, q, qm: (v, vm & (torch.arange(3) != 1)[:, None], q, qm), "video of sample 1.*all padding"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(teacher, spoil, message):
    with pytest.raises(ValueError, match=message):
        teacher(*spoil(*_inputs()))


def test_the_student_has_the_published_size():
    """0.67 M parameters and 46 M multiply-accumulates at 128 wide, 64 clips of 1024 features and words of 300 + 100.

    The 100 are what EMTM's character network gives; that network itself, which is not built here, is 0.035 M of the
    published 0.674 M (our count from the released shapes).
    """
    from vkdlab import cost

    student = SpanNetwork(SpanConfig(video_dim=1024, query_dim=400, dim=128, dual_layers=0, max_clips=64))
    clips, words = torch.ones(1, 64, dtype=torch.bool), torch.ones(1, 7, dtype=torch.bool)
    assert cost.parameters(student) == pytest.approx(0.67e6, rel=0.05)
    macs = cost.macs(student, torch.randn(1, 64, 1024), clips, torch.randn(1, 7, 400), words)
    assert macs == pytest.approx(46e6, rel=0.05)
