"""Disks and S3 buckets that are full, forbidden, or answer differently."""

from __future__ import annotations

from tests.jobs.situations.situation import Situation

SITUATIONS: list[Situation] = []
