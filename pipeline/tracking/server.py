"""The connection to a tracking server or database."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.errors import InputError, UnavailableError
from pipeline.tracking.database import check_database, create_sqlite
from pipeline.tracking.failures import as_input_errors
from pipeline.tracking.texts import without_credentials
from pipeline.tracking.uris import absolute_uri, is_database, is_http, sqlite_file

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
"""The experiment of a training, scoring or evaluation that names none."""
INGEST_EXPERIMENT = "bonafide-ingest"
"""The experiment of an ingest that names none: its metrics have nothing to be compared with in a table of trainings."""

SILENCED_LOGGERS = ("mlflow", "alembic", "urllib3.connectionpool")
"""Their lines repeat what exceptions tell; the last one's, at every attempt of an outage of days."""
TRANSFER_TIMEOUT_S = 3600
"""Timeout of uploads and downloads: a server responds to an upload only after it has stored all of it."""


def check(tracking_uri: str, experiment: str) -> bool:
    """Check what the user can mend before a command starts to work; a server that is away costs a warning.

    Writes nothing: a new SQLite file is created only when something is tracked.

    Returns:
        Whether the server or database responds; False without a URI.

    Raises:
        InputError: the URI, the database, the user or the experiment is refused.
    """
    if not tracking_uri:
        return False
    tracking_uri = absolute_uri(tracking_uri)
    try:
        if not is_database(tracking_uri) or check_database(tracking_uri):
            _check_experiment(tracking_uri, experiment)
    except UnavailableError as error:
        logger.warning("%s; the command continues, and is tracked later", error)
        return False
    return True


def check_flags(tracking_uri: str, experiment: str) -> None:
    """Refuse an experiment that has no server, because nothing would be tracked.

    Raises:
        InputError: an experiment is named without a tracking URI.
    """
    if experiment not in (EXPERIMENT, INGEST_EXPERIMENT) and not tracking_uri:
        raise InputError(f"--experiment {experiment} is in MLflow: give --tracking-uri URI")


def connect(tracking_uri: str) -> MlflowClient:
    """Return a client of a server or a database; creates an SQLite file that does not exist.

    Raises:
        InputError: MLflow cannot use the URI.
        UnavailableError: the server of a database does not respond.
    """
    tracking_uri = absolute_uri(tracking_uri)
    return _client(tracking_uri.rstrip("/") if is_http(tracking_uri) else tracking_uri)


@functools.cache
def _client(tracking_uri: str) -> MlflowClient:
    for key, value in HTTP_DEFAULTS.items():
        os.environ.setdefault(key, value)
    from mlflow.tracking import MlflowClient
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    for logger_name in SILENCED_LOGGERS:
        logging.getLogger(logger_name).setLevel(logging.CRITICAL)
    file = sqlite_file(tracking_uri)
    with as_input_errors(tracking_uri):
        if is_database(tracking_uri) and not check_database(tracking_uri) and file is not None:
            create_sqlite(file)
        try:
            return MlflowClient(tracking_uri, tracking_uri)
        except UnsupportedModelRegistryStoreURIException as error:
            raise InputError(
                f"{without_credentials(tracking_uri)}: MLflow does not support this tracking URI; "
                "write sqlite:////path/mlflow.db or http://host:port"
            ) from error


def _check_experiment(tracking_uri: str, experiment: str) -> None:
    client = connect(tracking_uri)
    with as_input_errors(tracking_uri):
        stored = client.get_experiment_by_name(experiment)
    if stored is not None and stored.lifecycle_stage != "active":
        raise InputError(
            f"experiment {experiment!r} is deleted; name another with --experiment, or restore it: "
            f"mlflow experiments restore --experiment-id {stored.experiment_id}"
        )


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
