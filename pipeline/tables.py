"""Parquet files in a folder: whole tables, and single row groups."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import Folder


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


def read_table(folder: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns."""
    return pq.read_table(
        pa.BufferReader(folder.read(name)), columns=None if columns is None else list(columns)
    )


def read_group(folder: Folder, name: str, group: int) -> pa.Table:
    """Read one row group of a Parquet file, without fetching the others."""
    with folder.open(name) as file:
        return pq.ParquetFile(file).read_row_group(group)
