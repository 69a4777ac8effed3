"""List, and with --delete remove, what no snapshot of a store names.

    bonafide gc STORE
    bonafide gc STORE --delete

Young files are spared: they may belong to an ingest that is still running.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import run
from pipeline.storage import FileInfo, Folder

SWEPT = ("shards", "index", "rejects", "catalog", "duplicates", "attempts")
"""Folders of a store whose files are named by snapshots, or serve only while shards are built."""


@dataclass(frozen=True)
class GcConfig:
    """What to sweep."""

    store: str
    """Folder or s3:// URI that `bonafide ingest` has filled."""
    delete: bool = False
    """Remove what is listed."""
    older_than_hours: float = 24.0
    """Age from which a file counts as left behind, h."""


def main(config: GcConfig) -> None:
    """List and remove."""
    from pipeline.data.store.snapshot import all_snapshots, named_files

    store = Folder(config.store)
    named = {name for snapshot in all_snapshots(store) for name in named_files(snapshot)}
    num_bytes = num_files = 0
    for info in unnamed(store, named, before=time.time() - config.older_than_hours * 3600):
        print(f"{info.size:>14,}  {info.name}")
        num_files, num_bytes = num_files + 1, num_bytes + info.size
        if config.delete:
            store.delete(info.name)
    done = "removed" if config.delete else "to remove with --delete"
    print(
        f"{num_files} files, {num_bytes / 2**20:,.1f} MiB {done}; {len(named)} files are named by snapshots"
    )


def unnamed(store: Folder, named: set[str], before: float) -> Iterator[FileInfo]:
    """The files that no snapshot names, modified before a time in seconds since the epoch."""
    for folder in SWEPT:
        if store.exists(folder):
            for info in list(store.find(folder)):
                if info.name not in named and info.modified < before:
                    yield info


if __name__ == "__main__":
    sys.exit(run(main))
