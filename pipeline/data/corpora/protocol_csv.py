"""Read a corpus from an AntiDeepfake protocol CSV: join its rows to the files in the folders that they name."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.audio.containers.names import is_audio_name
from pipeline.data.corpora.csv_rows import ProtocolRow, RowReader, open_protocol
from pipeline.data.corpora.files import FILE_PROBLEMS, excluded, has_raw_bytes, kind_of
from pipeline.data.corpora.manifest import ANY, UNKNOWN, Manifest
from pipeline.data.corpora.namesakes import Namesakes
from pipeline.data.corpora.pattern import Template
from pipeline.data.corpora.utterance import (
    Entry,
    NotAudio,
    Problem,
    Utterance,
    utterance_uid,
)
from pipeline.errors import InputError, UnreadableError
from pipeline.storage import FileInfo, Folder

BATCH_ROWS = 20_000
"""Rows that are converted between Python objects and Arrow columns at a time."""

_TABLE = pa.schema(  # large_string: the paths of ten million rows can exceed the 2 GiB of a string column
    [
        ("path", pa.large_string()),
        ("line", pa.int64()),
        *((name, pa.large_string()) for name in ProtocolRow._fields[2:-1]),
        ("is_rejected", pa.bool_()),
    ]
)


def describe_protocol(name: str, *, role: str, artifact: str) -> Manifest:
    """Make a manifest for a corpus that only a protocol CSV describes.

    Args:
        name: name of the corpus, in snake_case.
        role: `train` or `evaluation`.
        artifact: artifact family of all spoofed utterances; the CSV has no column for it.

    Raises:
        InputError: the name is not snake_case.
    """
    if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name):
        raise InputError(f"invalid corpus name {name!r}; use lower-case letters, digits and underscores")
    return Manifest(
        name=name,
        folder="",
        role=role,
        id=Template("{id}"),
        homepage="",
        licence=UNKNOWN,
        non_commercial=None,
        languages=(ANY,),
        sources=(),
        audio=(),
        constants={"artifact": artifact},
    )


def corpus_name(protocol: str) -> str:
    """Return the name of a protocol file in snake_case: `asvspoof2019_la` for `ASVspoof2019-LA.csv`."""
    return re.sub(r"[^a-z0-9]+", "_", PurePosixPath(protocol).stem.lower()).strip("_")


def check_protocol(protocol: str) -> None:
    """Check the header of a protocol.

    Raises:
        InputError: the file does not exist or has other columns.
    """
    open_protocol(protocol)


def read_protocol(manifest: Manifest, root: Folder, protocol: str) -> Iterator[Entry]:
    """Yield every row of a protocol as an utterance or a problem, and every other file in the folders that it names.

    Files that a row names as they are written on disk come in the order of their paths. Then follow rows and files
    whose names agree in the Unicode form NFC, and those that have no counterpart. Rows are held as Arrow columns, about
    200 bytes each. Each folder is listed once, whatever the order of the rows.

    Args:
        manifest: the result of `describe_protocol`.
        root: the folder that `$ROOT` stands for.
        protocol: path or s3:// URI of the CSV.

    Raises:
        InputError: the file is not a CSV with these columns, it has no rows, or none of its audio files exists.
    """
    batches: list[pa.RecordBatch] = []
    reader = RowReader(PurePosixPath(protocol).name, manifest.constants["artifact"])
    rows: list[ProtocolRow] = []
    first_bad = None
    for row in reader.read(open_protocol(protocol)):
        if isinstance(row, Problem):
            first_bad = first_bad or row
            yield None, row
            continue
        rows.append(row)
        if len(rows) == BATCH_ROWS:
            batches.append(_batch(rows))
            rows = []
    batches.append(_batch(rows))
    table = pa.Table.from_batches(batches, _TABLE)
    batches.clear()  # sorting copies the rows
    if pc.all(table["is_rejected"], min_count=0).as_py():
        found = f"the first, {first_bad.path}: {first_bad.detail}" if first_bad else "it has only a header"
        raise InputError(f"{protocol}: none of its lines can be used; {found}")
    table = table.take(pc.sort_indices(table, [("path", "ascending"), ("line", "ascending")]))
    yield from _Joiner(manifest, root, protocol, table).entries()


def _batch(rows: Sequence[ProtocolRow]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(_TABLE)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _TABLE, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_TABLE)


def _rows(table: pa.Table) -> Iterator[ProtocolRow]:
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield from map(ProtocolRow, *(column.to_pylist() for column in batch.columns))


def _repeated_ids(table: pa.Table) -> frozenset[str]:
    """Return the ids that more than one file has."""
    pairs = table.filter(pc.invert(table["is_rejected"])).group_by(["id", "path"]).aggregate([])
    counts = pc.value_counts(pairs["id"])
    return frozenset(counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist())


class _Joiner:
    """Joins the rows of a protocol, sorted by path, to the files in the folders that they name."""

    def __init__(self, manifest: Manifest, root: Folder, protocol: str, table: pa.Table) -> None:
        self.manifest = manifest
        self.root = root
        self.protocol = protocol
        self.table = table
        self.reader = RowReader(PurePosixPath(protocol).name, manifest.constants["artifact"])
        self.repeated = _repeated_ids(table)
        self.folders = _folders(table["path"])
        self.namesakes = Namesakes()
        self.spare: dict[str, FileInfo] = {}
        """Files without a row of their spelling, by the NFC form of their paths; ASCII has no other form."""

    def entries(self) -> Iterator[Entry]:
        """Yield every row, and every file in a folder that a row names.

        Raises:
            InputError: no row has a file.
        """
        is_left = np.zeros(len(self.table), bool)
        position = 0
        for file, group in _join(_rows(self.table), self._list_files()):
            if file is None:
                is_left[position : position + len(group)] = True
            elif group:
                yield from self._resolve(group, file)
            else:
                yield from self._unlisted(file)
            position += len(group)
        left = self.table.filter(pa.array(is_left))
        self._list_other_forms(left["path"])
        if len(left) == len(self.table):
            self._check_joined(left["path"])
        for path, rows in itertools.groupby(_rows(left), key=_path):
            file = None if path.isascii() else self.spare.pop(unicodedata.normalize("NFC", path), None)
            yield from self._resolve(list(rows), file)
        for file in self.spare.values():
            yield file, _without_row(file)

    def _check_joined(self, paths: pa.ChunkedArray) -> None:
        """Raise an `InputError` if none of these paths has a file in another Unicode form."""
        if self.spare and any(
            unicodedata.normalize("NFC", path) in self.spare for path in _strings(paths) if not path.isascii()
        ):
            return
        first = paths[0].as_py()
        raise InputError(
            f"{self.protocol}: none of its files exists below {self.root.uri}; the first is {first}"
            f"{self.namesakes.hint(first)}; set --root to the folder that $ROOT stands for"
        )

    def _list_files(self) -> Iterator[FileInfo]:
        """Yield the files of the named folders in the order of their names."""
        # With a trailing slash, folders sort like the files in them, and a subfolder directly follows its parent.
        listed = None
        for folder in sorted(f"{folder}/" if folder else "" for folder in self.folders):
            if listed is None or not folder.startswith(listed):
                listed = folder
                yield from self._files_below(folder.rstrip("/"), self.folders)

    def _files_below(self, folder: str, folders: frozenset[str]) -> Iterator[FileInfo]:
        """Yield the files directly in one of the folders; other files below them belong to nobody here."""
        try:
            for file in self.root.find(folder):
                if file.name.rpartition("/")[0] in folders:
                    yield file
        except FileNotFoundError:
            return  # each of its files is reported as missing
        except UnreadableError:
            yield FileInfo(folder, 0, "", 0.0, "unreadable")

    def _list_other_forms(self, paths: pa.ChunkedArray) -> None:
        """Find the files of folders whose names are written in another Unicode form on disk."""
        forms = {
            unicodedata.normalize(form, folder)
            for folder in _folders(paths)
            if not folder.isascii()
            for form in ("NFC", "NFD")
        }
        for folder in sorted(forms - self.folders):
            for file in self._files_below(folder, frozenset({folder})):
                self.spare.setdefault(unicodedata.normalize("NFC", file.name), file)

    def _unlisted(self, file: FileInfo) -> Iterator[Entry]:
        """Yield a file without a row, unless a row with another form of its name may follow."""
        if is_audio_name(file.name) and not has_raw_bytes(file.name):
            self.namesakes.add(file.name)
        composed = unicodedata.normalize("NFC", file.name)
        if file.name.isascii() or self.spare.setdefault(composed, file) is not file:
            yield file, _without_row(file)

    def _resolve(self, rows: Sequence[ProtocolRow], file: FileInfo | None) -> Iterator[Entry]:
        """Yield the utterance of a file, and a problem for each row that cannot be used."""
        rows = [row for row in rows if not row.is_rejected]
        agree = len(rows) == 1 or len({row._replace(line=0) for row in rows}) == 1
        for position, row in enumerate(rows):
            if not agree:
                detail = f"rows of {row.path} contradict each other"
                yield None, self.reader.problem(row, "contradictory-row", detail)
            elif position:
                yield None, self.reader.problem(row, "duplicate-row", "repeats an earlier row")
            elif row.id in self.repeated:
                yield None, self.reader.problem(row, "duplicate-id", f"several files have the ID {row.id}")
            elif file is None:
                detail = f"listed in the protocol, but the file does not exist{self.namesakes.hint(row.path)}"
                yield None, self.reader.problem(row, "missing", detail, row.path)
            elif file.problem:
                yield file, self.reader.problem(row, file.problem, FILE_PROBLEMS[file.problem], row.path)
            else:
                yield file, _utterance(row, file.name, self.manifest)


def _without_row(file: FileInfo) -> Problem | NotAudio:
    other = excluded(file.name)
    if other is not None:
        return other
    if file.problem:
        return Problem(file.name, file.problem, FILE_PROBLEMS[file.problem])
    if is_audio_name(file.name.rstrip(" .")):
        return Problem(file.name, "unlisted", "not listed in the protocol")
    return NotAudio(file.name, kind_of(file.name))


def _folders(paths: pa.ChunkedArray) -> frozenset[str]:
    return frozenset(path.rpartition("/")[0] for path in _strings(paths))


def _strings(column: pa.ChunkedArray) -> Iterator[str]:
    """Yield the strings of a column without converting all of it at once."""
    for chunk in column.iterchunks():
        for start in range(0, len(chunk), BATCH_ROWS):
            yield from chunk.slice(start, BATCH_ROWS).to_pylist()


def _join(
    rows: Iterable[ProtocolRow], files: Iterator[FileInfo]
) -> Iterator[tuple[FileInfo | None, list[ProtocolRow]]]:
    """Yield every file with its rows, and the rows of every path without a file; both inputs must be sorted."""
    file = next(files, None)
    for path, group in itertools.groupby(rows, key=_path):
        while file is not None and file.name < path:
            yield file, []
            file = next(files, None)
        if file is not None and file.name == path:
            yield file, list(group)
            file = next(files, None)
        else:
            yield None, list(group)
    while file is not None:
        yield file, []
        file = next(files, None)


def _path(row: ProtocolRow) -> str:
    return row.path


def _utterance(row: ProtocolRow, path: str, manifest: Manifest) -> Utterance:
    return Utterance(
        uid=utterance_uid(manifest.name, path),
        id=row.id,
        corpus=manifest.name,
        path=path,
        label=row.label,
        artifact=manifest.constants["artifact"] if row.label == "spoof" else None,
        attack=row.attack,
        speaker=row.speaker,
        language=row.language,
        split=row.split,
    )
