"""Read corpora from AntiDeepfake protocol CSVs: one row per file, in twelve columns.

Duration, sample rate, channels, encoding and bit depth are not read: the headers of the files count.
`pipeline.data.store.export` writes these CSVs.
"""

from __future__ import annotations

import csv
import io
import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.corpora.manifest import ANY, UNKNOWN, Manifest
from pipeline.data.corpora.pattern import Template
from pipeline.data.corpora.utterance import Entry, Problem, Utterance, utterance_uid
from pipeline.errors import InputError
from pipeline.storage import FileInfo, Folder

COLUMNS = (
    "ID",
    "Label",
    "Duration",
    "SampleRate",
    "Path",
    "Attack",
    "Speaker",
    "Proportion",
    "AudioChannel",
    "AudioEncoding",
    "AudioBitSample",
    "Language",
)

ROOT = "$ROOT/"
"""Prefix of every path; some protocols write a second slash."""

UNKNOWN_CELL = "-"

LABELS = {"real": "bonafide", "fake": "spoof"}
SPLITS = {"train": "train", "valid": "validation", "test": "test", UNKNOWN_CELL: None}
LANGUAGES = {"cn": "zh", "yue_hant": "yue"}
"""Published codes, in lower case, that differ from ours."""

BATCH_ROWS = 20_000


class ProtocolRow(NamedTuple):
    """A valid row; the columns of `_TABLE`."""

    path: str
    """Path below the root."""
    line: int
    id: str
    label: str
    attack: str | None
    speaker: str | None
    split: str | None
    language: str | None


