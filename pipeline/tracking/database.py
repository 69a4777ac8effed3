"""Databases of MLflow: checked before MLflow opens them, and new SQLite files made whole or not at all.

MLflow retries for minutes what no retry can mend, such as a folder in place of a file, and it brings the tables of an
older MLflow up to date without a question, under servers that still use them.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError, UnavailableError
from pipeline.tracking.failures import is_away, reason
from pipeline.tracking.texts import without_credentials
from pipeline.tracking.uris import sqlite_file

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine

PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
CONNECT_TIMEOUT_S = 10.0
LOCK_TIMEOUT_S = 5.0


def check_database(tracking_uri: str) -> bool:
    """Check that MLflow can use a database, without a change to it; returns whether it has tables.

    Raises:
        InputError: the database cannot be used, and how to mend that.
        UnavailableError: its server does not respond.
    """
    file = sqlite_file(tracking_uri)
    if file is not None:
        _check_file(tracking_uri, file)
        if not file.exists():
            return False
    elif tracking_uri.startswith("sqlite"):
        raise InputError(
            f"{tracking_uri}: names no file, so what is tracked would be lost; write sqlite:////path/mlflow.db"
        )
    with _engine(tracking_uri) as engine:
        return _check_version(tracking_uri, engine)


def create_sqlite(file: Path) -> None:
    """Create an SQLite file with the tables of MLflow, unless it exists; other jobs may do the same at once."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.touch()
    try:
        artifacts = (file.parent / "artifacts").as_uri()
        store = SqlAlchemyStore(f"sqlite:///{temporary}", artifacts)  # type: ignore[no-untyped-call]
        store.engine.dispose()
        _publish(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, file: Path) -> None:
    """Give a complete file its name, unless another job was faster: a file of that name is never replaced."""
    try:
        os.link(temporary, file)
    except FileExistsError:
        return
    except OSError:  # a file system without links, where two jobs can meet here
        if not file.exists():
            temporary.rename(file)


def _check_file(tracking_uri: str, file: Path) -> None:
    if file.is_dir():
        raise InputError(f"{tracking_uri}: {file} is a folder; name a file, such as {tracking_uri}/mlflow.db")
    folder = next(each for each in (file, *file.parents) if os.path.lexists(each))
    if folder != file and not folder.is_dir():
        raise InputError(f"{tracking_uri}: {folder} is not a folder; name a file in a folder")
    needed = os.W_OK | (os.X_OK if folder != file else os.R_OK)
    for path, mode in ((folder, needed), (file.parent, os.W_OK | os.X_OK)):
        if path.exists() and not os.access(path, mode):  # SQLite writes its journal into the folder
            raise InputError(f"{tracking_uri}: permission denied for {path}; name a file that you can write")
    if file.exists():
        _check_format(tracking_uri, file)


def _check_format(tracking_uri: str, file: Path) -> None:
    try:
        # Not for reading only, which cannot undo what a killed process left in the journal.
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", LOCK_TIMEOUT_S, uri=True)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError as error:  # locked
        raise UnavailableError(f"{tracking_uri}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise InputError(f"{tracking_uri}: {error}; name another file, and MLflow creates it") from error


@contextmanager
def _engine(tracking_uri: str) -> Iterator[Engine]:
    """An engine of a database whose server responds."""
    import sqlalchemy
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

    shown = without_credentials(tracking_uri)
    try:
        engine = sqlalchemy.create_engine(tracking_uri)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{shown}: needs the Python package {error.name!r}, which is not installed; install it, or "
            "name an MLflow server: http://host:port"
        ) from error
    except (SQLAlchemyError, ValueError) as error:  # the latter for a port that is not a number
        raise InputError(
            f"{shown}: {reason(error)}; write sqlite:////path/mlflow.db or http://host:port"
        ) from error
    try:
        _check_responds(shown, engine.url)
        with engine.connect():
            pass
        yield engine
    except OperationalError as error:
        # A server that listens refuses, such as the password; a file is locked.
        kind = InputError if engine.url.host else UnavailableError
        raise kind(f"{shown}: {reason(error)}") from error
    except SQLAlchemyError as error:
        raise InputError(f"{shown}: {reason(error)}") from error
    finally:
        engine.dispose()


def _check_responds(shown: str, url: URL) -> None:
    """Check that a server listens, because the failures of drivers do not tell a refusal from an absence."""
    port = url.port or PORTS.get(url.get_backend_name())
    if not url.host or port is None:
        return
    try:
        socket.create_connection((url.host, port), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        kind = UnavailableError if is_away(error) else InputError
        raise kind(f"{shown}: {url.host}:{port} does not respond: {reason(error)}") from error


def _check_version(tracking_uri: str, engine: Engine) -> bool:
    """Check that the tables are those of the installed MLflow; returns whether there are any."""
    import mlflow
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found is None:
        return False
    versions = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    if found == versions.get_current_head():
        return True
    shown = without_credentials(tracking_uri)
    if found in {script.revision for script in versions.walk_revisions()}:
        raise InputError(
            f"{shown}: the database is that of an older MLflow; make a copy of it, then run: mlflow db upgrade {shown}"
        )
    raise InputError(
        f"{shown}: the database is that of a newer MLflow than {mlflow.__version__}, or of another program; "
        "install the MLflow that made it, or name another database"
    )
