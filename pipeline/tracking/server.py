"""The way to a tracking server or database, and what it may do wrong."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.tracking.texts import without_credentials

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

# MLflow's own defaults wait four minutes for a server that is gone, and print.
HTTP_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
WEIGHTS_TIMEOUT_S = 3600
"""A server answers an upload when it has passed all of it on."""


def connect(tracking_uri: str) -> MlflowClient:
    """A client of a server, or of a database, whose folder is made.

    Raises:
        InputError: MLflow cannot use the URI.
    """
    for key, value in HTTP_DEFAULTS.items():
        os.environ.setdefault(key, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if tracking_uri.startswith("sqlite:///"):
        database_folder(tracking_uri).mkdir(parents=True, exist_ok=True)
    try:
        return MlflowClient(tracking_uri, tracking_uri)
    except MlflowException as error:
        raise InputError(
            f"{without_credentials(tracking_uri)}: not a tracking URI that MLflow knows; "
            "write sqlite:////path/mlflow.db or http://host:port"
        ) from error


def absolute_uri(tracking_uri: str) -> str:
    """The URI with the full path of an SQLite file, for processes that stand elsewhere."""
    if not tracking_uri.startswith("sqlite:///"):
        return tracking_uri
    path, question, options = tracking_uri.removeprefix("sqlite:///").partition("?")
    return f"sqlite:///{Path(path).expanduser().absolute()}{question}{options}"


def database_folder(tracking_uri: str) -> Path:
    """The folder of an SQLite file."""
    return Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0]).absolute().parent


def failures() -> tuple[type[Exception], ...]:
    """What a server does wrong; requests' exceptions are OSErrors."""
    from mlflow.exceptions import MlflowException

    return MlflowException, OSError


def warn(what: str, failure: Exception) -> None:
    """Log one line about something that MLflow did not take."""
    logger.warning("%s: %s", without_credentials(what), reason(failure))


def reason(failure: Exception) -> str:
    """The first line of what went wrong, without credentials."""
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    return without_credentials(lines[0])[:300]


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Give the server the time that gigabytes take."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name)
    os.environ[name] = str(WEIGHTS_TIMEOUT_S)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
