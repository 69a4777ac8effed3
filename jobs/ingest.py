"""Turn corpora into shards: labelled, 16 kHz mono FLAC in WebDataset tars, with an index and a snapshot.

    bonafide ingest --root DATA --store STORE --corpora asvspoof2019_la,in_the_wild
    bonafide ingest --root DATA --store STORE --recipe antideepfake
    bonafide ingest --root DATA --store STORE --protocol train.csv

Run it again at any time: it does only what is missing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from jobs.ingestion.cataloging import catalog_corpora, unchanged_corpora
from jobs.ingestion.sources import Source, find_sources
from jobs.ray_session import ray_session
from pipeline import tables, tracking
from pipeline.card.page import corpus_card
from pipeline.config import Names, Pairs, run, to_dict, to_toml
from pipeline.data.corpora.manifest import Manifest, manifest_digest
from pipeline.data.corpora.recipe import EXCLUDED, load_recipe
from pipeline.data.store import catalog as catalogs
from pipeline.data.store import shards
from pipeline.data.store.plan import ShardPlan, missing, plan_shards
from pipeline.data.store.shards import ShardSummary
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot, commit_snapshot, latest_snapshot
from pipeline.progress import Progress
from pipeline.storage import Folder


@dataclass(frozen=True)
class IngestConfig:
    """What to ingest, from where, to where."""

    root: str
    """Folder or s3:// URI that holds one folder per corpus, named as the manifests say."""
    store: str
    """Folder or s3:// URI of catalog, shards and snapshots."""
    corpora: Names = Names()
    """Corpora to ingest; by default every corpus whose folder is there. Others in the store stay as they are."""
    roots: Pairs = Pairs()
    """Corpora that lie elsewhere: name=PATH."""
    recipe: str = ""
    """Name or TOML file of a recipe: ingest its corpora, without the splits that it excludes."""
    protocol: str = ""
    """AntiDeepfake protocol CSV, local or s3://: ingest what it lists below the root, as one corpus."""
    name: str = ""
    """What to call the corpus of the protocol; by default as its file."""
    role: Literal["train", "evaluation"] = "train"
    """What the corpus of the protocol is for."""
    artifact: str = "mixed"
    """Family of what the protocol calls fake, for which it has no column."""
    shard_mib: float = 256.0
    """Size that a shard grows to, MiB."""
    chunk_s: float | None = None
    """Seconds of a chunk, for corpora that come in chunks of a length to be chosen (Deepfake-Eval-2024)."""
    resampler: str = "soxr_hq"
    """How audio gets to 16 kHz: soxr_hq, or torchaudio for parity with the released checkpoints."""
    tracking_uri: str = ""
    """MLflow tracking server or database; nothing is tracked without one."""
    experiment: str = "bonafide"
    """MLflow experiment."""


def main(config: IngestConfig) -> None:
    """Catalog, plan, build, commit."""
    store = Folder(config.store)
    sources = find_sources(config)
    with (
        tracking.run(
            config.tracking_uri,
            config.experiment,
            job="ingest",
            name=f"ingest {store.uri.rpartition('/')[2]}",
            config=to_dict(config),
        ) as tracked,
        contextlib.ExitStack() as stack,
    ):
        before = latest_snapshot(store)
        cataloged = unchanged_corpora(sources, store, before, config)
        if cataloged is None:
            stack.enter_context(ray_session())
            cataloged = catalog_corpora(sources, store, before, config)
        planned = {
            # Taken out one by one: a catalog is most of what this process holds.
            name: plan_corpus(sources[name].manifest, cataloged.pop(name), store, before, config)
            for name in list(cataloged)
        }
        summaries = build_shards(planned, sources, store, before, config)
        snapshot = commit_snapshot(
            store,
            [corpus_snapshot(sources[name].manifest, plan, summaries) for name, plan in planned.items()],
            run_id=tracked.run_id,
        )
        store.commit(f"configs/ingest-{snapshot.name}.toml", to_toml(config).encode())
        report(snapshot, sources)
        tell(tracked, store, snapshot, config)
    if tracked.url:
        print(f"MLflow: {tracked.url}")


def tell(tracked: tracking.Run, store: Folder, snapshot: Snapshot, config: IngestConfig) -> None:
    """Say in MLflow what the snapshot holds."""
    hours: Counter[str] = Counter()
    for corpus in snapshot.corpora.values():
        hours.update(corpus.hours)
    by_label = ", ".join(f"{total:,.1f} h {label}" for label, total in sorted(hours.items()))
    tracked.describe(
        f"**Snapshot {snapshot.name}** (`{snapshot.digest}`) of `{store.uri}`: {len(snapshot.corpora)} corpora, "
        f"{by_label}. What is in it, and what is wrong with it: artifact `corpus_card.html`."
    )
    tracked.log_dataset(f"snapshot {snapshot.name}", snapshot.digest, source=store.uri, context="ingest")
    tracked.set_tags(
        {
            "bonafide.snapshot": snapshot.digest,
            "bonafide.store": store.uri,
            "mlflow.runName": f"ingest {store.uri.rpartition('/')[2]} {snapshot.name}",
        }
    )
    if tracked.run_id is not None:
        recipe = load_recipe(config.recipe) if config.recipe else None
        tracked.log_text(corpus_card(store, snapshot, recipe).to_html(), "corpus_card.html")
    tracked.log_text(to_toml(config), "config.toml")
    tracked.log_metrics(
        {
            f"{key}/{name}": value
            for name, corpus in snapshot.corpora.items()
            for key, value in (
                ("utterances", float(corpus.written)),
                ("rejected", float(sum(corpus.rejected.values()))),
                ("hours", sum(corpus.hours.values())),
            )
        }
    )


