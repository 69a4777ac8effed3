"""The utterances whose embeddings are compared: those of which all systems have one, or an even sample of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.evaluation.columns import Column
from pipeline.evaluation.embeddings import Embeddings
from pipeline.evaluation.measure import Settings
from pipeline.evaluation.scores import ScoreSet
from pipeline.evaluation.utterances import renumber
from pipeline.sampling import hash_texts, rank_in_group

COLUMNS = ("corpus", "attack", "artifact", "language")


@dataclass(frozen=True)
class Points:
    """Labelled utterances, in the order of a hash, which has nothing to do with their classes."""

    uids: Sequence[str]
    ids: Sequence[str]
    """Their ids in the corpus; the uid where none is stated."""
    is_bonafide: NDArray[np.bool_]
    columns: Mapping[str, Column]
    """Name → values, for COLUMNS."""
    clusters: NDArray[np.int64]
    """[N] number of the cluster of each, such as its speaker, from 0."""
    num_clusters: int
    notes: Sequence[str]
    """Which utterances are missing and why, one sentence each."""

    def __len__(self) -> int:
        return len(self.uids)


@dataclass(frozen=True)
class EmbeddedSystem:
    """The scores of a system, and its embeddings of some of their utterances."""

    scores: ScoreSet
    embeddings: Embeddings
    """May be under another name, if systems were renamed."""

    @cached_property
    def is_finite(self) -> NDArray[np.bool_]:
        """[N] whether all numbers of each embedding are finite; large ones do not fit into float16."""
        return np.asarray(np.isfinite(self.embeddings.vectors).all(axis=1))

    @cached_property
    def rows(self) -> dict[str, int]:
        """The embeddings that are finite and whose utterance has a label: uid → row."""
        keys = self.embeddings.rows["key"].combine_chunks()
        is_labelled = pc.is_in(keys, value_set=self.scores.utterances.uids).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(self.is_finite & is_labelled)
        return dict(zip(keys.take(pa.array(rows)).to_pylist(), rows.tolist(), strict=True))

    def vectors_of(self, points: Points) -> NDArray[np.float32]:
        """The embeddings of some points, [N, E]."""
        return self.embeddings.vectors[[self.rows[uid] for uid in points.uids]]

    def scores_of(self, points: Points) -> NDArray[np.float64]:
        """The scores of some points, [N]."""
        utterances = self.scores.utterances
        rows = pc.index_in(pa.array(points.uids), value_set=utterances.uids)
        return np.asarray(utterances.scores[rows.to_numpy()])


def choose_points(systems: Sequence[EmbeddedSystem], settings: Settings) -> Points:
    """Choose utterances whose embeddings all systems have, at most `settings.max_points`."""
    first = systems[0]
    notes = [
        f"{each.scores.system}: {num_broken:,} embeddings are not finite and are left out."
        for each in systems
        if (num_broken := int(np.count_nonzero(~each.is_finite)))
    ]
    shared = set.intersection(*(set(each.rows) for each in systems))
    if any(len(each.rows) > len(shared) for each in systems):
        counts = ", ".join(f"{each.scores.system}: {len(each.rows):,}" for each in systems)
        notes.append(
            f"The systems have embeddings of different utterances ({counts}); shown are the {len(shared):,} of which "
            "all have one."
        )
    if len(shared) > settings.max_points:
        notes.append(
            f"Shown are {settings.max_points:,} of {len(shared):,} utterances, as evenly as possible from each attack "
            "and the bona fide speech of each corpus."
        )
    utterances = first.scores.utterances
    is_shared = pc.is_in(utterances.uids, value_set=pa.array(sorted(shared), pa.string()))
    rows = np.flatnonzero(is_shared.to_numpy(zero_copy_only=False))
    hashes = hash_texts(utterances.uids.take(pa.array(rows)))
    columns = [
        utterances.is_bonafide[rows],
        *(utterances.columns[name].codes[rows] for name in ("attack", "corpus")),
    ]
    groups = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    rows = rows[sample_evenly(hashes, groups, settings.max_points)]
    uids = utterances.uids.take(pa.array(rows)).to_pylist()
    ids = first.embeddings.rows["id"].take(pa.array([first.rows[uid] for uid in uids], pa.int64()))
    clusters, num_clusters = renumber(utterances.clusters(settings.clusters).codes[rows])
    return Points(
        uids,
        [id_ or uid for id_, uid in zip(ids.to_pylist(), uids, strict=True)],
        utterances.is_bonafide[rows],
        {name: utterances.columns[name].take(rows) for name in COLUMNS},
        clusters,
        num_clusters,
        notes,
    )


def sample_evenly(
    hashes: NDArray[np.uint64], groups: NDArray[np.int64], max_points: int
) -> NDArray[np.int64]:
    """Choose points from all groups as evenly as possible; returns their positions in the order of their hashes.

    Args:
        hashes: [N] different numbers; in each group, the smallest ones are chosen.
        groups: [N] number of the group of each point, from 0.
        max_points: how many to choose at most.
    """
    ranks, _ = rank_in_group(groups, hashes)
    chosen = np.lexsort((hashes, ranks))[:max_points]
    return chosen[np.argsort(hashes[chosen])]
