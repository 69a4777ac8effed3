"""Which utterances are compared: shares of each group, clusters of like sizes, and clusters that fit the space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.drift.sample import Clusters, Sample, hash64


def thin(sample: Sample, num_rows: int) -> Sample:
    """Keep at most this many utterances: of each corpus, label and attack the same share, chosen by hash of the key."""
    if len(sample) <= num_rows:
        return sample
    codes = np.unique(sample.groups, return_inverse=True)[1]
    rank, size = rank_in_group(codes, sample.hashes)
    # The first of a group has a random place between those of other groups, so that small groups are not lost.
    offset = sample.hashes / 2.0**64
    first = np.zeros(codes.max() + 1)
    first[codes[rank == 0]] = offset[rank == 0]
    place = (rank + first[codes]) / size
    return sample.take(np.sort(np.lexsort((sample.hashes, place))[:num_rows]))


def rank_in_group(
    codes: NDArray[np.int64], hashes: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rank by hash of each row in its group, from 0, and the size of that group."""
    sizes = np.bincount(codes)
    order = np.lexsort((hashes, codes))
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(codes.size, np.int64)
    rank[order] = np.arange(codes.size) - starts[codes[order]]
    return rank, sizes[codes]


def match_sizes(
    reference: Sample, reference_clusters: Clusters, new: Sample, new_clusters: Clusters
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Choose utterances so that the clusters of both sides are alike in size; returns a mask for each.

    A permutation exchanges clusters between the sides. If those of one side are larger, the mean of a side varies less
    in the permutations than in the data, and p is too small. So the cluster at each quantile of size keeps at most as
    many utterances as that of the other side.
    """
    sizes = [np.bincount(clusters.codes) for clusters in (reference_clusters, new_clusters)]
    masks = []
    pairs = ((reference, reference_clusters, sizes), (new, new_clusters, sizes[::-1]))
    for sample, clusters, (own, other) in pairs:
        order = np.lexsort((hash64(clusters.names), own))
        quantiles = (np.arange(own.size) + 0.5) / own.size
        limit = np.empty(own.size, np.int64)
        limit[order] = np.sort(other)[(quantiles * other.size).astype(np.int64)]
        rank, _ = rank_in_group(clusters.codes, sample.hashes)
        masks.append(rank < limit[clusters.codes])
    return masks[0], masks[1]


def choose_for_space(sample: Sample, clusters: Clusters, share: float) -> NDArray[np.bool_]:
    """Choose a share of the clusters by hash, whose utterances define the space and are not compared.

    Of the clusters with the same labels, the same share is chosen. If there are too few clusters, single utterances
    are chosen instead.
    """
    has_label = np.zeros((clusters.codes.max() + 1, 3), bool)
    labels = np.unique(sample.texts("label"), return_inverse=True)[1]
    has_label[clusters.codes, labels] = True
    kinds = has_label @ np.array([1, 2, 4])
    rank, size = rank_in_group(kinds, hash64(clusters.names))
    is_chosen: NDArray[np.bool_] = (rank < np.floor(share * size))[clusters.codes]
    if is_chosen.any():
        return is_chosen
    rank, size = rank_in_group(labels, sample.hashes)
    np.less(rank, np.ceil(share * size), out=is_chosen)
    return is_chosen
