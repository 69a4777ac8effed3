"""The table: every section of the page, with its situations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.jobs.situations import checkpoints, commands, machine, memory, storage, tracking
from tests.jobs.situations.situation import Situation

TABLE: Mapping[str, Sequence[Situation]] = {
    "Commands": commands.SITUATIONS,
    "Memory and long files": memory.SITUATIONS,
    "Checkpoints and identity": checkpoints.SITUATIONS,
    "MLflow": tracking.SITUATIONS,
    "Disks and S3": storage.SITUATIONS,
    "Machine, terminal and cluster": machine.SITUATIONS,
}
"""Heading → situations, in the order of the page."""
