"""MLflow servers and databases that are away, refuse, or cannot be used."""

from __future__ import annotations

import functools
import sqlite3
import tempfile
import threading
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.jobs.situations.situation import Place, Situation

COMMAND = "evaluate --scores scores --out report"
DATABASE = "mlflow.db"


@functools.cache
def new_database() -> bytes:
    """An SQLite database of the installed MLflow, with a deleted experiment `old`."""
    from pipeline.tracking.database import create_sqlite

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # those of MLflow about itself
        from mlflow.tracking import MlflowClient

        file = Path(folder, DATABASE)
        create_sqlite(file)
        client = MlflowClient(f"sqlite:///{file}")
        client.delete_experiment(client.create_experiment("old"))
        return file.read_bytes()


def database_of_version(version: str) -> Callable[[Place], None]:
    """A database whose tables have a version of MLflow; empty: the installed one."""

    def prepare(place: Place) -> None:
        (place.here / DATABASE).write_bytes(new_database())
        if version:
            with sqlite3.connect(place.here / DATABASE) as connection:
                connection.execute("UPDATE alembic_version SET version_num = ?", (version,))

    return prepare


def answering(status: int, body: bytes = b"") -> Callable[[Place], None]:
    """A server that answers every request with a status; `tracking.toml` names it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    def prepare(place: Place) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        place.request.addfinalizer(server.server_close)
        place.request.addfinalizer(server.shutdown)
        uri = f"http://me:secret@127.0.0.1:{server.server_port}"
        (place.here / "tracking.toml").write_text(f"tracking_uri = '{uri}'")

    return prepare


def text_file(place: Place) -> None:
    """A file that is no database."""
    (place.here / "notes.txt").write_text("A text that is longer than the header of a database." * 3)


def folder(place: Place) -> None:
    """A folder in place of a database."""
    (place.here / DATABASE).mkdir()


SITUATIONS = [
    Situation(
        what="a tracking database of an older MLflow",
        command=f"{COMMAND} --tracking-uri sqlite:///{{here}}/{DATABASE}",
        prepare=database_of_version("451aebb31d03"),
        line=f"sqlite:///{{here}}/{DATABASE}: the database is that of an older MLflow; make a copy of it, then run: "
        f"mlflow db upgrade sqlite:///{{here}}/{DATABASE}",
    ),
    Situation(
        what="a tracking database of a newer MLflow",
        command=f"{COMMAND} --tracking-uri sqlite:///{{here}}/{DATABASE}",
        prepare=database_of_version("ffffffffffff"),
        line="…: the database is that of a newer MLflow than …, or of another program; install the MLflow that made "
        "it, or name another database",
    ),
    Situation(
        what="a deleted MLflow experiment",
        command=f"{COMMAND} --tracking-uri sqlite:///{{here}}/{DATABASE} --experiment old",
        prepare=database_of_version(""),
        line="experiment 'old' is deleted; name another with --experiment, or restore it: "
        "mlflow experiments restore --experiment-id …",
    ),
    Situation(
        what="a tracking database whose Python package is not installed",
        command=f"{COMMAND} --tracking-uri mysql://me:secret@host/db",
        line="mysql://host/db: needs the Python package …, which is not installed; install it, or name an MLflow "
        "server: http://host:port",
    ),
    Situation(
        what="a text file as tracking database",
        command=f"{COMMAND} --tracking-uri sqlite:///{{here}}/notes.txt",
        prepare=text_file,
        line="sqlite:///{here}/notes.txt: file is not a database; name another file, and MLflow creates it",
    ),
    Situation(
        what="a folder as tracking database",
        command=f"{COMMAND} --tracking-uri sqlite:///{{here}}/{DATABASE}",
        prepare=folder,
        line=f"sqlite:///{{here}}/{DATABASE}: {{here}}/{DATABASE} is a folder; name a file, such as "
        f"sqlite:///{{here}}/{DATABASE}/mlflow.db",
    ),
    Situation(
        what="a tracking database below a file",
        command=f"{COMMAND} --tracking-uri sqlite:///{{here}}/notes.txt/mlflow.db",
        prepare=text_file,
        line="sqlite:///{here}/notes.txt/mlflow.db: {here}/notes.txt is not a folder; name a file in a folder",
    ),
    Situation(
        what="a tracking database in a folder that the user cannot write",
        command=f"{COMMAND} --tracking-uri sqlite:////proc/1/mlflow.db",
        line="sqlite:////proc/1/mlflow.db: permission denied for /proc/1; name a file that you can write",
    ),
    Situation(
        what="an SQLite URI without a file",
        command=f"{COMMAND} --tracking-uri sqlite://mlflow.db",
        line="sqlite://mlflow.db: names no file, so what is tracked would be lost; write sqlite:////path/mlflow.db",
    ),
    Situation(
        what="a folder as tracking URI",
        command=f"{COMMAND} --tracking-uri {{here}}/mlruns",
        line="{here}/mlruns: MLflow no longer tracks into folders; write sqlite:////path/mlflow.db or http://host:port",
    ),
    Situation(
        what="a tracking URI of an unknown kind",
        command=f"{COMMAND} --tracking-uri gopher://host",
        line="gopher://host: MLflow does not support this tracking URI; write sqlite:////path/mlflow.db or "
        "http://host:port",
    ),
    Situation(
        what="an MLflow server that does not know the user",
        command=f"{COMMAND} --config tracking.toml",
        prepare=answering(401, b"You are not authenticated."),
        line="http://127.0.0.1:…: MLflow does not know this user (401); set MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    ),
    Situation(
        what="an MLflow server that forbids the experiment",
        command=f"{COMMAND} --config tracking.toml",
        prepare=answering(403, b"Permission denied"),
        line="http://127.0.0.1:…: MLflow does not allow this user to track here (403); ask for permission to edit the "
        "experiment, or name another with --experiment",
    ),
    Situation(
        what="a web server that is not MLflow",
        command=f"{COMMAND} --config tracking.toml",
        prepare=answering(404, b"Not found"),
        line="http://127.0.0.1:…: there is no MLflow server at this address; write http://host:port as the server "
        "prints it",
    ),
    Situation(
        what="a page for the browser as tracking URI",
        command=f"{COMMAND} --config tracking.toml",
        prepare=answering(200, b"<html></html>"),
        line="http://127.0.0.1:…: there is no MLflow server at this address; write http://host:port as the server "
        "prints it",
    ),
    Situation(
        what="an MLflow server that refuses a name",
        command=f"{COMMAND} --config tracking.toml",
        prepare=answering(
            400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "experiment_name is too long"}'
        ),
        line="MLflow at http://127.0.0.1:… refuses: INVALID_PARAMETER_VALUE: experiment_name is too long",
    ),
]
