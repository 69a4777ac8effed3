"""Errors of a local path, as one line that names the location and, where there is one, the remedy.

`local_errors` converts what a user can fix: permissions, full disks, mounts. Missing files, existing files and our own
mistakes pass through unchanged. `s3_errors` in a module of its own does the same for S3.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import InputError, UnavailableError, UnreadableError

Convert = Callable[[Exception, str, bool], Exception | None]
"""From an error, its location, and whether that is one file of many, to the error for the user; None to keep it."""

MOUNT_ERRORS = frozenset(
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
"""Errors that every file of a network file system has while its server is away."""

PROCESS_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBADF})
"""Errors of this process or machine, for which no file is to blame."""

WRITE_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "delete files there, or ask for a larger quota",
    errno.EFBIG: "raise the limit of `ulimit -f`, or choose a file system for larger files",
    errno.EROFS: "mount it for writing, or choose another folder",
}
"""Errors that every write to a file system or by a process has, whatever is written."""

_RUST_NUMBER = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust, such as safetensors, name the number of an error of the system."""


@contextlib.contextmanager
def converted(convert: Convert, location: str, of_one_file: bool) -> Iterator[None]:
    """Raise, in place of an error of a storage, the error that it is to the user."""
    try:
        yield
    except Exception as error:
        for_user = convert(error, location, of_one_file)
        if for_user is None:
            raise
        raise for_user from error


def local_errors(location: str, *, of_one_file: bool = False) -> contextlib.AbstractContextManager[None]:
    """Convert the errors of a local path.

    Args:
        location: the path that is used.
        of_one_file: it is one file of many, so an error that may be its own becomes an `UnreadableError`.
    """
    return converted(_local_error, location, of_one_file)


def _local_error(error: Exception, location: str, of_one_file: bool) -> InputError | None:
    number = error_number(error)
    if number in WRITE_REMEDIES:
        return InputError(
            f"{location}: {os.strerror(number)}; {WRITE_REMEDIES[number]}, then run the same command again"
        )
    is_other = not isinstance(error, OSError) or isinstance(error, (FileNotFoundError, FileExistsError))
    if is_other or number in PROCESS_ERRORS:
        return None
    line = first_line(error)
    if number in MOUNT_ERRORS:
        return UnavailableError(f"{location}: {line}; mount it again, and run the command again")
    kind = UnreadableError if of_one_file else InputError
    if isinstance(error, NotADirectoryError):
        which = "this" if Path(location).is_file() else "a parent of this path"
        return kind(f"{location}: {which} is a file, not a folder")
    if isinstance(error, PermissionError):
        return kind(f"{location}: permission denied: {line}")
    return kind(f"{location}: {line}")


def error_number(error: Exception) -> int:
    """The number of the error of the system behind an error; 0 if there is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    match = _RUST_NUMBER.search(str(error))
    return int(match[1]) if match else 0


def first_line(error: BaseException) -> str:
    """The first line of the message of an error, or its type if it has no message."""
    lines = str(getattr(error, "strerror", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__
