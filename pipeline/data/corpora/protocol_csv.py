"""AntiDeepfake protocol CSVs, in and out: one row for each file of one or more corpora, in twelve columns.

Duration, sample rate, channels, encoding and bit depth are written but never read: the header of the file counts.
"""

from __future__ import annotations

import csv
import io
import itertools
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TextIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.corpora.manifest import ANY, UNKNOWN, Manifest
from pipeline.data.corpora.pattern import Template
from pipeline.data.corpora.utterance import Problem, Utterance, utterance_uid
from pipeline.data.store.shards import read_indexes
from pipeline.data.store.snapshot import Snapshot, snapshot_shards
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
"""What every path begins with; some protocols write a second slash."""

NOTHING = "-"

LABELS = {"real": "bonafide", "fake": "spoof"}
SPLITS = {"train": "train", "valid": "validation", "test": "test", NOTHING: None}
LANGUAGES = {"cn": "zh", "yue_hant": "yue"}
"""Codes of published protocols that are not ours, in lower case."""

ROWS_AT_ONCE = 20_000


class ProtocolRow(NamedTuple):
    """What a row says; the columns of `_TABLE`."""

    path: str
    """Below the root."""
    line: int
    id: str
    label: str
    attack: str | None
    speaker: str | None
    split: str | None
    language: str | None


_TABLE = pa.schema(  # large: the paths of some ten million rows exceed the 2 GiB of a plain string column
    [
        ("path", pa.large_string()),
        ("line", pa.int64()),
        *((name, pa.large_string()) for name in ProtocolRow._fields[2:]),
    ]
)

Found = tuple[FileInfo | None, Utterance | Problem]


def describe_protocol(name: str, *, role: str, artifact: str) -> Manifest:
    """What is known of a corpus that only a protocol describes.

    Args:
        name: of the corpus.
        role: train or evaluation.
        artifact: family of everything that is spoofed; the format has no column for it.

    Raises:
        InputError: the name is no snake_case.
    """
    if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name):
        raise InputError(f"{name!r} is no name for a corpus; use lower-case letters, digits and underscores")
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
    """The name of a protocol file in snake_case: `asvspoof2019_la` for `ASVspoof2019-LA.csv`."""
    return re.sub(r"[^a-z0-9]+", "_", PurePosixPath(protocol).stem.lower()).strip("_")


def check_protocol(protocol: str) -> None:
    """Look at the header of a protocol.

    Raises:
        InputError: there is no such file, or it has other columns.
    """
    with _opened(protocol) as lines:
        _check_header(csv.reader(lines), protocol)


def read_protocol(manifest: Manifest, root: Folder, protocol: str) -> Iterator[Found]:
    """Every row of a protocol as an utterance or a problem, in the order of the paths.

    The rows are held as Arrow columns, some 200 bytes each; the folders that they name are listed once, whatever the
    order of the rows. Files that no row names are not reported: a protocol may speak of a part of a folder.

    Args:
        manifest: from `describe_protocol`.
        root: what `$ROOT` stands for.
        protocol: path or s3:// URI of the CSV.

    Raises:
        InputError: it is no table of these columns, or none of its files is there.
    """
    batches: list[pa.RecordBatch] = []
    place = PurePosixPath(protocol).name
    with _opened(protocol) as lines:
        rows: list[ProtocolRow] = []
        for row in _parse(lines, protocol, place):
            if isinstance(row, Problem):
                yield None, row
                continue
            rows.append(row)
            if len(rows) == ROWS_AT_ONCE:
                batches.append(_batch(rows))
                rows = []
        batches.append(_batch(rows))
    table = pa.Table.from_batches(batches, _TABLE)
    table = table.take(pc.sort_indices(table, [("path", "ascending"), ("line", "ascending")]))
    repeated = _repeated_ids(table)
    num_files = 0
    for file, found in _join(_rows(table), _list_files(root, table["path"])):
        num_files += file is not None
        yield from _resolve(found, file, manifest, repeated, place)
    if len(table) and not num_files:
        raise InputError(
            f"{protocol}: none of its files is below {root.uri}, the first is {table['path'][0]}; "
            "give as --root what its $ROOT stands for"
        )


def _opened(protocol: str) -> TextIO:
    folder, name = posixpath.split(protocol)
    place = Folder(folder or ".")
    try:
        file = place.open(name) if place.is_local else io.BytesIO(place.read(name))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{protocol}: no such protocol") from error
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _check_header(reader: Iterator[list[str]], protocol: str) -> None:
    try:
        header = tuple(next(reader, []))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{protocol}: not a CSV in UTF-8: {error}") from error
    if header != COLUMNS:
        raise InputError(f"{protocol}: its columns are {','.join(header)}; they must be {','.join(COLUMNS)}")


def _parse(lines: TextIO, protocol: str, place: str) -> Iterator[ProtocolRow | Problem]:
    reader = csv.reader(lines)
    _check_header(reader, protocol)
    try:
        for cells in reader:
            if cells:
                yield _row(cells, reader.line_num, f"{place}:{reader.line_num}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{protocol}:{reader.line_num}: not a CSV in UTF-8: {error}") from error


