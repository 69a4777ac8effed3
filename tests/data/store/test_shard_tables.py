"""The tables of a shard are read as they were written, also those of earlier versions and of many shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.data.store.layout import finished_shards, index_name, rejects_name
from pipeline.data.store.shard_tables import (
    INDEX,
    REJECTS,
    IndexRow,
    RejectRow,
    ShardSummary,
    commit_index,
    commit_rejects,
    map_indexes,
    read_index,
    read_indexes,
    read_rejects,
    read_summary,
)
from pipeline.storage import Folder
from pipeline.tables import to_parquet


def commit_shard(store: Folder, name: str) -> ShardSummary:
    """Commit the tables of a shard with one written and one rejected utterance."""
    summary = ShardSummary(name, "toy", 1024, "0" * 64, 1, {"spoof": 1.5}, {"truncated": 1})
    common: dict[str, Any] = {"corpus": "toy", "shard": name, "container": "wav", "source_digest": "0" * 16}
    written: Any = dict.fromkeys(INDEX.names) | common | {"id": f"{name}-good", "bandwidth_hz": 8000.0}
    rejected: Any = dict.fromkeys(REJECTS.names) | common | {"id": f"{name}-bad", "reason": "truncated"}
    commit_rejects(store, summary, [rejected])
    commit_index(store, summary, pa.Table.from_pylist([written], INDEX), build_settings="")
    return summary


def test_typed_rows_have_the_columns_of_their_schemas():
    assert IndexRow.__annotations__.keys() == set(INDEX.names)
    assert RejectRow.__annotations__.keys() == set(REJECTS.names)


def test_a_shard_is_finished_once_its_index_is_written_and_the_index_has_its_summary(tmp_path: Path):
    store = Folder(str(tmp_path))
    summary = commit_shard(store, "toy-1")
    assert finished_shards(store, "toy") == {"toy-1"}
    assert read_summary(store, "toy", "toy-1") == summary


def test_columns_that_an_older_table_lacks_are_null(tmp_path: Path):
    store = Folder(str(tmp_path))
    summary = commit_shard(store, "toy-1")
    new = ["container", "source_digest", "bandwidth_hz"]
    for name, table in (
        (index_name("toy", "toy-1"), read_index(store, "toy", "toy-1")),
        (rejects_name("toy", "toy-1"), read_rejects(store, "toy", "toy-1")),
    ):
        old = [column for column in table.column_names if column not in new]
        store.commit(name, to_parquet(table.select(old)))
    index = read_index(store, "toy", "toy-1")
    assert index.schema.equals(INDEX)
    assert [index[name].null_count for name in ("id", *new)] == [0, 1, 1, 1]
    some = read_index(store, "toy", "toy-1", ["bandwidth_hz", "id"])
    assert some.to_pydict() == {"bandwidth_hz": [None], "id": ["toy-1-good"]}
    assert read_rejects(store, "toy", "toy-1").schema.equals(REJECTS)
    assert read_summary(store, "toy", "toy-1") == summary


def test_indexes_are_read_in_the_order_of_the_shards(tmp_path: Path):
    store = Folder(str(tmp_path))
    shards = [("toy", f"toy-{number}") for number in (3, 1, 2, 0)]
    for _, name in sorted(shards):
        commit_shard(store, name)
    ids = [index["id"].to_pylist() for index in read_indexes(store, shards, ["id"])]
    assert ids == [[f"{name}-good"] for _, name in shards]
    assert list(map_indexes(len, store, shards)) == [1, 1, 1, 1]
    with pytest.raises(FileNotFoundError):
        list(read_indexes(store, [*shards, ("toy", "toy-9")]))
