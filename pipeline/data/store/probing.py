"""Open the files of catalog rows: read their headers and fingerprints, and cut long files into chunks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.load import measure, probe
from pipeline.data.audio.reader import Header
from pipeline.data.corpora.corpus import segment
from pipeline.data.corpora.manifest import Manifest
from pipeline.data.corpora.utterance import Utterance
from pipeline.data.store.catalog import (
    MISSING,
    UNREADABLE,
    CatalogRow,
    HeaderColumns,
    ProblemColumns,
    utterance_columns,
)
from pipeline.data.store.fingerprints import (
    COVERED_BYTES,
    fingerprint,
    retried_fingerprint,
    source_digest,
)
from pipeline.data.store.read_ahead import MAX_FILE_BYTES
from pipeline.errors import UnreadableError
from pipeline.storage import Folder

_NO_HEADER: HeaderColumns = dict.fromkeys(HeaderColumns.__annotations__)  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class ToRead:
    """How much of a file has to be read, and what an earlier catalog recorded about it."""

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
    digest = source_digest(file, wanted.size)
    if wanted.rejected_by:
        return retried_fingerprint(digest, wanted.rejected_by), digest
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
    """The row with the columns read from its file; without columns, it keeps those of the earlier catalog."""
    if columns is None:
        return {**row, "detail": None}
    return {**row, **_NO_HEADER, "detail": None, **columns}


def _header_or_problem(
    read: ReadHeader, root: Folder, row: CatalogRow, is_measured: bool
) -> HeaderColumns | ProblemColumns | None:
    """What `read` returns, or the problem of the file; None if it cannot be opened but its header is known."""
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
        chunk_row: CatalogRow = {**row, **utterance_columns(chunk)}
        chunk_row["seconds"] = _seconds(chunk_row)
        yield chunk_row


def _seconds(row: CatalogRow) -> float:
    """Length of an utterance according to the header of its file."""
    start, end, sample_rate, file_seconds = row["start"], row["end"], row["sample_rate"], row["file_seconds"]
    assert sample_rate is not None and file_seconds is not None
    end_s = file_seconds if end is None else min(end / sample_rate, file_seconds)
    return float(max(0.0, end_s - (start or 0) / sample_rate))
