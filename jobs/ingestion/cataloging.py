"""What the corpora of an ingest hold: listed, labelled, and probed where a file is new or has changed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from jobs.ingestion.sources import Source
from pipeline import tables
from pipeline.data.audio.isolation import HANG_S, crash_safe
from pipeline.data.store import catalog as catalogs
from pipeline.data.store.snapshot import Snapshot
from pipeline.errors import InputError
from pipeline.progress import Progress
from pipeline.storage import Folder

if TYPE_CHECKING:
    from jobs.ingest import IngestConfig

PART_ROWS = 2000
"""Rows of a catalog that travel together, and are probed by one task."""

LISTED_HERE = 100_000
"""Rows that are listed in this process, in seconds, to see whether there is any need for Ray."""


def unchanged_corpora(
    sources: Mapping[str, Source], store: Folder, before: Snapshot | None, config: IngestConfig
) -> dict[str, pa.Table] | None:
    """The catalogs as `catalog_corpora` makes them, without Ray; None if a file has to be opened, or there are many."""
    if before is None:
        return None
    num_before = {name: before.corpora[name].found if name in before.corpora else 0 for name in sources}
    if sum(num_before.values()) > LISTED_HERE:
        return None
    num_listed = 0
    parts: dict[str, list[pa.Table]] = {name: [] for name in sources}
    for name in sorted(sources, key=lambda name: num_before[name]):  # what is new is soon found to be so
        source = sources[name]
        for rows in list_parts(source, store, _earlier_catalog(store, name, before)):
            num_listed += len(rows)
            if num_listed > LISTED_HERE or not all(map(catalogs.is_probed, rows)):
                return None
            cut = catalogs.probe_rows(rows, source.root, source.manifest, config.chunk_s)
            parts[name].append(catalogs.table(list(cut)))
    return _whole(parts, sources, config)


def catalog_corpora(
    sources: Mapping[str, Source],
    store: Folder,
    before: Snapshot | None,
    config: IngestConfig,
    probe: Callable[..., pa.Table] | None = None,
) -> dict[str, pa.Table]:
    """List, label and probe every corpus; rows in any order.

    Args:
        sources: corpora by name.
        store: knows the files of earlier runs.
        before: the latest snapshot.
        config: of the job.
        probe: opens the files of a part; `probe_corpora` by default.

    Raises:
        InputError: a corpus that was asked for is not where it was said to be.
    """
    import ray

    items = [
        {"corpus": name, "earlier": _earlier_catalog(store, name, before) or ""} for name in sorted(sources)
    ]
    listed = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        functools.partial(list_corpora, sources=sources, store=store), batch_size=1, num_cpus=0.5
    )
    # Otherwise Ray puts half a million rows together, and one worker probes them all.
    probed = listed.repartition(target_num_rows_per_block=PART_ROWS).map_batches(
        functools.partial(probe or probe_corpora, sources=sources, store=store, chunk_s=config.chunk_s),
        batch_format="pyarrow",
        batch_size=PART_ROWS,
        num_cpus=1,
    )
    progress = Progress("cataloging", 0, "found")
    parts: dict[str, list[pa.Table]] = {name: [] for name in sources}
    batch: pa.Table
    for batch in probed.iter_batches(batch_format="pyarrow", batch_size=None):
        for name in pc.unique(batch["corpus"]).to_pylist():
            part = batch.filter(pc.equal(batch["corpus"], name))
            parts[name].append(part.cast(catalogs.CATALOG))
        progress.total += len(batch)
        progress.add(len(batch))
    return _whole(parts, sources, config)


def _whole(
    parts: Mapping[str, list[pa.Table]], sources: Mapping[str, Source], config: IngestConfig
) -> dict[str, pa.Table]:
    """One table for each corpus of which something was found, with what only the whole of it shows."""
    whole = {}
    for name, found in parts.items():
        if any(map(len, found)):
            whole[name] = catalogs.reject_repeated(pa.concat_tables(found))
        elif name in config.corpora:
            raise InputError(
                f"{name}: nothing found in {sources[name].root.uri}; is it the folder of that corpus?"
            )  # else the folder may hold the other one of two corpora that share it
    if not whole:
        raise InputError(f"{config.root}: no corpus there")
    return whole


def _earlier_catalog(store: Folder, corpus: str, before: Snapshot | None) -> str | None:
    """A catalog that may know the headers of files: the snapshot's, or one that an interrupted run has left."""
    if before is not None and corpus in before.corpora:
        return before.corpora[corpus].catalog
    if not store.exists(f"catalog/{corpus}"):
        return None
    return next(
        (info.name for info in store.find(f"catalog/{corpus}") if info.name.endswith(".parquet")), None
    )


def list_corpora(
    batch: dict[str, Sequence[str]], sources: Mapping[str, Source], store: Folder
) -> Iterator[pa.Table]:
    """Everything found in the corpora of a batch, with what is known of it."""
    for name, earlier in zip(batch["corpus"], batch["earlier"], strict=True):
        for rows in list_parts(sources[name], store, earlier):
            yield catalogs.table(rows)
    yield catalogs.table([])


def list_parts(source: Source, store: Folder, earlier: str | None) -> Iterator[list[catalogs.Row]]:
    """Everything found in a corpus, with what an earlier catalog knows of it."""
    known = catalogs.KnownFiles(tables.read_table(store, earlier) if earlier else None)
    rows = source.rows()
    while part := list(itertools.islice(rows, PART_ROWS)):
        yield known.fill(part)


def probe_corpora(
    batch: pa.Table,
    sources: Mapping[str, Source],
    store: Folder,
    chunk_s: float | None,
    read: catalogs.Read = catalogs.read_header,
    hang_s: float = HANG_S,
) -> pa.Table:
    """The same rows with the headers that were missing; survives the file that ends the worker."""
    rows: list[catalogs.Row] = []
    for name in pc.unique(batch["corpus"]).to_pylist():
        source = sources[name]
        of_corpus: pa.Table = batch.filter(pc.equal(batch["corpus"], name))
        found = of_corpus.to_pylist()
        to_open = [row["path"] for row in found if not catalogs.is_probed(row)]
        survivor = crash_safe(read, store, f"attempts/{name}/{_part_name(to_open)}", hang_s)
        with survivor if to_open else contextlib.nullcontext(read) as safe:
            rows += catalogs.probe_rows(found, source.root, source.manifest, chunk_s, safe)
    return catalogs.table(rows)


def _part_name(paths: Iterable[str]) -> str:
    """The same for each worker that is given these files."""
    digest = hashlib.blake2b("\0".join(paths).encode("utf-8", "surrogatepass"), digest_size=8)
    return f"catalog-{digest.hexdigest()}"
