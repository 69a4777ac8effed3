"""Labelled utterances with their scores: groups of them, and which of them belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.evaluation.columns import Column
from pipeline.metrics import Trials

GROUPS = ("attack", "artifact", "language", "seconds", "codec", "sample_rate", "split", "speaker")
"""Columns whose values break a corpus down into groups of utterances."""

ClusterKind = Literal["auto", "speaker", "file", "utterance"]
CLUSTER_COLUMNS: Mapping[ClusterKind, tuple[str, ...]] = {
    "auto": ("speaker", "path"),
    "speaker": ("speaker",),
    "file": ("path",),
    "utterance": (),
}
"""Kind of cluster → the columns that make one, in the order in which they are tried."""


class Clusters(NamedTuple):
    """Which utterances are resampled together."""

    codes: NDArray[np.int64]
    """[N] number of the cluster of each utterance, from 0."""
    names: Mapping[str, int]
    """Kind of cluster (speaker, file, utterance) → how many there are."""

    @property
    def are_single(self) -> bool:
        """Whether every cluster is one utterance."""
        return set(self.names) <= {"utterance"}


@dataclass(frozen=True)
class Utterances:
    """Labelled utterances with their scores, in ascending order of score; of equal scores, bona fide come first."""

    uids: pa.Array
    """[N] texts, without repetitions."""
    scores: NDArray[np.float64]
    """[N] finite."""
    is_bonafide: NDArray[np.bool_]
    columns: Mapping[str, Column]
    """Name → values, for `corpus` and GROUPS; `path` if utterances are grouped by source file."""

    def __len__(self) -> int:
        return self.scores.size

    def take(self, rows: NDArray[np.int64]) -> Utterances:
        """Select rows, in ascending order."""
        return Utterances(
            self.uids.take(pa.array(rows)),
            self.scores[rows],
            self.is_bonafide[rows],
            {name: column.take(rows) for name, column in self.columns.items()},
        )

    def trials(self, clusters: NDArray[np.int64] | None = None) -> Trials:
        """The scores of both classes, as the metrics take them."""
        return Trials(self.scores, self.is_bonafide, clusters)

    def clusters(self, kind: ClusterKind) -> Clusters:
        """Group the utterances that resemble each other.

        Args:
            kind: `auto` groups by speaker, or by source file where no speaker is stated.
        """
        codes = np.full(len(self), -1, np.int64)
        names: dict[str, int] = {}
        corpus = self.columns["corpus"].codes.astype(np.int64)
        for column_name in CLUSTER_COLUMNS[kind]:
            if column_name not in self.columns:
                continue
            column = self.columns[column_name]
            is_new = (codes < 0) & (column.codes >= 0)
            # A speaker of another corpus is another speaker.
            numbers, num_distinct = renumber(
                corpus[is_new] * (int(column.codes.max()) + 1) + column.codes[is_new]
            )
            if not num_distinct:
                continue
            codes[is_new] = sum(names.values()) + numbers
            kind_name = "file" if column_name == "path" else column_name
            names["utterance" if num_distinct == numbers.size else kind_name] = num_distinct
        is_single = codes < 0
        if is_single.any():
            num_single = int(np.count_nonzero(is_single))
            # In the order of uids, so that two systems with the same utterances number them alike.
            by_uid = pc.sort_indices(self.uids.filter(pa.array(is_single))).to_numpy()
            codes[np.flatnonzero(is_single)[by_uid]] = sum(names.values()) + np.arange(num_single)
            names["utterance"] = names.get("utterance", 0) + num_single
        return Clusters(codes, names)


def renumber(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Replace numbers by their ranks among those that occur; also returns how many do."""
    if not codes.size:
        return codes, 0
    if codes.max() > 4 * codes.size:
        distinct, ranks = np.unique(codes, return_inverse=True)
        return ranks, distinct.size
    is_used = np.zeros(int(codes.max()) + 1, bool)
    is_used[codes] = True
    rank = np.cumsum(is_used) - 1
    return rank[codes], int(rank[-1]) + 1
