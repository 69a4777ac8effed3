"""Invariants of the metrics, and their agreement with slow implementations and scikit-learn."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics
from sklearn.isotonic import IsotonicRegression

from pipeline.errors import InputError
from pipeline.metrics import (
    DEFINITIONS,
    Definition,
    act_dcf,
    cllr,
    decisions,
    det_curve,
    eer_at,
    eer_of,
    equal_error_rate,
    min_dcf,
    operating_points,
    roc_auc,
    sort_trials,
    weighted_operating_points,
)
from pipeline.metrics.isotonic import cllr_min
from pipeline.metrics.rates import roc_auc_of
from pipeline.metrics.summary import summarise

Scores = NDArray[np.float64]


def gaussian_scores(seed: int, num_bonafide: int = 61, num_spoof: int = 143) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(seed)
    return rng.normal(1.5, 1, num_bonafide), rng.normal(0, 1.4, num_spoof)


def tied_scores(seed: int) -> tuple[Scores, Scores]:
    bonafide, spoof = gaussian_scores(seed)
    return np.round(bonafide), np.round(spoof)


def slow_eer(bonafide: Scores, spoof: Scores) -> float:
    """The definition, one threshold at a time."""
    rates = [((bonafide <= t).mean(), (spoof > t).mean()) for t in np.unique((*bonafide, *spoof))]
    miss, false_alarm = min(rates, key=lambda rate: round(abs(rate[0] - rate[1]), 12))
    return float(miss + false_alarm) / 2


def slow_arena_eer(bonafide: Scores, spoof: Scores) -> float:
    last = (0.0, 1.0)
    for t in np.unique((*bonafide, *spoof)):
        miss, false_alarm = float((bonafide < t).mean()), float((spoof >= t).mean())
        if miss >= false_alarm:
            gap, last_gap = miss - false_alarm, last[1] - last[0]
            return last[0] + last_gap / (last_gap + gap) * (miss - last[0])
        last = (miss, false_alarm)
    return sum(last) / 2


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("scores", [gaussian_scores, tied_scores])
def test_eer_agrees_with_a_loop_over_all_thresholds(scores, seed):
    bonafide, spoof = scores(seed)
    assert equal_error_rate(bonafide, spoof).eer == pytest.approx(slow_eer(bonafide, spoof), abs=1e-12)
    assert equal_error_rate(bonafide, spoof, "arena").eer == pytest.approx(
        slow_arena_eer(bonafide, spoof), abs=1e-12
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_roc_definition_agrees_with_the_roc_curve_of_scikit_learn(seed):
    bonafide, spoof = tied_scores(seed)
    labels = np.repeat((1, 0), (bonafide.size, spoof.size))
    false_alarm, recall, _ = sklearn_metrics.roc_curve(
        labels, np.concatenate((bonafide, spoof)), drop_intermediate=False
    )
    best = np.argmin(np.abs(1 - recall - false_alarm))
    assert equal_error_rate(bonafide, spoof, "roc").eer == pytest.approx(false_alarm[best], abs=1e-12)


def test_constant_scores_tell_nothing():
    assert equal_error_rate(np.ones(3), np.ones(5)) == (0.5, 1.0)
    assert equal_error_rate(np.ones(3), np.ones(5), "arena").eer == 0.5


def test_of_two_equally_good_thresholds_the_lower_one_counts():
    assert equal_error_rate([1.0, 1.0], [0.0, 2.0]) == (0.25, 0.0)


def test_definitions_without_tie_handling_give_0_or_1_on_constant_scores():
    assert equal_error_rate(np.ones(3), np.ones(5), "asvspoof").eer == 1.0
    assert equal_error_rate(np.ones(3), np.ones(5), "roc").eer == 0.0


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_perfect_separation_gives_0_and_reversed_scores_1(definition: Definition):
    high, low = np.array([2.0, 3.0, 4.0]), np.array([-1.0, 0.5])
    assert equal_error_rate(high, low, definition).eer == 0.0
    assert equal_error_rate(low, high, definition).eer == 1.0


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("seed", range(10))
def test_order_of_utterances_does_not_matter(definition: Definition, seed: int):
    bonafide, spoof = tied_scores(seed)
    rng = np.random.default_rng(seed)
    shuffled = equal_error_rate(rng.permutation(bonafide), rng.permutation(spoof), definition)
    assert shuffled == equal_error_rate(bonafide, spoof, definition)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_only_the_order_of_scores_matters(definition: Definition):
    bonafide, spoof = gaussian_scores(3)
    stretched = equal_error_rate(np.exp(bonafide), np.exp(spoof), definition)
    assert stretched.eer == equal_error_rate(bonafide, spoof, definition).eer


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_higher_scores_mean_more_bona_fide(definition: Definition):
    bonafide, spoof = gaussian_scores(5, 200, 200)
    right, wrong = (
        equal_error_rate(bonafide, spoof, definition),
        equal_error_rate(-bonafide, -spoof, definition),
    )
    assert right.eer < 0.4
    assert wrong.eer == pytest.approx(1 - right.eer, abs=1 / 200)


@pytest.mark.parametrize("seed", range(20))
def test_definitions_agree_where_there_are_no_ties(seed):
    bonafide, spoof = gaussian_scores(seed)
    rates = [equal_error_rate(bonafide, spoof, definition).eer for definition in DEFINITIONS]
    assert max(rates) - min(rates) <= 1 / min(bonafide.size, spoof.size)
    assert rates[0] == rates[1]


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_of_the_eer_has_that_error_rate(seed):
    bonafide, spoof = tied_scores(seed)
    eer, threshold = equal_error_rate(bonafide, spoof)
    assert ((bonafide <= threshold).mean() + (spoof > threshold).mean()) / 2 == pytest.approx(eer, abs=1e-12)


def test_one_utterance_of_each_class_is_enough():
    assert equal_error_rate([1.0], [0.0]).eer == 0.0
    assert equal_error_rate(np.zeros(1, np.float32), np.ones(1, np.float32)).eer == 1.0


@pytest.mark.parametrize(
    ("bonafide", "spoof", "message"),
    [
        ([], [1.0], "no bona fide scores"),
        ([1.0], [], "no spoof scores"),
        (
            [1.0, np.nan, np.inf],
            [1.0],
            "2 of 3 bona fide scores are not finite, the first is nan at position 1",
        ),
        ([1.0], [-np.inf], "1 of 1 spoof scores are not finite"),
    ],
)
@pytest.mark.parametrize(
    "metric",
    [equal_error_rate, min_dcf, act_dcf, cllr, cllr_min, roc_auc, decisions, summarise, det_curve],
)
def test_empty_or_non_finite_scores_are_rejected(metric, bonafide, spoof, message):
    with pytest.raises(InputError, match=message):
        metric(bonafide, spoof)


def test_an_unknown_definition_is_named():
    with pytest.raises(InputError, match=r"'mine'; known: bonafide, asvspoof, arena, roc"):
        equal_error_rate([1.0], [0.0], "mine")  # type: ignore[arg-type]


def test_a_million_scores():
    # The time limit of a test is the check here: a quadratic loop would take hours.
    rng = np.random.default_rng(0)
    bonafide, spoof = rng.normal(1, 1, 300_000), rng.normal(-1, 1, 700_000)
    eer = equal_error_rate(bonafide, spoof).eer
    assert eer == pytest.approx(0.1587, abs=0.002)  # two unit Gaussians at a distance of 2


@pytest.mark.parametrize("scores", [gaussian_scores, tied_scores])
def test_roc_auc_agrees_with_scikit_learn(scores):
    bonafide, spoof = scores(1)
    labels = np.repeat((1, 0), (bonafide.size, spoof.size))
    expected = sklearn_metrics.roc_auc_score(labels, np.concatenate((bonafide, spoof)))
    assert roc_auc(bonafide, spoof) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 1.0, 100.0])
def test_decisions_agree_with_scikit_learn(threshold):
    bonafide, spoof = tied_scores(2)
    truth = np.repeat((1, 0), (bonafide.size, spoof.size))
    accepted = np.concatenate((bonafide, spoof)) >= threshold
    rates = decisions(bonafide, spoof, threshold)
    assert rates.accuracy == pytest.approx(sklearn_metrics.accuracy_score(truth, accepted))
    assert rates.precision == pytest.approx(sklearn_metrics.precision_score(truth, accepted, zero_division=0))
    assert rates.recall == pytest.approx(sklearn_metrics.recall_score(truth, accepted))
    assert rates.f1 == pytest.approx(sklearn_metrics.f1_score(truth, accepted))
    assert rates.miss == pytest.approx((bonafide < threshold).mean())
    assert rates.false_alarm == pytest.approx((spoof >= threshold).mean())


def test_min_dcf_agrees_with_a_loop_over_all_thresholds():
    bonafide, spoof = tied_scores(4)
    thresholds = (-np.inf, *bonafide, *spoof)
    costs = [(0.95 * (bonafide <= t).mean() + 0.5 * (spoof > t).mean()) / 0.5 for t in thresholds]
    assert min_dcf(bonafide, spoof) == pytest.approx(min(costs))


def test_min_dcf_is_at_most_that_of_constant_scores():
    assert min_dcf(np.ones(3), np.ones(4)) == pytest.approx(1.0)
    assert min_dcf(*gaussian_scores(0)[::-1]) == pytest.approx(1.0, abs=0.05)


def test_act_dcf_uses_the_bayes_threshold():
    bonafide, spoof = np.array([-0.7, -0.6, 3.0]), np.array([-2.0, -0.65, -0.63])
    assert -np.log(1.9) == pytest.approx(-0.642, abs=1e-3)
    assert act_dcf(bonafide, spoof) == pytest.approx((0.95 / 3 + 0.5 / 3) / 0.5)


def test_act_dcf_and_cllr_depend_on_a_shift_of_all_scores_and_min_dcf_does_not():
    bonafide, spoof = gaussian_scores(6)
    assert act_dcf(bonafide - 5, spoof - 5) > act_dcf(bonafide, spoof) + 0.1
    assert cllr(bonafide - 5, spoof - 5) > cllr(bonafide, spoof) + 0.1
    assert min_dcf(bonafide - 5, spoof - 5) == min_dcf(bonafide, spoof)


def test_cllr_is_one_bit_for_scores_of_zero_and_stays_finite_for_huge_ones():
    assert cllr(np.zeros(3), np.zeros(4)) == pytest.approx(1.0)
    assert cllr([1e4], [-1e4]) == pytest.approx(0.0)
    assert cllr([-1e4], [1e4]) == pytest.approx(1e4 / np.log(2))


def test_cllr_min_has_the_golden_value_of_a_forensic_library():
    rng = np.random.default_rng(7)
    is_bonafide = rng.random(120) < 0.4
    scores = np.round(rng.normal(is_bonafide, 0.6), 2)
    assert cllr_min(scores[is_bonafide], scores[~is_bonafide]) == pytest.approx(0.505343553073, abs=1e-12)


@pytest.mark.parametrize("scores", [gaussian_scores, tied_scores])
def test_cllr_min_agrees_with_the_isotonic_regression_of_scikit_learn(scores):
    bonafide, spoof = scores(3)
    labels = np.repeat((1.0, 0.0), (bonafide.size, spoof.size))
    weights = np.where(labels, 0.5 / bonafide.size, 0.5 / spoof.size)
    regression = IsotonicRegression(y_min=0, y_max=1)
    p = regression.fit_transform(np.concatenate((bonafide, spoof)), labels, sample_weight=weights)
    losses = -np.log2(np.where(labels == 1, p, 1 - p))
    assert cllr_min(bonafide, spoof) == pytest.approx(float(weights @ losses), abs=1e-12)


def test_cllr_min_depends_on_the_order_of_scores_alone_and_is_never_above_cllr():
    bonafide, spoof = gaussian_scores(6)
    assert cllr_min(3 * bonafide - 7, 3 * spoof - 7) == pytest.approx(cllr_min(bonafide, spoof), abs=1e-12)
    assert cllr_min(bonafide, spoof) < cllr(bonafide, spoof)
    assert cllr_min([2.0, 3.0], [0.0, 1.0]) == 0.0
    assert cllr_min(np.ones(3), np.ones(4)) == pytest.approx(1.0)


def test_permuted_labels_have_a_cllr_min_near_one():
    scores = np.random.default_rng(5).normal(0, 2, 20_000)
    assert cllr_min(scores[::2], scores[1::2]) == pytest.approx(1, abs=0.02)


def test_det_curve_is_thinned_and_keeps_both_ends_and_the_crossing():
    bonafide, spoof = gaussian_scores(10, 20_000, 30_000)
    false_alarm, miss = det_curve(bonafide, spoof, max_points=200)
    assert miss.size <= 200
    assert (false_alarm[0], miss[0], false_alarm[-1], miss[-1]) == (1.0, 0.0, 0.0, 1.0)
    assert np.all(np.diff(miss) >= 0) and np.all(np.diff(false_alarm) <= 0)
    crossing = np.argmin(np.abs(miss - false_alarm))
    middle = (miss[crossing] + false_alarm[crossing]) / 2
    assert middle == pytest.approx(equal_error_rate(bonafide, spoof).eer, abs=0.01)


def test_operating_points_run_from_accepting_everything_to_rejecting_everything():
    points = operating_points(sort_trials([1.0, 1.0, 2.0], [0.0, 1.0]))
    assert points.thresholds.tolist() == [-np.inf, 0.0, 1.0, 2.0]
    assert points.misses.tolist() == [0, 0, 2, 3]
    assert points.false_alarms.tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize("definition", ["bonafide", "arena", "roc"])
@pytest.mark.parametrize("seed", range(5))
def test_a_score_with_weights_counts_as_that_many_trials_of_each_class(definition, seed):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(0, 2, 40))
    weights_b, weights_s = rng.integers(0, 4, (2, 40))
    trials = sort_trials(np.repeat(scores, weights_b), np.repeat(scores, weights_s))
    has_weight = weights_b + weights_s > 0
    points = weighted_operating_points(scores[has_weight], weights_b[has_weight], weights_s[has_weight])
    for repeated, weighted in zip(operating_points(trials), points, strict=True):
        np.testing.assert_array_equal(repeated, weighted)
    assert eer_at(points, definition) == eer_of(trials, definition)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_error_rates_do_not_overflow_with_weights_in_nanoseconds(definition):
    rng = np.random.default_rng(0)
    scores, weights_b, weights_s = rng.normal(size=50), rng.integers(1, 9, 50), rng.integers(1, 9, 50)
    small = weighted_operating_points(scores, weights_b, weights_s)
    large = weighted_operating_points(scores, weights_b * 10**16, weights_s * 10**16)
    assert eer_at(large, definition) == pytest.approx(eer_at(small, definition))
    assert roc_auc_of(large) == pytest.approx(roc_auc_of(small))


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_summarise_agrees_with_the_single_functions(definition: Definition):
    bonafide, spoof = tied_scores(11)
    summary = summarise(bonafide, spoof, definition)
    assert (summary["eer"], summary["eer_threshold"]) == equal_error_rate(bonafide, spoof, definition)
    assert summary["min_dcf"] == min_dcf(bonafide, spoof)
    assert summary["act_dcf"] == act_dcf(bonafide, spoof)
    assert summary["cllr"] == cllr(bonafide, spoof)
    assert summary["roc_auc"] == roc_auc(bonafide, spoof)
    assert summary["cllr_min"] == cllr_min(bonafide, spoof)
    assert summary["cllr"] == pytest.approx(summary["cllr_min"] + summary["cllr_cal"], abs=1e-12)
    assert summary["f1"] == decisions(bonafide, spoof).f1
