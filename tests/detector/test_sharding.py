"""Two ranks with FSDP against two with DDP and one alone, launched once for all tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from pipeline.detector.config import LoraConfig, LossConfig, TrainingConfig
from pipeline.detector.ranks import run_ranks
from pipeline.detector.state import TrainingState
from pipeline.detector.training import train
from pipeline.detector.variants import DetectorConfig, HeadConfig
from tests.detector.toys import (
    NUM_BATCHES,
    TOY,
    TOY_DETECTOR,
    Log,
    ToyBatch,
    assert_same_weights,
    toy_batch,
    toy_config,
    toy_detector,
)

WORLD = 2
MHFA = DetectorConfig(TOY, HeadConfig("mhfa", num_heads=2, compression_width=16, embedding_width=16))
Results = dict[str, Any]
NUM_STEPS, MIDDLE = 4, 2


def shared_batches(epoch: int, first: int) -> Iterator[ToyBatch]:
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for batch in range(first + rank, NUM_BATCHES // WORLD * WORLD, world):
        yield toy_batch(epoch, batch)


def unequal_validation() -> Iterator[ToyBatch]:
    """Yield three batches on the first rank and one on the second."""
    for batch in range(4):
        if not dist.is_initialized() or (batch == 3) == (dist.get_rank() == 1):
            yield toy_batch(99, batch)


def run(
    config: TrainingConfig, state: TrainingState | None = None, detector_config: DetectorConfig = TOY_DETECTOR
) -> Results:
    detector, log = toy_detector(detector_config), Log()
    module: Any
    for module in detector.modules():  # dropout masks differ between ranks
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    detector.front_end.input_dropout = 0.0
    train(
        detector,
        shared_batches,
        config,
        log,
        validation_batches=unequal_validation,
        state=state,
        print_now=lambda _: None,
    )
    return {
        "losses": log.losses,
        "eers": {
            step: metrics["validation/eer"]
            for step, metrics in log.metrics.items()
            if "validation/eer" in metrics
        },
        "states": log.states,
        "num_local": sum(
            (weight.to_local() if isinstance(weight, DTensor) else weight).numel()
            for weight in detector.parameters()
        ),
    }


def settings(**changes: Any) -> TrainingConfig:
    return replace(toy_config(NUM_STEPS, validate_every=MIDDLE, checkpoint_every=MIDDLE), **changes)


def one_rank(folder: Path) -> None:
    rank = dist.get_rank()
    alone = torch.load(folder / "alone.pt", weights_only=True) if rank == 0 else None
    sharded = settings(strategy="fsdp")
    oc_softmax = replace(sharded, loss=LossConfig(name="oc_softmax"))
    ddp, fsdp, centred = run(settings()), run(sharded), run(oc_softmax)
    half = replace(sharded, precision="bf16", activation_checkpointing=True)
    lora = LoraConfig(rank=4, alpha=32.0)
    adapted = run(replace(sharded, lora=lora), detector_config=MHFA)
    results = {
        "ddp": ddp,
        "fsdp": fsdp,
        "fsdp resumed": run(sharded, fsdp["states"][MIDDLE]),
        "ddp from fsdp": run(settings(), fsdp["states"][MIDDLE]),
        "fsdp from ddp": run(sharded, ddp["states"][MIDDLE]),
        "fsdp from one": run(sharded, alone),
        "fsdp accumulated": run(replace(sharded, num_accumulated=2)),
        "ddp accumulated": run(settings(num_accumulated=2)),
        "fsdp clipped": run(
            replace(sharded, optimiser=replace(sharded.optimiser, clip_norm=0.05, epsilon=1.0))
        ),
        "ddp clipped": run(settings(optimiser=replace(sharded.optimiser, clip_norm=0.05, epsilon=1.0))),
        "fsdp oc_softmax": centred,
        "fsdp oc_softmax resumed": run(oc_softmax, centred["states"][MIDDLE]),
        "ddp oc_softmax": run(settings(loss=oc_softmax.loss)),
        "fsdp adapted": adapted,
        "fsdp adapted resumed": run(replace(sharded, lora=lora), adapted["states"][MIDDLE], MHFA),
        "ddp adapted": run(settings(lora=lora), detector_config=MHFA),
        "ddp adapted from fsdp": run(settings(lora=lora), adapted["states"][MIDDLE], MHFA),
        "fsdp adapted bf16": run(replace(half, lora=lora), detector_config=MHFA),
        "fsdp mhfa": run(sharded, detector_config=MHFA),
        "ddp mhfa": run(settings(), detector_config=MHFA),
        "fsdp bf16": run(half),
        "ddp bf16": run(settings(precision="bf16")),
        "fsdp fp16": run(replace(sharded, precision="fp16")),
    }
    torch.save(results, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def alone() -> Results:
    torch.set_num_threads(1)
    return run(settings())


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, alone: Results) -> list[Mapping[str, Results]]:
    folder = tmp_path_factory.mktemp("sharding")
    torch.save(alone["states"][MIDDLE], folder / "alone.pt")
    run_ranks(one_rank, (folder,), WORLD)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def test_a_sharded_training_matches_the_replicated_one(ranks: list[Mapping[str, Results]]) -> None:
    ddp, fsdp = ranks[0]["ddp"], ranks[0]["fsdp"]
    assert fsdp["losses"] == pytest.approx(ddp["losses"], abs=1e-5)
    assert fsdp["eers"] == ddp["eers"]
    for name, weight in ddp["states"][NUM_STEPS]["detector"].items():
        torch.testing.assert_close(fsdp["states"][NUM_STEPS]["detector"][name], weight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["accumulated", "clipped", "oc_softmax", "mhfa", "adapted"])
def test_sharded_and_replicated_losses_agree(ranks: list[Mapping[str, Results]], kind: str) -> None:
    assert ranks[0][f"fsdp {kind}"]["losses"] == pytest.approx(ranks[0][f"ddp {kind}"]["losses"], abs=1e-4)


def test_each_rank_holds_a_shard_of_the_weights(ranks: list[Mapping[str, Results]]) -> None:
    shares = [rank["fsdp"]["num_local"] for rank in ranks]
    assert sum(shares) == ranks[0]["ddp"]["num_local"]
    assert max(shares) < 0.6 * sum(shares)


@pytest.mark.parametrize("kind", ["fsdp", "fsdp oc_softmax", "fsdp adapted"])
def test_a_sharded_training_resumes_bit_for_bit(ranks: list[Mapping[str, Results]], kind: str) -> None:
    uninterrupted, resumed = ranks[0][kind], ranks[0][f"{kind} resumed"]
    assert resumed["losses"] == {
        step: loss for step, loss in uninterrupted["losses"].items() if step > MIDDLE
    }
    for part in ("detector", "loss"):
        assert_same_weights(uninterrupted["states"][NUM_STEPS][part], resumed["states"][NUM_STEPS][part])


def test_a_checkpoint_has_full_tensors_and_does_not_depend_on_the_ranks(
    ranks: list[Mapping[str, Results]], alone: Results
) -> None:
    expected = alone["states"][MIDDLE]
    for kind in ("ddp", "fsdp"):
        state = ranks[0][kind]["states"][MIDDLE]
        for part in ("detector", "loss"):
            assert {name: weight.shape for name, weight in state[part].items()} == {
                name: weight.shape for name, weight in expected[part].items()
            }
        assert state["optimiser"].keys() == expected["optimiser"].keys() == expected["detector"].keys()
        for name, moments in state["optimiser"].items():
            assert moments["exp_avg"].shape == state["detector"][name].shape
        assert not ranks[1][kind]["states"][MIDDLE]["detector"]


@pytest.mark.parametrize(
    ("kind", "like"),
    [("ddp from fsdp", "ddp"), ("fsdp from ddp", "ddp"), ("ddp adapted from fsdp", "ddp adapted")],
)
def test_sharded_and_replicated_trainings_resume_from_each_other(
    ranks: list[Mapping[str, Results]], kind: str, like: str
) -> None:
    expected = {step: loss for step, loss in ranks[0][like]["losses"].items() if step > MIDDLE}
    assert ranks[0][kind]["losses"] == pytest.approx(expected, abs=1e-4)


def test_two_ranks_resume_from_one_and_one_from_two(
    ranks: list[Mapping[str, Results]], alone: Results
) -> None:
    assert min(ranks[0]["fsdp from one"]["losses"]) == MIDDLE + 1
    resumed = run(settings(), ranks[0]["fsdp"]["states"][MIDDLE])
    assert min(resumed["losses"]) == MIDDLE + 1
    assert resumed["losses"][NUM_STEPS] < alone["losses"][1]


def test_sharded_weights_are_float32_in_half_precision(ranks: list[Mapping[str, Results]]) -> None:
    for kind in ("fsdp bf16", "fsdp fp16"):
        assert {w.dtype for w in ranks[0][kind]["states"][NUM_STEPS]["detector"].values()} == {torch.float32}
    assert ranks[0]["fsdp bf16"]["losses"] == pytest.approx(ranks[0]["ddp bf16"]["losses"], abs=0.02)
    assert ranks[0]["fsdp fp16"]["losses"] == pytest.approx(ranks[0]["ddp"]["losses"], abs=0.02)


def test_sharded_and_replicated_adapters_agree(ranks: list[Mapping[str, Results]]) -> None:
    ddp, fsdp, half = (ranks[0][f"{kind}"] for kind in ("ddp adapted", "fsdp adapted", "fsdp adapted bf16"))
    assert fsdp["eers"] == ddp["eers"]
    assert half["losses"] == pytest.approx(ddp["losses"], abs=0.02)
    start = toy_detector(MHFA).state_dict()
    for name, weight in ddp["states"][NUM_STEPS]["detector"].items():
        torch.testing.assert_close(fsdp["states"][NUM_STEPS]["detector"][name], weight, atol=1e-4, rtol=0)
        is_frozen = name.startswith("m_ssl.") and name in start
        assert is_frozen == (name not in ddp["states"][NUM_STEPS]["optimiser"])
        assert not is_frozen or torch.equal(weight, start[name])


def test_ranks_with_unequal_validation_batches_agree(ranks: list[Mapping[str, Results]]) -> None:
    for kind in ("ddp", "fsdp", "fsdp bf16"):
        assert ranks[0][kind]["eers"] == ranks[1][kind]["eers"]
