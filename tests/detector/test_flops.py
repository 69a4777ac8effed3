"""FLOP counts, against torch's own counter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.detector.config import LoraConfig, LoraTargets, LossConfig
from pipeline.detector.dry_run import make_noise, prepare_dry_run
from pipeline.detector.flops import forward_flops, peak_tflops, training_flops
from pipeline.detector.lora import adapt
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig, EncoderConfig
from pipeline.detector.variants import HeadConfig
from tests.detector.toys import run, toy_config

SHAPES = (
    VARIANTS["tiny"],
    VARIANTS["tiny_group"],
    replace(VARIANTS["tiny"], num_layers=3, width=96, num_heads=8, position_kernel=15, position_groups=8),
)


def count(
    config: EncoderConfig,
    lengths: tuple[int, ...],
    *,
    backward: bool = False,
    head: HeadConfig = HeadConfig(),
    lora: LoraConfig = LoraConfig(),
) -> int:
    """Count with torch, whose counter does not support the fused attention of a CPU."""
    detector = Detector(DetectorConfig(config, head))
    adapt(detector, lora, seed=0)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        for length in lengths:
            logits = detector(torch.zeros(1, length)).logits
            if backward:
                logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("head", [HeadConfig(), HeadConfig("mhfa", 4, 16, 24)], ids=str)
@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(4), LoraConfig(4, targets="attention")])
def test_the_count_of_a_forward_pass_equals_that_of_torch(
    config: EncoderConfig, head: HeadConfig, lora: LoraConfig
) -> None:
    lengths = (16_000, 9_000, 400, 50)
    expected = count(config, lengths, head=head, lora=lora)
    assert forward_flops(config, lengths, head, lora).total.sum() == expected


def test_a_step_costs_three_forward_passes() -> None:
    lengths = (16_000, 9_000)
    expected = count(VARIANTS["tiny"], lengths, backward=True)
    assert training_flops(VARIANTS["tiny"], lengths) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("targets", ["attention", "feed_forward", "both"])
def test_frozen_weights_need_no_gradient_of_their_own(targets: LoraTargets) -> None:
    deep, lengths = replace(VARIANTS["tiny"], num_layers=12), (16_000, 9_000)
    head, lora = HeadConfig("mhfa", 4, 16, 24), LoraConfig(4, targets=targets)
    expected = count(deep, lengths, backward=True, head=head, lora=lora)
    flops = training_flops(deep, lengths, head, lora)
    assert flops == pytest.approx(expected, rel=0.05)
    assert flops < 0.75 * training_flops(deep, lengths, head)


@pytest.mark.parametrize(("variant", "giga"), [("xlsr_300m", 38.4), ("xlsr_1b", 106.6), ("xlsr_2b", 229.0)])
def test_published_shapes_have_known_costs(variant: str, giga: float) -> None:
    [flops] = forward_flops(VARIANTS[variant], [160_000]).total / 10
    assert flops / 1e9 == pytest.approx(giga, rel=0.002)


def test_a_loss_with_a_frozen_detector_costs_one_more_forward_pass() -> None:
    totals = []
    for loss in (LossConfig("expected_accuracy", beta=0.0), LossConfig("expected_accuracy")):
        dry_run = prepare_dry_run(Detector(DetectorConfig(VARIANTS["tiny"])), toy_config(loss=loss))
        noise = make_noise(2, 0.5, torch.device("cpu"))
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH):
            dry_run.step(noise)
        totals.append(counter.get_total_flops())
    without, with_reference = (
        training_flops(VARIANTS["tiny"], [8000], has_reference=has_reference)
        for has_reference in (False, True)
    )
    assert with_reference / without == pytest.approx(4 / 3)
    assert totals[1] / totals[0] == pytest.approx(4 / 3, rel=0.02)


def test_only_attention_is_quadratic() -> None:
    short, long = (forward_flops(VARIANTS["xlsr_300m"], [length]) for length in (160_000, 320_000))
    assert (long.attention / short.attention).item() == pytest.approx(4, rel=0.01)
    assert (long.feed_forward / short.feed_forward).item() == pytest.approx(2, rel=0.01)


def test_costs_of_utterances_are_independent() -> None:
    lengths = np.array([5_000, 16_000, 400])
    together = forward_flops(VARIANTS["tiny"], lengths).total
    assert together.tolist() == [forward_flops(VARIANTS["tiny"], [length]).total.item() for length in lengths]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L40S", 362),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA RTX A4000", None),
        ("Tesla V100-SXM2-16GB", None),
        ("somebody's accelerator", None),
    ],
)
def test_the_peak_of_a_device_is_found_by_its_name(name: str, expected: float | None) -> None:
    assert peak_tflops(name, "bf16") == expected


def test_the_mfu_is_reported_only_if_the_peak_is_known() -> None:
    _, log, _ = run(toy_config(3))
    assert log.metrics[3]["speed/tflops_per_rank"] > 0
    assert log.metrics[3]["speed/audio_seconds_per_s_per_rank"] == log.metrics[3]["speed/audio_seconds_per_s"]
    assert not {"speed/mfu", "speed/gpu_memory_peak_gib"} & set(log.metrics[3])
    _, log, _ = run(toy_config(3, peak_tflops=0.5))
    assert log.metrics[3]["speed/mfu"] == pytest.approx(log.metrics[3]["speed/tflops_per_rank"] / 0.5)
