"""The loss of frames: against a loop over frames, and what it teaches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.detector.config import LossConfig
from pipeline.detector.convolutions import frame_lengths
from pipeline.detector.dry_run import make_noise, prepare_dry_run
from pipeline.detector.heads import HEADS
from pipeline.detector.losses import FrameLoss
from pipeline.detector.network import VARIANTS, Detector, normalise
from pipeline.detector.variants import FRAME_HEADS
from pipeline.errors import InputError
from tests.detector.toys import (
    LENGTHS,
    ToyBatch,
    make_clips,
    make_detector,
    run,
    toy_config,
    toy_detector,
    toy_frame_batches,
    toy_validation,
)

WEIGHTED = toy_config(spoof_weight=3.0, bonafide_weight=0.5, loss=LossConfig(frame_weight=1.0))


def random_labels(num_utterances: int, num_frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(-1, 2, (num_utterances, num_frames), generator=generator, dtype=torch.int8)


def test_the_loss_of_frames_is_that_of_a_loop_over_frames() -> None:
    logits, label = torch.randn(4, 9, 2, generator=torch.Generator().manual_seed(1)), random_labels(4, 9)
    label[2] = -1
    expected = 0.0
    for row in range(4):
        losses = []
        for frame in range(9):
            if label[row, frame] >= 0:
                spoof, bonafide = logits[row, frame].tolist()
                is_bonafide = bool(label[row, frame])
                margin = bonafide - spoof if is_bonafide else spoof - bonafide
                losses.append((0.5 if is_bonafide else 3.0) * math.log1p(math.exp(-margin)))
        expected += sum(losses) / len(losses) / 4 if losses else 0.0
    assert float(FrameLoss(WEIGHTED)(logits, label)) == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_a_padded_batch_is_the_mean_of_the_losses_of_its_utterances() -> None:
    detector, loss = make_detector(VARIANTS["tiny"]), FrameLoss(WEIGHTED)
    clips, num_samples = make_clips(), torch.tensor(LENGTHS)
    num_frames = frame_lengths(num_samples.clamp(min=400)).tolist()
    label = random_labels(len(clips), max(num_frames))
    for row, count in enumerate(num_frames):
        label[row, count:] = -1

    def loss_of(waveforms: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        logits = detector(waveforms, lengths, with_frame_logits=True).frame_logits
        value: Tensor = loss(logits, labels)
        return value

    together = loss_of(pad_sequence(clips, batch_first=True), num_samples, label)
    torch.autograd.backward(together)
    gradients = {
        name: weight.grad.clone() for name, weight in detector.named_parameters() if weight.grad is not None
    }
    detector.zero_grad()
    alone = [
        loss_of(clip[None], num_samples[row : row + 1], label[row : row + 1, : num_frames[row]])
        for row, clip in enumerate(clips)
    ]
    mean = torch.stack(alone).mean()
    torch.autograd.backward(mean)
    torch.testing.assert_close(together, mean, atol=1e-5, rtol=0)
    for name, weight in detector.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, gradients[name], atol=1e-5, rtol=1e-3)


def test_a_batch_without_labelled_frames_has_no_loss_and_finite_gradients() -> None:
    logits = torch.full((2, 3, 2), 1e4, requires_grad=True)
    loss = FrameLoss(WEIGHTED)(logits, torch.full((2, 3), -1, dtype=torch.int8))
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None and not logits.grad.any()


def test_the_weight_multiplies_the_loss_of_frames_beside_that_of_utterances() -> None:
    def first(weight: float) -> tuple[float, float]:
        _, log, _ = run(toy_config(1, loss=LossConfig(frame_weight=weight)), toy_frame_batches)
        return log.losses[1], log.metrics[1]["train/frame_loss"]

    _, log, _ = run(toy_config(1), toy_frame_batches)
    assert "train/frame_loss" not in log.metrics[1]
    for weight in (0.5, 2.0):
        loss, frame_loss = first(weight)
        assert loss == pytest.approx(log.losses[1] + weight * frame_loss, rel=1e-6)


NUM_SAMPLES = 6_720
"""Of an utterance of `halves`: 20 frames."""


def halves(epoch: int, first: int) -> Iterator[ToyBatch]:
    """Noise with a tone in one half of each spoofed utterance; the first half as often as the second."""
    for step in range(first, 10):
        yield halves_batch(epoch, step)


def halves_batch(epoch: int, step: int) -> ToyBatch:
    generator = torch.Generator().manual_seed(100 * epoch + step)
    row, sample = torch.arange(8)[:, None], torch.arange(NUM_SAMPLES)
    is_second_half = sample >= NUM_SAMPLES // 2
    has_tone = (row % 2 == 0) & (is_second_half == (row % 4 == 0))
    waveform = torch.randn(8, NUM_SAMPLES, generator=generator) + has_tone * 2 * torch.sin(sample * 0.9)
    label = 1 - has_tone[:, 160::320][:, :20].to(torch.int8)
    return ToyBatch(
        normalise(waveform),
        torch.full((8,), NUM_SAMPLES),
        (row[:, 0] % 2),
        [f"99-{step}-{number}" for number in range(8)],
        label,
    )


def test_frame_labels_teach_where_an_utterance_is_spoofed() -> None:
    def validation() -> Iterator[ToyBatch]:
        return (halves_batch(99, step) for step in range(4))

    rates = {}
    for weight in (0.0, 1.0):
        config = toy_config(60, loss=LossConfig(frame_weight=weight), validate_every=60)
        _, log, _ = run(config, halves, validation_batches=validation)
        rates[weight] = log.metrics[60]["validation/frame_eer"]
    assert rates[1.0] < 0.02
    assert rates[0.0] > 0.06


def test_validation_measures_frames_only_if_some_are_labelled() -> None:
    _, log, _ = run(toy_config(10), validation_batches=toy_validation)
    assert "validation/frame_eer" not in log.metrics[10]


def test_a_dry_run_includes_the_loss_of_frames() -> None:
    config = toy_config(1, loss=LossConfig(frame_weight=1.0))
    detector: Detector = toy_detector()
    noise = make_noise(3, 0.2, detector.device)
    assert noise.frame_label.shape == (3, 9)
    assert set(noise.frame_label[1].tolist()) == {1, -1} or set(noise.frame_label[1].tolist()) == {1}
    prepare_dry_run(detector, config).step(noise)


def test_losses_that_replace_cross_entropy_refuse_frames() -> None:
    for name in ("oc_softmax", "expected_accuracy"):
        with pytest.raises(InputError, match=f"--frame-weight adds cross-entropy of frames, which {name}"):
            LossConfig(name, frame_weight=1.0)


def test_the_heads_for_frames_are_those_with_frame_logits() -> None:
    assert set(FRAME_HEADS) == {name for name, head in HEADS.items() if head.has_frame_logits}
