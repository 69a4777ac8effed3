"""Turn corpora into shards: labelled 16 kHz mono FLAC in WebDataset tars, with an index and a snapshot.

    bonafide ingest --root DATA --store STORE --corpora asvspoof2019_la,in_the_wild
    bonafide ingest --root DATA --store STORE --recipe antideepfake
    bonafide ingest --root DATA --store STORE --protocol train.csv

Running the command again builds only what is missing. A corpus that cannot be read, or that has lost all of its
utterances, is named and stays as it was in the latest snapshot; the others are committed, and the exit status is 1. It
is 1 as well if a label, attack, language or tool lost more than --max-loss of its utterances, or all of them.
"""

from __future__ import annotations

import contextlib
import sys

from jobs.ingestion.building import build_shards, corpus_snapshot, plan_corpora, read_regions
from jobs.ingestion.cataloging import Cataloger, catalog_corpora
from jobs.ingestion.config import IngestConfig
from jobs.ingestion.outcome import failed_listings, lost_corpora, nothing_written, print_failures
from jobs.ingestion.reporting import log_to_mlflow, loss_warnings, print_summary, print_warnings, run_name
from jobs.ingestion.sources import find_sources
from jobs.ray_session import ray_session
from pipeline import tracking
from pipeline.config import run, to_dict, to_toml
from pipeline.data.store import layout
from pipeline.data.store.running import ingesting
from pipeline.data.store.snapshot import commit_snapshot, latest_snapshot, with_losses
from pipeline.errors import InputError
from pipeline.storage import Folder
from pipeline.streams import continue_without_output


def main(config: IngestConfig) -> int:
    """Catalog the corpora, plan their shards, build the missing ones, commit a snapshot; returns the exit status."""
    continue_without_output()
    tracking.check(config.tracking_uri, config.experiment)
    store = Folder(config.store)
    sources = find_sources(config)
    with (
        ingesting(store) as fence,
        tracking.run(
            config.tracking_uri, config.experiment, job="ingest", name=run_name(store), config=to_dict(config)
        ) as mlflow_run,
        contextlib.ExitStack() as session,
    ):

        def start_ray() -> None:  # only when needed: a store in which nothing changed needs no Ray
            session.enter_context(ray_session())

        before = latest_snapshot(store)
        cataloger = Cataloger(sources, store, config.chunk_s)
        found = catalog_corpora(cataloger, before, start_ray)
        failures = failed_listings(found, sources, before, config.corpora)
        print_failures(failures, before)
        found = {
            name: corpus for name, corpus in found.items() if name not in failures and corpus.rows.num_rows
        }
        if not found:
            which = f" that can be ingested; failed: {', '.join(failures)}" if failures else ""
            raise InputError(f"{config.root}: nothing found in the folders of its corpora{which}")
        plans = plan_corpora(found, sources, store, before, config)
        regions, without_regions = read_regions(plans, sources, store)
        print_failures(without_regions, before)
        failures |= without_regions
        plans = {name: plan for name, plan in plans.items() if name not in without_regions}
        if not plans:
            raise InputError(f"{config.root}: no corpus that can be ingested; failed: {', '.join(failures)}")
        summaries = build_shards(plans, sources, store, before, config, start_ray)
        corpora = [
            corpus_snapshot(sources[name].manifest, plan, summaries, regions.get(name))
            for name, plan in plans.items()
        ]
        corpora = [with_losses(store, corpus, before) for corpus in corpora]
        if not any(corpus.written for corpus in corpora):
            print_warnings(corpora, config.max_loss)
            raise nothing_written(corpora, store)
        lost = lost_corpora(corpora, before)
        print_failures(lost, before)
        corpora = [corpus for corpus in corpora if corpus.name not in lost]
        fence.check()  # a garbage collection that took this ingest for dead has deleted its shards
        snapshot = commit_snapshot(store, corpora, mlflow_run.run_id)
        store.commit(layout.config_name(snapshot.name), to_toml(config).encode())
        print_summary(snapshot, [corpus.name for corpus in corpora], config.max_loss)
        log_to_mlflow(mlflow_run, store, snapshot, config)
    if mlflow_run.url:
        print(f"MLflow: {mlflow_run.url}")
    return 1 if failures or lost or loss_warnings(corpora, config.max_loss) else 0


if __name__ == "__main__":
    sys.exit(run(main))
