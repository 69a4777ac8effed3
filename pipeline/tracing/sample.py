"""Utterances with embeddings, and the systems that made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.evaluation.clusters import Clusters, clusters_of
from pipeline.evaluation.embeddings import EmbeddedRows

JOIN = "+"
"""Between the names of layers whose embeddings are joined."""


@dataclass(frozen=True)
class Sample:
    """Some utterances of a SCORES folder, in the order of their embeddings."""

    embedded: EmbeddedRows
    positions: NDArray[np.int64]
    """[N] their positions among those that have embeddings, ascending."""
    systems: pa.Array
    """[N] the name of the system that made each; null where it is not stated."""

    def __len__(self) -> int:
        return self.positions.size

    @property
    def location(self) -> str:
        """Path or URI of the SCORES folder."""
        return str(self.embedded.folder.location())

    @property
    def identity(self) -> Mapping[str, Any]:
        """What determines the scores: weights digest, snapshot, policy, precision …"""
        return self.embedded.identity

    @property
    def rows(self) -> pa.Table:
        """The columns of `embeddings.ROW_COLUMNS`, one row per utterance."""
        return self.embedded.rows.take(pa.array(self.positions))

    def take(self, chosen: NDArray[np.bool_]) -> Sample:
        """Select utterances by a mask."""
        return Sample(self.embedded, self.positions[chosen], self.systems.filter(pa.array(chosen)))

    def clusters(self) -> Clusters:
        """The speaker of each utterance, or its source file where no speaker is stated."""
        return clusters_of(self.rows, "auto")

    def vectors(self, layers: str) -> NDArray[np.float32]:
        """Read the embeddings of a layer, or of several that are joined by JOIN: [N, E].

        Raises:
            InputError: there are none of a layer, a file is damaged, or an embedding is not finite.
        """
        parts = [self.embedded.vectors(layer)[self.positions] for layer in layers.split(JOIN)]
        vectors_NE = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if not np.isfinite(vectors_NE).all():
            raise InputError(
                f"{self.location}: some embeddings are not finite; score again, with --precision fp32"
            )
        return vectors_NE
