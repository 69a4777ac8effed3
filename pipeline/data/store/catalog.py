"""The catalog: one row for everything found in a corpus, labelled, probed, and told where it went.

A row is an utterance that can be written, or a problem with its reason; nothing that was found is left out. The
catalog of an earlier run spares the probing of files that have not changed: their headers stay, and so does what is
wrong with them as long as the decoders are the same.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.audio.decode import Header
from pipeline.data.audio.errors import REASONS, AudioError
from pipeline.data.audio.load import codec_versions, probe
from pipeline.data.corpora.corpus import segment
from pipeline.data.corpora.manifest import Manifest
from pipeline.data.corpora.recipe import EXCLUDED, NO_SPLIT, Recipe
from pipeline.data.corpora.utterance import Problem, Utterance
from pipeline.storage import FileInfo, Folder

SAMPLED_BYTES = 64 * 1024
"""A fingerprint sees this much of each end of a file; a file up to twice as long is seen whole."""

_PROBED = pa.schema(
    [
        ("fingerprint", pa.string()),  # the same on every disk and bucket; see `fingerprint`
        ("container", pa.string()),
        ("codec", pa.string()),
        ("encoding", pa.string()),
        ("sample_rate", pa.int32()),
        ("num_channels", pa.int16()),
        ("num_samples", pa.int64()),  # of the whole file; null where only decoding can tell
        ("file_seconds", pa.float64()),
        ("bit_depth", pa.int16()),
        ("bitrate", pa.int32()),
    ]
)

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
        *_PROBED,
        ("seconds", pa.float64()),  # of the utterance
        ("problem", pa.string()),  # a reason if it cannot be written, else null
        ("detail", pa.string()),
        ("shard", pa.string()),  # null where there is a problem
    ],
    metadata={"decoders": json.dumps(codec_versions())},
)
"""Columns of the catalog, in order, and the versions of the decoders that have read the headers."""

REPEATED_ID = "repeated_id"
"""The problem of an utterance whose id another one of the corpus has."""

Read = Callable[[Folder, str, int], "Row"]
"""What reads the header of a file of a folder, by its path and size; see `read_header`."""

Row = dict[str, Any]


def rows(
    found: Iterable[tuple[FileInfo | None, Utterance | Problem]], corpus: str, recipe: Recipe
) -> Iterator[Row]:
    """What `read_files` yields, as catalog rows that are not probed yet; what a recipe excludes never will be."""
    empty: Row = dict.fromkeys(CATALOG.names)
    for file, item in found:
        row = empty | {"corpus": corpus, "size": file and file.size, "version": file and file.version}
        if isinstance(item, Problem):
            yield row | {"path": item.path, "problem": item.reason, "detail": item.detail}
        elif recipe.use(corpus, item.split) == "excluded":
            reason = f"{EXCLUDED}{item.split or NO_SPLIT}"
            yield row | _columns(item) | {"problem": reason, "detail": f"recipe {recipe.name}"}
        else:
            yield row | _columns(item)


def _columns(found: Utterance | Header) -> Row:
    """The fields of a record; `asdict` would take as long as everything else that is done for a row."""
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


def table(rows: list[Row]) -> pa.Table:
    """Catalog rows as a table."""
    return pa.Table.from_pylist(rows, schema=CATALOG)


class KnownFiles:
    """What an earlier catalog says of files, by path; valid while size and version stay the same."""

    def __init__(self, catalog: pa.Table | None) -> None:
        catalog = CATALOG.empty_table() if catalog is None else catalog
        self._table = catalog.select(["size", "version", *_PROBED.names, "problem", "detail"])
        self._row_of = {path: row for row, path in enumerate(catalog["path"].to_pylist())}
        self._same_decoders = catalog.schema.metadata == CATALOG.metadata

    def fill(self, rows: list[Row]) -> list[Row]:
        """The rows, with their headers where the file is known and unchanged."""
        positions = [None if row["problem"] else self._row_of.get(row["path"]) for row in rows]
        there = pa.array([position for position in positions if position is not None], pa.int64())
        following = iter(self._table.take(there).to_pylist())
        return [
            row if position is None else row | self._what_holds(row, next(following))
            for row, position in zip(rows, positions, strict=True)
        ]

    def _what_holds(self, row: Row, known: Row) -> Row:
        if (known["size"], known["version"]) != (row["size"], row["version"]):
            return {}
        if known["codec"] is not None:
            return known | {"problem": None, "detail": None}
        return known if self._same_decoders and known["problem"] in REASONS else {}


def is_probed(row: Row) -> bool:
    """Whether no file has to be opened for this row."""
    return row["problem"] is not None or row["codec"] is not None


def read_header(root: Folder, path: str, size: int) -> Row:
    """The header columns of a file.

    Raises:
        AudioError: it is no audio that we read.
        FileNotFoundError, PermissionError: it cannot be opened.
    """
    with root.open(path) as file:
        seen = io.BytesIO(file.read()) if size <= 2 * SAMPLED_BYTES else file
        return _header_columns(probe(seen, path), fingerprint(seen, size))


def probe_rows(
    found: Iterable[Row],
    root: Folder,
    manifest: Manifest,
    chunk_s: float | None,
    read: Read = read_header,
) -> Iterator[Row]:
    """Read the headers that are not known yet, and cut files into segments where the corpus asks for it.

    Args:
        found: rows of one corpus; those of the segments of one file follow each other.
        root: folder of the corpus.
        manifest: of the corpus.
        chunk_s: seconds of a chunk, for a corpus that comes in chunks of a length to be chosen.
        read: reads one header.
    """
    path, header = None, {}
    for row in found:
        if not is_probed(row):
            if row["path"] != path:
                path, header = row["path"], _header(read, root, row["path"], row["size"])
            row = row | header
        if row["problem"] is None:
            yield from _segments(row, manifest, chunk_s)
        else:
            yield row


def _header(read: Read, root: Folder, path: str, size: int) -> Row:
    """The header columns of a file, or the problem with it."""
    try:
        return read(root, path, size)
    except AudioError as error:
        return {"problem": error.reason, "detail": str(error)}
    except FileNotFoundError:
        return {"problem": "missing", "detail": f"{path}: listed, but not there when it was opened"}
    except PermissionError as error:
        return {"problem": "unreadable", "detail": f"{path}: {error.strerror}"}


def _header_columns(header: Header, fingerprint: str) -> Row:
    columns = _columns(header)
    columns["file_seconds"] = columns.pop("seconds")
    return columns | {"fingerprint": fingerprint}


def fingerprint(file: BinaryIO, size: int) -> str:
    """16 hex digits that tell a changed file from the same one: its length and both its ends."""
    digest = hashlib.blake2b(size.to_bytes(8, "big"), digest_size=8)
    file.seek(0)
    digest.update(file.read(SAMPLED_BYTES))
    file.seek(max(SAMPLED_BYTES, size - SAMPLED_BYTES))
    digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()


def _segments(row: Row, manifest: Manifest, chunk_s: float | None) -> Iterator[Row]:
    """The row with its length in seconds, or one row for each chunk of the file."""
    if manifest.chunks is None:
        yield row | {"seconds": _seconds(row)}
        return
    whole = Utterance(**{name: row[name] for name in Utterance.__dataclass_fields__})
    num_samples = row["num_samples"] or round(row["file_seconds"] * row["sample_rate"])
    for part in segment(
        whole,
        seconds=chunk_s or manifest.chunks.seconds,
        sample_rate=row["sample_rate"],
        num_samples=num_samples,
    ):
        cut = row | _columns(part)
        yield cut | {"seconds": _seconds(cut)}


def _seconds(row: Row) -> float:
    """Length of an utterance by its header."""
    first = (row["start"] or 0) / row["sample_rate"]
    last = row["file_seconds"] if row["end"] is None else row["end"] / row["sample_rate"]
    return float(max(0.0, min(last, row["file_seconds"]) - first))


def reject_repeated(catalog: pa.Table) -> pa.Table:
    """The catalog of one corpus, in which an id names one utterance: that of the smallest path.

    Others of the same id get a problem that names it, in whatever order they were found.
    """
    is_good = pc.is_null(catalog["problem"])
    counts = pa.table({"id": catalog["id"].filter(is_good)}).group_by("id").aggregate([([], "count_all")])
    repeated = counts["id"].filter(pc.greater(counts["count_all"], 1))
    if not len(repeated):
        return catalog
    is_one = pc.and_(is_good, pc.is_in(catalog["id"], repeated.combine_chunks()))
    positions = np.flatnonzero(is_one.to_numpy(zero_copy_only=False))
    alike = catalog.select(["id", "path", "start"]).take(pa.array(positions))
    order = pc.sort_indices(alike, [(name, "ascending") for name in alike.column_names]).to_numpy()
    ids, paths = (alike[name].take(pa.array(order)).to_pylist() for name in ("id", "path"))
    first = ""
    details: dict[int, str] = {}
    for number, (one, path) in enumerate(zip(ids, paths, strict=True)):
        if number == 0 or one != ids[number - 1]:
            first = path
        else:
            details[int(positions[order[number]])] = f"{path}: {one} is also the id of {first}"
    return _with_problem(catalog, REPEATED_ID, details)


def _with_problem(catalog: pa.Table, reason: str, details: dict[int, str]) -> pa.Table:
    """The catalog with a problem in some rows."""
    rows = np.array(sorted(details))
    mask = np.zeros(len(catalog), np.bool_)
    mask[rows] = True
    for name, values in (("problem", [reason] * len(rows)), ("detail", [details[row] for row in rows])):
        column = pc.replace_with_mask(catalog[name].combine_chunks(), pa.array(mask), pa.array(values))
        catalog = catalog.set_column(catalog.schema.get_field_index(name), CATALOG.field(name), column)
    return catalog


def content_digest(data: bytes) -> str:
    """16 hex digits that name a catalog by its content."""
    return hashlib.sha256(data).hexdigest()[:16]
