"""Runs, metrics, lineage and registered detectors in MLflow; an unreachable server never stops the work.

    with tracking.run(uri, "bonafide", job="train", name="first (xlsr_300m)", config=to_dict(config)) as tracked:
        tracked.log_metrics({"train/loss": 0.7}, step=10)

The only package that imports MLflow, and only inside functions that talk to a server, so importing it is cheap.
"""

from pipeline.tracking.metrics_file import Report
from pipeline.tracking.metrics_file import read as read_metrics
from pipeline.tracking.registry import (
    Version,
    check_name,
    check_tag,
    download,
    find_version,
    register,
    set_version_tag,
)
from pipeline.tracking.runs import Run, find_run, run
from pipeline.tracking.server import EXPERIMENT, INGEST_EXPERIMENT, check, check_flags
from pipeline.tracking.texts import without_credentials
from pipeline.tracking.uris import TrackingUri

__all__ = [
    "EXPERIMENT",
    "INGEST_EXPERIMENT",
    "Report",
    "Run",
    "TrackingUri",
    "Version",
    "check",
    "check_flags",
    "check_name",
    "check_tag",
    "download",
    "find_run",
    "find_version",
    "read_metrics",
    "register",
    "run",
    "set_version_tag",
    "without_credentials",
]
