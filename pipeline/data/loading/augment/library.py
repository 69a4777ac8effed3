"""Find the recordings that augmentations draw from in a store, and bring their shards to this machine.

The shards of a store on S3 are copied to the machine once, for all its processes: a ranged request for each utterance
would keep the batches waiting.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.data.corpora.manifest import AUGMENTATION
from pipeline.data.loading.augment.recordings import Recordings, Source
from pipeline.data.store.layout import REBUILD_HINT, tar_name
from pipeline.data.store.shard_tables import ShardSummary, read_indexes
from pipeline.data.store.shared import share_folder
from pipeline.data.store.snapshot import Snapshot, only_roles
from pipeline.errors import InputError
from pipeline.storage import Folder, user_folder

PART_BYTES = 2**24
"""Bytes of a request when a shard is copied from S3."""

NUM_REQUESTS = 16
"""Requests that are in flight when shards are copied from S3."""


def check_sources(snapshot: Snapshot, sources: Iterable[Source]) -> None:
    """Check that a snapshot has recordings of each kind in each corpus.

    Raises:
        InputError: the snapshot lacks a corpus, or the corpus has utterances, or no recordings of the kind.
    """
    known = ", ".join(only_roles(snapshot, [AUGMENTATION]).corpora) or "none"
    for corpora, kind in sources:
        for name in corpora:
            corpus = snapshot.corpora.get(name)
            if corpus is None:
                raise InputError(
                    f"--augment: from = {name!r}: snapshot {snapshot.name} has no such corpus for augmentation; it "
                    f"has: {known}; ingest one with a manifest in manifests/augmentation/"
                )
            if corpus.role != AUGMENTATION:
                raise InputError(
                    f"--augment: from = {name!r}: a corpus with the role {corpus.role}; those for augmentation: {known}"
                )
            if not corpus.hours.get(kind):
                kinds = ", ".join(corpus.hours) or "nothing"
                raise InputError(
                    f"--augment: from = {name!r}: the corpus has no recordings of the kind {kind}; it has: {kinds}"
                )


def load_recordings(
    store: Folder, snapshot: Snapshot, sources: Collection[Source]
) -> dict[Source, Recordings]:
    """Load the places of recordings, and copy the shards of a remote store to this machine unless they are there.

    Args:
        store: holds the shards.
        snapshot: lists the shards; see `check_sources`.
        sources: corpora and kinds.
    """
    if not sources:
        return {}
    names = {name for corpora, _ in sources for name in corpora}
    corpora = {name: corpus for name, corpus in snapshot.corpora.items() if name in names}
    shards = [shard for corpus in corpora.values() for shard in corpus.shards]
    tars = _local_tars(store, shards)
    columns = ["corpus", "label", "offset", "num_bytes", "seconds"]
    indexes = read_indexes(store, [(shard.corpus, shard.name) for shard in shards], columns)
    rows = pa.concat_tables(
        index.replace_schema_metadata(None).append_column(
            "shard", pa.array(np.full(len(index), number, np.int32))
        )
        for number, index in enumerate(indexes)
    )
    rows = rows.sort_by([("shard", "ascending"), ("offset", "ascending")])
    return {source: _recordings(rows, tars, source) for source in sources}


def _recordings(rows: pa.Table, tars: tuple[str, ...], source: Source) -> Recordings:
    corpora, kind = source
    mask = pc.and_(pc.is_in(rows["corpus"], pa.array(corpora)), pc.equal(rows["label"], kind))
    chosen = rows.filter(mask)
    seconds = chosen["seconds"].to_numpy().astype(np.float64)
    return Recordings(
        tars,
        chosen["shard"].to_numpy(),
        chosen["offset"].to_numpy(),
        chosen["num_bytes"].to_numpy(),
        np.rint(seconds * SAMPLE_RATE).astype(np.int32),
    )


def _local_tars(store: Folder, shards: list[ShardSummary]) -> tuple[str, ...]:
    """Paths of shards on this machine; the first process copies those of a remote store while the others wait."""
    names = [tar_name(shard.corpus, shard.name) for shard in shards]
    if store.is_local:
        return tuple(map(store.location, names))
    key = json.dumps([(shard.name, shard.sha256) for shard in shards])
    folder = user_folder("recordings") / hashlib.sha256(key.encode()).hexdigest()[:16]
    paths = [folder / f"{shard.name}.tar" for shard in shards]

    def check(_: Path) -> None:
        for path, shard in zip(paths, shards, strict=True):
            if path.stat().st_size != shard.num_bytes:
                raise FileNotFoundError(path)

    share_folder(folder, check, functools.partial(_copy_shards, store, shards))
    return tuple(map(str, paths))


def _copy_shards(store: Folder, shards: list[ShardSummary], folder: Path) -> None:
    """Copy tars from a remote store, with several ranged requests at once."""
    staged = folder.parent / f".{folder.name}"
    staged.mkdir()
    for shard in shards:
        with (staged / f"{shard.name}.tar").open("wb") as file:
            file.truncate(shard.num_bytes)

    def copy(part: tuple[ShardSummary, int]) -> None:
        shard, begin = part
        name, end = tar_name(shard.corpus, shard.name), min(begin + PART_BYTES, shard.num_bytes)
        try:
            data = store.read(name, begin, end)
        except FileNotFoundError:
            raise InputError(
                f"{store.location(name)}: the snapshot lists this shard, but it is missing; {REBUILD_HINT}"
            ) from None
        with (staged / f"{shard.name}.tar").open("r+b") as file:
            file.seek(begin)
            file.write(data)

    parts = [(shard, begin) for shard in shards for begin in range(0, shard.num_bytes, PART_BYTES)]
    with ThreadPoolExecutor(NUM_REQUESTS) as threads:
        for _ in threads.map(copy, parts):
            pass
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)
