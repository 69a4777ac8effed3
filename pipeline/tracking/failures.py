"""Failures of an MLflow server or database: whether it is away or refuses, and why, in one line."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator

from pipeline.errors import InputError, UnavailableError
from pipeline.tracking.texts import without_credentials

logger = logging.getLogger(__name__)

AWAY_STATUS = (408, 429, 500, 502, 503, 504)
"""Statuses of a server, or of a proxy before it, that is away or too busy."""
AWAY_CODES = ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
DENIED_CODES = ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED", "ENDPOINT_NOT_FOUND")
"""Codes of a server that does not know this user, or has nothing at this address."""


def failures() -> tuple[type[Exception], ...]:
    """Exceptions that a failing server or database causes; those of `requests` are OSErrors."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, OSError, SQLAlchemyError


def is_away(failure: BaseException) -> bool:
    """Whether a server does not answer, or says that it will later; if not, the user can mend the failure."""
    import requests
    from mlflow.exceptions import MlflowException, RestException
    from sqlalchemy.exc import OperationalError

    for error in _chain(failure):
        if isinstance(error, (requests.exceptions.SSLError, requests.exceptions.InvalidURL)):
            return False
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
            return False  # the name of the host does not exist
        if isinstance(error, requests.exceptions.HTTPError):
            return error.response is not None and error.response.status_code in AWAY_STATUS
    for error in _chain(failure):
        if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror, OperationalError)):
            return True
        if isinstance(error, requests.exceptions.RequestException):
            return True
        if isinstance(error, MlflowException) and error.error_code in AWAY_CODES:
            return True
        if isinstance(error, RestException) and error.error_code == "INTERNAL_ERROR":
            return True
    return False


def is_temporary(failure: BaseException) -> bool:
    """Whether a call may succeed later, which includes a server that no longer accepts this user."""
    return is_away(failure) or getattr(failure, "error_code", None) in DENIED_CODES


@contextlib.contextmanager
def as_input_errors(tracking_uri: str) -> Iterator[None]:
    """Raise failures as an UnavailableError if the server is away, else as an InputError with the remedy."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except InputError:
        raise
    except failures() as failure:
        shown = without_credentials(tracking_uri)
        if is_away(failure):
            raise UnavailableError(f"MLflow at {shown} does not respond: {reason(failure)}") from failure
        code = failure.error_code if isinstance(failure, MlflowException) else ""
        if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
            raise InputError(
                f"{shown}: MLflow does not know this user (401); set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from failure
        if code == "PERMISSION_DENIED":
            raise InputError(
                f"{shown}: MLflow does not allow this user to track here (403); ask for permission to edit the "
                "experiment, or name another with --experiment"
            ) from failure
        if code == "ENDPOINT_NOT_FOUND" or "not in a valid JSON format" in str(failure):
            raise InputError(
                f"{shown}: there is no MLflow server at this address; write http://host:port as the server prints it"
            ) from failure
        if "maintenance mode" in str(failure):
            raise InputError(
                f"{shown}: MLflow no longer tracks into folders; write sqlite:////path/mlflow.db or http://host:port"
            ) from failure
        raise InputError(f"MLflow at {shown} refuses: {reason(failure)}") from failure


def warn(message: str, failure: BaseException) -> None:
    """Log one line about a failure of the server."""
    logger.warning("%s: %s", without_credentials(message), reason(failure))


def reason(failure: BaseException) -> str:
    """Why something failed, in one line without credentials."""
    import requests
    import urllib3

    text = str(failure)
    for error in _chain(failure):
        if isinstance(error, (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)):
            text = "no answer in time"
        elif isinstance(error, requests.exceptions.RetryError):
            text = str(error.args[0].reason if error.args else error)
        elif isinstance(error, OSError) and error.strerror:
            text = error.strerror.lower()
        elif hasattr(error, "orig"):  # of SQLAlchemy: its own text repeats the statement
            text = str(error.orig)
    lines = text.strip().splitlines() or [type(failure).__name__]
    return without_credentials(lines[0])[:300]


def _chain(failure: BaseException) -> Iterator[BaseException]:
    """An exception, what caused it, what caused that, and so on."""
    error: BaseException | None = failure
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
