"""Ingests that are running in a store, and its garbage collection: which of them may work at the same time.

Any number of ingests may. A garbage collection works alone, because an ingest refers to shards that no snapshot lists
yet. Each announces itself with a lease before it looks for the others, so of two that start together at least one sees
the other.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline import lease
from pipeline.data.store import layout
from pipeline.lease import Fence
from pipeline.storage import Folder


@contextlib.contextmanager
def ingesting(store: Folder) -> Iterator[Fence]:
    """Announce an ingest until the block ends; yields what to check before a snapshot is committed.

    Raises:
        InputError: a garbage collection is deleting files of the store.
    """
    with _announced(store, layout.running_ingest_name(uuid.uuid4().hex[:12])) as fence:
        remedy = "it deletes files of this store: wait until it ends"
        lease.check_free(store.folder(layout.RUNNING_COLLECTION), remedy)
        yield fence


@contextlib.contextmanager
def collecting(store: Folder) -> Iterator[None]:
    """Keep ingests away from a store until the block ends.

    Raises:
        InputError: an ingest or another garbage collection is running in the store.
    """
    with _announced(store, layout.RUNNING_COLLECTION), contextlib.ExitStack() as stack:
        for ingest in layout.running_ingests(store):
            # An ingest that seemed to be dead, but was only suspended, sees that its lease is lost.
            stack.enter_context(_announced(store, ingest))
        yield


@contextlib.contextmanager
def _announced(store: Folder, name: str) -> Iterator[Fence]:
    """Hold the lease on a folder of the store, and leave no trace of it."""
    folder = store.folder(name)
    remedy = "an ingest and a garbage collection cannot run at the same time: wait until it ends"
    with contextlib.ExitStack() as stack:
        if store.is_local:
            stack.callback(_remove_folders, _missing_folders(Path(folder.location(lease.LEASE))))
        held = stack.enter_context(lease.held(folder, remedy=remedy))
        stack.callback(held.withdraw)
        yield held.fence


def _missing_folders(folder: Path) -> list[Path]:
    """A folder and those above it that do not exist, the deepest first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _remove_folders(folders: list[Path]) -> None:
    """Remove those of the folders that are empty, the deepest first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
