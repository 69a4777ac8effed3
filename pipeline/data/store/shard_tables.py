"""The tables of a shard in the store: its index and its rejects, how they are written and how they are read.

The index has one row per utterance, with its position in the tar; the metadata of its schema holds the
`ShardSummary` that snapshots are made of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypedDict, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.data.audio.versions import codec_versions
from pipeline.data.store.catalog import UtteranceColumns
from pipeline.data.store.layout import index_name, rejects_name
from pipeline.data.store.read_ahead import read_ahead
from pipeline.storage import Folder

Result = TypeVar("Result")

INDEX_READERS = 32
"""Index files that are read at once."""

INDEX = pa.schema(
    [
        ("uid", pa.string()),
        ("id", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),  # of the FLAC in the tar, bytes
        ("num_bytes", pa.int32()),
        ("seconds", pa.float32()),
        ("label", pa.string()),
        ("artifact", pa.string()),
        ("attack", pa.string()),
        ("corpus", pa.string()),
        ("language", pa.string()),
        ("speaker", pa.string()),
        ("split", pa.string()),
        ("licence", pa.string()),
        ("path", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("encoding", pa.string()),
        ("sample_rate", pa.int32()),
        ("num_channels", pa.int16()),
        ("bit_depth", pa.int16()),
        ("bitrate", pa.int32()),
        ("decoder", pa.string()),
        ("pcm_sha256", pa.string()),  # of the 16 kHz mono PCM16, so equal for equal audio
        ("source_digest", pa.string()),  # of all bytes of the file
        ("bandwidth_hz", pa.float32()),  # measured from the PCM16; null if it tells nothing
    ]
)
"""Columns of an index, in order; `read_index` gives nulls for those that an older index lacks."""

REJECTS = pa.schema(
    [
        ("uid", pa.string()),
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("artifact", pa.string()),
        ("attack", pa.string()),
        ("language", pa.string()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("shard", pa.string()),
        ("source_digest", pa.string()),  # of all bytes of the file; null if they were not read or had changed
    ]
)
"""Columns of a table of rejects; `read_rejects` gives nulls for those that an older table lacks."""

CHANGED = "changed"
"""The reason of a reject whose file has been overwritten since it was cataloged."""

_METADATA = b"bonafide"
"""Key of the schema of an index, whose value is JSON: the summary, the settings and the versions of the decoders."""


class SourceColumns(UtteranceColumns):
    """Those columns of a catalog row that the index repeats."""

    container: str
    codec: str
    encoding: str
    sample_rate: int
    num_channels: int
    bit_depth: int | None
    bitrate: int


class IndexRow(SourceColumns):
    """One row of `INDEX`: an utterance that has been written."""

    shard: str
    offset: int
    num_bytes: int
    seconds: float
    licence: str
    decoder: str
    pcm_sha256: str
    source_digest: str
    bandwidth_hz: float | None


class RejectRow(TypedDict):
    """One row of `REJECTS`: an utterance that could not be written."""

    uid: str
    id: str
    corpus: str
    path: str
    label: str
    artifact: str | None
    attack: str | None
    language: str | None
    container: str
    codec: str
    reason: str
    detail: str
    shard: str
    source_digest: str | None


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What a snapshot records about a shard."""

    name: str
    corpus: str
    num_bytes: int
    """Size of the tar."""
    sha256: str
    """Hash of the tar."""
    num_utterances: int
    seconds: dict[str, float]
    """Written audio by label."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Members that could not be written, by reason."""


def commit_rejects(store: Folder, summary: ShardSummary, rows: Sequence[RejectRow]) -> None:
    """Write the rejects of a shard that has any."""
    table = pa.Table.from_pylist(rows, REJECTS)
    store.commit(rejects_name(summary.corpus, summary.name), tables.to_parquet(table))


def commit_index(store: Folder, summary: ShardSummary, rows: pa.Table, build_settings: str) -> None:
    """Write the index of a shard; the shard is then finished.

    Args:
        store: has the tar and the rejects of the shard already.
        summary: describes the shard.
        rows: its utterances, with the columns of `INDEX`.
        build_settings: the settings that it was built with.
    """
    metadata = asdict(summary) | {"versions": codec_versions(), "recipe": build_settings}
    table = rows.replace_schema_metadata({_METADATA: json.dumps(metadata)})
    store.commit(index_name(summary.corpus, summary.name), tables.to_parquet(table))


def read_summary(store: Folder, corpus: str, name: str) -> ShardSummary:
    """The summary of a finished shard, from the metadata of its index."""
    with store.open(index_name(corpus, name)) as file:
        metadata = pq.read_schema(file).metadata or {}
    recorded = json.loads(metadata[_METADATA])
    return ShardSummary(**{key: recorded[key] for key in ShardSummary.__dataclass_fields__})


def read_index(store: Folder, corpus: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The index of a shard, or some of its columns."""
    return tables.read_columns(store, index_name(corpus, name), INDEX, columns)


def read_rejects(store: Folder, corpus: str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rejects of a shard that has any, or some of their columns."""
    return tables.read_columns(store, rejects_name(corpus, name), REJECTS, columns)


def read_indexes(
    store: Folder, shards: Iterable[tuple[str, str]], columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The indexes of many shards, read concurrently, in order, with a bounded number in memory.

    Args:
        store: holds the shards.
        shards: corpus and name of each.
        columns: which columns to read; None for all.
    """
    return map_indexes(lambda index: index, store, shards, columns)


def map_indexes(
    function: Callable[[pa.Table], Result],
    store: Folder,
    shards: Iterable[tuple[str, str]],
    columns: Sequence[str] | None = None,
) -> Iterator[Result]:
    """Like `read_indexes`, but apply a function to each table, in the thread that has read it."""

    def read(shard: tuple[str, str]) -> Result:
        corpus, name = shard
        return function(read_index(store, corpus, name, columns))

    return read_ahead(read, shards, num_threads=INDEX_READERS, num_ahead=2 * INDEX_READERS)
