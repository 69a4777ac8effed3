"""Local folders and S3 buckets behind one small interface; readers never see a partly written file.

The only file that imports fsspec (and, through it, s3fs). S3 credentials and endpoints come from the usual AWS chain:
environment, profile, instance role.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import io
import os
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, TypeVar, cast

import fsspec
from fsspec.core import split_protocol

from pipeline.errors import InputError, UnavailableError, UnreadableError

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

_OBJECT_CODES = frozenset(
    {
        "AccessDenied",
        "InvalidObjectState",  # in an archive such as Glacier, and not restored
        "InvalidRange",  # shorter than when it was listed
        "InvalidRequest",  # encrypted with a key that the customer keeps
        "KeyTooLongError",
        "InvalidURI",
    }
)
"""Error codes of S3 that can be the fault of one object; so can every code that begins with `KMS.`."""

_VERSION_MARK = "?versionId="
"""s3fs takes a name with this text to be a version of another object."""

_MOUNT_ERRORS = frozenset(
    {
        errno.ENOTCONN,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
    }
)
"""Errors of a local path that every file of a network file system has when its server is away."""

_PROCESS_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBADF})
"""Errors of a local path that no file is to blame for."""

FileProblem = Literal["unreadable", "link-loop", "special"]
"""Why an entry of a folder must not be opened: no access or a read error, a circle of links, or no regular file."""

STAGED_SUFFIX = ".staged"
"""Suffix of a local file that is being written; a killed writer leaves it behind, and readers ignore it.

