"""Distances between two samples, for the data and for all permutations of clusters at once.

Each function takes the values of the utterances of both sides, the number of the cluster of each, and the arrangements:
which clusters are on the side of the reference. It returns the distance in each arrangement; the first is the data.
"""

# N: utterances of both sides, D: components, C: clusters, B: arrangements.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.drift.space import squared_distances

Statistics = NDArray[np.float64]
"""[B] a distance in each arrangement."""

BLOCK_ROWS = 64
"""Rows whose running sums are formed one after the other, for all blocks at once."""

NUM_DIRECTIONS = 128
"""Random directions of the sliced distance."""

RIDGE = 1e-6
"""Added to each variance, in units of that of the reference, so that a covariance is never singular."""


class OneDimensional(NamedTuple):
    """Distances between the distributions of one number."""

    wasserstein: Statistics
    """The mean distance by which values must move."""
    kolmogorov_smirnov: Statistics
    """The largest difference between the shares of values below a threshold."""


def mmd2(
    coordinates_ND: NDArray[np.float32],
    clusters: NDArray[np.int64],
    sides_CB: NDArray[np.float32],
    partners_C: NDArray[np.int64],
    bandwidth: float,
) -> Statistics:
    """The squared maximum mean discrepancy with a Gaussian kernel (Gretton et al., 2012), unbiased.

    Pairs of one cluster, or of two of one speaker, are left out: they resemble each other whatever the distributions
    are.
    """
    kernel = between_clusters(gaussian(coordinates_ND, coordinates_ND, bandwidth), clusters)
    sizes = np.bincount(clusters, minlength=len(sides_CB)).astype(np.float64)
    # A constant changes nothing in the difference of means, and small numbers lose less to rounding.
    kernel -= np.outer(sizes, sizes) * (kernel.sum() / sizes.sum() ** 2)
    np.fill_diagonal(kernel, 0)
    one = np.flatnonzero(partners_C >= 0)
    kernel[one, partners_C[one]] = 0
    kernel = kernel.astype(np.float32)
    sums = kernel.sum(axis=1, dtype=np.float64)
    within = ((kernel @ sides_CB) * sides_CB).sum(axis=0, dtype=np.float64)
    of_side = sums @ sides_CB
    num, squares = sizes @ sides_CB, sizes**2 @ sides_CB
    other, other_squares = sizes.sum() - num, (sizes**2).sum() - squares
    result: Statistics = (
        within / (num**2 - squares)
        + (sums.sum() - 2 * of_side + within) / (other**2 - other_squares)
        - 2 * (of_side - within) / (num * other - (sizes[one] * sizes[partners_C[one]]).sum() / 2)
    )
    return result


def gaussian(
    first_ND: NDArray[np.float32], other_MD: NDArray[np.float32], bandwidth: float
) -> NDArray[np.float32]:
    """The Gaussian kernel [N, M] of two sets of coordinates."""
    kernel = squared_distances(first_ND, other_MD)
    kernel *= -0.5 / bandwidth**2
    np.exp(kernel, out=kernel)
    return kernel


