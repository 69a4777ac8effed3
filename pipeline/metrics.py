"""Equal error rate, detection costs and other metrics of scores; a higher score means more bona fide.

Scores are in natural-log units: logit of bona fide minus logit of spoof. Rates are fractions in [0, 1]. Every metric
takes the scores of bona fide and of spoof utterances as two arrays, in any order, and raises InputError if one of them
is empty or contains a nan or an infinity.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import InputError, did_you_mean


class ClassScores(NamedTuple):
    """Scores by class; higher is more bona fide."""

    bonafide: NDArray[np.float64]
    spoof: NDArray[np.float64]


Definition = Literal["bonafide", "asvspoof", "arena", "roc"]
DEFINITIONS: tuple[Definition, ...] = get_args(Definition)
"""Definitions of the equal error rate.

bonafide: mean of miss and false alarm rate where they differ least; equal scores share one threshold.
asvspoof: the same without grouping equal scores (bona fide sorts first), as in the ASVspoof challenges.
arena: linear interpolation between the two points around the crossing, as in the Speech Anti-Spoofing Arena.
roc: the false alarm rate where miss and false alarm rate differ least; of two such points, the higher threshold.
Without equal scores the four agree within 1 / min(number of bona fide, number of spoof).
"""


class EqualErrorRate(NamedTuple):
    """The rate at which miss and false alarm rate are equal; scores above the threshold are accepted."""

    eer: float
    threshold: float


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


class Decisions(NamedTuple):
    """Rates at a fixed threshold; bona fide is the positive class. A ratio with denominator 0 is 0."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    miss: float
    false_alarm: float


class OperatingPoints(NamedTuple):
    """Error counts at each threshold, from accepting everything (first) to rejecting everything (last).

    At point i, scores at or below thresholds[i] are rejected; thresholds[0] is minus infinity. All arrays are
    [num_points]; thresholds are float64, counts int64.
    """

    thresholds: NDArray[np.float64]
    misses: NDArray[np.int64]
    false_alarms: NDArray[np.int64]

    @property
    def num_bonafide(self) -> int:
        return int(self.misses[-1])

    @property
    def num_spoof(self) -> int:
        return int(self.false_alarms[0])

    @property
    def miss(self) -> NDArray[np.float64]:
        """Fraction of bona fide utterances rejected at each point."""
        return self.misses / self.num_bonafide

    @property
    def false_alarm(self) -> NDArray[np.float64]:
        """Fraction of spoof utterances accepted at each point."""
        return self.false_alarms / self.num_spoof


def operating_points(bonafide: ArrayLike, spoof: ArrayLike, *, group_ties: bool = True) -> OperatingPoints:
    """Sort all scores once and count the errors at every threshold; by default equal scores share one."""
    b, s = _scores(bonafide, "bona fide"), _scores(spoof, "spoof")
    scores = np.concatenate((b, s))
    order = np.argsort(scores, kind="stable")
    scores = scores[order]
    rejected_b = np.cumsum(order < b.size)
    rejected_s = np.arange(1, scores.size + 1) - rejected_b
    if group_ties:
        # Equal scores share one threshold. Cutting between them would let the sort decide the EER.
        is_last = np.append(scores[1:] != scores[:-1], True)
        scores, rejected_b, rejected_s = scores[is_last], rejected_b[is_last], rejected_s[is_last]
    return OperatingPoints(
        thresholds=np.concatenate(([-np.inf], scores)),
        misses=np.concatenate(([0], rejected_b)),
        false_alarms=s.size - np.concatenate(([0], rejected_s)),
    )


def equal_error_rate(
    bonafide: ArrayLike, spoof: ArrayLike, definition: Definition = "bonafide"
) -> EqualErrorRate:
    """The error rate at which bona fide speech is rejected as often as spoofed speech is accepted.

    Perfect separation gives 0, perfectly reversed scores 1. Constant scores give 0.5, except with the definitions
    `asvspoof` (1) and `roc` (0), which do not treat equal scores as ties.
    """
    if definition not in DEFINITIONS:
        raise InputError(
            f"unknown definition of the EER {definition!r}{did_you_mean(definition, DEFINITIONS)}"
        )
    return _equal_error_rate(
        operating_points(bonafide, spoof, group_ties=definition != "asvspoof"), definition
    )


