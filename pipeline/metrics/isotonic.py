"""The best that any increasing map of scores can do: pool adjacent violators, and the Cllr that it leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.trials import OperatingPoints, operating_points, sort_trials


def cllr_min(bonafide: ArrayLike, spoof: ArrayLike) -> float:
    """Lowest Cllr that any increasing map of the scores can reach: what calibration cannot repair.

    `cllr - cllr_min` is the cost of calibration (Brümmer and du Preez, 2006).
    """
    return cllr_min_of(operating_points(sort_trials(bonafide, spoof)))


def cllr_min_of(points: OperatingPoints) -> float:
    """Lowest Cllr of operating points."""
    weight_b, weight_s = np.diff(points.miss), -np.diff(points.false_alarm)
    return cllr_of_posteriors(weight_b, weight_s, isotonic_posteriors(weight_b, weight_s))


def isotonic_posteriors(weight_b: NDArray[np.float64], weight_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """The optimal non-decreasing P(bona fide) at equal priors, by pool adjacent violators.

    Args:
        weight_b: [num_groups] share of bona fide trials in each group of equal scores, ascending; their sum is 1.
        weight_s: [num_groups] the same of spoof trials.

    Returns:
        [num_groups]
    """
    from scipy.optimize import isotonic_regression

    weight = weight_b + weight_s
    is_empty = weight <= 0  # a resample may leave out all trials of a group
    share = np.divide(weight_b, weight, out=np.zeros_like(weight), where=~is_empty)
    if is_empty.any():
        posteriors = np.zeros_like(weight)
        posteriors[~is_empty] = isotonic_regression(share[~is_empty], weights=weight[~is_empty]).x
        return posteriors
    values: NDArray[np.float64] = isotonic_regression(share, weights=weight).x
    return values


def cllr_of_posteriors(
    weight_b: NDArray[np.float64], weight_s: NDArray[np.float64], posteriors: NDArray[np.float64]
) -> float:
    """Cllr in bits of P(bona fide) at equal priors, for groups of trials; a group of one class alone costs nothing."""
    p = np.clip(posteriors, 0, 1)
    # The logarithm of 1 where a class is missing: a masked ufunc would be 10 times slower.
    loss_b, loss_s = np.log2(np.where(weight_b > 0, p, 1)), np.log2(np.where(weight_s > 0, 1 - p, 1))
    return float(-(weight_b @ loss_b + weight_s @ loss_s) / 2)
