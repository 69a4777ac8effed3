"""Decide which utterance goes into which shard, before any audio is read.

The plan is append-only: utterances that share a shard continue to share it, and new ones fill new shards. A shard is
named by a hash of everything that determines its bytes, so changing one utterance renames its shard and no other, and
the shards left to build are a set difference of names.

The rows of a corpus are sorted in a temporary file and pass through memory a few shards at a time.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.data.corpora.utterance import utterance_uid
from pipeline.data.store.catalog import CATALOG
from pipeline.spill import Spill

FLAC_BYTES_PER_S = 18_000
"""Average size of 16 kHz mono speech as FLAC (65 MB/h)."""

MEMBER_BYTES = 2560
"""Size of a member of a shard without its audio: two tar headers, padding and its JSON."""

NUM_BUCKETS = 256
"""Parts into which the rows of a corpus are divided, so that only one of them has to be in memory."""

PROBLEM_ROWS = 50_000
"""Rows with problems that are returned at a time."""

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

_FILE_HASH = "file_hash"
"""Column of the temporary file; see `_file_hashes`."""

_SORTED = CATALOG.append(pa.field(_FILE_HASH, pa.uint64()))


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """A shard, whether or not it has been built."""

    name: str
    """`CORPUS-DIGEST`, where the digest depends on the members and the build settings."""
    corpus: str
    num_rows: int
    """Number of members."""


def plan_shards(
    parts: Iterable[pa.Table], previous_shards: Sequence[str], *, build_settings: str, target_bytes: int
) -> Iterator[tuple[ShardPlan | None, pa.Table]]:
    """Assign each utterance of one corpus to a shard.

    Args:
        parts: catalog rows of one corpus, in any order; the column `shard` names the earlier shard of a file.
        previous_shards: the shards of the previous plan, in its order. Rows of other shards are planned anew.
        build_settings: everything else that determines the bytes of a shard; see `shards.build_settings`.
        target_bytes: approximate size of a new shard.

    Yields:
        Each shard with its members in the order of the tar, the previous shards first; then, with None for a shard,
        the rows with problems. The column `shard` is filled. No table is empty.
    """
    with Spill(_SORTED) as rows:
        for part in parts:
            _distribute(rows, part, previous_shards)
        runs = itertools.chain(_previous_runs(rows, previous_shards), _new_runs(rows, target_bytes))
        for members, groups in runs:
            yield from _shards(members, groups, build_settings)
        for problems in _problems(rows):
            yield None, _cataloged(problems, pa.nulls(len(problems), pa.string()))


def missing_shards(plans: Iterable[ShardPlan], finished: set[str]) -> list[ShardPlan]:
    """The planned shards that are not among the finished ones."""
    return [plan for plan in plans if plan.name not in finished]


def _distribute(rows: Spill, part: pa.Table, previous_shards: Sequence[str]) -> None:
    """Put rows into buckets: those of previous shards first, then those of new files, problems last."""
    file_hash = _file_hashes(part)
    previous = _previous_numbers(part, previous_shards)
    by_hash = (file_hash // (2**64 // NUM_BUCKETS)).astype(np.int64)
    by_shard = previous * NUM_BUCKETS // max(1, len(previous_shards))
    buckets = np.where(previous < 0, NUM_BUCKETS + by_hash, by_shard)
    is_problem = pc.is_valid(part["problem"]).to_numpy(zero_copy_only=False)
    buckets[is_problem] = 2 * NUM_BUCKETS + by_hash[is_problem]
    rows.add(part.append_column(_SORTED.field(_FILE_HASH), pa.array(file_hash)), buckets)


def _file_hashes(rows: pa.Table) -> NDArray[np.uint64]:
    """[N] A hash of the file of each row: a reproducible shuffle that keeps the segments of a file together."""
    hashes = np.empty(len(rows), np.uint64)
    is_whole = pc.and_(pc.is_valid(rows["uid"]), pc.is_null(rows["start"]))
    mask = is_whole.to_numpy(zero_copy_only=False)
    digits = "".join(
        rows["uid"].filter(is_whole).to_pylist()
    )  # the uid of a whole file is the hash of its path
    hashes[mask] = np.frombuffer(bytes.fromhex(digits), ">u8")
    others = rows.select(["corpus", "path"]).filter(pc.invert(is_whole)).to_pylist()
    hashes[~mask] = [int(utterance_uid(row["corpus"], row["path"]), 16) for row in others]
    return hashes


def _previous_numbers(rows: pa.Table, previous_shards: Sequence[str]) -> NDArray[np.int64]:
    """[N] The position of each row's earlier shard among the previous shards; −1 if it was in none of them."""
    numbers = pc.index_in(rows["shard"], pa.array(previous_shards, pa.string()))
    return np.asarray(pc.fill_null(numbers, -1).to_numpy(), np.int64)


