"""Scored utterances to compare: their labels, speakers, durations, levels, scores, and embeddings if there are any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.evaluation.clusters import Clusters, clusters_of
from pipeline.evaluation.columns import NOT_STATED
from pipeline.evaluation.utterances import ClusterKind
from pipeline.sampling import hash_texts

LABELS = {"bonafide": "bona fide", "spoof": "spoof"}
"""Label → its name on pages."""

SEPARATOR = " · "
"""Between the parts of the name of a group."""

COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        *((name, pa.string()) for name in ("path", "corpus", "label", "artifact", "attack", "speaker")),
        *((name, pa.float32()) for name in ("seconds", "level_dbfs", "score")),
    ]
)
"""Columns of the rows of a sample."""


@dataclass(frozen=True)
class Sample:
    """Utterances of one system."""

    system: str
    location: str
    """Path or URI of the SCORES folder."""
    identity: Mapping[str, Any]
    """What determines the scores: weights digest, snapshot, policy, precision, decoder …"""
    rows: pa.Table
    """The columns of COLUMNS, one row per utterance."""
    vectors: NDArray[np.float32] | None = None
    """[N, E] embeddings; None if there are none."""
    layer: str = ""
    """What the embeddings are of: `head`, or the number of a hidden state; empty without embeddings."""

    def __post_init__(self) -> None:
        assert self.rows.schema.equals(COLUMNS), self.rows.schema
        assert self.vectors is None or len(self.vectors) == len(self.rows)
        assert (self.vectors is None) == (not self.layer)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def take(self, rows: NDArray[Any]) -> Sample:
        """Select utterances by number, or by a mask."""
        chosen = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        vectors = None if self.vectors is None else self.vectors[chosen]
        return Sample(
            self.system, self.location, self.identity, self.rows.take(pa.array(chosen)), vectors, self.layer
        )

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column of numbers; nan where there is none."""
        values: NDArray[np.float64] = self.rows[name].to_numpy().astype(np.float64)
        return values

    def texts(self, name: str) -> NDArray[np.object_]:
        """A column of texts; NOT_STATED where there is none."""
        values: NDArray[np.object_] = self.rows[name].fill_null(NOT_STATED).to_numpy()
        return values

    @property
    def has_labels(self) -> bool:
        """Whether any utterance has a label."""
        return bool(self.rows["label"].null_count < len(self))

    @cached_property
    def hashes(self) -> NDArray[np.uint64]:
        """[N] a number for each utterance that looks random and depends on its key alone."""
        return hash_texts(self.rows["key"])

    @cached_property
    def groups(self) -> NDArray[np.object_]:
        """[N] corpus, label and attack of each utterance as one text; the artifact where no attack is stated."""
        return group_names(self.rows)

    def clusters(self, kind: ClusterKind) -> Clusters:
        """Group the utterances that resemble each other, as `clusters_of` does."""
        return clusters_of(self.rows, kind)


class GroupCount(NamedTuple):
    """How many utterances a corpus has of a label and an attack."""

    corpus: str | None
    label: str | None
    attack: str | None
    """The artifact where no attack is stated."""
    number: int

    @property
    def name(self) -> str:
        """As `Sample.groups` names it."""
        parts = (self.corpus, LABELS.get(self.label or ""), self.attack)
        return SEPARATOR.join(part for part in parts if part is not None) or NOT_STATED


def count_groups(rows: pa.Table) -> list[GroupCount]:
    """Count the utterances of each corpus, label and attack, in alphabetical order."""
    attack = pc.coalesce(rows["attack"], rows["artifact"])
    table = pa.table({"corpus": rows["corpus"], "label": rows["label"], "attack": attack})
    counts = table.group_by(table.column_names, use_threads=False).aggregate([([], "count_all")])
    groups = [
        GroupCount(*row.values()) for row in counts.select([*table.column_names, "count_all"]).to_pylist()
    ]
    return sorted(groups, key=lambda group: group.name)


def group_names(rows: pa.Table) -> NDArray[np.object_]:
    """The group of each row as one text: `asvspoof5 · spoof · A17`; what is not stated is left out."""
    label = rows["label"]
    for old, new in LABELS.items():
        label = pc.if_else(pc.equal(label, old), new, label)
    columns = [rows["corpus"], label, pc.coalesce(rows["attack"], rows["artifact"])]
    names = pc.binary_join_element_wise(*columns, SEPARATOR, null_handling="skip")
    values: NDArray[np.object_] = names.to_numpy().astype(object)
    values[values == ""] = NOT_STATED
    return values
