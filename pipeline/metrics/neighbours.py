"""How often the nearest neighbours of an embedding share its class.

Neighbours are nearest by cosine similarity. Embeddings of one cluster, such as a speaker, are never neighbours of each
other: a speaker has utterances of one corpus and often of one class, so neighbours of the same speaker would only show
that speakers can be recognised.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_NEIGHBOURS = 15

BLOCK_ENTRIES = 2**22
"""Similarities that are held at once."""

NONE = -1
"""Stands for a neighbour that does not exist."""


class Purity(NamedTuple):
    """How many neighbours share a class, and how many would if neighbours were random."""

    value: float
    """Share of all neighbours that have the class of the embedding whose neighbours they are."""
    chance: float
    """The same if the neighbours of each embedding were drawn from all embeddings of other clusters."""

    @property
    def corrected(self) -> float | None:
        """The value on a scale where chance is 0 and only neighbours of the same class are 1.

        None if chance is 1, that is if all embeddings have the same class.
        """
        return None if self.chance == 1 else (self.value - self.chance) / (1 - self.chance)


def nearest_neighbours(
    vectors_NE: NDArray[np.float32], clusters: NDArray[np.int64], num_neighbours: int = NUM_NEIGHBOURS
) -> NDArray[np.int64]:
    """Find the nearest neighbours of each embedding among those of other clusters.

    Args:
        vectors_NE: the embeddings, finite.
        clusters: [N] number of the cluster of each.
        num_neighbours: how many to find.

    Returns:
        [N, num_neighbours] their positions, in no particular order; NONE where other clusters have fewer.
    """
    units_NE = unit_vectors(vectors_NE)
    num = len(units_NE)
    neighbours = np.full((num, num_neighbours), NONE, np.int64)
    num_found = min(num_neighbours, num)
    num_rows = max(1, BLOCK_ENTRIES // max(num, 1))
    for begin in range(0, num, num_rows):
        rows = slice(begin, begin + num_rows)
        distances = -(units_NE[rows] @ units_NE.T)
        distances[clusters[rows, None] == clusters[None, :]] = np.inf
        nearest = (
            np.argpartition(distances, num_found - 1, axis=1)[:, :num_found]
            if num_found < num
            else np.broadcast_to(np.arange(num), distances.shape)
        )
        exists = np.isfinite(np.take_along_axis(distances, nearest, axis=1))
        neighbours[rows, :num_found] = np.where(exists, nearest, NONE)
    return neighbours


def unit_vectors(vectors_NE: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each embedding by its length; one of length 0 stays as it is."""
    lengths = np.linalg.norm(vectors_NE, axis=1, keepdims=True)
    return (vectors_NE / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def purity_of(
    neighbours: NDArray[np.int64], classes: NDArray[np.int64], clusters: NDArray[np.int64]
) -> Purity | None:
    """Measure how often neighbours share a class; None if there are no neighbours.

    Args:
        neighbours: [N, num_neighbours] as `nearest_neighbours` finds them.
        classes: [N] number of the class of each embedding, from 0.
        clusters: [N] as given to `nearest_neighbours`.
    """
    pairs = _Pairs.of(neighbours, classes)
    if not pairs.is_same.size:
        return None
    # Pairs of class and cluster are counted, since an embedding has no neighbours in its own cluster.
    _, cluster, cluster_sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    both = cluster * (int(classes.max(initial=0)) + 1) + classes
    _, group, group_sizes = np.unique(both, return_inverse=True, return_counts=True)
    num_others = (classes.size - cluster_sizes[cluster])[pairs.first]
    num_same = (np.bincount(classes)[classes] - group_sizes[group])[pairs.first]
    return Purity(float(pairs.is_same.mean()), float((num_same / num_others).mean()))


def resample_purity(
    neighbours: NDArray[np.int64],
    classes: NDArray[np.int64],
    clusters: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The values of a purity in resamples of whole clusters, whose embeddings have neighbours and are neighbours.

    A pair of neighbours depends on two clusters, and each of them moves the purity by all its pairs. Weights of the
    first one alone would take pairs that share their second one for independent, and make intervals too narrow. The
    purity is taken to be linear in the weights; as a ratio, it would be unstable with few clusters.

    Args:
        neighbours: as in `purity_of`.
        classes: as in `purity_of`.
        clusters: as in `purity_of`, numbered from 0.
        weights: [num_resamples, num_clusters] of mean 1.
    """
    pairs = _Pairs.of(neighbours, classes)
    num_clusters = weights.shape[1]
    deviations = pairs.is_same - pairs.is_same.mean()
    sums = sum(np.bincount(clusters[ends], deviations, num_clusters) for ends in (pairs.first, pairs.second))
    return np.asarray(np.clip(pairs.is_same.mean() + weights @ sums / deviations.size, 0, 1))


class _Pairs(NamedTuple):
    """All embeddings with their neighbours, as [num_pairs] positions of both."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    is_same: NDArray[np.bool_]
    """[num_pairs] whether both have the same class."""

    @classmethod
    def of(cls, neighbours: NDArray[np.int64], classes: NDArray[np.int64]) -> _Pairs:
        first, column = np.nonzero(neighbours != NONE)
        second = neighbours[first, column]
        return cls(first, second, classes[first] == classes[second])
