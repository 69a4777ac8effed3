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
    """How many neighbours share the class of each embedding, and how many would if neighbours were random."""

    same: NDArray[np.float64]
    """[N] share of the neighbours of an embedding that have its class; nan if it has no neighbour."""
    by_chance: NDArray[np.float64]
    """[N] share of all embeddings of other clusters that have its class; nan if there are none."""

    @property
    def value(self) -> float | None:
        """Mean share over the embeddings that have neighbours; None if none has."""
        return _mean(self.same)

    @property
    def chance(self) -> float | None:
        """What the value would be if neighbours were random."""
        return _mean(self.by_chance)

    @property
    def corrected(self) -> float | None:
        """The value on a scale where chance is 0 and only neighbours of the same class are 1.

        None if chance is 1, that is if all embeddings have the same class.
        """
        value, chance = self.value, self.chance
        return None if value is None or chance is None or chance == 1 else (value - chance) / (1 - chance)


def _mean(shares: NDArray[np.float64]) -> float | None:
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if known.size else None


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
) -> Purity:
    """Measure how often neighbours share a class.

    Args:
        neighbours: [N, num_neighbours] as `nearest_neighbours` finds them.
        classes: [N] number of the class of each embedding, from 0.
        clusters: [N] as given to `nearest_neighbours`.
    """
    exists = neighbours != NONE
    is_same = exists & (classes[neighbours] == classes[:, None])
    # Pairs of class and cluster are counted, since an embedding has no neighbours in its own cluster.
    _, cluster, cluster_sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    pairs = cluster * (int(classes.max(initial=0)) + 1) + classes
    _, pair, pair_sizes = np.unique(pairs, return_inverse=True, return_counts=True)
    num_others = classes.size - cluster_sizes[cluster]
    num_same = np.bincount(classes)[classes] - pair_sizes[pair]
    return Purity(_share(is_same.sum(axis=1), exists.sum(axis=1)), _share(num_same, num_others))


def _share(counts: NDArray[np.int64], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
