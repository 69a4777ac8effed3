"""A training step on noise: what a real one does on a device, without data, ranks or consequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.detector.config import TrainingConfig
from pipeline.detector.losses import make_loss
from pipeline.detector.network import Detector, normalise
from pipeline.detector.precision import autocast, tf32_policy
from pipeline.detector.trainer import clip, gradient_norm, make_optimiser, prepare

SAMPLE_RATE = 16_000

# B: utterances, T: samples at 16 kHz.


@dataclass(frozen=True)
class Noise:
    """A batch of normalised noise, its classes by turns."""

    waveform: Tensor
    """[B, T], on the device."""
    num_samples: Tensor
    """[B], on the CPU."""
    label: Tensor
    """[B], on the device."""
    uid: list[str]

    @property
    def audio_s(self) -> float:
        """Seconds of audio, without padding."""
        return float(self.num_samples.sum()) / SAMPLE_RATE


def make_noise(num_utterances: int, seconds: float, device: torch.device) -> Noise:
    """Utterances of up to so many seconds, the shortest a tenth shorter, padded to the longest."""
    longest = round(seconds * SAMPLE_RATE)
    num_samples_B = torch.linspace(longest, 0.9 * longest, num_utterances).long()
    waveform_BT = torch.randn(num_utterances, longest, generator=torch.Generator().manual_seed(0))
    return Noise(
        waveform=normalise(waveform_BT, num_samples_B).to(device),
        num_samples=num_samples_B,
        label=(torch.arange(num_utterances) % 2).to(device),
        uid=[str(number) for number in range(num_utterances)],
    )


class DryRun:
    """Takes steps with a learning rate of zero, so that no weight changes."""

    def __init__(
        self, loss_of: Callable[[Noise], Tensor], weights: Sequence[Tensor], config: TrainingConfig
    ) -> None:
        """loss_of: forward pass and loss of a batch; it runs under the autocast of the config."""
        self.config = config
        self.device = weights[0].device
        self._loss_of = loss_of
        self._weights = list(weights)
        self._optimiser = make_optimiser(self._weights, replace(config.optimiser, learning_rate=1.0))
        for group in self._optimiser.param_groups:
            group["lr"] = 0.0

    def step(self, batch: Noise, mark: Callable[[str], None] = lambda _: None) -> None:
        """Take a step; `mark` hears what has been done: forward, backward, optimiser."""
        self._optimiser.zero_grad(set_to_none=True)
        with tf32_policy(self.device, self.config.precision):
            with autocast(self.device, self.config.precision):
                loss = self._loss_of(batch)
            mark("forward")
            torch.autograd.backward(loss)
        mark("backward")
        clip(self._weights, gradient_norm(self._weights), self.config.optimiser.clip_norm)
        self._optimiser.step()
        mark("optimiser")


def prepare_dry_run(detector: Detector, config: TrainingConfig) -> DryRun:
    """Prepare a detector, which lies on its device, for trial steps as a training would."""
    loss = make_loss(config, detector)
    prepare(detector, config, loss)
    detector.train()

    def loss_of(batch: Noise) -> Tensor:
        logits_B2, embedding_BC = detector(batch.waveform, batch.num_samples, with_embedding=True)
        with torch.autocast(batch.waveform.device.type, enabled=False):
            value: Tensor = loss(logits_B2, embedding_BC, batch.label)
        return value

    return DryRun(loss_of, [*detector.parameters(), *loss.parameters()], config)
