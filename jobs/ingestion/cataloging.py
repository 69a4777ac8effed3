"""Catalog the corpora of an ingest: list their files, label them, and probe those that are new or have changed.

Every part of a corpus goes through the stages of `Cataloger`: list → label → reuse known headers → probe → cut. They
run in this process for small corpora in which nothing has changed, and on Ray Data otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from jobs.ingestion.config import IngestConfig
from jobs.ingestion.sources import Source
from pipeline import tables
from pipeline.data.audio.isolation import HANG_S, crash_safe
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import layout
from pipeline.data.store.catalog import CatalogRow, ReadHeader
from pipeline.data.store.snapshot import Snapshot
from pipeline.errors import InputError
from pipeline.progress import Progress
from pipeline.storage import Folder

PART_ROWS = 2000
"""Rows of a catalog that are probed by one task."""

MAX_ROWS_IN_PROCESS = 100_000
"""Rows that may be cataloged without Ray; listing so many takes seconds."""


@dataclass(frozen=True)
class Cataloger:
    """The stages that every part of a corpus goes through, wherever they run."""

    sources: Mapping[str, Source]
    """Corpora by name."""
    store: Folder
    chunk_s: float = 0.0
    """See `IngestConfig`."""
    read: ReadHeader = catalogs.read_header
    """Reads one header; a module-level function, because a child process may have to call it."""
    hang_s: float = HANG_S
    """Time limit for reading one header, seconds."""

    def list_parts(self, corpus: str, earlier: str) -> Iterator[list[CatalogRow]]:
        """Yield everything found in a corpus, part by part, with the headers that an earlier catalog has.

        Args:
            corpus: one of `sources`.
            earlier: path of a catalog in the store; empty if there is none.
        """
        known = catalogs.KnownFiles(tables.read_table(self.store, earlier) if earlier else None)
        rows = self.sources[corpus].rows()
        while part := list(itertools.islice(rows, PART_ROWS)):
            yield known.fill(part)

    def probe_part(self, corpus: str, rows: Sequence[CatalogRow]) -> pa.Table:
        """Complete rows with the headers that are still unknown, and cut files into chunks.

        A file that crashes or hangs the decoder kills the worker once; in the next attempt it becomes a problem.
        """
        source = self.sources[corpus]
        to_open = [row["path"] for row in rows if not catalogs.is_probed(row)]
        attempts = layout.attempt_name(corpus, _work_name(to_open))
        safe_read = crash_safe(self.read, self.store, attempts, self.hang_s)
        with safe_read if to_open else contextlib.nullcontext(self.read) as read:
            probed = catalogs.probe_rows(rows, source.root, source.manifest, self.chunk_s, read)
            return catalogs.table(list(probed))


def catalog_corpora(
    cataloger: Cataloger, before: Snapshot | None, config: IngestConfig, start_ray: Callable[[], None]
) -> dict[str, pa.Table]:
    """The catalog of every corpus in which something was found, rows in any order.

    Args:
        cataloger: reads the corpora.
        before: the latest snapshot of the store.
        config: settings of the ingest.
        start_ray: called before Ray is used.

    Raises:
        InputError: nothing was found in a corpus that the user named, or in any.
    """
    earlier = _earlier_catalogs(cataloger, before)
    parts: Iterable[pa.Table] | None = _catalog_in_process(cataloger, earlier, before)
    if parts is None:
        start_ray()
        parts = _catalog_on_ray(cataloger, earlier)
    by_corpus: dict[str, list[pa.Table]] = {name: [] for name in cataloger.sources}
    for part in parts:
        for name in pc.unique(part["corpus"]).to_pylist():
            by_corpus[name].append(part.filter(pc.equal(part["corpus"], name)))
    for name in config.corpora:  # another corpus may share the folder of one that the user did not name
        if not by_corpus[name]:
            uri = cataloger.sources[name].root.uri
            raise InputError(f"{name}: nothing found in {uri}; is it the folder of that corpus?")
    if not any(by_corpus.values()):
        raise InputError(f"{config.root}: nothing found in the folders of its corpora")
    complete = {name: pa.concat_tables(parts) for name, parts in by_corpus.items() if parts}
    return {name: catalogs.reject_repeated(table) for name, table in complete.items()}


def _earlier_catalogs(cataloger: Cataloger, before: Snapshot | None) -> dict[str, str]:
    """For each corpus, a catalog that may have headers: the snapshot's, else that of an interrupted run, else empty."""
    earlier = {}
    for name in sorted(cataloger.sources):
        if before is not None and name in before.corpora:
            earlier[name] = before.corpora[name].catalog
        else:
            earlier[name] = next(iter(layout.catalogs(cataloger.store, name)), "")
    return earlier


