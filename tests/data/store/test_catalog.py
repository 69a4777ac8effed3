"""The catalog has one row for everything found, and remembers headers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline import tables
from pipeline.data.audio.versions import codec_versions
from pipeline.data.corpora.corpus import read_files
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.corpora.utterance import Utterance
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import probing
from pipeline.data.store.catalog import CATALOG, CatalogRow, FileColumns, HeaderColumns
from pipeline.data.store.known import KnownFiles
from pipeline.data.store.probing import ToRead
from pipeline.storage import FileInfo, Folder

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

    def read(root: Folder, path: str, wanted: ToRead) -> HeaderColumns:
        opened.append(path.rpartition("/")[2])
        return probing.read_header(root, path, wanted)

    store, name = Folder(f"{root.uri}-store"), "earlier.parquet" if known else ""
    if known:
        store.commit(name, tables.to_parquet(known))
    with KnownFiles(store, name) as files:
        rows = files.fill(listed(root))
    return catalogs.table(list(probing.probe_rows(rows, root, LJSPEECH, read=read))), opened


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
    _, opened = cataloged(root, by_decoders(first, libsndfile="1.0"))
    assert opened == ["LJ001-0001.wav", "LJ001-0002.wav"]


def by_decoders(catalog: pa.Table, **versions: str) -> pa.Table:
    """The catalog as other decoders made it."""
    return catalog.replace_schema_metadata({"decoders": json.dumps(codec_versions() | versions)})


def test_all_files_are_opened_again_under_another_decoding_policy(root: Folder):
    first, _ = cataloged(root)
    second, opened = cataloged(root, by_decoders(first, policy="0"))
    assert opened == ["LJ001-0000.wav", "LJ001-0001.wav", "LJ001-0002.wav"]
    assert second.equals(first)


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
    catalog = catalogs.table(list(probing.probe_rows(rows, root, LJSPEECH)))
    assert problems(catalog)["LJ001-0000.wav"] == "missing"


def test_a_file_that_the_listing_found_to_have_a_problem_is_not_opened(root: Folder):
    utterance = Utterance("0" * 16, "LJ1", "ljspeech", "a.wav", "spoof", "tts", "A01", None, "en", "train")
    file = FileInfo("a.wav", 5, "1", 0.0, "unreadable")
    listed_rows = list(catalogs.rows([(file, utterance)], "ljspeech", Recipe()))
    rows = list(probing.probe_rows(listed_rows, root, LJSPEECH))
    assert [(row["problem"], row["attack"], row["size"], row["fingerprint"]) for row in rows] == [
        ("unreadable", "A01", 5, None)
    ]


def test_the_typed_rows_have_the_columns_of_the_schema():
    assert CatalogRow.__annotations__.keys() == set(CATALOG.names)
    assert HeaderColumns.__annotations__.keys() < FileColumns.__annotations__.keys()
