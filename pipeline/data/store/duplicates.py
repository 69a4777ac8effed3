"""Utterances with sample-by-sample identical audio, across corpora and splits.

Identical means the same 16 kHz PCM16 after decoding, whatever the file name, codec settings or container. Near
duplicates (other levels, cuts, lossy codecs) are not found.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.store.shard_tables import map_indexes
from pipeline.storage import Folder

DUPLICATES = pa.schema(
    [
        ("group", pa.int64()),  # the same for identical audio
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
    """Every utterance that has the same audio as another one.

    First reads the digests of all shards, of which it keeps 8 bytes each, then whole rows of the shards that
    hold duplicates.

    Args:
        store: holds the shards.
        shards: corpus and name of each.
    """
    keys = list(map_indexes(_keys, store, shards, ["pcm_sha256"]))
    repeated = _repeated(np.concatenate(keys)) if keys else np.empty(0, np.uint64)
    shards_with_repeats = [
        shard for shard, shard_keys in zip(shards, keys, strict=True) if np.isin(shard_keys, repeated).any()
    ]
    if not shards_with_repeats:
        return DUPLICATES.empty_table()
    columns = [column for column in DUPLICATES.names if column != "group"]
    select = functools.partial(_rows_with_keys, keys=repeated)
    rows = pa.concat_tables(map_indexes(select, store, shards_with_repeats, columns))
    # A key is half of a digest, so rows with equal keys may still have different audio.
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
    """Count identical pieces of audio by the places that share them.

    Returns:
        Places such as `decro/train + asvspoof2019_la/validation`, sorted, each with its number of pieces of audio.
    """
    places: dict[int, set[str]] = {}
    for group, corpus, split in zip(
        *(duplicates[name].to_pylist() for name in ("group", "corpus", "split")), strict=True
    ):
        places.setdefault(group, set()).add(f"{corpus}/{split or 'no split'}")
    return dict(sorted(Counter(" + ".join(sorted(shared)) for shared in places.values()).items()))


def _keys(index: pa.Table) -> NDArray[np.uint64]:
    """[N] The first 8 bytes of the digest of each row."""
    digests = index["pcm_sha256"].to_pylist()
    return np.fromiter((int(digest[:16], 16) for digest in digests), np.uint64, len(digests))


def _repeated(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The keys that occur more than once, sorted."""
    keys = np.sort(keys)
    return np.unique(keys[1:][keys[1:] == keys[:-1]])


def _rows_with_keys(index: pa.Table, keys: NDArray[np.uint64]) -> pa.Table:
    rows = index.replace_schema_metadata(None)
    return rows.filter(pa.array(np.isin(_keys(rows), keys)))
