"""The MLflow run of a training: its parameters, its tags, and the note at the top of its page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jobs.training.folder import CONFIG, DETECTOR, METRICS, VALIDATION_PAGE
from jobs.training.record import TrainingRecord, TrainingResult
from jobs.training.registration import register
from jobs.training.resolve import ResolvedTraining
from pipeline import tracking
from pipeline.config import to_dict, to_toml
from pipeline.metrics.grouped import METRIC_NAMES

PLACES = ("out", "tracking_uri", "experiment", "register")
"""Settings that differ between trainings without making them different; they are no parameters of the run."""


@contextmanager
def track_training(training: ResolvedTraining, record: TrainingRecord) -> Iterator[tracking.Run]:
    """Open the one MLflow run of a training; its tags and its data set lead to the ingest of its snapshot."""
    config, snapshot = training.config, training.snapshot
    settings = {name: value for name, value in to_dict(config).items() if name not in PLACES}
    with tracking.run(
        config.tracking_uri,
        config.experiment,
        job="train",
        name=f"{training.out.uri.rpartition('/')[2]} ({config.variant})",
        identity=record.run_tags,
        tags={
            "bonafide.ingest": snapshot.run_id,
            "bonafide.snapshot": training.snapshot_digest,
            "bonafide.out": config.out,
            "bonafide.initial_weights": record.initial_weights,
        },
        config=settings | {"snapshot": record.snapshot, "recipe": to_dict(training.recipe)},
    ) as tracked:
        tracked.describe(run_note(training))
        tracked.log_text(to_toml(config), CONFIG)
        tracked.log_dataset(f"snapshot {snapshot.name}", training.snapshot_digest, config.store, "training")
        yield tracked


def run_note(training: ResolvedTraining) -> str:
    """Describe a training in Markdown before it has a result."""
    config, snapshot = training.config, training.snapshot
    hours = {
        label: sum(corpus.hours.get(label, 0.0) for corpus in snapshot.corpora.values())
        for label in ("bonafide", "spoof")
    }
    optimiser = config.training.optimiser
    ingest = f", [its ingest](#/runs/{snapshot.run_id})" if snapshot.run_id else ""
    rows = {
        "detector": f"{config.variant}, from {config.init or 'random weights'}",
        "data": f"snapshot {snapshot.name} (`{training.snapshot_digest}`) of `{config.store}`: "
        f"{len(snapshot.corpora)} corpora, {hours['bonafide']:,.1f} h bona fide, {hours['spoof']:,.1f} h spoof{ingest}",
        "recipe": config.recipe or "every training corpus; validation by the corpora's own splits",
        "steps": f"{optimiser.num_steps:,} at up to {optimiser.learning_rate:g}, {config.training.precision}",
        "out": f"`{config.out}`",
    }
    footer = f"Validation curves: artifact `{VALIDATION_PAGE}`. All settings: `{CONFIG}`."
    return "\n".join([*(f"- **{name}**: {value}" for name, value in rows.items()), "", footer])


def log_result(
    training: ResolvedTraining, record: TrainingRecord, result: TrainingResult, tracked: tracking.Run
) -> None:
    """Add the result to the run as tags and in its note, and register the detector.

    Metrics and the page of validations that an outage kept from the server are sent from the files of RUN.
    """
    location, out = training.out.location(DETECTOR), training.out
    if tracked.is_tracked and out.exists(METRICS):
        tracked.send_missing(result.num_steps, out.read(METRICS))
    if tracked.is_tracked and out.exists(VALIDATION_PAGE):
        tracked.log_file(out.read(VALIDATION_PAGE), VALIDATION_PAGE)
    version = register(training, record, result, tracked.run_id)
    note = f"**Validation {result.summary}**: `{location}`"
    if version is not None:
        note += f", registered as `{version.uri}`{' and `@best`' if version.is_best else ''}"
    tracked.describe(f"{note}\n\n{run_note(training)}")
    tracked.log_metrics(
        {f"validation/best/{METRIC_NAMES[which]}": rate for which, rate in result.error_rates.items()}
    )
    tracked.set_tags(
        {
            "bonafide.weights": result.weights,
            "bonafide.best_step": result.best_step,
            "bonafide.best_weights": result.best_weights,
            "bonafide.selected_by": result.selected_by,
            "bonafide.detector": location,
        }
    )


def log_complete(training: ResolvedTraining, record: TrainingRecord, result: TrainingResult) -> None:
    """Track and register a complete training, as far as its server was away before, from the files of RUN."""
    config = training.config
    result_tags = record.run_tags | {"bonafide.weights": result.weights}
    run_id = tracking.find_run(config.tracking_uri, config.experiment, result_tags, "FINISHED")
    if run_id is not None:
        register(training, record, result, run_id)
        return
    with track_training(training, record) as tracked:
        log_result(training, record, result, tracked)
