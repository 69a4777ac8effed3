"""Local folders and S3 buckets behind one small interface; readers never see a partly written file.

The only file that imports fsspec (and, through it, s3fs). S3 credentials and endpoints come from the usual AWS chain:
environment, profile, instance role.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.core import split_protocol

from pipeline.errors import InputError, UnavailableError

PROBE_BLOCK_BYTES = 64 * 1024
"""Bytes that `Folder.open` fetches at a time from S3; enough for the header of an audio file."""

PART_BYTES = 32 * 2**20
"""Bytes in a part of a multipart upload to S3; a file of less than two parts is uploaded with one PUT."""

NUM_CONCURRENT_PARTS = 2
"""Parts uploaded to S3 at the same time; each is held in memory."""

MAX_ATTEMPTS = 8
"""Attempts at a request to S3 that answers 5xx, such as SlowDown; together they wait half a minute on average.

The environment variable AWS_MAX_ATTEMPTS overrides it. For SlowDown, s3fs itself multiplies the attempts by five.
"""

MAX_CONNECTIONS = 64
"""Concurrent requests to S3 from one process; the default of botocore is 10."""

_CONFLICT_CODES = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
"""Error codes of S3 for the later of two requests that create the same object."""

STAGED_SUFFIX = ".staged"
"""Suffix of a local file that is being written; a killed writer leaves it behind, and readers ignore it.

Its name also starts with a dot, so that other tools that read whole folders, such as PyArrow, ignore it as well.
"""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file in a listing."""

    name: str
    """Path relative to the folder, with forward slashes."""
    size: int
    """Bytes."""
    version: str
    """Changes when the file is overwritten: the modification time in ns, or the ETag on S3."""
    modified: float
    """Seconds since the epoch; 0 if the file is a dangling link."""
    problem: str = ""
    """Why the file must not be opened: `unreadable`, `link-loop` or `special`; empty for an ordinary file."""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    is_folder: bool
    size: int = 0
    version: str = ""
    modified: float = 0.0


