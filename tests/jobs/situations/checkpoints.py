"""Checkpoints that are missing, damaged, changed, or of a form that cannot be read exactly."""

from __future__ import annotations

from tests.jobs.situations.situation import Situation

SITUATIONS: list[Situation] = []
