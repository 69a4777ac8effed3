"""Report the snapshot of an ingest: on standard output and in MLflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from jobs.ingestion.config import IngestConfig
from pipeline import tracking
from pipeline.card.page import corpus_card
from pipeline.config import to_toml
from pipeline.data.corpora.recipe import EXCLUDED, load_recipe
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.storage import Folder


def print_summary(snapshot: Snapshot, ingested: Collection[str]) -> None:
    """Print the content of each corpus of a snapshot and, for the ingested ones, differences from the published hours.

    Args:
        snapshot: the latest snapshot of the store.
        ingested: names of the corpora that this ingest read.
    """
    print(f"snapshot {snapshot.name} ({snapshot.digest})")
    for name, corpus in snapshot.corpora.items():
        hours = ", ".join(f"{hours:.2f} h {label}" for label, hours in corpus.hours.items()) or "no audio"
        mark = "" if name in ingested else "  (unchanged)"
        print(
            f"  {name}: {corpus.found} found, {corpus.written} written in {len(corpus.shards)} shards, {hours}{mark}"
        )
        for reason, count in corpus.rejected.items():
            print(f"    {count} rejected: {reason}")
        for reason, count in corpus.excluded.items():
            print(f"    {count} excluded by the recipe: split {reason.removeprefix(EXCLUDED)}")
        if name in ingested:
            for label, (written, expected) in corpus.unexpected_hours.items():
                print(f"    warning: {written:.2f} h {label} written, {expected:.2f} h published")


def log_to_mlflow(run: tracking.Run, store: Folder, snapshot: Snapshot, config: IngestConfig) -> None:
    """Log a snapshot: description, data set, tags, corpus card, config, and the counts of each corpus."""
    hours: Counter[str] = Counter()  # adds floats as well as counts
    for corpus in snapshot.corpora.values():
        hours.update(corpus.hours)
    by_label = ", ".join(f"{total:,.1f} h {label}" for label, total in sorted(hours.items()))
    run.describe(
        f"**Snapshot {snapshot.name}** (`{snapshot.digest}`) of `{store.uri}`: {len(snapshot.corpora)} corpora, "
        f"{by_label}. Its contents and their problems are described in the artifact `corpus_card.html`."
    )
    run.log_dataset(f"snapshot {snapshot.name}", snapshot.digest, source=store.uri, context="ingest")
    run.set_tags(
        {
            "bonafide.snapshot": snapshot.digest,
            "bonafide.store": store.uri,
            "mlflow.runName": f"{run_name(store)} {snapshot.name}",
        }
    )
    if run.run_id is not None:
        recipe = load_recipe(config.recipe) if config.recipe else None
        run.log_text(corpus_card(store, snapshot, recipe).to_html(), "corpus_card.html")
    run.log_text(to_toml(config), "config.toml")
    run.log_metrics(
        {
            f"{key}/{name}": value
            for name, corpus in snapshot.corpora.items()
            for key, value in _metrics(corpus).items()
        }
    )


def run_name(store: Folder) -> str:
    """Name of the MLflow run of an ingest, before the number of the snapshot is known."""
    return f"ingest {store.uri.rpartition('/')[2]}"


def _metrics(corpus: CorpusSnapshot) -> dict[str, float]:
    return {
        "utterances": float(corpus.written),
        "rejected": float(sum(corpus.rejected.values())),
        "hours": sum(corpus.hours.values()),
    }
