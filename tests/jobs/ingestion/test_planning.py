"""Cataloging and planning without Ray: files that are left out, corpora that fail, memory, and killed plans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.ingestion import cataloging
from jobs.ingestion.building import corpus_snapshot, plan_corpus
from jobs.ingestion.cataloging import (
    CatalogedCorpus,
    Cataloger,
    Listing,
    list_batch,
    probe_batch,
)
from jobs.ingestion.config import IngestConfig
from jobs.ingestion.sources import Source, find_sources
from pipeline import tables
from pipeline.data.corpora.manifest import choose_manifests
from pipeline.data.corpora.utterance import Entry, NotAudio, Problem
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import layout
from pipeline.data.store.catalog import CatalogRow
from pipeline.data.store.repeated import UniqueRows
from pipeline.data.store.snapshot import commit_snapshot
from pipeline.errors import InputError
from pipeline.storage import Folder

CORPUS = "in_the_wild"


@dataclass(frozen=True)
class ListedSource(Source):
    """A corpus of problems and of files that are no audio; fails at the end if it has a message."""

    failure: str = ""

    def items(self) -> Iterator[Entry]:
        for number in range(5):
            yield None, Problem(f"{number}.wav", "missing", label="spoof")
            yield None, NotAudio(f"{number}.txt", ".txt")
        yield None, NotAudio(".cache", "hidden")
        if self.failure:
            raise InputError(self.failure)


def cataloged(tmp_path: Path, failure: str = "") -> CatalogedCorpus:
    """The corpus as the tasks of Ray catalog it."""
    manifest = choose_manifests([CORPUS])[CORPUS]
    sources = {CORPUS: ListedSource(manifest, Folder(str(tmp_path)), failure=failure)}
    cataloger = Cataloger(sources, Folder(str(tmp_path / "store")))
    listed = list(list_batch({"corpus": [CORPUS], "earlier": [""]}, cataloger))
    rows, listings = cataloging._split(probe_batch(pa.concat_tables(listed), cataloger))
    (listing,) = map(cataloging._listing, listings["listing"].to_pylist())
    corpus = CatalogedCorpus(listing)
    corpus.rows.add(rows)
    return corpus


def config(tmp_path: Path) -> IngestConfig:
    return IngestConfig(str(tmp_path), str(tmp_path / "store"), shard_mib=0.25)


def test_files_that_are_no_audio_are_counted_by_kind_and_are_not_found(tmp_path: Path):
    found = cataloged(tmp_path)
    assert found.listing == Listing(CORPUS, {".txt": 5, "hidden": 1})
    store = Folder(str(tmp_path / "store"))
    manifest = choose_manifests([CORPUS])[CORPUS]
    corpus = corpus_snapshot(manifest, plan_corpus(manifest, found, store, None, config(tmp_path)), {})
    assert (corpus.found, corpus.rejected, corpus.not_audio) == (5, {"missing": 5}, {".txt": 5, "hidden": 1})
    assert commit_snapshot(store, [corpus]).corpora[CORPUS].not_audio == {".txt": 5, "hidden": 1}


def test_a_corpus_that_fails_at_its_end_ends_with_its_failure(tmp_path: Path):
    found = cataloged(tmp_path, failure="table.csv: none of its files exists")
    assert found.listing.failure == "table.csv: none of its files exists"


def test_an_empty_corpus_has_no_rows_and_no_failure(tmp_path: Path):
    (tmp_path / "data" / "CNCeleb2").mkdir(parents=True)
    sources = find_sources(IngestConfig(str(tmp_path / "data"), str(tmp_path / "store")))
    (listing,) = Cataloger(sources, Folder(str(tmp_path / "store"))).list_parts("cnceleb2")
    assert isinstance(listing, Listing)
    assert listing.failure == ""


def test_the_corpora_of_an_ingest_share_the_memory_of_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cataloging, "MAX_BUFFERED_BYTES", 20_000)
    corpora = [UniqueRows() for _ in range(4)]
    for number in range(40):
        corpora[number % 3].add(catalogs.table(good_rows(20)))
        cataloging._limit_memory(corpora)
        assert sum(rows.num_buffered_bytes for rows in corpora) <= 20_000
    assert [sum(map(len, rows.parts())) for rows in corpora] == [280, 260, 260, 0]


def good_rows(num_rows: int) -> list[CatalogRow]:
    empty: CatalogRow = dict.fromkeys(catalogs.CATALOG.names)  # type: ignore[assignment]
    return [
        {
            **empty,
            "uid": f"{number:016x}",
            "id": f"ItW-{number}",
            "corpus": CORPUS,
            "path": f"{number}.wav",
            "label": "spoof",
            "seconds": float(np.random.default_rng(number).uniform(1, 9)),
        }
        for number in range(num_rows)
    ]


def plan_good_rows(folder: Path) -> str:
    """Plan 300 utterances; returns the path of the catalog."""
    found = CatalogedCorpus(Listing(CORPUS, {}))
    found.rows.add(catalogs.table(good_rows(300)))
    found.rows.flush()
    store = Folder(str(folder / "store"))
    return plan_corpus(choose_manifests([CORPUS])[CORPUS], found, store, None, config(folder)).catalog


KILLED_PLAN = """
import os, signal, sys
from pathlib import Path
from pipeline.data.store import plan
from tests.jobs.ingestion.test_planning import plan_good_rows

def shards_until_killed(*arguments):
    for number, shard in enumerate(shards(*arguments)):
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        yield shard

shards, plan._shards = plan._shards, shards_until_killed
plan_good_rows(Path(sys.argv[1]))
"""


def test_a_killed_plan_leaves_nothing_and_another_one_is_the_same(tmp_path: Path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED_PLAN, str(tmp_path / "killed")],
        env={**os.environ, "TMPDIR": str(temporary)},
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "killed" / "store").exists()
    name = plan_good_rows(tmp_path / "killed")
    assert name == plan_good_rows(tmp_path / "undisturbed")
    assert layout.catalogs(Folder(str(tmp_path / "killed" / "store")), CORPUS) == [name]
    shards = shards_of(tmp_path / "killed", name)
    assert len(shards) > 50
    assert sorted(id_ for ids in shards for id_ in ids) == sorted(f"ItW-{number}" for number in range(300))


def shards_of(folder: Path, catalog: str) -> list[list[str]]:
    """The ids of each shard in a catalog."""
    with tables.open_groups(Folder(str(folder / "store")), catalog) as file:
        return [group["id"].to_pylist() for group in tables.iter_groups(file, ["id"])]
