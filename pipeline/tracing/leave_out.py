"""How well a gallery traces its own utterances: those of left-out speakers, and those of left-out systems.

A layer is chosen and likelihood ratios are calibrated by these, so that new utterances decide nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.sampling import rank_in_group
from pipeline.tracing.gallery import resemblance
from pipeline.tracing.results import SpaceKind
from pipeline.tracing.space import Sums

# G: utterances of the gallery, K: systems.

NUM_PARTS = 5
"""Parts of a gallery that are left out one after the other."""

MAX_LEFT_OUT = 20
"""With more systems, several are left out together."""

MAX_TRIED = 5000
"""Utterances of a gallery that are left out; of more, the same number of each system is chosen by hash."""

NONE = -1
"""In place of a system: none can be said."""


class LeftOut(NamedTuple):
    """What the rest of a gallery says of each of its utterances."""

    nearest: NDArray[np.int64]
    """[G] the most similar system; NONE if its own system is not among those of the rest."""
    voted: NDArray[np.int64]
    """[G] the system of most of the nearest utterances; NONE as in `nearest`."""
    known: NDArray[np.float64]
    """[G] similarity to the nearest system, of which its own is one; nan where that is not."""
    unknown: NDArray[np.float64]
    """[G] similarity to the nearest system if its own is left out as well; nan with fewer than three systems."""


def leave_out(
    components_GD: NDArray[np.float64],
    systems: NDArray[np.int64],
    parts: NDArray[np.int64],
    kind: SpaceKind,
    num_neighbours: int,
) -> LeftOut:
    """Trace the utterances of each part by those of the other parts, with and without their own system.

    Args:
        components_GD: of the gallery.
        systems: [G] number of the system of each utterance, from 0.
        parts: [G] as `divide` gives them.
        kind: of the space.
        num_neighbours: utterances that vote.
    """
    num = systems.size
    nearest, voted = np.full(num, NONE), np.full(num, NONE)
    known, unknown = np.full(num, np.nan), np.full(num, np.nan)
    sums = Sums.of(components_GD, systems, parts, MAX_LEFT_OUT)
    for part in np.unique(parts).tolist():
        rest, is_own = sums.without(part), parts == part
        space = rest.space(kind)
        rows = np.flatnonzero(is_own & np.isin(systems, space.systems))
        if len(space.systems) > 1 and rows.size:
            units = space.apply(components_GD)
            found = resemblance(space, units[rows], units[~is_own], systems[~is_own], num_neighbours)
            nearest[rows] = space.systems[np.argmax(found.similarities, axis=1)]
            voted[rows] = space.systems[np.argmax(found.votes, axis=1)]
            known[rows] = found.similarities.max(axis=1)
        for group in range(int(sums.groups.max()) + 1):
            rows = np.flatnonzero(is_own & (sums.groups[systems] == group))
            others = rest.space(kind, group)
            if len(others.systems) > 1 and rows.size:
                unknown[rows] = (others.apply(components_GD[rows]) @ others.centroids.T).max(axis=1)
    return LeftOut(nearest, voted, known, unknown)


def choose(systems: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Choose at most MAX_TRIED utterances of a gallery, but at least two of each system: their positions, ascending.

    Args:
        systems: [G] number of the system of each utterance, from 0.
        hashes: [G] of each utterance.
    """
    rank, _ = rank_in_group(systems, hashes)
    # The most of each system with which there are not too many in all.
    order = np.argsort(rank, kind="stable")
    limit = systems.size if systems.size <= MAX_TRIED else int(rank[order[MAX_TRIED]])
    return np.flatnonzero(rank < max(limit, 2))


def divide(systems: NDArray[np.int64], clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Divide a gallery into parts: [G], the number of the part of each utterance.

    A cluster, such as a speaker, is in one part, and the clusters of each system are in as many parts as possible. The
    utterances of a system that has a single cluster are divided among all parts.

    Args:
        systems: [G] number of the system of each utterance, from 0.
        clusters: [G] number of its cluster, from 0.
    """
    num_systems = int(systems.max()) + 1
    pairs, counts = np.unique(np.stack((clusters, systems), axis=1), axis=0, return_counts=True)
    has_many = np.bincount(pairs[:, 1], minlength=num_systems) > 1
    parts = np.zeros(systems.size, np.int64)
    for system in np.flatnonzero(~has_many).tolist():
        rows = np.flatnonzero(systems == system)
        parts[rows] = np.arange(rows.size) % NUM_PARTS
    sizes = np.zeros((NUM_PARTS, num_systems))
    is_divided = has_many[pairs[:, 1]]
    pairs, counts = pairs[is_divided], counts[is_divided]
    totals = np.bincount(pairs[:, 0], counts, minlength=int(clusters.max()) + 1)
    part_of = np.zeros(totals.size, np.int64)
    for cluster in np.argsort(-totals, kind="stable")[: np.count_nonzero(totals)].tolist():
        is_own = pairs[:, 0] == cluster
        own, num = pairs[is_own, 1], counts[is_own]
        part = int(np.lexsort((sizes.sum(axis=1), sizes[:, own] @ num))[0])
        sizes[part, own] += num
        part_of[cluster] = part
    return np.where(has_many[systems], part_of[clusters], parts)
