"""Permutations of clusters between two sides, and the p values that they give."""

# C: clusters of both sides, B: arrangements, of which the first is that of the data.

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-5
"""Statistics that differ by less than this share of the largest one count as equal."""


def arrangements(
    is_reference_C: NDArray[np.bool_], partners_C: NDArray[np.int64], num_permutations: int, seed: int
) -> NDArray[np.float32]:
    """Which clusters are on the side of the reference, in the data and in each permutation.

    A permutation keeps the number of clusters of each side. If a speaker has a cluster on each side, these two are
    exchanged or stay; all other clusters are permuted among each other.

    Args:
        is_reference_C: the side of each cluster in the data.
        partners_C: number of the other cluster of the same speaker; −1 if there is none.
        num_permutations: how many.
        seed: of the random numbers.

    Returns:
        [C, 1 + num_permutations] ones and zeros.
    """
    rng = np.random.default_rng(seed)
    sides_CB = np.repeat(is_reference_C.astype(np.float32)[:, None], 1 + num_permutations, axis=1)
    alone = np.flatnonzero(partners_C < 0)
    sides_CB[alone, 1:] = rng.permuted(sides_CB[alone, 1:], axis=0)
    one = np.flatnonzero(is_reference_C & (partners_C >= 0))
    stays = rng.integers(0, 2, (one.size, num_permutations)).astype(np.float32)
    sides_CB[one, 1:], sides_CB[partners_C[one], 1:] = stays, 1 - stays
    return sides_CB


def p_value(statistics_B: NDArray[np.float64]) -> float:
    """The share of all arrangements, including that of the data, whose statistic is at least that of the data."""
    tolerance = ROUNDING * float(np.max(np.abs(statistics_B)))
    return float(np.count_nonzero(statistics_B >= statistics_B[0] - tolerance)) / statistics_B.size


def smallest_p_value(
    is_reference_C: NDArray[np.bool_], partners_C: NDArray[np.int64], num_permutations: int
) -> float:
    """The lowest p that permutations of these clusters can give."""
    is_alone = partners_C < 0
    num_old = int(np.count_nonzero(is_alone & is_reference_C))
    num_new = int(np.count_nonzero(is_alone & ~is_reference_C))
    num_pairs = int(np.count_nonzero(~is_alone)) // 2
    # If both sides can be exchanged as a whole, that gives the same distance.
    num_equal = 2 if num_old == num_new else 1
    num_arrangements = math.comb(num_old + num_new, num_old) << num_pairs
    return max(1 / (1 + num_permutations), num_equal / num_arrangements)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number, by the method of Holm (1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = highest
    return adjusted
