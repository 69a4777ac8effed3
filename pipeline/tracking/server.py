"""The connection to a tracking server or database, and its failures."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pipeline.errors import InputError
from pipeline.fields import Reader, absolute_path
from pipeline.tracking.texts import without_credentials

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

# MLflow's own defaults wait four minutes for an unreachable server, and print to the terminal.
HTTP_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
EXPERIMENT = "bonafide"
"""The experiment of a command that names none."""

TRANSFER_TIMEOUT_S = 3600
"""Timeout of uploads and downloads: a server responds to an upload only after it has stored all of it."""


def connect(tracking_uri: str) -> MlflowClient:
    """Return a client of a server or a database; creates the folder of an SQLite file.

    Raises:
        InputError: MLflow cannot use the URI.
    """
    for key, value in HTTP_DEFAULTS.items():
        os.environ.setdefault(key, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for logger_name in ("mlflow", "alembic"):
        logging.getLogger(logger_name).setLevel(logging.ERROR)
    if tracking_uri.startswith("sqlite:///"):
        database_folder(tracking_uri).mkdir(parents=True, exist_ok=True)
    try:
        return MlflowClient(tracking_uri, tracking_uri)
    except MlflowException as error:
        raise InputError(
            f"{without_credentials(tracking_uri)}: MLflow does not support this tracking URI; "
            "write sqlite:////path/mlflow.db or http://host:port"
        ) from error


def absolute_uri(tracking_uri: str) -> str:
    """Make the path of an SQLite URI absolute, for processes with another working directory.

    Raises:
        InputError: MLflow supports no such URI.
    """
    if not re.match(
        r"(https?|databricks|(sqlite|postgresql|mysql|mssql)(\+\w+)?)://.|databricks$", tracking_uri
    ):
        raise InputError(
            f"{without_credentials(tracking_uri)!r} is no database or server of MLflow; "
            "write sqlite:///FILE or http://HOST:PORT"
        )
    start, separator, path = tracking_uri.partition(":///")
    if not start.startswith("sqlite"):
        return tracking_uri
    path, question_mark, options = path.partition("?")
    return f"{start}{separator}{absolute_path(path)}{question_mark}{options}"


TrackingUri = Annotated[str, Reader(absolute_uri, "a database or server of MLflow")]
"""Type of a flag: an MLflow server or database."""


def check_flags(tracking_uri: str, experiment: str) -> None:
    """Refuse an experiment that has no server, because nothing would be tracked.

    Raises:
        InputError: an experiment is named without a tracking URI.
    """
    if experiment != EXPERIMENT and not tracking_uri:
        raise InputError(f"--experiment {experiment} is in MLflow: give --tracking-uri URI")


def database_folder(tracking_uri: str) -> Path:
    """The folder of the file that an SQLite URI names."""
    return Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0]).absolute().parent


def failures() -> tuple[type[Exception], ...]:
    """Exceptions that a failing server causes; those of `requests` are OSErrors."""
    from mlflow.exceptions import MlflowException

    return MlflowException, OSError


def warn(message: str, failure: Exception) -> None:
    """Log one line about a failure of the server."""
    logger.warning("%s: %s", without_credentials(message), reason(failure))


def reason(failure: Exception) -> str:
    """The first line of an exception, without credentials."""
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    return without_credentials(lines[0])[:300]


@contextlib.contextmanager
def long_timeout() -> Iterator[None]:
    """Raise the HTTP timeout while gigabytes are transferred."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name)
    os.environ[name] = str(TRANSFER_TIMEOUT_S)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
