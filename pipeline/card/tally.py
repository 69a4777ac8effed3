"""Count the utterances and seconds of a snapshot in one pass over its shard indexes.

Each index is reduced to six small tables of counts, which are summed as they arrive, so the rows of a whole snapshot
are never in memory at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.corpora.domains import DOMAIN_COLUMNS
from pipeline.data.loading.buckets import BatchConfig, expected_seconds
from pipeline.data.store.shard_tables import INDEX, map_indexes
from pipeline.data.store.snapshot import Snapshot
from pipeline.storage import Folder

CONTENT = ("corpus", "label", "artifact", "language", "split")
CHAIN = (
    "corpus",
    "label",
    "codec",
    "encoding",
    "sample_rate",
    "num_channels",
    "bit_depth",
    "decoder",
)
BITRATES = ("corpus", "label", "bitrate_bin")
BANDWIDTHS = ("corpus", "label", "bandwidth")
DURATIONS = ("corpus", "label", "duration_bin")
DOMAINS = (*DOMAIN_COLUMNS, "split")

CROP = BatchConfig()
"""The default crop of a training, after which the hours of domains count."""

INDEX_COLUMNS = sorted({*CONTENT, *CHAIN, *DOMAINS, "bitrate", "bandwidth_hz", "seconds"} & set(INDEX.names))
"""The index columns that the counts need."""

DURATION_BINS_PER_OCTAVE = 8
SHORTEST_S = 0.01
"""Shorter utterances are counted with this duration."""

BITRATE_BINS_KBITS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 512, 768, 1024, 1536, 3072)
"""Common bit rates in kbit/s; other rates are counted with the nearest one by ratio."""

UNKNOWN_BITRATE = -1

BANDWIDTH_STEP_HZ = 250
"""Measured bandwidths are counted in steps of this size, rounded down."""

SHARDS_PER_BATCH = 64
"""How many indexes are counted before their counts are summed."""

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """Utterances and seconds by the values of some columns."""

    table: pa.Table
    """The columns, then num_utterances and seconds; one row for each combination of values."""

    def utterances(self, *columns: str) -> dict[Key, int]:
        """Sum the utterances by the values of some columns, sorted by value."""
        return self._sums("num_utterances", columns)

    def hours(self, *columns: str) -> dict[Key, float]:
        """Sum the hours by the values of some columns, sorted by value."""
        return {key: seconds / 3600 for key, seconds in self._sums("seconds", columns).items()}

    def _sums(self, value: str, columns: Sequence[str]) -> dict[Key, Any]:
        table = _grouped(self.table, columns, [(value, "sum")])
        keys = zip(*(table[column].to_pylist() for column in columns), strict=True)
        sums = dict(zip(keys, table[f"{value}_sum"].to_pylist(), strict=True))
        return {key: sums[key] for key in sorted(sums, key=_none_last)}


@dataclass(frozen=True, slots=True)
class Tally:
    """All counts of a snapshot."""

    content: Counts
    """By `CONTENT`."""
    chain: Counts
    """By `CHAIN`: the format of the published file."""
    bitrates: Counts
    """By `BITRATES`."""
    bandwidths: Counts
    """By `BANDWIDTHS`: measured in the decoded audio, in Hz; None if it was too short, or not measured."""
    durations: Counts
    """By `DURATIONS`."""
    domains: Counts
    """By `DOMAINS`; the seconds are those after cropping."""


def tally_snapshot(store: Folder, snapshot: Snapshot) -> Tally:
    """Count the utterances and seconds of a snapshot; equal snapshots give bit-identical numbers."""
    shards = [
        (corpus.name, shard.name)
        for corpus in snapshot.corpora.values()
        for shard in corpus.shards
        if shard.num_utterances
    ]
    sums = count_rows(INDEX.empty_table())
    counts = map_indexes(count_rows, store, shards, INDEX_COLUMNS)
    while batch := list(itertools.islice(counts, SHARDS_PER_BATCH)):
        sums = [_sum_tables(parts) for parts in zip(sums, *batch, strict=True)]
    return Tally(*map(Counts, sums))


def count_rows(index: pa.Table) -> list[pa.Table]:
    """Reduce the rows of an index to the six tables of a `Tally`, in the order of its fields."""
    seconds = index["seconds"].cast(pa.float64())
    index = index.set_column(index.schema.get_field_index("seconds"), "seconds", seconds)
    for name, column in (
        ("bandwidth", _bandwidth(index["bandwidth_hz"])),
        ("bitrate_bin", _bitrate_bin(index["bitrate"])),
        ("duration_bin", _duration_bin(seconds)),
        ("expected_s", pa.array(expected_seconds(index["seconds"].to_numpy(), CROP).astype(np.float64))),
    ):
        index = index.append_column(name, column)
    counted = [("seconds", "count"), ("seconds", "sum")]
    tables = (
        _grouped(index, columns, counted) for columns in (CONTENT, CHAIN, BITRATES, BANDWIDTHS, DURATIONS)
    )
    cropped = _grouped(index, DOMAINS, [("expected_s", "count"), ("expected_s", "sum")])
    return [
        table.rename_columns([*table.column_names[:-2], "num_utterances", "seconds"])
        for table in (*tables, cropped)
    ]


def _sum_tables(parts: Iterable[pa.Table]) -> pa.Table:
    table = pa.concat_tables(parts)
    columns = table.column_names[:-2]
    sums = _grouped(table, columns, [("num_utterances", "sum"), ("seconds", "sum")])
    return sums.rename_columns(table.column_names)


def _grouped(table: pa.Table, columns: Sequence[str], aggregates: Sequence[tuple[str, str]]) -> pa.Table:
    """Group by columns, on one thread: the order of additions determines the last bits of a sum."""
    groups = table.group_by(list(columns), use_threads=False).aggregate(list(aggregates))
    return groups.select([*columns, *(f"{column}_{function}" for column, function in aggregates)])


def _bandwidth(bandwidth_hz: pa.ChunkedArray) -> pa.ChunkedArray:
    """The measured bandwidth in whole steps, Hz."""
    steps = pc.floor(pc.divide(bandwidth_hz, float(BANDWIDTH_STEP_HZ)))
    return pc.multiply(steps, float(BANDWIDTH_STEP_HZ)).cast(pa.int32())


def _bitrate_bin(bitrate: pa.ChunkedArray) -> pa.Array:
    """The position of the nearest bin in `BITRATE_BINS_KBITS`, or `UNKNOWN_BITRATE`."""
    bins = np.array(BITRATE_BINS_KBITS, np.float64)
    kbits = pc.fill_null(bitrate, 0).to_numpy() / 1000
    nearest = np.searchsorted(np.sqrt(bins[:-1] * bins[1:]), kbits)
    return pa.array(np.where(kbits > 0, nearest, UNKNOWN_BITRATE).astype(np.int8))


def _duration_bin(seconds: pa.ChunkedArray) -> pa.Array:
    """The number of bins above one second, rounded down; negative below one second."""
    octaves = np.log2(np.maximum(seconds.to_numpy(), SHORTEST_S))
    return pa.array(np.floor(DURATION_BINS_PER_OCTAVE * octaves).astype(np.int16))


def duration_bin_edge(duration_bin: float) -> float:
    """The lower edge of a duration bin in seconds; add 0.5 to the bin for its centre, 1 for its upper edge."""
    return float(2.0 ** (duration_bin / DURATION_BINS_PER_OCTAVE))


def _none_last(key: Key) -> Key:
    return tuple((value is None, 0 if value is None else value) for value in key)
