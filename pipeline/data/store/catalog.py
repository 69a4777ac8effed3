"""The catalog: one row for everything found in a corpus, with its label, its audio header and its shard.

A row is an utterance that can be written, or a problem with its reason; nothing that was found is left out. Files
that have not changed since an earlier catalog are not opened again: their headers are taken from it, and so are
their problems as long as the decoders are the same.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, TypedDict

import pyarrow as pa

from pipeline.data.audio.decode import Header
from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import codec_versions, probe
from pipeline.data.corpora.corpus import segment
from pipeline.data.corpora.manifest import Manifest
from pipeline.data.corpora.recipe import EXCLUDED, NO_SPLIT, Recipe
from pipeline.data.corpora.utterance import Entry, NotAudio, Problem, Utterance
from pipeline.storage import Folder

SAMPLED_BYTES = 64 * 1024
"""Bytes at each end of a file that its fingerprint covers; files up to twice as long are covered completely."""

_HEADER = [
    ("fingerprint", pa.string()),  # depends on content alone, not on disk or bucket; see `fingerprint`
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
        ("detail", pa.string()),
        ("shard", pa.string()),  # null for a row with a problem
    ],
    metadata={"decoders": json.dumps(codec_versions())},
)
"""Columns of the catalog, in order, and the versions of the decoders that have read the headers."""


class FileColumns(TypedDict):
    """The columns of a catalog row that describe its file, so all its segments share them."""

    size: int | None
    version: str | None
    fingerprint: str | None
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

ReadHeader = Callable[[Folder, str, int], HeaderColumns]
"""Reads the header of a file, given its folder, path and size in bytes; see `read_header`."""


def rows(items: Iterable[Entry], corpus: str, recipe: Recipe) -> Iterator[CatalogRow]:
    """Turn what `read_files` yields into catalog rows without headers; exclusions by the recipe become problems."""
    for file, item in items:
        if isinstance(item, NotAudio):
            continue
        size, version = (None, None) if file is None else (file.size, file.version)
        if isinstance(item, Problem):
            problem: ProblemColumns = {"problem": item.reason, "detail": item.detail}
            yield {
                **_EMPTY_ROW,
                "corpus": corpus,
                "path": item.path,
                "label": item.label,
                "artifact": item.artifact,
                "attack": item.attack,
                "language": item.language,
                "size": size,
                "version": version,
                **problem,
            }
            continue
        row: CatalogRow = {**_EMPTY_ROW, **_utterance_columns(item), "size": size, "version": version}
        if recipe.use(corpus, item.split) == "excluded":
            row["problem"] = f"{EXCLUDED}{item.split or NO_SPLIT}"
            row["detail"] = f"recipe {recipe.name}"
        yield row


def _utterance_columns(utterance: Utterance) -> UtteranceColumns:
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


def is_probed(row: CatalogRow) -> bool:
    """Whether the row is complete without opening its file."""
    return row["problem"] is not None or row["codec"] is not None


def read_header(root: Folder, path: str, size: int) -> HeaderColumns:
    """Read the header columns of a file.

    Args:
        root: folder of the corpus.
        path: path of the file in that folder.
        size: size of the file, bytes.

    Raises:
        AudioError: the file is not audio in a format that we read.
        FileNotFoundError: the file has been deleted.
        PermissionError: the file may not be read.
    """
    with root.open(path) as file:
        content = io.BytesIO(file.read()) if size <= 2 * SAMPLED_BYTES else file
        return _header_columns(probe(content, path), fingerprint(content, size))


def probe_rows(
    rows: Iterable[CatalogRow],
    root: Folder,
    manifest: Manifest,
    chunk_s: float = 0.0,
    read: ReadHeader = read_header,
) -> Iterator[CatalogRow]:
    """Read the headers that are still unknown, and cut files into chunks if the manifest asks for them.

    Args:
        rows: rows of one corpus; the segments of a file must be consecutive.
        root: folder of the corpus.
        manifest: manifest of the corpus.
        chunk_s: length of a chunk, seconds; 0 for the length in the manifest.
        read: reads one header.
    """
    path, header = None, None
    for row in rows:
        if not is_probed(row):
            if header is None or row["path"] != path:
                path, header = row["path"], _header_or_problem(read, root, row)
            row = {**row, **header}
        if row["problem"] is None:
            yield from _chunks(row, manifest, chunk_s)
        else:
            yield row


def _header_or_problem(read: ReadHeader, root: Folder, row: CatalogRow) -> HeaderColumns | ProblemColumns:
    path, size = row["path"], row["size"]
    assert size is not None, f"{path}: a row without a problem has a file"
    try:
        return read(root, path, size)
    except AudioError as error:
        return {"problem": error.reason, "detail": str(error)}
    except FileNotFoundError:
        return {"problem": "missing", "detail": f"{path}: listed, but missing when it was opened"}
    except PermissionError as error:
        return {"problem": "unreadable", "detail": f"{path}: {error.strerror}"}


def _header_columns(header: Header, fingerprint: str) -> HeaderColumns:
    return {
        "fingerprint": fingerprint,
        "container": header.container,
        "codec": header.codec,
        "encoding": header.encoding,
        "sample_rate": header.sample_rate,
        "num_channels": header.num_channels,
        "num_samples": header.num_samples,
        "file_seconds": header.seconds,
        "bit_depth": header.bit_depth,
        "bitrate": header.bitrate,
    }


def fingerprint(file: BinaryIO, size: int) -> str:
    """16 hex digits that change when the file does: a hash of its size and of both its ends."""
    digest = hashlib.blake2b(size.to_bytes(8, "big"), digest_size=8)
    file.seek(0)
    digest.update(file.read(SAMPLED_BYTES))
    file.seek(max(SAMPLED_BYTES, size - SAMPLED_BYTES))
    digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()


def _chunks(row: CatalogRow, manifest: Manifest, chunk_s: float) -> Iterator[CatalogRow]:
    """The row with its length in seconds, or one row for each chunk of the file."""
    if manifest.chunks is None:
        yield {**row, "seconds": _seconds(row)}
        return
    sample_rate, file_seconds = row["sample_rate"], row["file_seconds"]
    assert sample_rate is not None and file_seconds is not None
    file = Utterance(**{name: row[name] for name in Utterance.__dataclass_fields__})  # type: ignore[literal-required]
    chunks = segment(
        file,
        seconds=chunk_s or manifest.chunks.seconds,
        sample_rate=sample_rate,
        num_samples=row["num_samples"] or round(file_seconds * sample_rate),
    )
    for chunk in chunks:
        chunk_row: CatalogRow = {**row, **_utterance_columns(chunk)}
        chunk_row["seconds"] = _seconds(chunk_row)
        yield chunk_row


def _seconds(row: CatalogRow) -> float:
    """Length of an utterance according to the header of its file."""
    start, end, sample_rate, file_seconds = row["start"], row["end"], row["sample_rate"], row["file_seconds"]
    assert sample_rate is not None and file_seconds is not None
    end_s = file_seconds if end is None else min(end / sample_rate, file_seconds)
    return float(max(0.0, end_s - (start or 0) / sample_rate))
