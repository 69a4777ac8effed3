"""Two ranks with FSDP against two with DDP and one alone, launched once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from pipeline.detector.config import EmaConfig, LoraConfig, LossConfig, TrainingConfig
from pipeline.detector.meter import Meter, StepRequests
from pipeline.detector.ranks import run_ranks
from pipeline.detector.state import TrainingProgress, TrainingState
from pipeline.detector.trainer import Trainer
from pipeline.detector.training import train
from pipeline.detector.variants import DetectorConfig, HeadConfig
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

WORLD = 2
MHFA = DetectorConfig(TOY, HeadConfig("mhfa", num_heads=2, compression_width=16, embedding_width=16))
Results = dict[str, Any]
NUM_STEPS, MIDDLE = 4, 2


def shared_batches(
    epoch: int, first: int, make: Callable[[int, int], ToyBatch] = toy_batch
) -> Iterator[ToyBatch]:
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for batch in range(first + rank, NUM_BATCHES // WORLD * WORLD, world):
        yield make(epoch, batch)


def unequal_validation(make: Callable[[int, int], ToyBatch] = toy_batch) -> Iterator[ToyBatch]:
    """Yield three batches on the first rank and one on the second."""
    for batch in range(4):
        if not dist.is_initialized() or (batch == 3) == (dist.get_rank() == 1):
            yield make(99, batch)


def run(
    config: TrainingConfig, state: TrainingState | None = None, detector_config: DetectorConfig = TOY_DETECTOR
) -> Results:
    detector, log = toy_detector(detector_config), Log()
    module: Any
    for module in detector.modules():  # dropout masks differ between ranks
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    detector.front_end.input_dropout = 0.0
    make = toy_frame_batch if config.loss.frame_weight else toy_batch
    train(
        detector,
        partial(shared_batches, make=make),
        config,
        log,
        validation_batches=partial(unequal_validation, make),
        group_of=TOY_GROUPS,
        state=state,
        print_now=lambda _: None,
    )
    return {
        "losses": log.losses,
        "eers": {
            (step, name): rate
            for step, metrics in log.metrics.items()
            for name, rate in metrics.items()
            if name in ("validation/eer", "validation/ema/eer", "validation/frame_eer")
        },
        "states": log.states,
        "num_local": sum(
            (weight.to_local() if isinstance(weight, DTensor) else weight).numel()
            for weight in detector.parameters()
        ),
    }


def settings(**changes: Any) -> TrainingConfig:
    """A config that validates the weights and their average twice."""
    config = toy_config(NUM_STEPS, validate_every=MIDDLE, checkpoint_every=MIDDLE, ema=EmaConfig(decay=0.9))
    return replace(config, **changes)


def one_rank(folder: Path) -> None:
    rank = dist.get_rank()
    alone = torch.load(folder / "alone.pt", weights_only=True) if rank == 0 else None
    sharded = settings(strategy="fsdp")
    oc_softmax = replace(sharded, loss=LossConfig(name="oc_softmax"))
    accuracy = replace(sharded, loss=LossConfig(name="expected_accuracy", beta=1.0))
    ddp, fsdp, centred = run(settings()), run(sharded), run(oc_softmax)
    anchored = run(accuracy)
    frames = replace(sharded, loss=LossConfig(frame_weight=0.7))
    framed = run(frames)
    half = replace(sharded, precision="bf16", activation_checkpointing=True)
    lora = LoraConfig(rank=4, alpha=32.0)
    adapted = run(replace(sharded, lora=lora), detector_config=MHFA)
    results = {
        "ddp": ddp,
        "fsdp": fsdp,
        "ddp averaged": run(settings(checkpoint_every=1)),
        "fsdp averaged": run(replace(sharded, checkpoint_every=1)),
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
        "fsdp expected_accuracy": anchored,
        "fsdp expected_accuracy resumed": run(accuracy, anchored["states"][MIDDLE]),
        "ddp expected_accuracy": run(settings(loss=accuracy.loss)),
        "fsdp bf16 expected_accuracy": run(replace(accuracy, precision="bf16")),
        "fsdp frames": framed,
        "fsdp frames resumed": run(frames, framed["states"][MIDDLE]),
        "ddp frames": run(settings(loss=frames.loss)),
        "frozen": frozen(accuracy),
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


def frozen(config: TrainingConfig) -> Results:
    """How much of the frozen detector a rank holds, and what FSDP notes of its forward passes."""
    trainer = Trainer(toy_detector(), shared_batches, config)
    for _ in range(3):
        trainer.step(TrainingProgress(), Meter(WORLD, trainer.device, config), StepRequests())
    reference: Any = trainer.reference
    weights = {name: weight.full_tensor() for name, weight in reference.named_parameters()}
    return {
        "num_local": sum(weight.to_local().numel() for weight in reference.parameters()),
        "num_full": sum(weight.numel() for weight in reference.parameters()),
        "num_noted": len(reference._get_fsdp_state()._comm_ctx.post_forward_order),
        "weights": weights,
    }


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
    assert fsdp["eers"].keys() == {
        (step, f"validation/{weights}eer") for step in (MIDDLE, NUM_STEPS) for weights in ("", "ema/")
    }
    for part in ("detector", "average"):
        for name, weight in ddp["states"][NUM_STEPS][part].items():
            torch.testing.assert_close(fsdp["states"][NUM_STEPS][part][name], weight, atol=1e-4, rtol=0)


def test_the_average_of_all_ranks_is_that_of_the_weights_before(ranks: list[Mapping[str, Results]]) -> None:
    for kind in ("ddp", "fsdp"):
        states = ranks[0][f"{kind} averaged"]["states"]
        expected = {name: weight.clone() for name, weight in toy_detector().state_dict().items()}
        for step in range(1, NUM_STEPS + 1):
            for name, weight in states[step]["detector"].items():
                decay = step / (9 + step)
                expected[name] = decay * expected[name] + (1 - decay) * weight
        for name, weight in states[NUM_STEPS]["average"].items():
            torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "kind", ["accumulated", "clipped", "oc_softmax", "expected_accuracy", "frames", "mhfa", "adapted"]
)
def test_sharded_and_replicated_losses_agree(ranks: list[Mapping[str, Results]], kind: str) -> None:
    assert ranks[0][f"fsdp {kind}"]["losses"] == pytest.approx(ranks[0][f"ddp {kind}"]["losses"], abs=1e-4)


def test_each_rank_holds_a_shard_of_the_weights(ranks: list[Mapping[str, Results]]) -> None:
    shares = [rank["fsdp"]["num_local"] for rank in ranks]
    assert sum(shares) == ranks[0]["ddp"]["num_local"]
    assert max(shares) < 0.6 * sum(shares)


def test_a_frozen_detector_is_sharded_and_keeps_the_weights_of_the_start(
    ranks: list[Mapping[str, Results]],
) -> None:
    for rank in ranks:
        frozen = rank["frozen"]
        assert frozen["num_local"] < 0.6 * frozen["num_full"]
        assert frozen["num_noted"] == 0
        assert_same_weights(frozen["weights"], toy_detector().state_dict())


@pytest.mark.parametrize(
    "kind", ["fsdp", "fsdp oc_softmax", "fsdp expected_accuracy", "fsdp frames", "fsdp adapted"]
)
def test_a_sharded_training_resumes_bit_for_bit(ranks: list[Mapping[str, Results]], kind: str) -> None:
    uninterrupted, resumed = ranks[0][kind], ranks[0][f"{kind} resumed"]
    assert resumed["losses"] == {
        step: loss for step, loss in uninterrupted["losses"].items() if step > MIDDLE
    }
    for part in ("detector", "average", "loss"):
        assert_same_weights(uninterrupted["states"][NUM_STEPS][part], resumed["states"][NUM_STEPS][part])


def test_a_checkpoint_has_full_tensors_and_does_not_depend_on_the_ranks(
    ranks: list[Mapping[str, Results]], alone: Results
) -> None:
    expected = alone["states"][MIDDLE]
    for kind in ("ddp", "fsdp"):
        state = ranks[0][kind]["states"][MIDDLE]
        for part in ("detector", "average", "loss"):
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
    half, full = (ranks[0][f"fsdp{kind} expected_accuracy"]["losses"] for kind in (" bf16", ""))
    assert half == pytest.approx(full, abs=0.05)
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
    for kind in ("ddp", "fsdp", "fsdp bf16", "fsdp frames"):
        assert ranks[0][kind]["eers"] == ranks[1][kind]["eers"]
    assert ranks[0]["fsdp frames"]["eers"] == ranks[0]["ddp frames"]["eers"]
    assert (NUM_STEPS, "validation/frame_eer") in ranks[0]["fsdp frames"]["eers"]
