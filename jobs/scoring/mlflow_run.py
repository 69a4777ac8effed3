"""The MLflow run of a scoring: one per output folder and identity, below the run of the detector's training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from jobs.checkpoint_source import Checkpoint
from jobs.scoring.config import ScoreConfig
from jobs.scoring.inputs import ScoringPlan
from pipeline import tracking
from pipeline.config import to_dict
from pipeline.evaluation import layout
from pipeline.storage import Folder

if TYPE_CHECKING:
    from pipeline.detector.checkpoint import Loaded

TAGS = ("variant", "snapshot", "policy", "precision", "checkpoint")
"""Parts of the identity that become tags of the run."""


def start_run(
    config: ScoreConfig, system: str, checkpoint: Checkpoint, loaded: Loaded, identity: Mapping[str, Any]
) -> AbstractContextManager[tracking.Run]:
    """Start the MLflow run, or reopen the one that an earlier attempt started for the same folder and identity."""
    known = {name: value for name, value in identity.items() if value is not None}
    identity = {**known, "checkpoint": checkpoint.uri}
    key = json.dumps([Folder(config.out).uri, identity], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return tracking.run(
        config.tracking_uri,
        config.experiment,
        job="score",
        name=f"score {system}",
        identity={"bonafide.job": "score", "bonafide.scoring": digest},
        parent=_training_tags(loaded),
        config=to_dict(config),
        tags={"bonafide.system": system, "bonafide.weights": identity["weights_digest"]}
        | {f"bonafide.{name}": identity.get(name) for name in TAGS},
    )


def _training_tags(loaded: Loaded) -> dict[str, str] | None:
    """The tags of the run that trained the detector; None if the weights do not name it."""
    training = loaded.metadata.get("training")
    return None if training is None else {"bonafide.training": training, "bonafide.job": "train"}


def log_to_mlflow(
    tracked: tracking.Run, plan: ScoringPlan, description: Mapping[str, Any], audio_s: float
) -> None:
    """Log the input, the counts and the description.

    Args:
        tracked: the run to log to.
        plan: what was to be scored.
        description: content of `layout.DESCRIPTION`.
        audio_s: audio that this run of the job scored, in seconds; 0 if every part had been scored before.
    """
    tracked.log_dataset(plan.name, plan.digest, source=plan.uri, context="score")
    metrics = {
        "scored/utterances": float(description["num_utterances"]),
        "scored/rejected": float(description["num_rejected"]),
    }
    if audio_s:
        metrics["scored/hours"] = audio_s / 3600
    tracked.log_metrics(metrics)
    tracked.describe(run_note(plan, description))
    tracked.log_text(json.dumps(description, indent=1, sort_keys=True), layout.DESCRIPTION)


def run_note(plan: ScoringPlan, description: Mapping[str, Any]) -> str:
    """Summarise the scoring in Markdown, for the page of the run."""
    corpora = ", ".join(plan.identity.get("corpora", ()))
    items = {
        "detector": f"`{description['checkpoint']}` ({description['variant']}, {description['head']['name']})",
        "input": f"{plan.name}, `{plan.uri}`" + (f": {corpora}" if corpora else ""),
        "window": description["policy"],
        "precision": description["precision"],
        "scores": f"`{Folder(description['config']['out']).uri}`",
    }
    counts = f"**{description['num_utterances']:,} scores**, {description['num_rejected']:,} rejected"
    reasons = ", ".join(f"{count} {reason}" for reason, count in description["rejected"].items())
    lines = [f"- **{name}**: {value}" for name, value in items.items()]
    return "\n".join([counts + (f" ({reasons})" if reasons else ""), "", *lines])
