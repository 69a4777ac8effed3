"""Counts the floating-point operations of a detector term by term, and lists the peak rates of devices.

A multiply-add counts as two operations, as in published peak rates. Norms, activations and softmax are not counted:
they are less than 1 % of the total.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.detector.config import LoraConfig, Precision
from pipeline.detector.variants import CONVOLUTIONS, MIN_NUM_SAMPLES, EncoderConfig, HeadConfig

# B: utterances.

FORWARD_AND_BACKWARD = 3
"""Ratio of a training step to a forward pass: each product has two in the backward pass, for input and weight."""

FROZEN = 2
"""The same for a product with a frozen weight, whose backward pass needs the gradient of the input alone."""

PEAK_TFLOPS: dict[str, dict[Precision, float]] = {
    "GB200": {"bf16": 2500, "fp16": 2500, "tf32": 1250, "fp32": 80},
    "B200": {"bf16": 2250, "fp16": 2250, "tf32": 1125, "fp32": 75},
    "GH200": {"bf16": 989, "fp16": 989, "tf32": 495, "fp32": 67},
    "H200": {"bf16": 989, "fp16": 989, "tf32": 495, "fp32": 67},
    "H100 PCIe": {"bf16": 756, "fp16": 756, "tf32": 378, "fp32": 51},
    "H100 NVL": {"bf16": 835, "fp16": 835, "tf32": 418, "fp32": 60},
    "H100": {"bf16": 989, "fp16": 989, "tf32": 495, "fp32": 67},
    "A100": {"bf16": 312, "fp16": 312, "tf32": 156, "fp32": 19.5},
    "A40": {"bf16": 150, "fp16": 150, "tf32": 75, "fp32": 37.4},
    "A10G": {"bf16": 70, "fp16": 70, "tf32": 35, "fp32": 35},
    "A10": {"bf16": 125, "fp16": 125, "tf32": 62.5, "fp32": 31.2},
    "L40S": {"bf16": 362, "fp16": 362, "tf32": 183, "fp32": 91.6},
    "L4": {"bf16": 121, "fp16": 121, "tf32": 60, "fp32": 30.3},
    "RTX 4090": {"bf16": 165, "fp16": 165, "tf32": 82.6, "fp32": 82.6},
    "RTX 3090": {"bf16": 71, "fp16": 71, "tf32": 35.6, "fp32": 35.6},
    "V100": {"fp16": 125, "fp32": 15.7},
    "T4": {"fp16": 65, "fp32": 8.1},
}
"""Dense peaks from NVIDIA's data sheets, TFLOP/s. The first entry whose words all occur in the device name applies."""


@dataclass(frozen=True, slots=True)
class ForwardFlops:
    """Operations of one forward pass, for each utterance of a batch; every field is [B]."""

    convolutions: NDArray[np.float64]
    """Samples to frames."""
    projection: NDArray[np.float64]
    """From the width of the convolutions to that of the transformer."""
    position: NDArray[np.float64]
    """The position convolution."""
    attention_projections: NDArray[np.float64]
    """Queries, keys, values and output in all layers."""
    attention: NDArray[np.float64]
    """Attention weights and weighted sums in all layers; the only term that is quadratic in the number of frames."""
    feed_forward: NDArray[np.float64]
    adapters: NDArray[np.float64]
    """Of low-rank adaptation, in all layers."""
    head: NDArray[np.float64]

    @property
    def total(self) -> NDArray[np.float64]:
        """Sum of all terms, [B]."""
        total_B: NDArray[np.float64] = np.sum(astuple(self), axis=0)
        return total_B


