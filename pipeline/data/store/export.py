"""Export a snapshot as an AntiDeepfake protocol CSV: one row per file, in twelve columns."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import pyarrow.compute as pc

from pipeline.data.corpora.csv_rows import COLUMNS, LABELS, ROOT, SPLITS, UNKNOWN_CELL
from pipeline.data.store.shard_tables import read_indexes
from pipeline.data.store.snapshot import Snapshot, snapshot_shards
from pipeline.storage import Folder

_INDEX_COLUMNS = (
    *("id", "label", "seconds", "sample_rate", "corpus", "path", "attack", "speaker", "split"),
    *("num_channels", "encoding", "bit_depth", "language", "start"),
)
_LINE_END = re.compile(r"[\r\n]")
_LABEL_CELLS = {label: cell for cell, label in LABELS.items()}
_SPLIT_CELLS = {split: cell for cell, split in SPLITS.items()}


class ExportCounts(NamedTuple):
    """Counts of an export."""

    num_rows: int
    segments: Counter[str]
    """Omitted utterances by corpus: the format has no columns for a segment of a file."""
    line_ends: Counter[str]
    """Omitted files by corpus: the reader takes a line as a row, so no cell may have a line end."""


def write_protocol(
    file: BinaryIO, store: Folder, snapshot: Snapshot, folders: Mapping[str, str]
) -> ExportCounts:
    """Write the utterances of a snapshot as a protocol CSV, shard by shard.

    Args:
        file: open for writing; stays open.
        store: the store of the snapshot.
        snapshot: the shards to export; see `choose_corpora`.
        folders: folder of each corpus below the data root; paths of other corpora are relative to the data root.
    """
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    num_rows, segments, line_ends = 0, Counter[str](), Counter[str]()
    for table in read_indexes(store, snapshot_shards(snapshot), _INDEX_COLUMNS):
        files = table.filter(pc.is_null(table["start"]))
        segments.update(pc.filter(table["corpus"], pc.is_valid(table["start"])).to_pylist())
        for row in files.to_pylist():
            cells = _cells(row, folders)
            if any(_LINE_END.search(cell) for cell in cells):
                line_ends[row["corpus"]] += 1
                continue
            writer.writerow(cells)
            num_rows += 1
    text.detach()
    return ExportCounts(num_rows, segments, line_ends)


def _cells(row: Mapping[str, Any], folders: Mapping[str, str]) -> list[str]:
    folder = folders.get(row["corpus"], "")
    values = (
        row["id"],
        _LABEL_CELLS[row["label"]],
        f"{row['seconds']:.2f}",
        row["sample_rate"],
        ROOT + (f"{folder}/" if folder else "") + row["path"],
        row["attack"],
        row["speaker"],
        _SPLIT_CELLS[row["split"]],
        row["num_channels"],
        row["encoding"],
        row["bit_depth"],
        str(row["language"]).upper() if row["language"] else None,
    )
    return [UNKNOWN_CELL if value is None else str(value) for value in values]
