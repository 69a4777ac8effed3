"""Plan the shards of the cataloged corpora, build those that are missing, and add up what a snapshot records."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from jobs.ingestion.cataloging import CatalogedCorpus
from jobs.ingestion.config import IngestConfig
from jobs.ingestion.sources import Source
from jobs.ray_session import cluster_use, task_for_each
from pipeline import tables
from pipeline.data.corpora.manifest import Manifest, manifest_digest
from pipeline.data.corpora.recipe import EXCLUDED
from pipeline.data.store import layout, shards
from pipeline.data.store.catalog import CATALOG
from pipeline.data.store.plan import ShardPlan, missing_shards, plan_shards
from pipeline.data.store.regions import RegionSummary, commit_regions
from pipeline.data.store.shard_tables import ShardSummary, read_summary
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.errors import InputError
from pipeline.progress import Progress, counted
from pipeline.storage import Folder

DISTINCT_COLUMNS = (
    *("uid", "id", "path", "start", "end", "size", "version"),
    *("fingerprint", "source_digest", "num_samples", "file_seconds", "bitrate", "seconds", "detail"),
)
"""Columns of a catalog whose values rarely occur twice in a shard."""


@dataclass(frozen=True)
class CorpusPlan:
    """The planned shards of a corpus, and its catalog."""

    catalog: str
    """Path of the catalog in the store; its row group i holds the members of shard i."""
    num_rows: int
    """Rows of the catalog."""
    problems: Counter[str]
    """Number of rows that are in no shard, by reason."""
    shards: list[ShardPlan]
    not_audio: dict[str, int]
    """Files that were left out by rule, by kind."""


def plan_corpora(
    found: dict[str, CatalogedCorpus],
    sources: Mapping[str, Source],
    store: Folder,
    before: Snapshot | None,
    config: IngestConfig,
) -> dict[str, CorpusPlan]:
    """Plan the shards of every corpus. Empties `found`, whose rows take disk space."""
    return {
        name: plan_corpus(sources[name].manifest, found.pop(name), store, before, config)
        for name in list(found)
    }


def plan_corpus(
    manifest: Manifest, found: CatalogedCorpus, store: Folder, before: Snapshot | None, config: IngestConfig
) -> CorpusPlan:
    """Decide which utterances each shard of a corpus has, and write the catalog that records it.

    Args:
        manifest: manifest of the corpus.
        found: everything found in the corpus; its rows are freed.
        store: where the catalog is written.
        before: the latest snapshot of the store, whose shards keep their utterances.
        config: settings of the ingest.
    """
    previous = before.corpora.get(manifest.name) if before is not None else None
    planned = plan_shards(
        found.rows.parts(),
        [shard.name for shard in previous.shards] if previous is not None else [],
        build_settings=shards.build_settings(config.resampler, manifest.licence),
        target_bytes=config.target_bytes,
    )
    plans: list[ShardPlan] = []
    problems: Counter[str] = Counter()

    def row_groups() -> Iterator[pa.Table]:
        for plan, rows in planned:
            if plan is not None:
                plans.append(plan)
            problems.update(rows["problem"].drop_null().to_pylist())
            yield rows

    catalog = tables.commit_groups(
        store,
        functools.partial(layout.catalog_name, manifest.name),
        CATALOG,
        row_groups(),
        distinct_columns=DISTINCT_COLUMNS,
        statistics_of=["problem"],
    )
    return CorpusPlan(catalog, found.rows.num_rows, problems, plans, found.listing.not_audio)


def read_regions(
    plans: Mapping[str, CorpusPlan], sources: Mapping[str, Source], store: Folder
) -> tuple[dict[str, RegionSummary], dict[str, str]]:
    """Write the regions of those corpora whose manifest names files of them, by corpus.

    Args:
        plans: plans by corpus.
        sources: sources by corpus.
        store: has the catalogs; where the regions are written.

    Returns:
        What a snapshot records, and the corpora whose files cannot be read, each with a reason.

    Raises:
        InputError: the only corpus failed.
    """
    regions: dict[str, RegionSummary] = {}
    failures: dict[str, str] = {}
    for name, plan in plans.items():
        source = sources[name]
        if source.manifest.regions is None:
            continue
        with Progress(f"reading regions of {name}", None, "file") as progress:
            try:
                regions[name] = commit_regions(
                    store, source.manifest, source.root, plan.catalog, progress.add
                )
            except InputError as error:
                if len(sources) == 1:
                    raise
                failures[name] = str(error)
    return regions, failures


def build_shards(
    plans: Mapping[str, CorpusPlan],
    sources: Mapping[str, Source],
    store: Folder,
    before: Snapshot | None,
    config: IngestConfig,
    start_ray: Callable[[], None],
) -> dict[str, ShardSummary]:
    """Build the missing shards, one Ray task each; returns the summaries of all planned shards by name.

    Args:
        plans: plans by corpus.
        sources: sources by corpus.
        store: where the shards are written.
        before: the latest snapshot of the store.
        config: settings of the ingest.
        start_ray: called before Ray is used.
    """
    summaries = _summaries(before)
    tasks: list[dict[str, Any]] = []
    for corpus, plan in plans.items():
        finished = layout.finished_shards(store, corpus)
        for shard in plan.shards:
            if shard.name in finished and shard.name not in summaries:
                summaries[shard.name] = read_summary(store, corpus, shard.name)
        group = {shard.name: position for position, shard in enumerate(plan.shards)}
        tasks += [
            {"corpus": corpus, "shard": shard.name, "catalog": plan.catalog, "group": group[shard.name]}
            for shard in missing_shards(plan.shards, finished)
        ]
    num_planned = sum(len(plan.shards) for plan in plans.values())
    num_built = num_planned - len(tasks)
    print(
        f"{counted(num_planned, 'shard')} planned, {num_built} already built, {len(tasks)} to build",
        flush=True,
    )
    if not tasks:
        return summaries
    start_ray()
    built = task_for_each(tasks).map_batches(
        functools.partial(build_batch, sources=sources, store=store, resampler=config.resampler),
        batch_size=1,
        num_cpus=1,
    )
    with Progress("building", len(tasks), "shard", cluster_use) as progress:
        for row in built.iter_rows():
            summary = ShardSummary(**json.loads(row["summary"]))
            summaries[summary.name] = summary
            num_rejected = sum(summary.rejected.values())
            progress.add(audio_s=sum(summary.seconds.values()), num_rejected=num_rejected)
    return summaries


def build_batch(
    batch: dict[str, Sequence[Any]], sources: Mapping[str, Source], store: Folder, resampler: str
) -> dict[str, list[str]]:
    """Build the shards of a batch of Ray Data; returns their summaries as JSON."""
    summaries = []
    for corpus, name, catalog, group in zip(
        batch["corpus"], batch["shard"], batch["catalog"], batch["group"], strict=True
    ):
        source = sources[corpus]
        rows = tables.read_group(store, catalog, int(group))
        members: Iterator[shards.ShardMember] = tables.iter_rows(rows)
        summary = shards.build_shard(
            name, members, source.root, store, licence=source.manifest.licence, resampler=resampler
        )
        summaries.append(json.dumps(asdict(summary)))
    return {"summary": summaries}


def _summaries(snapshot: Snapshot | None) -> dict[str, ShardSummary]:
    if snapshot is None:
        return {}
    return {shard.name: shard for corpus in snapshot.corpora.values() for shard in corpus.shards}


def corpus_snapshot(
    manifest: Manifest,
    plan: CorpusPlan,
    summaries: Mapping[str, ShardSummary],
    regions: RegionSummary | None = None,
) -> CorpusSnapshot:
    """The entry of a corpus in the next snapshot.

    Raises:
        AssertionError: found ≠ written + rejected + excluded, so something was lost.
    """
    written = tuple(summaries[shard.name] for shard in plan.shards)
    excluded = Counter({reason: n for reason, n in plan.problems.items() if reason.startswith(EXCLUDED)})
    rejected = plan.problems - excluded
    for summary in written:
        rejected.update(summary.rejected)
    snapshot = CorpusSnapshot(
        name=manifest.name,
        role=manifest.role,
        licence=manifest.licence,
        non_commercial=manifest.non_commercial,
        manifest=manifest_digest(manifest),
        catalog=plan.catalog,
        found=plan.num_rows,
        rejected=dict(sorted(rejected.items())),
        excluded=dict(sorted(excluded.items())),
        expected_hours={
            label: hours for label, hours in asdict(manifest.expected_hours).items() if hours is not None
        },
        shards=written,
        not_audio=plan.not_audio,
        regions=regions,
    )
    assert snapshot.found == snapshot.written + rejected.total() + excluded.total(), (
        f"{manifest.name}: found {snapshot.found}, wrote {snapshot.written}, rejected {snapshot.rejected}"
    )
    return snapshot
