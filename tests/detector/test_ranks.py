"""The training loop on three gloo ranks, launched once for all tests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pipeline.detector.config import EmaConfig, LossConfig, TrainingConfig
from pipeline.detector.network import DetectorConfig
from pipeline.detector.ranks import run_ranks
from pipeline.detector.state import TrainingProgress, TrainingState
from pipeline.detector.training import train
from tests.detector.toys import (
    NUM_BATCHES,
    TOY,
    TOY_DETECTOR,
    TOY_GROUPS,
    Log,
    ToyBatch,
    assert_same_weights,
    toy_batch,
    toy_config,
    toy_detector,
    toy_frame_batch,
)

WORLD = 3
NO_DROPOUT = DetectorConfig(replace(TOY, dropout=0.0, input_dropout=0.0))
FRAMED = toy_config(3, loss=LossConfig(frame_weight=0.7), checkpoint_every=2)
Results = dict[str, Any]


def rank_batches(epoch: int, first: int) -> Iterator[ToyBatch]:
    for batch in range(first + dist.get_rank(), NUM_BATCHES // WORLD * WORLD, WORLD):
        yield toy_batch(epoch, batch)


def rank_frame_batches(epoch: int, first: int) -> Iterator[ToyBatch]:
    for batch in range(first + dist.get_rank(), NUM_BATCHES // WORLD * WORLD, WORLD):
        yield toy_frame_batch(epoch, batch)


def rank_validation() -> Iterator[ToyBatch]:
    for batch in range(dist.get_rank(), 4, WORLD):  # unequal shares
        yield toy_batch(99, batch)


def poisoned_on_rank_1(epoch: int, first: int) -> Iterator[ToyBatch]:
    for batch in rank_batches(epoch, first):
        if dist.get_rank() == 1 and epoch == 0 and first == 0 and batch.uid[0] == "0-1-0":
            batch.waveform[0, 0] = math.nan
        yield batch


def run(
    config: TrainingConfig,
    batches: Any = rank_batches,
    state: TrainingState | None = None,
    stop_after: int = 99,
    detector_config: DetectorConfig = TOY_DETECTOR,
) -> Results:
    detector, log = toy_detector(detector_config), Log()
    calls = iter(range(1, 100))
    progress: TrainingProgress = train(
        detector,
        batches,
        config,
        log,
        validation_batches=rank_validation,
        group_of=TOY_GROUPS,
        state=state,
        print_now=log_line,
        should_stop=lambda: next(calls) >= stop_after,
    )
    frame_losses = [
        metrics["train/frame_loss"] for metrics in log.metrics.values() if "train/frame_loss" in metrics
    ]
    return {
        "frame_losses": frame_losses,
        "weights": detector.state_dict(),
        "losses": log.losses,
        "eer": log.metrics[progress.step].get("validation/eer"),
        "states": log.states,
        "position": (progress.epoch, progress.batch, progress.world),
        "skipped": (progress.num_skipped, progress.skipped_uids),
        "interrupted_at": progress.step if progress.is_interrupted else None,
    }


def log_line(line: str) -> None:
    assert dist.get_rank() == 0, f"rank {dist.get_rank()} printed: {line}"


def one_rank(folder: Path) -> None:
    rank = dist.get_rank()
    config = toy_config(10, ema=EmaConfig(0.9))
    framed = run(FRAMED, rank_frame_batches, detector_config=NO_DROPOUT)
    uninterrupted = run(config)
    results = {
        "uninterrupted": uninterrupted,
        "resumed": run(config, state=uninterrupted["states"][5]),
        "poisoned": run(config, poisoned_on_rank_1),
        "interrupted": run(config, stop_after=3 if rank == 1 else 99),
        "accumulated": run(replace(config, num_accumulated=2)),
        "framed": framed,
        "framed and resumed": run(
            FRAMED, rank_frame_batches, framed["states"][2], detector_config=NO_DROPOUT
        ),
    }
    torch.save(results, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Mapping[str, Results]]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(one_rank, (folder,), WORLD)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def test_all_ranks_end_with_the_same_weights(ranks: list[Mapping[str, Results]]) -> None:
    for name in ranks[0]:
        for other in ranks[1:]:
            assert_same_weights(ranks[0][name]["weights"], other[name]["weights"])


def test_three_ranks_resume_bit_for_bit(ranks: list[Mapping[str, Results]]) -> None:
    uninterrupted, resumed = ranks[0]["uninterrupted"], ranks[0]["resumed"]
    assert_same_weights(uninterrupted["weights"], resumed["weights"])
    assert_same_weights(uninterrupted["states"][10]["average"], resumed["states"][10]["average"])
    assert resumed["losses"] == {step: loss for step, loss in uninterrupted["losses"].items() if step > 5}
    assert uninterrupted["position"] == resumed["position"] == (4, 6, WORLD)


def test_every_rank_reports_the_eer_and_loss_of_all_ranks(ranks: list[Mapping[str, Results]]) -> None:
    assert len({rank["uninterrupted"]["eer"] for rank in ranks}) == 1
    assert {rank["uninterrupted"]["losses"][10] for rank in ranks} == {
        ranks[0]["uninterrupted"]["losses"][10]
    }


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all(ranks: list[Mapping[str, Results]]) -> None:
    bad = tuple(f"0-1-{row}" for row in range(8))
    for rank in ranks:
        assert rank["poisoned"]["skipped"] == (1, bad)
        assert all(torch.isfinite(weight).all() for weight in rank["poisoned"]["weights"].values())


def test_a_stop_request_on_one_rank_stops_all(ranks: list[Mapping[str, Results]]) -> None:
    assert [rank["interrupted"]["interrupted_at"] for rank in ranks] == [3] * WORLD
    assert 3 in ranks[0]["interrupted"]["states"]


def test_accumulating_two_batches_takes_twice_the_batches(ranks: list[Mapping[str, Results]]) -> None:
    assert ranks[0]["accumulated"]["position"] == (9, 6, WORLD)
    assert ranks[0]["accumulated"]["losses"] != ranks[0]["uninterrupted"]["losses"]


def test_ranks_train_on_frames_as_one_rank_does_that_takes_all_their_batches(
    ranks: list[Mapping[str, Results]],
) -> None:
    def batches(epoch: int, first: int) -> Iterator[ToyBatch]:
        return (toy_frame_batch(epoch, batch) for batch in range(first, NUM_BATCHES // WORLD * WORLD))

    torch.set_num_threads(1)
    detector, log = toy_detector(NO_DROPOUT), Log()
    train(detector, batches, replace(FRAMED, num_accumulated=WORLD), log)
    framed = ranks[0]["framed"]
    for name, weight in detector.state_dict().items():
        torch.testing.assert_close(framed["weights"][name], weight, atol=2e-4, rtol=0)
    alone = [metrics["train/frame_loss"] for metrics in log.metrics.values()]
    assert framed["frame_losses"] == pytest.approx(alone, rel=1e-4)
    assert_same_weights(framed["weights"], ranks[0]["framed and resumed"]["weights"])
