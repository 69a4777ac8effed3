"""Local folders and S3 buckets behind one small interface; every write is whole or invisible.

The only file that imports fsspec (and, through it, s3fs). Credentials and endpoints of S3 come from the usual
chain of AWS: environment, profile, instance role.
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
"""How much `Folder.open` fetches at a time from S3: a header, not a file."""

PART_BYTES = 32 * 2**20
"""Part of a multipart upload to S3; a file of less than two parts goes up in one PUT."""

PARTS_AT_ONCE = 2
"""Parts on their way to S3, each held in memory."""

MAX_ATTEMPTS = 8
"""Requests to S3 until an answer of 5xx, SlowDown among them, is believed: half a minute of waiting on average.

AWS_MAX_ATTEMPTS sets another number. s3fs itself asks five times as often where the answer says SlowDown.
"""

CONNECTIONS = 64
"""Requests that a process has on their way to S3 at once; by default further ones would wait for the first ten."""

_CONFLICTS = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
"""What S3 answers to the later one of two that create the same object."""

STAGED_SUFFIX = ".staged"
"""Ending of what a killed writer leaves behind; no reader looks at it."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file as a listing shows it."""

    name: str
    """Path relative to the folder, with forward slashes."""
    size: int
    """Bytes."""
    version: str
    """Changes when the file is overwritten: modification time in ns, or the ETag."""
    modified: float
    """Seconds since the epoch; 0 if the file is a dangling link."""


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
            raise InputError("an empty location; give a folder or an s3:// URI")
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
            InputError: the name is absolute or climbs out of the folder.
        """
        if not name:
            return self.uri
        parts = PurePosixPath(name).parts
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts:
            raise InputError(f"{name!r} would leave {self.uri}")
        return f"{self.uri}/{'/'.join(parts)}"

    def find(self, prefix: str = "") -> Iterator[FileInfo]:
        """Every file below, in lexicographic order of the names; one directory in memory at a time."""
        with self._explained(prefix):
            yield from self._walk(prefix, frozenset())

    def _walk(self, prefix: str, parents: frozenset[str]) -> Iterator[FileInfo]:
        here = self.location(prefix)
        if self.is_local:
            real = os.path.realpath(here)
            if real in parents:  # a symbolic link to a folder above itself
                return
            parents = parents | {real}
        # "a.wav" sorts before "a/b.wav" as a full name only if folders are compared with their slash.
        for entry in sorted(self._entries(here), key=_full_name):
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_folder:
                yield from self._walk(name, parents)
            else:
                yield FileInfo(name, entry.size, entry.version, entry.modified)

    def _entries(self, location: str) -> Iterator[_Entry]:
        if not self.is_local:
            for info in self._filesystem.ls(location, detail=True):
                name = str(info["name"]).rstrip("/").rpartition("/")[2]
                if info["type"] == "directory":
                    yield _Entry(name, True)
                elif f"s3://{info['name']}" != f"{location}/":  # the marker of an empty folder
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
                        continue  # renamed or deleted while we listed
                    yield _Entry(entry.name, False, status.st_size, str(status.st_mtime_ns), status.st_mtime)
                elif entry.is_symlink() and not Path(entry.path).exists():
                    yield _Entry(entry.name, False)  # a dangling link, to be missed by name when it is read

    def exists(self, name: str = "") -> bool:
        """Whether there is a file, or a folder with something in it, of this name."""
        with self._explained(name):
            if self.is_local:
                return Path(self.location(name)).exists()
            try:
                self._filesystem.info(self.location(name))
            except FileNotFoundError as error:
                if _answer(error)[1] == "NoSuchBucket":
                    raise
                return False
            return True

    def open(self, name: str) -> BinaryIO:
        """A seekable file that fetches only what is read of it."""
        if self.is_local:
            return cast("BinaryIO", Path(self.location(name)).open("rb"))
        with self._explained(name):
            size = int(self._filesystem.info(self.location(name))["size"])
        return cast("BinaryIO", io.BufferedReader(_RemoteFile(self, name, size), PROBE_BLOCK_BYTES))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` up to `end`.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self._explained(name):
            return cast("bytes", self._filesystem.cat_file(self.location(name), start=start, end=end))

    def commit(self, name: str, data: bytes) -> None:
        """Write a file; readers see the old one or the new one, never a part."""
        with self.staged(name) as file:
            file.write(data)

    @contextlib.contextmanager
    def staged(self, name: str) -> Iterator[BinaryIO]:
        """A file to write to; it appears under its name if the block ends well, and not at all otherwise."""
        location = self.location(name)
        if self.is_local:
            with self._aside(name, publish=os.replace) as file:
                yield file
            return
        with tempfile.NamedTemporaryFile() as file:
            yield cast("BinaryIO", file)
            file.flush()
            with self._explained(name):  # one PUT, or a multipart upload that is aborted if a part fails
                self._filesystem.put_file(
                    file.name, location, chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE
                )

    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if there is none of its name; False, and nothing written, if there is."""
        try:
            if self.is_local:
                with self._aside(name, publish=os.link) as file:
                    file.write(data)
                return True
            with self._explained(name):
                self._filesystem.pipe_file(self.location(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def delete(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        with self._explained(name), contextlib.suppress(FileNotFoundError):
            if self.is_local:
                Path(self.location(name)).unlink()
            else:
                self._filesystem.rm_file(self.location(name))

    @contextlib.contextmanager
    def _aside(self, name: str, publish: Callable[[Path, str], None]) -> Iterator[BinaryIO]:
        """A file beside its final place, flushed to the disk before `publish` gives it its name."""
        location = self.location(name)
        aside = Path(f"{location}.{uuid.uuid4().hex}{STAGED_SUFFIX}")
        with self._explained(name):
            aside.parent.mkdir(parents=True, exist_ok=True)
            file = aside.open("xb")
        try:
            with file:
                yield cast("BinaryIO", file)
                file.flush()
                os.fsync(file.fileno())
            publish(aside, location)
        finally:
            aside.unlink(missing_ok=True)

    @property
    def _filesystem(self) -> Any:  # fsspec has no types
        if self.is_local:
            return fsspec.filesystem("file")
        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", MAX_ATTEMPTS))
        retries = {"mode": "standard", "total_max_attempts": attempts}
        options = {"retries": retries, "max_pool_connections": CONNECTIONS}
        return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=options)

    @contextlib.contextmanager
    def _explained(self, name: str = "") -> Iterator[None]:
        """Say in one line what a user can mend: rights, credentials, an address, a bucket, a server that is down."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            where, line = self.location(name), _first_line(error)
            status, code = _answer(error)
            if isinstance(error, NotADirectoryError):
                raise InputError(f"{where}: a file stands where a folder should be") from error
            if isinstance(error, PermissionError):
                cure = (
                    ""
                    if self.is_local
                    else "; check the AWS credentials, and what they may do in this bucket"
                )
                raise InputError(f"{where}: no right to do this: {line}{cure}") from error
            if code == "NoSuchBucket":
                raise InputError(
                    f"{where}: there is no such bucket; create it, or correct its name"
                ) from error
            if code in _CONFLICTS:
                raise FileExistsError(where) from error
            if isinstance(error, (FileNotFoundError, FileExistsError)) or not _is_of_s3(error):
                raise
            cure = "; the server is overloaded or down: run it again later" if status >= 500 else ""
            cure = cure or ("" if code else "; check the AWS credentials and AWS_ENDPOINT_URL")
            kind = UnavailableError if status >= 500 or not code else InputError
            raise kind(f"{where}: {line.rstrip('.')}{cure}") from error


class _RemoteFile(io.RawIOBase):
    """An object on S3 that is read in ranges."""

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


def _full_name(entry: _Entry) -> str:
    return f"{entry.name}/" if entry.is_folder else entry.name


def _first_line(error: BaseException) -> str:
    lines = str(getattr(error, "strerror", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__


def _answer(error: BaseException) -> tuple[int, str]:
    """HTTP status and error code in an answer of S3; 0 and nothing where there was none."""
    answer: Any = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(answer.get("Error", {}).get("Code", ""))


def _is_of_s3(error: BaseException) -> bool:
    """Whether S3, or the way to it, is at fault."""
    return any(
        type(one).__module__.startswith(("botocore", "aiobotocore", "aiohttp"))
        for one in (error, error.__cause__)
    )
