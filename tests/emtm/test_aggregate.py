import time
from dataclasses import replace

import pytest
import torch

from tests.data.test_grounding import dataset, sentences, store
from tests.emtm.made_up import outputs as answers
from tests.emtm.often_wrong import BY_HEART, QUALITY, equal, said_by, unlabelled
from vkdlab.data.grounding import GroundingDataset
from vkdlab.emtm.aggregate import AggregateConfig, fit_aggregator, integrate, recovered, trust
from vkdlab.emtm.aggregate_config import MODES
from vkdlab.emtm.calibration import soft_targets
from vkdlab.emtm.fitting import Components, Problem, look_up
from vkdlab.emtm.outputs import Boundaries
from vkdlab.emtm.teacher_outputs import decode
from vkdlab.metrics import temporal_iou


@pytest.fixture(scope="module")
def held_out():
    return said_by(QUALITY, seed=1)


@pytest.fixture(scope="module")
def by_heart():
    return said_by(BY_HEART, seed=2)


@pytest.fixture(scope="module")
def unseen():
    return said_by(QUALITY, count=400, seed=3)


@pytest.mark.parametrize("mode", MODES)
def test_weights_of_every_mode_sum_to_one_and_can_be_integrated(mode, held_out, unseen):
    aggregator = fit_aggregator(held_out, AggregateConfig(mode=mode, epochs=3))
    integrated = aggregator.integrate(unseen)
    torch.testing.assert_close(integrated.weights.sum(1), torch.ones(400, 2))
    assert integrated.moments_s.shape == (400, 5, 2)
    assert set(integrated.metrics()) > {"R1@0.5", "R5@0.5", "mIoU", "mIoU (snapped)"}
    torch.testing.assert_close(integrated.iou, temporal_iou(integrated.moments_s[:, 0], unseen.truth_s))
    assert integrated.metrics()["mIoU"].value == pytest.approx(integrated.iou.mean().item(), abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pooling", ["linear", "log_linear"])
def test_a_single_teacher_is_believed_whole_and_said_after(mode, pooling):
    said = said_by({"plain": 0.6}, count=60)
    config = AggregateConfig(mode=mode, pooling=pooling, calibrate=False, epochs=2)
    integrated = fit_aggregator(said, config).integrate(said)
    assert torch.equal(integrated.weights, torch.ones(60, 1, 2))
    torch.testing.assert_close(integrated.start, said.start[:, 0], atol=1e-6, rtol=1e-4)


def test_fitted_on_held_out_queries_the_right_teachers_are_believed(held_out, by_heart, unseen):
    """The reason for cross-fitting: on its own training queries, who learnt them by heart looks like the best."""
    for mode in ("constant", "kau"):
        fair, naive = (
            fit_aggregator(said, AggregateConfig(mode=mode)).integrate(unseen) for said in (held_out, by_heart)
        )
        assert naive.weights[:, 0].mean() > 0.5
        assert fair.weights[:, 0].mean() < 0.1
        assert fair.iou.mean() > naive.iou.mean() + 0.15
        assert trust(fair, unseen).value > trust(naive, unseen).value
    best = [fit_aggregator(said, AggregateConfig(mode="best_held_out")).fixed[:, 0] for said in (held_out, by_heart)]
    assert best[0][0] == 0
    assert best[1].tolist() == [1, 0, 0, 0]


def test_a_unit_that_sees_who_is_sure_beats_constant_weights_and_stays_below_the_oracle(held_out, unseen):
    reached = {
        mode: fit_aggregator(held_out, AggregateConfig(mode=mode)).integrate(unseen).iou.mean().item()
        for mode in ("kau", "constant", "uniform", "oracle")
    }
    assert reached["kau"] > max(reached["constant"], reached["uniform"]) + 0.02
    assert reached["oracle"] > reached["kau"]
    assert 0 < recovered(reached["kau"], reached["uniform"], reached["oracle"]) < 1


def test_a_unit_with_nothing_to_learn_stays_at_constant_weights():
    said = said_by({"plain": 0.7, "plain too": 0.4}, seed=5)
    noise = replace(said, start=said.start[torch.randperm(300)], end=said.end[torch.randperm(300)])
    same = replace(noise, mask=torch.ones_like(noise.mask))
    aggregator = fit_aggregator(same, AggregateConfig(calibrate=False, weight_decay=0.0))
    assert aggregator.epochs <= 3
    constant = fit_aggregator(same, AggregateConfig(mode="constant", calibrate=False, weight_decay=0.0))
    torch.testing.assert_close(aggregator.fixed, constant.fixed)
    torch.testing.assert_close(aggregator.weights(same), constant.weights(same), atol=0.1, rtol=0)


def test_constant_weights_are_the_best_of_a_fine_grid():
    said = said_by({"honest": 0.7, "plain": 0.5}, seed=4)
    config = AggregateConfig(mode="constant", weight_decay=0.0, pooling="linear")
    aggregator = fit_aggregator(said, config)
    losses = []
    grid = torch.linspace(0.0025, 0.9975, 200)
    for share in grid:
        weights = torch.stack([share, 1 - share])[None, :, None].expand(300, -1, 2)
        label = integrate(said, weights, temperatures=aggregator.temperatures, pooling="linear")
        losses.append(
            [-(t * p.clamp(min=1e-9).log()).sum(1).mean() for t, p in zip(soft_targets(said), label, strict=True)]
        )
    best = grid[torch.tensor(losses).argmin(0)]
    torch.testing.assert_close(aggregator.fixed[0], best, atol=0.01, rtol=0)


def test_objective_iou_leans_to_the_teacher_that_would_miss_least(held_out):
    fixed = fit_aggregator(held_out, AggregateConfig(mode="constant", objective="iou")).fixed
    assert fixed[:, 0].argmax() == held_out.iou.mean(0).argmax()
    aggregator = fit_aggregator(held_out, AggregateConfig(objective="iou"))
    missed = ((1 - held_out.iou)[..., None] * aggregator.weights(held_out)).sum(1).mean()
    assert missed < ((1 - held_out.iou)[..., None] * fixed).sum(1).mean()


@pytest.mark.parametrize("pooling", ["linear", "log_linear"])
def test_moments_are_judged_by_what_decoding_finds(pooling, held_out):
    weights = torch.rand(300, 4, 2).softmax(1)
    rows = torch.arange(100, 300)
    problem = Problem.of(held_out, torch.ones(4), pooling=pooling, objective="moments")
    start, end = integrate(held_out, weights, pooling=pooling)
    moments_s = decode(Boundaries(start=start, end=end, mask=held_out.mask), held_out.duration_s, k=1)[:, 0]
    expected = 1 - temporal_iou(moments_s, held_out.truth_s)[100:].mean().item()
    assert problem.judge(weights[100:], rows) == pytest.approx(expected, abs=1e-5)


def test_searched_constant_weights_reach_what_likely_ones_do_not(held_out, unseen):
    """Teachers that agree are right, though each is often wrong: likelihood sees but the best calibrated of them."""
    reached = {}
    for objective in ("nll", "moments"):
        config = AggregateConfig(mode="constant", objective=objective, pooling="linear")
        aggregator = fit_aggregator(held_out, config)
        reached[objective] = aggregator.integrate(held_out).iou.mean(), aggregator.integrate(unseen).iou.mean()
    uniform = fit_aggregator(held_out, AggregateConfig(mode="uniform", pooling="linear"))
    assert reached["moments"][0] >= uniform.integrate(held_out).iou.mean()
    assert reached["moments"][0] >= held_out.iou.mean(0).max()
    assert reached["moments"][1] > reached["nll"][1] + 0.1


def test_a_unit_counted_by_moments_starts_from_searched_weights(held_out, unseen):
    constant, unit = (
        fit_aggregator(held_out, AggregateConfig(mode=mode, objective="moments")) for mode in ("constant", "kau")
    )
    assert torch.equal(unit.fixed, constant.fixed)
    assert unit.integrate(unseen).iou.mean() > constant.integrate(unseen).iou.mean()


def test_the_oracle_shares_its_weight_among_the_best_and_misses_nothing_that_a_teacher_found(unseen):
    aggregator = fit_aggregator(unlabelled(unseen), AggregateConfig(mode="oracle", calibrate=False))
    weights = aggregator.weights(unseen)
    for row in range(50):
        best = (unseen.iou[row] == unseen.iou[row].max()).float()
        torch.testing.assert_close(weights[row], (best / best.sum())[:, None].expand(-1, 2))
    assert aggregator.integrate(unseen).iou.mean() > unseen.iou.amax(1).mean() - 0.02


def test_the_best_held_out_teacher_is_that_of_recall_and_of_mean_iou_among_equals():
    said = said_by({"a": 0.5, "b": 0.5}, count=40)
    truth = said.truth_s
    length = truth[:, 1:] - truth[:, :1]
    moments = torch.stack([truth, torch.cat([truth[:, :1], truth[:, 1:] - 0.3 * length], 1)], 1)
    for order in ([0, 1], [1, 0]):
        given = replace(said, moments_s=moments[:, order])
        fixed = fit_aggregator(given, AggregateConfig(mode="best_held_out")).fixed
        assert fixed[:, 0].tolist() == [float(place == 0) for place in order]


def test_fitting_again_gives_the_same_and_leaves_the_global_generator_alone(held_out, unseen):
    before = torch.random.get_rng_state()
    first, second = (fit_aggregator(held_out, AggregateConfig(epochs=5)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.weights(unseen), second.weights(unseen))
    assert first.fingerprint == second.fingerprint
    assert first.integrate(unseen).fingerprint == second.integrate(unseen).fingerprint
    other = fit_aggregator(held_out, AggregateConfig(mode="uniform"))
    assert other.fingerprint != first.fingerprint
    assert other.integrate(unseen).fingerprint != first.integrate(unseen).fingerprint


def test_fitted_without_an_internal_fold_all_epochs_are_run(held_out):
    assert fit_aggregator(held_out, AggregateConfig(folds=0, epochs=3)).epochs == 3


def test_whole_groups_are_held_out_and_a_single_one_leaves_constant_weights(held_out):
    config = AggregateConfig(epochs=4)
    scenes = [f"scene {row % 3}" for row in range(300)]
    assert fit_aggregator(held_out, config, groups=scenes).unit is not None
    single = fit_aggregator(held_out, config, groups=["one"] * 300)
    assert single.epochs == 0
    torch.testing.assert_close(single.weights(held_out)[0], single.fixed)
    with pytest.raises(ValueError, match="expected one group per query, got 2 for 300"):
        fit_aggregator(held_out, config, groups=["a", "b"])


def test_unlabelled_queries_are_labelled_but_nothing_is_fitted_or_measured_on_them(held_out, unseen):
    aggregator = fit_aggregator(held_out, AggregateConfig(epochs=3))
    label, known = aggregator.integrate(unlabelled(unseen)), aggregator.integrate(unseen)
    assert torch.equal(label.start, known.start)
    for ask in (lambda: label.iou, label.metrics, lambda: trust(label, unlabelled(unseen))):
        with pytest.raises(ValueError, match="true moment of 400 of 400 queries is not known"):
            ask()
    for config in (
        AggregateConfig(mode="uniform"),
        AggregateConfig(mode="constant", calibrate=False),
        AggregateConfig(mode="best_held_out", calibrate=False),
    ):
        with pytest.raises(ValueError, match="need labelled queries"):
            fit_aggregator(unlabelled(unseen), config)
    with pytest.raises(ValueError, match="need labelled queries"):
        fit_aggregator(held_out, AggregateConfig(mode="oracle")).integrate(unlabelled(unseen))


def test_other_teachers_than_those_of_the_fit_are_refused(held_out):
    aggregator = fit_aggregator(held_out, AggregateConfig(mode="uniform"))
    with pytest.raises(ValueError, match="fitted for memoriser, honest, plain, weak, got plain, weak"):
        aggregator.weights(held_out.teachers(["plain", "weak"]))


@pytest.fixture(scope="module")
def grounding(tmp_path_factory):
    return GroundingDataset(dataset(), store(tmp_path_factory.mktemp("made") / "store"), sentences(), max_clips=16)


def said_about(grounding):
    said = said_by(QUALITY, count=len(grounding), length=16)
    counts = torch.tensor([len(item["video"]) for item in grounding])
    mask = torch.arange(16) < counts[:, None]
    start, end = ((p + 1e-3) * mask[:, None] for p in (said.start, said.end))
    return replace(
        said,
        ids=tuple(item["id"] for item in grounding),
        start=start / start.sum(2, keepdim=True),
        end=end / end.sum(2, keepdim=True),
        mask=mask,
        duration_s=torch.stack([item["duration_s"] for item in grounding]),
        truth_s=torch.stack([item["moment_s"] for item in grounding]),
    )


@pytest.mark.parametrize("config", [{"kau_inputs": "video"}, {"kau_inputs": "both"}, {"as_released": True}])
def test_a_unit_can_see_videos_and_sentences_found_by_the_ids(config, grounding):
    said = said_about(grounding)
    aggregator = fit_aggregator(said, AggregateConfig(epochs=3, folds=0, components=4, **config), dataset=grounding)
    weights = aggregator.weights(said, grounding)
    assert weights.std(0).max() > 1e-4
    order = [7, 0, 4]
    torch.testing.assert_close(aggregator.weights(said.rows(order), grounding), weights[order])
    label = aggregator.integrate(said, dataset=grounding)
    torch.testing.assert_close(label.start.sum(1), torch.ones(9))
    with pytest.raises(ValueError, match="pass dataset="):
        aggregator.weights(said)
    with pytest.raises(ValueError, match="1 of 9 queries are not in the data set, the first is 'unheard of'"):
        aggregator.weights(replace(said, ids=("unheard of", *said.ids[1:])), grounding)


def test_as_released_replaces_the_settings_that_the_released_code_does_not_have(grounding):
    config = AggregateConfig(as_released=True, calibrate=True, pooling="log_linear", epochs=2, components=4)
    assert (config.calibrate, config.kau_inputs, config.pooling, config.folds) == (False, "video", "linear", 0)
    aggregator = fit_aggregator(said_about(grounding), config, dataset=grounding)
    assert aggregator.unit.length == 16
    assert torch.equal(aggregator.temperatures, torch.ones(4))


def test_components_keep_what_varies_most(grounding):
    ids = [query.id for query in grounding.dataset.queries]
    whole, _ = Components.of(grounding, ids, count=64)
    some, _ = Components.of(grounding, ids, count=2)
    clips = torch.cat([item["video"] for item in grounding])
    assert whole.basis.shape == (6, 6)
    assert some.basis.shape == (6, 2)
    reduced = some(clips)
    assert reduced.var(0, correction=0).mean().item() == pytest.approx(1, rel=1e-3)
    covariance = torch.cov(reduced.T)
    assert covariance[0, 1].abs() < 1e-3
    found = look_up(grounding, ids[::-1], Components.of(grounding, ids, count=2))
    torch.testing.assert_close(found["video"][0][found["video_mask"][0]], some(grounding[8]["video"]))


def test_other_weights_are_integrated_fast_enough_for_sliders():
    said = answers(queries=1, length=64, names=("a", "b", "c", "d"))
    aggregator = fit_aggregator(said, AggregateConfig(mode="uniform"))
    times = []
    for _ in range(30):
        begun = time.perf_counter()
        aggregator.integrate(said, equal(said))
        times.append(time.perf_counter() - begun)
    assert sorted(times)[15] < 0.02  # a few milliseconds without the checks of shapes that tests run with


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "median"}, "mode must be one of kau, constant, uniform, best_held_out, oracle, got 'median'"),
        ({"kau_inputs": "sound"}, "kau_inputs must be one of video, uncertainty, both, got 'sound'"),
        ({"pooling": "max"}, "pooling must be one of linear, log_linear, got 'max'"),
        ({"objective": "f1"}, "objective must be one of nll, iou, moments, got 'f1'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay 0 or more"),
        ({"folds": 1}, "folds must be 0 or at least 2, got 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AggregateConfig(**settings)
