"""Parquet files in a folder: whole tables, and row groups that a task reads alone."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import Folder


def to_parquet(table: pa.Table, group_lengths: Sequence[int] | None = None) -> bytes:
    """A table as a Parquet file.

    Args:
        table: any table.
        group_lengths: rows of each row group, in order; rows beyond them make a last group of their own.
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
    """A whole Parquet file, or some of its columns."""
    return pq.read_table(pa.BufferReader(folder.read(name)), columns=columns)


def read_group(folder: Folder, name: str, group: int) -> pa.Table:
    """One row group of a Parquet file, without reading the others."""
    with folder.open(name) as file:
        return pq.ParquetFile(file).read_row_group(group)
