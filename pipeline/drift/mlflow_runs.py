"""The MLflow run of a comparison, below the run that made the new scores."""

from collections.abc import Mapping
from typing import Any

from pipeline.drift.page import headline
from pipeline.drift.results import Results
from pipeline.evaluation.score_run import log_report


def log_to_mlflow(
    results: Results, files: Mapping[str, bytes], *, uri: str, experiment: str, settings: Mapping[str, Any]
) -> list[str]:
    """Log distances and files to a run; returns its URL, if it has one.

    Args:
        results: the comparison.
        files: file name → content.
        uri: MLflow server or database; empty: nothing is logged.
        experiment: MLflow experiment.
        settings: the settings of the job.
    """
    return log_report(
        results.new.identity,
        files,
        uri=uri,
        experiment=experiment,
        settings=settings,
        job="drift",
        tags={"bonafide.drift": "alarm" if results.is_alarm else "none"},
        headline=headline(results),
        warnings=results.warnings,
        metrics=metrics_of(results),
    )


def metrics_of(results: Results) -> dict[str, float]:
    """The metrics of a comparison: `drift/p_value`, `drift/effect`, and `drift/embedding_mmd2/spoof` and its p."""
    metrics = {"drift/p_value": results.test.p_value, "drift/effect": results.test.effect}
    for part in results.parts:
        for each in part.distances:
            name = f"drift/{each.subject}_{each.measure}/{part.label or 'all'}"
            metrics |= {name: each.value, f"{name}/p_value": each.p_value}
    return metrics
