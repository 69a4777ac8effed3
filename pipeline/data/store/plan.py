"""Decide which utterance goes into which shard, before any audio is read.

The plan is pure and append-only: utterances that share a shard continue to share it, and new ones fill new shards. A
shard is named by a hash of everything that determines its bytes, so changing one utterance renames its shard and no
other, and the shards left to build are a set difference of names.
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
"""Average size of 16 kHz mono speech as FLAC (65 MB/h)."""

MEMBER_BYTES = 2560
"""Size of a member of a shard without its audio: two tar headers, padding and its JSON."""

PYTHON_ROWS = 100_000
"""Rows that are converted to Python objects at a time; those take ten times the memory of a table."""

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
"""The columns that, together with the build settings, determine the bytes of a shard."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """A shard, whether or not it has been built."""

    name: str
    """`CORPUS-DIGEST`, where the digest depends on the members and the build settings."""
    corpus: str
    first_row: int
    """Position of the first member in the planned catalog."""
    num_rows: int
    """Number of members."""
    seconds: float
    """Length of the members according to the headers of their files."""


def plan_shards(
    catalog: pa.Table, previous: pa.Table | None, *, build_settings: str, target_bytes: int
) -> tuple[pa.Table, list[ShardPlan]]:
    """Assign each utterance of one corpus to a shard.

    Args:
        catalog: rows of one corpus, in any order.
        previous: the catalog of the previous plan (columns path and shard), or None.
        build_settings: everything else that determines the bytes of a shard; see `shards.build_settings`.
        target_bytes: approximate size of a new shard.

    Returns:
        The catalog with its `shard` column filled, sorted so that the members of a shard are consecutive and in the
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


def missing_shards(plans: Iterable[ShardPlan], finished: set[str]) -> list[ShardPlan]:
    """The planned shards that are not among the finished ones."""
    return [plan for plan in plans if plan.name not in finished]


def _file_order(catalog: pa.Table) -> NDArray[np.uint64]:
    """[N] A hash of the file of each row: a reproducible shuffle that keeps the segments of a file together."""
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
    """[N] A number per row, equal for rows that share a shard: previous shards first, in their order, then new ones."""
    group = np.full(len(catalog), -1, np.int64)
    num_previous = 0
    if previous is not None:
        previous = previous.filter(pc.is_valid(previous["shard"]))
        names = pc.unique(previous["shard"])
        num_previous = len(names)
        shard_of_row = pc.index_in(previous["shard"], names)
        position = pc.index_in(catalog["path"], pc.cast(previous["path"], pa.string()).combine_chunks())
        is_known = pc.is_valid(position).to_numpy(zero_copy_only=False)
        group[is_known] = shard_of_row.take(pc.drop_null(position.combine_chunks())).to_numpy()
    is_new = is_member & (group < 0)
    new = np.flatnonzero(is_new)
    new = new[np.argsort(order[new], kind="stable")]
    seconds = pc.fill_null(catalog["seconds"], 0.0).to_numpy()[new]
    cost = np.cumsum(seconds * FLAC_BYTES_PER_S + MEMBER_BYTES)
    # All segments of a file go where its first one goes.
    first_of_file = np.maximum.accumulate(
        np.where(np.diff(order[new].astype(np.int64), prepend=0) != 0, np.arange(len(new)), 0)
    )
    group[new] = num_previous + (cost[first_of_file] // target_bytes).astype(np.int64)
    return group


def _digests(members: pa.Table, bounds: NDArray[np.int64], build_settings: str) -> list[str]:
    """16 hex digits for each run of members between two bounds: a hash of their `IDENTITY` columns."""
    digests = [hashlib.sha256(build_settings.encode()) for _ in bounds[1:]]
    for name in IDENTITY:
        for values in _values(members[name]):
            for digest, (first, last) in zip(digests, itertools.pairwise(bounds.tolist()), strict=True):
                digest.update(values(first, last))
    return [digest.hexdigest()[:16] for digest in digests]


def _values(column: pa.ChunkedArray) -> Iterator[Callable[[int, int], memoryview]]:
    """Functions of (first row, end row) that return bytes; together the bytes identify the values of those rows.

    Strings also contribute their lengths: null has length −1, and "a", "bc" differs from "ab", "c".
    """
    if not pa.types.is_string(column.type):
        numbers = pc.fill_null(column, -1).to_numpy()
        yield lambda first, last: numbers[first:last].data
        return
    lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy()
    yield lambda first, last: lengths[first:last].data
    # 64-bit offsets: the paths of a large corpus can exceed 2 GiB.
    text = pc.fill_null(column, "").cast(pa.large_string()).combine_chunks()
    _, offsets, data = text.buffers()
    begin = np.frombuffer(offsets, np.int64)[text.offset :]
    characters = np.frombuffer(data or b"", np.uint8)
    yield lambda first, last: characters[begin[first] : begin[last]].data
