"""The equal error rate, by the definitions that published work uses."""

from __future__ import annotations

from bisect import bisect_left
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import InputError, did_you_mean
from pipeline.metrics.trials import OperatingPoints, Trials, check_scores, operating_points, sort_trials

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


def equal_error_rate(
    bonafide: ArrayLike, spoof: ArrayLike, definition: Definition = "bonafide"
) -> EqualErrorRate:
    """The error rate at which bona fide speech is rejected as often as spoofed speech is accepted.

    Perfect separation gives 0, perfectly reversed scores 1. Constant scores give 0.5, except with the definitions
    `asvspoof` (1) and `roc` (0), which do not treat equal scores as ties.
    """
    return eer_of(sort_trials(bonafide, spoof), definition)


def eer_against(bonafide: NDArray[np.float64], spoof: NDArray[np.float64]) -> float:
    """The EER of scores that are in ascending order within each class, by the definition `bonafide`.

    It equals that of `equal_error_rate`, without sorting both classes together: many small groups of spoof scores can
    be measured against the same bona fide scores, however many these are.

    Raises:
        InputError: a class has no scores, or a score is nan or infinite.
    """
    for scores, name in ((bonafide, "bona fide"), (spoof, "spoof")):
        if not (
            scores.size and np.isfinite(scores[[0, -1]]).all()
        ):  # a nan is last, an infinity first or last
            check_scores(scores, name)
    num_b, num_s = bonafide.size, spoof.size

    def errors(threshold: float, side: Literal["left", "right"]) -> tuple[int, int]:
        """Misses and false alarms if scores up to the threshold are rejected, without it (left) or with it (right)."""
        num_accepted = num_s - int(np.searchsorted(spoof, threshold, side))
        return int(np.searchsorted(bonafide, threshold, side)), num_accepted

    # The lowest threshold at which the miss rate is at least the false alarm rate: among the spoof scores,
    misses = np.searchsorted(bonafide, spoof, "right")
    false_alarms = num_s - np.searchsorted(spoof, spoof, "right")
    crossing = float(spoof[int(np.argmax(misses * num_s >= false_alarms * num_b))])
    # or among the bona fide scores between it and the next lower spoof score, which accept equally many spoof scores.
    num_accepted = errors(crossing, "left")[1]
    rank = -(-num_accepted * num_b // num_s)
    crossing = min(crossing, float(bonafide[rank - 1]))
    (miss_before, accepted_before), (miss_after, accepted_after) = (
        errors(crossing, "left"),
        errors(crossing, "right"),
    )
    before = accepted_before * num_b - miss_before * num_s
    after = miss_after * num_s - accepted_after * num_b
    # As in `eer_of`, the point that accepts everything does not count.
    if before <= after and (miss_before, accepted_before) != (0, num_s):
        return (miss_before * num_s + accepted_before * num_b) / (2 * num_b * num_s)
    return (miss_after * num_s + accepted_after * num_b) / (2 * num_b * num_s)


def eer_of(
    trials: Trials, definition: Definition = "bonafide", points: OperatingPoints | None = None
) -> EqualErrorRate:
    """The equal error rate of sorted trials.

    Args:
        trials: both classes.
        definition: one of DEFINITIONS.
        points: their operating points with equal scores grouped, if they are known.

    Raises:
        InputError: the definition is unknown.
    """
    if definition not in DEFINITIONS:
        raise InputError(
            f"unknown definition of the EER {definition!r}{did_you_mean(definition, DEFINITIONS)}"
        )
    if points is None or definition == "asvspoof":
        points = operating_points(trials, group_ties=definition != "asvspoof")
    return eer_at(points, definition)


def eer_at(points: OperatingPoints, definition: Definition = "bonafide") -> EqualErrorRate:
    """The equal error rate of operating points, which decide whether equal scores are grouped."""
    num_b, num_s = points.num_bonafide, points.num_spoof

    # Integers of Python, because rounding must not decide between two equally good points, and products of durations
    # exceed 64 bits. Later points reject more, so the difference rises from -num_b * num_s to +num_b * num_s.
    def errors(point: int) -> tuple[int, int]:
        return int(points.misses[point]) * num_s, int(points.false_alarms[point]) * num_b

    def difference(point: int) -> int:
        misses, false_alarms = errors(point)
        return misses - false_alarms

    after = bisect_left(range(points.thresholds.size), 0, key=difference)
    before = after - 1
    d_before, d_after = -difference(before), difference(after)
    match definition:
        case "bonafide" | "asvspoof":
            # Skip the point that accepts everything: its threshold is infinite, and it is never strictly better.
            i = before if d_before <= d_after and before > 0 else after
            return EqualErrorRate(sum(errors(i)) / (2 * num_b * num_s), float(points.thresholds[i]))
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
