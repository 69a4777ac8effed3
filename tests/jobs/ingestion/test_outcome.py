"""A corpus that cannot be read, or that has lost everything, is named and kept; an empty snapshot is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.ingestion.cataloging import CatalogedCorpus, Listing
from jobs.ingestion.outcome import failed_listings, lost_corpora, nothing_written, print_failures
from jobs.ingestion.sources import Source
from pipeline.data.corpora.manifest import choose_manifests
from pipeline.data.store import catalog as catalogs
from pipeline.data.store.catalog import CATALOG, CatalogRow
from pipeline.data.store.shard_tables import ShardSummary
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.errors import InputError
from pipeline.storage import Folder

NAMES = ("in_the_wild", "ljspeech", "mls")
SOURCES = {
    name: Source(manifest, Folder(f"/data/{name}")) for name, manifest in choose_manifests(NAMES).items()
}


def found(name: str, failure: str = "", num_rows: int = 1) -> CatalogedCorpus:
    corpus = CatalogedCorpus(Listing(name, {}, failure))
    row: CatalogRow = dict.fromkeys(CATALOG.names)  # type: ignore[assignment]
    corpus.rows.add(catalogs.table([{**row, "corpus": name, "path": f"{n}.wav"} for n in range(num_rows)]))
    return corpus


def corpus(name: str, num_written: int) -> CorpusSnapshot:
    shard = ShardSummary(f"{name}-1", name, 1, "", num_written, {"spoof": 1.0})
    return CorpusSnapshot(
        name,
        "train",
        "unknown",
        None,
        "",
        f"catalog/{name}/1.parquet",
        found=10,
        rejected={"truncated": 10 - num_written},
        excluded={},
        expected_hours={},
        shards=(shard,) if num_written else (),
    )


def snapshot(*corpora: CorpusSnapshot) -> Snapshot:
    return Snapshot(3, "2026-01-01", {each.name: each for each in corpora})


def test_failures_of_listings_are_named():
    listed = {"in_the_wild": found("in_the_wild"), "mls": found("mls", "mls: no protocol")}
    sources = {name: SOURCES[name] for name in listed}
    assert failed_listings(listed, sources, None, ()) == {"mls": "mls: no protocol"}


def test_an_empty_folder_is_a_failure_if_its_corpus_was_named_or_has_utterances():
    listed = {name: found(name, num_rows=int(name == "mls")) for name in NAMES}
    assert failed_listings(listed, SOURCES, None, ()) == {}
    named = failed_listings(listed, SOURCES, None, ("ljspeech", "mls"))
    assert named == {
        "ljspeech": "ljspeech: nothing found in /data/ljspeech; is it the folder of that corpus?"
    }
    before = snapshot(corpus("in_the_wild", 4), corpus("ljspeech", 0), corpus("mls", 4))
    assert set(failed_listings(listed, SOURCES, before, ())) == {"in_the_wild"}


def test_the_failure_of_the_only_corpus_is_a_user_error():
    with pytest.raises(InputError, match=r"^mls: no protocol$"):
        failed_listings({"mls": found("mls", "mls: no protocol")}, {"mls": SOURCES["mls"]}, None, ())


def test_only_a_corpus_that_had_utterances_can_lose_them_all():
    corpora = [corpus("in_the_wild", 0), corpus("ljspeech", 0), corpus("mls", 1)]
    before = snapshot(corpus("in_the_wild", 4), corpus("mls", 4))
    assert lost_corpora(corpora, before) == {
        "in_the_wild": "in_the_wild: none of its 10 utterances could be written (10 truncated)"
    }
    assert lost_corpora(corpora, None) == {}


def test_an_ingest_that_writes_nothing_is_refused_in_one_line():
    excluded = replace(corpus("mls", 0), rejected={}, excluded={"excluded-test": 10})
    refusal = nothing_written([corpus("in_the_wild", 0), excluded], Folder("/store"))
    assert str(refusal) == (
        "nothing could be written, so no snapshot is committed (in_the_wild: 10 truncated; mls: 10 excluded-test); "
        "each file is listed with its reason in /store/catalog/in_the_wild/1.parquet, /store/catalog/mls/1.parquet"
    )


def test_each_failure_is_one_line_that_says_what_becomes_of_the_corpus(capsys: pytest.CaptureFixture[str]):
    print_failures(
        {"mls": "/data/a.csv: not a table", "in_the_wild": "in_the_wild: gone"}, snapshot(corpus("mls", 4))
    )
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "bonafide ingest: mls: /data/a.csv: not a table [kept as in snapshot 000003]",
        "bonafide ingest: in_the_wild: gone [left out]",
    ]
    assert captured.out == ""
