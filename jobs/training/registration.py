"""Registers the detector of a complete training in MLflow, so that it is found as `models:/NAME@best`."""

from __future__ import annotations

import hashlib
import json

from jobs.training.folder import DETECTOR
from jobs.training.record import RATE_TAGS, TrainingRecord, TrainingResult
from jobs.training.resolve import ResolvedTraining
from pipeline import tracking


def register(
    training: ResolvedTraining, record: TrainingRecord, result: TrainingResult, run_id: str | None
) -> tracking.Version | None:
    """Register the detector, once, as a result of an MLflow run; print its URI."""
    config = training.config
    if not (config.tracking_uri and config.registered_name):
        return None
    if run_id is None:
        print(
            "not registered, because MLflow did not respond; run the same command again to register the detector"
        )
        return None
    location = training.out.location(DETECTOR)
    version = tracking.register(
        config.tracking_uri,
        config.registered_name,
        location,
        run_id=run_id,
        tags={
            **{RATE_TAGS[which]: rate for which, rate in result.error_rates.items()},
            "error": result.error_rates[result.selected_by],
            "selected_by": result.selected_by,
            "step": result.best_step,
            "variant": config.variant,
            "head": config.head.name,
            "snapshot": result.snapshot_digest,
            "validation": validation_digest(record),
            "training": result.id,
            "weights": result.weights,
            "training_log_odds": result.training_log_odds,
        },
        description=f"Validation {result.summary}, from {location}",
    )
    if version is not None:
        note = (
            ""
            if version.is_best
            else "; @best is another version: a better one, or one validated or selected otherwise"
        )
        print(f"registered as {version.uri}{note}")
    return version


def validation_digest(record: TrainingRecord) -> str:
    """Equal for trainings that validate with the same utterances and select by the same error rate."""
    recipe = {
        name: value for name, value in record.settings["recipe"].items() if name not in ("name", "weights")
    }
    selection = record.settings["training"]["select_by"]
    identity = [record.snapshot_digest, record.settings["corpora"], recipe, selection]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
