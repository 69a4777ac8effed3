"""Check shards against a snapshot and against themselves, in Ray tasks; the source files are not opened."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.flac import decode_pcm, pcm_digest
from pipeline.data.store.layout import tar_name
from pipeline.data.store.shard_tables import IndexRow, read_index
from pipeline.storage import Folder


def verify_batch(batch: dict[str, Sequence[Any]], store: Folder, decode: bool) -> dict[str, list[Any]]:
    """The faults and the seconds of audio of each shard of a batch of Ray Data."""
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
        corpus: corpus of the shard.
        name: name of the shard.
        sha256: SHA-256 of the tar, according to the snapshot.
        index: rows of the shard's index.
        decode: also decode an intact tar.
    """
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
