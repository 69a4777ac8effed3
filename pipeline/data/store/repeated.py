"""Find the utterances of a corpus that have the id of another utterance; only one of them can be written."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.store.catalog import CATALOG
from pipeline.spill import MAX_BUFFERED_BYTES, Spill

REPEATED_ID = "repeated_id"
"""The problem of an utterance whose id belongs to another utterance of the corpus."""

PART_ROWS = 50_000
"""Rows that are returned at a time."""

NUM_BUCKETS = 256
"""Parts into which rows with repeated ids are divided, so that only one of them has to be in memory."""


class UniqueRows:
    """The catalog rows of one corpus, collected in any order; repeated ids become problems when they are read.

    Memory: 8 bytes per row; the rows themselves are in a temporary file.
    """

    def __init__(self, max_buffered_bytes: int = MAX_BUFFERED_BYTES) -> None:
        self._rows = Spill(CATALOG, max_buffered_bytes)
        self._hashes: list[NDArray[np.int64]] = []

    @property
    def num_rows(self) -> int:
        """Rows that have been added."""
        return self._rows.num_rows

    @property
    def num_buffered_bytes(self) -> int:
        """Memory that the rows take."""
        return self._rows.num_buffered_bytes

    def add(self, rows: pa.Table) -> None:
        """Add rows of the corpus."""
        part_number = self.num_rows // PART_ROWS
        self._rows.add(rows, np.full(len(rows), part_number, np.int64))
        self._hashes.append(_id_hashes(rows.filter(pc.is_null(rows["problem"]))))

    def flush(self) -> None:
        """Move the rows from memory to a temporary file."""
        self._rows.flush()

    def parts(self) -> Iterator[pa.Table]:
        """Yield all rows, part by part, and free them."""
        repeated = _repeated(self._hashes)
        self._hashes = []
        with self._rows, Spill(CATALOG) as candidates:
            for bucket in self._rows.buckets():
                rows = self._rows.read(bucket)
                hashes = _id_hashes(rows) if len(repeated) else np.empty(0, np.int64)
                is_candidate = np.isin(hashes, repeated)
                if is_candidate.any():
                    buckets = hashes[is_candidate] % NUM_BUCKETS
                    candidates.add(rows.filter(pa.array(is_candidate)), buckets)
                    rows = rows.filter(pa.array(~is_candidate))
                yield rows
            for bucket in candidates.buckets():
                yield reject_repeated(candidates.read(bucket))


def _id_hashes(rows: pa.Table) -> NDArray[np.int64]:
    """[N] A hash of each id; other ids may have the same one."""
    # Python's hash differs between processes, but these numbers never leave this one.
    return np.fromiter(map(hash, rows["id"].to_pylist()), np.int64, len(rows))


def _repeated(hashes: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The hashes that occur more than once."""
    together = np.concatenate(hashes) if hashes else np.empty(0, np.int64)
    together.sort()
    return np.unique(together[1:][together[1:] == together[:-1]])


def reject_repeated(catalog: pa.Table) -> pa.Table:
    """Keep each id for the utterance with the smallest path; the others of that id become problems.

    The result does not depend on the order of the rows.

    Args:
        catalog: rows of one corpus, with all the rows of each id that occurs.
    """
    is_good = pc.is_null(catalog["problem"])
    counts = pa.table({"id": catalog["id"].filter(is_good)}).group_by("id").aggregate([([], "count_all")])
    repeated = counts["id"].filter(pc.greater(counts["count_all"], 1))
    if not len(repeated):
        return catalog
    is_repeated = pc.and_(is_good, pc.is_in(catalog["id"], repeated.combine_chunks()))
    positions = np.flatnonzero(is_repeated.to_numpy(zero_copy_only=False))
    candidates = catalog.select(["id", "path", "start"]).take(pa.array(positions))
    order = pc.sort_indices(candidates, [(name, "ascending") for name in candidates.column_names]).to_numpy()
    ids, paths = (candidates[name].take(pa.array(order)).to_pylist() for name in ("id", "path"))
    kept_path = ""
    details: dict[int, str] = {}
    for number, (id_, path) in enumerate(zip(ids, paths, strict=True)):
        if number == 0 or id_ != ids[number - 1]:
            kept_path = path
        else:
            details[int(positions[order[number]])] = f"{path}: {id_} is also the id of {kept_path}"
    return _with_problem(catalog, REPEATED_ID, details)


def _with_problem(catalog: pa.Table, reason: str, details: dict[int, str]) -> pa.Table:
    """The catalog with a problem in the rows that are the keys of `details`."""
    positions = np.array(sorted(details))
    mask = np.zeros(len(catalog), np.bool_)
    mask[positions] = True
    for name, values in (
        ("problem", [reason] * len(positions)),
        ("detail", [details[position] for position in positions]),
    ):
        column = pc.replace_with_mask(catalog[name].combine_chunks(), pa.array(mask), pa.array(values))
        catalog = catalog.set_column(catalog.schema.get_field_index(name), CATALOG.field(name), column)
    return catalog
