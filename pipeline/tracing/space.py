"""The space in which embeddings of one layer are compared: centred, whitened within systems, and of length 1.

A space is made from the sums of each system in each part of a gallery. So one without a part, or without a system,
costs no further look at the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.neighbours import unit_vectors
from pipeline.tracing.results import SpaceKind

# N: utterances, D: components, K: systems, P: parts of a gallery.

MAX_COMPONENTS = 128
"""Principal components of the gallery that are compared; whitening more would need more utterances than most have."""

RIDGE = 0.1
"""Share of the mean variance that is added to each component before whitening, times components per utterance."""


class Space(NamedTuple):
    """How components become vectors of length 1, and where each system is."""

    mean: NDArray[np.float64]
    """[D] mean of the means of the systems."""
    projection: NDArray[np.float64] | None
    """[D, D] makes the covariance within systems the identity; None without whitening."""
    systems: NDArray[np.int64]
    """[K'] the systems that are in the space, ascending."""
    centroids: NDArray[np.float32]
    """[K', D] direction of the mean of each of them."""

    def apply(self, components_ND: NDArray[np.floating]) -> NDArray[np.float32]:
        """Turn components [N, D] into vectors of length 1."""
        centred_ND = components_ND - self.mean
        projected_ND = centred_ND if self.projection is None else centred_ND @ self.projection
        return unit_vectors(projected_ND.astype(np.float32))


@dataclass(frozen=True)
class Sums:
    """Sums over the utterances of each system in each part of a gallery."""

    counts: NDArray[np.int64]
    """[P, K] utterances."""
    totals: NDArray[np.float64]
    """[P, K, D] sums of their components."""
    weights: NDArray[np.float64]
    """[K] of an utterance in the covariance, so that large systems do not decide it alone."""
    groups: NDArray[np.int64]
    """[K] number of the group of each system; systems of a group are left out together."""
    products: NDArray[np.float64]
    """[P, num_groups, D, D] weighted sums of outer products."""

    @classmethod
    def of(
        cls,
        components_ND: NDArray[np.float64],
        systems: NDArray[np.int64],
        parts: NDArray[np.int64],
        max_groups: int,
    ) -> Sums:
        """Add up components.

        Args:
            components_ND: of the gallery.
            systems: [N] number of the system of each utterance, from 0; all numbers occur.
            parts: [N] number of its part, from 0.
            max_groups: groups that systems are divided into.
        """
        counts_K = np.bincount(systems)
        num_parts, width, weights = int(parts.max()) + 1, components_ND.shape[1], 1 / counts_K
        groups = np.arange(counts_K.size) % min(counts_K.size, max_groups)
        num_groups = int(groups.max()) + 1
        counts = np.zeros((num_parts, counts_K.size), np.int64)
        totals = np.zeros((*counts.shape, width))
        products = np.zeros((num_parts, num_groups, width, width))
        np.add.at(counts, (parts, systems), 1)
        np.add.at(totals, (parts, systems), components_ND)
        for part in range(num_parts):
            for group in range(num_groups):
                rows = np.flatnonzero((parts == part) & (groups[systems] == group))
                own = components_ND[rows] * np.sqrt(weights[systems[rows]])[:, None]
                products[part, group] = own.T @ own
        return cls(counts, totals, weights, groups, products)

    def without(self, part: int) -> Sums:
        """Leave out a part; the others become one."""
        kept = np.arange(len(self.counts)) != part
        counts, totals, products = (
            each[kept].sum(axis=0, keepdims=True) for each in (self.counts, self.totals, self.products)
        )
        return Sums(counts, totals, self.weights, self.groups, products)

    def space(self, kind: SpaceKind, left_out: int | None = None) -> Space:
        """Make the space of all parts.

        Args:
            kind: how to transform components.
            left_out: number of a group of systems that are not in the space.
        """
        counts_K = self.counts.sum(axis=0)
        systems = np.flatnonzero((counts_K > 0) & (self.groups != left_out))
        counts = counts_K[systems].astype(np.float64)
        means_KD = self.totals.sum(axis=0)[systems] / counts[:, None]
        mean = means_KD.mean(axis=0)
        projection = None
        if kind == "whitened":
            is_used = np.arange(self.products.shape[1]) != left_out
            weights = self.weights[systems] * counts
            second_DD = self.products.sum(axis=0)[is_used].sum(axis=0)
            within_DD = (second_DD - (means_KD.T * weights) @ means_KD) / weights.sum()
            projection = _whitening(within_DD, float(counts.sum()))
        space = Space(mean, projection, systems, np.empty((0, 0), np.float32))
        return space._replace(centroids=space.apply(means_KD))


def _whitening(within_DD: NDArray[np.float64], num_utterances: float) -> NDArray[np.float64]:
    """The matrix that makes a covariance the identity, apart from a ridge that grows as utterances become few.

    Any other one is a rotation of it, which changes no cosine.
    """
    ridge = RIDGE * float(np.trace(within_DD)) / num_utterances
    factor_DD = np.linalg.cholesky(within_DD + max(ridge, np.finfo(np.float64).tiny) * np.eye(len(within_DD)))
    return np.asarray(np.linalg.inv(factor_DD).T)
