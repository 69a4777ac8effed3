"""MLflow runs of reports about scores, each below the run that made the scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import tracking

TAGS = ("checkpoint", "snapshot", "policy", "precision", "variant")
"""Entries of a description that become tags of the run."""


def tags_of(identity: Mapping[str, Any]) -> dict[str, object]:
    """The tags that say which scores a run is about.

    Args:
        identity: description of the scores.
    """
    return {f"bonafide.{name}": identity.get(name) for name in TAGS} | {
        "bonafide.system": identity.get("system"),
        "bonafide.weights": identity.get("weights_digest"),
    }


def metric_name(name: str) -> str:
    """Replace the characters that MLflow does not allow in the name of a metric."""
    return re.sub(r"[^\w.\-/ ]", "_", name)


def log_report(
    identity: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    uri: str,
    experiment: str,
    settings: Mapping[str, Any],
    job: str,
    tags: Mapping[str, object],
    headline: str,
    warnings: Sequence[str],
    metrics: Mapping[str, float],
) -> list[str]:
    """Log a report about scores to a run of its own; returns its URL, if it has one.

    Args:
        identity: description of the scores.
        files: file name → content.
        uri: MLflow server or database; empty: nothing is logged.
        experiment: MLflow experiment.
        settings: the settings of the job.
        job: the command.
        tags: besides `tags_of`.
        headline: what the page of the run says first.
        warnings: what it says then.
        metrics: name → value; names may have any characters.
    """
    parent = (identity.get("tracking") or {}).get("run_id")
    with tracking.run(
        uri,
        experiment,
        job=job,
        name=f"{job} {identity.get('system')}",
        parent=None if parent is None else str(parent),
        tags={**tags_of(identity), **tags},
        config=settings,
    ) as tracked:
        tracked.describe("\n".join([f"**{headline}**", "", *(f"- {each}" for each in warnings)]))
        tracked.log_metrics({metric_name(name): value for name, value in metrics.items()})
        for name, data in files.items():
            tracked.log_file(data, name)
    return [tracked.url] if tracked.url else []
