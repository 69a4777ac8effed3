"""Shards tell which of the files that may have changed really have, and which of their rejects are tried again."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline import tables
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import Loaded, OpenAudio, load_audio
from pipeline.data.audio.versions import codec_versions
from pipeline.data.corpora.manifest import load_manifests
from pipeline.data.store import fingerprints, probing
from pipeline.data.store.catalog import CATALOG, CatalogRow
from pipeline.data.store.layout import catalog_name, index_name
from pipeline.data.store.shard_tables import ShardSummary, read_index
from pipeline.data.store.shards import write_shard
from pipeline.data.store.source_records import SourceRecords, rejecting_shards
from pipeline.storage import Folder

SHARD = "toy-0123456789abcdef"
EARLIER = catalog_name("toy", "0" * 16)
HEADER: dict[str, Any] = {"container": "wav", "codec": "pcm_16", "sample_rate": 16_000, "file_seconds": 0.5}


@pytest.fixture
def root(tmp_path: Path) -> Folder:
    """A corpus of four clips; the decoder crashes on 2.wav, and 3.wav is truncated."""
    rng = np.random.default_rng(0)
    (tmp_path / "corpus").mkdir()
    for number in range(4):
        soundfile.write(tmp_path / "corpus" / f"{number}.wav", 0.1 * rng.standard_normal(8000), 16_000)
    os.truncate(tmp_path / "corpus" / "3.wav", 9000)
    return Folder(str(tmp_path / "corpus"))


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    """A store with the catalog of an earlier ingest, which was made by the same decoders."""
    store = Folder(str(tmp_path / "store"))
    store.commit(EARLIER, tables.to_parquet(CATALOG.empty_table()))
    return store


def known_row(root: Folder, path: str, **changes: Any) -> CatalogRow:
    """The row of an unchanged file, as `KnownFiles` fills it."""
    data = root.read(path)
    columns: Any = dict.fromkeys(CATALOG.names) | HEADER
    columns |= {
        "uid": path[0] * 16,
        "id": path,
        "corpus": "toy",
        "path": path,
        "label": "spoof",
        "size": len(data),
        "fingerprint": fingerprints.fingerprint(io.BytesIO(data), len(data)),
        "shard": SHARD,
    }
    return columns | changes


def changed_row(root: Folder, path: str, **changes: Any) -> CatalogRow:
    """The row of a file whose time has changed, as `KnownFiles` fills it."""
    return known_row(root, path, **dict.fromkeys(HEADER), **changes)


def load_or_crash(audio: OpenAudio, name: str, **how: Any) -> Loaded:
    """Stands in for a decoder that does not survive one of the files."""
    if name == "2.wav":
        raise AudioError("crashes_decoder", name, "the decoding process died")
    return load_audio(audio, name, **how)


def build(root: Folder, store: Folder, missing: bool = False) -> tuple[list[CatalogRow], ShardSummary]:
    """Build the shard of all clips; returns the rows of the clips, and the summary of the shard."""
    rows = [known_row(root, f"{number}.wav") for number in range(4)]
    if missing:
        root.delete("1.wav")
    members: Any = rows
    summary = write_shard(SHARD, members, root, store, licence="", resampler="soxr_hq", load=load_or_crash)
    return rows, summary


def filled(store: Folder, rows: list[CatalogRow], *summaries: ShardSummary) -> list[CatalogRow]:
    return SourceRecords(store, "toy", EARLIER, rejecting_shards(summaries)).fill(rows)


def test_rows_of_changed_files_get_the_digest_that_their_shard_recorded(root: Folder, store: Folder):
    build(root, store)
    rows = [changed_row(root, path) for path in ("0.wav", "1.wav", "3.wav")]  # the last one is a reject
    files = [root.read(row["path"]) for row in rows]
    digests = [fingerprints.source_digest(io.BytesIO(data), len(data)) for data in files]
    assert filled(store, rows) == [
        row | {"source_digest": digest} for row, digest in zip(rows, digests, strict=True)
    ]


def test_rows_that_no_shard_knows_stay_as_they_are(root: Folder, store: Folder):
    _, summary = build(root, store)
    rows = [
        changed_row(root, "0.wav", fingerprint=None, shard=None),  # a new file
        changed_row(root, "0.wav", shard="toy-of-an-interrupted-ingest"),
        changed_row(root, "0.wav") | {"path": "in-another-shard.wav"},
        changed_row(root, "2.wav", problem="excluded-test"),
        changed_row(root, "0.wav", source_digest="read by an earlier catalog"),
        known_row(root, "0.wav"),
    ]
    assert filled(store, rows, summary) == rows


def test_shards_of_unchanged_files_are_not_read(root: Folder, store: Folder):
    rows, summary = build(root, store)
    store.delete(index_name("toy", SHARD))
    audio_faults = {"truncated": 1}
    assert filled(store, rows, ShardSummary(SHARD, "toy", 1, "", 3, {}, audio_faults)) == rows
    assert "crashes_decoder" in summary.rejected


def test_an_index_without_digests_leaves_them_unknown(root: Folder, store: Folder):
    build(root, store)
    index = read_index(store, "toy", SHARD)
    name = index_name("toy", SHARD)
    metadata = tables.read_table(store, name).schema.metadata
    store.commit(
        name, tables.to_parquet(index.drop_columns("source_digest").replace_schema_metadata(metadata))
    )
    rows = [changed_row(root, "0.wav")]
    assert filled(store, rows) == rows


def reasons_to_try_again(rows: list[CatalogRow]) -> dict[str, str | None]:
    assert all(probing.is_probed(row) == (row["detail"] is None) for row in rows)
    return {row["path"]: row["detail"] for row in rows if row["detail"]}


def test_files_that_were_missing_or_crashed_the_decoder_are_tried_again(root: Folder, store: Folder):
    rows, summary = build(root, store, missing=True)
    assert summary.rejected == {"crashes_decoder": 1, "missing": 1, "truncated": 1}
    assert reasons_to_try_again(filled(store, rows, summary)) == {
        "1.wav": f"rejected as missing by {SHARD}",
        "2.wav": f"rejected as crashes_decoder by {SHARD}",
    }


def test_a_file_that_crashes_the_decoder_again_is_left_alone(root: Folder, store: Folder):
    rows, summary = build(root, store)
    again = [row | {"fingerprint": "0123456789abcdef/0123456789abcdef"} for row in rows]
    assert reasons_to_try_again(filled(store, again, summary)) == {}


def test_other_decoders_try_all_rejects_again(root: Folder, store: Folder):
    rows, summary = build(root, store)
    store.commit(EARLIER, tables.to_parquet(by_decoders(codec_versions() | {"libsndfile": "1.0"})))
    assert set(reasons_to_try_again(filled(store, rows, summary))) == {"2.wav", "3.wav"}


def test_another_decoding_policy_rebuilds_every_shard_so_no_file_is_tried_again(root: Folder, store: Folder):
    rows, summary = build(root, store)
    store.commit(EARLIER, tables.to_parquet(by_decoders(codec_versions() | {"policy": "0"})))
    assert filled(store, rows, summary) == rows


def by_decoders(versions: dict[str, str]) -> pa.Table:
    return CATALOG.empty_table().replace_schema_metadata({"decoders": json.dumps(versions)})


def test_a_file_that_is_tried_again_leaves_its_shard(root: Folder, store: Folder):
    rows, summary = build(root, store)
    manifest = load_manifests()["ljspeech"]
    probed = list(probing.probe_rows(filled(store, rows, summary), root, manifest))
    assert [
        row["fingerprint"] == earlier["fingerprint"] for row, earlier in zip(probed, rows, strict=True)
    ] == [
        True,
        True,
        False,
        True,
    ]
    assert fingerprints.was_tried_again(probed[2]["fingerprint"] or "")
