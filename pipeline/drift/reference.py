"""A reference: utterances of a detector to which later ones are compared, and the space of their embeddings, in a file.

The file is Parquet: one row per utterance, and the metadata of its schema hold the identity of the scores, how many
utterances of each group there were, and the space.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.drift.sample import COLUMNS, GroupCount, Sample, count_groups
from pipeline.drift.selection import divide, thin
from pipeline.drift.space import Space, fit_space
from pipeline.errors import InputError
from pipeline.evaluation.embeddings import find_difference
from pipeline.evaluation.utterances import ClusterKind
from pipeline.storage import Folder

METADATA = b"bonafide_drift"
"""Key of the metadata."""

VECTOR = "vector"
"""Column of the embeddings."""

KEPT = (
    "weights_digest",
    "policy",
    "precision",
    "decoder",
    "snapshot",
    "store",
    "audio",
    "checkpoint",
    "variant",
)
"""Entries of the description of the scores that a reference states."""

SPACE_SHARE, SPACE_ROWS = 1 / 3, 5000
"""Share of the clusters whose utterances define the space, and about how many utterances that are at most.

They are not compared. The components fit the utterances that define them better than any others, so with few of them,
new utterances of the same distribution would differ from those.
"""

MIN_ROWS = 40
"""A reference has at least so many utterances."""


@dataclass(frozen=True)
class Reference:
    """Utterances to which others are compared."""

    sample: Sample
    space: Space | None
    """None without embeddings."""
    counts: Sequence[GroupCount]
    """Utterances with a score, before some were chosen."""
    num_known: int
    """How many of them had an embedding, or a score if the reference has no embeddings."""
    clusters: ClusterKind
    """Utterances that belong together: they were divided by it, so they must be compared by it."""

    def project(self, sample: Sample) -> NDArray[np.float32]:
        """The coordinates of the embeddings of a sample in the space."""
        assert self.space is not None and sample.vectors is not None
        return self.space.project(sample.vectors)

    def check(self, new: Sample) -> None:
        """Check that scores are of the same detector, window, precision and layer.

        Raises:
            InputError: they are not.
        """
        old = self.sample
        difference = find_difference(old.identity, new.identity)
        if difference:
            raise InputError(
                f"{new.location}: the reference is of {difference.words} {difference.first}, and these are scores with "
                f"{difference.second}; fit one with `bonafide drift --fit` for them"
            )
        if old.layer == new.layer:
            return
        if not new.layer:
            raise InputError(
                f"{new.location}: the reference has embeddings of layer {old.layer}, and these scores have none; "
                f"score again with --embeddings --layer {old.layer}, or fit a reference with --layer none"
            )
        assert old.layer, "without a layer, embeddings are not loaded"
        raise InputError(
            f"{new.location}: the reference has embeddings of layer {old.layer}, and these are of layer {new.layer}"
        )

    def to_parquet(self) -> bytes:
        """Write the reference."""
        table, sample = self.sample.rows, self.sample
        if sample.vectors is not None:
            vectors = sample.vectors.astype(np.float16)
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
            table = table.append_column(VECTOR, column)
        record = {
            "version": 1,
            "system": sample.system,
            "location": sample.location,
            "identity": {name: sample.identity[name] for name in KEPT if name in sample.identity},
            "layer": sample.layer,
            "counts": [list(count) for count in self.counts],
            "num_known": self.num_known,
            "clusters": self.clusters,
            "space": None if self.space is None else _space_to_record(self.space),
        }
        table = table.replace_schema_metadata({METADATA: json.dumps(record, sort_keys=True)})
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        return sink.getvalue()


def fit(sample: Sample, scored: pa.Table, max_rows: int, clusters: ClusterKind) -> Reference:
    """Choose the utterances of a reference, and fit the space of their embeddings.

    Args:
        sample: utterances with embeddings, or all that have a score if there are no embeddings.
        scored: the rows of all utterances that have a score.
        max_rows: utterances that the reference may have.
        clusters: a speaker, or a source file, either defines the space or is compared, never both.

    Raises:
        InputError: there are too few utterances; embeddings are not finite, or all are equal.
    """
    if len(sample) < MIN_ROWS:
        raise InputError(
            f"{sample.location}: {len(sample)} utterances are too few for a reference; give at least {MIN_ROWS}"
        )
    counts = count_groups(scored)
    if sample.vectors is None:
        return Reference(thin(sample, max_rows), None, counts, len(sample), clusters)
    share = min(SPACE_SHARE, SPACE_ROWS / len(sample))
    for_space, is_compared = divide(sample, sample.clusters(clusters), share)
    vectors = thin(sample.take(for_space), SPACE_ROWS).vectors
    assert vectors is not None
    # What is stored is float16, so that a reference is the same before and after it is written.
    space = fit_space(vectors.astype(np.float16).astype(np.float32), sample.location)
    return Reference(thin(sample.take(is_compared), max_rows), space, counts, len(sample), clusters)


def load_reference(location: str) -> Reference:
    """Read a reference.

    Raises:
        InputError: the file is missing, is not a reference, or is damaged.
    """
    folder, name = Folder.of_file(location)
    if not folder.exists(name):
        raise InputError(
            f"{location}: no such file; write it with `bonafide drift --fit SCORES --out {location}`"
        )
    data = folder.read(name)
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            record = json.loads(file.schema_arrow.metadata[METADATA])
            table = file.read()
        vectors = None
        if record["layer"]:
            column = table[VECTOR].combine_chunks()
            vectors = column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32)
        sample = Sample(
            record["system"],
            record["location"],
            record["identity"],
            table.select(COLUMNS.names).cast(COLUMNS).replace_schema_metadata(),
            vectors,
            record["layer"],
        )
        space = None if record["space"] is None else _space_from_record(record["space"])
        counts = [GroupCount(*count) for count in record["counts"]]
        return Reference(sample, space, counts, int(record["num_known"]), record["clusters"])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{location}: not a reference by `bonafide drift --fit`, or damaged ({type(error).__name__}: {reason}); "
            "fit it again"
        ) from error


def _space_to_record(space: Space) -> dict[str, Any]:
    return {field.name: _plain(getattr(space, field.name)) for field in fields(space)}


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    data = value.astype("<f4").tobytes()
    return {"shape": list(value.shape), "float32": base64.b64encode(data).decode()}


def _space_from_record(record: Mapping[str, Any]) -> Space:
    values: dict[str, Any] = {
        name: np.frombuffer(base64.b64decode(value["float32"]), "<f4").reshape(value["shape"])
        if isinstance(value, dict)
        else value
        for name, value in record.items()
    }
    return Space(**values)
