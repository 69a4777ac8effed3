"""List, and with --delete remove, the files of a store that no snapshot references.

    bonafide gc STORE
    bonafide gc STORE --delete

Recent files are kept, so that an ingest that was interrupted continues where it was. Nothing is deleted while an ingest
is running, and no ingest starts meanwhile.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import run
from pipeline.errors import InputError
from pipeline.fields import Location, PositiveOrZero
from pipeline.progress import counted
from pipeline.storage import FileInfo, Folder, is_staged


@dataclass(frozen=True)
class GcConfig:
    """Which files to delete."""

    store: Location
    """Folder or s3:// URI of a store that `bonafide ingest` has filled."""
    delete: bool = False
    """Delete the listed files."""
    older_than_hours: PositiveOrZero = 24.0
    """Files younger than this many hours are not listed."""


def main(config: GcConfig) -> None:
    """List the unreferenced files, and delete them if asked to."""
    from pipeline.data.store.running import collecting

    store = Folder(config.store)
    if not store.exists():
        raise InputError(f"{store.uri}: no such store")
    with collecting(store) if config.delete else contextlib.nullcontext():
        collect(store, config)


def collect(store: Folder, config: GcConfig) -> None:
    """List or delete the unreferenced files of a store in which no ingest is running."""
    from pipeline.data.store.snapshot import all_snapshots, referenced_files

    referenced = {name for snapshot in all_snapshots(store) for name in referenced_files(snapshot)}
    num_bytes = num_files = 0
    for info in unreferenced_files(store, referenced, before=time.time() - config.older_than_hours * 3600):
        print(f"{info.size:>14,}  {info.name}")
        num_files, num_bytes = num_files + 1, num_bytes + info.size
        if config.delete:
            store.delete(info.name)
    action = "deleted" if config.delete else "to delete with --delete"
    print(
        f"{counted(num_files, 'file')}, {num_bytes / 2**20:,.1f} MiB {action}; "
        f"snapshots reference {counted(len(referenced), 'file')}"
    )


def unreferenced_files(store: Folder, referenced: set[str], before: float) -> Iterator[FileInfo]:
    """The files that garbage collection may delete.

    Args:
        store: to list.
        referenced: paths of files to keep.
        before: files modified later are kept, seconds since the epoch.
    """
    from pipeline.data.store.layout import KEPT_FOLDERS, SWEPT_FOLDERS

    for folder in (*SWEPT_FOLDERS, *KEPT_FOLDERS):
        if store.exists(folder):
            for info in list(store.find(folder)):
                is_unreferenced = folder in SWEPT_FOLDERS and info.name not in referenced
                if not info.problem and info.modified < before and (is_unreferenced or is_staged(info.name)):
                    yield info


if __name__ == "__main__":
    sys.exit(run(main))