def _equal_error_rate(points: OperatingPoints, definition: Definition) -> EqualErrorRate:
    num_b, num_s = points.num_bonafide, points.num_spoof
    # Integers, because rounding must not decide between two equally good points. Each point rejects more scores than
    # the last, so the difference rises strictly from -num_b * num_s to +num_b * num_s.
    difference = points.misses * num_s - points.false_alarms * num_b
    after = int(np.searchsorted(difference, 0))
    before = after - 1
    d_before, d_after = -int(difference[before]), int(difference[after])
    match definition:
        case "bonafide" | "asvspoof":
            # Skip the point that accepts everything: its threshold is infinite, and it is never strictly better.
            i = before if d_before <= d_after and before > 0 else after
            eer = (points.misses[i] * num_s + points.false_alarms[i] * num_b) / (2 * num_b * num_s)
            return EqualErrorRate(float(eer), float(points.thresholds[i]))
        case "roc":
            i = before if d_before < d_after else after
            return EqualErrorRate(float(points.false_alarms[i] / num_s), float(points.thresholds[i]))
        case "arena":
            miss, false_alarm, thresholds = points.miss, points.false_alarm, points.thresholds
            if after == thresholds.size - 1:
                # In this definition the curve ends at the highest score, before everything is rejected.
                eer = (miss[before] + false_alarm[before]) / 2
                return EqualErrorRate(float(eer), float(thresholds[after]))
            share = d_before / (d_before + d_after)
            eer = miss[before] + share * (miss[after] - miss[before])
            threshold = thresholds[before + 1] + share * (thresholds[after + 1] - thresholds[before + 1])
            return EqualErrorRate(float(eer), float(threshold))


