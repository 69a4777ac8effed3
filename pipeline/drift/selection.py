"""Which utterances are compared: shares of each group, clusters of like sizes, and clusters that fit the space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.drift.sample import Sample
from pipeline.evaluation.clusters import Clusters
from pipeline.sampling import hash_texts, rank_in_group

MIN_CLUSTERS = 200
"""Before so few clusters are left, none is left out; utterances are, instead."""


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


def match_sizes(
    reference: Sample, reference_clusters: Clusters, new: Sample, new_clusters: Clusters
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Choose utterances so that the clusters of both sides are alike in size; returns a mask for each.

    A permutation exchanges clusters between the sides. If those of one side are larger, the mean of a side varies less
    in the permutations than in the data, and p is too small. So the cluster at each quantile of size keeps at most as
    many utterances as that of the other side, and one that has a partner at most as many as that. Clusters without a
    partner, none of which is on the other side, could not change sides, and are left out.
    """
    pair = (reference_clusters, new_clusters)
    sizes = [np.bincount(clusters.codes) for clusters in pair]
    partners = partners_of(*pair)
    masks = []
    for side, sample in enumerate((reference, new)):
        own, other = sizes[side], sizes[1 - side]
        is_alone, others_alone = partners[side] < 0, other[partners[1 - side] < 0]
        limit = np.zeros(own.size, np.int64)
        limit[~is_alone] = other[partners[side][~is_alone]]
        alone = np.flatnonzero(is_alone)
        if others_alone.size:
            order = alone[np.lexsort((hash_texts(pair[side].names.take(pa.array(alone))), own[alone]))]
            quantiles = (np.arange(alone.size) + 0.5) / max(alone.size, 1)
            limit[order] = np.sort(others_alone)[(quantiles * others_alone.size).astype(np.int64)]
        rank, _ = rank_in_group(pair[side].codes, sample.hashes)
        masks.append(rank < limit[pair[side].codes])
    return masks[0], masks[1]


def partners_of(first: Clusters, other: Clusters) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each cluster of one side, the number of its partner on the other side, which has the same name.

    −1 without a partner. If less than half of the clusters of a side have one, none has: then the sides differ in their
    speakers, and a comparison of the few with themselves would say nothing about the others.
    """
    one, two = (
        pc.fill_null(pc.index_in(own.names, value_set=others.names), -1).to_numpy().astype(np.int64)
        for own, others in ((first, other), (other, first))
    )
    if 2 * np.count_nonzero(one >= 0) < max(one.size, two.size):
        return np.full_like(one, -1), np.full_like(two, -1)
    return one, two


def drop_clusters(sample: Sample, clusters: Clusters, num_rows: int) -> Sample:
    """Leave out whole clusters, by hash, until there are at most so many utterances, or MIN_CLUSTERS clusters."""
    sizes = np.bincount(clusters.codes)
    order = np.argsort(hash_texts(clusters.names))
    num_kept = max(int(np.searchsorted(np.cumsum(sizes[order]), num_rows, side="right")), MIN_CLUSTERS)
    if num_kept >= sizes.size:
        return sample
    is_kept = np.zeros(sizes.size, bool)
    is_kept[order[:num_kept]] = True
    return sample.take(is_kept[clusters.codes])


def limit_sizes(samples: Sequence[Sample], clusters: Sequence[Clusters], num_rows: int) -> list[Sample]:
    """Leave out utterances of large clusters, of all samples alike, until each sample has at most so many."""
    sizes = [np.bincount(each.codes) for each in clusters]
    low, high = 1, int(max(each.max() for each in sizes))
    while low < high:
        limit = (low + high + 1) // 2
        does_fit = all(np.minimum(each, limit).sum() <= num_rows for each in sizes)
        low, high = (limit, high) if does_fit else (low, limit - 1)
    return [
        sample.take(rank_in_group(each.codes, sample.hashes)[0] < low)
        for sample, each in zip(samples, clusters, strict=True)
    ]


def divide(sample: Sample, clusters: Clusters, share: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Divide a sample into utterances that define the space, and others that are compared; returns a mask for each.

    A share of the clusters, chosen by hash, defines the space: at most this share of those of each corpus, label and
    attack. Where they are too few, a share of the utterances does. Of what is compared, each corpus, label and attack
    then loses utterances until it has lost this share, so that all are as frequent as before.
    """
    groups = np.unique(sample.groups.astype(str), return_inverse=True)[1]
    pairs = np.unique(np.stack((clusters.codes, groups), axis=1), axis=0)
    limits = np.floor(share * np.bincount(pairs[:, 1])).astype(np.int64)
    remaining = limits.tolist()
    groups_of = np.split(pairs[:, 1], np.flatnonzero(np.diff(pairs[:, 0])) + 1)
    is_chosen_cluster = np.zeros(len(clusters.names), bool)
    for cluster in np.argsort(hash_texts(clusters.names)).tolist():
        own = groups_of[cluster].tolist()
        if all(remaining[group] for group in own):
            is_chosen_cluster[cluster] = True
            for group in own:
                remaining[group] -= 1
    is_chosen: NDArray[np.bool_] = is_chosen_cluster[clusters.codes]
    # Within a group, the utterances of chosen clusters come first, so that the next ones complete its share.
    rank, size = rank_in_group(groups, np.where(is_chosen, np.uint64(0), sample.hashes))
    is_lost = rank < np.round(share * size)
    for_space = is_chosen | (is_lost & (limits[groups] == 0))
    if not for_space.any():
        for_space[np.argsort(sample.hashes)[: int(np.ceil(share * len(sample)))]] = True
    return for_space, ~(for_space | is_lost)
