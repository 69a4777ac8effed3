"""What an earlier catalog recorded about the files of a corpus, so that unchanged files are not opened again."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.data.audio.errors import REASONS
from pipeline.data.store.catalog import CATALOG, CatalogRow, FileColumns, catalog_decoders
from pipeline.spill import Spill
from pipeline.storage import Folder

BUCKET_ROWS = 50_000
"""Rows of the earlier catalog that are in memory at a time, as Python objects."""

SAMPLES_PER_BUCKET = 50
"""Paths from which the limits of each bucket are estimated; the sizes then differ by about a third."""

CACHED_BUCKETS = 4
"""Buckets that stay in memory; a corpus is listed in the order of its paths, so two would do."""

HANDED_ON = ("fingerprint", "source_digest", "shard")
"""Columns that a file keeps from the earlier catalog even if it has changed: how it looked, and where its audio is."""

_COLUMNS = pa.schema([CATALOG.field(name) for name in ("path", *FileColumns.__annotations__, "shard")])


class KnownFiles:
    """The headers and problems that an earlier catalog recorded, valid for files of the same size and version.

    The catalog is divided by path into a temporary file, because it may be larger than memory.
    """

    def __init__(self, store: Folder, catalog: str) -> None:
        """Divide a catalog.

        Args:
            store: holds the catalog.
            catalog: path of the catalog in the store; empty if there is none.
        """
        self._spill = Spill(_COLUMNS)
        self._first_paths: list[str] = []
        self._has_same_decoders = self._has_same_policy = False
        self._bucket = functools.lru_cache(maxsize=CACHED_BUCKETS)(self._read_bucket)
        if catalog:
            with tables.open_groups(store, catalog) as file:
                self._divide(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bucket.cache_clear()
        self._spill.close()

    def fill(self, rows: Sequence[CatalogRow]) -> list[CatalogRow]:
        """The rows, with what is known about their files; those that another catalog knows already stay as they are.

        An unchanged file gets all columns of the earlier catalog that describe it, and its shard. A file that has
        changed since gets only those of `HANDED_ON`, and so remains to be probed. Another decoding policy may measure
        lengths otherwise, and builds every shard again: of its catalog, only the shards are known.
        """
        filled: list[CatalogRow] = []
        for bucket, group in itertools.groupby(rows, key=self._bucket_of):
            filled += self._fill_from(bucket, list(group))
        return filled

    def _divide(self, file: pq.ParquetFile) -> None:
        decoders, earlier = (catalog_decoders(schema) for schema in (CATALOG, file.schema_arrow))
        self._has_same_decoders = earlier == decoders
        self._has_same_policy = earlier.get("policy") == decoders["policy"]
        num_buckets = -(-file.metadata.num_rows // BUCKET_ROWS)
        if num_buckets > 1:
            sample = _sample_paths(file, num_buckets * SAMPLES_PER_BUCKET)
            self._first_paths = sample[SAMPLES_PER_BUCKET::SAMPLES_PER_BUCKET]
        present = [name for name in _COLUMNS.names if name in file.schema_arrow.names]
        for group in tables.iter_groups(file, present):
            paths = group["path"].to_pylist()
            buckets = np.fromiter(map(self._bucket_of_path, paths), np.int64, len(paths))
            self._spill.add(_with_all_columns(group), buckets)

    def _bucket_of(self, row: CatalogRow) -> int:
        return self._bucket_of_path(row["path"])

    def _bucket_of_path(self, path: str) -> int:
        return bisect.bisect_right(self._first_paths, path)

    def _read_bucket(self, bucket: int) -> tuple[pa.Table, dict[str, int]]:
        """The files of a bucket, and the position of each path: its first row, which has a shard if any of them has."""
        rows = self._spill.read(bucket).combine_chunks()
        paths = rows["path"].to_pylist()
        position_of = {path: position for position, path in reversed(list(enumerate(paths)))}
        return rows.drop_columns("path"), position_of

    def _fill_from(self, bucket: int, rows: Sequence[CatalogRow]) -> Iterator[CatalogRow]:
        files, position_of = self._bucket(bucket)
        positions = [position_of.get(row["path"]) if _is_unknown(row) else None for row in rows]
        known_positions = pa.array([position for position in positions if position is not None], pa.int64())
        known = iter(files.take(known_positions).to_pylist())
        for row, position in zip(rows, positions, strict=True):
            yield row if position is None else self._filled(row, next(known))

    def _filled(self, row: CatalogRow, known: dict[str, Any]) -> CatalogRow:
        if not self._has_same_policy:
            return {**row, "shard": known["shard"]}
        if (known["size"], known["version"]) != (row["size"], row["version"]):
            return cast("CatalogRow", {**row, **{name: known[name] for name in HANDED_ON}})
        if known["codec"] is not None:
            return cast("CatalogRow", {**row, **known, "problem": None, "detail": None})
        is_still_bad = self._has_same_decoders and known["problem"] in REASONS
        return cast("CatalogRow", {**row, **known}) if is_still_bad else row


def _is_unknown(row: CatalogRow) -> bool:
    return row["problem"] is None and row["fingerprint"] is None and row["shard"] is None


def _sample_paths(file: pq.ParquetFile, num_samples: int) -> list[str]:
    """Every n-th path of a catalog, sorted; in a shard, paths are in random order."""
    step = max(1, file.metadata.num_rows // num_samples)
    paths: list[str] = []
    first = 0
    for group in tables.iter_groups(file, ["path"]):
        positions = pa.array(range(-first % step, len(group), step), pa.int64())
        paths += group["path"].take(positions).to_pylist()
        first += len(group)
    return sorted(paths)


def _with_all_columns(group: pa.Table) -> pa.Table:
    """The columns of `_COLUMNS`; those that an older catalog lacks are null."""
    columns = [
        group[field.name].cast(field.type)
        if field.name in group.column_names
        else pa.nulls(len(group), field.type)
        for field in _COLUMNS
    ]
    return pa.table(columns, schema=_COLUMNS)
