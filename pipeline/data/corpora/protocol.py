"""Load the label table of a corpus and join it to the files."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from pipeline.data.audio.containers import is_audio_name
from pipeline.data.corpora.manifest import Manifest, Protocol
from pipeline.data.corpora.namesakes import Namesakes
from pipeline.data.corpora.pattern import Fields, Pattern, first_match
from pipeline.data.corpora.table import Malformed, Table, leaves_root, quoted
from pipeline.data.corpora.translation import Translator
from pipeline.data.corpora.utterance import Problem
from pipeline.errors import InputError
from pipeline.storage import Folder

EMPTY_CELLS = ("", "-")
"""Cells of a protocol that mean unknown."""

MAX_LOCATIONS = 100_000
"""Maximum number of rows with an unknown spelling whose line numbers are remembered."""

Row = tuple[str | None, ...]
"""The values of a protocol row without its key, in the order of `ProtocolTable.values`."""


class _Used(Row):
    """A row that has been joined to a file."""

    __slots__ = ()


class _Contradictory(Row):
    """The values in which contradictory rows of one file agree; None where they do not."""

    __slots__ = ()


_State = TypeVar("_State", _Used, _Contradictory)


class ProtocolTable:
    """The rows of all protocol files of a corpus, by the fields that they share with paths.

    Rows and files are joined on equal text, else on equal text in the Unicode form NFC. Saves memory: a row takes its
    key and a dictionary slot, because equal values (speaker, attack, label) are stored once.
    """

    def __init__(self, manifest: Manifest, protocol: Protocol, translator: Translator) -> None:
        self.manifest = manifest
        self.protocol = protocol
        self.translator = translator
        self.key = manifest.key
        self.values = tuple(name for name in protocol.fields if name not in self.key)
        self.is_segmented = {"start", "end"} <= set(self.values)
        self.by_key: dict[str, Row] = {}
        self.decomposed: dict[str, str] = {}
        """By the NFC form of a key: the key, if it is in another form."""
        self.segments: dict[str, dict[Row, None]] = {}
        self.known_rows: dict[Row, Row] = {}
        self.used_rows: dict[Row, _Used] = {}
        self.contradictory_rows: dict[Row, _Contradictory] = {}
        self.misspelt_rows: set[Row] = set()
        self.locations: dict[str, str] = {}
        """Locations of rows with an unknown spelling, by key."""
        self.first_row: tuple[str, str] | None = None
        """Location and key of the first row."""
        self.is_joined = False
        self.namesakes = Namesakes()

    def load(self, root: Folder) -> Iterator[Problem]:
        """Read all files of the protocol and yield the problems in them.

        Raises:
            InputError: there is no protocol file, one of them is not such a table, or there is no row.
        """
        loaded = []
        for pattern in self.protocol.files:
            for name, fields in pattern.expand():
                if root.exists(name):
                    loaded.append(name)
                    yield from self._load_file(root, name, fields)
                else:
                    yield Problem(name, "no-protocol", "this protocol file is missing")
        if not loaded:
            names = ", ".join(pattern.text for pattern in self.protocol.files)
            raise InputError(f"{self.manifest.name}: no protocol in {root.uri}; expected {names}")
        if not self.by_key:
            raise InputError(
                f"{', '.join(map(root.location, loaded))}: no rows; expected {self._expected_rows()}"
            )
        self.known_rows.clear()

    def _load_file(self, root: Folder, name: str, fields: Mapping[str, str]) -> Iterator[Problem]:
        first_bad = None
        has_rows = False
        for number, row, fault in self._rows(Table(root, name, self.protocol.separator)):
            location = f"{name}:{number}"
            row.update(fields)
            problem = self._malformed(location, fault, row) if fault else self._add(location, row)
            if problem is None or problem.reason in ("duplicate-row", "contradictory-row"):
                has_rows = True
            elif first_bad is None:
                first_bad = problem
            if problem is not None:
                yield problem
        if first_bad and not has_rows:
            raise InputError(
                f"{root.location(first_bad.path)}: no line of this table is a row of {self.manifest.name}; "
                f"the first: {first_bad.detail}"
            )

    def _malformed(self, location: str, fault: str, row: Fields) -> Problem:
        return self.translator.problem(location, "malformed-row", fault, row)

    def _rows(self, table: Table) -> Iterator[tuple[int, Fields, str]]:
        """Yield line numbers, fields, and what is wrong with the row, else ""."""
        protocol = self.protocol
        if protocol.lines:
            for number, line in table.lines:
                captured = None if isinstance(line, Malformed) else first_match(protocol.lines, line.strip())
                if captured is None:
                    found = line if isinstance(line, Malformed) else Malformed(quoted(line))
                    yield number, {}, found.detail(self._expected_rows())
                elif captured:
                    yield number, captured, ""
            return
        columns = list(protocol.columns)
        names = [_column_name(column) for column in columns]
        if protocol.named_columns:
            names = table.header(list(protocol.named_columns))
            columns = [protocol.named_columns.get(name) for name in names]
        expected = f"{len(names)} columns: {', '.join(names)}"
        for number, cells in table.rows(names, has_header=bool(protocol.named_columns)):
            if isinstance(cells, Malformed):
                yield number, {}, cells.detail(expected)
            else:
                yield number, *_row(columns, names, cells)

    def _expected_rows(self) -> str:
        """Describe what the manifest expects of a row."""
        if self.protocol.lines:
            return f"a line like {' or '.join(repr(_pattern_text(line)) for line in self.protocol.lines)}"
        columns = self.protocol.named_columns or [_column_name(column) for column in self.protocol.columns]
        return f"columns: {', '.join(columns)}, separated by {self.protocol.separator}"

    def _add(self, location: str, fields: Fields) -> Problem | None:
        def problem(reason: str, detail: str) -> Problem:
            return self.translator.problem(location, reason, detail, fields)

        parts = [fields.get(name) or "" for name in self.key]
        if not all(parts):
            lacking = ", ".join(name for name, part in zip(self.key, parts, strict=True) if not part)
            return problem("malformed-row", f"found no {lacking}; expected the name of a file")
        if any(map(leaves_root, parts)):
            return problem("unsafe-path", f"found {quoted('/'.join(parts))}; expected a path below the root")
        key = "\0".join(parts)
        row: Row = tuple([fields.get(name) for name in self.values])
        known_row = self.known_rows.get(row)
        if known_row is None:
            for value in row:
                if value and "\0" in value:
                    return problem("malformed-row", f"found {quoted(value)}; expected text without NUL")
            self.known_rows[row] = known_row = row
            if self._is_misspelt(row):
                self.misspelt_rows.add(row)
        if self.misspelt_rows and known_row in self.misspelt_rows and len(self.locations) < MAX_LOCATIONS:
            self.locations[key] = location
        fault = self._add_segment(key, row, fields) if self.is_segmented else self._add_row(key, known_row)
        if fault:
            return problem(*fault)
        self.first_row = self.first_row or (location, key)
        return None

    def _is_misspelt(self, row: Row) -> bool:
        """Whether a row by itself, without the path of its file, has a value that the manifest does not explain."""
        given = dict(zip(self.values, row, strict=True))
        fault = self.translator.translate({**self.translator.constants, **given})
        return fault is not None and (fault.field in given or fault.value is not None)

    def _add_row(self, key: str, row: Row) -> tuple[str, str] | None:
        """Add a row; return reason and detail of a problem."""
        known = self.by_key.get(key)
        if known is None:
            self._insert(key, row)
            return None
        if known is row:
            return "duplicate-row", "repeats an earlier row"
        agreed = tuple([one if one == other else None for one, other in zip(known, row, strict=True)])
        self.by_key[key] = _interned(self.contradictory_rows, _Contradictory(agreed))
        return "contradictory-row", "contradicts an earlier row"

    def _add_segment(self, key: str, row: Row, fields: Fields) -> tuple[str, str] | None:
        """Add a segment; return reason and detail of a problem."""
        start, end = fields.get("start") or "", fields.get("end") or ""
        if not (start.isdecimal() and end.isdecimal() and int(start) < int(end)):
            return (
                "malformed-row",
                f"found {start!r} to {end!r}; expected the first and last sample of a segment",
            )
        rows = self.segments.setdefault(key, {})
        if row in rows:
            return "duplicate-row", "repeats an earlier row"
        rows[row] = None
        self._insert(key, ())
        return None

    def _insert(self, key: str, row: Row) -> None:
        self.by_key[key] = row
        if not key.isascii():
            composed = unicodedata.normalize("NFC", key)
            if composed != key:
                self.decomposed.setdefault(composed, key)

    def _file_key(self, fields: Fields) -> str:
        return "\0".join([fields[name] or "" for name in self.key])

    def _find(self, key: str) -> str:
        """The key of the row that a file with this key has, if there is one."""
        if key.isascii() or key in self.by_key:
            return key
        composed = unicodedata.normalize("NFC", key)
        return composed if composed in self.by_key else self.decomposed.get(composed, key)

    def joins_as_written(self, fields: Fields) -> bool:
        """Whether a file finds its row without another Unicode form of its name, or has no row.

        The other files must be joined later: their row may belong to a file whose name is written like it.
        """
        key = self._file_key(fields)
        return self._find(key) == key

    def rows(self, path: str, fields: Fields) -> Iterator[Fields | Problem]:
        """Yield the fields of a file with those of its row, once per segment, or a problem.

        Files without a row are reported only if they are audio by name.
        """
        key = self._find(self._file_key(fields))
        row = self.by_key.get(key)
        if row is None:
            if is_audio_name(path):
                self.namesakes.add(path)
                yield self.translator.problem(path, "unlisted", "not listed in the protocol", fields)
            return
        self.is_joined = True
        if isinstance(row, _Used):
            detail = "its row of the protocol already belongs to another file"
            yield self._problem(path, "ambiguous", detail, fields, row)
            return
        self.by_key[key] = _interned(self.used_rows, _Used(row))
        if isinstance(row, _Contradictory):
            detail = "its rows in the protocol contradict each other"
            yield self._problem(path, "contradictory", detail, fields, row)
            return
        for values in self.segments.get(key, (row,)):
            yield {**fields, **dict(zip(self.values, values, strict=True))}

    def _problem(self, path: str, reason: str, detail: str, fields: Fields, row: Row) -> Problem:
        values = dict(zip(self.values, row, strict=False))  # of a file with segments, by_key has no values
        return self.translator.problem(path, reason, detail, {**fields, **values})

    def located(self, problem: Problem, fields: Fields) -> Problem:
        """Add the line of the row to a problem of a file, if the row has an unknown spelling."""
        location = self.locations.get(self._find(self._file_key(fields)))
        return replace(problem, detail=f"{location}: {problem.detail}") if location else problem

    def missing(self, root: Folder) -> Iterator[Problem]:
        """Yield a problem for each row, and each segment, whose file was not found.

        Raises:
            InputError: no row has a file, so this is the protocol of another corpus or version, or there is no audio.
        """
        if not self.is_joined:
            raise InputError(self._without_files(root))
        for key, row in self.by_key.items():
            if isinstance(row, _Used):
                continue
            for values in self.segments.get(key, (row,)):
                fields = {**self._key_fields(key), **dict(zip(self.values, values, strict=False))}
                path = self._path(fields)
                detail = "listed in the protocol, but the file does not exist"
                if isinstance(row, _Contradictory):
                    detail += ", and its rows contradict each other"
                if not path.isprintable():
                    detail += f"; the name is {path!a}"
                yield self.translator.problem(path, "missing", detail + self.namesakes.hint(path), fields)

    def _without_files(self, root: Folder) -> str:
        """Describe a protocol of which no row has a file."""
        assert self.first_row is not None  # `load` has raised an error otherwise
        location, key = self.first_row
        path = self._path(self._key_fields(key))
        return (
            f"{root.location(location)}: none of the {len(self.by_key)} files in the protocol exists below {root.uri}; "
            f"the first is {path}{self.namesakes.hint(path)}; is this the protocol of {self.manifest.name}?"
        )

    def _key_fields(self, key: str) -> Fields:
        return dict(zip(self.key, key.split("\0"), strict=True))

    def _path(self, fields: Fields) -> str:
        return self.manifest.audio[0].format(fields)


def _interned(rows: dict[Row, _State], row: _State) -> _State:
    return rows.setdefault(row, row)


def _column_name(column: Pattern | None) -> str:
    """Return a column as the manifest writes it; `-` for an unused one."""
    if column is None:
        return "-"
    return column.fields[0] if column.is_single_field else _pattern_text(column)


def _pattern_text(pattern: Pattern) -> str:
    return pattern.text.replace("**}", "}")


def _row(columns: Sequence[Pattern | None], names: Sequence[str], cells: Sequence[str]) -> tuple[Fields, str]:
    """Return the fields of a row, and which cell does not match its pattern, else ""."""
    fields: Fields = {}
    fault = ""
    for column, name, cell in zip(columns, names, cells, strict=True):
        if column is None:
            continue
        if column.is_single_field:
            fields[column.fields[0]] = None if cell in EMPTY_CELLS else cell
            continue
        captured = column.match(cell)
        if captured is None:
            fault = fault or f"found {quoted(cell)} in column {name}; expected {_pattern_text(column)!r}"
        else:
            fields.update(captured)
    return fields, fault
