"""The record that a training writes when it starts, and the result that it writes when it is complete."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from jobs.training import folder
from pipeline.metrics.grouped import METRIC_NAMES, SELECTION_LABELS, Selection, describe_rates
from pipeline.storage import Folder

RATE_TAGS = {which: name.replace("/", "_") for which, name in METRIC_NAMES.items()}
"""Names of error rates in the header of saved weights, and in tags of a registered detector."""


@dataclass(frozen=True)
class TrainingRecord:
    """Settings and data of a training, fixed when it started; a resumed training must not differ."""

    id: str
    settings: dict[str, Any]
    """The settings that decide the weights, see `fixed_settings`."""
    snapshot: str
    snapshot_digest: str
    initial_weights: str
    """Digest of the weights in `initial.safetensors`."""

    @property
    def run_tags(self) -> dict[str, str]:
        """The tags by which the MLflow run of the training is found."""
        return {"bonafide.training": self.id, "bonafide.job": "train"}


@dataclass(frozen=True)
class TrainingResult:
    """The result of a complete training."""

    id: str
    snapshot: str
    snapshot_digest: str
    initial_weights: str
    weights: str
    """Digest of the weights in `detector.safetensors`."""
    best_step: int
    best_weights: str
    """raw: the weights as the best step left them; ema: their exponential moving average."""
    selected_by: Selection
    """The error rate that decided which weights are the best."""
    error_rates: dict[Selection, float]
    """The validation error rates of the best weights; `corpora` is missing if no corpus has both classes."""
    num_steps: int
    run_id: str | None
    """MLflow run of the training; None if it was not tracked, or the server was away."""
    training_log_odds: float | None = None
    """Natural log of the odds of bona fide in training; None if the scores are not log odds, and in results of an
    earlier version."""

    @property
    def summary(self) -> str:
        """The result in words: `EER 2.10% pooled, 3.00% mean of corpora …; best mean of corpora at step 2,000`."""
        label = SELECTION_LABELS[self.selected_by]
        ema = " (EMA)" if self.best_weights == "ema" else ""
        return f"EER {describe_rates(self.error_rates)}; best {label} at step {self.best_step:,}{ema}"


def load_record(out: Folder) -> TrainingRecord | None:
    """Load the record of a training; None if it has not started."""
    if not out.exists(folder.RECORD):
        return None
    return TrainingRecord(**json.loads(out.read(folder.RECORD)))


def load_result(out: Folder) -> TrainingResult | None:
    """Load the result of a training; None while it is not complete."""
    if not out.exists(folder.RESULT):
        return None
    return TrainingResult(**json.loads(out.read(folder.RESULT)))


def write_record(out: Folder, record: TrainingRecord) -> None:
    """Write the record; the training has started."""
    out.commit(folder.RECORD, json.dumps(asdict(record), indent=1).encode())


def write_result(out: Folder, result: TrainingResult) -> None:
    """Write the result; the training is complete."""
    out.commit(folder.RESULT, json.dumps(asdict(result), indent=1).encode())
