"""Write stores row by row, without audio, and read the text of their cards."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline import tables
from pipeline.card.page import corpus_card
from pipeline.data.corpora.recipe import Recipe
from pipeline.data.store import catalog as catalogs
from pipeline.data.store.layout import catalog_name, index_name, rejects_name
from pipeline.data.store.shard_tables import INDEX, REJECTS, ShardSummary
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.storage import Folder

FLAC = {"codec": "flac", "encoding": "FLAC", "sample_rate": 16000, "num_channels": 1, "bit_depth": 16}
MP3 = {"codec": "mp3", "encoding": "MP3", "sample_rate": 44100, "num_channels": 2, "bit_depth": None}

Row = dict[str, Any]
"""A row of an index, of a catalog or of a table of rejects."""


def utterances(number: int, label: str, **columns: Any) -> list[Row]:
    common = dict.fromkeys(INDEX.names) | FLAC
    common |= {"label": label, "artifact": None if label == "bonafide" else "tts", "seconds": 3.0}
    common |= {
        "split": "train",
        "language": "en",
        "bitrate": 256_000,
        "decoder": "libsndfile",
        "bandwidth_hz": 8000.0,
    }
    return [common | {"uid": "0" * 16, "id": "a", "pcm_sha256": "0" * 64} | columns] * number


def problems(number: int, reason: str, path: str = "x.wav") -> list[Row]:
    return [
        dict.fromkeys(catalogs.CATALOG.names) | {"path": f"{i}/{path}", "problem": reason, "detail": "no row"}
        for i in range(number)
    ]


def put(store: Folder, name: str, data: bytes) -> None:
    """Write a file without the fsync of `Folder.commit`, which is slow for many files."""
    path = Path(store.location(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_corpus(
    store: Folder,
    name: str,
    shards: Sequence[Sequence[Row]],
    *,
    found: Sequence[Row] = (),
    rejects: Sequence[Row] = (),
    **changes: Any,
) -> CorpusSnapshot:
    """Write the indexes, the catalog and the rejects of the first shard: all that a card reads.

    Args:
        store: to write to.
        name: of the corpus.
        shards: index rows of each shard.
        found: catalog rows with a problem.
        rejects: of the first shard.
        changes: fields of the snapshot of the corpus.
    """
    summaries = []
    for number, rows in enumerate(shards):
        shard = f"{name}-{number}"
        members = [
            row | {"corpus": name, "shard": shard, "offset": offset, "num_bytes": 1}
            for offset, row in enumerate(rows)
        ]
        put(store, index_name(name, shard), tables.to_parquet(pa.Table.from_pylist(members, INDEX)))
        seconds: dict[str, float] = defaultdict(float)
        for row in rows:
            seconds[row["label"]] += row["seconds"]
        summaries.append(ShardSummary(shard, name, 1, "0", len(rows), dict(seconds)))
    rejected = Counter(row["problem"] for row in found)
    if rejects:
        table = pa.Table.from_pylist(list(rejects), REJECTS)
        put(store, rejects_name(name, summaries[0].name), tables.to_parquet(table))
        by_reason = Counter(row["reason"] for row in rejects)
        summaries[0] = replace(summaries[0], rejected=dict(by_reason))
        rejected += by_reason
    members = [dict.fromkeys(catalogs.CATALOG.names) | {"path": "fine.wav", "shard": "s"}] * 5
    catalog = catalog_name(name, "0")
    rows_of_catalog: list[Any] = [*members, *found]
    put(store, catalog, tables.to_parquet(catalogs.table(rows_of_catalog), [5]))
    corpus = CorpusSnapshot(
        name=name,
        role="train",
        licence="CC-BY-4.0",
        non_commercial=False,
        manifest="0",
        catalog=catalog,
        found=sum(map(len, shards)) + sum(rejected.values()),
        rejected=dict(rejected),
        excluded={},
        expected_hours={},
        shards=tuple(summaries),
    )
    return replace(corpus, **changes)


def words_of(store: Folder, *corpora: CorpusSnapshot, recipe: Recipe | None = None) -> str:
    """The text of a card without markup."""
    html = corpus_card(store, snapshot_of(*corpora), recipe).to_html()
    return re.sub(r"\s+", " ", unescape(re.sub(r"(?s)<style>.*?</style>|<[^>]*>", " ", html)))


def snapshot_of(*corpora: CorpusSnapshot) -> Snapshot:
    return Snapshot(1, "2026-01-01T00:00:00+00:00", {corpus.name: corpus for corpus in corpora})