Its name also starts with a dot, so that other tools that read whole folders, such as PyArrow, ignore it as well.
"""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file in a listing."""

    name: str
    """Path relative to the folder, with forward slashes."""
    size: int
    """Bytes."""
    version: str
    """Changes when the bytes change: the times of modification and of change (ctime) in ns, or the ETag on S3.

    Tools restore the modification time (`cp -p`, `rsync -t`, `touch -r`), but not the time of change. That one also
    moves when only the mode, the owner or the number of links changes, so a new version need not mean new bytes.
    """
    modified: float
    """Seconds since the epoch; 0 if the file is a dangling link or has a problem."""
    problem: FileProblem | Literal[""] = ""
    """Why the file must not be opened; empty for an ordinary file.

    A folder that cannot be listed, or that is a link to a folder above itself, is such a file, in the place of all
    that is below it.
    """


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
        return Folder(self.location("/".join(PurePosixPath(name).parts)))

    def location(self, name: str = "") -> str:
        """The full path or URI of a file.

        Raises:
            InputError: the name is absolute or points outside the folder.
        """
        if not name:
            return self.uri
        if not _is_below(name):
            raise InputError(f"{name!r} points outside {self.uri}")
        return f"{self.uri}/{name}"

    def find(self, prefix: str = "") -> Iterator[FileInfo]:
        """Every entry below `prefix` that is not a folder, in lexicographic order of names.

        An entry that cannot be read is listed with its problem; a folder that cannot, where its files would be. Holds
        the names of one local folder and its parents in memory, or one page of a listing of S3.

        Raises:
            InputError: the folder itself, or the folder of the prefix, cannot be listed.
            FileNotFoundError: it does not exist.
        """
        with self._user_errors(prefix, of_one_file=bool(prefix)):
            yield from self._find_local(prefix) if self.is_local else self._find_remote(prefix)

    def _find_local(self, prefix: str) -> Iterator[FileInfo]:
        # A stack instead of recursion: folders can be nested deeper than Python's calls.
        stack = [(prefix, _names(self.location(prefix)), _NO_LINKS)]
        while stack:
            folder, names, links = stack[-1]
            base = next(names, "").rstrip("/")
            if not base:
                stack.pop()
                continue
            name = f"{folder}/{base}" if folder else base
            location = f"{self.uri}/{name}"
            found = _look_at(location, name, links)
            if isinstance(found, FileInfo):
                yield found
            elif found is not None:
                try:
                    stack.append((name, _names(location), found))
                except (FileNotFoundError, NotADirectoryError):  # renamed or deleted since the listing
                    continue
                except OSError as error:
                    yield _problem_file(name, error)

    def _find_remote(self, prefix: str) -> Iterator[FileInfo]:
        location = self.location(prefix)
        bucket, key, _ = self._filesystem.split_path(location)
        base, is_empty = f"{key}/" if key else "", bool(key)
        token: dict[str, str] = {}
        while True:
            page = self._filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=base, **token)
            for found in page.get("Contents", ()):
                is_empty = False
                name = found["Key"].removeprefix(base)
                size = int(found["Size"])
                if not name or (name.endswith("/") and not size):
                    continue  # the marker object of a folder
                name = f"{prefix}/{name}" if prefix else name
                if _is_below(name) and _VERSION_MARK not in name:
                    version = str(found["ETag"]).strip('"')
                    yield FileInfo(name, size, version, found["LastModified"].timestamp())
                else:
                    yield FileInfo(name, size, "", 0.0, "unreadable")
            if not page.get("IsTruncated"):
                break
            token = {"ContinuationToken": page["NextContinuationToken"]}
        if is_empty:
            raise FileNotFoundError(location)

    def info(self, name: str) -> FileInfo:
        """The size and version of one file.

        Raises:
            FileNotFoundError: the file does not exist.
            UnreadableError: it cannot be looked at, or it is a folder.
        """
        with self._user_errors(name, of_one_file=True):
            if self.is_local:
                status = Path(self.location(name)).stat()
                _check_regular(status.st_mode)
                return _regular_file(name, status)
            head = self._head(name)
            version = str(head["ETag"]).strip('"')
            return FileInfo(name, int(head["ContentLength"]), version, head["LastModified"].timestamp())

    def _head(self, name: str) -> dict[str, Any]:
        bucket, key, _ = self._filesystem.split_path(self.location(name))
        try:
            return cast("dict[str, Any]", self._filesystem.call_s3("head_object", Bucket=bucket, Key=key))
        except FileNotFoundError:
            raise
        except OSError as error:
            if 400 <= _response(error)[0] < 500:
                # The answer to HEAD has no body to say which error it is; that to a request for a byte has.
                self._filesystem.cat_file(self.location(name), start=0, end=1)
            raise

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

    def open(self, name: str, size: int | None = None) -> BinaryIO:
        """Open a file for reading; seekable, and on S3 only the ranges that are read are fetched.

        Args:
            name: a file, which `find` listed without a problem.
            size: its size in bytes if the caller knows it from a listing, which saves a request to S3.

        Raises:
            FileNotFoundError: the file does not exist.
            UnreadableError: this file cannot be read. Reading from the open file raises it, too.
        """
        if not self.is_local:
            size = self.info(name).size if size is None else size
            return cast("BinaryIO", io.BufferedReader(_RemoteFile(self, name, size), PROBE_BLOCK_BYTES))
        with self._user_errors(name, of_one_file=True):
            return cast("BinaryIO", io.BufferedReader(_LocalFile(self, name), PROBE_BLOCK_BYTES))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read a file, or its bytes from `start` up to but excluding `end`.

        Raises:
            FileNotFoundError: the file does not exist.
            UnreadableError: this file cannot be read.
        """
        first = start or 0
        if not self.is_local:
            with self._user_errors(name, of_one_file=True):
                return self._fetch(name, first, end)
        with self.open(name) as file:
            file.seek(first)
            return file.read() if end is None else file.read(max(end - first, 0))

    def _fetch(self, name: str, start: int, end: int | None) -> bytes:
        location = self.location(name)
        if not start and end is None:
            # With concurrency, s3fs would ask for the size of every file first.
            return cast("bytes", self._filesystem.cat_file(location, max_concurrency=1))
        if end is not None and end <= start:
            return b""
        try:
            return cast("bytes", self._filesystem.cat_file(location, start=start, end=end))
        except OSError as error:
            if not start and _response(error)[1] == "InvalidRange":
                return b""  # an empty object has no range, not even of its beginning
            raise

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
        """Write a file unless it exists; returns whether this call wrote it.

        Of several processes that create the same file, one writes it, and readers never see a part of it.
        """
        try:
            if self.is_local:
                with self._staged_locally(name, publish=_publish_new) as file:
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
        # Part of the name is enough for people; the whole one could make a name of more than 255 bytes.
        temporary = Path(f"{parent}/.{base[:40]}.{uuid.uuid4().hex}{STAGED_SUFFIX}")
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
        assert not self.is_local, "local files are read without fsspec"
        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", MAX_ATTEMPTS))
        retries = {"mode": "standard", "total_max_attempts": attempts}
        options = {"retries": retries, "max_pool_connections": MAX_CONNECTIONS}
        return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=options)

    @contextlib.contextmanager
    def _user_errors(self, name: str = "", *, of_one_file: bool = False) -> Iterator[None]:
        """Turn errors that a user can fix (permissions, credentials, endpoint, bucket) into one-line InputErrors.

        Args:
            name: the file or folder that is used.
            of_one_file: it is one of many, so an error that may be its own becomes an `UnreadableError`.
        """
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            convert = self._local_error if self.is_local else self._remote_error
            converted = convert(error, self.location(name), of_one_file)
            if converted is None:
                raise
            raise converted from error

    def _local_error(self, error: Exception, location: str, of_one_file: bool) -> Exception | None:
        kind = UnreadableError if of_one_file else InputError
        line = _first_line(error)
        if isinstance(error, NotADirectoryError):
            which = "this" if Path(location).is_file() else "a parent of this path"
            return kind(f"{location}: {which} is a file, not a folder")
        if isinstance(error, PermissionError):
            return kind(f"{location}: permission denied: {line}")
        if not isinstance(error, OSError) or isinstance(error, (FileNotFoundError, FileExistsError)):
            return None
        if error.errno in _MOUNT_ERRORS:
            return UnavailableError(f"{location}: {line}; mount it again, and run the command again")
        return None if error.errno in _PROCESS_ERRORS else kind(f"{location}: {line}")

    def _remote_error(self, error: Exception, location: str, of_one_file: bool) -> Exception | None:
        line = _first_line(error)
        status, code = _response(error)
        if of_one_file and (code in _OBJECT_CODES or code.startswith("KMS.")):
            return UnreadableError(f"{location}: {code}: {line.rstrip('.')}")
        if isinstance(error, PermissionError):
            remedy = "check the AWS credentials and the permissions of the bucket"
            return InputError(f"{location}: permission denied: {line}; {remedy}")
        if code == "NoSuchBucket":
            return InputError(f"{location}: no such bucket; create it or correct its name")
        if code in _CONFLICT_CODES:
            return FileExistsError(location)
        if isinstance(error, (FileNotFoundError, FileExistsError)) or not _is_from_s3(error):
            return None
        message = f"{location}: {line.rstrip('.')}"
        if status >= 500:
            return UnavailableError(
                f"{message}; the server is overloaded or down: run the command again later"
            )
        if not code:
            return UnavailableError(f"{message}; check the AWS credentials and AWS_ENDPOINT_URL")
        return InputError(message)


_Links = tuple[str, ...]
"""Where the links on the way to a folder are: the real path of the folder of each."""

_NO_LINKS: _Links = ()


def _names(location: str) -> Iterator[str]:
    """The names in a local folder, sorted as the full names below them are; those of folders end with a slash.

    Compares folders with their slash: `a-1` sorts before `a/b`, although `a` sorts before `a-1`.
    """
    with os.scandir(location) as entries:
        return iter(sorted(f"{entry.name}/" if _is_folder(entry) else entry.name for entry in entries))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a loop of links; `_look_at` tells
        return False


def _look_at(location: str, name: str, links: _Links) -> FileInfo | _Links | None:
    """What an entry of a local folder is: a file, the links of a folder, or None if it was deleted meanwhile.

    Args:
        location: path of the entry.
        name: its name in the listing.
        links: links of the folder with the entry.
    """
    try:
        status = os.stat(location)  # noqa: PTH116 - a third of the time of a listing would go into Path
    except FileNotFoundError:
        # Keep a dangling link, so that reading it names the missing file.
        return FileInfo(name, 0, "", 0.0) if Path(location).is_symlink() else None
    except OSError as error:
        return _problem_file(name, error)
    if stat.S_ISREG(status.st_mode):
        return _regular_file(name, status)
    if not stat.S_ISDIR(status.st_mode):
        return FileInfo(name, 0, "", 0.0, "special")
    path = Path(location)
    if not path.is_symlink():
        return links
    links = (*links, os.path.realpath(path.parent))
    target = os.path.realpath(path)
    if any(Path(link).is_relative_to(target) for link in links):  # it leads to a folder above itself
        return FileInfo(name, 0, "", 0.0, "link-loop")
    return links


def _regular_file(name: str, status: os.stat_result) -> FileInfo:
    version = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
    return FileInfo(name, status.st_size, version, status.st_mtime)


def _problem_file(name: str, error: OSError) -> FileInfo:
    """The listed file for an entry that cannot be looked at; raises errors that are not its own."""
    if error.errno in _MOUNT_ERRORS or error.errno in _PROCESS_ERRORS:
        raise error
    return FileInfo(name, 0, "", 0.0, "link-loop" if error.errno == errno.ELOOP else "unreadable")


def _is_below(name: str) -> bool:
    """Whether a name cannot lead out of its folder; backslashes are ordinary letters."""
    return not (name.startswith("/") or "\0" in name or ".." in name.split("/"))


def _publish_new(source: Path, target: str) -> None:
    """Give a complete local file its name, unless that is taken.

    A hard link does that on most file systems. Without links (FAT, exFAT, many mounts), the kernel renames the file on
    condition that the name is free; where it cannot either, a lock excludes the other processes of this machine, and
    those of other machines if the file system shares its locks.

    Raises:
        FileExistsError: the name is taken.
        OSError: the file system can do none of the three.
    """
    for publish in (os.link, _rename_if_free):
        try:
            publish(source, target)
            return
        except FileExistsError:
            raise
        except OSError:
            continue  # file systems differ in the error by which they say that they cannot do this
    _rename_under_lock(source, target)


def _rename_if_free(source: Path, target: str) -> None:
    """Rename a file in one step that fails if the name is taken; Linux only."""
    rename = _renameat2()
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


_AT_FDCWD = -100  # paths are relative to the current directory
_RENAME_NOREPLACE = 1


@cache
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _rename_under_lock(source: Path, target: str) -> None:
    """Rename a file while no other process does so in the same folder.

    The kernel releases the lock of a process that dies. The empty lock file stays: whoever deletes one may delete the
    one that another process has just locked.
    """
    lock = source.parent / f".lock{STAGED_SUFFIX}"
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise InputError(
                f"{target}: this file system has neither hard links nor locks; choose another folder"
            ) from error
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        source.rename(target)


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file; a device is not opened, since that can start something or block."""
    _check_regular(Path(path).stat().st_mode)
    # For files that block all the same: those of /proc, and a pipe that took the place of the file just now.
    return os.open(path, flags | os.O_NONBLOCK)


class _LocalFile(io.FileIO):
    """A local file whose read errors name it."""

    def __init__(self, folder: Folder, name: str) -> None:
        super().__init__(folder.location(name), "rb", opener=_open_regular)
        self._folder, self._name = folder, name

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._folder._user_errors(self._name, of_one_file=True):
            return super().seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        with self._folder._user_errors(self._name, of_one_file=True):
            return int(_not_blocked(super().readinto(buffer)))

    def readall(self) -> bytes:
        with self._folder._user_errors(self._name, of_one_file=True):
            return _not_blocked(super().readall())


def _not_blocked(read: T | None) -> T:
    """Return what was read; None stands for a read that would have to wait for another process."""
    if read is None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return read


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
