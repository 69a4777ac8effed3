"""The settings of post-training and the learning rate of each step; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import InputError

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
LossName = Literal["cross_entropy", "oc_softmax", "supervised_contrastive"]
Strategy = Literal["ddp", "fsdp"]
Attention = Literal["sdpa", "explicit"]
Implementation = Literal["auto", "fused", "foreach", "loop"]


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW and its schedule; the defaults are the paper's (arXiv 2506.21090)."""

    learning_rate: float = 1e-7
    """Peak, reached at the end of the warm-up."""
    weight_decay: float = 0.01
    epsilon: float = 1e-6
    clip_norm: float = 100.0
    """Gradients with a larger L2 norm are scaled down to this one."""
    num_warmup_steps: int = 80_000
    """Steps over which the learning rate rises linearly from zero."""
    num_steps: int = 800_000
    """Optimiser steps of the whole training."""
    final_fraction: float = 0.01
    """What is left of the peak at the last step, after an exponential decay."""
    implementation: Implementation = "auto"
    """Of AdamW in torch: one kernel for a whole update (fused), for all weights by operation (foreach), or for
    each weight by operation (loop). auto: fused."""

    def __post_init__(self) -> None:
        if not 0 <= self.num_warmup_steps <= self.num_steps:
            raise InputError(
                f"num_warmup_steps is {self.num_warmup_steps}; it lies between 0 and num_steps ({self.num_steps})"
            )
        for name in ("learning_rate", "epsilon", "clip_norm", "final_fraction", "num_steps"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised; the margins and scales are those of the papers."""

    name: LossName = "cross_entropy"
    """cross_entropy: of the two logits; oc_softmax: one class around a learnt centre, and a head that reads it
    (Zhang et al., 2021); supervised_contrastive: beside cross-entropy, in the batch of each rank (Khosla et al.,
    2020)."""
    bonafide_margin: float = 0.9
    """oc_softmax: the cosine to the centre above which bona fide speech is near enough."""
    spoof_margin: float = 0.2
    """oc_softmax: the cosine to the centre below which spoofed speech is far enough."""
    scale: float = 20.0
    """oc_softmax: how sharp the margins are."""
    temperature: float = 0.1
    """supervised_contrastive: cosines are divided by it; the lower, the more the nearest count."""
    contrastive_weight: float = 1.0
    """supervised_contrastive: its part beside cross-entropy."""

    def __post_init__(self) -> None:
        for name in ("scale", "temperature", "contrastive_weight"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not -1 <= self.spoof_margin <= self.bonafide_margin <= 1:
            raise InputError(
                f"spoof_margin is {self.spoof_margin} and bonafide_margin {self.bonafide_margin}; "
                "they are cosines from -1 to 1, the second not below the first"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """One training, apart from its data and its hardware."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    precision: Precision = "bf16"
    """Of the forward pass: bf16 and fp16 by autocast, tf32 on GPUs that have it (elsewhere it is fp32). Weights,
    gradients and optimiser stay float32: below a learning rate of 1e-6 no update would survive in bf16 weights."""
    strategy: Strategy = "ddp"
    """With several ranks. ddp: each has the whole detector; fsdp: each has a share of it and fetches the rest layer
    by layer, for what does not fit (2B on GPUs of up to 80 GB). Checkpoints are the same. In half precision, fsdp
    also validates in it, since its layers are fetched so."""
    activation_checkpointing: bool = False
    """Compute each layer again in the backward pass instead of keeping its activations: less memory, a third more
    work, the same gradients."""
    compile: bool = False
    """Compile each layer of the encoder, once for any length."""
    attention: Attention = "sdpa"
    """sdpa: torch's fused kernels; explicit: products and a softmax one by one, to compare with."""
    num_accumulated: int = 1
    """Batches whose gradients are averaged into one step."""
    spoof_weight: float = 1.0
    """Weight of spoof utterances in cross_entropy and oc_softmax."""
    bonafide_weight: float = 1.0
    """Weight of bona fide utterances in cross_entropy and oc_softmax."""
    validate_every: int = 100_000
    """Steps between validations; the best EER decides which weights are published."""
    patience: int = 0
    """Validations in a row without a better EER after which the training ends; 0: it never ends early."""
    checkpoint_every: int = 2_000
    """Steps between checkpoints; each validation makes one too."""
    checkpoint_minutes: float = 0.0
    """Minutes after the last checkpoint at which there is another one, whatever the step; 0: only by steps."""
    log_every: int = 50
    """Steps between two points of the training curves."""
    peak_tflops: float = 0.0
    """What a device can do at most in this precision, TFLOP/s: the MFU is a share of it. 0: known by the name of
    the device, or there is no MFU."""
    max_skipped_steps: int = 20
    """A step with a loss or gradient that is not finite is skipped; more than this many end the training."""
    seed: int = 1234

    def __post_init__(self) -> None:
        for name in ("num_accumulated", "validate_every", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("patience", "checkpoint_minutes", "peak_tflops"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 0 or more")


def learning_rate(step: int, config: OptimiserConfig) -> float:
    """Learning rate of optimiser step 1, 2, …: linear to the peak, then exponential to its final fraction."""
    if step < config.num_warmup_steps:
        return config.learning_rate * step / config.num_warmup_steps
    num_decay_steps = config.num_steps - config.num_warmup_steps
    share = min(1.0, (step - config.num_warmup_steps) / num_decay_steps) if num_decay_steps else 0.0
    # Not decay ** step with a rounded per-step factor: after 720,000 products the error would show.
    return float(config.learning_rate * config.final_fraction**share)