@dataclass(frozen=True)
class Folder:
    """A local folder or an `s3://bucket/prefix`; file names are relative to it and cannot leave it."""

    uri: str

    def __post_init__(self) -> None:
        protocol, path = split_protocol(self.uri)
        if protocol not in (None, "file", "s3"):
            raise InputError(f"{self.uri}: only local paths and s3:// URIs are supported")
        if not path:
            raise InputError("empty location; give a folder or an s3:// URI")
        uri = f"s3://{path.rstrip('/')}" if protocol == "s3" else str(Path(path).expanduser().absolute())
        object.__setattr__(self, "uri", uri)

    @property
    def is_local(self) -> bool:
        """Whether files can be opened by path on this machine."""
        return not self.uri.startswith("s3://")

    def folder(self, name: str) -> Folder:
        """A folder below this one."""
        return Folder(self.location(name))

    def location(self, name: str = "") -> str:
        """The full path or URI of a file.

        Raises:
            InputError: the name is absolute or points outside the folder.
        """
        if not name:
            return self.uri
        parts = PurePosixPath(name).parts
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts:
            raise InputError(f"{name!r} points outside {self.uri}")
        return f"{self.uri}/{'/'.join(parts)}"

    def find(self, prefix: str = "") -> Iterator[FileInfo]:
        """Every file below `prefix`, in lexicographic order of names; holds one directory in memory at a time."""
        with self._user_errors(prefix):
            yield from self._walk(prefix, frozenset())

    def _walk(self, prefix: str, parents: frozenset[str]) -> Iterator[FileInfo]:
        location = self.location(prefix)
        if self.is_local:
            real = os.path.realpath(location)
            if real in parents:  # a symbolic link to a folder above itself
                return
            parents = parents | {real}
        # Compare folders with their slash: "a-1" sorts before "a/b", although "a" sorts before "a-1".
        for entry in sorted(self._entries(location), key=_sort_key):
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_folder:
                with contextlib.suppress(FileNotFoundError):  # renamed or deleted since the listing
                    yield from self._walk(name, parents)
            else:
                yield FileInfo(name, entry.size, entry.version, entry.modified)

    def _entries(self, location: str) -> Iterator[_Entry]:
        if not self.is_local:
            for info in self._filesystem.ls(location, detail=True):
                name = str(info["name"]).rstrip("/").rpartition("/")[2]
                if info["type"] == "directory":
                    yield _Entry(name, True)
                elif f"s3://{info['name']}" != f"{location}/":  # the marker object of an empty folder
                    version = str(info["ETag"]).strip('"')
                    yield _Entry(name, False, int(info["size"]), version, info["LastModified"].timestamp())
            return
        with os.scandir(location) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield _Entry(entry.name, True)
                elif entry.is_file():
                    try:
                        status = entry.stat()
                    except FileNotFoundError:
                        continue  # renamed or deleted since the listing
                    yield _Entry(entry.name, False, status.st_size, str(status.st_mtime_ns), status.st_mtime)
                elif entry.is_symlink() and not Path(entry.path).exists():
                    # Keep the dangling link, so that reading it names the missing file.
                    yield _Entry(entry.name, False)

    def exists(self, name: str = "") -> bool:
        """Whether a file or a non-empty folder of this name exists."""
        with self._user_errors(name):
            if self.is_local:
                return Path(self.location(name)).exists()
            try:
                self._filesystem.info(self.location(name))
            except FileNotFoundError as error:
                if _response(error)[1] == "NoSuchBucket":
                    raise
                return False
            return True

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading; seekable, and on S3 only the ranges that are read are fetched."""
        if self.is_local:
            return cast("BinaryIO", Path(self.location(name)).open("rb"))
        with self._user_errors(name):
            size = int(self._filesystem.info(self.location(name))["size"])
        return cast("BinaryIO", io.BufferedReader(_RemoteFile(self, name, size), PROBE_BLOCK_BYTES))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read a file, or its bytes from `start` up to but excluding `end`.

        Raises:
            FileNotFoundError: the file does not exist.
        """
        with self._user_errors(name):
            return cast("bytes", self._filesystem.cat_file(self.location(name), start=start, end=end))

    def commit(self, name: str, data: bytes) -> None:
        """Write a file; readers see the old contents or the new ones, never a part."""
        with self.staged(name) as file:
            file.write(data)

    @contextlib.contextmanager
    def staged(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for writing that appears under its name only if the block ends without an exception."""
        location = self.location(name)
        if self.is_local:
            with self._staged_locally(name, publish=os.replace) as file:
                yield file
            return
        with tempfile.NamedTemporaryFile() as file:
            yield cast("BinaryIO", file)
            file.flush()
            with self._user_errors(name):  # one PUT, or a multipart upload that s3fs aborts if a part fails
                self._filesystem.put_file(
                    file.name, location, chunksize=PART_BYTES, max_concurrency=NUM_CONCURRENT_PARTS
                )

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists; returns whether this call wrote it."""
        try:
            if self.is_local:
                with self._staged_locally(name, publish=os.link) as file:
                    file.write(data)
                return True
            with self._user_errors(name):
                self._filesystem.pipe_file(self.location(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        with self._user_errors(name), contextlib.suppress(FileNotFoundError):
            if self.is_local:
                Path(self.location(name)).unlink()
            else:
                self._filesystem.rm_file(self.location(name))

    @contextlib.contextmanager
    def _staged_locally(self, name: str, publish: Callable[[Path, str], None]) -> Iterator[BinaryIO]:
        """A temporary file in the same folder, flushed to disk before `publish` gives it its name."""
        location = self.location(name)
        parent, _, base = location.rpartition("/")
        temporary = Path(f"{parent}/.{base}.{uuid.uuid4().hex}{STAGED_SUFFIX}")
        with self._user_errors(name):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("xb")
        try:
            with file:
                yield cast("BinaryIO", file)
                file.flush()
                os.fsync(file.fileno())
            publish(temporary, location)
        finally:
            temporary.unlink(missing_ok=True)

    @property
    def _filesystem(self) -> Any:  # fsspec has no types
        if self.is_local:
            return fsspec.filesystem("file")
        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", MAX_ATTEMPTS))
        retries = {"mode": "standard", "total_max_attempts": attempts}
        options = {"retries": retries, "max_pool_connections": MAX_CONNECTIONS}
        return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=options)

    @contextlib.contextmanager
    def _user_errors(self, name: str = "") -> Iterator[None]:
        """Turn errors that a user can fix (permissions, credentials, endpoint, bucket) into one-line InputErrors."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            location, line = self.location(name), _first_line(error)
            status, code = _response(error)
            if isinstance(error, NotADirectoryError):
                raise InputError(f"{location}: a parent of this path is a file, not a folder") from error
            if isinstance(error, PermissionError):
                remedy = (
                    "" if self.is_local else "; check the AWS credentials and the permissions of the bucket"
                )
                raise InputError(f"{location}: permission denied: {line}{remedy}") from error
            if code == "NoSuchBucket":
                raise InputError(f"{location}: no such bucket; create it or correct its name") from error
            if code in _CONFLICT_CODES:
                raise FileExistsError(location) from error
            if isinstance(error, (FileNotFoundError, FileExistsError)) or not _is_from_s3(error):
                raise
            message = f"{location}: {line.rstrip('.')}"
            if status >= 500:
                raise UnavailableError(
                    f"{message}; the server is overloaded or down: run the command again later"
                ) from error
            if not code:
                raise UnavailableError(
                    f"{message}; check the AWS credentials and AWS_ENDPOINT_URL"
                ) from error
            raise InputError(message) from error


class _RemoteFile(io.RawIOBase):
    """An object on S3, read in ranges."""

    def __init__(self, folder: Folder, name: str, size: int) -> None:
        self._folder, self._name, self._size, self._position = folder, name, size, 0

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
        if end <= self._position:
            return b""
        data = self._folder.read(self._name, self._position, end)
        self._position += len(data)
        return data


def _sort_key(entry: _Entry) -> str:
    return f"{entry.name}/" if entry.is_folder else entry.name


def _first_line(error: BaseException) -> str:
    lines = str(getattr(error, "strerror", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__


def _response(error: BaseException) -> tuple[int, str]:
    """HTTP status and error code of the response of S3 behind an error; 0 and "" if there was no response."""
    response: Any = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(response.get("Error", {}).get("Code", ""))


def _is_from_s3(error: BaseException) -> bool:
    """Whether S3 or the connection to it failed."""
    return any(
        type(cause).__module__.startswith(("botocore", "aiobotocore", "aiohttp"))
        for cause in (error, error.__cause__)
    )
