"""Training settings, and the learning rate of each step. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pipeline.detector.variants import EncoderConfig
from pipeline.errors import InputError
from pipeline.fields import Count, CountOrZero, Positive, PositiveOrZero, Range, Seed, check_ranges
from pipeline.metrics.grouped import Selection

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
LossName = Literal["cross_entropy", "oc_softmax", "supervised_contrastive", "expected_accuracy"]
Groups = Literal["batch", "utterance"]
Strategy = Literal["ddp", "fsdp"]
Implementation = Literal["auto", "fused", "foreach", "loop"]
LoraTargets = Literal["attention", "feed_forward", "both"]
Weights = Literal["raw", "ema"]
"""The weights as the last step left them, or their exponential moving average."""


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW and its learning rate schedule; the defaults are those of AntiDeepfake (arXiv 2506.21090)."""

    learning_rate: Annotated[float, Range(0, 1, above=True)] = 1e-7
    """Peak learning rate, reached at the end of the warm-up."""
    weight_decay: PositiveOrZero = 0.01
    epsilon: Annotated[float, Range(0, 1, above=True)] = 1e-6
    clip_norm: Annotated[float, Range(0, 1e9, above=True, also=math.inf)] = 100.0
    """Maximum L2 norm of the gradient; a larger gradient is scaled down to it. inf: never."""
    num_warmup_steps: CountOrZero = 80_000
    """Steps over which the learning rate rises linearly from zero."""
    num_steps: Count = 800_000
    """Total number of optimiser steps."""
    final_fraction: Annotated[float, Range(0, 1, above=True)] = 0.01
    """Learning rate at the last step, after exponential decay, as a fraction of the peak."""
    implementation: Implementation = "auto"
    """Implementation of AdamW. fused: one kernel for the whole update; foreach: one kernel per operation for all
    weights; loop: one kernel per operation and weight; auto: fused."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.num_warmup_steps > self.num_steps:
            raise InputError(
                f"--num-warmup-steps {self.num_warmup_steps} is more than --num-steps {self.num_steps}; "
                "give fewer, or 0 for none"
            )


Cosine = Annotated[float, Range(-1, 1)]

LOSS_OF: dict[str, LossName] = {
    "label_smoothing": "cross_entropy",
    "bonafide_margin": "oc_softmax",
    "spoof_margin": "oc_softmax",
    "scale": "oc_softmax",
    "temperature": "supervised_contrastive",
    "contrastive_weight": "supervised_contrastive",
    "beta": "expected_accuracy",
    "groups": "expected_accuracy",
}
"""The settings that only one loss has."""

UTTERANCE_LOSSES: tuple[LossName, ...] = ("oc_softmax", "expected_accuracy")
"""Losses that train the front end by another criterion than cross-entropy, so that frames cannot share it."""


@dataclass(frozen=True)
class LossConfig:
    """Training loss; default margins, scales and temperature are those of the papers that introduced the losses."""

    name: LossName = "cross_entropy"
    """cross_entropy: cross-entropy of the two logits; oc_softmax: one-class softmax for the front end and cross-entropy
    for the head (Zhang et al., 2021); supervised_contrastive: cross-entropy plus a contrastive loss over the batch of
    each rank (Khosla et al., 2020); expected_accuracy: the expected share of correct labels, near the weights at the
    start of the training (what GRPO of arXiv 2603.02914 optimises, without its sampling)."""
    frame_weight: PositiveOrZero = 0.0
    """Weight of the cross-entropy of each 20 ms relative to the loss of utterances, for partially spoofed speech whose
    regions the store knows. A crop then has the label of its part of the utterance. 0: utterances alone."""
    label_smoothing: Annotated[float, Range(0, 0.9)] = 0.0
    """cross_entropy: share of each label that is spread evenly over both classes; 0: none."""
    bonafide_margin: Cosine = 0.9
    """oc_softmax: cosine to the centre that bona fide speech should exceed."""
    spoof_margin: Cosine = 0.2
    """oc_softmax: cosine to the centre that spoofed speech should stay below."""
    scale: Positive = 20.0
    """oc_softmax: factor on the distance to a margin; larger values make the margins sharper."""
    temperature: Positive = 0.1
    """supervised_contrastive: divisor of the cosines; a lower value gives near neighbours more weight."""
    contrastive_weight: Positive = 1.0
    """supervised_contrastive: weight of the contrastive loss relative to cross-entropy."""
    beta: PositiveOrZero = 0.04
    """expected_accuracy: weight of the divergence from the detector at the start of the training. Above 0, a frozen
    copy of that detector is kept in memory and run on every batch. 0: no copy and no divergence."""
    groups: Groups = "batch"
    """expected_accuracy: whose standard deviation of correct labels divides the accuracy. batch: that of the batch of
    each rank, as published; utterance: that of each utterance alone."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for setting, loss in LOSS_OF.items():
            if loss != self.name and getattr(self, setting) != getattr(LossConfig, setting):
                flag = f"--{setting.replace('_', '-')}"
                raise InputError(f"{flag} has no effect on {self.name}; leave it out, or add --name {loss}")
        if self.frame_weight and self.name in UTTERANCE_LOSSES:
            raise InputError(
                f"--frame-weight adds cross-entropy of frames, which {self.name} replaces; leave it out, "
                "or choose --name cross_entropy or supervised_contrastive"
            )
        if self.spoof_margin > self.bonafide_margin:
            raise InputError(
                f"--spoof-margin {self.spoof_margin} is above --bonafide-margin {self.bonafide_margin}; "
                "bona fide speech should exceed what spoofed speech stays below"
            )

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the detector with a frozen copy of its weights at the start of the training."""
        return self.name == "expected_accuracy" and self.beta > 0


@dataclass(frozen=True)
class EmaConfig:
    """Exponential moving average (EMA) of the weights that train. Validations measure it beside the weights."""

    decay: Annotated[float, Range(0, 0.99999)] = 0.0
    """Share of the average that each step keeps: 0.999 averages about the last 1,000 steps. Step t keeps at most
    t / (t + 9), so that the start does not count for long. 0: no average."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation of the front end (LoRA; Hu et al., 2021)."""

    rank: CountOrZero = 0
    """Rank of the trainable updates of the matrices of the transformer. All other weights of the front end are frozen;
    the head trains as usual. 0: train all weights."""
    alpha: Positive = 16.0
    """An update is multiplied by alpha / rank."""
    targets: LoraTargets = "both"
    """Matrices that are updated: those of attention (queries, keys, values and output), of the feed-forward networks,
    or both."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for setting in ("alpha", "targets") if not self.rank else ():
            if getattr(self, setting) != getattr(LoraConfig, setting):
                raise InputError(f"--{setting} has no effect without --rank; leave it out, or add --rank 16")

    def check_fits(self, front_end: EncoderConfig) -> None:
        """Refuse a rank that no update of the front end can have.

        Raises:
            InputError: the rank is larger than the narrowest matrix.
        """
        width = front_end.width
        if self.targets != "attention":
            width = min(width, front_end.ffn_width)
        if self.rank > width:
            raise InputError(
                f"--training.lora.rank {self.rank} is more than the {width} channels of the front end; "
                "give a smaller rank, or 0 to train all weights"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training, apart from its data and hardware."""

    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    precision: Precision = "bf16"
    """Precision of the forward pass: bf16 and fp16 use autocast; tf32 is the same as fp32 on devices without it.
    Weights, gradients and optimiser state are float32: bf16 weights would round away updates at learning rates
    below 1e-6."""
    strategy: Strategy = "ddp"
    """How several ranks share the detector. ddp: each rank has a full copy; fsdp: each rank has a shard and gathers
    one layer at a time, for detectors that do not fit (2B on GPUs of up to 80 GB). Both write the same checkpoints.
    With fsdp, a half-precision training also validates in half precision."""
    activation_checkpointing: bool = False
    """Recompute each layer in the backward pass instead of storing its activations: less memory, a third more
    computation, the same gradients."""
    compile: bool = False
    """Compile each transformer layer with torch.compile, once for all lengths."""
    num_accumulated: Count = 1
    """Number of batches whose gradients are averaged in one step."""
    spoof_weight: Positive = 1.0
    """Factor on the loss of each spoof utterance; the contrastive part of supervised_contrastive has none."""
    bonafide_weight: Positive = 1.0
    """Factor on the loss of each bona fide utterance; the contrastive part of supervised_contrastive has none."""
    validate_every: Count = 100_000
    """Steps between validations; the best weights are published."""
    select_by: Selection = "pooled"
    """Error rate of a validation by which weights are better than others. pooled: EER of all utterances together;
    corpora: mean of the EERs of the corpora that have both classes; attacks: mean of the EERs of all attacks, each
    against the bona fide speech of its corpus, or of all corpora if its own has none; frames: EER of the frames that
    have a label, for a training with `loss.frame_weight`."""
    patience: CountOrZero = 0
    """Number of consecutive validations without a better EER that ends the training; 0: never end early."""
    checkpoint_every: Count = 2_000
    """Steps between checkpoints; every validation also writes one."""
    checkpoint_minutes: PositiveOrZero = 0.0
    """Minutes between checkpoints, in addition to `checkpoint_every`; 0: by steps only."""
    log_every: Count = 50
    """Steps between points of the training curves."""
    peak_tflops: PositiveOrZero = 0.0
    """Peak of a device in this precision, TFLOP/s, for the model FLOPs utilisation (MFU). 0: look the device up by
    name; an unknown device has no MFU."""
    max_skipped_steps: CountOrZero = 20
    """Maximum number of steps that may be skipped because their loss or gradient is not finite."""
    seed: Seed = 1234

    def __post_init__(self) -> None:
        check_ranges(self)


def learning_rate(step: int, config: OptimiserConfig) -> float:
    """Compute the learning rate of optimiser step 1, 2, …: linear warm-up, then exponential decay."""
    if step < config.num_warmup_steps:
        return config.learning_rate * step / config.num_warmup_steps
    num_decay_steps = config.num_steps - config.num_warmup_steps
    share = min(1.0, (step - config.num_warmup_steps) / num_decay_steps) if num_decay_steps else 0.0
    # A per-step factor would be rounded, and 720,000 products would accumulate the error.
    return float(config.learning_rate * config.final_fraction**share)
