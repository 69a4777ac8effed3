"""Operations counted term by term, against torch's own count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.detector.flops import forward_flops, peak_tflops, training_flops
from pipeline.detector.network import VARIANTS, Detector, EncoderConfig
from tests.detector.toys import run, toy_config

SHAPES = (
    VARIANTS["tiny"],
    VARIANTS["tiny_group"],
    replace(VARIANTS["tiny"], num_layers=3, width=96, num_heads=8, position_kernel=15, position_groups=8),
)


def count(config: EncoderConfig, lengths: tuple[int, ...], *, backward: bool = False) -> int:
    """What torch counts; its counter does not know the fused attention of a CPU."""
    detector = Detector(config)
    detector.encoder.use_explicit_attention(True)
    counter = FlopCounterMode(display=False)
    with counter:
        for length in lengths:
            logits = detector(torch.zeros(1, length))
            if backward:
                logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("config", SHAPES)
def test_the_forward_pass_is_counted_as_torch_counts_it(config: EncoderConfig) -> None:
    lengths = (16_000, 9_000, 400, 50)
    assert forward_flops(config, lengths).total.sum() == count(config, lengths)


def test_a_step_is_three_forward_passes() -> None:
    lengths = (16_000, 9_000)
    counted = count(VARIANTS["tiny"], lengths, backward=True)
    assert training_flops(VARIANTS["tiny"], lengths) == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(("variant", "giga"), [("xlsr_300m", 38.4), ("xlsr_1b", 106.6), ("xlsr_2b", 229.0)])
def test_the_published_shapes_need_what_was_computed_for_them(variant: str, giga: float) -> None:
    [flops] = forward_flops(VARIANTS[variant], [160_000]).total / 10
    assert flops / 1e9 == pytest.approx(giga, rel=0.002)


def test_only_attention_grows_with_the_square() -> None:
    short, long = (forward_flops(VARIANTS["xlsr_300m"], [length]) for length in (160_000, 320_000))
    assert (long.attention / short.attention).item() == pytest.approx(4, rel=0.01)
    assert (long.feed_forward / short.feed_forward).item() == pytest.approx(2, rel=0.01)


def test_utterances_add_up() -> None:
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
def test_a_device_is_known_by_its_name(name: str, expected: float | None) -> None:
    assert peak_tflops(name, "bf16") == expected


def test_the_mfu_is_reported_where_the_peak_is_known() -> None:
    _, log, _ = run(toy_config(3))
    assert log.metrics[3]["speed/tflops_per_rank"] > 0
    assert log.metrics[3]["audio_seconds_per_s_per_rank"] == log.metrics[3]["audio_seconds_per_s"]
    assert not {"speed/mfu", "speed/gpu_memory_peak_gib"} & set(log.metrics[3])
    _, log, _ = run(toy_config(3, peak_tflops=0.5))
    assert log.metrics[3]["speed/mfu"] == pytest.approx(log.metrics[3]["speed/tflops_per_rank"] / 0.5)
