"""Scores as log-likelihood ratios: an affine calibration, its diagnostic curves, and thresholds for a wanted rate."""

from __future__ import annotations

import bisect
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import InputError
from pipeline.metrics.isotonic import isotonic_posteriors
from pipeline.metrics.rates import ASVSPOOF5
from pipeline.metrics.trials import OperatingPoints, Trials, operating_points, sort_trials

MAX_POINTS = 10_000
"""A curve over more distinct scores is computed from evenly chosen thresholds."""


class AffineMap(NamedTuple):
    """Maps a score to a natural-log likelihood ratio: scale × score + offset."""

    scale: float
    offset: float

    def apply(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Map scores of any shape."""
        return self.scale * np.asarray(scores, np.float64) + self.offset


def affine_calibration(
    bonafide: ArrayLike, spoof: ArrayLike, prior: float = ASVSPOOF5.effective_prior
) -> AffineMap:
    """Fit the affine map whose log-likelihood ratios have the lowest cost at a prior (logistic regression).

    Each class has its share of the prior, whatever the number of its trials.

    Args:
        bonafide: scores of bona fide utterances.
        spoof: scores of spoof utterances.
        prior: prior of bona fide at which the cost is lowest, between 0 and 1.

    Raises:
        InputError: the classes do not overlap, so any scale would do; or higher scores do not mean bona fide.
    """
    from sklearn.linear_model import LogisticRegression

    if not 0 < prior < 1:
        raise InputError(f"the prior of bona fide is {prior}; it must be between 0 and 1")
    trials = sort_trials(bonafide, spoof)
    b, s = trials.by_class
    if b[0] > s[-1] or b[-1] < s[0]:
        raise InputError(
            f"all bona fide scores are {'above' if b[0] > s[-1] else 'below'} all spoof scores, so no scale of the "
            "log-likelihood ratio can be fitted; calibrate on more utterances, or on harder ones"
        )
    # The solver converges best if the scores have mean 0 and standard deviation 1.
    centre, spread = float(trials.scores.mean()), float(trials.scores.std())
    if spread == 0:
        raise InputError("all scores are equal, so they tell nothing; calibrate on scores that differ")
    weights = np.where(trials.is_bonafide, prior / b.size, (1 - prior) / s.size) * trials.scores.size
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    regression.fit(((trials.scores - centre) / spread)[:, None], trials.is_bonafide, sample_weight=weights)
    scale = float(regression.coef_[0, 0]) / spread
    if scale <= 0:
        raise InputError(
            "higher scores do not mean bona fide here, so they cannot be calibrated; are the labels swapped?"
        )
    offset = float(regression.intercept_[0]) - scale * centre - math.log(prior / (1 - prior))
    return AffineMap(scale, offset)


class Threshold(NamedTuple):
    """Thresholds for a wanted false alarm rate; scores at or above a threshold count as bona fide."""

    point: float
    """The lowest threshold with that rate on these trials."""
    guaranteed: float | None
    """The lowest threshold whose rate on new trials is below the wanted one with 95 % confidence; None if there are
    too few trials to promise any."""
    num_spoof: int
    num_needed: int
    """Spoof trials that a promise needs, if none of them is accepted."""


def threshold_for(spoof: ArrayLike, false_alarm: float = 0.01, confidence: float = 0.95) -> Threshold:
    """Choose a threshold that accepts at most this share of spoof utterances.

    The guaranteed threshold uses the one-sided bound of Clopper and Pearson (1934) for independent utterances.

    Args:
        spoof: scores of spoof utterances.
        false_alarm: the wanted rate, between 0 and 1.
        confidence: of the promise.

    Raises:
        InputError: the rate is not between 0 and 1, or there are no scores.
    """
    from scipy.special import betaincinv

    if not 0 < false_alarm < 1:
        raise InputError(f"the false alarm rate is {false_alarm}; it must be between 0 and 1")
    scores = np.sort(np.asarray(spoof, np.float64).reshape(-1))
    if not scores.size or not np.isfinite(scores).all():
        raise InputError("a threshold needs spoof scores, all of them finite")

    def upper_bound(num_accepted: int) -> float:
        return float(betaincinv(num_accepted + 1, scores.size - num_accepted, confidence))

    most = math.floor(false_alarm * scores.size)
    num_promised = bisect.bisect_right(range(most + 1), false_alarm, key=upper_bound)
    return Threshold(
        point=_above(scores, most),
        guaranteed=_above(scores, num_promised - 1) if num_promised else None,
        num_spoof=scores.size,
        num_needed=math.ceil(math.log(1 - confidence) / math.log1p(-false_alarm)),
    )


def _above(scores: NDArray[np.float64], num_accepted: int) -> float:
    """The lowest threshold that accepts at most the highest `num_accepted` of sorted scores."""
    return (
        float(np.nextafter(scores[-1 - num_accepted], np.inf))
        if num_accepted < scores.size
        else float(scores[0])
    )


class EceCurve(NamedTuple):
    """Cross-entropy over the prior, in bits: how much each prior leaves to learn once the scores are known."""

    log10_prior_odds: NDArray[np.float64]
    scores: NDArray[np.float64]
    """Of the scores as log-likelihood ratios."""
    best: NDArray[np.float64]
    """Of the best increasing map of the scores."""
    nothing: NDArray[np.float64]
    """Of the prior alone."""


def ece_curve(trials: Trials, log10_prior_odds: ArrayLike) -> EceCurve:
    """Compute the normalised cross-entropy (Ramos and Gonzalez-Rodriguez, 2013); at prior odds of 1 it is Cllr."""
    odds = np.asarray(log10_prior_odds, np.float64).reshape(-1)
    points = operating_points(trials).thinned(MAX_POINTS)
    weight_b, weight_s = np.diff(points.miss), -np.diff(points.false_alarm)
    with np.errstate(divide="ignore"):
        posteriors = isotonic_posteriors(weight_b, weight_s)
        best_llr = np.log(posteriors) - np.log1p(-posteriors)
    shift = odds * math.log(10)
    return EceCurve(
        odds,
        np.array([_cross_entropy(points.thresholds[1:], weight_b, weight_s, x) for x in shift]),
        np.array([_cross_entropy(best_llr, weight_b, weight_s, x) for x in shift]),
        np.array([_cross_entropy(np.zeros(1), np.ones(1), np.ones(1), x) for x in shift]),
    )


def _cross_entropy(
    llr: NDArray[np.float64], weight_b: NDArray[np.float64], weight_s: NDArray[np.float64], log_odds: float
) -> float:
    prior = 1 / (1 + math.exp(-log_odds))
    loss_b, loss_s = np.logaddexp(0, -(llr + log_odds)), np.logaddexp(0, llr + log_odds)
    # A group without trials of a class costs nothing there, even if its ratio is infinite.
    loss_b, loss_s = np.where(weight_b > 0, loss_b, 0), np.where(weight_s > 0, loss_s, 0)
    return float((prior * (weight_b @ loss_b) + (1 - prior) * (weight_s @ loss_s)) / math.log(2))


def reliability_curve(points: OperatingPoints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare each score with the log-likelihood ratio that these trials support at it.

    Returns:
        Scores, and natural-log likelihood ratios by pool adjacent violators; where only one class has scores, the
        ratio is infinite and is left out.
    """
    points = points.thinned(MAX_POINTS)
    posteriors = isotonic_posteriors(np.diff(points.miss), -np.diff(points.false_alarm))
    is_finite = (posteriors > 0) & (posteriors < 1)
    p = posteriors[is_finite]
    return points.thresholds[1:][is_finite], np.log(p) - np.log1p(-p)
