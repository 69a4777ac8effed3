"""Runs, metrics, lineage and registered detectors in MLflow; an unreachable server never stops the work.

    with tracking.run(uri, "bonafide", job="train", name="train xlsr_300m", config=to_dict(config)) as tracked:
        tracked.log_metrics({"train/loss": 0.7}, step=10)

The only package that imports MLflow, and only inside functions that talk to a server, so importing it is cheap.
"""

from pipeline.tracking.registry import Version, check_name, download, find_model, find_version, register
from pipeline.tracking.runs import Run, find_run, run
from pipeline.tracking.server import EXPERIMENT, TrackingUri, check_flags
from pipeline.tracking.texts import without_credentials

__all__ = [
    "EXPERIMENT",
    "Run",
    "TrackingUri",
    "Version",
    "check_flags",
    "check_name",
    "download",
    "find_model",
    "find_run",
    "find_version",
    "register",
    "run",
    "without_credentials",
]
