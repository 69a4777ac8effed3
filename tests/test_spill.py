"""Rows come back from a spill by bucket, whether they fit in memory or not, and leave no file behind."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import InputError
from pipeline.spill import Spill

SCHEMA = pa.schema([("number", pa.int64()), ("name", pa.string())])


def rows(first: int, num_rows: int) -> pa.Table:
    numbers = range(first, first + num_rows)
    names = [None if number % 7 == 0 else f"name {number}" * (number % 5) for number in numbers]
    return pa.table([list(numbers), names], schema=SCHEMA)


@pytest.mark.parametrize("max_buffered_bytes", [1 << 30, 3000, 0])
def test_each_bucket_has_its_rows_in_the_order_in_which_they_were_added(max_buffered_bytes: int):
    rng = np.random.default_rng(0)
    expected: dict[int, list[int]] = {}
    with Spill(SCHEMA, max_buffered_bytes) as spill:
        for first in range(0, 1000, 50):
            buckets = rng.integers(-3, 9, 50) * 11
            for number, bucket in zip(range(first, first + 50), buckets.tolist(), strict=True):
                expected.setdefault(bucket, []).append(number)
            spill.add(rows(first, 50), buckets)
            spill.add(rows(0, 0), np.empty(0, np.int64))
        assert spill.num_rows == 1000
        assert spill.buckets() == sorted(expected)
        for bucket, numbers in expected.items():
            whole = rows(0, 1000).take(pa.array(numbers))
            assert spill.read(bucket).combine_chunks().equals(whole)
            assert spill.read(bucket).num_rows == len(numbers), "a bucket can be read twice"


@pytest.mark.parametrize("max_buffered_bytes", [1 << 30, 0])
def test_a_bucket_without_rows_is_empty(max_buffered_bytes: int):
    with Spill(SCHEMA, max_buffered_bytes) as spill:
        assert spill.buckets() == []
        assert spill.read(3).equals(SCHEMA.empty_table())
    with Spill(SCHEMA, max_buffered_bytes) as spill:
        spill.add(rows(0, 5), np.zeros(5, np.int64))
        assert len(spill.read(3)) == 0
        assert len(spill.read(0)) == 5


def test_the_temporary_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Spill(SCHEMA, max_buffered_bytes=0) as spill:
        spill.add(rows(0, 1000), np.arange(1000) % 3)
        assert list(tmp_path.iterdir()) == [], "a process that is killed here leaves nothing behind"
        assert spill.num_buffered_bytes == 0
        assert len(spill.read(1)) == 333


def test_a_full_disk_is_reported_with_a_remedy():
    numbers = np.random.default_rng(0).integers(2**60, size=200_000)
    rows = pa.table([numbers, pa.nulls(len(numbers), pa.string())], schema=SCHEMA)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # writing fails beyond, as on a full disk
    try:
        with (
            pytest.raises(InputError, match=r"^/\S+ on \S+: File too large; make room there, or set TMPDIR"),
            Spill(SCHEMA, max_buffered_bytes=0) as spill,
        ):
            spill.add(rows, numbers % 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
