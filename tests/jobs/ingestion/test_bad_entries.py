"""One bad name, link, permission or sector costs its own row of an ingest; a store without hard links costs nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.ingestion.cataloging import Cataloger, Listing
from jobs.ingestion.config import IngestConfig
from jobs.ingestion.sources import find_sources
from pipeline import tables
from pipeline.fields import Names
from pipeline.lease import held
from pipeline.storage import Folder
from tests.corpora import write_in_the_wild
from tests.faults import LACKING, Lacking, file_system_without, ordinary_permissions
from tests.jobs.ingestion.test_changed_files import CLIPS, CORPUS, Corpus, faults, ingest


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    write_in_the_wild(tmp_path / "data", count=6, seconds=0.5)
    return Corpus(tmp_path / "data", Folder(str(tmp_path / "store")))


def problems(corpus: Corpus, catalog: str) -> dict[str, str]:
    """Reasons by the last part of the path, without files that no row of the protocol names."""
    rows = tables.read_table(corpus.store, catalog).to_pylist()
    return {row["path"].rpartition("/")[2]: row["problem"] for row in rows if row["problem"]}


def add_row(corpus: Corpus, name: str) -> None:
    with (corpus.data / CLIPS / "meta.csv").open("a") as table:
        table.write(f"{name},Somebody,spoof\n")


def test_every_bad_entry_is_a_row_with_its_reason_and_the_others_are_written(corpus: Corpus):
    clips = corpus.data / CLIPS
    for name in ("loop.wav", "memory.wav", "dangling.wav", "pipe.wav", "back\\slash.wav"):
        add_row(corpus, name)
    (clips / "loop.wav").symlink_to("loop.wav")
    (clips / "memory.wav").symlink_to("/proc/self/mem")  # every read of it ends with an error
    (clips / "dangling.wav").symlink_to("nowhere.wav")
    (clips / "again").symlink_to(clips, target_is_directory=True)
    os.mkfifo(clips / "pipe.wav")
    corpus.clip(5).rename(clips / "back\\slash.wav")
    (clips / "q\\r").mkdir()
    (clips / "closed").mkdir()
    (clips / "closed/a.wav").touch()
    (clips / "closed").chmod(0)
    corpus.clip(0).chmod(0)
    with ordinary_permissions():
        snapshot, _ = ingest(corpus)
    (clips / "closed").chmod(0o755)
    found = snapshot.corpora[CORPUS]
    assert problems(corpus, found.catalog) == {
        "0.wav": "unreadable",
        "5.wav": "missing",
        "again": "link-loop",
        "closed": "unreadable",
        "dangling.wav": "missing",
        "loop.wav": "link-loop",
        "memory.wav": "unreadable",
        "pipe.wav": "special",
    }
    assert found.written == 5
    assert found.found == found.written + sum(found.rejected.values()) == 13
    assert not faults(corpus)


def test_what_could_not_be_read_is_written_once_it_can(corpus: Corpus):
    corpus.clip(0).chmod(0)
    corpus.clip(1).rename(corpus.data / "kept")
    corpus.clip(1).symlink_to("/proc/self/mem")
    with ordinary_permissions():
        first, _ = ingest(corpus)
    assert first.corpora[CORPUS].rejected == {"unreadable": 2}
    corpus.clip(0).chmod(0o644)
    corpus.clip(1).unlink()
    (corpus.data / "kept").rename(corpus.clip(1))
    second, _ = ingest(corpus)
    assert (second.corpora[CORPUS].written, second.corpora[CORPUS].rejected) == (6, {})


def test_a_folder_without_permission_in_place_of_a_corpus_is_named(corpus: Corpus):
    (corpus.data / CLIPS).chmod(0)
    config = IngestConfig(str(corpus.data), corpus.store.uri, Names((CORPUS,)))
    with ordinary_permissions():
        (listing,) = Cataloger(find_sources(config), corpus.store).list_parts(CORPUS)
    (corpus.data / CLIPS).chmod(0o755)
    assert isinstance(listing, Listing)
    assert f"{CLIPS}" in listing.failure
    assert "permission denied" in listing.failure
    assert "\n" not in listing.failure


@pytest.mark.parametrize("lacking", LACKING)
def test_a_store_on_a_file_system_without_hard_links_is_the_same(
    corpus: Corpus, lacking: Lacking, tmp_path: Path
):
    expected, _ = ingest(corpus)
    store = Folder(str(tmp_path / "other"))
    with file_system_without(lacking), held(store):
        snapshot, built = ingest(corpus._replace(store=store))
        assert ingest(corpus._replace(store=store)) == (snapshot, [])
    assert built
    assert snapshot.corpora == expected.corpora
    assert not faults(corpus._replace(store=store))
