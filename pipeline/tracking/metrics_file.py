"""The file of metrics beside a run: one JSON object a line, `{"time": …, "step": …, NAME: VALUE …}`.

A process that is killed, a full disk or a loss of power leaves a line that is cut short, or zeros where a line was.
Readers skip such lines.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Report:
    """The metrics of one line."""

    time_s: float
    """Seconds since the epoch."""
    step: int | None
    metrics: Mapping[str, float]


def append(file: Path, metrics: Mapping[str, float], step: int | None) -> None:
    """Add a line."""
    line = json.dumps({"time": time.time(), "step": step, **metrics})
    with file.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def read(data: bytes) -> Iterator[Report]:
    """Read the whole lines of a file in order; a last one without its end is still being written."""
    for line in data.split(b"\n")[:-1]:
        report = _parse(line.strip(b"\0"))
        if report is not None:
            yield report


def drop_cut_line(file: Path) -> None:
    """Remove a last line without its end, to which the next one would be added."""
    data = file.read_bytes() if file.exists() else b""
    if data and not data.endswith(b"\n"):
        os.truncate(file, data.rfind(b"\n") + 1)


def _parse(line: bytes) -> Report | None:
    try:
        fields: dict[str, Any] = json.loads(line)
        time_s, step = float(fields.pop("time", 0.0)), fields.pop("step")
        metrics = {name: float(value) for name, value in fields.items()}
        return Report(time_s, None if step is None else int(step), metrics)
    except (ValueError, TypeError, KeyError, AttributeError):  # not JSON, or JSON of another form
        return None
