"""Measure bonafide against the bare loop and its peers, in one run on one machine.

    bonafide benchmark ingest
    bonafide benchmark loader
    bonafide benchmark train

Prints the machine, the versions and ratios: a ratio to the bare loop travels between machines, a speed does not.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jobs.benchmarks import ingest, loader, train
from jobs.benchmarks.table import machine, show
from pipeline.config import run


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure, on how much."""

    what: Literal["ingest", "loader", "train"] = "ingest"
    """What to measure."""
    ingest: ingest.IngestBenchmark = field(default_factory=ingest.IngestBenchmark)
    loader: loader.LoaderBenchmark = field(default_factory=loader.LoaderBenchmark)
    train: train.TrainBenchmark = field(default_factory=train.TrainBenchmark)


def main(config: BenchmarkConfig) -> None:
    """Run one benchmark and print its table."""
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="bonafide-benchmark-") as folder:
        measured = {
            "ingest": lambda: ingest.measure(config.ingest, Path(folder)),
            "loader": lambda: loader.measure(config.loader, Path(folder)),
            "train": lambda: train.measure(config.train),
        }
        show(measured[config.what]())


if __name__ == "__main__":
    sys.exit(run(main))
