"""Tests whether two systems differ on the same trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.bootstrap import CHUNK_WEIGHTS, eer_of_columns
from pipeline.metrics.intervals import Difference, Interval

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NORMAL_QUANTILE = 1.959963984540054
"""Half the width of a 95 % interval, in standard errors."""


def delong(first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike]) -> Difference:
    """Compare the areas under two ROC curves (DeLong et al., 1988), if utterances are independent.

    Args:
        first: bona fide and spoof scores of the first system.
        second: scores of the same utterances, in the same order, of the second system.
    """
    placements = [
        _placements(np.asarray(b, np.float64), np.asarray(s, np.float64)) for b, s in (first, second)
    ]
    (b1, s1), (b2, s2) = placements
    difference = float(b1.mean() - b2.mean())
    variance = _variance_of_mean(b1 - b2) + _variance_of_mean(s1 - s2)
    if variance == 0:
        return Difference(difference, Interval(difference, difference), 1.0 if difference == 0 else 0.0)
    from scipy.special import ndtr

    error = float(np.sqrt(variance))
    half = NORMAL_QUANTILE * error
    p_value = float(2 * ndtr(-abs(difference) / error))
    return Difference(difference, Interval(difference - half, difference + half), p_value)


def _placements(
    bonafide: NDArray[np.float64], spoof: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each bona fide score, the share of spoof scores below it; for each spoof score, of bona fide ones above it.

    Equal scores count half. The mean of either is the area under the ROC curve (Sun and Xu, 2014).
    """
    from scipy.stats import rankdata

    num_b, num_s = bonafide.size, spoof.size
    ranks = rankdata(np.concatenate((bonafide, spoof)))
    below = (ranks[:num_b] - rankdata(bonafide)) / num_s
    above = 1 - (ranks[num_b:] - rankdata(spoof)) / num_b
    return below, above


def _variance_of_mean(values: NDArray[np.float64]) -> float:
    return float(values.var(ddof=1) / values.size) if values.size > 1 else 0.0


NUM_RANK_BLOCKS = 4096
"""Thresholds at which the permutation test looks for the EER."""


def permutation_p_value(
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
    clusters: tuple[ArrayLike, ArrayLike],
    *,
    num_permutations: int = 1000,
    seed: int = 0,
) -> float:
    """Test whether two systems have the same EER by swapping them in randomly chosen clusters.

    Scores are replaced by their ranks within each system, because systems score on different scales.

    Args:
        first: bona fide and spoof scores of the first system.
        second: scores of the same utterances, in the same order, of the second system.
        clusters: numbers of the clusters of bona fide and spoof utterances, from 0.
        num_permutations: number of random swaps.
        seed: seed of the swaps.

    Returns:
        The two-sided p value.
    """
    num_b = np.size(first[0])
    cluster = np.concatenate([np.asarray(each, np.int64) for each in clusters])
    is_bonafide = np.arange(cluster.size) < num_b
    tables = [_tables_by_rank(np.concatenate(system), is_bonafide, cluster) for system in (first, second)]
    (b1, s1), (b2, s2) = tables
    total_b, total_s = ((one + two).sum(axis=1)[:, None] for one, two in ((b1, b2), (s1, s2)))
    rng = np.random.default_rng(seed)
    num_clusters = b1.shape[1]
    observed = abs(
        _eers(b1.sum(axis=1)[:, None], s1.sum(axis=1)[:, None])
        - _eers(b2.sum(axis=1)[:, None], s2.sum(axis=1)[:, None])
    ).item()
    num_columns = min(128, max(8, CHUNK_WEIGHTS // num_clusters))
    num_as_large = 0
    for start in range(0, num_permutations, num_columns):
        num = min(num_columns, num_permutations - start)
        is_swapped = rng.integers(0, 2, (num_clusters, num), np.uint8).astype(np.float32)
        swapped_b = b1.sum(axis=1)[:, None] + (b2 - b1) @ is_swapped
        swapped_s = s1.sum(axis=1)[:, None] + (s2 - s1) @ is_swapped
        difference = _eers(swapped_b, swapped_s) - _eers(total_b - swapped_b, total_s - swapped_s)
        num_as_large += int(np.count_nonzero(np.abs(difference) >= observed - 1e-9))
    return (1 + num_as_large) / (1 + num_permutations)


def _tables_by_rank(
    scores: NDArray[np.float64], is_bonafide: NDArray[np.bool_], cluster: NDArray[np.int64]
) -> list[csr_array]:
    """Count the trials of each class in each block of ranks (rows) and each cluster (columns)."""
    from scipy.sparse import csr_array
    from scipy.stats import rankdata

    num_blocks = min(NUM_RANK_BLOCKS, 2 * scores.size)
    ranks = rankdata(scores)
    block = np.minimum((ranks / (scores.size + 1) * num_blocks).astype(np.int64), num_blocks - 1)
    shape = (num_blocks, int(cluster.max()) + 1)
    return [
        csr_array((np.ones(np.count_nonzero(part), np.float32), (block[part], cluster[part])), shape=shape)
        for part in (is_bonafide, ~is_bonafide)
    ]


def _eers(counts_b: NDArray[np.floating], counts_s: NDArray[np.floating]) -> NDArray[np.float64]:
    """The EER of each column, from the numbers of trials in each block of ranks."""
    miss = np.cumsum(counts_b, axis=0, dtype=np.float64) / counts_b.sum(axis=0)
    false_alarm = 1 - np.cumsum(counts_s, axis=0, dtype=np.float64) / counts_s.sum(axis=0)
    return eer_of_columns(miss, false_alarm)
