"""Which utterance goes into which shard, decided before any audio is read.

The plan is pure and append-only: utterances that share a shard go on sharing it, new ones fill new shards. A shard
is named by everything that determines its bytes, so a change in one member renames the shard that holds it and no
other, and what is left to build is a difference of two sets of names.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.corpora.utterance import utterance_uid

FLAC_BYTES_PER_S = 18_000
"""What a second of 16 kHz mono speech takes as FLAC (65 MB/h)."""

MEMBER_BYTES = 2560
"""What a member of a shard takes beside its audio: two tar headers, padding, and its JSON."""

PYTHON_ROWS = 100_000
"""Rows that are Python objects at a time: they take ten times the memory of a table."""

IDENTITY = (
    "uid",
    "id",
    "path",
    "start",
    "end",
    "label",
    "artifact",
    "attack",
    "speaker",
    "language",
    "split",
    "fingerprint",
)
"""The columns that determine the bytes of a shard, beside the build_settings of its audio."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """A shard that may not be written yet."""

    name: str
    """`<corpus>-<16 hex digits>`: the same members and build_settings, the same name."""
    corpus: str
    first_row: int
    """Of its members in the planned catalog."""
    num_rows: int
    seconds: float
    """By the headers."""


def plan_shards(
    catalog: pa.Table, previous: pa.Table | None, *, build_settings: str, target_bytes: int
) -> tuple[pa.Table, list[ShardPlan]]:
    """Give each utterance of one corpus its shard.

    Args:
        catalog: rows of one corpus, in any order.
        previous: the catalog planned last time (columns path and shard), or None.
        build_settings: what else determines the bytes of a shard: pipeline version, decoders, resampler.
        target_bytes: size that a new shard grows to.

    Returns:
        The catalog with its `shard` column filled, sorted so that the members of a shard follow each other in the
        order of the tar, problems last; and one plan per shard, in that order.
    """
    is_problem = pc.is_valid(catalog["problem"]).to_numpy(zero_copy_only=False)
    order = _file_order(catalog)
    start = pc.fill_null(catalog["start"], 0).to_numpy()
    group = _groups(catalog, previous, order, target_bytes, ~is_problem)
    rows = np.lexsort((start, order, group, is_problem))
    num_members = int((~is_problem).sum())

    ordered = catalog.take(pa.array(rows))
    group = group[rows][:num_members]
    bounds = np.flatnonzero(np.diff(group, prepend=-1, append=-1)) if num_members else np.zeros(0, np.int64)
    members = ordered.slice(0, num_members)
    digests = _digests(members, bounds, build_settings)
    seconds = np.concatenate([[0.0], np.cumsum(pc.fill_null(members["seconds"], 0.0).to_numpy())])
    corpus = members["corpus"][0].as_py() if num_members else ""
    plans = [
        ShardPlan(
            f"{corpus}-{digest}", corpus, int(first), int(last - first), float(seconds[last] - seconds[first])
        )
        for digest, (first, last) in zip(digests, itertools.pairwise(bounds.tolist()), strict=True)
    ]
    shard = np.repeat(np.arange(len(plans)), np.diff(bounds))
    names = pa.array([plan.name for plan in plans], pa.string()).take(pa.array(shard))
    none = pa.nulls(len(catalog) - num_members, pa.string())
    column = catalog.schema.get_field_index("shard")
    return ordered.set_column(column, "shard", pa.chunked_array([names, none], pa.string())), plans


def missing(plans: Iterable[ShardPlan], done: set[str]) -> list[ShardPlan]:
    """The planned shards that are not done, each once."""
    return [plan for plan in plans if plan.name not in done]


def _file_order(catalog: pa.Table) -> NDArray[np.uint64]:
    """A hash of each row's file: a fixed shuffle in which the segments of a file stay together."""
    hashes = (
        int(utterance_uid(corpus, path), 16)
        for batch in catalog.select(["corpus", "path"]).to_batches(max_chunksize=PYTHON_ROWS)
        for corpus, path in zip(batch["corpus"].to_pylist(), batch["path"].to_pylist(), strict=True)
    )
    return np.fromiter(hashes, np.uint64, len(catalog))


def _groups(
    catalog: pa.Table,
    previous: pa.Table | None,
    order: NDArray[np.uint64],
    target_bytes: int,
    is_member: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """A number per row, equal for rows that share a shard: shards of before first, in their order, then new ones."""
    group = np.full(len(catalog), -1, np.int64)
    num_before = 0
    if previous is not None:
        previous = previous.filter(pc.is_valid(previous["shard"]))
        names = pc.unique(previous["shard"])
        num_before = len(names)
        shard_of_row = pc.index_in(previous["shard"], names)
        position = pc.index_in(catalog["path"], pc.cast(previous["path"], pa.string()).combine_chunks())
        found = pc.is_valid(position).to_numpy(zero_copy_only=False)
        known = shard_of_row.take(pc.drop_null(position.combine_chunks())).to_numpy()
        group[found] = known
    is_new = is_member & (group < 0)
    new = np.flatnonzero(is_new)
    new = new[np.argsort(order[new], kind="stable")]
    seconds = pc.fill_null(catalog["seconds"], 0.0).to_numpy()[new]
    cost = np.cumsum(seconds * FLAC_BYTES_PER_S + MEMBER_BYTES)
    # The first segment of a file decides for all of them.
    first_of_file = np.maximum.accumulate(
        np.where(np.diff(order[new].astype(np.int64), prepend=0) != 0, np.arange(len(new)), 0)
    )
    group[new] = num_before + (cost[first_of_file] // target_bytes).astype(np.int64)
    return group


def _digests(members: pa.Table, bounds: NDArray[np.int64], build_settings: str) -> list[str]:
    """16 hex digits for each run of members between two bounds, over the values of their columns."""
    digests = [hashlib.sha256(build_settings.encode()) for _ in bounds[1:]]
    for name in IDENTITY:
        for values in _values(members[name]):
            for digest, (first, last) in zip(digests, itertools.pairwise(bounds.tolist()), strict=True):
                digest.update(values(first, last))
    return [digest.hexdigest()[:16] for digest in digests]


def _values(column: pa.ChunkedArray) -> Iterator[Callable[[int, int], memoryview]]:
    """Functions of (first row, last row) whose bytes together say what a column holds there.

    An empty string and none differ in their lengths, and lengths keep neighbours apart.
    """
    if not pa.types.is_string(column.type):
        numbers = pc.fill_null(column, -1).to_numpy()
        yield lambda first, last: numbers[first:last].data
        return
    lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy()
    yield lambda first, last: lengths[first:last].data
    # Offsets of 64 bits: the paths of a large corpus are more than 2 GiB.
    text = pc.fill_null(column, "").cast(pa.large_string()).combine_chunks()
    _, offsets, data = text.buffers()
    begin = np.frombuffer(offsets, np.int64)[text.offset :]
    characters = np.frombuffer(data or b"", np.uint8)
    yield lambda first, last: characters[begin[first] : begin[last]].data
