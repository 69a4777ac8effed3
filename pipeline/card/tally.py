"""What the shards of a snapshot hold, counted in one pass over their indexes.

Every index becomes four small tables of counts, which are added up as they come; the rows of a whole snapshot are
never in memory at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.audio.load import SAMPLE_RATE
from pipeline.data.store.shards import INDEX, map_indexes
from pipeline.data.store.snapshot import Snapshot
from pipeline.storage import Folder

CONTENT = ("corpus", "label", "artifact", "language", "split")
CHAIN = (
    "corpus",
    "label",
    "codec",
    "encoding",
    "sample_rate",
    "bandwidth",
    "num_channels",
    "bit_depth",
    "decoder",
)
BITRATES = ("corpus", "label", "bitrate_class")
DURATIONS = ("corpus", "label", "duration_class")

READ = sorted({*CONTENT, *CHAIN, "bitrate", "seconds"} & set(INDEX.names))
"""The columns of an index that are counted."""

DURATION_CLASSES_PER_OCTAVE = 8
SHORTEST_S = 0.01

USUAL_KBITS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 512, 768, 1024, 1536, 3072)
"""Bit rates in kbit/s; every other one counts as the nearest of these, by ratio."""
UNKNOWN_BITRATE = -1

SHARDS_AT_ONCE = 64
"""Indexes that are counted before their counts are added up."""

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Cells:
    """Utterances and seconds by the values of some columns."""

    table: pa.Table
    """The columns, then num_utterances and seconds; one row per combination of values."""

    def utterances(self, *columns: str) -> dict[Key, int]:
        """Number of utterances by the values of some of the columns, in the order of the values."""
        return self._sums("num_utterances", columns)

    def hours(self, *columns: str) -> dict[Key, float]:
        """Hours by the values of some of the columns, in the order of the values."""
        return {key: seconds / 3600 for key, seconds in self._sums("seconds", columns).items()}

    def _sums(self, value: str, columns: Sequence[str]) -> dict[Key, Any]:
        table = _grouped(self.table, columns, [(value, "sum")])
        keys = zip(*(table[column].to_pylist() for column in columns), strict=True)
        found = dict(zip(keys, table[f"{value}_sum"].to_pylist(), strict=True))
        return {key: found[key] for key in sorted(found, key=_none_last)}


@dataclass(frozen=True, slots=True)
class Tally:
    """All counts of a snapshot."""

    content: Cells
    """By `CONTENT`."""
    chain: Cells
    """By `CHAIN`: what the signal went through before it came here."""
    bitrates: Cells
    """By `BITRATES`."""
    durations: Cells
    """By `DURATIONS`."""


def tally(store: Folder, snapshot: Snapshot) -> Tally:
    """Count the utterances and seconds of a snapshot; the same snapshot gives the same numbers to the last bit."""
    shards = [
        (corpus.name, shard.name)
        for corpus in snapshot.corpora.values()
        for shard in corpus.shards
        if shard.num_utterances
    ]
    sums = count_rows(INDEX.empty_table())
    counts = map_indexes(count_rows, store, shards, READ)
    while some := list(itertools.islice(counts, SHARDS_AT_ONCE)):
        sums = [_add_up(parts) for parts in zip(sums, *some, strict=True)]
    return Tally(*map(Cells, sums))


def count_rows(index: pa.Table) -> list[pa.Table]:
    """The four tables of a `Tally`, in its order, for rows of an index."""
    seconds = index["seconds"].cast(pa.float64())
    index = index.set_column(index.schema.get_field_index("seconds"), "seconds", seconds)
    for name, column in (
        ("bandwidth", _bandwidth(index["sample_rate"])),
        ("bitrate_class", _bitrate_class(index["bitrate"])),
        ("duration_class", _duration_class(seconds)),
    ):
        index = index.append_column(name, column)
    counted = [("seconds", "count"), ("seconds", "sum")]
    tables = (_grouped(index, columns, counted) for columns in (CONTENT, CHAIN, BITRATES, DURATIONS))
    return [table.rename_columns([*table.column_names[:-2], "num_utterances", "seconds"]) for table in tables]


def _add_up(parts: Iterable[pa.Table]) -> pa.Table:
    table = pa.concat_tables(parts)
    columns = table.column_names[:-2]
    sums = _grouped(table, columns, [("num_utterances", "sum"), ("seconds", "sum")])
    return sums.rename_columns(table.column_names)


def _grouped(table: pa.Table, columns: Sequence[str], aggregates: Sequence[tuple[str, str]]) -> pa.Table:
    """Columns, then aggregates; one thread, because the order of additions decides the last bits of a sum."""
    groups = table.group_by(list(columns), use_threads=False).aggregate(list(aggregates))
    return groups.select([*columns, *(f"{column}_{function}" for column, function in aggregates)])


def _bandwidth(sample_rate: pa.ChunkedArray) -> pa.ChunkedArray:
    """Highest frequency in Hz that is left of a recording in a shard."""
    return pc.divide(pc.min_element_wise(sample_rate, SAMPLE_RATE, skip_nulls=False), 2)


def _bitrate_class(bitrate: pa.ChunkedArray) -> pa.Array:
    """Position in `USUAL_KBITS`."""
    usual = np.array(USUAL_KBITS, np.float64)
    kbits = pc.fill_null(bitrate, 0).to_numpy() / 1000
    classes = np.searchsorted(np.sqrt(usual[:-1] * usual[1:]), kbits)
    return pa.array(np.where(kbits > 0, classes, UNKNOWN_BITRATE).astype(np.int8))


def _duration_class(seconds: pa.ChunkedArray) -> pa.Array:
    """Eighths of an octave above one second, rounded down."""
    octaves = np.log2(np.maximum(seconds.to_numpy(), SHORTEST_S))
    return pa.array(np.floor(DURATION_CLASSES_PER_OCTAVE * octaves).astype(np.int16))


def duration_edge(duration_class: float) -> float:
    """Where a class of durations begins, in seconds."""
    return float(2.0 ** (duration_class / DURATION_CLASSES_PER_OCTAVE))


def _none_last(key: Key) -> Key:
    return tuple((value is None, 0 if value is None else value) for value in key)
