"""Terminals, signals, temporary folders, and Ray itself."""

from __future__ import annotations

from tests.jobs.situations.situation import Situation

SITUATIONS: list[Situation] = []
