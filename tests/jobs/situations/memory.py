"""Utterances that do not fit into memory, and workers that die."""

from __future__ import annotations

from tests.jobs.situations.situation import Situation

SITUATIONS: list[Situation] = []
