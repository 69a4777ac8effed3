"""Requests to an S3 that is overloaded, strict or fails halfway."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterator

import pytest
import s3fs

from pipeline.errors import InputError, UnreadableError
from pipeline.storage import PART_BYTES, Folder
from tests.s3 import Gate, gated_s3

LARGE = os.urandom(2 * PART_BYTES + 1)
"""Uploaded in three parts."""


@pytest.fixture
def gate(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The S3 of this test; it forwards every request until a test tells it to refuse some."""
    with gated_s3(monkeypatch) as gate:
        yield gate


def objects_and_open_uploads(bucket: str) -> tuple[list[str], int]:
    """The names of the objects in a bucket, and the number of multipart uploads neither completed nor aborted."""
    uploads = s3fs.S3FileSystem().list_multipart_uploads(bucket.removeprefix("s3://"))
    return [info.name for info in Folder(bucket).find()], len(uploads)


def test_requests_that_are_told_to_slow_down_are_retried(bucket: str, gate: Gate):
    folder = Folder(f"{bucket}/root")
    folder.commit("a/read.bin", b"0123456789")
    folder.commit("gone.bin", b"x")
    work: dict[str, Callable[[], object]] = {
        "read": lambda: folder.read("a/read.bin"),
        "range": lambda: folder.read("a/read.bin", 2, 5),
        "open": lambda: folder.open("a/read.bin").read(),
        "exists": lambda: folder.exists("a/read.bin"),
        "missing": lambda: folder.exists("nowhere"),
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
        "missing": False,
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


def test_a_server_that_never_recovers_is_a_user_error_and_stores_nothing(
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
        errors = [future.exception() for future in [pool.submit(call) for call in work]]
    for error in errors:
        assert isinstance(error, InputError)
        assert str(error).startswith(f"{bucket}/root")
        assert "overloaded or down" in str(error)
        assert "\n" not in str(error)
    gate.refuse_first(0)
    assert objects_and_open_uploads(bucket) == (["root/a.bin"], 0)


@pytest.mark.parametrize("kind", ["PART", "COMPLETE"])
def test_a_failed_upload_is_aborted(kind: str, bucket: str, gate: Gate, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    gate.refuse_always("500 Internal Server Error", "InternalError", kind)
    with pytest.raises(
        InputError, match=r"large\.bin: This is InternalError; the server is overloaded or down"
    ):
        Folder(bucket).commit("large.bin", LARGE)
    assert gate.seen["ABORT", f"/{bucket.removeprefix('s3://')}/large.bin"] == 1
    assert objects_and_open_uploads(bucket) == ([], 0)


@pytest.mark.parametrize("data", [b"half", LARGE], ids=["small", "in parts"])
def test_a_writer_that_fails_uploads_nothing(data: bytes, bucket: str, gate: Gate):
    with pytest.raises(RuntimeError, match="midway"), Folder(bucket).staged("a.bin") as file:
        file.write(data)
        raise RuntimeError("midway")
    assert not [kind for kind, _ in gate.seen if kind in ("PUT", "BEGIN", "PART")]
    assert objects_and_open_uploads(bucket) == ([], 0)


def test_create_returns_false_to_the_later_of_two_concurrent_calls(bucket: str, gate: Gate):
    gate.refuse_always("409 Conflict", "ConditionalRequestConflict", "PUT")
    assert not Folder(bucket).create("lock.json", b"second")


def test_a_missing_bucket_is_named(gate: Gate):
    folder = Folder("s3://no-such-bucket/store")
    for work in (
        lambda: folder.exists("snapshots"),
        lambda: folder.read("a.bin"),
        lambda: folder.commit("a.bin", b"x"),
        lambda: list(folder.find()),
    ):
        with pytest.raises(InputError, match=r"^s3://no-such-bucket/store.*: no such bucket"):
            work()


@pytest.mark.parametrize("way", ["ignored", "not implemented", "not a header"])
def test_a_server_without_conditional_writes_is_refused(way: str, bucket: str, gate: Gate):
    if way == "ignored":
        gate.ignored_headers.add("HTTP_IF_NONE_MATCH")
    elif way == "not implemented":
        gate.refused_headers["HTTP_IF_NONE_MATCH"] = "501 Not Implemented", "NotImplemented"
    else:
        refusal = "InvalidArgument: Unsupported header 'if-none-match' received for this API call."
        gate.refused_headers["HTTP_IF_NONE_MATCH"] = "400 Bad Request", refusal
    folder = Folder(f"{bucket}/run")
    folder.commit("lease/1.json", b"of another process")
    with pytest.raises(
        InputError, match=r"lease/1\.json: this server does not support conditional writes \(If-None-Match\)"
    ):
        folder.create("lease/1.json", b"of this process")
    assert folder.read("lease/1.json") == b"of another process"
    assert objects_and_open_uploads(bucket) == (["run/lease/1.json"], 0)


def test_conditional_writes_are_probed_once(bucket: str, gate: Gate):
    folder = Folder(bucket)
    for number in range(3):
        assert folder.create(f"{number}.json", b"x")
    assert sum(count for (kind, _), count in gate.seen.items() if kind == "PUT") == 2 + 3


CHECKSUM_REFUSALS = [
    ("400 Bad Request", "XAmzContentSHA256Mismatch"),
    ("411 Length Required", "MissingContentLength: You must provide the Content-Length HTTP header."),
    ("400 Bad Request", "InvalidArgument: Unsupported header 'x-amz-sdk-checksum-algorithm' received."),
    ("400 Bad Request", "InvalidArgument: aws-chunked encoding is not supported."),
    ("501 Not Implemented", "NotImplemented: A header you provided implies functionality that we lack."),
]
"""How servers that do not know the checksums of AWS refuse an upload."""


@pytest.mark.parametrize(("status", "code"), CHECKSUM_REFUSALS)
def test_a_server_that_does_not_take_checksums_is_named_with_the_remedy(
    status: str, code: str, bucket: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    gate.refused_headers["HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM"] = status, code
    monkeypatch.setattr("asyncio.sleep", no_sleep)
    folder = Folder(bucket)
    for write in (lambda: folder.commit("a.bin", b"x"), lambda: folder.create("b.bin", b"x")):
        with pytest.raises(InputError, match=r"set AWS_REQUEST_CHECKSUM_CALCULATION=when_required and"):
            write()
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    s3fs.S3FileSystem.clear_instance_cache()
    folder.commit("a.bin", b"x")
    assert folder.create("b.bin", b"x")


async def no_sleep(_seconds: float) -> None:
    """Do not wait."""


def test_a_download_with_another_checksum_is_named_with_the_remedy(
    bucket: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
):
    folder = Folder(bucket)
    folder.commit("a.bin", b"x")
    gate.added_headers["x-amz-checksum-crc32"] = "AAAAAA=="
    with pytest.raises(
        UnreadableError, match=r"a\.bin: .*set AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
    ):
        folder.read("a.bin")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    s3fs.S3FileSystem.clear_instance_cache()
    assert folder.read("a.bin") == b"x"
