"""The catalog: one row for everything found in a corpus, with its label, its audio header and its shard.

A row is an utterance that can be written, or a problem with its reason; nothing that was found is left out. Files
that have not changed since an earlier catalog are not opened again: their headers are taken from it, and so are
their problems as long as the decoders are the same.

A file has a fingerprint, on which the name of its shard depends. That of a new file covers both its ends only. A file
whose size or time has changed since is read as a whole: if its bytes are those that its shard was built from, as after
a copy or a touch, it keeps its fingerprint; otherwise it gets one that covers all bytes, so that its shard is rebuilt.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, TypedDict

import pyarrow as pa

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import measure, probe
from pipeline.data.audio.reader import Header
from pipeline.data.audio.versions import codec_versions
from pipeline.data.corpora.corpus import segment
from pipeline.data.corpora.manifest import Manifest
from pipeline.data.corpora.recipe import EXCLUDED, NO_SPLIT, Recipe
from pipeline.data.corpora.utterance import Entry, NotAudio, Problem, Utterance
from pipeline.data.store.read_ahead import MAX_FILE_BYTES
from pipeline.errors import UnreadableError
from pipeline.storage import FileInfo, Folder

SAMPLED_BYTES = 64 * 1024
"""Bytes at each end of a long file that its first fingerprint covers."""

COVERED_BYTES = 2 * SAMPLED_BYTES
"""Length up to which the fingerprint of a file covers all of it."""

DIGESTED_BYTES = 8 * 2**20
"""Bytes that are read at a time while a whole file is digested; each is one request to S3."""

_HEADER = [
    ("fingerprint", pa.string()),  # depends on content alone, not on disk or bucket; see `read_header`
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
_NO_HEADER: HeaderColumns = dict.fromkeys(HeaderColumns.__annotations__)  # type: ignore[assignment]
_TRIED_AGAIN = "/"
"""Separates a digest from the shard that rejected the file, in the fingerprint of a file that is tried again."""

MISSING = "missing"
"""The problem of a file that was deleted after it had been listed, and of a row of a protocol without a file."""
UNREADABLE = "unreadable"
"""The problem of a file that could not be read: its permissions, or an error of the disk."""


@dataclass(frozen=True, slots=True)
class ToRead:
    """What has to be read of a file, and what is known of it from earlier."""

    size: int
    """Bytes, as listed."""
    fingerprint: str | None = None
    """The earlier fingerprint of a file that has changed or is tried again; None for a new file."""
    source_digest: str | None = None
    """Digest of all bytes that the earlier shard was built from; None if unknown."""
    rejected_by: str | None = None
    """The shard that lacks the file, although nothing may be wrong with it."""
    is_measured: bool = False
    """Whether the length must be exact, as for a file that is cut into chunks."""


ReadHeader = Callable[[Folder, str, ToRead], HeaderColumns]
"""Reads the header of a file, given its folder and path; see `read_header`."""


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
    row: CatalogRow = {**_EMPTY_ROW, **_utterance_columns(utterance)}
    if recipe.use(utterance.corpus, utterance.split) == "excluded":
        row["problem"] = f"{EXCLUDED}{utterance.split or NO_SPLIT}"
        row["detail"] = f"recipe {recipe.name}"
    elif file is not None and file.problem:
        row["problem"] = file.problem
        row["detail"] = f"{utterance.path}: cannot be opened"
    return row


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
    return row["problem"] is not None or (row["codec"] is not None and row["detail"] is None)


def read_header(root: Folder, path: str, wanted: ToRead) -> HeaderColumns:
    """Read the header columns of a file.

    Only a short file is read as a whole, and one that has changed, is tried again, or has to be measured; those only
    once their beginning has been recognised as audio.

    Args:
        root: folder of the corpus.
        path: path of the file in that folder.
        wanted: what to read.

    Raises:
        AudioError: the file is not audio in a format that we read, or too large to be read into memory.
        FileNotFoundError: the file has been deleted.
        UnreadableError: the file may not or cannot be read.
    """
    with root.open(path, wanted.size) as file:
        content = io.BytesIO(file.read(COVERED_BYTES)) if wanted.size <= COVERED_BYTES else file
        header = probe(content, path)
        if wanted.size > MAX_FILE_BYTES:
            raise AudioError("too_large", path, f"{wanted.size} bytes; the limit is {MAX_FILE_BYTES} bytes")
        if wanted.is_measured:
            content.seek(0)
            data = content.read()
            content = io.BytesIO(data)
            header = _with_length(header, measure(data, path), path, wanted.size)
        return _header_columns(header, *_fingerprint_and_digest(content, wanted))


def _with_length(header: Header, num_samples: int, path: str, size: int) -> Header:
    """The header with its length as measured by decoding."""
    if num_samples == 0:
        raise AudioError("too_short", path, "no samples")
    seconds = num_samples / header.sample_rate
    return replace(header, num_samples=num_samples, seconds=seconds, bitrate=round(8 * size / seconds))


def _fingerprint_and_digest(file: BinaryIO, wanted: ToRead) -> tuple[str, str | None]:
    """The fingerprint of a file, and the digest of all its bytes if it has been read as a whole."""
    ends = fingerprint(file, wanted.size)
    if wanted.fingerprint is None:
        return ends, None
    if wanted.fingerprint == ends and wanted.source_digest is None and not wanted.rejected_by:
        return ends, None  # no shard has been built from it
    digest = source_digest(file)
    if wanted.rejected_by:
        return f"{digest}{_TRIED_AGAIN}{wanted.rejected_by.rpartition('-')[2]}", digest
    if digest == wanted.source_digest:
        return wanted.fingerprint, digest
    return digest, digest


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
    path: str | None = None
    columns: HeaderColumns | ProblemColumns | None = None
    for row in rows:
        if not is_probed(row):
            if row["path"] != path:
                path, columns = row["path"], _header_or_problem(read, root, row, manifest.chunks is not None)
            row = _probed(row, columns)
        if row["problem"] is None:
            yield from _chunks(row, manifest, chunk_s)
        else:
            yield row


def _probed(row: CatalogRow, columns: HeaderColumns | ProblemColumns | None) -> CatalogRow:
    """The row with what was read of its file; None if it cannot be read, although it could be earlier."""
    if columns is None:
        return {**row, "detail": None}
    return {**row, **_NO_HEADER, "detail": None, **columns}


def _header_or_problem(
    read: ReadHeader, root: Folder, row: CatalogRow, is_measured: bool
) -> HeaderColumns | ProblemColumns | None:
    """What `read` returns, or why it cannot; None if an earlier catalog has the header and the file is no better."""
    path, size = row["path"], row["size"]
    assert size is not None, f"{path}: a row without a problem has a file"
    rejected_by = row["shard"] if row["detail"] else None
    wanted = ToRead(size, row["fingerprint"], row["source_digest"], rejected_by, is_measured)
    try:
        return read(root, path, wanted)
    except AudioError as error:
        return {"problem": error.reason, "detail": str(error)}
    except FileNotFoundError:
        problem: ProblemColumns = {
            "problem": MISSING,
            "detail": f"{path}: listed, but missing when it was opened",
        }
    except UnreadableError as error:
        problem = {"problem": UNREADABLE, "detail": str(error)}
    return problem if row["codec"] is None else None


def _header_columns(header: Header, fingerprint: str, digest: str | None) -> HeaderColumns:
    return {
        "fingerprint": fingerprint,
        "source_digest": digest,
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
    """16 hex digits that change when a short file does, or the size or one of the ends of a longer one."""
    if size <= COVERED_BYTES:
        return source_digest(file)
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    file.seek(0)
    digest.update(file.read(SAMPLED_BYTES))
    file.seek(size - SAMPLED_BYTES)
    digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()[:16]


def source_digest(file: BinaryIO) -> str:
    """16 hex digits that change when any byte of a file does."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(DIGESTED_BYTES):
        digest.update(block)
    return digest.hexdigest()[:16]


def was_tried_again(fingerprint: str) -> bool:
    """Whether a fingerprint is that of a file which a shard had rejected, and which was then tried once more."""
    return _TRIED_AGAIN in fingerprint


def _chunks(row: CatalogRow, manifest: Manifest, chunk_s: float) -> Iterator[CatalogRow]:
    """The row with its length in seconds, or one row for each chunk of the file."""
    if manifest.chunks is None:
        yield {**row, "seconds": _seconds(row)}
        return
    sample_rate, num_samples = row["sample_rate"], row["num_samples"]
    assert sample_rate is not None and num_samples is not None, f"{row['path']}: its length is measured"
    file = Utterance(**{name: row[name] for name in Utterance.__dataclass_fields__})  # type: ignore[literal-required]
    chunks = segment(
        file,
        seconds=chunk_s or manifest.chunks.seconds,
        sample_rate=sample_rate,
        num_samples=num_samples,
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
