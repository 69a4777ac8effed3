"""Parquet files in a folder: whole tables, and files of many row groups that are written and read group by group."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import PART_BYTES, Folder, TemporaryFile

BATCH_ROWS = 256
"""Rows that are dicts at a time, where a table passes through Python row by row."""


def to_parquet(table: pa.Table, group_lengths: Sequence[int] | None = None) -> bytes:
    """Encode a table as a Parquet file.

    Args:
        table: any table.
        group_lengths: number of rows in each row group, in order; rows beyond their sum form one more group.
    """
    sink = io.BytesIO()
    if group_lengths is None:
        pq.write_table(table, sink, compression="zstd")
        return sink.getvalue()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        first = 0
        for length in [*group_lengths, len(table) - sum(group_lengths)]:
            if length:
                writer.write_table(table.slice(first, length), row_group_size=length)
            first += length
    return sink.getvalue()


def commit_groups(
    folder: Folder,
    name_of: Callable[[str], str],
    schema: pa.Schema,
    groups: Iterable[pa.Table],
    *,
    distinct_columns: Sequence[str] = (),
    statistics_of: Sequence[str] = (),
) -> str:
    """Write a Parquet file, one row group at a time, under a name that depends on its content.

    Args:
        folder: where to write.
        name_of: returns the path of the file, given 16 hex digits that identify its content.
        schema: columns of the file, and metadata.
        groups: the rows of each row group; none may be empty.
        distinct_columns: columns whose values rarely occur twice, so that a dictionary would only cost time.
        statistics_of: columns whose smallest and largest value and number of nulls are recorded for each group.

    Returns:
        The path of the file in the folder.
    """
    with TemporaryFile() as file:
        writer = pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=[name for name in schema.names if name not in distinct_columns],
            write_statistics=list(statistics_of),
        )
        with writer:
            for group in groups:
                writer.write_table(group, row_group_size=len(group))
        file.flush()
        file.seek(0)
        name = name_of(hashlib.file_digest(file, "sha256").hexdigest()[:16])
        if not folder.exists(name):
            file.seek(0)
            with folder.staged(name) as staged:
                shutil.copyfileobj(file, staged, PART_BYTES)
        return name


def read_table(folder: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns."""
    return pq.read_table(
        pa.BufferReader(folder.read(name)), columns=None if columns is None else list(columns)
    )


def count_rows(folder: Folder, name: str) -> int:
    """Count the rows of a Parquet file, of which only the footer is read."""
    with folder.open(name) as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def read_columns(
    folder: Folder, name: str, schema: pa.Schema, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read some columns of a Parquet file, or all; those that an older version of the schema did not have are null."""
    columns = schema.names if columns is None else list(columns)
    file = pq.ParquetFile(pa.BufferReader(folder.read(name)))
    present = set(file.schema_arrow.names)
    table = file.read([column for column in columns if column in present])
    for column in columns:
        if column not in present:
            table = table.append_column(schema.field(column), pa.nulls(len(table), schema.field(column).type))
    return table.select(columns)


def read_group(folder: Folder, name: str, group: int) -> pa.Table:
    """Read one row group of a Parquet file, without fetching the others."""
    with folder.open(name) as file:
        return pq.ParquetFile(file).read_row_group(group)


@contextlib.contextmanager
def open_groups(folder: Folder, name: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of which all row groups will be read; a file on S3 is first copied to a temporary file."""
    with folder.open(name) as file:
        if folder.is_local:
            yield pq.ParquetFile(file)
            return
        with TemporaryFile() as copy:
            shutil.copyfileobj(file, copy, PART_BYTES)
            copy.flush()
            yield pq.ParquetFile(copy)


def iter_rows(table: pa.Table) -> Iterator[Any]:
    """The rows of a table, of which only some are dicts at a time: those take many times the memory."""
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield from batch.to_pylist()


class Rows:
    """Rows that become a table, of which only some are dicts at a time: those take many times the memory."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        self._rows: list[Mapping[str, Any]] = []

    def __len__(self) -> int:
        return sum(map(len, self._batches)) + len(self._rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; columns that it lacks are null."""
        self._rows.append(row)
        if len(self._rows) == BATCH_ROWS:
            self._pack()

    def table(self) -> pa.Table:
        """All rows in one piece."""
        self._pack()
        return pa.Table.from_batches(self._batches, self._schema).combine_chunks()

    def _pack(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._rows, self._schema))
        self._rows = []


def iter_groups(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of each row group of a file, in order."""
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, columns=list(columns))
