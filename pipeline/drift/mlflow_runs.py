"""The MLflow run of a comparison, below the run that made the new scores."""

import re
from collections.abc import Mapping
from typing import Any

from pipeline import tracking
from pipeline.drift.page import headline
from pipeline.drift.results import Results
from pipeline.evaluation.mlflow_runs import TAGS


def log_to_mlflow(
    results: Results, files: Mapping[str, bytes], *, uri: str, experiment: str, settings: Mapping[str, Any]
) -> str | None:
    """Log distances and files to a run; returns its URL.

    Args:
        results: the comparison.
        files: file name → content.
        uri: MLflow server or database; empty: nothing is logged.
        experiment: MLflow experiment.
        settings: the settings of the job.
    """
    new = results.new
    tags = {f"bonafide.{name}": new.identity.get(name) for name in TAGS} | {
        "bonafide.system": new.system,
        "bonafide.weights": new.identity.get("weights_digest"),
        "bonafide.drift": "alarm" if results.is_alarm else "none",
    }
    parent = (new.identity.get("tracking") or {}).get("run_id")
    with tracking.run(
        uri,
        experiment,
        job="drift",
        name=f"drift {new.system}",
        parent=None if parent is None else str(parent),
        tags=tags,
        config=settings,
    ) as tracked:
        tracked.describe(
            "\n".join([f"**{headline(results)}**", "", *(f"- {each}" for each in results.warnings)])
        )
        tracked.log_metrics(metrics_of(results))
        for name, data in files.items():
            tracked.log_file(data, name)
    return tracked.url


def metrics_of(results: Results) -> dict[str, float]:
    """The metrics of a comparison: `drift/p_value`, `drift/effect`, and `drift/embedding_mmd2/spoof` and its p."""
    metrics = {"drift/p_value": results.test.p_value, "drift/effect": results.test.effect}
    for part in results.parts:
        for each in part.distances:
            name = f"drift/{each.subject}_{each.measure}/{part.label or 'all'}"
            metrics |= {name: each.value, f"{name}/p_value": each.p_value}
    return {re.sub(r"[^\w.\-/ ]", "_", name): value for name, value in metrics.items()}
