"""Detection costs, the cost of log-likelihood ratios, the area under the ROC curve, and rates at a threshold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import InputError
from pipeline.metrics.trials import OperatingPoints, Trials, operating_points, sort_trials


class Costs(NamedTuple):
    """The prior and the costs of a detection cost function; by default those of ASVspoof 5, track 1."""

    spoof_prior: float = 0.05
    miss: float = 1.0
    false_alarm: float = 10.0

    @property
    def weight_miss(self) -> float:
        return (1 - self.spoof_prior) * self.miss

    @property
    def weight_false_alarm(self) -> float:
        return self.spoof_prior * self.false_alarm

    @property
    def scale(self) -> float:
        """The cost of ignoring the audio: of rejecting everything or accepting everything, whichever is cheaper."""
        return min(self.weight_miss, self.weight_false_alarm)

    @property
    def bayes_threshold(self) -> float:
        """The natural-log likelihood ratio from which accepting costs less than rejecting."""
        return float(np.log(self.weight_false_alarm / self.weight_miss))

    @property
    def effective_prior(self) -> float:
        """The prior of bona fide that, with equal costs, has the same Bayes threshold."""
        return self.weight_miss / (self.weight_miss + self.weight_false_alarm)

    def check(self) -> None:
        """Check the values.

        Raises:
            InputError: the prior is not between 0 and 1, or a cost is not positive.
        """
        if not 0 < self.spoof_prior < 1 or self.miss <= 0 or self.false_alarm <= 0:
            raise InputError(
                f"invalid spoof prior {self.spoof_prior} or costs {self.miss}, {self.false_alarm} of the detection "
                "cost; the prior must be between 0 and 1, and costs must be positive"
            )


ASVSPOOF5 = Costs()


class Decisions(NamedTuple):
    """Rates at a fixed threshold; bona fide is the positive class. A ratio with denominator 0 is 0."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    miss: float
    false_alarm: float


def min_dcf(bonafide: ArrayLike, spoof: ArrayLike, costs: Costs = ASVSPOOF5) -> float:
    """Lowest normalised detection cost over all thresholds (minDCF of ASVspoof 5, track 1)."""
    costs.check()
    return min_dcf_of(operating_points(sort_trials(bonafide, spoof)), costs)


def min_dcf_of(points: OperatingPoints, costs: Costs = ASVSPOOF5) -> float:
    """minDCF of operating points."""
    cost = costs.weight_miss * points.miss + costs.weight_false_alarm * points.false_alarm
    return float(cost.min() / costs.scale)


def act_dcf(bonafide: ArrayLike, spoof: ArrayLike, costs: Costs = ASVSPOOF5) -> float:
    """Normalised detection cost at the Bayes threshold for these costs (actDCF of ASVspoof 5, track 1)."""
    costs.check()
    return act_dcf_of(sort_trials(bonafide, spoof), costs)


def act_dcf_of(trials: Trials, costs: Costs = ASVSPOOF5) -> float:
    """actDCF of sorted trials."""
    rates = decisions_of(trials, costs.bayes_threshold)
    return (costs.weight_miss * rates.miss + costs.weight_false_alarm * rates.false_alarm) / costs.scale


def cllr(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Cost of the log-likelihood ratio in bits: 0 for a perfect detector, 1 for scores of 0, above 1 if misleading."""
    return cllr_of(sort_trials(bonafide, spoof))


def cllr_of(trials: Trials) -> float:
    """Cllr of sorted trials."""
    losses = llr_losses(trials)
    return float((losses[trials.is_bonafide].mean() + losses[~trials.is_bonafide].mean()) / 2)


def llr_losses(trials: Trials) -> NDArray[np.float64]:
    """The loss of each trial, in bits, if its score is a log-likelihood ratio: log2(1 + e^±score), [N]."""
    # logaddexp(0, x) is ln(1 + e^x) without overflow.
    losses: NDArray[np.float64] = np.logaddexp(0, np.where(trials.is_bonafide, -trials.scores, trials.scores))
    losses /= np.log(2)
    return losses


def roc_auc(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Probability that a bona fide utterance scores higher than a spoof one; a tie counts half."""
    return roc_auc_of(operating_points(sort_trials(bonafide, spoof)))


def roc_auc_of(points: OperatingPoints) -> float:
    """Area under the ROC curve of operating points."""
    # Floats hold these integers exactly up to 2^53, and products of larger ones do not overflow.
    rejects = (points.num_spoof - points.false_alarms).astype(np.float64)
    twice_wins = np.dot(np.diff(points.misses).astype(np.float64), rejects[1:] + rejects[:-1])
    return float(twice_wins / (2 * points.num_bonafide * points.num_spoof))


def decisions(bonafide: ArrayLike, spoof: ArrayLike, threshold: float = 0.0) -> Decisions:
    """Rates when scores at or above the threshold are classified as bona fide; 0 means P(bona fide) >= 0.5."""
    return decisions_of(sort_trials(bonafide, spoof), threshold)


def decisions_of(trials: Trials, threshold: float = 0.0) -> Decisions:
    """Rates of sorted trials at a threshold."""
    misses, correct_rejects = trials.rejected_at(threshold)
    num_b, num_s = trials.num_bonafide, trials.num_spoof
    hits, false_alarms = num_b - misses, num_s - correct_rejects
    return Decisions(
        accuracy=(hits + correct_rejects) / (num_b + num_s),
        precision=hits / (hits + false_alarms) if hits else 0.0,
        recall=hits / num_b,
        f1=2 * hits / (num_b + hits + false_alarms),
        miss=misses / num_b,
        false_alarm=false_alarms / num_s,
    )


def det_curve(
    bonafide: ArrayLike, spoof: ArrayLike, max_points: int = 400
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False alarm and miss rates of a DET plot, thinned evenly along the curve; both [<= max_points]."""
    return det_curve_of(operating_points(sort_trials(bonafide, spoof)), max_points)


def det_curve_of(
    points: OperatingPoints, max_points: int = 400
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False alarm and miss rates of a DET plot of operating points."""
    miss, false_alarm = points.miss, points.false_alarm
    if miss.size <= max_points:
        return false_alarm, miss
    # The axes of a DET plot stretch the tails, so distance along the curve is measured in logits.
    smallest = 0.5 / max(points.num_bonafide, points.num_spoof)
    m, f = np.clip(miss, smallest, 1 - smallest), np.clip(false_alarm, smallest, 1 - smallest)
    position = np.log(m / (1 - m)) - np.log(f / (1 - f))
    kept = np.unique(np.searchsorted(position, np.linspace(position[0], position[-1], max_points)))
    return false_alarm[kept], miss[kept]