def forward_flops(
    config: EncoderConfig,
    num_samples_B: Sequence[int] | NDArray[np.int64],
    head: HeadConfig = HeadConfig(),
    lora: LoraConfig = LoraConfig(),
) -> ForwardFlops:
    """Count the operations for unpadded utterances.

    Args:
        config: shape of the front end.
        num_samples_B: length of each utterance in samples at 16 kHz.
        head: shape of the head.
        lora: adapters of the transformer.
    """
    num_frames_B = np.maximum(np.asarray(num_samples_B, np.int64), MIN_NUM_SAMPLES)
    convolutions_B = np.zeros(len(num_frames_B))
    num_inputs = 1
    for kernel, stride in CONVOLUTIONS:
        num_frames_B = (num_frames_B - kernel) // stride + 1
        convolutions_B += 2.0 * num_frames_B * kernel * num_inputs * config.conv_width
        num_inputs = config.conv_width
    frames_B = num_frames_B.astype(np.float64)
    width, layers = config.width, config.num_layers
    # An even kernel computes one frame that is then dropped.
    num_positions_B = frames_B + (config.position_kernel + 1) % 2
    return ForwardFlops(
        convolutions=convolutions_B,
        projection=2 * frames_B * config.conv_width * width,
        position=2 * num_positions_B * config.position_kernel * width * (width // config.position_groups),
        attention_projections=2 * layers * frames_B * 4 * width**2,
        attention=2 * layers * frames_B**2 * 2 * width,
        feed_forward=2 * layers * frames_B * 2 * width * config.ffn_width,
        adapters=2 * layers * frames_B * _adapter_weights(config, lora),
        head=_head_flops(frames_B, width, head),
    )


def _adapter_weights(config: EncoderConfig, lora: LoraConfig) -> int:
    """Weights of the adapters of one layer."""
    attention = 0 if lora.targets == "feed_forward" else 4 * 2 * config.width
    feed_forward = 0 if lora.targets == "attention" else 2 * (config.width + config.ffn_width)
    return lora.rank * (attention + feed_forward)


def _head_flops(frames_B: NDArray[np.float64], width: int, head: HeadConfig) -> NDArray[np.float64]:
    if head.name == "mean_linear":
        return np.full_like(frames_B, 2 * 2 * width)
    compressed, heads = head.compression_width, head.num_heads
    # Keys and values; attention weights and weighted means; then the embedding and its logits, once per utterance.
    per_frame = 2 * width * compressed + 2 * compressed * heads
    return 2 * (frames_B * per_frame + heads * compressed * head.embedding_width + 2 * head.embedding_width)


def training_flops(
    config: EncoderConfig,
    num_samples_B: Sequence[int] | NDArray[np.int64],
    head: HeadConfig = HeadConfig(),
    lora: LoraConfig = LoraConfig(),
    *,
    has_reference: bool = False,
) -> float:
    """Count the operations of a training step on a batch; recomputation by activation checkpointing does not count.

    Args:
        config: shape of the front end.
        num_samples_B: length of each utterance in samples at 16 kHz.
        head: of the detector.
        lora: adapters of the front end.
        has_reference: whether the loss needs a forward pass of a frozen copy as well.
    """
    forward = forward_flops(config, num_samples_B, head, lora)
    reference = float(forward_flops(config, num_samples_B, head).total.sum()) if has_reference else 0.0
    if not lora.rank:
        return reference + FORWARD_AND_BACKWARD * float(forward.total.sum())
    # Nothing before the first layer has a gradient; within it, everything is counted as having one.
    before_B = forward.convolutions + forward.projection + forward.position
    frozen_B = forward.attention_projections + forward.feed_forward
    trained_B = forward.attention + forward.adapters + forward.head
    return reference + float((before_B + FROZEN * frozen_B + FORWARD_AND_BACKWARD * trained_B).sum())


def peak_tflops(device_name: str, precision: Precision) -> float | None:
    """Look up the peak of a device by its name, TFLOP/s; None if the device or this precision of it is unknown."""
    name = set(re.split(r"[\s-]+", device_name))
    for keywords, peaks in PEAK_TFLOPS.items():
        if name.issuperset(keywords.split()):
            return peaks.get(precision)
    return None
