"""How many operations a detector needs for an utterance, term by term, and how many a device can do.

A multiplication and its addition count as two, as in every published peak. Norms, activations and softmax are left
out: they are less than a hundredth and no peak speaks of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.detector.config import Precision
from pipeline.detector.variants import CONVOLUTIONS, MIN_NUM_SAMPLES, EncoderConfig

# B: utterances.

FORWARD_AND_BACKWARD = 3
"""A backward pass takes the product of each forward product twice, for its input and for its weight."""

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
"""Dense peaks of NVIDIA's data sheets, TFLOP/s. A device is the first whose words are all in its name."""


@dataclass(frozen=True, slots=True)
class ForwardFlops:
    """Operations of one forward pass over each utterance of a batch, [B] each."""

    convolutions: NDArray[np.float64]
    """Samples to frames."""
    projection: NDArray[np.float64]
    """To the width of the transformer."""
    position: NDArray[np.float64]
    """The convolution that tells frames their place."""
    attention_projections: NDArray[np.float64]
    """Queries, keys, values and output, of all layers."""
    attention: NDArray[np.float64]
    """Frames by frames: weights and mixing, of all layers. The only term that grows with the square."""
    feed_forward: NDArray[np.float64]
    head: NDArray[np.float64]

    @property
    def total(self) -> NDArray[np.float64]:
        """All of it, [B]."""
        total_B: NDArray[np.float64] = np.sum(astuple(self), axis=0)
        return total_B


def forward_flops(config: EncoderConfig, num_samples_B: Sequence[int] | NDArray[np.int64]) -> ForwardFlops:
    """Count the operations for utterances of so many samples, none of them padded."""
    num_frames_B = np.maximum(np.asarray(num_samples_B, np.int64), MIN_NUM_SAMPLES)
    convolutions_B = np.zeros(len(num_frames_B))
    num_inputs = 1
    for kernel, stride in CONVOLUTIONS:
        num_frames_B = (num_frames_B - kernel) // stride + 1
        convolutions_B += 2.0 * num_frames_B * kernel * num_inputs * config.conv_width
        num_inputs = config.conv_width
    frames_B = num_frames_B.astype(np.float64)
    width, layers = config.width, config.num_layers
    # An even kernel makes one frame more than is kept.
    num_positions_B = frames_B + (config.position_kernel + 1) % 2
    return ForwardFlops(
        convolutions=convolutions_B,
        projection=2 * frames_B * config.conv_width * width,
        position=2 * num_positions_B * config.position_kernel * width * (width // config.position_groups),
        attention_projections=2 * layers * frames_B * 4 * width**2,
        attention=2 * layers * frames_B**2 * 2 * width,
        feed_forward=2 * layers * frames_B * 2 * width * config.ffn_width,
        head=np.full_like(frames_B, 2 * 2 * width),
    )


def training_flops(config: EncoderConfig, num_samples_B: Sequence[int] | NDArray[np.int64]) -> float:
    """Operations of a training step over a batch; what is computed again to save memory does not count."""
    return FORWARD_AND_BACKWARD * float(forward_flops(config, num_samples_B).total.sum())


def peak_tflops(device_name: str, precision: Precision) -> float | None:
    """The peak of a device by its name, in TFLOP/s; None for one that is not known, or cannot do it."""
    name = set(re.split(r"[\s-]+", device_name))
    for words, peaks in PEAK_TFLOPS.items():
        if name.issuperset(words.split()):
            return peaks.get(precision)
    return None
