"""Settings that change speed and memory: what they compute is what the plain settings compute."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline.detector.config import Implementation
from pipeline.detector.network import VARIANTS, Detector
from pipeline.detector.trainer import compile_layers
from tests.detector.toys import (
    FAMILIES,
    assert_same_weights,
    run,
    toy_batch,
    toy_config,
    toy_validation,
)


def gradients(detector: Detector, lengths: tuple[int, ...] = (1600,)) -> list[Tensor]:
    """Of one backward pass over a padded batch of each length."""
    torch.manual_seed(9)
    detector.zero_grad()
    for length in lengths:
        batch = toy_batch(0, 0)
        logits = detector(batch.waveform[:, :length], batch.num_samples.clamp(max=length))
        logits.square().sum().backward()
    return [weight.grad.clone() for weight in detector.parameters() if weight.grad is not None]


def two_detectors(family: str = "tiny", dropout: float = 0.0) -> tuple[Detector, Detector]:
    config = replace(VARIANTS[family], dropout=dropout, attention_dropout=dropout, input_dropout=dropout)
    one, other = Detector(config), Detector(config)
    other.load_state_dict(one.state_dict())
    return one, other


def test_activation_checkpointing_trains_to_the_same_bits_with_dropout() -> None:
    plain, _, _ = run(toy_config(6))
    again, _, _ = run(toy_config(6, activation_checkpointing=True))
    assert_same_weights(plain.state_dict(), again.state_dict())


def test_activation_checkpointing_changes_no_bit_in_half_precision() -> None:
    plain, _, _ = run(toy_config(4, precision="bf16"))
    again, _, _ = run(toy_config(4, precision="bf16", activation_checkpointing=True))
    assert_same_weights(plain.state_dict(), again.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_explicit_attention_is_what_the_fused_kernels_compute(family: str) -> None:
    fused, explicit = two_detectors(family)
    explicit.encoder.use_explicit_attention(True)
    for one, other in zip(gradients(fused), gradients(explicit), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)


def test_explicit_attention_can_be_asked_for() -> None:
    detector, log, _ = run(toy_config(3, attention="explicit"))
    assert all(layer.get_submodule("self_attn").is_explicit for layer in detector.encoder.layers)
    assert log.losses[3] == pytest.approx(run(toy_config(3))[1].losses[3], abs=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch asks itself
@pytest.mark.parametrize("is_checkpointing", [False, True])
def test_compiled_layers_compute_the_same_with_few_graphs_for_all_lengths(is_checkpointing: bool) -> None:
    plain, compiled = two_detectors()
    backend = CompileCounterWithBackend("aot_eager")
    compile_layers(compiled, backend)
    compiled.encoder.activation_checkpointing = is_checkpointing
    lengths = (1600, 1550, 1400, 1300, 1250)
    for one, other in zip(gradients(plain, lengths), gradients(compiled, lengths), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert backend.frame_count <= 3
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    torch.compiler.reset()


def test_tf32_is_float32_where_there_is_no_gpu() -> None:
    plain, _, _ = run(toy_config(4), validation_batches=toy_validation)
    rounded, _, _ = run(toy_config(4, precision="tf32"), validation_batches=toy_validation)
    assert_same_weights(plain.state_dict(), rounded.state_dict())


@pytest.mark.parametrize("implementation", ["foreach", "loop", "fused"])
def test_implementations_of_adamw_agree(implementation: Implementation) -> None:
    results = []
    for chosen in ("auto", implementation):
        config = toy_config(4)
        config = replace(config, optimiser=replace(config.optimiser, implementation=chosen))
        results.append(run(config)[0].state_dict())
    for name, weight in results[0].items():
        torch.testing.assert_close(weight, results[1][name], atol=1e-5, rtol=0)


def test_a_checkpoint_goes_on_with_another_implementation_and_precision() -> None:
    _, log, _ = run(toy_config(10))
    config = toy_config(10, precision="bf16")
    config = replace(config, optimiser=replace(config.optimiser, implementation="foreach"))
    _, later, progress = run(config, state=log.states[5])
    assert progress.step == 10
    assert later.losses[10] == pytest.approx(log.losses[10], abs=0.05)
