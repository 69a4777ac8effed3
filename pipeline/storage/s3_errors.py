"""Errors of requests to S3, as one line that names the object and, where there is one, the remedy.

Servers that speak the protocol of S3 lack some of its features, and differ in the error by which they say so.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

from pipeline.errors import InputError, UnavailableError, UnreadableError
from pipeline.storage.user_errors import converted, first_line

_CONFLICT_CODES = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
"""Error codes of S3 for the later of two requests that create the same object."""

_OBJECT_CODES = frozenset(
    {
        "AccessDenied",
        "InvalidRange",  # shorter than when it was listed
        "InvalidRequest",  # encrypted with a key that the customer keeps
        "KeyTooLongError",
        "InvalidURI",
    }
)
"""Error codes of S3 that can be the fault of one object; so can every code that begins with `KMS.`."""

_COLD = "InvalidObjectState"
"""Error code of S3 for an object in an archive, such as Glacier, that is not restored."""

_CHECKSUM_CODES = frozenset({"XAmzContentSHA256Mismatch", "MissingContentLength"})
"""Error codes of servers that do not know the checksums which clients add to uploads since 2025."""

_CHECKSUM_WORDS = re.compile(
    r"checksum|aws-chunked|x-amz-trailer|content-sha256|STREAMING-|header you provided", re.IGNORECASE
)
"""What other servers name when they refuse these checksums, with codes such as InvalidArgument and NotImplemented."""

_DAMAGED = "FlexibleChecksumError"
"""The error of botocore for a download whose checksum is not the one that the server states."""

_UPLOAD_REMEDY = (
    "if this server does not support the checksums of AWS, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required "
    "and AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
)
_DOWNLOAD_REMEDY = (
    "the object is damaged, or the server states checksums that are not those of AWS: then set "
    "AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
)


def s3_errors(location: str, *, of_one_file: bool = False) -> contextlib.AbstractContextManager[None]:
    """Convert the errors of a request to S3. A request that lost a race to create the object is a `FileExistsError`.

    Args:
        location: the URI that is used.
        of_one_file: it is one object of many, so an error that may be its own becomes an `UnreadableError`.
    """
    return converted(_s3_error, location, of_one_file)


def _s3_error(error: Exception, location: str, of_one_file: bool) -> Exception | None:
    line = first_line(error).rstrip(".")
    status, code = s3_response(error)
    kind = UnreadableError if of_one_file else InputError
    if code == _COLD:
        return kind(f"{location}: {code}: this object is in cold storage; restore it before it is read")
    if type(error).__name__ == _DAMAGED:
        return kind(f"{location}: {line}; {_DOWNLOAD_REMEDY}")
    if _refuses_checksum(error):
        return InputError(f"{location}: {code}: {line}; {_UPLOAD_REMEDY}")
    if of_one_file and (code in _OBJECT_CODES or code.startswith("KMS.")):
        return UnreadableError(f"{location}: {code}: {line}")
    if isinstance(error, PermissionError):
        remedy = "check the AWS credentials and the permissions of the bucket"
        return InputError(f"{location}: permission denied: {line}; {remedy}")
    if code == "NoSuchBucket":
        return InputError(f"{location}: no such bucket; create it or correct its name")
    if code in _CONFLICT_CODES:
        return FileExistsError(location)
    if isinstance(error, (FileNotFoundError, FileExistsError)) or not _is_from_s3(error):
        return None
    message = f"{location}: {line}"
    if status >= 500 and not _is_not_implemented(error):
        return UnavailableError(f"{message}; the server is overloaded or down: run the command again later")
    if not code:
        return UnavailableError(f"{message}; check the AWS credentials and AWS_ENDPOINT_URL")
    return InputError(message)


def s3_response(error: BaseException) -> tuple[int, str]:
    """HTTP status and error code of the response of S3 behind an error; 0 and "" if there was no response."""
    cause: BaseException | None = error
    while cause is not None:
        response: Any = getattr(cause, "response", None)
        if response:
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return int(status), str(response.get("Error", {}).get("Code", ""))
        cause = cause.__cause__
    return 0, ""


def is_refused(error: BaseException) -> bool:
    """Whether a server refuses a request for what it asks, and not for who asks or because it is busy."""
    status, _ = s3_response(error)
    return status in (400, 405, 501)


def _refuses_checksum(error: Exception) -> bool:
    """Whether a server refuses an upload because of the checksum that the client has added."""
    status, code = s3_response(error)
    is_refusal = 400 <= status < 500 or _is_not_implemented(error)
    return is_refusal and (code in _CHECKSUM_CODES or bool(_CHECKSUM_WORDS.search(str(error))))


def _is_not_implemented(error: Exception) -> bool:
    """Whether a server says that it lacks a feature."""
    status, code = s3_response(error)
    return status == 501 or code == "NotImplemented"


def _is_from_s3(error: BaseException) -> bool:
    """Whether S3 or the connection to it failed."""
    return any(
        type(cause).__module__.startswith(("botocore", "aiobotocore", "aiohttp"))
        for cause in (error, error.__cause__)
    )
