"""Permutations of clusters between two sides, and the p values that they give."""

# C: clusters of both sides, B: arrangements, of which the first is that of the data.

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-5
"""Statistics that differ by less than this share of the largest one count as equal."""


def arrangements(num_reference: int, num_new: int, num_permutations: int, seed: int) -> NDArray[np.float32]:
    """Which clusters are on the side of the reference, in the data and in each permutation.

    A permutation keeps the number of clusters of each side.

    Returns:
        [num_reference + num_new, 1 + num_permutations] ones and zeros; the first clusters are those of the reference.
    """
    is_reference = np.zeros(num_reference + num_new, np.float32)
    is_reference[:num_reference] = 1
    copies = np.broadcast_to(is_reference, (num_permutations, is_reference.size))
    permuted = np.random.default_rng(seed).permuted(copies, axis=1)
    return np.ascontiguousarray(np.vstack((is_reference, permuted)).T)


def p_value(statistics_B: NDArray[np.float64]) -> float:
    """The share of all arrangements, including that of the data, whose statistic is at least that of the data."""
    tolerance = ROUNDING * float(np.max(np.abs(statistics_B)))
    return float(np.count_nonzero(statistics_B >= statistics_B[0] - tolerance)) / statistics_B.size


def smallest_p_value(num_reference: int, num_new: int, num_permutations: int) -> float:
    """The lowest p that permutations of so many clusters can give."""
    return max(1 / (1 + num_permutations), 1 / math.comb(num_reference + num_new, num_reference))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number, by the method of Holm (1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = highest
    return adjusted
