"""Measure the speed of each stage against a bare loop and other libraries, or what ways to train are worth.

    bonafide benchmark ingest
    bonafide benchmark loader
    bonafide benchmark train
    bonafide benchmark score
    bonafide benchmark evaluate
    bonafide benchmark learning --learning.out results

Prints the machine, library versions, speeds and ratios to the bare loop. Ratios can be compared between machines;
speeds cannot.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jobs.benchmarks import evaluate, ingest, learning, loader, score, train
from jobs.benchmarks.table import machine, show
from pipeline.config import run


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure, and the settings of each benchmark."""

    benchmark: Literal["ingest", "loader", "train", "score", "evaluate", "learning"] = "ingest"
    """Benchmark to run."""
    ingest: ingest.IngestBenchmark = field(default_factory=ingest.IngestBenchmark)
    loader: loader.LoaderBenchmark = field(default_factory=loader.LoaderBenchmark)
    train: train.TrainBenchmark = field(default_factory=train.TrainBenchmark)
    score: score.ScoreBenchmark = field(default_factory=score.ScoreBenchmark)
    evaluate: evaluate.EvaluateBenchmark = field(default_factory=evaluate.EvaluateBenchmark)
    learning: learning.LearningBenchmark = field(default_factory=learning.LearningBenchmark)


def main(config: BenchmarkConfig) -> None:
    """Run one benchmark and print its table."""
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="bonafide-benchmark-") as folder:
        benchmarks = {
            "ingest": lambda: ingest.measure(config.ingest, Path(folder)),
            "loader": lambda: loader.measure(config.loader, Path(folder)),
            "train": lambda: train.measure(config.train),
            "score": lambda: score.measure(config.score, Path(folder)),
            "evaluate": lambda: evaluate.measure(config.evaluate),
            "learning": lambda: learning.measure(config.learning, Path(folder)),
        }
        show(benchmarks[config.benchmark]())


if __name__ == "__main__":
    sys.exit(run(main))
