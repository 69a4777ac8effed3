"""An S3 that is loaded, or strict, or fails half-way."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator

import pytest
import s3fs

from pipeline.errors import InputError
from pipeline.storage import PART_BYTES, Folder
from tests.s3 import Gate, gated_s3

LARGE = os.urandom(2 * PART_BYTES + 1)
"""Goes up in three parts."""


@pytest.fixture
def gate(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The S3 of this test, which lets everything through until it is told otherwise."""
    with gated_s3(monkeypatch) as gate:
        yield gate


def left_behind(bucket: str) -> tuple[list[str], int]:
    """Names of the objects of a bucket, and how many uploads to it were begun and neither ended nor aborted."""
    uploads = s3fs.S3FileSystem().list_multipart_uploads(bucket.removeprefix("s3://"))
    return [info.name for info in Folder(bucket).find()], len(uploads)


def test_requests_that_are_told_to_slow_down_are_made_again(bucket: str, gate: Gate):
    folder = Folder(f"{bucket}/root")
    folder.commit("a/read.bin", b"0123456789")
    folder.commit("gone.bin", b"x")
    work: dict[str, Callable[[], object]] = {
        "read": lambda: folder.read("a/read.bin"),
        "range": lambda: folder.read("a/read.bin", 2, 5),
        "open": lambda: folder.open("a/read.bin").read(),
        "exists": lambda: folder.exists("a/read.bin"),
        "not there": lambda: folder.exists("nowhere"),
        "find": lambda: [info.name for info in folder.find("a")],
        "commit": lambda: folder.commit("small.bin", b"small"),
        "staged": lambda: folder.commit("large.bin", LARGE),
        "create": lambda: folder.create("created.bin", b"once"),
        "delete": lambda: folder.delete("gone.bin"),
    }
    gate.refuse_first(2)
    with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
        done = {name: future.result() for name, future in [(n, pool.submit(w)) for n, w in work.items()]}
    assert done == {
        "read": b"0123456789",
        "range": b"234",
        "open": b"0123456789",
        "exists": True,
        "not there": False,
        "find": ["a/read.bin"],
        "commit": None,
        "staged": None,
        "create": True,
        "delete": None,
    }
    kinds = {kind for (kind, _), count in gate.seen.items() if count > 2}
    assert kinds == {"GET", "HEAD", "LIST", "PUT", "BEGIN", "PART", "COMPLETE", "DELETE"}
    gate.refuse_first(0)
    assert folder.read("small.bin") == b"small"
    assert folder.read("large.bin") == LARGE
    assert folder.read("created.bin") == b"once"
    assert not folder.exists("gone.bin")


def test_a_server_that_never_recovers_is_one_line_and_leaves_nothing(
    bucket: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    folder = Folder(f"{bucket}/root")
    folder.commit("a.bin", b"x")
    file = folder.open("a.bin")
    gate.refuse_always("503 Slow Down", "SlowDown")
    work: list[Callable[[], object]] = [
        file.read,
        lambda: folder.read("a.bin"),
        lambda: folder.exists("a.bin"),
        lambda: list(folder.find()),
        lambda: folder.commit("small.bin", b"small"),
        lambda: folder.commit("large.bin", LARGE),
        lambda: folder.create("created.bin", b"once"),
        lambda: folder.delete("a.bin"),
    ]
    with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
        errors = [future.exception() for future in [pool.submit(one) for one in work]]
    for error in errors:
        assert isinstance(error, InputError)
        assert str(error).startswith(f"{bucket}/root")
        assert "overloaded or down" in str(error)
        assert "\n" not in str(error)
    gate.refuse_first(0)
    assert left_behind(bucket) == (["root/a.bin"], 0)


@pytest.mark.parametrize("kind", ["PART", "COMPLETE"])
def test_an_upload_that_fails_on_its_way_is_taken_back(
    kind: str, bucket: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    gate.refuse_always("500 Internal Server Error", "InternalError", kind)
    with pytest.raises(
        InputError, match=r"large\.bin: This is InternalError; the server is overloaded or down"
    ):
        Folder(bucket).commit("large.bin", LARGE)
    assert gate.seen["ABORT", f"/{bucket.removeprefix('s3://')}/large.bin"] == 1
    assert left_behind(bucket) == ([], 0)


@pytest.mark.parametrize("data", [b"half", LARGE], ids=["small", "in parts"])
def test_a_writer_that_fails_sends_nothing(data: bytes, bucket: str, gate: Gate):
    with pytest.raises(RuntimeError, match="midway"), Folder(bucket).staged("a.bin") as file:
        file.write(data)
        raise RuntimeError("midway")
    assert not [kind for kind, _ in gate.seen if kind in ("PUT", "BEGIN", "PART")]
    assert left_behind(bucket) == ([], 0)


def test_of_two_that_create_a_file_at_once_the_later_one_is_told(bucket: str, gate: Gate):
    gate.refuse_always("409 Conflict", "ConditionalRequestConflict", "PUT")
    assert not Folder(bucket).create("lock.json", b"second")


def test_a_bucket_that_is_not_there_is_named(gate: Gate):
    folder = Folder("s3://no-such-bucket/store")
    for work in (
        lambda: folder.exists("snapshots"),
        lambda: folder.read("a.bin"),
        lambda: folder.commit("a.bin", b"x"),
        lambda: list(folder.find()),
    ):
        with pytest.raises(InputError, match=r"^s3://no-such-bucket/store.*: there is no such bucket"):
            work()
