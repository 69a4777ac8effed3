"""Regions in text: one in each line, or several in the last cells of a line.

This covers the `.vad` files of PartialSpoof, RTTM, the labels of LlamaPartialSpoof, and CSV.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.data.corpora.pattern import Pattern
from pipeline.data.corpora.region_files import RegionFiles
from pipeline.data.corpora.regions.row import RegionRow, region_row
from pipeline.data.corpora.table import Malformed, Table, quoted, split_cells
from pipeline.errors import InputError
from pipeline.storage import Folder


def read_columns(
    rules: RegionFiles, root: Folder, name: str, file_fields: Mapping[str, str | None]
) -> Iterator[RegionRow]:
    """Yield the regions in a text file, in the order of its lines.

    Args:
        rules: the columns.
        root: folder of the corpus.
        name: path of the file below the root.
        file_fields: fields that the path states.

    Raises:
        InputError: the file is no such table, or one of its lines is malformed.
    """
    table = Table(root, name, rules.separator)
    table.lines = (
        (line, text) for line, text in table.lines if isinstance(text, Malformed) or not rules.skips(text)
    )
    columns: Sequence[Pattern | None] = rules.columns
    if rules.named_columns:
        columns = [rules.named_columns.get(column) for column in table.header(list(rules.named_columns))]
    expected = (
        f"{', '.join(rules.fields)}, separated by {rules.separator}, with times in seconds from 0; "
        "skip lists other lines"
    )
    for line, text in table.lines:
        cells = text if isinstance(text, Malformed) else split_cells(text, rules.separator)
        rows = [cells] if isinstance(cells, Malformed) else _rows(rules, columns, cells, file_fields, line)
        for row in rows:
            if isinstance(row, Malformed):
                raise InputError(f"{table.location}: line {line}: {row.detail(expected)}")
            yield row


def _rows(
    rules: RegionFiles,
    columns: Sequence[Pattern | None],
    cells: Sequence[str],
    file_fields: Mapping[str, str | None],
    line: int,
) -> Iterator[RegionRow | Malformed]:
    """Yield the regions of a line."""
    if len(cells) < len(columns) or (len(cells) > len(columns) and not rules.each):
        yield Malformed(f"{len(cells)} columns instead of {len(columns)} in {quoted(' '.join(cells))}")
        return
    fields = dict(file_fields)
    for column, cell in zip(columns, cells, strict=False):
        captured = column.match(cell) if column else {}
        if captured is None:
            yield Malformed(
                f"{quoted(cell)} in a column of {column.text.replace('**}', '}') if column else ''}"
            )
            return
        fields.update(captured)
    if not rules.each:
        yield region_row(rules.key, fields, line)
        return
    for cell in cells[len(columns) :]:
        captured = rules.each.match(cell)
        yield (
            Malformed(f"{quoted(cell)} instead of {rules.each.text}")
            if captured is None
            else region_row(rules.key, {**fields, **captured}, line)
        )
