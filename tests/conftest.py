"""The order of the tests, and fixtures for several: an S3 endpoint over HTTP, and an address without a server."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator

import pytest

# Two processes of tests share the cores; with more threads each, they would mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, then the others that use Ray: short files at the end keep both processes busy."""
    minutes, ray = (
        {item.path for item in items if item.get_closest_marker(name) is not None}
        for name in ("minutes", "ray")
    )
    items.sort(key=lambda item: (item.path not in minutes, item.path not in ray))


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
