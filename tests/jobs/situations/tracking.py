"""MLflow servers and databases that are away, refuse, or cannot be used."""

from __future__ import annotations

from tests.jobs.situations.situation import Situation

SITUATIONS: list[Situation] = []