def _catalog_in_process(
    cataloger: Cataloger, earlier: Mapping[str, str], before: Snapshot | None
) -> list[pa.Table] | None:
    """Run the stages here; None as soon as a file has to be opened or there are too many rows."""
    if before is None:
        return None
    num_before = {name: before.corpora[name].found if name in before.corpora else 0 for name in earlier}
    if sum(num_before.values()) > MAX_ROWS_IN_PROCESS:
        return None
    num_rows = 0
    parts = []
    for name in sorted(earlier, key=num_before.__getitem__):  # new corpora first, because they need Ray
        for rows in cataloger.list_parts(name, earlier[name]):
            num_rows += len(rows)
            if num_rows > MAX_ROWS_IN_PROCESS or not all(map(catalogs.is_probed, rows)):
                return None
            parts.append(cataloger.probe_part(name, rows))
    return parts


def _catalog_on_ray(cataloger: Cataloger, earlier: Mapping[str, str]) -> Iterator[pa.Table]:
    """Run the stages on Ray Data: one task lists a corpus, and one task probes a part."""
    import ray

    listings = [{"corpus": name, "earlier": catalog} for name, catalog in earlier.items()]
    listed = ray.data.from_items(listings, override_num_blocks=len(listings)).map_batches(
        functools.partial(list_batch, cataloger=cataloger), batch_size=1, num_cpus=0.5
    )
    # Without repartition, Ray would hand half a million rows to one worker.
    probed = listed.repartition(target_num_rows_per_block=PART_ROWS).map_batches(
        functools.partial(probe_batch, cataloger=cataloger),
        batch_format="pyarrow",
        batch_size=PART_ROWS,
        num_cpus=1,
    )
    progress = Progress("cataloging", 0, "rows")
    batch: pa.Table
    for batch in probed.iter_batches(batch_format="pyarrow", batch_size=None):
        progress.total += len(batch)
        progress.add(len(batch))
        yield batch.cast(catalogs.CATALOG)


def list_batch(batch: dict[str, Sequence[str]], cataloger: Cataloger) -> Iterator[pa.Table]:
    """`Cataloger.list_parts` for a batch of Ray Data."""
    for name, earlier in zip(batch["corpus"], batch["earlier"], strict=True):
        for rows in cataloger.list_parts(name, earlier):
            yield catalogs.table(rows)
    yield catalogs.table([])


def probe_batch(batch: pa.Table, cataloger: Cataloger) -> pa.Table:
    """`Cataloger.probe_part` for a batch of Ray Data, whose rows may be of several corpora."""
    parts = [catalogs.table([])]
    for name in pc.unique(batch["corpus"]).to_pylist():
        rows = batch.filter(pc.equal(batch["corpus"], name)).to_pylist()
        parts.append(cataloger.probe_part(name, rows))
    return pa.concat_tables(parts)


def _work_name(paths: Iterable[str]) -> str:
    """A name that is the same for every worker that is given these files."""
    digest = hashlib.blake2b("\0".join(paths).encode("utf-8", "surrogatepass"), digest_size=8)
    return f"catalog-{digest.hexdigest()}"
