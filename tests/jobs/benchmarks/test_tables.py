"""Benchmarks run, on very little."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from jobs.benchmarks import train
from jobs.benchmarks.loader import LoaderBenchmark, measure
from pipeline.config import Names
from pipeline.data.loading.augment import AUGMENTATIONS
from pipeline.errors import InputError


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset never closes a tar
def test_the_loader_is_measured_beside_its_peers(tmp_path: Path) -> None:
    config = LoaderBenchmark(num_utterances=64, rounds=1, audio_per_s=100_000.0, plan_rows=20_000)
    lines = {line.name: f"{line.value} {line.against}" for line in measure(config, tmp_path)}
    gc.collect()
    for name in (
        "bare loop, 1 processes",
        "loader, 0 workers",
        "webdataset, 0 workers",
        "DataLoader, 0 workers",
    ):
        assert int(lines[name].partition(" ")[0]) > 100  # × real time: one that decodes nothing would show
    assert {"loader, 2 workers", "waiting, 2 workers", "random access", "plan of 20,000"} <= lines.keys()
    assert lines.keys() >= set(AUGMENTATIONS)


def test_a_training_step_is_measured_beside_transformers() -> None:
    config = train.TrainBenchmark(
        variant="tiny", precisions=Names(["fp32"]), seconds=0.2, num_steps=1, ranks_variant=""
    )
    ours, theirs, memory = train.measure(config)
    assert "s of audio/s" in ours.value
    assert "by processor time" in theirs.against
    assert "GiB" in memory.value


def test_what_cannot_be_trained_is_named() -> None:
    with pytest.raises(InputError, match="unknown variant 'huge'"):
        list(train.measure(train.TrainBenchmark(variant="huge")))
