"""How tests are ordered and divided among processes, and fixtures for several: an S3 endpoint over HTTP, and an address
without a server.
"""

from __future__ import annotations

import gc
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadfile import LoadFileScheduling

# Processes of tests share the cores; with more threads each, they would mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'startup'}"  # for processes that tests start

SHARED = ("tests/jobs/training", "tests/jobs/benchmarks", "tests/jobs", "tests/two_machines")
"""Folders whose files one process runs: what they use takes long to set up. The first that fits counts."""

ALONE = "tests/jobs/test_as_typed.py"
"""Takes too long to run after the others of its folder."""

gc.disable()  # until the modules are imported, whose objects are not garbage


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over the objects of modules from now on: there are a million."""
    gc.enable()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, then the others that use Ray: short files at the end keep all processes busy."""
    minutes, ray = (
        {item.path for item in items if item.get_closest_marker(name) is not None}
        for name in ("minutes", "ray")
    )
    items.sort(key=lambda item: (item.path not in minutes, item.path not in ray))


class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives each file to one of several processes, and all files of a `SHARED` folder to the same one.

    A process with one or two tests is given more before it starts, so `SHARED` has the longest test beside short ones.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        folders = (folder for folder in SHARED if file.startswith(f"{folder}/") and file != ALONE)
        return next(folders, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Let `Scheduling` divide the tests among several processes."""
    return Scheduling(config, log)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes are named by their argument: all processes must collect the same names, and bytes may hold the time."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an HTTP server that speaks the S3 protocol; the environment has its credentials."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    """The s3:// URI of an empty bucket."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def unreachable() -> Iterator[str]:
    """A host and a port on which no server listens; no other process can take the port during the test."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"
