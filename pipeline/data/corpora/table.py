"""Read delimited text strictly: each physical line is one row and is parsed on its own.

No cell contains a line end, so a stray quote costs its own line and nothing else: it cannot swallow rows or move a
label to another file. A line that cannot be read becomes `Malformed`; a fault of the whole table is an `InputError`.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.errors import InputError, UnreadableError
from pipeline.storage import Folder

SEPARATORS = {"space": None, "comma": ",", "tab": "\t", "pipe": "|"}
"""Separators of columns by name; `space` is any run of spaces and tabs. Only tables with commas have quoted cells."""

MAX_QUOTED_CHARACTERS = 80
"""Longer lines are shortened in messages."""

_QUOTED_CELL = re.compile(r'\s*"((?:[^"]|"")*)"\s*(?=,|\Z)')

_BYTE_ORDER_MARK = "\ufeff"

_OTHER_FORMATS = [
    (re.compile(beginning, re.IGNORECASE), description)
    for beginning, description in (
        (rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf", "compressed; unpack it"),
        (rb"PK\x03\x04", "a zip archive or an XLSX workbook; save the table as text"),
        (rb"\xd0\xcf\x11\xe0", "an XLS workbook; save the table as text"),
        (rb"PAR1\x15", "a Parquet file; save the table as text"),
        (rb"%PDF-", "a PDF; get the table itself"),
        (rb"\xff\xfe|\xfe\xff", "UTF-16; save it as UTF-8"),
        (rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml)\b", "a web page; download the table itself"),
        (rb"version https://git-lfs", "a pointer of Git LFS; get the table itself with `git lfs pull`"),
    )
]
_LONGEST_BEGINNING = 512


@dataclass(frozen=True, slots=True)
class Malformed:
    """A line that is not a row of its table."""

    found: str

    def detail(self, expected: str) -> str:
        """Say what was found and what was expected."""
        return f"found {self.found}; expected {expected}"


class Table:
    """One table, whose lines are read once, in order. Blank lines are skipped, but count as lines."""

    def __init__(self, folder: Folder, name: str, separator: str) -> None:
        self.location = folder.location(name)
        self.separator = separator
        self.lines = _read_lines(folder, name, self.location)
        """Line numbers, from 1, with the text of each line."""

    def header(self, required: Sequence[str]) -> list[str]:
        """Read the next line as the names of the columns.

        Raises:
            InputError: the table is not text, or a required column is missing or is named twice.
        """
        number, line = next(self.lines, (1, ""))
        names = line if isinstance(line, Malformed) else split_cells(line, self.separator)
        expected = f"expected {', '.join(required)}, separated by {self.separator}"
        if isinstance(names, Malformed):
            raise InputError(f"{self.location}: its header has {names.found} (line {number}); {expected}")
        found = f"line {number} has {describe_columns(names)}" if line else "it is empty"
        lacking = [name for name in required if name not in names]
        if lacking:
            raise InputError(f"{self.location}: its header lacks {_listed(lacking)}; {found}; {expected}")
        counts = Counter(names)
        repeated = [name for name in required if counts[name] > 1]
        if repeated:
            raise InputError(f"{self.location}: its header repeats {_listed(repeated)}; {found}; {expected}")
        return names

    def rows(
        self, columns: Sequence[str], *, has_header: bool
    ) -> Iterator[tuple[int, list[str] | Malformed]]:
        """Yield line numbers and cells, without spaces around them; every row has one cell per column.

        Args:
            columns: names of the columns, in order.
            has_header: whether the table begins with these names; they are then no row where they occur again, as in
                tables that were joined into one.

        Raises:
            InputError: the table is not text, or it has a second header with another order of columns.
        """
        names, in_any_order = list(columns), sorted(columns)
        for number, line in self.lines:
            if isinstance(line, Malformed):
                yield number, line
                continue
            cells = split_cells(line, self.separator)
            if isinstance(cells, Malformed):
                yield number, cells
            elif len(cells) != len(names):
                yield number, Malformed(f"{_num_columns(cells)} in {quoted(line)}")
            elif has_header and cells == names:
                yield number, Malformed(f"the header again in {quoted(line)}")
            elif has_header and cells[0] in names and sorted(cells) == in_any_order:
                raise InputError(
                    f"{self.location}: another header, in line {number}, has {describe_columns(cells)}; "
                    f"expected the order of the first one, {', '.join(names)}; split the table into two"
                )
            else:
                yield number, cells


def split_cells(line: str, separator: str) -> list[str] | Malformed:
    """Split a line into cells without spaces around them.

    In a table with commas, a cell may be quoted as a whole; a quote within is then written twice. Quotes in other
    cells are plain text, but their number must be even.
    """
    delimiter = SEPARATORS[separator]
    if delimiter is None:
        cells = line.replace("\t", " ").split(" ")
        return [cell for cell in cells if cell] if "" in cells else cells
    if delimiter != "," or '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    cells = []
    position = 0
    while True:
        match = _QUOTED_CELL.match(line, position)
        if match:
            cell, end = match[1].replace('""', '"'), match.end()
        else:
            end = line.find(",", position)
            end = len(line) if end < 0 else end
            cell = line[position:end]
            if cell.count('"') % 2 or cell.lstrip().startswith('"'):
                return Malformed(f"an unbalanced quote in column {len(cells) + 1} of {quoted(line)}")
        cells.append(cell.strip())
        if end == len(line):
            return cells
        position = end + 1


def describe_columns(names: Sequence[str]) -> str:
    """Return the number and the names of columns: `2 columns: file, label`."""
    return f"{_num_columns(names)}: {quoted(', '.join(names))[1:-1]}"


def quoted(text: str) -> str:
    """Return a text as a literal that is one line of printable characters, shortened if it is long."""
    is_long = len(text) > MAX_QUOTED_CHARACTERS
    return repr(f"{text[: MAX_QUOTED_CHARACTERS - 1]}…" if is_long else text)


def leaves_root(path: str) -> bool:
    """Whether a path of a table is not one below a root; a backslash in it may be part of a name."""
    if path.startswith("/") or "\0" in path:
        return True
    return ".." in path and ".." in path.replace("\\", "/").split("/")


def _num_columns(cells: Sequence[str]) -> str:
    return f"{len(cells)} column{'' if len(cells) == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _read_lines(folder: Folder, name: str, location: str) -> Iterator[tuple[int, str | Malformed]]:
    try:
        with _open(folder, name) as file:
            beginning = file.read(_LONGEST_BEGINNING)
            for pattern, description in _OTHER_FORMATS:
                if pattern.match(beginning):
                    raise InputError(f"{location}: not a table in UTF-8: it is {description}")
            file.seek(0)
            number = 0
            for block in file:
                # The lines of bytes end with \n, \r or \r\n; those of text also with U+2028 or a form feed.
                for content in block.splitlines():
                    number += 1
                    line = _decode(content)
                    if isinstance(line, Malformed) or line.strip():
                        yield number, line
    except FileNotFoundError as error:
        raise InputError(f"{location}: no such file; expected a table") from error
    except UnreadableError as error:  # ends the corpus, unlike that of an audio file
        raise InputError(f"{error}; expected a table") from error


def _open(folder: Folder, name: str) -> BinaryIO:
    """Open a table; from S3 it is fetched with one request, because all of it will be read."""
    return folder.open(name) if folder.is_local else io.BytesIO(folder.read(name))


def _decode(content: bytes) -> str | Malformed:
    """Decode a line; the byte order mark at the beginning of a table, or of one appended to it, is dropped."""
    try:
        line = content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"the byte 0x{content[error.start]:02x}, which is not UTF-8,"
        return Malformed(f"{byte} in {quoted(content.decode('utf-8', 'backslashreplace'))}")
    if line.isascii():
        return line
    line = line.removeprefix(_BYTE_ORDER_MARK)
    return Malformed(f"a byte order mark within {quoted(line)}") if _BYTE_ORDER_MARK in line else line
