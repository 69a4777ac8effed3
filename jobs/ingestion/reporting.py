"""Report the snapshot of an ingest: on standard output and in MLflow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

from jobs.ingestion.config import IngestConfig
from pipeline import tracking
from pipeline.card.formatting import format_not_audio
from pipeline.card.page import corpus_card
from pipeline.config import to_toml
from pipeline.data.corpora.recipe import EXCLUDED, load_recipe
from pipeline.data.store.losses import MAX_LOSS, UNKNOWN, loss_warning, lost_share, severe_losses, sum_labels
from pipeline.data.store.snapshot import CorpusSnapshot, Snapshot
from pipeline.progress import counted
from pipeline.storage import Folder

MAX_LOSS_METRICS = 50
"""Classes of a corpus, other than its labels, that are logged as metrics."""


def print_summary(snapshot: Snapshot, ingested: Collection[str], max_loss: float = MAX_LOSS) -> None:
    """Print the content of each corpus of a snapshot, after one line for each ingested corpus that lost too much.

    Args:
        snapshot: the latest snapshot of the store.
        ingested: names of the corpora that this ingest read.
        max_loss: see `IngestConfig`.
    """
    corpora = snapshot.corpora.values()
    print_warnings((corpus for corpus in corpora if corpus.name in ingested), max_loss)
    print(f"snapshot {snapshot.name} ({snapshot.digest})")
    for corpus in corpora:
        print_corpus(corpus, is_ingested=corpus.name in ingested)


def print_warnings(corpora: Iterable[CorpusSnapshot], max_loss: float = MAX_LOSS) -> None:
    """Print one line for each corpus in which a class lost too much."""
    for warning in loss_warnings(corpora, max_loss):
        print(f"warning: {warning}")


def print_corpus(corpus: CorpusSnapshot, *, is_ingested: bool = True) -> None:
    """Print what was found in a corpus, and what became of it.

    Args:
        corpus: one corpus of a snapshot, committed or not.
        is_ingested: whether this ingest read the corpus; only then it is compared with the published hours.
    """
    hours = ", ".join(f"{hours:.2f} h {label}" for label, hours in corpus.hours.items()) or "no audio"
    mark = "" if is_ingested else "  (unchanged)"
    print(
        f"  {corpus.name}: {corpus.found} found, {corpus.written} written in "
        f"{counted(len(corpus.shards), 'shard')}, {hours}{mark}"
    )
    for reason, count in corpus.rejected.items():
        print(f"    {count} rejected: {reason}")
    labels = [counts for counts in corpus.losses if counts.dimension == "label"]
    if any(counts.lost for counts in labels):
        by_label = (
            f"{counts.lost} of unknown label"
            if counts.name == UNKNOWN
            else f"{counts.lost} of {counts.wanted} {counts.name}"
            for counts in labels
        )
        print(f"    lost by label: {', '.join(by_label)}")
    for reason, count in corpus.excluded.items():
        print(f"    {count} excluded by the recipe: split {reason.removeprefix(EXCLUDED)}")
    for line in corpus.regions.describe() if corpus.regions else ():
        print(f"    {line}")
    if corpus.not_audio:
        print(f"    {format_not_audio(corpus.not_audio)}")
    if is_ingested:
        for label, (written, expected) in corpus.unexpected_hours.items():
            print(f"    warning: {written:.2f} h {label} written, {expected:.2f} h published")


def loss_warnings(corpora: Iterable[CorpusSnapshot], max_loss: float = MAX_LOSS) -> list[str]:
    """One line for each corpus in which a class lost too much; see `severe_losses`."""
    warnings = (loss_warning(corpus.name, corpus.losses, max_loss) for corpus in corpora)
    return [warning for warning in warnings if warning]


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
            "bonafide.losses": "\n".join(loss_warnings(snapshot.corpora.values(), config.max_loss)) or None,
            "mlflow.runName": f"{run_name(store)} {snapshot.name}",
        }
    )
    if run.is_tracked:
        recipe = load_recipe(config.recipe) if config.recipe else None
        run.log_text(corpus_card(store, snapshot, recipe, config.max_loss).to_html(), "corpus_card.html")
    run.log_text(to_toml(config), "config.toml")
    run.log_metrics(
        {
            f"{key}/{name}": value
            for name, corpus in snapshot.corpora.items()
            for key, value in _metrics(corpus).items()
        }
        | {
            key: value
            for corpus in snapshot.corpora.values()
            for key, value in _loss_metrics(corpus, config.max_loss).items()
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


def _loss_metrics(corpus: CorpusSnapshot, max_loss: float) -> dict[str, float]:
    """The lost share of each label, and of those other classes that lost too much; so few series, whatever is lost."""
    labels = [counts for counts in corpus.losses if counts.dimension == "label"]
    severe = severe_losses(corpus.losses, max_loss)[:MAX_LOSS_METRICS]
    total = sum_labels(corpus.losses)
    return {
        f"lost_share/{corpus.name}/{counts.dimension}/{_metric_name(counts.name)}": lost_share(counts, total)
        for counts in (*labels, *severe)
    }


def _metric_name(name: str) -> str:
    """A name without characters that MLflow refuses in the name of a metric, and without slashes."""
    return re.sub(r"[^\w.\- ]", "_", name)
