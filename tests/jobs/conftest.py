"""Shared by the tests of jobs: a local Ray on two cores, and a store.

They last as long as the tests of jobs follow each other; an idle Ray would slow the other tests down.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.ray_session import ray_session
from tests.jobs.training.trainings import write_store


@pytest.fixture(scope="package")
def cluster(s3_endpoint: str) -> Iterator[None]:
    """A local Ray whose workers know the S3 endpoint; jobs called in this process use it."""
    with ray_session(num_cpus=2):
        yield


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    """A folder with a store of sixty clips, for trainings beside it."""
    place = tmp_path_factory.mktemp("trainings")
    write_store(place)
    return place
