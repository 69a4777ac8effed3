"""Training steps on noise that change no weight, to measure time and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.average import WeightAverage
from pipeline.detector.config import TrainingConfig
from pipeline.detector.convolutions import frame_lengths, is_valid
from pipeline.detector.losses import make_loss
from pipeline.detector.network import Detector, normalise
from pipeline.detector.precision import autocast, tf32_policy
from pipeline.detector.trainer import (
    clip,
    frame_loss_of,
    gradient_norm,
    make_frame_loss,
    make_optimiser,
    prepare,
    reference_logits,
)
from pipeline.detector.variants import MIN_NUM_SAMPLES

# B: utterances, T: samples at 16 kHz.


@dataclass(frozen=True)
class Noise:
    """A batch of normalised noise with alternating labels."""

    waveform: Tensor
    """[B, T], on the device."""
    num_samples: Tensor
    """[B], on the CPU."""
    label: Tensor
    """[B], on the device."""
    uid: list[str]
    frame_label: Tensor
    """[B, F], on the device: the label of the utterance in every frame that is not padding."""

    @property
    def audio_s(self) -> float:
        """Seconds of audio, without padding."""
        return float(self.num_samples.sum()) / SAMPLE_RATE


def make_noise(num_utterances: int, seconds: float, device: torch.device) -> Noise:
    """Make utterances of `seconds` down to 0.9 × `seconds`, padded to the longest."""
    longest = round(seconds * SAMPLE_RATE)
    num_samples_B = torch.linspace(longest, 0.9 * longest, num_utterances).long()
    waveform_BT = torch.randn(num_utterances, longest, generator=torch.Generator().manual_seed(0))
    label_B = torch.arange(num_utterances) % 2
    num_frames_B = frame_lengths(num_samples_B.clamp(min=MIN_NUM_SAMPLES))
    valid_BF = is_valid(num_frames_B, int(num_frames_B.max()))
    return Noise(
        waveform=normalise(waveform_BT, num_samples_B).to(device),
        num_samples=num_samples_B,
        label=label_B.to(device),
        frame_label=torch.where(valid_BF, label_B[:, None], -1).to(torch.int8).to(device),
        uid=[str(number) for number in range(num_utterances)],
    )


class DryRun:
    """Takes training steps with a learning rate of 0."""

    def __init__(
        self, loss_of: Callable[[Noise], Tensor], weights: Sequence[Tensor], config: TrainingConfig
    ) -> None:
        """Build the optimiser.

        Args:
            loss_of: forward pass and loss of a batch; called under the autocast of `config`.
            weights: parameters that the optimiser updates, all on one device.
            config: precision, clipping and optimiser.
        """
        self.config = config
        self.device = weights[0].device
        self._loss_of = loss_of
        self._weights = list(weights)
        self._optimiser = make_optimiser(self._weights, replace(config.optimiser, learning_rate=1.0))
        # An average needs memory as in a training.
        named = {str(number): weight for number, weight in enumerate(self._weights)}
        self._average = WeightAverage(named, config.ema.decay) if config.ema.decay else None
        for group in self._optimiser.param_groups:
            group["lr"] = 0.0

    def step(self, batch: Noise, on_phase_end: Callable[[str], None] = lambda _: None) -> None:
        """Take a step; `on_phase_end` is called with forward, backward and optimiser as each ends."""
        self._optimiser.zero_grad(set_to_none=True)
        with tf32_policy(self.device, self.config.precision):
            with autocast(self.device, self.config.precision):
                loss = self._loss_of(batch)
            on_phase_end("forward")
            torch.autograd.backward(loss)
        on_phase_end("backward")
        clip(self._weights, gradient_norm(self._weights), self.config.optimiser.clip_norm)
        self._optimiser.step()
        if self._average is not None:
            self._average.update(1)
        on_phase_end("optimiser")


def prepare_dry_run(detector: Detector, config: TrainingConfig) -> DryRun:
    """Set up a detector, on its device, for dry-run steps as a training would."""
    loss, frame_loss = make_loss(config, detector), make_frame_loss(config, detector)
    reference = prepare(detector, config, loss)
    detector.train()

    def loss_of(batch: Noise) -> Tensor:
        reference_B2 = reference_logits(reference, batch.waveform, batch.num_samples)
        output = detector(batch.waveform, batch.num_samples, with_frame_logits=frame_loss is not None)
        with torch.autocast(batch.waveform.device.type, enabled=False):
            value: Tensor = loss(output.logits, output.embedding, batch.label, reference_B2)
            frames = frame_loss_of(frame_loss, output, batch.frame_label)
        return value if frames is None else value + config.loss.frame_weight * frames

    weights = [weight for weight in detector.parameters() if weight.requires_grad]
    return DryRun(loss_of, [*weights, *loss.parameters()], config)
