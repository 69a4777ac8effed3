"""Reading local files: only regular ones are opened, no read waits for another process, and errors name the file."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pipeline.storage.file_info import FileInfo, regular_file
from pipeline.storage.user_errors import local_errors

T = TypeVar("T")

_BEYOND = 1 << 12  # bytes asked for behind the stated end: a file may have grown, and some state no length


def info(location: str, name: str) -> FileInfo:
    """The listing of one file, as `Folder.info` documents it."""
    with local_errors(location, of_one_file=True):
        status = Path(location).stat()
        _check_regular(status.st_mode)
        return regular_file(name, status)


def read(location: str, first: int, end: int | None) -> bytes:
    """The bytes of one file, as `Folder.read` documents it.

    Each call of the system gives up the interpreter lock and waits for it again, so there are as few as possible.
    """
    with local_errors(location, of_one_file=True):
        descriptor = _open_regular(location, os.O_RDONLY)
        try:
            return b"".join(_parts(descriptor, first, end))
        finally:
            os.close(descriptor)


def _parts(descriptor: int, first: int, end: int | None) -> Iterator[bytes]:
    while end is None or first < end:
        stop = end or max(os.fstat(descriptor).st_size, first) + _BEYOND
        part = os.pread(descriptor, stop - first, first)
        if not part:
            return
        yield part
        first += len(part)


class LocalFile(io.FileIO):
    """A local file, open for reading, whose read errors name it."""

    def __init__(self, location: str) -> None:
        self._location = location
        with local_errors(location, of_one_file=True):
            super().__init__(location, "rb", opener=_open_regular)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with local_errors(self._location, of_one_file=True):
            return super().seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        with local_errors(self._location, of_one_file=True):
            return int(_not_blocked(super().readinto(buffer)))

    def readall(self) -> bytes:
        with local_errors(self._location, of_one_file=True):
            return _not_blocked(super().readall())


def _not_blocked(read: T | None) -> T:
    """Return what was read; None stands for a read that would have to wait for another process."""
    if read is None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return read


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file; a device is not opened, since that can start something or block."""
    _check_regular(os.stat(path).st_mode)  # noqa: PTH116 — a third of the time of `Path.stat`
    # Some files block all the same: those of /proc, and a pipe that took the place of the file just now.
    return os.open(path, flags | os.O_NONBLOCK)


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file")
