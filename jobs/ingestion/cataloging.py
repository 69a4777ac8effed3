"""Catalog the corpora of an ingest: list their files, label them, and probe those that are new or have changed.

Every part of a corpus goes through the stages of `Cataloger`: list → label → reuse known headers → probe → cut. They
run in this process for small corpora in which nothing has changed, and on Ray Data otherwise. Rows pass through memory:
they are collected in a temporary file for each corpus.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from jobs.ingestion.sources import Source
from jobs.ray_session import cluster_use, task_for_each
from pipeline.data.audio.isolation import HANG_S, crash_safe
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import layout, probing
from pipeline.data.store.catalog import CatalogRow
from pipeline.data.store.known import KnownFiles
from pipeline.data.store.probing import ReadHeader
from pipeline.data.store.repeated import UniqueRows
from pipeline.data.store.snapshot import Snapshot
from pipeline.data.store.source_records import SourceRecords, rejecting_shards
from pipeline.errors import InputError
from pipeline.progress import Progress
from pipeline.spill import MAX_BUFFERED_BYTES
from pipeline.storage import Folder

PART_ROWS = 2000
"""Rows of a catalog that are probed by one task."""

MAX_ROWS_IN_PROCESS = 100_000
"""Rows that may be cataloged without Ray; listing so many takes seconds."""

LISTED = catalogs.CATALOG.append(pa.field("listing", pa.string()))
"""Columns that tasks hand on: a row of the catalog, or in the last row of a corpus its `Listing` as JSON."""


@dataclass(frozen=True)
class Listing:
    """How the listing of a corpus ended."""

    corpus: str
    not_audio: dict[str, int]
    """Files that were left out by rule, by kind."""
    failure: str = ""
    """Why the corpus could not be listed completely; empty if it was."""


@dataclass
class CatalogedCorpus:
    """Everything found in a corpus, and how its listing ended."""

    listing: Listing
    rows: UniqueRows = field(default_factory=UniqueRows)


@dataclass(frozen=True)
class Cataloger:
    """The stages that every part of a corpus goes through, wherever they run."""

    sources: Mapping[str, Source]
    """Corpora by name."""
    store: Folder
    chunk_s: float = 0.0
    """See `IngestConfig`."""
    read: ReadHeader = probing.read_header
    """Reads one header; a module-level function, because a child process may have to call it."""
    hang_s: float = HANG_S
    """Time limit for reading one header, seconds."""
    earlier: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Catalogs in the store that may know the files of a corpus; where two know a file, the first one counts."""
    rejecting: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Reasons of the rejects of each shard of the latest snapshot that has any."""

    def after(self, before: Snapshot | None) -> Cataloger:
        """A cataloger that knows what the store has.

        Of each corpus, it has the catalog of the latest snapshot; and if the newest catalog is another one, an ingest
        was interrupted after it, so that some of its new files may have shards already.

        Args:
            before: the latest snapshot of the store.
        """
        corpora = before.corpora if before is not None else {}
        earlier = {name: [corpora[name].catalog] if name in corpora else [] for name in self.sources}
        for name, known in earlier.items():
            known += [newest for newest in layout.catalogs(self.store, name)[-1:] if newest not in known]
        rejecting = rejecting_shards(shard for corpus in corpora.values() for shard in corpus.shards)
        return replace(self, earlier=earlier, rejecting=rejecting)

    def list_parts(self, corpus: str) -> Iterator[list[CatalogRow] | Listing]:
        """Yield everything found in a corpus, part by part, with the headers that earlier catalogs have.

        The last item is the `Listing`. A corpus that cannot be read ends with its failure, and not with an exception,
        because the others go on.
        """
        not_audio: Counter[str] = Counter()
        failure = ""
        rows = self.sources[corpus].rows(not_audio)
        earlier = self.earlier.get(corpus, ())
        records = SourceRecords(self.store, corpus, next(iter(earlier), ""), self.rejecting)
        with contextlib.ExitStack() as stack:
            known = [stack.enter_context(KnownFiles(self.store, catalog)) for catalog in earlier]
            while not failure:
                try:
                    part = list(itertools.islice(rows, PART_ROWS))
                except InputError as error:
                    failure = str(error)
                else:
                    if not part:
                        break
                    for files in known:
                        part = files.fill(part)
                    yield records.fill(part)
        yield Listing(corpus, dict(sorted(not_audio.items())), failure)

    def probe_part(self, corpus: str, rows: Sequence[CatalogRow]) -> pa.Table:
        """Complete rows with the headers that are still unknown, and cut files into chunks.

        A file that crashes or hangs the decoder kills the worker once; in the next attempt it becomes a problem.
        """
        source = self.sources[corpus]
        to_open = [row["path"] for row in rows if not probing.is_probed(row)]
        attempts = layout.attempt_name(corpus, _work_name(to_open))
        safe_read = crash_safe(self.read, self.store, attempts, self.hang_s)
        with safe_read if to_open else contextlib.nullcontext(self.read) as read:
            probed = probing.probe_rows(rows, source.root, source.manifest, self.chunk_s, read)
            return catalogs.table(list(probed))


def catalog_corpora(
    cataloger: Cataloger, before: Snapshot | None, start_ray: Callable[[], None]
) -> dict[str, CatalogedCorpus]:
    """Everything found in each corpus, rows in any order.

    Args:
        cataloger: reads the corpora.
        before: the latest snapshot of the store.
        start_ray: called before Ray is used.
    """
    cataloger = cataloger.after(before)
    parts: Iterable[pa.Table | Listing] | None = _catalog_in_process(cataloger, before)
    if parts is None:
        start_ray()
        parts = _catalog_on_ray(cataloger)
    rows = {name: UniqueRows() for name in cataloger.sources}
    listings: dict[str, Listing] = {}
    for part in parts:
        if isinstance(part, Listing):
            listings[part.corpus] = part
            continue
        for name in pc.unique(part["corpus"]).to_pylist():
            rows[name].add(part.filter(pc.equal(part["corpus"], name)))
        _limit_memory(rows.values())
    return {name: CatalogedCorpus(listings[name], rows[name]) for name in sorted(rows)}


def _limit_memory(rows: Collection[UniqueRows]) -> None:
    """Write the largest collections to their files until all together take no more memory than one may."""
    while sum(each.num_buffered_bytes for each in rows) > MAX_BUFFERED_BYTES:
        max(rows, key=lambda each: each.num_buffered_bytes).flush()


def _catalog_in_process(cataloger: Cataloger, before: Snapshot | None) -> list[pa.Table | Listing] | None:
    """Run the stages here; None as soon as a file has to be opened or there are too many rows."""
    if before is None:
        return None
    num_before = {
        name: before.corpora[name].found if name in before.corpora else 0
        for name in sorted(cataloger.sources)
    }
    if sum(num_before.values()) > MAX_ROWS_IN_PROCESS:
        return None
    num_rows = 0
    parts: list[pa.Table | Listing] = []
    for name in sorted(num_before, key=num_before.__getitem__):  # new corpora first, because they need Ray
        for part in cataloger.list_parts(name):
            if isinstance(part, Listing):
                parts.append(part)
                continue
            num_rows += len(part)
            if num_rows > MAX_ROWS_IN_PROCESS or not all(map(probing.is_probed, part)):
                return None
            parts.append(cataloger.probe_part(name, part))
    return parts


def _catalog_on_ray(cataloger: Cataloger) -> Iterator[pa.Table | Listing]:
    """Run the stages on Ray Data: one task lists a corpus, and one task probes a part."""
    corpora = [{"corpus": name} for name in sorted(cataloger.sources)]
    listed = task_for_each(corpora).map_batches(
        functools.partial(list_batch, cataloger=cataloger), batch_size=1, num_cpus=0.5
    )
    # Without repartition, Ray would hand half a million rows to one worker.
    probed = listed.repartition(target_num_rows_per_block=PART_ROWS).map_batches(
        functools.partial(probe_batch, cataloger=cataloger),
        batch_format="pyarrow",
        batch_size=PART_ROWS,
        num_cpus=1,
    )
    batch: pa.Table
    total = None  # not known: parts are probed while others are listed
    with Progress("cataloging", total, "row", cluster_use) as progress:
        for batch in probed.iter_batches(batch_format="pyarrow", batch_size=None):
            rows, listings_of_batch = _split(batch.cast(LISTED))
            progress.add(len(rows))
            yield rows
            yield from map(_listing, listings_of_batch["listing"].to_pylist())


def list_batch(batch: dict[str, Sequence[str]], cataloger: Cataloger) -> Iterator[pa.Table]:
    """`Cataloger.list_parts` for a batch of Ray Data."""
    for name in batch["corpus"]:
        for part in cataloger.list_parts(name):
            if isinstance(part, Listing):
                row = {"corpus": name, "listing": json.dumps(asdict(part))}
                yield pa.Table.from_pylist([row], LISTED)
            else:
                yield _listed(catalogs.table(part))


def probe_batch(batch: pa.Table, cataloger: Cataloger) -> pa.Table:
    """`Cataloger.probe_part` for a batch of Ray Data, whose rows may be of several corpora."""
    rows, listings = _split(batch)
    parts = [listings]
    for name in pc.unique(rows["corpus"]).to_pylist():
        part = rows.filter(pc.equal(rows["corpus"], name)).to_pylist()
        parts.append(_listed(cataloger.probe_part(name, part)))
    return pa.concat_tables(parts)


def _split(batch: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of catalogs in a batch, and the rows that hold a `Listing`."""
    is_row = pc.is_null(batch["listing"])
    return batch.filter(is_row).drop_columns("listing"), batch.filter(pc.invert(is_row))


def _listing(text: str) -> Listing:
    """Read what `list_batch` wrote."""
    return Listing(**json.loads(text))


def _listed(rows: pa.Table) -> pa.Table:
    """Rows of a catalog with the column in which others hold a `Listing`."""
    return rows.append_column(LISTED.field("listing"), pa.nulls(len(rows), pa.string()))


def _work_name(paths: Iterable[str]) -> str:
    """A name that is the same for every worker that is given these files."""
    digest = hashlib.blake2b("\0".join(paths).encode("utf-8", "surrogatepass"), digest_size=8)
    return f"catalog-{digest.hexdigest()}"
