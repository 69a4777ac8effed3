"""Confidence intervals of metrics, and of differences between two systems, from their bootstrap values.

The standard error comes from the bootstrap, the width from Student's t for the number of clusters. Rates are put on a
logit scale and costs on a log scale, where their errors are nearly symmetrical. With 20 speakers, such intervals hold
the true EER in 93 % of simulations, plain percentiles of the bootstrap in 88 %.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COSTS = ("min_dcf", "act_dcf", "cllr", "cllr_min", "cllr_cal")
"""Metrics that are not confined to [0, 1]."""

CONFIDENCE = 0.95

SMALLEST_RATE = 1e-6
"""Rates are compared on a logit scale down to here."""

LARGEST_LOG = 700.0
"""Beyond it, exp overflows."""


class Interval(NamedTuple):
    """A 95 % confidence interval, both ends included."""

    low: float
    high: float


class Difference(NamedTuple):
    """The value of a metric for a first system minus that for a second, on the same trials."""

    value: float
    interval: Interval
    p_value: float
    """Two-sided: how often two equal systems differ at least so much."""


def interval_of(
    name: str, value: float, samples: NDArray[np.float64], num_clusters: int, num_trials: int
) -> Interval | None:
    """The confidence interval of a metric; None if there is only one cluster, from which nothing can be learnt.

    Args:
        name: the metric; COSTS have a log scale, all others are rates.
        value: of the trials themselves.
        samples: [num_resamples] bootstrap values.
        num_clusters: clusters of the class that has fewer.
        num_trials: trials of the class that has fewer; no rate is known better than one error among them.
    """
    if num_clusters < 2:
        return None
    smallest = 0.5 / num_trials
    if name in COSTS:
        centre, spread = math.log(max(value, smallest)), float(np.log(np.maximum(samples, smallest)).std())
        half = _quantile(num_clusters) * spread
        return Interval(
            math.exp(centre - half) if value > 0 else 0.0, math.exp(min(centre + half, LARGEST_LOG))
        )
    no_error = 1 - ((1 - CONFIDENCE) / 2) ** (1 / num_trials)
    if value <= 0:
        return Interval(0.0, no_error)
    if value >= 1:
        return Interval(1 - no_error, 1.0)
    half = _quantile(num_clusters) * float(_logit(np.clip(samples, smallest, 1 - smallest)).std())
    centre = float(_logit(np.float64(value)))
    return Interval(_expit(centre - half), _expit(centre + half))


def p_value_of(expected: float, value: float, samples: NDArray[np.float64], num_clusters: int) -> float:
    """How often a rate differs at least so much from an expected one by chance, two-sided.

    Args:
        expected: the rate to compare with.
        value: the rate of the trials themselves.
        samples: [num_resamples] bootstrap values.
        num_clusters: clusters of the class that has fewer, at least 2.
    """
    from scipy.special import stdtr

    expected, value = (float(np.clip(rate, SMALLEST_RATE, 1 - SMALLEST_RATE)) for rate in (expected, value))
    error = float(_logit(np.clip(samples, SMALLEST_RATE, 1 - SMALLEST_RATE)).std())
    distance = abs(float(_logit(np.float64(value)) - _logit(np.float64(expected))))
    if error == 0:
        return 1.0  # no resample has an error, so there is nothing to measure the distance by
    return 2 * float(stdtr(num_clusters - 1, -distance / error))


def difference_of(
    value: float, first: NDArray[np.float64], second: NDArray[np.float64], num_clusters: int
) -> Difference | None:
    """Compare two systems by bootstrap values of the same resamples; None if there is only one cluster.

    Args:
        value: the difference on the trials themselves.
        first: [num_resamples] values of a metric for the first system.
        second: the same for the second system.
        num_clusters: clusters of the class that has fewer.
    """
    if num_clusters < 2:
        return None
    error = float((first - second).std())
    if error == 0:
        return Difference(value, Interval(value, value), 1.0 if value == 0 else 0.0)
    from scipy.special import stdtr

    half = _quantile(num_clusters) * error
    p_value = 2 * float(stdtr(num_clusters - 1, -abs(value) / error))
    return Difference(value, Interval(value - half, value + half), p_value)


def _quantile(num_clusters: int) -> float:
    """Half the width of the interval, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(num_clusters - 1, (1 + CONFIDENCE) / 2))


def _logit(rate: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(np.log(rate) - np.log1p(-rate))


def _expit(logit: float) -> float:
    return (1 + math.tanh(logit / 2)) / 2  # without overflow