Run = tuple[pa.Table, NDArray[np.int64]]
"""Members in their final order, and [N] an ascending number for each, equal for those that share a shard."""


def _previous_runs(rows: Spill, previous_shards: Sequence[str]) -> Iterator[Run]:
    """The members of the previous shards, in the order of those; no shard is divided between two runs."""
    for table in _tables(rows, first_bucket=0):
        groups = _previous_numbers(table, previous_shards)
        order = np.lexsort((*_order_in_shard(table), groups))
        yield table.take(pa.array(order)), groups[order]


def _new_runs(rows: Spill, target_bytes: int) -> Iterator[Run]:
    """The members of new shards, in the order of their files' hashes; no shard is divided between two runs."""
    total = 0.0
    begun, begun_group = _SORTED.empty_table(), 0
    for unsorted in _tables(rows, first_bucket=NUM_BUCKETS):
        table = unsorted.take(pa.array(np.lexsort(_order_in_shard(unsorted))))
        seconds = pc.fill_null(table["seconds"], 0.0).to_numpy()
        cost = np.cumsum(np.concatenate([[total], seconds * FLAC_BYTES_PER_S + MEMBER_BYTES]))[1:]
        total = float(cost[-1])
        # All segments of a file go where its first one goes.
        is_first = np.diff(table[_FILE_HASH].to_numpy().astype(np.int64), prepend=0) != 0
        first_of_file = np.maximum.accumulate(np.where(is_first, np.arange(len(table)), 0))
        groups = (cost[first_of_file] // target_bytes).astype(np.int64)

        table = pa.concat_tables([begun, table])
        groups = np.concatenate([np.full(len(begun), begun_group, np.int64), groups])
        num_complete = int(np.searchsorted(groups, groups[-1]))
        begun, begun_group = table.slice(num_complete), int(groups[-1])
        if num_complete:
            yield table.slice(0, num_complete), groups[:num_complete]
    if len(begun):
        yield begun, np.full(len(begun), begun_group, np.int64)


def _problems(rows: Spill) -> Iterator[pa.Table]:
    """The rows with problems, in the order of their files' hashes."""
    waiting: list[pa.Table] = []
    for table in _tables(rows, first_bucket=2 * NUM_BUCKETS):
        waiting.append(table.take(pa.array(np.lexsort(_order_in_shard(table)))))
        if sum(map(len, waiting)) >= PROBLEM_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _tables(rows: Spill, first_bucket: int) -> Iterator[pa.Table]:
    """The rows of the buckets of one kind."""
    for bucket in rows.buckets():
        if first_bucket <= bucket < first_bucket + NUM_BUCKETS:
            yield rows.read(bucket)


def _order_in_shard(rows: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Keys for `np.lexsort`: files by their hash, segments of a file by their start."""
    return pc.fill_null(rows["start"], 0).to_numpy(), rows[_FILE_HASH].to_numpy()


def _shards(
    members: pa.Table, groups: NDArray[np.int64], build_settings: str
) -> Iterator[tuple[ShardPlan, pa.Table]]:
    """Each group of members as a shard."""
    bounds = np.flatnonzero(np.diff(groups, prepend=-1, append=-1))
    corpus = members["corpus"][0].as_py()
    names = [f"{corpus}-{digest}" for digest in _digests(members, bounds, build_settings)]
    shard = pa.array(names, pa.string()).take(pa.array(np.repeat(np.arange(len(names)), np.diff(bounds))))
    rows = _cataloged(members, shard)
    for name, (first, last) in zip(names, itertools.pairwise(bounds.tolist()), strict=True):
        yield ShardPlan(name, corpus, last - first), rows.slice(first, last - first)


def _cataloged(rows: pa.Table, shard: pa.Array) -> pa.Table:
    """Rows of the temporary file as rows of the catalog."""
    columns = [shard if name == "shard" else rows[name] for name in CATALOG.names]
    return pa.table(columns, schema=CATALOG)


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
