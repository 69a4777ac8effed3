"""Load the label table of a corpus and join it to the files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from pipeline.data.audio.containers.names import is_audio_name
from pipeline.data.corpora.manifest import SEPARATORS, Manifest, Protocol
from pipeline.data.corpora.pattern import Fields, Pattern, first_match
from pipeline.data.corpora.utterance import Problem
from pipeline.errors import InputError
from pipeline.storage import Folder

EMPTY_CELLS = ("", "-")
"""Cells of a protocol that mean unknown."""

Row = tuple[str | None, ...]
"""The values of a protocol row without its key, in the order of `ProtocolTable.values`."""

_USED: Row = ("used",)
_CONTRADICTORY: Row = ("contradictory",)


class ProtocolTable:
    """The rows of all protocol files of a corpus, by the fields that they share with paths.

    Saves memory: a row takes its key and a dictionary slot, because equal values (speaker, attack, label) are stored
    once.
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
        """Read all files of the protocol and yield the problems in them.

        Raises:
            InputError: there is no protocol file, or one of them is not a table.
        """
        has_protocol = False
        for pattern in self.protocol.files:
            for name, fields in pattern.expand():
                if root.exists(name):
                    has_protocol = True
                    yield from self._load_file(root, name, fields)
                else:
                    yield Problem(name, "no-protocol", "this protocol file is missing")
        if not has_protocol:
            names = ", ".join(pattern.text for pattern in self.protocol.files)
            raise InputError(f"{self.manifest.name}: no protocol in {root.uri}; expected {names}")
        self.known_rows.clear()

    def _load_file(self, root: Folder, name: str, fields: Mapping[str, str]) -> Iterator[Problem]:
        lines = io.TextIOWrapper(io.BytesIO(root.read(name)), encoding="utf-8-sig", newline="")
        try:
            for number, row in self._rows(lines, root.location(name)):
                location = f"{name}:{number}"
                if row is None:
                    yield Problem(location, "malformed-row", "does not match the columns of the manifest")
                elif problem := self._add(location, {**row, **fields}):
                    yield problem
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{root.location(name)}: not a table in UTF-8: {error}") from error

    def _rows(self, lines: io.TextIOWrapper, location: str) -> Iterator[tuple[int, Fields | None]]:
        """Yield line numbers and fields; None for a row that does not match the manifest."""
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
                raise InputError(f"{location}: its header lacks {', '.join(map(repr, lacking))}")
            columns = [protocol.named_columns.get(name) for name in header]
        for number, values in cells:
            yield number, _row(columns, values)

    def _add(self, location: str, fields: Fields) -> Problem | None:
        parts = [fields.get(name) or "" for name in self.key]
        if not all(parts):
            return Problem(location, "malformed-row", "does not name a file")
        if any(_leaves_root(part) for part in parts):
            return Problem(location, "unsafe-path", f"{'/'.join(parts)!r} is not below the root")
        key = "\0".join(parts)
        row: Row = tuple([fields.get(name) for name in self.values])
        row = self.known_rows.setdefault(row, row)
        if self.is_segmented:
            return self._add_segment(location, key, row, fields)
        known = self.by_key.get(key)
        if known is None:
            self.by_key[key] = row
            return None
        if known is row:
            return Problem(location, "duplicate-row", "repeats an earlier row")
        self.by_key[key] = _CONTRADICTORY
        return Problem(location, "contradictory-row", "contradicts an earlier row")

    def _add_segment(self, location: str, key: str, row: Row, fields: Fields) -> Problem | None:
        start, end = fields.get("start") or "", fields.get("end") or ""
        if not (start.isdecimal() and end.isdecimal() and int(start) < int(end)):
            return Problem(location, "malformed-row", f"{start!r} to {end!r} is not a segment")
        rows = self.segments.setdefault(key, {})
        if row in rows:
            return Problem(location, "duplicate-row", "repeats an earlier row")
        rows[row] = None
        self.by_key[key] = ()
        return None

    def rows(self, path: str, fields: Fields) -> Iterator[Fields | Problem]:
        """Yield the fields of a file with those of its row, once per segment, or a problem.

        Files without a row are reported only if they are audio by name.
        """
        key = "\0".join([fields[name] or "" for name in self.key])
        row = self.by_key.get(key)
        if row is None:
            if is_audio_name(path):
                yield Problem(path, "unlisted", "not listed in the protocol")
        elif row is _USED:
            yield Problem(path, "ambiguous", "its row of the protocol already belongs to another file")
        elif row is _CONTRADICTORY:
            yield Problem(path, "contradictory", "its rows in the protocol contradict each other")
        else:
            self.by_key[key] = _USED
            for values in self.segments.get(key, (row,)):
                yield {**fields, **dict(zip(self.values, values, strict=True))}

    def missing(self) -> Iterator[Problem]:
        """Yield a problem for each row whose file was not found."""
        for key, row in self.by_key.items():
            if row is _CONTRADICTORY or row is _USED:
                continue
            fields: Fields = dict(zip(self.key, key.split("\0"), strict=True))
            fields.update(zip(self.values, row, strict=False))
            path = self.manifest.audio[0].format(fields)
            yield Problem(path, "missing", "listed in the protocol, but the file does not exist")


def _cells(lines: io.TextIOWrapper, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each line that is not blank."""
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
    """Return the fields of a row; None if the number of cells is wrong or a cell does not match its pattern."""
    if len(cells) != len(columns):
        return None
    fields: Fields = {}
    for column, cell in zip(columns, cells, strict=True):
        if column is None:
            continue
        text = cell.strip()
        if column.is_single_field:
            fields[column.fields[0]] = None if text in EMPTY_CELLS else text
            continue
        captured = column.match(text)
        if captured is None:
            return None
        fields.update(captured)
    return fields


def _leaves_root(name: str) -> bool:
    return name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/")
