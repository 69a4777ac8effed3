"""Low-rank adaptation: what is trained, what a checkpoint holds, and that an exported detector is an ordinary one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline.detector.checkpoint import load_detector, save_detector
from pipeline.detector.config import LoraConfig, LoraTargets, TrainingConfig
from pipeline.detector.dry_run import make_noise, prepare_dry_run
from pipeline.detector.lora import adapt
from pipeline.detector.network import Detector, DetectorConfig
from pipeline.detector.trainer import Trainer, compile_layers
from pipeline.detector.variants import VARIANTS, HeadConfig
from pipeline.errors import InputError
from tests.detector.toys import (
    FAMILIES,
    NUM_BATCHES,
    TOY,
    assert_same_weights,
    make_detector,
    run,
    toy_batch,
    toy_batches,
    toy_config,
    toy_detector,
    toy_validation,
)

LORA = LoraConfig(rank=4, alpha=8.0)
ADAPTERS = ("lora_a", "lora_b")


def settings(num_steps: int = 10, lora: LoraConfig = LORA, **changes: Any) -> TrainingConfig:
    return toy_config(num_steps, lora=lora, **changes)


def is_trained(name: str) -> bool:
    """Whether low-rank adaptation trains a tensor of a detector."""
    return not name.startswith("m_ssl.") or name.endswith(ADAPTERS)


def logits(detector: Detector) -> Tensor:
    batch = toy_batch(0, 0)
    with torch.no_grad():
        result: Tensor = detector.eval()(batch.waveform, batch.num_samples).logits
    return result


@pytest.fixture(scope="module")
def trained() -> Iterator[tuple[Detector, Mapping[int, Any]]]:
    detector, log, _ = run(settings(), validation_batches=toy_validation)
    yield detector, log.states


@pytest.mark.parametrize("family", FAMILIES)
def test_step_0_equals_the_start(family: str) -> None:
    detector = make_detector(VARIANTS[family])
    before = logits(detector)
    adapt(detector, LORA, seed=1)
    assert torch.equal(logits(detector), before)


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ("attention", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"}),
        ("feed_forward", {"fc1", "fc2"}),
    ],
)
def test_adapters_are_beside_the_matrices_of_every_layer(targets: LoraTargets, names: set[str]) -> None:
    detector = Detector(DetectorConfig(VARIANTS["tiny"]))
    before = set(detector.state_dict())
    adapt(detector, replace(LORA, targets=targets), seed=1)
    added = set(detector.state_dict()) - before
    assert added == {
        f"m_ssl.model.encoder.layers.{layer}.{name}.{adapter}"
        for layer in range(2)
        for name in names
        for adapter in ADAPTERS
    }
    assert before < set(detector.state_dict())


def test_only_the_adapters_and_the_head_are_trained(trained: tuple[Detector, Mapping[int, Any]]) -> None:
    detector, states = trained
    start = toy_detector().state_dict()
    for name, weight in detector.state_dict().items():
        assert name.endswith(ADAPTERS) or torch.equal(weight, start[name]) != is_trained(name)
    assert any(weight.abs().max() > 0 for name, weight in detector.state_dict().items() if "lora_b" in name)
    expected = {name for name in detector.state_dict() if is_trained(name)}
    assert states[10]["optimiser"].keys() == expected
    assert states[10]["detector"].keys() == detector.state_dict().keys()
    assert {name for name, weight in detector.named_parameters() if weight.grad is not None} == expected


def test_a_training_with_adapters_learns() -> None:
    _, log, _ = run(settings(42, LoraConfig(rank=8, alpha=64.0)))
    epochs = [sum(log.losses[step] for step in range(first, first + NUM_BATCHES)) for first in (1, 36)]
    assert epochs[1] < 0.8 * epochs[0]


def test_the_saved_detector_is_an_ordinary_one_with_the_same_logits(
    trained: tuple[Detector, Mapping[int, Any]], tmp_path: Path
) -> None:
    adapted, _ = trained
    before = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    save_detector(adapted, tmp_path / "x", {})
    loaded = load_detector(tmp_path / "x").detector
    assert loaded.state_dict().keys() == toy_detector().state_dict().keys()
    torch.testing.assert_close(logits(loaded), logits(adapted), atol=1e-5, rtol=0)
    start = toy_detector()
    start.head.load_state_dict(loaded.head.state_dict())
    assert (logits(start) - logits(loaded)).abs().max() > 1e-3, "adapters without effect would prove nothing"
    assert_same_weights(before, adapted.state_dict())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("head", [HeadConfig(), HeadConfig("mhfa", embedding_width=8)], ids=str)
def test_a_training_with_adapters_resumes_bit_for_bit(precision: str, head: HeadConfig) -> None:
    config, detector = settings(7, precision=precision), DetectorConfig(TOY, head)
    uninterrupted, log, _ = run(config, detector_config=detector)
    resumed, later, _ = run(config, detector_config=detector, state=log.states[5])
    assert_same_weights(uninterrupted.state_dict(), resumed.state_dict())
    assert later.losses == {step: loss for step, loss in log.losses.items() if step > 5}
    checkpointed, _, _ = run(replace(config, activation_checkpointing=True), detector_config=detector)
    assert_same_weights(uninterrupted.state_dict(), checkpointed.state_dict())


def test_adapters_do_not_depend_on_torchs_generator_but_on_the_seed() -> None:
    states = []
    for seed, state in ((1, 5), (1, 6), (2, 6)):
        torch.manual_seed(0)
        detector = Detector(DetectorConfig(TOY))
        torch.manual_seed(state)
        adapt(detector, LORA, seed)
        states.append({name: tensor for name, tensor in detector.state_dict().items() if "lora_a" in name})
    assert_same_weights(states[0], states[1])
    assert not any(torch.equal(tensor, states[2][name]) for name, tensor in states[0].items())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # raised by torch
def test_compiled_layers_give_the_adapters_the_same_gradients() -> None:
    batch, gradients = toy_batch(0, 0), []
    config = DetectorConfig(replace(VARIANTS["tiny"], num_layers=1), HeadConfig("mhfa", embedding_width=8))
    for is_compiled in (False, True):
        detector = make_detector(config).train()
        adapt(detector, LORA, seed=1)
        backend = CompileCounterWithBackend("aot_eager")
        if is_compiled:
            compile_layers(detector, backend)
        for length in (1600, 1400):
            output = detector(batch.waveform[:, :length], batch.num_samples.clamp(max=length))
            output.logits.square().sum().backward()
        gradients.append({name: w.grad for name, w in detector.named_parameters() if w.grad is not None})
    assert backend.frame_count <= 2
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    torch.compiler.reset()


def test_gradients_and_moments_exist_only_for_trained_weights() -> None:
    detector = toy_detector()
    dry_run = prepare_dry_run(detector, settings())
    dry_run.step(make_noise(2, 0.1, torch.device("cpu")))
    expected = {name for name, _ in detector.named_parameters() if is_trained(name)}
    assert {name for name, weight in detector.named_parameters() if weight.grad is not None} == expected
    trainer = Trainer(toy_detector(), toy_batches, settings())
    assert set(trainer.names) == expected


def test_no_activation_of_the_frozen_convolutions_is_kept() -> None:
    sizes = {}
    for rank in (0, 4):
        detector = toy_detector().train()
        kept: list[int] = []
        adapt(detector, LoraConfig(rank=rank), seed=1)

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.shape[1] if tensor.dim() == 3 else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            detector(toy_batch(0, 0).waveform)
        sizes[rank] = max(kept)
    assert sizes[0] > 300, "frames after the first convolution"
    assert sizes[4] < 100


def test_a_second_training_continues_from_what_the_first_has_adapted() -> None:
    detector, _, _ = run(settings(5))
    learnt = logits(detector)
    adapt(detector, LoraConfig(rank=2), seed=3)
    torch.testing.assert_close(logits(detector), learnt, atol=1e-5, rtol=0)
    assert {tensor.shape[0] for name, tensor in detector.state_dict().items() if "lora_a" in name} == {2}
    adapt(detector, LoraConfig(), seed=3)
    torch.testing.assert_close(logits(detector), learnt, atol=1e-5, rtol=0)
    assert detector.state_dict().keys() == toy_detector().state_dict().keys()
    assert all(weight.requires_grad for weight in detector.parameters())


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(
        InputError, match="--alpha has no effect without --rank; leave it out, or add --rank 16"
    ):
        LoraConfig(alpha=32.0)
    with pytest.raises(InputError, match="--targets has no effect without --rank"):
        LoraConfig(targets="attention")
    with pytest.raises(InputError, match="--rank -1: expected numbers from 0"):
        LoraConfig(rank=-1)
    with pytest.raises(InputError, match=r"--training\.lora\.rank 65 is more than the 64 channels"):
        run(settings(lora=LoraConfig(rank=65)))
    adapt(toy_detector(), LoraConfig(rank=64), seed=1)
