import pytest
import torch

from tests.emtm.often_wrong import BY_HEART, QUALITY, equal, said_by, unlabelled
from vkdlab.emtm.calibration import fit_temperatures, soft_targets
from vkdlab.emtm.integration import integrate, log_calibrated, uncertainty_inputs
from vkdlab.emtm.moments import moment_to_clips
from vkdlab.metrics import temporal_iou


@pytest.fixture(scope="module")
def held_out():
    return said_by(QUALITY, seed=1)


@pytest.fixture(scope="module")
def by_heart():
    return said_by(BY_HEART, seed=2)


@pytest.mark.parametrize("pooling", ["linear", "log_linear"])
def test_a_mixture_is_that_of_a_slow_loop(pooling):
    said = said_by(QUALITY, count=5)
    weights = torch.rand(5, 4, 2).softmax(1)
    temperatures = torch.tensor([0.5, 1.0, 2.0, 7.0])
    found = integrate(said, weights, temperatures=temperatures, pooling=pooling)
    for side, (label, probs) in enumerate(zip(found, (said.start, said.end), strict=True)):
        for row, clips in enumerate(said.num_clips.tolist()):
            floored = probs[row, :, :clips].double().clamp(min=1e-8)
            parts = [floored[place] ** (1 / temperatures[place].item()) for place in range(4)]
            parts = [part / part.sum() for part in parts]
            shares = weights[row, :, side].tolist()
            if pooling == "linear":
                expected = sum(share * part for share, part in zip(shares, parts, strict=True))
            else:
                expected = torch.ones(clips, dtype=torch.float64)
                for share, part in zip(shares, parts, strict=True):
                    expected = expected * part**share
                expected = expected / expected.sum()
            torch.testing.assert_close(label[row, :clips].double(), expected, atol=1e-6, rtol=1e-4)
            assert not label[row, clips:].any()


@pytest.mark.parametrize("pooling", ["linear", "log_linear"])
def test_a_mixture_is_a_distribution_and_does_not_depend_on_the_order_of_the_teachers(pooling):
    said = said_by(QUALITY, count=20)
    weights = torch.rand(20, 4, 2).softmax(1)
    order = [2, 0, 3, 1]
    found = integrate(said, weights, pooling=pooling)
    moved = integrate(said.teachers([said.names[i] for i in order]), weights[:, order], pooling=pooling)
    for label, other in zip(found, moved, strict=True):
        torch.testing.assert_close(label.sum(1), torch.ones(20))
        assert not label[~said.mask].any()
        torch.testing.assert_close(label, other)


@pytest.mark.parametrize("pooling", ["linear", "log_linear"])
def test_all_weight_on_one_teacher_gives_its_answer_even_where_others_rule_it_out(pooling):
    said = said_by(QUALITY, count=20)
    said.start[:, 1] = torch.nn.functional.one_hot(torch.zeros(20, dtype=torch.long), 20).float()
    weights = torch.zeros(20, 4, 2)
    weights[:, 2] = 1
    start, end = integrate(said, weights, pooling=pooling)
    torch.testing.assert_close(start, said.start[:, 2], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(end, said.end[:, 2], atol=1e-6, rtol=1e-4)
    start, _ = integrate(said, equal(said), pooling=pooling)
    assert start.isfinite().all()
    assert (start.gather(1, said.num_clips[:, None] - 1) > 0).all()


def test_weights_that_are_no_distribution_over_the_teachers_are_refused():
    said = said_by(QUALITY, count=3)
    weights = equal(said)
    weights[1, 0, 1] = 0.9
    with pytest.raises(ValueError, match=r"weights of query '0-1' are .* expected numbers from 0 that sum to 1"):
        integrate(said, weights)
    with pytest.raises(ValueError, match="weights of query '0-0'"):
        integrate(said, equal(said) * torch.nan)
    with pytest.raises(ValueError, match="expected pooling linear, log_linear, got 'max'"):
        integrate(said, equal(said), pooling="max")


def test_a_temperature_is_the_best_of_a_fine_grid(held_out):
    found = fit_temperatures(held_out)
    grid = torch.logspace(-0.69, 1.3, 150)
    for place in range(4):
        one = held_out.teachers([held_out.names[place]])
        losses = []
        for temperature in grid:
            logs = [log_calibrated(p, one.mask, temperature[None])[:, 0] for p in (one.start, one.end)]
            targets = soft_targets(one)
            losses.append(
                sum(-(t * p.masked_fill(~one.mask, 0)).sum(1).mean() for t, p in zip(targets, logs, strict=True))
            )
        assert found[place].item() == pytest.approx(grid[torch.stack(losses).argmin()].item(), rel=0.02)


def test_the_teacher_that_is_always_sure_is_calibrated_on_held_out_queries_alone(held_out, by_heart):
    assert fit_temperatures(held_out)[0] > 3 * fit_temperatures(by_heart)[0]
    sharp = said_by({"memoriser": 1.0})
    assert fit_temperatures(sharp, least=4.0).item() == pytest.approx(4.0, abs=1e-3)
    assert fit_temperatures(sharp, greatest=1.0).item() == pytest.approx(1.0, abs=1e-3)


def test_targets_of_a_fit_lie_on_the_first_and_the_last_true_clip(held_out):
    clips = moment_to_clips(held_out.truth_s, held_out.duration_s, held_out.num_clips)
    for side, target in enumerate(soft_targets(held_out)):
        torch.testing.assert_close(target.sum(1), torch.ones(300))
        assert (target.gather(1, clips[:, side, None]) >= 0.5).all()


def test_inputs_about_sureness_are_those_of_a_slow_loop():
    said = said_by(QUALITY, count=6)
    found = uncertainty_inputs(said).unflatten(1, (4, 6))
    assert ((found > -1e-6) & (found < 1 + 1e-6)).all()
    for row, clips in enumerate(said.num_clips.tolist()):
        for place in range(4):
            start, end = (p[row, place, :clips].double() for p in (said.start, said.end))
            apart = [
                1 - temporal_iou(said.moments_s[row, place], said.moments_s[row, other]).item()
                for other in range(4)
                if other != place
            ]
            expected = [
                *(
                    -(p * p.clamp(min=1e-12).log()).sum().item() / torch.tensor(clips).log().item()
                    for p in (start, end)
                ),
                start.max().item(),
                end.max().item(),
                sum(apart) / 3,
                min(apart),
            ]
            assert found[row, place].tolist() == pytest.approx(expected, abs=1e-4)


def test_inputs_about_sureness_follow_the_order_of_the_teachers_and_need_no_truth():
    said = said_by(QUALITY, count=6)
    moved = uncertainty_inputs(unlabelled(said).teachers([said.names[i] for i in (3, 1, 0, 2)]))
    torch.testing.assert_close(moved, uncertainty_inputs(said).unflatten(1, (4, 6))[:, [3, 1, 0, 2]].flatten(1))


def test_one_teacher_and_videos_of_one_clip_have_inputs_too():
    said = said_by({"plain": 0.5}, count=4, length=2)
    assert uncertainty_inputs(said).isfinite().all()
    assert not uncertainty_inputs(said)[:, 4:].any()