def _row(cells: Sequence[str], line: int, place: str) -> ProtocolRow | Problem:
    def problem(reason: str, detail: str) -> Problem:
        return Problem(place, reason, detail, is_file=False)

    if len(cells) != len(COLUMNS):
        return problem("malformed-row", f"{len(cells)} cells, not {len(COLUMNS)}")
    id_, label, _, _, path, attack, speaker, split, _, _, _, language = (cell.strip() for cell in cells)
    if label not in LABELS:
        return problem("unknown-label", f"{label!r}; known: {', '.join(LABELS)}")
    if split not in SPLITS:
        return problem("unknown-split", f"{split!r}; known: {', '.join(SPLITS)}")
    if not _said(id_):
        return problem("malformed-row", "it has no ID")
    if not _said(path):
        return problem("missing", f"{id_}: the protocol says itself that there is no file")
    if not path.startswith(ROOT):
        return problem("malformed-row", f"{path!r} does not begin with {ROOT}")
    name = path.removeprefix(ROOT).lstrip("/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\\" in name or "\0" in name:
        return problem("unsafe-path", f"{path!r} is not a file below the root")
    code = _said(language.lower())
    return ProtocolRow(
        path="/".join(parts),
        line=line,
        id=id_,
        label=LABELS[label],
        attack=_said(attack) if label == "fake" else None,
        speaker=_said(speaker),
        split=SPLITS[split],
        language=LANGUAGES.get(code, code) if code else None,
    )


def _said(cell: str) -> str | None:
    return None if cell in ("", NOTHING) else cell


def _batch(rows: Sequence[ProtocolRow]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(_TABLE)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _TABLE, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_TABLE)


def _rows(table: pa.Table) -> Iterator[ProtocolRow]:
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from map(ProtocolRow, *(column.to_pylist() for column in batch.columns))


def _repeated_ids(table: pa.Table) -> frozenset[str]:
    """The ids that name more than one file."""
    pairs = table.group_by(["id", "path"]).aggregate([])
    counts = pc.value_counts(pairs["id"])
    return frozenset(counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist())


def _list_files(root: Folder, paths: pa.ChunkedArray) -> Iterator[FileInfo]:
    """The files of every folder that holds one of the paths, in the order of their names."""
    folders = {
        path.rpartition("/")[0]
        for chunk in paths.iterchunks()
        for start in range(0, len(chunk), ROWS_AT_ONCE)
        for path in chunk.slice(start, ROWS_AT_ONCE).to_pylist()
    }
    # With their slashes, folders sort as the files in them do, and one inside another follows it at once.
    listed = None
    for folder in sorted(f"{folder}/" if folder else "" for folder in folders):
        if listed is None or not folder.startswith(listed):
            listed = folder
            yield from _files_below(root, folder.rstrip("/"))


def _files_below(root: Folder, folder: str) -> Iterator[FileInfo]:
    try:
        yield from root.find(folder)
    except (FileNotFoundError, NotADirectoryError):
        return  # its files are reported as missing, one by one


def _join(
    rows: Iterable[ProtocolRow], files: Iterator[FileInfo]
) -> Iterator[tuple[FileInfo | None, list[ProtocolRow]]]:
    """The rows of each path with its file, or None; both come sorted."""
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
    place: str,
) -> Iterator[Found]:
    """What becomes of the rows that name one file."""
    agree = len({row._replace(line=0) for row in rows}) == 1
    for position, row in enumerate(rows):
        where = f"{place}:{row.line}"
        if not agree:
            yield None, Problem(where, "contradictory-row", f"rows say different things of {row.path}", False)
        elif position:
            yield None, Problem(where, "duplicate-row", "says again what a row before it said", False)
        elif row.id in repeated:
            yield None, Problem(where, "duplicate-id", f"{row.id} is the name of several files", False)
        elif file is None:
            yield (
                None,
                Problem(row.path, "missing", "the protocol names it, but there is no such file", False),
            )
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


class Written(NamedTuple):
    """What came of an export."""

    num_rows: int
    segments: Counter[str]
    """Utterances left out by corpus: the format has no columns for a part of a file."""


def write_protocol(file: BinaryIO, store: Folder, snapshot: Snapshot, folders: Mapping[str, str]) -> Written:
    """Write the utterances of a snapshot as a protocol, shard by shard.

    Args:
        file: open for writing; stays open.
        store: holds the shards.
        snapshot: names them; see `choose_corpora`.
        folders: of corpora below the root; one that is not named has its paths below the root itself.
    """
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    num_rows, segments = 0, Counter[str]()
    for table in _indexes(store, snapshot):
        whole = table.filter(pc.is_null(table["start"]))
        segments.update(pc.filter(table["corpus"], pc.is_valid(table["start"])).to_pylist())
        writer.writerows(_cells(row, folders) for row in whole.to_pylist())
        num_rows += len(whole)
    text.detach()
    return Written(num_rows, segments)


def _indexes(store: Folder, snapshot: Snapshot) -> Iterator[pa.Table]:
    """The index of every shard, in order."""
    columns = [
        *("id", "label", "seconds", "sample_rate", "corpus", "path", "attack", "speaker", "split"),
        *("num_channels", "encoding", "bit_depth", "language", "start"),
    ]
    return read_indexes(store, snapshot_shards(snapshot), columns)


_LABELS = {label: spelling for spelling, label in LABELS.items()}
_SPLITS = {split: spelling for spelling, split in SPLITS.items()}


def _cells(row: Mapping[str, Any], folders: Mapping[str, str]) -> list[str]:
    folder = folders.get(row["corpus"], "")
    values = (
        row["id"],
        _LABELS[row["label"]],
        f"{row['seconds']:.2f}",
        row["sample_rate"],
        ROOT + (f"{folder}/" if folder else "") + row["path"],
        row["attack"],
        row["speaker"],
        _SPLITS[row["split"]],
        row["num_channels"],
        row["encoding"],
        row["bit_depth"],
        cast("str", row["language"]).upper() if row["language"] else None,
    )
    return [NOTHING if value is None else str(value) for value in values]
