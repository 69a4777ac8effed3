"""Affine calibration, its diagnostic curves, and thresholds for a wanted rate."""

import numpy as np
import pytest
from scipy.optimize import minimize

from pipeline.errors import InputError
from pipeline.metrics import ASVSPOOF5, act_dcf, cllr, min_dcf, operating_points, sort_trials
from pipeline.metrics.calibration import affine_calibration, ece_curve, reliability_curve, threshold_for
from pipeline.metrics.isotonic import cllr_min, isotonic_posteriors


def miscalibrated(seed: int, num: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose log-likelihood ratio is (score − 5) / 3: Gaussians of variance 2 µ have ratios of themselves."""
    rng = np.random.default_rng(seed)
    llr_b, llr_s = rng.normal(3, np.sqrt(6), num), rng.normal(-3, np.sqrt(6), 2 * num)
    return 3 * llr_b + 5, 3 * llr_s + 5


@pytest.mark.parametrize("prior", [0.5, ASVSPOOF5.effective_prior, 0.95])
def test_the_fit_is_the_lowest_point_of_the_weighted_cost(prior):
    bonafide, spoof = miscalibrated(0, 300)
    log_odds = np.log(prior / (1 - prior))

    def cost(parameters: np.ndarray) -> float:
        llr_b, llr_s = (parameters[0] * scores + parameters[1] + log_odds for scores in (bonafide, spoof))
        loss_b, loss_s = np.logaddexp(0, -llr_b).mean(), np.logaddexp(0, llr_s).mean()
        return float(prior * loss_b + (1 - prior) * loss_s)

    expected = minimize(cost, [0.3, -1.5], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-15}).x
    assert affine_calibration(bonafide, spoof, prior) == pytest.approx(expected, abs=1e-6)


def test_calibration_of_one_half_repairs_the_other():
    bonafide, spoof = miscalibrated(1)
    fitted = affine_calibration(bonafide[::2], spoof[::2])
    assert fitted == pytest.approx((1 / 3, -5 / 3), abs=0.05)
    held_out = bonafide[1::2], spoof[1::2]
    llr = fitted.apply(held_out[0]), fitted.apply(held_out[1])
    assert cllr(*held_out) - cllr_min(*held_out) > 0.1
    assert cllr(*llr) - cllr_min(*llr) <= 0.01
    assert act_dcf(*llr) - min_dcf(*llr) <= 0.02


def test_the_share_of_a_class_does_not_change_the_fit():
    bonafide, spoof = miscalibrated(2, 500)
    once, often = affine_calibration(bonafide, spoof), affine_calibration(bonafide, np.tile(spoof, 7))
    assert often == pytest.approx(once, abs=1e-8)


@pytest.mark.parametrize(
    ("bonafide", "spoof", "message"),
    [
        ([2.0, 3.0], [0.0, 1.0], "all bona fide scores are above all spoof scores"),
        ([0.0, 1.0], [2.0, 3.0], "all bona fide scores are below all spoof scores"),
        ([0.0, 1.0, 1.0], [0.5, 2.0, 3.0], "are the labels swapped"),
        ([1.0, 1.0], [1.0, 1.0], "all scores are equal"),
    ],
)
def test_scores_that_cannot_be_calibrated_are_refused(bonafide, spoof, message):
    with pytest.raises(InputError, match=message):
        affine_calibration(bonafide, spoof)


def test_the_cross_entropy_at_even_odds_is_cllr_and_the_best_map_gives_cllr_min():
    bonafide, spoof = miscalibrated(3, 200)
    curve = ece_curve(sort_trials(bonafide, spoof), [-2.0, 0.0, 2.0])
    assert curve.scores[1] == pytest.approx(cllr(bonafide, spoof), abs=1e-12)
    assert curve.best[1] == pytest.approx(cllr_min(bonafide, spoof), abs=1e-12)
    assert curve.nothing[1] == pytest.approx(1.0)
    assert (curve.best <= curve.scores).all() and (curve.best <= curve.nothing).all()


def test_the_reliability_of_calibrated_scores_is_near_the_diagonal():
    bonafide, spoof = miscalibrated(4, 20_000)
    trials = sort_trials((bonafide - 5) / 3, (spoof - 5) / 3)
    scores, supported = reliability_curve(operating_points(trials))
    assert (np.diff(supported) >= -1e-9).all()
    is_inside = np.abs(scores) < 3
    assert np.abs(supported - scores)[is_inside].max() < 0.6


def test_the_best_increasing_map_leaves_no_cost_of_calibration():
    bonafide, spoof = miscalibrated(5, 500)
    points = operating_points(sort_trials(bonafide, spoof))
    p = isotonic_posteriors(np.diff(points.miss), -np.diff(points.false_alarm)).clip(1e-18, 1 - 1e-16)
    best = dict(zip(points.thresholds[1:].tolist(), (np.log(p) - np.log1p(-p)).tolist(), strict=True))
    mapped_b, mapped_s = ([best[score] for score in scores.tolist()] for scores in (bonafide, spoof))
    assert cllr(mapped_b, mapped_s) == pytest.approx(cllr_min(bonafide, spoof), abs=1e-12)
    assert cllr(mapped_b, mapped_s) == pytest.approx(cllr_min(mapped_b, mapped_s), abs=1e-12)


def test_permuted_labels_are_worth_nothing():
    scores = np.random.default_rng(8).normal(0, 2, 20_000)
    spoof, bonafide = sorted((scores[::2], scores[1::2]), key=np.mean)  # a reversed sign would be refused
    fitted = affine_calibration(bonafide, spoof)
    llr = fitted.apply(bonafide), fitted.apply(spoof)
    assert cllr(*llr) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("rate", "num_needed"), [(0.05, 59), (0.01, 299), (0.001, 2995)])
def test_a_promise_needs_enough_trials(rate, num_needed):
    rng = np.random.default_rng(0)
    for num_spoof in (num_needed - 1, num_needed):
        threshold = threshold_for(rng.normal(size=num_spoof), rate)
        assert threshold.num_needed == num_needed
        assert (threshold.guaranteed is None) == (num_spoof < num_needed)


def test_the_point_threshold_has_the_wanted_rate_on_its_own_trials():
    spoof = np.random.default_rng(1).normal(size=5000)
    threshold = threshold_for(spoof, 0.02)
    assert (spoof >= threshold.point).mean() == 0.02
    assert threshold.guaranteed is not None and threshold.guaranteed > threshold.point


def test_the_guaranteed_threshold_is_violated_as_seldom_as_promised():
    rng = np.random.default_rng(2)
    num_violated = {"guaranteed": 0, "point": 0}
    for _ in range(1000):
        threshold = threshold_for(rng.random(1000), 0.01)  # of uniform scores, the rate is 1 − threshold
        assert threshold.guaranteed is not None
        num_violated["guaranteed"] += 1 - threshold.guaranteed > 0.01
        num_violated["point"] += 1 - threshold.point > 0.01
    assert num_violated["guaranteed"] <= 0.07 * 1000
    assert num_violated["point"] > 0.3 * 1000


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, np.nan])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(InputError, match="it must be between 0 and 1"):
        threshold_for([1.0], rate)
