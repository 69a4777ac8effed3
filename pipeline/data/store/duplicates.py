"""Utterances whose audio is equal sample by sample, across corpora and splits.

Equal means equal 16 kHz PCM16 after decoding: another file name, codec setting or container does not hide it. Near
duplicates (other levels, cuts, codecs) are another question and get a column of their own when they are answered.
"""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.store.shards import read_index
from pipeline.storage import Folder

READERS = 16

DUPLICATES = pa.schema(
    [
        ("group", pa.int64()),  # equal numbers, equal audio
        ("pcm_sha256", pa.string()),
        ("uid", pa.string()),
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("seconds", pa.float32()),
    ]
)
"""Columns of a table of duplicates, in order; sorted by group, corpus and id."""


def find_duplicates(store: Folder, shards: Sequence[tuple[str, str]]) -> pa.Table:
    """Every utterance that shares its audio with another one.

    Reads the digests of all shards, 8 bytes of each, and whole rows only of the shards that hold duplicates.

    Args:
        store: holds the shards.
        shards: corpus and name of each.
    """
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        keys = list(pool.map(lambda shard: _keys(store, shard[0], shard[1]), shards))
        repeated = _repeated(np.concatenate(keys)) if keys else np.empty(0, np.uint64)
        holders = [
            shard for shard, of_shard in zip(shards, keys, strict=True) if np.isin(of_shard, repeated).any()
        ]
        tables = list(pool.map(lambda shard: _rows(store, shard[0], shard[1], repeated), holders))
    if not tables:
        return DUPLICATES.empty_table()
    rows = pa.concat_tables(tables)
    # A key is half of a digest: only equal digests are equal audio.
    counts = Counter(rows["pcm_sha256"].to_pylist())
    rows = rows.filter(
        pa.array([counts[digest] > 1 for digest in rows["pcm_sha256"].to_pylist()], pa.bool_())
    )
    rows = rows.sort_by(
        [("pcm_sha256", "ascending"), ("corpus", "ascending"), ("id", "ascending"), ("uid", "ascending")]
    )
    numbers: dict[str, int] = {}
    group = [numbers.setdefault(digest, len(numbers)) for digest in rows["pcm_sha256"].to_pylist()]
    return rows.add_column(0, "group", pa.array(group, pa.int64())).select(DUPLICATES.names).cast(DUPLICATES)


def count_overlaps(duplicates: pa.Table) -> dict[str, int]:
    """How many pieces of audio occur in which places: `decro/train + asvspoof2019_la/validation` → number."""
    places: dict[int, set[str]] = {}
    for group, corpus, split in zip(
        *(duplicates[name].to_pylist() for name in ("group", "corpus", "split")), strict=True
    ):
        places.setdefault(group, set()).add(f"{corpus}/{split or 'no split'}")
    return dict(sorted(Counter(" + ".join(sorted(found)) for found in places.values()).items()))


def _keys(store: Folder, corpus: str, name: str) -> NDArray[np.uint64]:
    digests = read_index(store, corpus, name, ["pcm_sha256"])["pcm_sha256"].to_pylist()
    return np.fromiter((int(digest[:16], 16) for digest in digests), np.uint64, len(digests))


def _repeated(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The keys that occur more than once, sorted."""
    keys = np.sort(keys)
    return np.unique(keys[1:][keys[1:] == keys[:-1]])


def _rows(store: Folder, corpus: str, name: str, repeated: NDArray[np.uint64]) -> pa.Table:
    columns = [column for column in DUPLICATES.names if column != "group"]
    rows = read_index(store, corpus, name, columns).replace_schema_metadata(None)
    keys = np.fromiter(
        (int(digest[:16], 16) for digest in rows["pcm_sha256"].to_pylist()), np.uint64, len(rows)
    )
    return rows.filter(pa.array(np.isin(keys, repeated)))
