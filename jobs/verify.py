"""Check a store against a snapshot: hash every tar, decode every utterance, list exact duplicates.

    bonafide verify STORE

Prints one line per fault. The exit status is 1 if anything is damaged or missing.
"""

from __future__ import annotations

import functools
import hashlib
import io
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.ray_session import ray_session
from pipeline import tables
from pipeline.config import Names, run
from pipeline.progress import Progress
from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.data.store.shards import IndexRow


@dataclass(frozen=True)
class VerifyConfig:
    """Which store to check."""

    store: str
    """Folder or s3:// URI of a store that `bonafide ingest` has filled."""
    snapshot: str = "latest"
    """Name of the snapshot."""
    corpora: Names = Names()
    """Corpora to check; by default all corpora of the snapshot."""
    decode: bool = True
    """Also decode every utterance; otherwise only hash the tars."""


def main(config: VerifyConfig) -> None:
    """Check every shard, one Ray task each."""
    import ray

    from pipeline.data.store.layout import index_name
    from pipeline.data.store.snapshot import choose_corpora, load_snapshot

    store = Folder(config.store)
    snapshot = choose_corpora(load_snapshot(store, config.snapshot), config.corpora)
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
    progress = Progress("verifying", len(shards), "shards")
    with ray_session():
        verified = ray.data.from_items(shards, override_num_blocks=max(1, len(shards))).map_batches(
            functools.partial(verify_batch, store=store, decode=config.decode), batch_size=1, num_cpus=1
        )
        for row in verified.iter_rows():
            for fault in row["faults"]:
                print(fault, flush=True)
                num_faults += 1
            progress.add(audio_s=row["seconds"])
    progress.print_now()
    print_duplicates(store, snapshot.duplicates)
    if num_faults:
        print(
            f"{num_faults} faults in snapshot {snapshot.name}; to rebuild a shard, delete its index "
            f"({store.location(index_name('CORPUS', 'SHARD'))}) and run `bonafide ingest`"
        )
        raise SystemExit(1)
    print(f"snapshot {snapshot.name}: all {len(shards)} shards are intact")


def verify_batch(batch: dict[str, Sequence[Any]], store: Folder, decode: bool) -> dict[str, list[Any]]:
    """The faults and the seconds of audio of each shard of a batch of Ray Data."""
    from pipeline.data.store.shards import read_index

    faults, seconds = [], []
    for corpus, name, sha256, expected in zip(
        batch["corpus"], batch["shard"], batch["sha256"], batch["num_utterances"], strict=True
    ):
        try:
            index = read_index(store, corpus, name).to_pylist()
        except FileNotFoundError:
            faults.append([f"{name}: its index is missing"])
            seconds.append(0.0)
            continue
        shard_faults = list(check_shard(store, corpus, name, sha256, index, decode))
        if len(index) != expected:
            shard_faults.append(f"{name}: {len(index)} rows in its index, {expected} in the snapshot")
        faults.append(shard_faults)
        seconds.append(float(sum(row["seconds"] for row in index)))
    return {"faults": faults, "seconds": seconds}


def check_shard(
    store: Folder, corpus: str, name: str, sha256: str, index: Sequence[IndexRow], decode: bool
) -> Iterator[str]:
    """The faults of one shard, one line each.

    Args:
        store: holds the shard.
        corpus: of the shard.
        name: of the shard.
        sha256: of the tar, according to the snapshot.
        index: rows of the shard's index.
        decode: also decode an intact tar.
    """
    from pipeline.data.audio.errors import AudioError
    from pipeline.data.audio.flac import decode_pcm, pcm_digest
    from pipeline.data.store.layout import tar_name

    try:
        data = store.read(tar_name(corpus, name))
    except FileNotFoundError:
        yield f"{name}: its tar is missing"
        return
    is_intact = hashlib.sha256(data).hexdigest() == sha256
    if is_intact and not decode:
        return
    if not is_intact:
        yield f"{name}: its tar has changed"
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = set(tar.getnames())
    except tarfile.TarError as error:
        yield f"{name}: its tar cannot be read: {error}"
        return
    for row in index:
        if not {f"{row['uid']}.flac", f"{row['uid']}.json"} <= members:
            yield f"{name}: {row['uid']} ({row['id']}) is not in the tar"
            continue
        try:
            pcm = decode_pcm(data[row["offset"] : row["offset"] + row["num_bytes"]])
        except AudioError as error:
            yield f"{name}: {row['uid']} ({row['id']}): {error.detail}"
            continue
        if pcm_digest(pcm) != row["pcm_sha256"]:
            yield f"{name}: {row['uid']} ({row['id']}): its audio has changed"


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
