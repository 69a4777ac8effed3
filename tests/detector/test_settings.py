"""Settings for speed and memory do not change results."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline.detector.config import Implementation
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig
from pipeline.detector.trainer import compile_layers
from pipeline.detector.transformer import SelfAttention
from tests.detector.toys import assert_same_weights, run, toy_batch, toy_config, toy_validation


def gradients(detector: Detector, lengths: tuple[int, ...] = (1600,)) -> list[Tensor]:
    """Accumulate the gradients of one padded batch of each length."""
    torch.manual_seed(9)
    detector.zero_grad()
    for length in lengths:
        batch = toy_batch(0, 0)
        logits = detector(batch.waveform[:, :length], batch.num_samples.clamp(max=length)).logits
        logits.square().sum().backward()
    return [weight.grad.clone() for weight in detector.parameters() if weight.grad is not None]


def two_detectors(family: str = "tiny", dropout: float = 0.0) -> tuple[Detector, Detector]:
    front_end = replace(VARIANTS[family], dropout=dropout, attention_dropout=dropout, input_dropout=dropout)
    config = DetectorConfig(front_end)
    one, other = Detector(config), Detector(config)
    other.load_state_dict(one.state_dict())
    return one, other


def test_activation_checkpointing_with_dropout_trains_bit_for_bit() -> None:
    plain, _, _ = run(toy_config(6))
    checkpointed, _, _ = run(toy_config(6, activation_checkpointing=True))
    assert_same_weights(plain.state_dict(), checkpointed.state_dict())


def test_activation_checkpointing_in_half_precision_trains_bit_for_bit() -> None:
    plain, _, _ = run(toy_config(4, precision="bf16"))
    checkpointed, _, _ = run(toy_config(4, precision="bf16", activation_checkpointing=True))
    assert_same_weights(plain.state_dict(), checkpointed.state_dict())


@pytest.mark.parametrize("is_padded", [False, True])
def test_attention_matches_its_definition(is_padded: bool) -> None:
    attention = SelfAttention(VARIANTS["tiny"])
    generator = torch.Generator().manual_seed(2)
    frames_BFC = torch.randn(3, 7, 64, generator=generator)
    valid_BF = torch.arange(7) < torch.tensor([7, 5, 1])[:, None] if is_padded else None
    mask_B11F = None if valid_BF is None else valid_BF[:, None, None]
    query, key, value = (
        project(frames_BFC).view(3, 7, 4, 16).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    weight_BHFF = query @ key.transpose(2, 3) / 4.0
    if mask_B11F is not None:
        weight_BHFF = weight_BHFF.masked_fill(~mask_B11F, -torch.inf)
    mixed_BFC = (weight_BHFF.softmax(dim=3) @ value).transpose(1, 2).reshape(3, 7, 64)
    torch.testing.assert_close(attention(frames_BFC, mask_B11F), attention.out_proj(mixed_BFC))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # raised by torch
@pytest.mark.parametrize("is_checkpointing", [False, True])
def test_compiled_layers_give_the_same_gradients_with_few_graphs_for_all_lengths(
    is_checkpointing: bool,
) -> None:
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


def test_tf32_on_a_cpu_is_float32() -> None:
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


def test_a_training_resumes_with_another_implementation_and_precision() -> None:
    _, log, _ = run(toy_config(10))
    config = toy_config(10, precision="bf16")
    config = replace(config, optimiser=replace(config.optimiser, implementation="foreach"))
    _, later, progress = run(config, state=log.states[5])
    assert progress.step == 10
    assert later.losses[10] == pytest.approx(log.losses[10], abs=0.05)
