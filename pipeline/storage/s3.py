"""Objects on S3: listing them page by page, reading ranges, and writing each in one step."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

import fsspec

from pipeline.errors import InputError
from pipeline.storage.file_info import FileInfo, is_below
from pipeline.storage.local_writing import staged_name
from pipeline.storage.s3_errors import is_refused, s3_errors, s3_response
from pipeline.storage.temporary import temporary_folder

PART_BYTES = 32 * 2**20
"""Bytes in a part of a multipart upload; a file of less than two parts is uploaded with one PUT."""

NUM_CONCURRENT_PARTS = 2
"""Parts uploaded at the same time; each is held in memory."""

MAX_ATTEMPTS = 8
"""Attempts at a request that is answered with 5xx, such as SlowDown; together they wait half a minute on average.

The environment variable AWS_MAX_ATTEMPTS overrides it. For SlowDown, s3fs itself multiplies the attempts by five.
"""

MAX_CONNECTIONS = 64
"""Concurrent requests from one process; the default of botocore is 10."""

_VERSION_MARK = "?versionId="
"""s3fs takes a name with this text to be a version of another object."""


def _filesystem() -> Any:  # fsspec has no types
    attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", MAX_ATTEMPTS))
    retries = {"mode": "standard", "total_max_attempts": attempts}
    options = {"retries": retries, "max_pool_connections": MAX_CONNECTIONS}
    return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=options)


def find(root: str, prefix: str) -> Iterator[FileInfo]:
    """Every object below a prefix, as `Folder.find` documents it.

    Args:
        root: URI of the folder that names are relative to.
        prefix: a folder below it; empty for the root itself.
    """
    location = f"{root}/{prefix}" if prefix else root
    with s3_errors(location):  # a listing that is refused is not the fault of one object
        filesystem = _filesystem()
        bucket, key, _ = filesystem.split_path(location)
        base, is_empty = f"{key}/" if key else "", bool(key)
        token: dict[str, str] = {}
        while True:
            page = filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=base, **token)
            for found in page.get("Contents", ()):
                is_empty = False
                name = found["Key"].removeprefix(base)
                size = int(found["Size"])
                if not name or (name.endswith("/") and not size):
                    continue  # the marker object of a folder
                name = f"{prefix}/{name}" if prefix else name
                if is_below(name.lstrip("/")) and _VERSION_MARK not in name:
                    yield _object(name, size, found)
                else:
                    yield FileInfo(name, size, "", 0.0, "unreadable")
            if not page.get("IsTruncated"):
                break
            token = {"ContinuationToken": page["NextContinuationToken"]}
        if is_empty:
            _refuse_doubled_slashes(location)
            raise FileNotFoundError(location)


def info(location: str, name: str) -> FileInfo:
    """The listing of one object, as `Folder.info` documents it."""
    with s3_errors(location, of_one_file=True):
        head = _head(location)
        return _object(name, int(head["ContentLength"]), head)


def _object(name: str, size: int, answer: Mapping[str, Any]) -> FileInfo:
    return FileInfo(name, size, str(answer["ETag"]).strip('"'), answer["LastModified"].timestamp())


def _head(location: str) -> dict[str, Any]:
    filesystem = _filesystem()
    bucket, key, _ = filesystem.split_path(location)
    try:
        return cast("dict[str, Any]", filesystem.call_s3("head_object", Bucket=bucket, Key=key))
    except FileNotFoundError:
        raise
    except OSError as error:
        if 400 <= s3_response(error)[0] < 500:
            # The answer to HEAD has no body to say which error it is; that to a request for a byte has.
            filesystem.cat_file(location, start=0, end=1)
        raise


def exists(location: str) -> bool:
    """Whether an object or a non-empty folder of this name exists."""
    with s3_errors(location):
        try:
            _filesystem().info(location)
        except FileNotFoundError as error:
            if s3_response(error)[1] == "NoSuchBucket":
                raise
            _refuse_doubled_slashes(location)
            return False
        return True


def _refuse_doubled_slashes(location: str) -> None:
    """Refuse a URI under which nothing exists if the same URI with single slashes has something.

    S3 takes each slash literally, and so do we: `a//b` is a valid name, and not another spelling of `a/b`.

    Raises:
        InputError: the URI has doubled slashes that seem to be a mistake.
    """
    bucket, _, key = location.removeprefix("s3://").partition("/")
    single = f"s3://{bucket}/{re.sub('/+', '/', key.lstrip('/'))}"
    if single != location and "/" in key and exists(single):
        raise InputError(f"{location}: nothing has this name, and S3 tells // from /; did you mean {single}?")


def read(location: str, start: int, end: int | None) -> bytes:
    """The bytes of an object from `start` up to but excluding `end`, or to its end if that is None."""
    with s3_errors(location, of_one_file=True):
        if end is not None and end <= start:
            return b""
        if not start and end is None:
            # With concurrency, s3fs would ask for the size of every file first.
            return cast("bytes", _filesystem().cat_file(location, max_concurrency=1))
        try:
            return cast("bytes", _filesystem().cat_file(location, start=start, end=end))
        except OSError as error:
            if not start and s3_response(error)[1] == "InvalidRange":
                return b""  # an empty object has no range, not even of its beginning
            raise


@contextlib.contextmanager
def staged(location: str) -> Iterator[BinaryIO]:
    """Open a temporary file on this machine that is uploaded if the block ends without an exception."""
    with temporary_folder() as folder:
        path = folder / "staged"
        with path.open("xb") as file:
            yield file
        with s3_errors(location):  # one PUT, or a multipart upload that s3fs aborts if a part fails
            _filesystem().put_file(
                str(path), location, chunksize=PART_BYTES, max_concurrency=NUM_CONCURRENT_PARTS
            )


def create(location: str, data: bytes) -> None:
    """Write an object; raises FileExistsError if it exists.

    Raises:
        InputError: the server cannot write on the condition that an object does not exist, or ignores the condition.
    """
    _check_creates(location)
    _create(location, data)


def _create(location: str, data: bytes) -> None:
    with s3_errors(location):
        _filesystem().pipe_file(location, data, mode="create")


_checked_buckets: set[str] = set()
"""Buckets that have refused to create an object twice."""


def _check_creates(location: str) -> None:
    """Check once per process that a bucket refuses to create an object twice; two requests and a deletion.

    Leases rest on this. Not every server that speaks the protocol of S3 knows the condition, and some ignore it.
    """
    bucket = location.removeprefix("s3://").partition("/")[0]
    if bucket in _checked_buckets:
        return
    probe = staged_name(location)
    try:
        if not _creates_once(probe):
            raise InputError(
                f"{location}: this server does not support conditional writes (If-None-Match), without which two "
                "processes could work in one folder; use another server, or a local folder"
            )
    finally:
        with contextlib.suppress(FileNotFoundError):
            delete(probe)
    _checked_buckets.add(bucket)


def _creates_once(probe: str) -> bool:
    try:
        _create(probe, b"")
        _create(probe, b"")
    except FileExistsError:
        return True
    except InputError as error:
        if not is_refused(error):
            raise
        with s3_errors(probe):
            _filesystem().pipe_file(probe, b"")  # raises if the server refuses every write
    return False


def delete(location: str) -> None:
    """Remove an object; raises FileNotFoundError if S3 says that it does not exist."""
    with s3_errors(location):
        _filesystem().rm_file(location)


class RemoteFile(io.RawIOBase):
    """An object, open for reading in ranges.

    Args:
        location: its URI.
        size: its size in bytes.
    """

    def __init__(self, location: str, size: int) -> None:
        self._location, self._size, self._position = location, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._fetch(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._fetch(self._size)

    def _fetch(self, num_bytes: int) -> bytes:
        end = min(self._position + num_bytes, self._size)
        data = read(self._location, self._position, end)
        self._position += len(data)
        return data
