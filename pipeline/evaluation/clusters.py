"""Which rows of scores resemble each other: those of a speaker, or of a source file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.evaluation.utterances import CLUSTER_COLUMNS, ClusterKind


class Clusters(NamedTuple):
    """Which utterances are taken together."""

    codes: NDArray[np.int64]
    """[N] number of the cluster of each utterance, from 0."""
    names: pa.Array
    """[num_clusters] different texts."""
    kinds: Mapping[str, int]
    """Kind of cluster (speaker, file, utterance) → how many there are."""


def clusters_of(rows: pa.Table, kind: ClusterKind) -> Clusters:
    """Group the utterances that resemble each other.

    Args:
        rows: with the columns `key`, `corpus`, `path` and `speaker`.
        kind: `auto` groups by speaker, or by source file where no speaker is stated. A speaker of another corpus is
            another speaker.
    """
    corpus = rows["corpus"].fill_null("")
    parts = [
        pc.binary_join_element_wise(name, corpus, rows[name], "\0")
        for name in CLUSTER_COLUMNS[kind]  # null where the speaker or the file is
    ]
    names = pc.coalesce(*parts, pc.binary_join_element_wise("uid", rows["key"], "\0"))
    encoded = names.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)
    sizes = np.bincount(codes, minlength=len(encoded.dictionary))
    columns = [text.partition("\0")[0] for text in encoded.dictionary.to_pylist()]
    kinds: dict[str, int] = {}
    for column in dict.fromkeys(columns):
        own = np.array([each == column for each in columns])
        is_single = column == "uid" or bool(np.all(sizes[own] == 1))
        name = "utterance" if is_single else {"path": "file"}.get(column, column)
        kinds[name] = kinds.get(name, 0) + int(np.count_nonzero(own))
    return Clusters(codes, encoded.dictionary, kinds)
