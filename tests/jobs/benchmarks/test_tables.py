"""Benchmarks run on very little data."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from jobs.benchmarks import evaluate, score, train
from jobs.benchmarks.loader import LoaderBenchmark, measure
from jobs.benchmarks.noise_store import make_store
from jobs.benchmarks.peers import planned_batches
from pipeline.data.loading.augment.composition import AUGMENTATIONS
from pipeline.data.loading.batches import TrainingBatches
from pipeline.data.loading.buckets import BatchConfig
from pipeline.errors import InputError
from pipeline.fields import Names


def test_the_dataloader_rival_reads_the_same_batches_as_our_loader(tmp_path: Path) -> None:
    store, index = make_store(64, tmp_path)
    training = TrainingBatches(store, index, BatchConfig(max_seconds=30), num_workers=0)
    ours = [(batch.waveform, batch.num_samples) for batch in training(0)]
    theirs = list(planned_batches(training, num_workers=2))
    assert len(ours) == len(theirs) > 5
    for (waveform, num_samples), (their_waveform, their_num_samples) in zip(ours, theirs, strict=True):
        assert torch.equal(waveform, their_waveform)
        assert torch.equal(num_samples, their_num_samples)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset never closes a tar
def test_the_loader_is_measured_against_its_peers(tmp_path: Path) -> None:
    config = LoaderBenchmark(num_utterances=64, rounds=1, audio_per_s=100_000.0, plan_rows=20_000)
    lines = {line.name: f"{line.value} {line.against}" for line in measure(config, tmp_path)}
    gc.collect()
    for name in (
        "bare loop, 1 processes",
        "loader, 0 workers",
        "webdataset, 0 workers",
        "DataLoader over loose files, 0 workers",
    ):
        assert int(lines[name].partition(" ")[0]) > 1  # × real time; a thousand on an idle machine
    rival = "our plan and reader in torch's DataLoader, 2 workers"
    assert {rival, f"waiting: {rival}", "loader, 2 workers", "waiting: loader, 2 workers"} <= lines.keys()
    assert {"random access", "plan of 20,000"} <= lines.keys()
    assert lines.keys() >= set(AUGMENTATIONS)


def test_a_training_step_is_measured_against_transformers() -> None:
    config = train.TrainBenchmark(
        variant="tiny", precisions=Names(["fp32"]), seconds=0.2, num_steps=1, ranks_variant=""
    )
    ours, theirs, memory = train.measure(config)
    assert "s of audio/s" in ours.value
    assert "by processor time" in theirs.against
    assert "GiB" in memory.value


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_scoring_is_measured_beside_bare_loops(tmp_path: Path, cluster: None) -> None:
    config = score.ScoreBenchmark(variant="tiny", minutes=0.1, max_s=3.0, rounds=1)
    lines = {line.name: f"{line.value} {line.against}" for line in score.measure(config, tmp_path)}
    bare = {name: text for name, text in lines.items() if name.startswith("bare loop")}
    assert len(bare) >= 3 and sum("time the fastest" in text for text in bare.values()) == 1
    for precision in ("fp32", "bf16"):
        assert "of the fastest bare loop" in lines[f"bonafide score, {precision}"]
        assert "% of large matrix products alone" in lines[f"operations, {precision}"]
    assert {"decoding", "scores in bf16"} <= lines.keys()


def test_metrics_are_measured_beside_a_sort_and_resamples_that_are_sorted() -> None:
    config = evaluate.EvaluateBenchmark(
        num_eer=1000, num_trials=1000, num_clusters=50, num_resamples=20, num_frames=1000
    )
    lines = {line.name: f"{line.value} {line.against}" for line in evaluate.measure(config)}
    assert "× the sort" in lines["EER"] and "MiB above the arrays" in lines["EER"]
    assert "× a sort of their scores" in lines["EER by duration of 1,000 frames"]
    for title in ("EER", "all metrics"):
        assert "× as fast" in lines[f"bootstrap of two systems, {title}"]


def test_an_unknown_variant_is_an_error_that_names_it() -> None:
    with pytest.raises(InputError, match="unknown variant 'huge'"):
        list(train.measure(train.TrainBenchmark(variant="huge")))
