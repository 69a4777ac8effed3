"""A corpus's own table of labels, in memory, joined to the files it speaks of."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from pipeline.data.corpora.manifest import SEPARATORS, Manifest, Protocol
from pipeline.data.corpora.pattern import Fields, Pattern, first_match
from pipeline.data.corpora.utterance import Problem, is_audio
from pipeline.errors import InputError
from pipeline.storage import Folder

NOTHING = ("", "-")
"""Cells of a protocol that say nothing."""

Row = tuple[str | None, ...]
"""What a protocol says beyond the key, in the order of `ProtocolTable.values`."""

_USED: Row = ("used",)
_CONTRADICTORY: Row = ("contradictory",)


class ProtocolTable:
    """The rows of all protocol files of a corpus, by the fields they share with paths.

    A row costs its key and a dictionary slot: what else it says (speaker, attack, label) recurs, and is kept once.
    """

    def __init__(self, manifest: Manifest, protocol: Protocol) -> None:
        self.manifest = manifest
        self.protocol = protocol
        self.key = manifest.key
        self.values = tuple(name for name in protocol.fields if name not in self.key)
        self.is_segmented = {"start", "end"} <= set(self.values)
        self.by_key: dict[str, Row] = {}
        self.segments: dict[str, dict[Row, None]] = {}
        self.known_rows: dict[Row, Row] = {}

    def load(self, root: Folder) -> Iterator[Problem]:
        """Read every file of the protocol."""
        found = False
        for pattern in self.protocol.files:
            for name, fields in pattern.expand():
                if root.exists(name):
                    found = True
                    yield from self._load_file(root, name, fields)
                else:
                    yield Problem(name, "no-protocol", "a file of the protocol is not there", is_file=False)
        if not found:
            names = ", ".join(pattern.text for pattern in self.protocol.files)
            raise InputError(f"{self.manifest.name}: no protocol in {root.uri}; it should hold {names}")
        self.known_rows.clear()

    def _load_file(self, root: Folder, name: str, fields: Mapping[str, str]) -> Iterator[Problem]:
        lines = io.TextIOWrapper(io.BytesIO(root.read(name)), encoding="utf-8-sig", newline="")
        try:
            for number, row in self._rows(lines, root.location(name)):
                place = f"{name}:{number}"
                if row is None:
                    yield Problem(place, "malformed-row", "not as the manifest says", is_file=False)
                elif problem := self._add(place, {**row, **fields}):
                    yield problem
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{root.location(name)}: not a table in UTF-8: {error}") from error

    def _rows(self, lines: io.TextIOWrapper, location: str) -> Iterator[tuple[int, Fields | None]]:
        """Line numbers and fields; None for a row that is not as the manifest says."""
        protocol = self.protocol
        if protocol.lines:
            for number, line in enumerate(lines, 1):
                captured = first_match(protocol.lines, line.strip())
                if captured or (captured is None and line.strip()):
                    yield number, captured
            return
        cells = _cells(lines, protocol.separator)
        columns = list(protocol.columns)
        if protocol.named_columns:
            header = [name.strip() for name in next(cells, (0, []))[1]]
            lacking = [name for name in protocol.named_columns if name not in header]
            if lacking:
                raise InputError(f"{location}: no column {', '.join(map(repr, lacking))} in its header")
            columns = [protocol.named_columns.get(name) for name in header]
        for number, values in cells:
            yield number, _row(columns, values)

    def _add(self, place: str, fields: Fields) -> Problem | None:
        parts = [fields.get(name) or "" for name in self.key]
        if not all(parts):
            return Problem(place, "malformed-row", "it names no file", is_file=False)
        if any(_leaves_root(part) for part in parts):
            return Problem(place, "unsafe-path", f"{'/'.join(parts)!r} is not below the root", is_file=False)
        key = "\0".join(parts)
        row: Row = tuple([fields.get(name) for name in self.values])
        row = self.known_rows.setdefault(row, row)
        if self.is_segmented:
            return self._add_segment(place, key, row, fields)
        known = self.by_key.get(key)
        if known is None:
            self.by_key[key] = row
            return None
        if known is row:
            return Problem(place, "duplicate-row", "says again what a row before it said", is_file=False)
        self.by_key[key] = _CONTRADICTORY
        return Problem(place, "contradictory-row", "a row before it says otherwise", is_file=False)

    def _add_segment(self, place: str, key: str, row: Row, fields: Fields) -> Problem | None:
        start, end = fields.get("start") or "", fields.get("end") or ""
        if not (start.isdecimal() and end.isdecimal() and int(start) < int(end)):
            return Problem(place, "malformed-row", f"{start!r} to {end!r} is no segment", is_file=False)
        rows = self.segments.setdefault(key, {})
        if row in rows:
            return Problem(place, "duplicate-row", "says again what a row before it said", is_file=False)
        rows[row] = None
        self.by_key[key] = ()
        return None

    def rows(self, path: str, fields: Fields) -> Iterator[Fields | Problem]:
        """What the protocol says of a file: its fields, once for each segment, or a problem."""
        key = "\0".join([fields[name] or "" for name in self.key])
        row = self.by_key.get(key)
        if row is None:
            if is_audio(path):
                yield Problem(path, "unlisted", "no row of the protocol names it")
        elif row is _USED:
            yield Problem(path, "ambiguous", "another file already answers to its row of the protocol")
        elif row is _CONTRADICTORY:
            yield Problem(path, "contradictory", "rows of the protocol say different things of it")
        else:
            self.by_key[key] = _USED
            for values in self.segments.get(key, (row,)):
                yield {**fields, **dict(zip(self.values, values, strict=True))}

    def missing(self) -> Iterator[Problem]:
        """Files that rows speak of and that are not there."""
        for key, row in self.by_key.items():
            if row is _CONTRADICTORY or row is _USED:
                continue
            fields: Fields = dict(zip(self.key, key.split("\0"), strict=True))
            fields.update(zip(self.values, row, strict=False))
            path = self.manifest.audio[0].show(fields)
            yield Problem(path, "missing", "the protocol names it, but there is no such file", is_file=False)


def _cells(lines: io.TextIOWrapper, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line that is not blank."""
    delimiter = SEPARATORS[separator]
    if delimiter is None:
        for number, line in enumerate(lines, 1):
            if cells := line.split():
                yield number, cells
        return
    has_quotes = delimiter == ","
    reader = csv.reader(
        lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE
    )
    for cells in reader:
        if cells:
            yield reader.line_num, cells


def _row(columns: Sequence[Pattern | None], cells: Sequence[str]) -> Fields | None:
    """The fields of a row; None if it has other columns than it should, or a cell is not of its form."""
    if len(cells) != len(columns):
        return None
    fields: Fields = {}
    for column, cell in zip(columns, cells, strict=True):
        if column is None:
            continue
        text = cell.strip()
        if column.is_whole:
            fields[column.fields[0]] = None if text in NOTHING else text
            continue
        captured = column.match(text)
        if captured is None:
            return None
        fields.update(captured)
    return fields


def _leaves_root(name: str) -> bool:
    return name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/")
