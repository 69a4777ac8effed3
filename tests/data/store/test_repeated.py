"""Each id of a corpus is given to one utterance, whatever the order and number of the rows."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.corpora.corpus import read_files
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import repeated
from pipeline.data.store.catalog import CATALOG, CatalogRow
from pipeline.data.store.repeated import REPEATED_ID, UniqueRows, reject_repeated
from pipeline.storage import Folder
from tests.data.corpora.layouts import LAYOUTS

MANIFESTS = load_manifests()


def listed(root: Folder, corpus: str) -> list[CatalogRow]:
    return list(catalogs.rows(read_files(MANIFESTS[corpus], root), corpus, Recipe()))


def row(path: str, id_: str | None, **others: Any) -> CatalogRow:
    columns: Any = dict.fromkeys(CATALOG.names) | {"corpus": "toy", "path": path, "id": id_} | others
    return columns


def test_an_id_of_several_files_is_kept_for_the_smallest_path():
    rows = [row("b.m4a", "X"), row("a.wav", "X"), row("c.wav", "Y"), row("d.wav", "X")]
    for order in itertools.permutations(rows):
        catalog = reject_repeated(catalogs.table(list(order)))
        row_of = {row["path"]: row for row in catalog.to_pylist()}
        assert {path: row["problem"] for path, row in row_of.items()} == {
            "a.wav": None,
            "b.m4a": REPEATED_ID,
            "c.wav": None,
            "d.wav": REPEATED_ID,
        }
        assert row_of["b.m4a"]["detail"] == "b.m4a: X is also the id of a.wav"


def test_ids_of_rows_with_problems_do_not_count_as_repeated():
    rows = [
        row("a.wav", "X", problem="truncated", detail="cut short"),
        row("b.wav", "X"),
        row("c.wav", "Y", problem="excluded-test"),
        row("d.wav", "Y"),
    ]
    assert reject_repeated(catalogs.table(rows)).to_pylist() == rows


def test_segments_of_one_file_with_equal_ids_are_repeated():
    rows = [
        row("a.wav", "X_seg2", start=100, end=200),
        row("a.wav", "X_seg1", start=0, end=100),
        row("b.wav", "X", start=100, end=200),
        row("b.wav", "X", start=0, end=100),
    ]
    catalog = reject_repeated(catalogs.table(rows))
    assert catalog["problem"].to_pylist() == [None, None, REPEATED_ID, None]


def test_rejecting_repeated_ids_keeps_the_schema_and_its_metadata():
    rows = [row("b.wav", "X"), row("a.wav", "X")]
    catalog = reject_repeated(pa.concat_tables([catalogs.table([row]) for row in rows]))
    assert catalog.schema.equals(CATALOG, check_metadata=True)


def test_a_clip_of_voxceleb2_in_two_formats_gives_one_utterance(tmp_path: Path):
    for suffix in ("wav", "m4a"):
        path = tmp_path / "dev" / "aac" / "id00012" / "21Uxsk56VDQ" / f"00001.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    catalog = reject_repeated(catalogs.table(listed(Folder(str(tmp_path)), "voxceleb2")))
    assert [(row["path"][-4:], row["problem"]) for row in catalog.to_pylist()] == [
        (".m4a", None),
        (".wav", REPEATED_ID),
    ]


def test_no_documented_layout_repeats_an_id(tmp_path: Path):
    for layout in LAYOUTS:
        rows = listed(Folder(str(layout.write(tmp_path / layout.name))), layout.name)
        catalog = reject_repeated(catalogs.table(rows))
        assert REPEATED_ID not in catalog["problem"].to_pylist(), layout.name


@pytest.mark.parametrize("max_buffered_bytes", [1 << 30, 2000])
def test_rows_that_arrive_in_parts_are_rejected_like_a_whole_catalog(
    max_buffered_bytes: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(repeated, "PART_ROWS", 7)
    rng = np.random.default_rng(0)
    rows = [
        row(
            f"{number:03d}.wav",
            None if number % 17 == 0 else f"X{rng.integers(60)}",
            start=int(rng.integers(3)),
        )
        for number in range(100)
    ]
    for number in rng.integers(100, size=20):
        rows[number]["problem"] = "truncated"
    for number in range(0, 100, 17):
        rows[number]["problem"] = "stray"
    whole = reject_repeated(catalogs.table(rows))
    assert 20 < whole["problem"].to_pylist().count(REPEATED_ID) < 60
    collected = UniqueRows(max_buffered_bytes)
    for first in range(0, 100, 9):
        collected.add(catalogs.table(rows[first : first + 9]))
    assert collected.num_rows == 100
    parts = list(collected.parts())
    assert len(parts) > 10
    assert pa.concat_tables(parts).sort_by("path").equals(whole.sort_by("path"))
    assert list(collected.parts()) == [], "their memory and disk have been freed"
