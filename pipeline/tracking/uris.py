"""Tracking URIs: made absolute, and the file of an SQLite database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pipeline.fields import Reader
from pipeline.paths import absolute_path

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""The databases that MLflow can use without a server of its own."""

SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(file:)?([^?]*)(\?.*)?", re.DOTALL)
FILE = re.compile(r"(file:(?://(?=/|~))?)(.*)", re.DOTALL)


def absolute_uri(tracking_uri: str) -> str:
    """Make the path of an SQLite or file URI absolute, for processes with another working directory; `~` is the home.

    Other URIs, and SQLite databases in memory, are returned as they are.
    """
    if parts := SQLITE.fullmatch(tracking_uri):
        scheme, prefix, path, options = parts.groups(default="")
        return f"{scheme}{prefix}{absolute_path(path)}{options}" if is_sqlite_file(path) else tracking_uri
    if parts := FILE.fullmatch(tracking_uri):
        scheme, path = parts.groups()
        return f"{scheme}{absolute_path(path)}" if not path.startswith("//") else tracking_uri
    return tracking_uri


def is_http(tracking_uri: str) -> bool:
    """Whether a URI names a server, rather than a database."""
    return tracking_uri.startswith(("http://", "https://"))


def is_database(tracking_uri: str) -> bool:
    """Whether a URI names a database."""
    return tracking_uri.partition(":")[0].partition("+")[0] in DATABASES


def sqlite_file(tracking_uri: str) -> Path | None:
    """The absolute path of the file of an SQLite URI; None for another URI, and for a database in memory."""
    parts = SQLITE.fullmatch(absolute_uri(tracking_uri))
    return Path(parts[3]) if parts is not None and is_sqlite_file(parts[3]) else None


def is_sqlite_file(path: str) -> bool:
    """Whether the path of an SQLite URI names a file; without one, SQLite keeps the database in memory."""
    return path not in ("", ":memory:")


def _given_uri(text: str) -> str:
    if not text:  # such as that of an unset variable of the shell
        raise ValueError
    return absolute_uri(text)


TrackingUri = Annotated[str, Reader(_given_uri, "a database or server of MLflow")]
"""Type of a flag: an MLflow server or database, with an absolute path."""
