"""What finished shards recorded about their source files: which bytes they read, and what they had to reject.

A catalog tells from size and time that a file may have changed. Whether its content has, only the shard that was built
from it can tell. And a file that was rejected because it could not be read, or because the decoder died, may be fine by
now although it has not changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.data.audio.versions import codec_versions
from pipeline.data.store.catalog import MISSING, UNREADABLE, CatalogRow, catalog_decoders
from pipeline.data.store.fingerprints import was_tried_again
from pipeline.data.store.read_ahead import read_ahead
from pipeline.data.store.shard_tables import (
    CHANGED,
    INDEX_READERS,
    ShardSummary,
    read_index,
    read_rejects,
    read_summary,
)
from pipeline.storage import Folder

PASSING = frozenset({CHANGED, MISSING, UNREADABLE})
"""Reasons of rejects that may have passed; their files are tried again by every ingest."""

FATAL = frozenset({"crashes_decoder", "hangs_decoder"})
"""Reasons of rejects that may have been the machine's fault: their files are tried again once by the same decoders."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What one shard recorded; paths are hashed, because a whole corpus may have changed."""

    keys: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """[N] Hashes of the paths of its files, sorted."""
    digests: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """[N] Digests of their bytes."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Reason by path, of files with a reject."""

    def digest(self, path: str) -> str | None:
        """The digest of the bytes that were read of a file; None if unknown."""
        key = _key(path)
        position = int(np.searchsorted(self.keys, key))
        if position == len(self.keys) or self.keys[position] != key:
            return None
        return f"{int(self.digests[position]):016x}"


class SourceRecords:
    """Completes the rows of changed files by the digest that their shard recorded, and marks rows to be tried again."""

    def __init__(
        self, store: Folder, corpus: str, catalog: str, rejecting: Mapping[str, Sequence[str]]
    ) -> None:
        """Read which decoders made the earlier catalog.

        Args:
            store: holds the shards.
            corpus: name of the corpus.
            catalog: path of its earlier catalog in the store; empty if there is none.
            rejecting: reasons of the rejects of each shard that has any; see `rejecting_shards`.
        """
        self._store, self._corpus = store, corpus
        decoders, earlier = codec_versions(), _decoders(store, catalog) if catalog else {}
        self._has_new_decoders = bool(catalog) and earlier != decoders
        # Another policy renames, and so rebuilds, every shard anyway.
        is_rebuilt = earlier.get("policy") != decoders["policy"]
        self._suspects = {
            shard
            for shard, reasons in rejecting.items()
            if not is_rebuilt and (self._has_new_decoders or not (PASSING | FATAL).isdisjoint(reasons))
        }
        self._records: dict[str, _Record] = {}

    def fill(self, rows: Sequence[CatalogRow]) -> list[CatalogRow]:
        """The rows of `KnownFiles.fill`; changed files with their digest, and those to be tried again with a detail."""
        shards = dict.fromkeys(row["shard"] for row in rows if self._is_looked_up(row))
        missing = [shard for shard in shards if shard is not None and shard not in self._records]
        records = read_ahead(self._read, missing, num_threads=INDEX_READERS, num_ahead=2 * INDEX_READERS)
        self._records.update(zip(missing, records, strict=True))
        return [self._filled(row) if self._is_looked_up(row) else row for row in rows]

    def _is_looked_up(self, row: CatalogRow) -> bool:
        if row["problem"] is not None or row["fingerprint"] is None or row["shard"] is None:
            return False
        return row["codec"] is None or row["shard"] in self._suspects

    def _filled(self, row: CatalogRow) -> CatalogRow:
        shard, fingerprint = row["shard"], row["fingerprint"]
        assert shard is not None and fingerprint is not None
        record = self._records[shard]
        reason = record.reasons.get(row["path"])
        if reason is not None and self._is_tried_again(reason, fingerprint):
            return {**row, "detail": f"rejected as {reason} by {shard}"}
        if row["codec"] is None and row["source_digest"] is None:
            return {**row, "source_digest": record.digest(row["path"])}
        return row

    def _is_tried_again(self, reason: str, fingerprint: str) -> bool:
        if self._has_new_decoders or reason in PASSING:
            return True
        return reason in FATAL and not was_tried_again(fingerprint)

    def _read(self, shard: str) -> _Record:
        """The record of a shard; an empty one if it has not been finished."""
        try:
            index = read_index(self._store, self._corpus, shard, ["path", "source_digest"])
        except FileNotFoundError:
            return _Record()
        tables = [index.replace_schema_metadata(None)]
        reasons: dict[str, str] = {}
        if read_summary(self._store, self._corpus, shard).rejected:
            rejects = read_rejects(self._store, self._corpus, shard, ["path", "source_digest", "reason"])
            tables.append(rejects.select(["path", "source_digest"]))
            reasons = dict(zip(rejects["path"].to_pylist(), rejects["reason"].to_pylist(), strict=True))
        files = pa.concat_tables(tables).drop_null()
        digest_of = dict(zip(files["path"].to_pylist(), files["source_digest"].to_pylist(), strict=True))
        keys = np.fromiter(map(_key, digest_of), np.uint64, len(digest_of))
        digests = np.fromiter((int(digest, 16) for digest in digest_of.values()), np.uint64, len(digest_of))
        order = np.argsort(keys)
        return _Record(keys[order], digests[order], reasons)


def rejecting_shards(summaries: Iterable[ShardSummary]) -> dict[str, tuple[str, ...]]:
    """The reasons of the rejects of each shard that has any."""
    return {summary.name: tuple(summary.rejected) for summary in summaries if summary.rejected}


def _decoders(store: Folder, catalog: str) -> dict[str, str]:
    with store.open(catalog) as file:
        return catalog_decoders(pq.read_schema(file))


def _key(path: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "big"))
