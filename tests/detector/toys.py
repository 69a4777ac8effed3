"""Helpers for detector tests: a tiny detector, 0.1 s utterances and a `report` function that records its calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.detector.config import OptimiserConfig, TrainingConfig
from pipeline.detector.convolutions import frame_lengths
from pipeline.detector.network import VARIANTS, Detector, DetectorConfig, EncoderConfig, normalise
from pipeline.detector.state import TrainingProgress, TrainingState
from pipeline.detector.training import train
from pipeline.detector.validation import Validation
from pipeline.metrics import Group

FAMILIES = ("tiny", "tiny_group")
"""The tiny variants: one with layer norm, one with group norm in the feature extractor."""

TOY = replace(VARIANTS["tiny"], num_layers=1, dropout=0.1, input_dropout=0.1)
"""Front end of `toy_detector`."""

TOY_DETECTOR = DetectorConfig(TOY)

NUM_BATCHES = 7
"""Batches in an epoch of `toy_batches`."""


LENGTHS = (16_000, 12_345, 9_000, 799, 400, 399, 20)
"""Utterance lengths, in samples: from one second down to less than one frame."""


@dataclass(frozen=True)
class ToyBatch:
    waveform: Tensor
    num_samples: Tensor
    label: Tensor
    uid: list[str]
    frame_label: Tensor | None = None


def toy_batch(epoch: int, step: int) -> ToyBatch:
    """Make 8 utterances of noise, with a tone added to the bona fide ones; the arguments determine every sample."""
    generator = torch.Generator().manual_seed(1000 * epoch + step)
    label = torch.arange(8) % 2
    num_samples = torch.randint(1200, 1600, (8,), generator=generator)
    tone = torch.sin(torch.arange(1600) * 0.9)
    waveform = torch.randn(8, 1600, generator=generator) + 2 * label[:, None] * tone
    waveform = normalise(waveform * (torch.arange(1600) < num_samples[:, None]), num_samples)
    return ToyBatch(waveform, num_samples, label, [f"{epoch}-{step}-{row}" for row in range(8)])


def toy_frame_batch(epoch: int, step: int) -> ToyBatch:
    """Label the frames of a batch: in a quarter of the utterances against their label, in another not at all."""
    batch = toy_batch(epoch, step)
    row, num_frames = torch.arange(8)[:, None], frame_lengths(batch.num_samples)[:, None]
    frame = torch.arange(int(frame_lengths(torch.tensor(1600))))
    label = torch.where((row % 4 == 0) & (frame > 1), 1 - batch.label[:, None], batch.label[:, None])
    is_labelled = (frame < num_frames) & (row % 4 != 3)
    return replace(batch, frame_label=torch.where(is_labelled, label, -1).to(torch.int8))


def toy_frame_batches(epoch: int, first: int) -> Iterator[ToyBatch]:
    """Yield the batches of an epoch with labels of frames."""
    return (toy_frame_batch(epoch, step) for step in range(first, NUM_BATCHES))


def toy_batches(epoch: int, first: int) -> Iterator[ToyBatch]:
    """Yield the batches of an epoch from the batch number `first`."""
    torch.rand(1)  # a real loader may draw from torch's generator when it starts
    for step in range(first, NUM_BATCHES):
        yield toy_batch(epoch, step)


def toy_validation() -> Iterator[ToyBatch]:
    """Yield 4 batches that `toy_batches` never yields."""
    for step in range(4):
        yield toy_batch(99, step)


TOY_GROUPS = {
    f"99-{step}-{row}": Group("toy", "" if row % 2 else "noise") for step in range(4) for row in range(8)
}
"""The corpus and attack of each utterance of `toy_validation`."""


def toy_detector(config: DetectorConfig = TOY_DETECTOR) -> Detector:
    """Build a one-layer detector with dropout; the weights are the same every time."""
    torch.manual_seed(0)
    return Detector(config)


def toy_config(num_steps: int = 20, **changes: Any) -> TrainingConfig:
    """Build a config that validates every 10 steps and writes a checkpoint every 5.

    Args:
        num_steps: Optimiser steps.
        changes: Fields of `TrainingConfig` to replace.
    """
    optimiser = OptimiserConfig(learning_rate=2e-3, num_warmup_steps=min(3, num_steps), num_steps=num_steps)
    config = TrainingConfig(
        optimiser, precision="fp32", validate_every=10, checkpoint_every=5, log_every=1, seed=7
    )
    return replace(config, **changes)


class Log:
    """A `report` function that keeps losses, metrics and a deep copy of every state by step."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.metrics: dict[int, Mapping[str, float]] = {}
        self.states: dict[int, TrainingState] = {}
        self.validations: dict[int, Validation] = {}

    def __call__(
        self,
        progress: TrainingProgress,
        metrics: Mapping[str, float],
        state: TrainingState | None,
        validation: Validation | None,
    ) -> None:
        self.metrics[progress.step] = metrics
        if "train/loss" in metrics:
            self.losses[progress.step] = metrics["train/loss"]
        if state is not None:
            self.states[progress.step] = copy(state)
        if validation is not None:
            assert state is not None
            self.validations[progress.step] = validation


def copy(value: Any) -> Any:
    """Copy nested containers of tensors, as writing and reading a checkpoint would."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copy(item) for item in value)
    return value


def run(
    config: TrainingConfig,
    batches: Callable[[int, int], Iterator[ToyBatch]] = toy_batches,
    detector_config: DetectorConfig = TOY_DETECTOR,
    **arguments: Any,
) -> tuple[Detector, Log, TrainingProgress]:
    """Train `toy_detector` on one thread.

    Args:
        config: Training settings.
        batches: The training batches of (epoch, first batch).
        detector_config: Front end and head.
        arguments: Further keyword arguments of `train`; `group_of` is TOY_GROUPS by default.

    Returns:
        The trained detector, the log of its reports and its final progress.
    """
    torch.set_num_threads(1)
    detector, log = toy_detector(detector_config), Log()
    progress = train(detector, batches, config, log, **{"group_of": TOY_GROUPS, **arguments})
    return detector, log, progress


def assert_same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Assert that two state dicts have the same names and bit-identical tensors."""
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def make_detector(config: EncoderConfig | DetectorConfig) -> Detector:
    """Make a detector without zero biases or unit norms, so that every weight affects the logits."""
    torch.manual_seed(1)
    detector = Detector(config if isinstance(config, DetectorConfig) else DetectorConfig(config))
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return detector.eval()


def make_clips(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    """Make normalised noise of these lengths."""
    generator = torch.Generator().manual_seed(2)
    return [normalise(torch.randn(1, length, generator=generator) + 0.3)[0] for length in lengths]
