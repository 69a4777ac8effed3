"""Unchanged files take what an earlier catalog recorded; changed files only how and where they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import spill, tables
from pipeline.data.audio.errors import REASONS
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import known, probing
from pipeline.data.store.catalog import CATALOG, CatalogRow, FileColumns
from pipeline.data.store.known import HANDED_ON, KnownFiles
from pipeline.storage import Folder

NO_FILE: Any = dict.fromkeys(FileColumns.__annotations__)
HEADER = {
    "fingerprint": "0123456789abcdef",
    "container": "wav",
    "codec": "pcm",
    "encoding": "PCM_S",
    "sample_rate": 16_000,
    "num_channels": 1,
    "num_samples": 32_000,
    "file_seconds": 2.0,
    "bit_depth": 16,
    "bitrate": 256_000,
}


def listed(path: str, size: int = 1000, version: str = "v1", **others: Any) -> CatalogRow:
    columns: Any = dict.fromkeys(CATALOG.names)
    return columns | {"corpus": "toy", "path": path, "id": path, "size": size, "version": version} | others


def probed(path: str, **others: Any) -> CatalogRow:
    row: Any = {**listed(path), **HEADER, "shard": "toy-1", **others}
    return row


def fill(tmp_path: Path, earlier: Sequence[CatalogRow], rows: Sequence[CatalogRow]) -> list[CatalogRow]:
    """The rows, filled from an earlier catalog of row groups of ten rows."""
    folder = Folder(str(tmp_path))
    name = tables.commit_groups(
        folder,
        lambda digest: f"{digest}.parquet",
        CATALOG,
        [catalogs.table(earlier[first : first + 10]) for first in range(0, len(earlier), 10)],
    )
    with KnownFiles(folder, name) as files:
        return files.fill(rows)


def test_an_unchanged_file_gets_its_header_and_its_shard(tmp_path: Path):
    (row,) = fill(tmp_path, [probed("a.wav")], [listed("a.wav", label="spoof")])
    assert row == {**listed("a.wav", label="spoof"), **HEADER, "shard": "toy-1"}
    assert probing.is_probed(row)


@pytest.mark.parametrize("changes", [{"size": 1001}, {"version": "v2"}, {"size": 1, "version": "v2"}])
def test_a_changed_file_gets_only_its_earlier_fingerprint_and_shard(tmp_path: Path, changes: dict[str, Any]):
    (row,) = fill(tmp_path, [probed("a.wav")], [listed("a.wav", **changes)])
    assert row == {**listed("a.wav", **changes), "fingerprint": HEADER["fingerprint"], "shard": "toy-1"}
    assert not probing.is_probed(row)


def test_a_problem_with_the_audio_is_kept_and_others_are_forgotten(tmp_path: Path):
    assert "truncated" in REASONS
    earlier = [
        listed("a.wav", problem="truncated", detail="cut short"),
        listed("b.wav", problem="unreadable", detail="permission denied"),
        listed("c.wav", problem="excluded-test"),
        listed("d.wav", size=999, problem="truncated"),
        probed("e.wav", problem="repeated_id", detail="e.wav: X is also the id of a.wav", shard=None),
    ]
    rows = fill(tmp_path, earlier, [listed(f"{letter}.wav") for letter in "abcdef"])
    assert [row["problem"] for row in rows] == ["truncated", None, None, None, None, None]
    assert [row["detail"] for row in rows] == ["cut short", None, None, None, None, None]
    assert [probing.is_probed(row) for row in rows] == [True, False, False, False, True, False]


def test_a_row_that_was_listed_with_a_problem_is_not_looked_up(tmp_path: Path):
    row = listed("a.wav", problem="excluded-test")
    assert fill(tmp_path, [probed("a.wav")], [row]) == [row]


def test_a_file_has_the_shard_of_those_of_its_segments_that_were_written(tmp_path: Path):
    earlier = [
        probed("a.wav", start=0, end=9),
        probed("a.wav", start=9, end=18),
        probed("a.wav", start=18, end=27, problem="repeated_id", shard=None),
    ]
    (row,) = fill(tmp_path, earlier, [listed("a.wav")])
    assert (row["shard"], row["problem"], row["start"]) == ("toy-1", None, None)


def test_without_an_earlier_catalog_nothing_is_known(tmp_path: Path):
    rows = [listed("a.wav")]
    with KnownFiles(Folder(str(tmp_path)), "") as files:
        assert files.fill(rows) == rows


def test_a_column_that_an_older_catalog_lacks_is_null(tmp_path: Path):
    folder = Folder(str(tmp_path))
    older = catalogs.table([probed("a.wav")]).drop_columns(["bitrate"])
    folder.commit("older.parquet", tables.to_parquet(older))
    with KnownFiles(folder, "older.parquet") as files:
        (row,) = files.fill([listed("a.wav")])
    assert row == {**probed("a.wav"), "bitrate": None}


@pytest.mark.parametrize("max_buffered_bytes", [1 << 30, 2000])
def test_a_catalog_larger_than_memory_is_the_same_as_one_in_memory(
    tmp_path: Path, max_buffered_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(known, "BUCKET_ROWS", 40)
    monkeypatch.setattr(known, "SAMPLES_PER_BUCKET", 2)
    monkeypatch.setattr(spill.Spill.__init__, "__defaults__", (max_buffered_bytes,))
    rng = np.random.default_rng(0)
    paths = [f"{number % 7}/{number:04d}.wav" for number in range(600)]
    earlier = {path: probed(path, fingerprint=f"{rng.integers(2**60):016x}") for path in paths[:500]}
    for path in paths[:500:9]:
        earlier[path] = listed(path, problem="silent", detail=f"{path}: silent")
    shuffled = list(earlier.values())
    rng.shuffle(shuffled)
    rows = [listed(path, size=int(rng.choice([1000, 1001]))) for path in sorted(paths)]
    expected: list[Any] = []
    for row in rows:
        before: Any = earlier.get(row["path"])
        if before is None:
            expected.append(row)
        elif before["size"] == row["size"]:
            expected.append({**row, **{name: before[name] for name in (*NO_FILE, "shard")}})
        else:
            expected.append({**row, **{name: before[name] for name in HANDED_ON}})
    assert fill(tmp_path, shuffled, rows) == expected
    assert fill(tmp_path, shuffled, rows[::-1]) == expected[::-1], "in any order"