def between_clusters(kernel_NN: NDArray[np.float32], clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum a matrix over the utterances of each pair of clusters, each of which has an utterance."""
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    rows = np.add.reduceat(kernel_NN[order], starts, axis=0, dtype=np.float64)
    return np.add.reduceat(rows[:, order], starts, axis=1)


def signed_shares(clusters: NDArray[np.int64], sides_CB: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each utterance adds to the difference of two distribution functions, [N, B]."""
    sides_NB = sides_CB[clusters]
    num = sides_NB.sum(axis=0, dtype=np.float64)
    other = len(clusters) - num
    scale = 1 / np.maximum(num, 1) + 1 / np.maximum(other, 1)
    shares_NB: NDArray[np.float32] = sides_NB * scale.astype(np.float32)
    shares_NB -= (1 / np.maximum(other, 1)).astype(np.float32)
    return shares_NB


def one_dimensional(values_N: NDArray[np.floating], shares_NB: NDArray[np.float32]) -> OneDimensional:
    """Distances of one number.

    Args:
        values_N: finite.
        shares_NB: what `signed_shares` returns.
    """
    order = np.argsort(values_N, kind="stable")
    gaps = np.diff(values_N[order]).astype(np.float32)
    difference = running_sums(shares_NB, order)[: gaps.size]
    np.abs(difference, out=difference)
    # Equal values share one step of the distribution function.
    last = np.flatnonzero(gaps > 0)
    shown = difference if last.size == gaps.size else difference[last]
    return OneDimensional(
        (gaps @ difference).astype(np.float64), shown.max(axis=0, initial=0).astype(np.float64)
    )


def running_sums(values_NB: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.float32]:
    """The sums of the first rows, of the first two, … in an order; a third of the time of `numpy.cumsum`."""
    num_rows, num_columns = values_NB.shape
    num_blocks = -(-num_rows // BLOCK_ROWS)
    sums = np.zeros((num_blocks * BLOCK_ROWS, num_columns), np.float32)
    np.take(values_NB, order, axis=0, out=sums[:num_rows], mode="clip")
    blocks = sums.reshape(num_blocks, BLOCK_ROWS, num_columns)
    for row in range(1, BLOCK_ROWS):
        blocks[:, row] += blocks[:, row - 1]
    blocks[1:] += blocks[:-1, -1].cumsum(axis=0)[:, None]
    return sums[:num_rows]


def mean_wasserstein(
    coordinates_ND: NDArray[np.float32], shares_NB: NDArray[np.float32]
) -> tuple[Statistics, NDArray[np.float64]]:
    """The mean over components of the Wasserstein-1 distance, and that of each component [D] in the data."""
    by_component = [one_dimensional(column, shares_NB).wasserstein for column in coordinates_ND.T]
    return np.mean(by_component, axis=0), np.array([each[0] for each in by_component])


def sliced_wasserstein(
    coordinates_ND: NDArray[np.float32], shares_NB: NDArray[np.float32], seed: int
) -> Statistics:
    """The mean Wasserstein-1 distance over random directions."""
    directions = np.random.default_rng(seed).normal(size=(coordinates_ND.shape[1], NUM_DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    return mean_wasserstein(coordinates_ND @ directions.astype(np.float32), shares_NB)[0]


def frechet(
    coordinates_ND: NDArray[np.float32], clusters: NDArray[np.int64], sides_CB: NDArray[np.float32]
) -> Statistics:
    """The squared Fréchet distance of two normal distributions with the means and covariances of both sides.

    It depends on the numbers of utterances, which should be equal, and more than the number of components.
    """
    num_rows, num_components = coordinates_ND.shape
    centred = coordinates_ND.astype(np.float64) - coordinates_ND.mean(axis=0, dtype=np.float64)
    upper = np.triu_indices(num_components)
    features = np.hstack((centred, centred[:, upper[0]] * centred[:, upper[1]]))
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    by_cluster = np.add.reduceat(features[order], starts, axis=0)
    sums = sides_CB.T.astype(np.float64) @ by_cluster
    num = np.bincount(clusters, minlength=len(sides_CB)) @ sides_CB.astype(np.float64)
    total = by_cluster.sum(axis=0)
    means, factors = [], []
    for moments, count in ((sums, num), (total - sums, num_rows - num)):
        mean = moments[:, :num_components] / count[:, None]
        covariance = np.empty((len(count), num_components, num_components))
        covariance[:, upper[0], upper[1]] = moments[:, num_components:]
        covariance[:, upper[1], upper[0]] = moments[:, num_components:]
        covariance -= count[:, None, None] * mean[:, :, None] * mean[:, None, :]
        covariance /= (count - 1)[:, None, None]
        covariance += RIDGE * np.eye(num_components)
        means.append(mean)
        factors.append((covariance, np.linalg.cholesky(covariance)))
    (first, _), (other, factor) = factors
    # The eigenvalues of a product of covariances are those of a symmetric matrix.
    values = np.linalg.eigvalsh(factor.transpose(0, 2, 1) @ first @ factor)
    roots = np.sqrt(np.maximum(values, 0)).sum(axis=1)
    traces = np.trace(first + other, axis1=1, axis2=2)
    result: Statistics = ((means[0] - means[1]) ** 2).sum(axis=1) + traces - 2 * roots
    return result
