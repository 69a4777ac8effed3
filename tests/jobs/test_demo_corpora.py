"""Ingest of the demo corpora: every file is accounted for, and its shards can be read with webdataset."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import webdataset

from jobs import ingest
from jobs.ingestion.config import IngestConfig
from pipeline.data.audio.flac import decode_flac
from pipeline.data.store.snapshot import load_snapshot, load_utterances
from pipeline.storage import Folder
from pipeline.synthetic.corpora import write_demo_corpora

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    """A folder with the corpora and their store."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo_corpora(folder / "data", minutes=2.5, num_workers=2)
    ingest.main(ingest_config(folder))
    return folder


def ingest_config(folder: Path) -> IngestConfig:
    return IngestConfig(root=str(folder / "data"), store=str(folder / "store"), shard_mib=1.0)


def test_every_file_is_written_or_rejected(folder: Path):
    snapshot = load_snapshot(Folder(str(folder / "store")))
    assert len(snapshot.corpora) == 5
    for corpus in snapshot.corpora.values():
        assert corpus.written > 0
        assert corpus.found == corpus.written + sum(corpus.rejected.values())
    num_files = sum(1 for file in (folder / "data").rglob("*") if file.suffix in (".wav", ".flac", ".mp3"))
    assert sum(corpus.found for corpus in snapshot.corpora.values()) == num_files


def test_shards_can_be_read_with_webdataset_and_match_their_index(folder: Path):
    store = Folder(str(folder / "store"))
    snapshot = load_snapshot(store)
    rows = {row["uid"]: row for row in load_utterances(store, snapshot).to_pylist()}
    seen = set()
    for tar in (folder / "store" / "shards").rglob("*.tar"):
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False):
            row = rows[sample["__key__"]]
            metadata = json.loads(sample["json"])
            assert (metadata["id"], metadata["label"]) == (row["id"], row["label"])
            assert len(decode_flac(sample["flac"])) == round(row["seconds"] * 16_000)
            assert sample["flac"] == tar.read_bytes()[row["offset"] : row["offset"] + row["num_bytes"]]
            seen.add(sample["__key__"])
    assert seen == set(rows)


def test_a_second_ingest_builds_nothing(folder: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*.tar")}
    snapshots = sorted((folder / "store" / "snapshots").iterdir())
    ingest.main(ingest_config(folder))
    assert re.search(r"\b0 to build\b", capsys.readouterr().out)
    assert {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*.tar")} == before
    assert sorted((folder / "store" / "snapshots").iterdir()) == snapshots
