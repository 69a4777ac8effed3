"""Shared by the tests of trainings: one that is not interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import train
from tests.jobs.training.trainings import config


@pytest.fixture(scope="package")
def whole(place: Path) -> str:
    """An uninterrupted training."""
    train.main(config(place, "whole"))
    return "whole"
