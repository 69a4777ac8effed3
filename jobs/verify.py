"""Hold a store against its snapshot: hash every tar, decode every utterance, list exact duplicates.

    bonafide verify STORE

Exit status 1 if anything is damaged or missing; what is wrong is printed line by line.
"""

from __future__ import annotations

import functools
import hashlib
import io
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.ray_session import ray_session
from pipeline import tables
from pipeline.config import Names, run
from pipeline.progress import Progress
from pipeline.storage import Folder


@dataclass(frozen=True)
class VerifyConfig:
    """Which store to check."""

    store: str
    """Folder or s3:// URI that `bonafide ingest` has filled."""
    snapshot: str = "latest"
    """Name of the snapshot."""
    corpora: Names = Names()
    """Corpora to check; all of the snapshot by default."""
    decode: bool = True
    """Decode every utterance as well; without it only bytes are compared."""


def main(config: VerifyConfig) -> None:
    """Check every shard, one Ray task each."""
    import ray

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
        checked = ray.data.from_items(shards, override_num_blocks=max(1, len(shards))).map_batches(
            functools.partial(verify_batch, store=store, decode=config.decode), batch_size=1, num_cpus=1
        )
        for row in checked.iter_rows():
            for fault in row["faults"]:
                print(fault, flush=True)
                num_faults += 1
            progress.add(audio_s=row["seconds"])
    progress.print_now()
    list_duplicates(store, snapshot.duplicates)
    if num_faults:
        print(
            f"{num_faults} faults in snapshot {snapshot.name}; to build a shard again, delete its index "
            f"({store.location('index/CORPUS/SHARD.parquet')}) and run `bonafide ingest`"
        )
        raise SystemExit(1)
    print(f"snapshot {snapshot.name}: {len(shards)} shards as they were written")


def verify_batch(batch: dict[str, Sequence[Any]], store: Folder, decode: bool) -> dict[str, list[Any]]:
    """What is wrong with the shards of a batch, in words."""
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
        found = list(check_shard(store, corpus, name, sha256, index, decode))
        if len(index) != expected:
            found.append(f"{name}: {len(index)} rows in its index, {expected} in the snapshot")
        faults.append(found)
        seconds.append(float(sum(row["seconds"] for row in index)))
    return {"faults": faults, "seconds": seconds}


def check_shard(
    store: Folder, corpus: str, name: str, sha256: str, index: Sequence[dict[str, Any]], decode: bool
) -> Iterator[str]:
    """The faults of one shard."""
    from pipeline.data.audio.errors import AudioError
    from pipeline.data.audio.flac import decode_flac, pcm_digest, quantise
    from pipeline.data.store.shards import tar_name

    try:
        data = store.read(tar_name(corpus, name))
    except FileNotFoundError:
        yield f"{name}: its tar is missing"
        return
    if hashlib.sha256(data).hexdigest() == sha256 and not decode:
        return
    if hashlib.sha256(data).hexdigest() != sha256:
        yield f"{name}: the bytes of its tar have changed"
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = set(tar.getnames())
    except tarfile.TarError as error:
        yield f"{name}: not a whole tar: {error}"
        return
    for row in index:
        if not {f"{row['uid']}.flac", f"{row['uid']}.json"} <= members:
            yield f"{name}: {row['uid']} ({row['id']}) is not in the tar"
            continue
        try:
            waveform = decode_flac(data[row["offset"] : row["offset"] + row["num_bytes"]])
        except AudioError as error:
            yield f"{name}: {row['uid']} ({row['id']}): {error.detail}"
            continue
        if pcm_digest(quantise(waveform)) != row["pcm_sha256"]:
            yield f"{name}: {row['uid']} ({row['id']}): other audio than was written"


def list_duplicates(store: Folder, name: str | None) -> None:
    """Print what the snapshot knows of exact duplicates."""
    from pipeline.data.store.duplicates import count_overlaps

    if name is None:
        print("no exact duplicates")
        return
    duplicates = tables.read_table(store, name)
    for place, count in count_overlaps(duplicates).items():
        print(f"{count} duplicates: {place}")
    print(f"all of them: {store.location(name)}")


if __name__ == "__main__":
    sys.exit(run(main))