def eer_interval(
    bonafide: ArrayLike,
    spoof: ArrayLike,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the EER; bona fide and spoof utterances are resampled separately.

    No resample is materialised. Given its error counts at two thresholds, the counts at a threshold between them are
    binomial, so a bisection for the crossing draws only log2(num_points) counts per resample. The distribution is that
    of resampling every utterance; the cost is one sort.
    """
    return _eer_interval(operating_points(bonafide, spoof), num_resamples, confidence, seed)


def _eer_interval(points: OperatingPoints, num_resamples: int, confidence: float, seed: int) -> Interval:
    if num_resamples < 1 or not 0 < confidence < 1:
        raise InputError(
            f"cannot bootstrap with {num_resamples} resamples and confidence {confidence}; "
            "use at least 1 resample and a confidence between 0 and 1"
        )
    misses, rejects = points.misses, points.num_spoof - points.false_alarms
    num_b, num_s = points.num_bonafide, points.num_spoof
    rng = np.random.default_rng(seed)

    def difference(miss: NDArray[np.int64], reject: NDArray[np.int64]) -> NDArray[np.int64]:
        return miss * num_s - (num_s - reject) * num_b

    low = np.zeros(num_resamples, np.int64)
    high = np.full(num_resamples, misses.size - 1)
    miss_low, miss_high = np.zeros_like(low), np.full_like(low, num_b)
    reject_low, reject_high = np.zeros_like(low), np.full_like(low, num_s)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        miss = miss_low + _draw_between(rng, misses, low, middle, high, miss_high - miss_low)
        reject = reject_low + _draw_between(rng, rejects, low, middle, high, reject_high - reject_low)
        is_before = difference(miss, reject) < 0
        low, high = np.where(is_before, middle, low), np.where(is_before, high, middle)
        miss_low, miss_high = np.where(is_before, miss, miss_low), np.where(is_before, miss_high, miss)
        reject_low = np.where(is_before, reject, reject_low)
        reject_high = np.where(is_before, reject_high, reject)
    is_before = -difference(miss_low, reject_low) <= difference(miss_high, reject_high)
    miss_rate = np.where(is_before, miss_low, miss_high) / num_b
    false_alarm_rate = 1 - np.where(is_before, reject_low, reject_high) / num_s
    tail = (1 - confidence) / 2
    ends = np.quantile((miss_rate + false_alarm_rate) / 2, (tail, 1 - tail))
    return Interval(float(ends[0]), float(ends[1]))


def _draw_between(
    rng: np.random.Generator,
    counts: NDArray[np.int64],
    low: NDArray[np.int64],
    middle: NDArray[np.int64],
    high: NDArray[np.int64],
    num_drawn: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Draw how many of num_drawn utterances at points (low, high] are at (low, middle]; all arrays [num_resamples]."""
    num_available = counts[high] - counts[low]
    share = (counts[middle] - counts[low]) / np.maximum(num_available, 1)
    return rng.binomial(num_drawn, share)


def min_dcf(
    bonafide: ArrayLike,
    spoof: ArrayLike,
    *,
    spoof_prior: float = 0.05,
    cost_miss: float = 1.0,
    cost_false_alarm: float = 10.0,
) -> float:
    """Lowest normalised detection cost over all thresholds (minDCF of ASVspoof 5, track 1)."""
    return _min_dcf(operating_points(bonafide, spoof), *_weights(spoof_prior, cost_miss, cost_false_alarm))


def _min_dcf(points: OperatingPoints, weight_miss: float, weight_false_alarm: float) -> float:
    cost = weight_miss * points.miss + weight_false_alarm * points.false_alarm
    return float(cost.min() / min(weight_miss, weight_false_alarm))


def act_dcf(
    bonafide: ArrayLike,
    spoof: ArrayLike,
    *,
    spoof_prior: float = 0.05,
    cost_miss: float = 1.0,
    cost_false_alarm: float = 10.0,
) -> float:
    """Normalised detection cost at the Bayes threshold for these costs (actDCF of ASVspoof 5, track 1)."""
    weight_miss, weight_false_alarm = _weights(spoof_prior, cost_miss, cost_false_alarm)
    at_bayes = decisions(bonafide, spoof, float(np.log(weight_false_alarm / weight_miss)))
    cost = weight_miss * at_bayes.miss + weight_false_alarm * at_bayes.false_alarm
    return cost / min(weight_miss, weight_false_alarm)


def _weights(spoof_prior: float, cost_miss: float, cost_false_alarm: float) -> tuple[float, float]:
    if not 0 < spoof_prior < 1 or cost_miss <= 0 or cost_false_alarm <= 0:
        raise InputError(
            f"invalid spoof prior {spoof_prior} or costs {cost_miss}, {cost_false_alarm} of the detection cost; "
            "the prior must be between 0 and 1, and costs must be positive"
        )
    return (1 - spoof_prior) * cost_miss, spoof_prior * cost_false_alarm


def cllr(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Cost of the log-likelihood ratio in bits: 0 for a perfect detector, 1 for scores of 0, above 1 if misleading."""
    b, s = _scores(bonafide, "bona fide"), _scores(spoof, "spoof")
    # logaddexp(0, x) is ln(1 + e^x) without overflow.
    return float((np.logaddexp(0, -b).mean() + np.logaddexp(0, s).mean()) / (2 * np.log(2)))


def roc_auc(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Probability that a bona fide utterance scores higher than a spoof one; a tie counts half."""
    return _roc_auc(operating_points(bonafide, spoof))


def _roc_auc(points: OperatingPoints) -> float:
    rejects = points.num_spoof - points.false_alarms
    twice_wins = np.dot(np.diff(points.misses), rejects[1:] + rejects[:-1])
    return float(twice_wins / (2 * points.num_bonafide * points.num_spoof))


def decisions(bonafide: ArrayLike, spoof: ArrayLike, threshold: float = 0.0) -> Decisions:
    """Rates when scores at or above the threshold are classified as bona fide; 0 means P(bona fide) >= 0.5."""
    b, s = _scores(bonafide, "bona fide"), _scores(spoof, "spoof")
    hits, false_alarms = int(np.sum(b >= threshold)), int(np.sum(s >= threshold))
    recall = hits / b.size
    return Decisions(
        accuracy=(hits + s.size - false_alarms) / (b.size + s.size),
        precision=hits / (hits + false_alarms) if hits else 0.0,
        recall=recall,
        f1=2 * hits / (b.size + hits + false_alarms),
        miss=1 - recall,
        false_alarm=false_alarms / s.size,
    )


def summarise(
    bonafide: ArrayLike,
    spoof: ArrayLike,
    definition: Definition = "bonafide",
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Every metric of this module by name, from one sort; decisions are at P(bona fide) >= 0.5."""
    points = operating_points(bonafide, spoof)
    if definition in ("bonafide", "arena", "roc"):
        eer = _equal_error_rate(points, definition)
    else:
        eer = equal_error_rate(bonafide, spoof, definition)
    interval = _eer_interval(points, num_resamples, 0.95, seed)
    return {
        "eer": eer.eer,
        "eer_low": interval.low,
        "eer_high": interval.high,
        "eer_threshold": eer.threshold,
        "min_dcf": _min_dcf(points, *_weights(0.05, 1.0, 10.0)),
        "act_dcf": act_dcf(bonafide, spoof),
        "cllr": cllr(bonafide, spoof),
        "roc_auc": _roc_auc(points),
        **decisions(bonafide, spoof)._asdict(),
    }


def det_curve(
    bonafide: ArrayLike, spoof: ArrayLike, max_points: int = 400
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False alarm and miss rates of a DET plot, thinned evenly along the curve; both [<= max_points]."""
    points = operating_points(bonafide, spoof)
    miss, false_alarm = points.miss, points.false_alarm
    if miss.size <= max_points:
        return false_alarm, miss
    # The axes of a DET plot stretch the tails, so distance along the curve is measured in logits.
    smallest = 0.5 / max(points.num_bonafide, points.num_spoof)
    m, f = np.clip(miss, smallest, 1 - smallest), np.clip(false_alarm, smallest, 1 - smallest)
    position = np.log(m / (1 - m)) - np.log(f / (1 - f))
    kept = np.unique(np.searchsorted(position, np.linspace(position[0], position[-1], max_points)))
    return false_alarm[kept], miss[kept]


def _scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64).reshape(-1)
    if scores.size == 0:
        raise InputError(f"no {name} scores; metrics need scores of both classes")
    is_bad = ~np.isfinite(scores)
    if is_bad.any():
        first = int(np.argmax(is_bad))
        raise InputError(
            f"{int(is_bad.sum())} of {scores.size} {name} scores are not finite, "
            f"the first is {scores[first]} at position {first}; every score must be a finite number"
        )
    return scores
