"""The catalog: one row for everything found in a corpus, with its label, its audio header and its shard.

A row is an utterance that can be written, or a problem with its reason; nothing that was found is left out. Files
that have not changed since an earlier catalog are not opened again: their headers are taken from it, and so are
their problems as long as the decoders are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TypedDict

import pyarrow as pa

from pipeline.data.audio.versions import codec_versions
from pipeline.data.corpora.recipe import EXCLUDED, NO_SPLIT, Recipe
from pipeline.data.corpora.utterance import Entry, NotAudio, Problem, Utterance
from pipeline.storage import FileInfo

_HEADER = [
    ("fingerprint", pa.string()),  # depends on content alone, not on disk or bucket; see `fingerprints`
    ("source_digest", pa.string()),  # of all bytes of the file; null if only its ends have been read
    ("container", pa.string()),
    ("codec", pa.string()),
    ("encoding", pa.string()),
    ("sample_rate", pa.int32()),
    ("num_channels", pa.int16()),
    ("num_samples", pa.int64()),  # of the whole file; null if only decoding can tell
    ("file_seconds", pa.float64()),
    ("bit_depth", pa.int16()),
    ("bitrate", pa.int32()),
]

CATALOG = pa.schema(
    [
        ("uid", pa.string()),
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("path", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("label", pa.string()),
        ("artifact", pa.string()),
        ("attack", pa.string()),
        ("speaker", pa.string()),
        ("language", pa.string()),
        ("split", pa.string()),
        ("size", pa.int64()),
        ("version", pa.string()),
        *_HEADER,
        ("seconds", pa.float64()),  # of the utterance
        ("problem", pa.string()),  # why the row cannot be written, else null
        ("detail", pa.string()),  # of the problem; or, before the file is probed, why it is read again
        ("shard", pa.string()),  # null for a row with a problem; the earlier shard before shards are planned
    ],
    metadata={"decoders": json.dumps(codec_versions())},
)
"""Columns of the catalog, in order, and the versions of the decoders that have read the headers."""


def catalog_decoders(schema: pa.Schema) -> dict[str, str]:
    """The versions of the decoders that have read the headers of a catalog with this schema."""
    metadata = schema.metadata or {}
    decoders: dict[str, str] = json.loads(metadata.get(b"decoders", b"{}"))
    return decoders


class FileColumns(TypedDict):
    """The columns of a catalog row that describe its file, so all its segments share them."""

    size: int | None
    version: str | None
    fingerprint: str | None
    source_digest: str | None
    container: str | None
    codec: str | None
    encoding: str | None
    sample_rate: int | None
    num_channels: int | None
    num_samples: int | None
    file_seconds: float | None
    bit_depth: int | None
    bitrate: int | None
    problem: str | None
    detail: str | None


class CatalogRow(FileColumns):
    """One row of `CATALOG`; a row with a problem may lack anything but `corpus`, `path` and `problem`."""

    uid: str | None
    id: str | None
    corpus: str
    path: str
    start: int | None
    end: int | None
    label: str | None
    artifact: str | None
    attack: str | None
    speaker: str | None
    language: str | None
    split: str | None
    seconds: float | None
    shard: str | None


class HeaderColumns(TypedDict):
    """The columns of a catalog row that come from the header of its file."""

    fingerprint: str
    source_digest: str | None
    container: str
    codec: str
    encoding: str
    sample_rate: int
    num_channels: int
    num_samples: int | None
    file_seconds: float
    bit_depth: int | None
    bitrate: int


class ProblemColumns(TypedDict):
    """Why a catalog row cannot be written."""

    problem: str
    detail: str


class UtteranceColumns(TypedDict):
    """The columns of a catalog row that come from an `Utterance`."""

    uid: str
    id: str
    corpus: str
    path: str
    start: int | None
    end: int | None
    label: str
    artifact: str | None
    attack: str | None
    speaker: str | None
    language: str | None
    split: str | None


_EMPTY_ROW: CatalogRow = dict.fromkeys(CATALOG.names)  # type: ignore[assignment]
MISSING = "missing"
"""The problem of a file that was deleted after it had been listed, and of a row of a protocol without a file."""
UNREADABLE = "unreadable"
"""The problem of a file that could not be read: its permissions, or an error of the disk."""


def rows(items: Iterable[Entry], corpus: str, recipe: Recipe) -> Iterator[CatalogRow]:
    """Turn what `read_files` yields into catalog rows without headers; exclusions by the recipe become problems."""
    for file, item in items:
        if isinstance(item, NotAudio):
            continue
        row = _problem_row(item, corpus) if isinstance(item, Problem) else _utterance_row(item, file, recipe)
        if file is not None:
            row["size"], row["version"] = file.size, file.version
        yield row


def _problem_row(problem: Problem, corpus: str) -> CatalogRow:
    return {
        **_EMPTY_ROW,
        "corpus": corpus,
        "path": problem.path,
        "label": problem.label,
        "artifact": problem.artifact,
        "attack": problem.attack,
        "language": problem.language,
        "problem": problem.reason,
        "detail": problem.detail,
    }


def _utterance_row(utterance: Utterance, file: FileInfo | None, recipe: Recipe) -> CatalogRow:
    row: CatalogRow = {**_EMPTY_ROW, **utterance_columns(utterance)}
    if recipe.use(utterance.corpus, utterance.split) == "excluded":
        row["problem"] = f"{EXCLUDED}{utterance.split or NO_SPLIT}"
        row["detail"] = f"recipe {recipe.name}"
    elif file is not None and file.problem:
        row["problem"] = file.problem
        row["detail"] = f"{utterance.path}: cannot be opened"
    return row


def utterance_columns(utterance: Utterance) -> UtteranceColumns:
    """The fields of an utterance; `dataclasses.asdict` would dominate the time per row."""
    return {
        "uid": utterance.uid,
        "id": utterance.id,
        "corpus": utterance.corpus,
        "path": utterance.path,
        "start": utterance.start,
        "end": utterance.end,
        "label": utterance.label,
        "artifact": utterance.artifact,
        "attack": utterance.attack,
        "speaker": utterance.speaker,
        "language": utterance.language,
        "split": utterance.split,
    }


def table(rows: Sequence[CatalogRow]) -> pa.Table:
    """Catalog rows as a table."""
    return pa.Table.from_pylist(rows, schema=CATALOG)
