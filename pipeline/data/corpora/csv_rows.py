"""Read the rows of AntiDeepfake protocol CSVs, which have one row per file, in twelve columns.

Duration, sample rate, channels, encoding and bit depth are not read: the headers of the files count.
`pipeline.data.store.export` writes these CSVs.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.data.corpora.table import Malformed, Table, describe_columns, leaves_root, quoted
from pipeline.data.corpora.utterance import Problem
from pipeline.errors import InputError
from pipeline.storage import Folder

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
"""What a cell has whose value is unknown."""

LABELS = {"real": "bonafide", "fake": "spoof"}
SPLITS = {"train": "train", "valid": "validation", "test": "test", UNKNOWN_CELL: None}
LANGUAGES = {"cn": "zh", "yue_hant": "yue"}
"""Published codes, in lower case, that differ from ours."""


class ProtocolRow(NamedTuple):
    """A row that names a file."""

    path: str
    """Path below the root."""
    line: int
    id: str
    label: str
    attack: str | None
    speaker: str | None
    split: str | None
    language: str | None
    is_rejected: bool = False
    """Whether the row has been reported as a problem; it is kept only because its file is then listed."""


def open_protocol(protocol: str) -> Table:
    """Open a protocol and read its header.

    Raises:
        InputError: the file does not exist or has other columns.
    """
    path, name = posixpath.split(protocol)
    table = Table(Folder(path or "."), name, "comma")
    header = tuple(table.header(()))
    if header != COLUMNS:
        num_columns = describe_columns(header).partition(":")[0]
        found = (
            f"its columns are {','.join(header)} (line 1, {num_columns})" if any(header) else "it is empty"
        )
        raise InputError(f"{protocol}: {found}; expected {','.join(COLUMNS)}")
    return table


class RowReader:
    """Parses the rows of a protocol."""

    def __init__(self, protocol_name: str, artifact: str) -> None:
        self.protocol_name = protocol_name
        self.artifact = artifact

    def read(self, table: Table) -> Iterator[ProtocolRow | Problem]:
        """Yield each row that names a file, and each problem."""
        expected = f"{len(COLUMNS)} columns: {', '.join(COLUMNS)}"
        for line, cells in table.rows(COLUMNS, has_header=True):
            if isinstance(cells, Malformed):
                yield Problem(f"{self.protocol_name}:{line}", "malformed-row", cells.detail(expected))
            else:
                yield from self._row(cells, line)

    def _row(self, cells: Sequence[str], line: int) -> Iterator[ProtocolRow | Problem]:
        """Yield a row, or its problem and then, if it names a file, the row as a rejected one."""
        id_, label, _, _, path, attack, speaker, split, _, _, _, language = cells
        code = _known(language.lower())
        row = ProtocolRow(
            path="/".join(part for part in path.removeprefix(ROOT).split("/") if part not in ("", ".")),
            line=line,
            id=id_,
            label=LABELS.get(label, ""),
            attack=None if label == "real" else _known(attack),
            speaker=_known(speaker),
            split=SPLITS.get(split),
            language=LANGUAGES.get(code, code) if code else None,
        )
        fault = _fault(id_, label, path, split, row.path) or _nul(cells)
        if fault:
            yield self.problem(row, *fault)
            row = row._replace(is_rejected=True)
        if fault is None or (path.startswith(ROOT) and row.path and not leaves_root(row.path)):
            yield row

    def problem(self, row: ProtocolRow, reason: str, detail: str, path: str = "") -> Problem:
        """Return a problem of a row with its class; its path is the line of the protocol, or `path`."""
        return Problem(
            path or f"{self.protocol_name}:{row.line}",
            reason,
            detail,
            row.label or None,
            self.artifact if row.label == "spoof" else None,
            row.attack,
            row.language,
        )


def _fault(id_: str, label: str, path: str, split: str, name: str) -> tuple[str, str] | None:
    """Return the reason and the detail of a malformed row, else None; `name` is its path below the root."""
    if label not in LABELS:
        return "unknown-label", f"{label!r}; known: {', '.join(LABELS)}"
    if split not in SPLITS:
        return "unknown-split", f"{split!r}; known: {', '.join(SPLITS)}"
    if not _known(id_):
        return "malformed-row", "found no ID; expected the name of the utterance"
    if not _known(path):
        return "missing", f"{id_}: the protocol has no path for it"
    if not path.startswith(ROOT):
        return "malformed-row", f"found the path {quoted(path)}; expected one that begins with {ROOT}"
    if not name or leaves_root(name):
        return "unsafe-path", f"found {quoted(path)}; expected a file below the root"
    return None


def _nul(cells: Sequence[str]) -> tuple[str, str] | None:
    """Return reason and detail if a cell has a NUL."""
    text = ",".join(cells)
    return ("malformed-row", f"found a NUL in {quoted(text)}; expected text") if "\0" in text else None


def _known(cell: str) -> str | None:
    """Return the cell; None if it means unknown."""
    return None if cell in ("", UNKNOWN_CELL) else cell
