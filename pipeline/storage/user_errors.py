"""Errors of a local path or of S3, as one line that names the location and, where there is one, the remedy.

`local_errors` and `s3_errors` convert what a user can fix: permissions, credentials, the endpoint, the bucket. Missing
files, existing files and our own mistakes pass through unchanged.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, UnavailableError, UnreadableError

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


@contextlib.contextmanager
def local_errors(location: str, *, of_one_file: bool = False) -> Iterator[None]:
    """Convert the errors of a local path.

    Args:
        location: the path that is used.
        of_one_file: it is one file of many, so an error that may be its own becomes an `UnreadableError`.
    """
    try:
        yield
    except OSError as error:
        converted = _local_error(error, location, of_one_file)
        if converted is None:
            raise
        raise converted from error


def _local_error(error: OSError, location: str, of_one_file: bool) -> InputError | None:
    if isinstance(error, (FileNotFoundError, FileExistsError)) or error.errno in PROCESS_ERRORS:
        return None
    line = _first_line(error)
    if error.errno in MOUNT_ERRORS:
        return UnavailableError(f"{location}: {line}; mount it again, and run the command again")
    kind = UnreadableError if of_one_file else InputError
    if isinstance(error, NotADirectoryError):
        which = "this" if Path(location).is_file() else "a parent of this path"
        return kind(f"{location}: {which} is a file, not a folder")
    if isinstance(error, PermissionError):
        return kind(f"{location}: permission denied: {line}")
    return kind(f"{location}: {line}")


@contextlib.contextmanager
def s3_errors(location: str, *, of_one_file: bool = False) -> Iterator[None]:
    """Convert the errors of a request to S3. A request that lost a race to create the object is a `FileExistsError`.

    Args:
        location: the URI that is used.
        of_one_file: it is one object of many, so an error that may be its own becomes an `UnreadableError`.
    """
    try:
        yield
    except Exception as error:
        converted = _s3_error(error, location, of_one_file)
        if converted is None:
            raise
        raise converted from error


def _s3_error(error: Exception, location: str, of_one_file: bool) -> Exception | None:
    line = _first_line(error)
    status, code = s3_response(error)
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
        return UnavailableError(f"{message}; the server is overloaded or down: run the command again later")
    if not code:
        return UnavailableError(f"{message}; check the AWS credentials and AWS_ENDPOINT_URL")
    return InputError(message)


def s3_response(error: BaseException) -> tuple[int, str]:
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


def _first_line(error: BaseException) -> str:
    lines = str(getattr(error, "strerror", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__