_TABLE = pa.schema(  # large_string: the paths of ten million rows can exceed the 2 GiB of a string column
    [
        ("path", pa.large_string()),
        ("line", pa.int64()),
        *((name, pa.large_string()) for name in ProtocolRow._fields[2:]),
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
    with _open(protocol) as lines:
        _check_header(csv.reader(lines), protocol)


def read_protocol(manifest: Manifest, root: Folder, protocol: str) -> Iterator[Entry]:
    """Yield every row of a protocol as an utterance or a problem, in the order of the paths.

    Rows are held as Arrow columns, about 200 bytes each. Each folder is listed once, whatever the order of the rows.
    Files without a row are not reported, because a protocol may cover only part of a folder.

    Args:
        manifest: the result of `describe_protocol`.
        root: the folder that `$ROOT` stands for.
        protocol: path or s3:// URI of the CSV.

    Raises:
        InputError: the file is not a CSV with these columns, or none of its audio files exists.
    """
    batches: list[pa.RecordBatch] = []
    protocol_name = PurePosixPath(protocol).name
    with _open(protocol) as lines:
        rows: list[ProtocolRow] = []
        for row in _parse(lines, protocol, protocol_name):
            if isinstance(row, Problem):
                yield None, row
                continue
            rows.append(row)
            if len(rows) == BATCH_ROWS:
                batches.append(_batch(rows))
                rows = []
        batches.append(_batch(rows))
    table = pa.Table.from_batches(batches, _TABLE)
    table = table.take(pc.sort_indices(table, [("path", "ascending"), ("line", "ascending")]))
    repeated = _repeated_ids(table)
    num_files = 0
    for file, group in _join(_rows(table), _list_files(root, table["path"])):
        num_files += file is not None
        yield from _resolve(group, file, manifest, repeated, protocol_name)
    if len(table) and not num_files:
        raise InputError(
            f"{protocol}: none of its files exists below {root.uri}; the first is {table['path'][0]}; "
            "set --root to the folder that $ROOT stands for"
        )


def _open(protocol: str) -> TextIO:
    path, name = posixpath.split(protocol)
    folder = Folder(path or ".")
    try:
        file = folder.open(name) if folder.is_local else io.BytesIO(folder.read(name))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{protocol}: no such file") from error
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _check_header(reader: Iterator[list[str]], protocol: str) -> None:
    try:
        header = tuple(next(reader, []))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{protocol}: not a CSV in UTF-8: {error}") from error
    if header != COLUMNS:
        raise InputError(f"{protocol}: its columns are {','.join(header)}; expected {','.join(COLUMNS)}")


def _parse(lines: TextIO, protocol: str, protocol_name: str) -> Iterator[ProtocolRow | Problem]:
    reader = csv.reader(lines)
    _check_header(reader, protocol)
    try:
        for cells in reader:
            if cells:
                yield _row(cells, reader.line_num, f"{protocol_name}:{reader.line_num}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{protocol}:{reader.line_num}: not a CSV in UTF-8: {error}") from error


def _row(cells: Sequence[str], line: int, location: str) -> ProtocolRow | Problem:
    def problem(reason: str, detail: str) -> Problem:
        return Problem(location, reason, detail)

    if len(cells) != len(COLUMNS):
        return problem("malformed-row", f"{len(cells)} cells; expected {len(COLUMNS)}")
    id_, label, _, _, path, attack, speaker, split, _, _, _, language = (cell.strip() for cell in cells)
    if label not in LABELS:
        return problem("unknown-label", f"{label!r}; known: {', '.join(LABELS)}")
    if split not in SPLITS:
        return problem("unknown-split", f"{split!r}; known: {', '.join(SPLITS)}")
    if not _known(id_):
        return problem("malformed-row", "has no ID")
    if not _known(path):
        return problem("missing", f"{id_}: the protocol has no path for it")
    if not path.startswith(ROOT):
        return problem("malformed-row", f"{path!r} does not begin with {ROOT}")
    name = path.removeprefix(ROOT).lstrip("/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\\" in name or "\0" in name:
        return problem("unsafe-path", f"{path!r} is not a file below the root")
    code = _known(language.lower())
    return ProtocolRow(
        path="/".join(parts),
        line=line,
        id=id_,
        label=LABELS[label],
        attack=_known(attack) if label == "fake" else None,
        speaker=_known(speaker),
        split=SPLITS[split],
        language=LANGUAGES.get(code, code) if code else None,
    )


def _known(cell: str) -> str | None:
    """Return the cell; None if it means unknown."""
    return None if cell in ("", UNKNOWN_CELL) else cell


def _batch(rows: Sequence[ProtocolRow]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(_TABLE)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _TABLE, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_TABLE)


def _rows(table: pa.Table) -> Iterator[ProtocolRow]:
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield from map(ProtocolRow, *(column.to_pylist() for column in batch.columns))


def _repeated_ids(table: pa.Table) -> frozenset[str]:
    """Return the ids that more than one file has."""
    pairs = table.group_by(["id", "path"]).aggregate([])
    counts = pc.value_counts(pairs["id"])
    return frozenset(counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist())


def _list_files(root: Folder, paths: pa.ChunkedArray) -> Iterator[FileInfo]:
    """Yield all files of the folders that contain the paths, in the order of their names."""
    folders = {
        path.rpartition("/")[0]
        for chunk in paths.iterchunks()
        for start in range(0, len(chunk), BATCH_ROWS)
        for path in chunk.slice(start, BATCH_ROWS).to_pylist()
    }
    # With a trailing slash, folders sort like the files in them, and a subfolder directly follows its parent.
    listed = None
    for folder in sorted(f"{folder}/" if folder else "" for folder in folders):
        if listed is None or not folder.startswith(listed):
            listed = folder
            yield from _files_below(root, folder.rstrip("/"))


def _files_below(root: Folder, folder: str) -> Iterator[FileInfo]:
    try:
        yield from root.find(folder)
    except (FileNotFoundError, NotADirectoryError):
        return  # each of its files is reported as missing


def _join(
    rows: Iterable[ProtocolRow], files: Iterator[FileInfo]
) -> Iterator[tuple[FileInfo | None, list[ProtocolRow]]]:
    """Yield the rows of each path with its file, or None if it does not exist; both inputs must be sorted."""
    file = next(files, None)
    for path, group in itertools.groupby(rows, key=_path):
        while file is not None and file.name < path:
            file = next(files, None)
        yield file if file is not None and file.name == path else None, list(group)


def _path(row: ProtocolRow) -> str:
    return row.path


def _resolve(
    rows: Sequence[ProtocolRow],
    file: FileInfo | None,
    manifest: Manifest,
    repeated: frozenset[str],
    protocol_name: str,
) -> Iterator[Entry]:
    """Yield the utterance of a file, and a problem for each row that cannot be used."""
    agree = len({row._replace(line=0) for row in rows}) == 1
    for position, row in enumerate(rows):
        location = f"{protocol_name}:{row.line}"
        if not agree:
            yield None, Problem(location, "contradictory-row", f"rows of {row.path} contradict each other")
        elif position:
            yield None, Problem(location, "duplicate-row", "repeats an earlier row")
        elif row.id in repeated:
            yield None, Problem(location, "duplicate-id", f"several files have the ID {row.id}")
        elif file is None:
            yield None, Problem(row.path, "missing", "listed in the protocol, but the file does not exist")
        else:
            yield file, _utterance(row, manifest)


def _utterance(row: ProtocolRow, manifest: Manifest) -> Utterance:
    return Utterance(
        uid=utterance_uid(manifest.name, row.path),
        id=row.id,
        corpus=manifest.name,
        path=row.path,
        label=row.label,
        artifact=manifest.constants["artifact"] if row.label == "spoof" else None,
        attack=row.attack,
        speaker=row.speaker,
        language=row.language,
        split=row.split,
    )
