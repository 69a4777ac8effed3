"""A Parquet file of many row groups is named by its content, and read group by group."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import tables
from pipeline.errors import InputError
from pipeline.storage import Folder

SCHEMA = pa.schema([("uid", pa.string()), ("problem", pa.string())], metadata={"decoders": "some"})


def group(first: int, num_rows: int, problem: str | None = None) -> pa.Table:
    uids = [f"{number:04d}" for number in range(first, first + num_rows)]
    return pa.table([uids, pa.array([problem] * num_rows, pa.string())], schema=SCHEMA)


GROUPS = [group(0, 5), group(5, 1), group(6, 30, "silent")]


def commit(folder: Folder, groups: list[pa.Table]) -> str:
    return tables.commit_groups(
        folder,
        lambda digest: f"some/{digest}.parquet",
        SCHEMA,
        groups,
        distinct_columns=["uid"],
        statistics_of=["problem"],
    )


def test_each_table_becomes_a_row_group_of_a_file_that_its_content_names(tmp_path: Path):
    folder = Folder(str(tmp_path))
    name = commit(folder, GROUPS)
    assert commit(folder, [pa.concat_tables([rows.slice(0, 1), rows.slice(1)]) for rows in GROUPS]) == name
    assert commit(folder, GROUPS[:2]) != name
    for number, rows in enumerate(GROUPS):
        assert tables.read_group(folder, name, number).equals(rows)
    assert tables.read_table(folder, name).schema.metadata == SCHEMA.metadata
    metadata = pq.read_metadata(folder.location(name))
    assert [metadata.row_group(number).column(1).statistics.null_count for number in range(3)] == [5, 1, 0]


def test_a_file_without_row_groups_is_an_empty_table(tmp_path: Path):
    folder = Folder(str(tmp_path))
    assert tables.read_table(folder, commit(folder, [])).equals(SCHEMA.empty_table())


def test_a_failure_between_two_groups_leaves_no_file(tmp_path: Path):
    def groups() -> Iterator[pa.Table]:
        yield GROUPS[0]
        raise KeyError

    with pytest.raises(KeyError):
        tables.commit_groups(Folder(str(tmp_path)), str, SCHEMA, groups())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_with_a_remedy(tmp_path: Path):
    numbers = np.random.default_rng(0).integers(2**60, size=100_000)
    rows = pa.table([pa.array(map(str, numbers)), pa.nulls(len(numbers), pa.string())], schema=SCHEMA)
    with (
        small_files(300_000),
        pytest.raises(InputError, match=r"^/\S+ on \S+: File too large; make room there, or set TMPDIR"),
    ):
        commit(Folder(str(tmp_path)), [rows])
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def small_files(max_bytes: int) -> Iterator[None]:
    """Let writing fail beyond a number of bytes in each file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_the_groups_of_a_file_are_read_one_by_one(where: str, tmp_path: Path, bucket: str):
    folder = Folder(str(tmp_path) if where == "disk" else bucket)
    name = commit(folder, GROUPS)
    with tables.open_groups(folder, name) as file:
        groups = list(tables.iter_groups(file, ["uid"]))
    assert [rows["uid"].to_pylist() for rows in groups] == [rows["uid"].to_pylist() for rows in GROUPS]


@pytest.mark.parametrize("num_rows", [0, 1, tables.BATCH_ROWS, 2 * tables.BATCH_ROWS + 3])
def test_rows_pass_through_a_table_in_batches(num_rows: int) -> None:
    schema = pa.schema([("number", pa.int64()), ("name", pa.string())])
    given = [{"number": number, "name": str(number) if number % 3 else None} for number in range(num_rows)]
    rows = tables.Rows(schema)
    for row in given:
        rows.append(row)
    assert len(rows) == num_rows
    table = rows.table()
    assert tables.to_parquet(table) == tables.to_parquet(pa.Table.from_pylist(given, schema))
    assert list(tables.iter_rows(table)) == given


def test_columns_that_a_row_lacks_are_null() -> None:
    rows = tables.Rows(pa.schema([("number", pa.int64()), ("name", pa.string())]))
    rows.append({"name": "a"})
    assert rows.table().to_pylist() == [{"number": None, "name": "a"}]
