"""Rows in numbered buckets: in memory up to a limit, beyond it in a temporary file.

This is the memory of an external sort: rows come in any order and are read back one bucket at a time. The file has no
name, so a process that is killed leaves nothing behind. TMPDIR decides where it is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.storage import TemporaryFile

MAX_BUFFERED_BYTES = 128 * 2**20
"""Memory that rows may take before they are written to the file."""


class Spill:
    """Rows of one schema in numbered buckets. Add all rows first, then read the buckets."""

    def __init__(self, schema: pa.Schema, max_buffered_bytes: int = MAX_BUFFERED_BYTES) -> None:
        self.schema = schema
        self.num_rows = 0
        self.num_buffered_bytes = 0
        self._max_buffered_bytes = max_buffered_bytes
        self._buffer: list[tuple[pa.Table, NDArray[np.int64]]] = []
        self._in_memory: dict[int, pa.Table] = {}
        self._in_file: dict[int, list[int]] = {}
        """For each bucket, the numbers of its record batches in the file."""
        self._num_batches = 0
        self._file: TemporaryFile | None = None
        self._writer: Any = None
        self._reader: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, rows: pa.Table, buckets: NDArray[np.int64]) -> None:
        """Add rows.

        Args:
            rows: rows of the schema.
            buckets: [N] the bucket of each row.

        Raises:
            InputError: the disk of the temporary file is full.
        """
        assert self._reader is None and not self._in_memory, "rows are added before buckets are read"
        if not len(rows):
            return
        self._buffer.append((rows, buckets))
        self.num_rows += len(rows)
        self.num_buffered_bytes += rows.nbytes
        if self.num_buffered_bytes > self._max_buffered_bytes:
            self.flush()

    def flush(self) -> None:
        """Move the rows that are in memory to the file.

        Raises:
            InputError: the disk of the temporary file is full.
        """
        if self._writer is None:
            self._file = TemporaryFile()
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(self._file, self.schema, options=options)
        for bucket, rows in self._take_buffer():
            for batch in rows.to_batches():
                self._writer.write_batch(batch)
                self._in_file.setdefault(bucket, []).append(self._num_batches)
                self._num_batches += 1

    def buckets(self) -> list[int]:
        """The numbers of the buckets that have rows, ascending."""
        self._finish()
        return sorted({*self._in_file, *self._in_memory})

    def read(self, bucket: int) -> pa.Table:
        """The rows of a bucket, in the order in which they were added."""
        self._finish()
        if bucket in self._in_memory:
            return self._in_memory[bucket]
        batches = [self._reader.get_batch(number) for number in self._in_file.get(bucket, [])]
        return pa.Table.from_batches(batches, self.schema)

    def close(self) -> None:
        """Give memory and disk back."""
        self._buffer, self._in_memory, self._in_file = [], {}, {}
        self._reader = self._writer = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _finish(self) -> None:
        """Sort what is still in memory, and make the file readable."""
        if self._reader is not None or self._in_memory:
            return
        if self._writer is None:
            self._in_memory = dict(self._take_buffer())
            return
        self.flush()
        assert self._file is not None
        self._writer.close()
        self._file.flush()
        self._reader = pa.ipc.open_file(self._file)

    def _take_buffer(self) -> Iterator[tuple[int, pa.Table]]:
        """Empty the buffer; yields the rows of each bucket."""
        if not self._buffer:
            return
        rows = pa.concat_tables(part for part, _ in self._buffer)
        buckets = np.concatenate([numbers for _, numbers in self._buffer])
        self._buffer, self.num_buffered_bytes = [], 0
        if (np.diff(buckets) < 0).any():
            order = np.argsort(buckets, kind="stable")
            rows, buckets = rows.take(pa.array(order)), buckets[order]
        first = np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1))
        for begin, end in zip(first.tolist(), [*first[1:].tolist(), len(buckets)], strict=True):
            yield int(buckets[begin]), rows.slice(begin, end - begin)
