"""Every command that tracks refuses a tracking URI that cannot be used before it does anything else."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest

from jobs.__main__ import commands, run_command
from pipeline.config import config_class

ARGUMENTS = {
    "ingest": "--root data --store store",
    "train": "--store store --out run",
    "score": "--store store --checkpoint detector.safetensors --out scores",
    "evaluate": "--scores scores --out report",
    "calibrate": "--scores scores --out calibration.json",
    "drift": "--reference reference.parquet --new scores --out drift",
    "trace": "--gallery scores --new new --out trace",
}


def test_every_command_that_tracks_is_listed() -> None:
    configs = {name: config_class(importlib.import_module(f"jobs.{name}").main) for name in commands()}
    tracking = {
        name
        for name, config in configs.items()
        if "tracking_uri" in {field.name for field in dataclasses.fields(config)}
    }
    assert tracking == ARGUMENTS.keys()


@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_tracking_uri_that_cannot_be_used_is_refused_first(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*ARGUMENTS[command].split(), "--tracking-uri", "sqlite:///"]
    assert run_command(command, arguments) == 2
    assert capsys.readouterr().err == (
        f"bonafide {command}: sqlite:///: names no file, so what is tracked would be lost; "
        "write sqlite:////path/mlflow.db\n"
    )
    assert list(tmp_path.iterdir()) == []
