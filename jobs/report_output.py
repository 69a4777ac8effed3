"""Writes a report where its user looks for it: to its folder, to MLflow, and its warnings to the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from pipeline import tracking
from pipeline.config import to_dict, to_toml
from pipeline.storage import Folder


class ReportConfig(Protocol):
    """The settings that every command with a report has."""

    @property
    def out(self) -> str:
        """The folder of the report."""

    @property
    def tracking_uri(self) -> str:
        """MLflow server or database; empty: no tracking."""

    @property
    def experiment(self) -> str:
        """MLflow experiment."""


class LogToMlflow(Protocol):
    """Logs a report to MLflow runs, and returns their URLs."""

    def __call__(
        self, files: Mapping[str, bytes], *, uri: str, experiment: str, settings: Mapping[str, Any]
    ) -> Iterable[str]: ...


def settings_file(config: ReportConfig) -> bytes:
    """The settings of a command as TOML, without credentials."""
    return tracking.without_credentials(to_toml(config)).encode()


def publish(
    config: ReportConfig, files: Mapping[str, bytes], warnings: Sequence[str], log: LogToMlflow
) -> None:
    """Write the files of a report, log them to MLflow, and print the URLs of the runs and the warnings.

    Args:
        config: settings of the command.
        files: file name → content.
        warnings: what limits the report.
        log: logs this report.
    """
    out = Folder(config.out)
    for name, data in files.items():
        out.commit(name, data)
    for url in log(files, uri=config.tracking_uri, experiment=config.experiment, settings=to_dict(config)):
        print(f"MLflow: {url}")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
