"""Builds planned shards one after the other, in this process, as a reference for those that Ray builds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline import tables
from pipeline.data.store.shards import build_shard
from pipeline.data.store.snapshot import load_snapshot
from pipeline.storage import Folder


def build_shards(planned: Folder, roots: Mapping[str, Path], store: Folder) -> None:
    """Build all shards of the newest snapshot of a store once more.

    Args:
        planned: a store; its catalogs say which utterances each shard has.
        roots: corpus → folder of its files.
        store: where to build them.
    """
    for name, corpus in load_snapshot(planned).corpora.items():
        table = tables.read_table(planned, corpus.catalog)
        for shard in corpus.shards:
            members = [row for row in table.to_pylist() if row["shard"] == shard.name]
            root = Folder(str(roots[name]))
            build_shard(shard.name, members, root, store, licence=corpus.licence, resampler="soxr_hq")