@dataclass(frozen=True)
class CorpusPlan:
    """The shards of a corpus, and where its catalog was written."""

    name: str
    """Of the catalog in the store; its row group i holds the members of shard i."""
    found: int
    """Rows of the catalog."""
    problems: Counter[str]
    """Rows that go into no shard, by reason."""
    shards: list[ShardPlan]


def plan_corpus(
    manifest: Manifest, table: pa.Table, store: Folder, before: Snapshot | None, config: IngestConfig
) -> CorpusPlan:
    """Fix the membership of every shard of a corpus, and write it down."""
    corpus = manifest.name
    previous = None
    if before is not None and corpus in before.corpora:
        previous = tables.read_table(store, before.corpora[corpus].catalog, columns=["path", "shard"])
    catalog, plans = plan_shards(
        table,
        previous,
        build_settings=shards.build_settings(config.resampler, manifest.licence),
        target_bytes=int(config.shard_mib * 2**20),
    )
    data = tables.to_parquet(catalog, [plan.num_rows for plan in plans])
    name = f"catalog/{corpus}/{catalogs.content_digest(data)}.parquet"
    if not store.exists(name):
        store.commit(name, data)
    return CorpusPlan(name, len(catalog), Counter(catalog["problem"].drop_null().to_pylist()), plans)


def build_shards(
    planned: Mapping[str, CorpusPlan],
    sources: Mapping[str, Source],
    store: Folder,
    before: Snapshot | None,
    config: IngestConfig,
) -> dict[str, ShardSummary]:
    """Build the shards that are not there, one Ray task each; returns what is known of all."""
    summaries = _known_summaries(before)
    todo: list[dict[str, Any]] = []
    for corpus, plan in planned.items():
        done = shards.done_shards(store, corpus)
        for shard in plan.shards:
            if shard.name in done and shard.name not in summaries:
                summaries[shard.name] = shards.read_summary(store, corpus, shard.name)
        group = {shard.name: position for position, shard in enumerate(plan.shards)}
        todo += [
            {"corpus": corpus, "shard": shard.name, "catalog": plan.name, "group": group[shard.name]}
            for shard in missing(plan.shards, done)
        ]
    num_planned = sum(len(plan.shards) for plan in planned.values())
    print(f"{num_planned} shards planned, {num_planned - len(todo)} there, {len(todo)} to build", flush=True)
    if not todo:
        return summaries
    with ray_session():
        import ray

        progress = Progress("building", len(todo), "shards")
        built = ray.data.from_items(todo, override_num_blocks=len(todo)).map_batches(
            functools.partial(build_batch, sources=sources, store=store, resampler=config.resampler),
            batch_size=1,
            num_cpus=1,
        )
        for row in built.iter_rows():
            summary = ShardSummary(**json.loads(row["summary"]))
            summaries[summary.name] = summary
            progress.add(audio_s=sum(summary.seconds.values()), num_rejected=sum(summary.rejected.values()))
        progress.print_now()
    return summaries


def build_batch(
    batch: dict[str, Sequence[Any]], sources: Mapping[str, Source], store: Folder, resampler: str
) -> dict[str, list[str]]:
    """Write the shards of a batch; only their summaries travel back."""
    summaries = []
    for corpus, name, catalog, group in zip(
        batch["corpus"], batch["shard"], batch["catalog"], batch["group"], strict=True
    ):
        source = sources[corpus]
        members = tables.read_group(store, catalog, int(group)).to_pylist()
        summary = shards.build_shard(
            name, members, source.root, store, licence=source.manifest.licence, resampler=resampler
        )
        summaries.append(json.dumps(asdict(summary)))
    return {"summary": summaries}


def _known_summaries(before: Snapshot | None) -> dict[str, ShardSummary]:
    if before is None:
        return {}
    return {shard.name: shard for corpus in before.corpora.values() for shard in corpus.shards}


def corpus_snapshot(
    manifest: Manifest, plan: CorpusPlan, summaries: Mapping[str, ShardSummary]
) -> CorpusSnapshot:
    """What the snapshot will say of a corpus.

    Raises:
        AssertionError: the sums do not agree: something was lost.
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
        catalog=plan.name,
        found=plan.found,
        rejected=dict(sorted(rejected.items())),
        excluded=dict(sorted(excluded.items())),
        expected_hours={
            label: hours for label, hours in asdict(manifest.expected_hours).items() if hours is not None
        },
        shards=written,
    )
    assert snapshot.found == snapshot.written + sum(snapshot.rejected.values()) + sum(
        snapshot.excluded.values()
    ), f"{manifest.name}: found {snapshot.found}, wrote {snapshot.written}, rejected {snapshot.rejected}"
    return snapshot


def report(snapshot: Snapshot, sources: Mapping[str, Source]) -> None:
    """Print what the snapshot holds, and what was rejected."""
    print(f"snapshot {snapshot.name} ({snapshot.digest})")
    for name, corpus in snapshot.corpora.items():
        hours = ", ".join(f"{hours:.2f} h {label}" for label, hours in corpus.hours.items()) or "nothing"
        mark = "" if name in sources else "  (as before)"
        print(
            f"  {name}: {corpus.found} found, {corpus.written} written in {len(corpus.shards)} shards, {hours}{mark}"
        )
        for reason, count in corpus.rejected.items():
            print(f"    {count} rejected: {reason}")
        for reason, count in corpus.excluded.items():
            print(f"    {count} {reason}, by the recipe")
        if name in sources:
            for label, (written, expected) in corpus.unexpected_hours.items():
                print(f"    warning: {written:.2f} h {label} where {expected:.2f} h are published")


if __name__ == "__main__":
    sys.exit(run(main))
