"""The counters of the training loop: loss, speed, operations, padding and waiting, over steps and ranks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.batch import Batch
from pipeline.detector.config import LoraConfig, TrainingConfig
from pipeline.detector.flops import peak_tflops, training_flops
from pipeline.detector.variants import DetectorConfig

PROGRESS_S = 5.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True, slots=True)
class StepRequests:
    """What a rank requests after a step; a request of one rank holds for all ranks."""

    stop: bool = False
    checkpoint: bool = False


class StepStats:
    """Counts of one step on this rank; `reduce` replaces all but the uids by the sums over all ranks."""

    def __init__(self, detector: DetectorConfig, lora: LoraConfig, *, has_reference: bool = False) -> None:
        self.uids: list[str] = []
        self.bad_uids: list[str] = []
        self.wait_s = self.valid_s = self.padded_s = self.flops = 0.0
        self.num_batches = self.num_one_class = 0.0
        self.frame_loss: float | None = None
        """Mean over batches and ranks; None without one."""
        self._detector, self._lora = detector, lora
        self._has_reference = has_reference
        self._losses: list[Tensor] = []
        self._frame_losses: list[Tensor] = []
        self._batches: list[Batch] = []

    def add(self, loss: Tensor, frame_loss: Tensor | None, batch: Batch, wait_s: float) -> None:
        """Count one batch, without waiting for the device; `frame_loss` is contained in `loss`."""
        self.wait_s += wait_s
        self.valid_s += float(batch.num_samples.sum()) / SAMPLE_RATE
        self.padded_s += batch.waveform.numel() / SAMPLE_RATE
        self.flops += training_flops(
            self._detector.front_end,
            batch.num_samples.numpy(),
            self._detector.head,
            self._lora,
            has_reference=self._has_reference,
        )
        self.num_batches += 1
        self.num_one_class += bool((batch.label == batch.label[0]).all())
        self._losses.append(loss)
        if frame_loss is not None:
            self._frame_losses.append(frame_loss)
        self._batches.append(batch)

    def reduce(
        self, norm: Tensor, device: torch.device, requests: StepRequests
    ) -> tuple[float, bool, StepRequests]:
        """Sum over ranks, in one all-reduce so that a step waits only once.

        Args:
            norm: gradient norm, on the device.
            device: the device of the training.
            requests: what this rank requests.

        Returns:
            The mean loss, whether loss and gradient are finite on every rank, and the requests of all ranks.
        """
        losses = torch.stack(self._losses).double()
        is_bad = ~(torch.isfinite(losses).all() & torch.isfinite(norm))
        counts = [self.wait_s, self.valid_s, self.padded_s, self.flops, self.num_batches, self.num_one_class]
        counts += [requests.stop, requests.checkpoint]
        counts_8 = torch.tensor(counts, dtype=torch.float64, device=device)
        frame_losses = [torch.stack(self._frame_losses).double().mean().view(1)] if self._frame_losses else []
        sums = torch.cat([losses.mean().view(1), is_bad.double().view(1), counts_8, *frame_losses])
        world = 1
        if dist.is_initialized():
            dist.all_reduce(sums)
            world = dist.get_world_size()
        loss, num_bad, self.wait_s, self.valid_s, self.padded_s, self.flops, *others = sums.tolist()
        self.num_batches, self.num_one_class, *others = others
        requested, frame_sums = others[:2], others[2:]
        if frame_sums:
            self.frame_loss = frame_sums[0] / world
        self.uids = [uid for batch in self._batches for uid in batch.uid]
        is_finite = torch.isfinite(losses).tolist() if num_bad else [True] * len(self._batches)
        for batch, is_batch_finite in zip(self._batches, is_finite, strict=True):
            self.bad_uids += [] if is_batch_finite else batch.uid
        return loss / world, num_bad == 0, StepRequests(requested[0] > 0, requested[1] > 0)


class Meter:
    """Averages since the last report.

    Operations are those that the audio itself needs. Padding and recomputed activations do not count, so both lower
    the MFU, the share of the peak performance of the devices.
    """

    def __init__(self, world: int, device: torch.device, config: TrainingConfig) -> None:
        self._world = world
        self._device = device
        self._peak_tflops: float | None = config.peak_tflops or None
        if self._peak_tflops is None and device.type == "cuda":
            self._peak_tflops = peak_tflops(torch.cuda.get_device_name(device), config.precision)
        self._warns_of_one_class = config.loss.name == "supervised_contrastive"
        self._printed = time.perf_counter()
        self.restart()

    def restart(self) -> None:
        """Start a new interval."""
        self._started = time.perf_counter()
        self._num_steps = self._num_finite = 0
        self._loss = self._norm = self._learning_rate = 0.0
        self._frame_loss: float | None = None
        self._wait_s = self._valid_s = self._padded_s = self._flops = 0.0
        self._num_batches = self._num_one_class = 0.0

    def add(self, stats: StepStats, loss: float, norm: float, learning_rate: float) -> None:
        """Add one step. A loss that is not finite is left out of the average."""
        self._num_steps += 1
        self._learning_rate = learning_rate
        self._wait_s += stats.wait_s
        self._valid_s += stats.valid_s
        self._padded_s += stats.padded_s
        self._flops += stats.flops
        self._num_batches += stats.num_batches
        self._num_one_class += stats.num_one_class
        if math.isfinite(loss) and math.isfinite(norm):
            self._num_finite += 1
            self._loss += loss
            self._norm += norm
            if stats.frame_loss is not None:
                self._frame_loss = (self._frame_loss or 0.0) + stats.frame_loss

    def metrics(self) -> dict[str, float]:
        """Return the averages of the interval over steps and ranks, by name; empty before the first step.

        The peak of GPU memory is that of this rank since it started.
        """
        if not self._num_steps:
            return {}
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        metrics = {
            "train/learning_rate": self._learning_rate,
            "train/one_class_share": self._num_one_class / self._num_batches,
            "speed/steps_per_s": self._num_steps / elapsed,
            "speed/audio_seconds_per_s": self._valid_s / elapsed,
            "speed/audio_seconds_per_s_per_rank": self._valid_s / elapsed / self._world,
            "speed/tflops_per_rank": self._flops / 1e12 / elapsed / self._world,
            "speed/padding_share": 1 - self._valid_s / self._padded_s if self._padded_s else 0.0,
            "speed/loader_wait_share": self._wait_s / self._world / elapsed,
        }
        if self._peak_tflops is not None:
            metrics["speed/mfu"] = metrics["speed/tflops_per_rank"] / self._peak_tflops
        if self._device.type == "cuda":
            metrics["speed/gpu_memory_peak_gib"] = torch.cuda.max_memory_allocated(self._device) / 2**30
        if self._num_finite:
            metrics |= {
                "train/loss": self._loss / self._num_finite,
                "train/gradient_norm": self._norm / self._num_finite,
            }
            if self._frame_loss is not None:
                metrics["train/frame_loss"] = self._frame_loss / self._num_finite
        return metrics

    def warning(self, step: int) -> str | None:
        """Return a line about the first batch of one class if the loss compares the classes of a batch, else None."""
        if not (self._warns_of_one_class and self._num_one_class):
            return None
        self._warns_of_one_class = False
        return (
            f"step {step}  a batch has one class only, and supervised_contrastive has nothing to push apart in it; "
            "longer batches (--batch.max-seconds) make this rarer, and train/one_class_share tells how often it happens"
        )

    def is_line_due(self) -> bool:
        """Whether the last line of progress is at least `PROGRESS_S` old."""
        return time.perf_counter() - self._printed >= PROGRESS_S

    def line(self, step: int, num_steps: int) -> str:
        """Return one line of progress for a terminal; the next is due `PROGRESS_S` later."""
        self._printed = time.perf_counter()
        metrics = self.metrics()
        remaining_s = (num_steps - step) / metrics["speed/steps_per_s"]
        frames = f"frames {metrics['train/frame_loss']:.4f}  " if "train/frame_loss" in metrics else ""
        mfu = f"MFU {metrics['speed/mfu']:.0%}  " if "speed/mfu" in metrics else ""
        return (
            f"step {step}/{num_steps}  loss {metrics.get('train/loss', math.nan):.4f}  {frames}"
            f"lr {metrics['train/learning_rate']:.2e}  {metrics['speed/steps_per_s']:.2f} steps/s  "
            f"{metrics['speed/audio_seconds_per_s']:.0f} s of audio/s  "
            f"loader wait {metrics['speed/loader_wait_share']:.0%}  {mfu}{duration(remaining_s)} left"
        )


def duration(seconds: float) -> str:
    """Format a duration: `3 h 05 min`, `12 min`, `40 s`."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    return f"{int(seconds // 60)} min" if seconds >= 120 else f"{seconds:.0f} s"
