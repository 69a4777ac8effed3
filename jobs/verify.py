"""Check a store against a snapshot: hash every tar, decode every utterance, list exact duplicates.

    bonafide verify STORE

Prints one line per fault. The exit status is 1 if anything is damaged or missing.

Only the store is read: the check shows that the shards are still those that the snapshot lists, and hold the audio that
their indexes describe. It does not open the files of the corpora, so it tells neither whether they have changed since
nor whether they were decoded correctly. `bonafide ingest` finds files that have changed, by their size and time, and
builds their shards again.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass

from jobs.ingestion.verification import verify_batch
from jobs.ray_session import cluster_use, ray_session, task_for_each
from pipeline import tables
from pipeline.config import run
from pipeline.fields import Location, Names
from pipeline.progress import Progress, counted
from pipeline.storage import Folder


@dataclass(frozen=True)
class VerifyConfig:
    """Which store to check."""

    store: Location
    """Folder or s3:// URI of a store that `bonafide ingest` has filled."""
    snapshot: str = "latest"
    """Name of the snapshot."""
    corpora: Names = Names()
    """Corpora to check; by default all corpora of the snapshot."""
    decode: bool = True
    """Also decode every utterance; otherwise only hash the tars."""


def main(config: VerifyConfig) -> None:
    """Check every shard, one Ray task each."""
    from pipeline.data.store.layout import index_name
    from pipeline.data.store.regions import find_fault
    from pipeline.data.store.snapshot import load_snapshot, only_named

    store = Folder(config.store)
    snapshot = only_named(load_snapshot(store, config.snapshot), config.corpora)
    shards = [
        {
            "corpus": corpus.name,
            "shard": shard.name,
            "sha256": shard.sha256,
            "num_utterances": shard.num_utterances,
        }
        for corpus in snapshot.corpora.values()
        for shard in corpus.shards
    ]
    num_faults = 0
    with ray_session(), Progress("verifying", len(shards), "shard", cluster_use) as progress:
        verified = task_for_each(shards).map_batches(
            functools.partial(verify_batch, store=store, decode=config.decode), batch_size=1, num_cpus=1
        )
        for row in verified.iter_rows():
            for fault in row["faults"]:
                print(fault, flush=True)
                num_faults += 1
            progress.add(audio_s=row["seconds"])
    for corpus in snapshot.corpora.values():
        fault = find_fault(store, corpus.name, corpus.regions.digest) if corpus.regions else None
        if fault:
            print(f"{corpus.name}: its regions: {fault}; `bonafide ingest` writes them again", flush=True)
            num_faults += 1
    print_duplicates(store, snapshot.duplicates)
    if num_faults:
        print(
            f"{counted(num_faults, 'fault')} in snapshot {snapshot.name}; to rebuild a shard, delete its index "
            f"({store.location(index_name('CORPUS', 'SHARD'))}) and run `bonafide ingest`"
        )
        raise SystemExit(1)
    print(f"snapshot {snapshot.name}: {counted(len(shards), 'shard')} checked, all intact")


def print_duplicates(store: Folder, name: str | None) -> None:
    """Print where identical audio occurs.

    Args:
        store: holds the table.
        name: path of the table of duplicates in the store, or None if there are none.
    """
    from pipeline.data.store.duplicates import count_overlaps

    if name is None:
        print("no exact duplicates")
        return
    duplicates = tables.read_table(store, name)
    for places, count in count_overlaps(duplicates).items():
        print(f"duplicates in {places}: {count}")
    print(f"all duplicates: {store.location(name)}")


if __name__ == "__main__":
    sys.exit(run(main))
