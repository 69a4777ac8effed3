"""Writing local files: readers see a whole file or none, and one of several writers creates a new file."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import io
import os
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import InputError
from pipeline.storage.user_errors import local_errors

STAGED_SUFFIX = ".staged"
"""Suffix of a local file that is being written; a killed writer leaves it behind, and readers ignore it.

Its name also starts with a dot, so that other tools that read whole folders, such as PyArrow, ignore it as well.
"""

_LOCK = f".lock{STAGED_SUFFIX}"
"""Name of the file that processes lock where they cannot exclude each other otherwise."""


@contextlib.contextmanager
def staged(location: str, *, is_new: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file in the same folder; its bytes are on disk before it gets its name.

    Args:
        location: path of the file.
        is_new: raise FileExistsError if the path is taken when the block ends, instead of replacing the file.
    """
    temporary = Path(staged_name(location))
    with local_errors(location):
        temporary.parent.mkdir(parents=True, exist_ok=True)
    unbuffered = WritableFile(temporary, location)
    try:
        with unbuffered:
            file = io.BufferedWriter(unbuffered)
            yield file
            file.flush()
            unbuffered.sync()
        with local_errors(location):
            if is_new:
                _rename_new(temporary, location)
            else:
                temporary.replace(location)
    finally:
        temporary.unlink(missing_ok=True)


def staged_name(location: str) -> str:
    """A new path or URI in the folder of a file, for what is written before the file appears under its name."""
    parent, _, base = location.rpartition("/")
    # Part of the name is enough for people; the whole one could make a name of more than 255 bytes.
    return f"{parent}/.{base[:40]}.{uuid.uuid4().hex}{STAGED_SUFFIX}"


def is_staged(name: str) -> bool:
    """Whether a file has not got its name yet; an old one was left by a killed writer."""
    return name.endswith(STAGED_SUFFIX) and name.rpartition("/")[2] != _LOCK


class WritableFile(io.FileIO):
    """A new local file without a buffer, whose errors name another path: the one that the file will have."""

    def __init__(self, path: Path, location: str) -> None:
        self._location = location
        with local_errors(location):
            super().__init__(path, "xb")

    def write(self, data: Any) -> int:
        with local_errors(self._location):
            return super().write(data)

    def sync(self) -> None:
        """Wait until every byte is on the disk. Some file systems, such as NFS, find only now that it is full."""
        with local_errors(self._location):
            os.fsync(self.fileno())

    def close(self) -> None:
        with local_errors(self._location):
            super().close()


def _rename_new(source: Path, target: str) -> None:
    """Give a complete file its name, unless that is taken.

    A hard link does that on most file systems. Without links (FAT, exFAT, many mounts), the kernel renames the file on
    condition that the name is free. Where it cannot do that either, a lock excludes the other processes of this
    machine, and those of other machines if the file system shares its locks.

    Raises:
        FileExistsError: the name is taken.
        InputError: the file system can do none of the three.
    """
    for rename in (os.link, _rename_if_free):
        try:
            rename(source, target)
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
    lock = source.parent / _LOCK
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
