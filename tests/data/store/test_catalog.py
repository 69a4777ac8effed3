"""The catalog has one row for everything found, remembers headers, and gives each id to one utterance."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.data.corpora.corpus import read_files
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store import catalog as catalogs
from pipeline.data.store.catalog import (
    CATALOG,
    REPEATED_ID,
    CatalogRow,
    FileColumns,
    HeaderColumns,
    KnownFiles,
)
from pipeline.storage import Folder
from tests.data.corpora.layouts import LAYOUTS

MANIFESTS = load_manifests()
LJSPEECH = MANIFESTS["ljspeech"]
WAVS = "LJSpeech-1.1/wavs"


@pytest.fixture
def root(tmp_path: Path) -> Folder:
    """LJSpeech with three clips: one is truncated and one is a web page."""
    rng = np.random.default_rng(0)
    (tmp_path / WAVS).mkdir(parents=True)
    for number in range(3):
        soundfile.write(tmp_path / WAVS / f"LJ001-000{number}.wav", 0.1 * rng.standard_normal(9000), 22_050)
    os.truncate(tmp_path / WAVS / "LJ001-0001.wav", 5000)
    (tmp_path / WAVS / "LJ001-0002.wav").write_bytes(b"<html>not found</html>" * 50)
    return Folder(str(tmp_path))


def listed(root: Folder, corpus: str = "ljspeech") -> list[CatalogRow]:
    manifest = MANIFESTS[corpus]
    return list(catalogs.rows(read_files(manifest, root), corpus, Recipe()))


def cataloged(root: Folder, known: pa.Table | None = None) -> tuple[pa.Table, list[str]]:
    """The catalog, and the files that were opened for it."""
    opened = []

    def read(root: Folder, path: str, size: int) -> HeaderColumns:
        opened.append(path.rpartition("/")[2])
        return catalogs.read_header(root, path, size)

    rows = KnownFiles(known).fill(listed(root))
    return catalogs.table(list(catalogs.probe_rows(rows, root, LJSPEECH, read=read))), opened


def problems(catalog: pa.Table) -> dict[str, str]:
    return {row["path"].rpartition("/")[2]: row["problem"] for row in catalog.to_pylist() if row["problem"]}


def test_unchanged_files_are_not_opened_again(root: Folder):
    first, opened = cataloged(root)
    assert problems(first) == {"LJ001-0001.wav": "truncated", "LJ001-0002.wav": "not_audio"}
    assert len(opened) == 3
    second, opened = cataloged(root, first)
    assert second.equals(first)
    assert opened == []


def test_a_changed_file_is_opened_again(root: Folder):
    first, _ = cataloged(root)
    soundfile.write(root.location(f"{WAVS}/LJ001-0001.wav"), np.linspace(-0.5, 0.5, 5000), 22_050)
    second, opened = cataloged(root, first)
    assert opened == ["LJ001-0001.wav"]
    assert problems(second) == {"LJ001-0002.wav": "not_audio"}


def test_rejected_files_are_opened_again_by_another_version_of_the_decoder(root: Folder):
    first, _ = cataloged(root)
    older = first.replace_schema_metadata({"decoders": json.dumps({"libsndfile": "1.0"})})
    _, opened = cataloged(root, older)
    assert opened == ["LJ001-0001.wav", "LJ001-0002.wav"]


def test_an_exclusion_by_an_earlier_recipe_is_forgotten(root: Folder):
    first, _ = cataloged(root)
    position = first.schema.get_field_index("problem")
    excluded = first.set_column(position, CATALOG.field("problem"), pa.array(["excluded-train"] * 3))
    second, opened = cataloged(root, excluded)
    assert problems(second) == problems(first)
    assert opened == ["LJ001-0001.wav", "LJ001-0002.wav"]


def test_a_file_that_is_deleted_after_listing_is_missing(root: Folder):
    rows = listed(root)
    root.delete(f"{WAVS}/LJ001-0000.wav")
    catalog = catalogs.table(list(catalogs.probe_rows(rows, root, LJSPEECH)))
    assert problems(catalog)["LJ001-0000.wav"] == "missing"


def row(path: str, id_: str, **others: Any) -> CatalogRow:
    columns: Any = dict.fromkeys(CATALOG.names) | {"corpus": "toy", "path": path, "id": id_} | others
    return columns


def test_the_typed_rows_have_the_columns_of_the_schema():
    assert CatalogRow.__annotations__.keys() == set(CATALOG.names)
    assert HeaderColumns.__annotations__.keys() < FileColumns.__annotations__.keys()


def test_an_id_of_several_files_is_kept_for_the_smallest_path():
    rows = [row("b.m4a", "X"), row("a.wav", "X"), row("c.wav", "Y"), row("d.wav", "X")]
    for order in itertools.permutations(rows):
        catalog = catalogs.reject_repeated(catalogs.table(list(order)))
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
    assert catalogs.reject_repeated(catalogs.table(rows)).to_pylist() == rows


def test_segments_of_one_file_with_equal_ids_are_repeated():
    rows = [
        row("a.wav", "X_seg2", start=100, end=200),
        row("a.wav", "X_seg1", start=0, end=100),
        row("b.wav", "X", start=100, end=200),
        row("b.wav", "X", start=0, end=100),
    ]
    catalog = catalogs.reject_repeated(catalogs.table(rows))
    assert catalog["problem"].to_pylist() == [None, None, REPEATED_ID, None]


def test_rejecting_repeated_ids_keeps_the_schema_and_its_metadata():
    rows = [row("b.wav", "X"), row("a.wav", "X")]
    catalog = catalogs.reject_repeated(pa.concat_tables([catalogs.table([row]) for row in rows]))
    assert catalog.schema.equals(CATALOG, check_metadata=True)


def test_a_clip_of_voxceleb2_in_two_formats_gives_one_utterance(tmp_path: Path):
    for suffix in ("wav", "m4a"):
        path = tmp_path / "dev" / "aac" / "id00012" / "21Uxsk56VDQ" / f"00001.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    catalog = catalogs.reject_repeated(catalogs.table(listed(Folder(str(tmp_path)), "voxceleb2")))
    assert [(row["path"][-4:], row["problem"]) for row in catalog.to_pylist()] == [
        (".m4a", None),
        (".wav", REPEATED_ID),
    ]


def test_no_documented_layout_repeats_an_id(tmp_path: Path):
    for layout in LAYOUTS:
        rows = listed(Folder(str(layout.write(tmp_path / layout.name))), layout.name)
        catalog = catalogs.reject_repeated(catalogs.table(rows))
        assert REPEATED_ID not in catalog["problem"].to_pylist(), layout.name
