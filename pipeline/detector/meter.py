"""What the training loop counts: losses, speed, operations, padding and waiting, over steps and ranks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.data.audio.waveform import SAMPLE_RATE
from pipeline.detector.batch import Batch
from pipeline.detector.config import TrainingConfig
from pipeline.detector.flops import peak_tflops, training_flops
from pipeline.detector.variants import EncoderConfig

PROGRESS_S = 5.0


@dataclass(frozen=True, slots=True)
class StepRequests:
    """What a rank wants after a step; what one rank wants, all do."""

    stop: bool = False
    checkpoint: bool = False


class StepStats:
    """What one rank, and after `share` all ranks, saw in one step."""

    def __init__(self, encoder: EncoderConfig) -> None:
        self.uids: list[str] = []
        self.bad_uids: list[str] = []
        self.wait_s = self.valid_s = self.padded_s = self.flops = 0.0
        self._encoder = encoder
        self._losses: list[Tensor] = []
        self._batches: list[Batch] = []

    def add(self, loss: Tensor, batch: Batch, wait_s: float) -> None:
        """Note one batch; nothing here waits for the device."""
        self.wait_s += wait_s
        self.valid_s += float(batch.num_samples.sum()) / SAMPLE_RATE
        self.padded_s += batch.waveform.numel() / SAMPLE_RATE
        self.flops += training_flops(self._encoder, batch.num_samples.numpy())
        self._losses.append(loss)
        self._batches.append(batch)

    def share(
        self, norm: Tensor, device: torch.device, wishes: StepRequests
    ) -> tuple[float, bool, StepRequests]:
        """Sum over ranks; return the mean loss, whether loss and gradient are finite everywhere, and all wishes.

        One reduction carries everything, so that no question costs a step another wait.
        """
        losses = torch.stack(self._losses).double()
        is_bad = ~(torch.isfinite(losses).all() & torch.isfinite(norm))
        counts = [self.wait_s, self.valid_s, self.padded_s, self.flops, wishes.stop, wishes.checkpoint]
        counts_6 = torch.tensor(counts, dtype=torch.float64, device=device)
        sums = torch.cat([losses.mean().view(1), is_bad.double().view(1), counts_6])
        world = 1
        if dist.is_initialized():
            dist.all_reduce(sums)
            world = dist.get_world_size()
        loss, num_bad, self.wait_s, self.valid_s, self.padded_s, self.flops, *wished = sums.tolist()
        self.uids = [uid for batch in self._batches for uid in batch.uid]
        is_finite = torch.isfinite(losses).tolist() if num_bad else [True] * len(self._batches)
        for batch, is_good in zip(self._batches, is_finite, strict=True):
            self.bad_uids += [] if is_good else batch.uid
        return loss / world, num_bad == 0, StepRequests(wished[0] > 0, wished[1] > 0)


class Meter:
    """Averages since the last report.

    The operations are those that the audio itself needs: neither padding nor what is computed again counts, so
    both lower the MFU, which is their share of what the devices could have done.
    """

    def __init__(self, world: int, device: torch.device, config: TrainingConfig) -> None:
        self._world = world
        self._device = device
        self._peak_tflops: float | None = config.peak_tflops or None
        if self._peak_tflops is None and device.type == "cuda":
            self._peak_tflops = peak_tflops(torch.cuda.get_device_name(device), config.precision)
        self._spoken = time.perf_counter()
        self.restart()

    def restart(self) -> None:
        """Begin a new interval now."""
        self._started = time.perf_counter()
        self._num_steps = self._num_finite = 0
        self._loss = self._norm = self._rate = 0.0
        self._wait_s = self._valid_s = self._padded_s = self._flops = 0.0

    def add(self, facts: StepStats, loss: float, norm: float, rate: float) -> None:
        """Add one step; the loss of a step that is not finite would drown the others."""
        self._num_steps += 1
        self._rate = rate
        self._wait_s += facts.wait_s
        self._valid_s += facts.valid_s
        self._padded_s += facts.padded_s
        self._flops += facts.flops
        if math.isfinite(loss) and math.isfinite(norm):
            self._num_finite += 1
            self._loss += loss
            self._norm += norm

    def flush(self) -> dict[str, float]:
        """Averages of the interval, over steps and ranks; nothing where no step was taken.

        The peak of GPU memory is that of this rank since it began.
        """
        if not self._num_steps:
            return {}
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        metrics = {
            "learning_rate": self._rate,
            "steps_per_s": self._num_steps / elapsed,
            "audio_seconds_per_s": self._valid_s / elapsed,
            "audio_seconds_per_s_per_rank": self._valid_s / elapsed / self._world,
            "tflops_per_rank": self._flops / 1e12 / elapsed / self._world,
            "padding_share": 1 - self._valid_s / self._padded_s if self._padded_s else 0.0,
            "loader_wait_share": self._wait_s / self._world / elapsed,
        }
        if self._peak_tflops is not None:
            metrics["mfu"] = metrics["tflops_per_rank"] / self._peak_tflops
        if self._device.type == "cuda":
            metrics["gpu_memory_peak_gib"] = torch.cuda.max_memory_allocated(self._device) / 2**30
        if self._num_finite:
            metrics |= {"loss": self._loss / self._num_finite, "gradient_norm": self._norm / self._num_finite}
        return metrics

    def is_time_to_speak(self) -> bool:
        """Whether the last line of progress is some seconds old; asking starts the wait anew."""
        if time.perf_counter() - self._spoken < PROGRESS_S:
            return False
        self._spoken = time.perf_counter()
        return True

    def line(self, step: int, num_steps: int) -> str:
        """One line for the person who waits."""
        m = self.flush()
        left_s = (num_steps - step) / m["steps_per_s"]
        return (
            f"step {step}/{num_steps}  loss {m.get('loss', math.nan):.4f}  lr {m['learning_rate']:.2e}  "
            f"{m['steps_per_s']:.2f} steps/s  {m['audio_seconds_per_s']:.0f} s of audio/s  "
            f"loader wait {m['loader_wait_share']:.0%}  "
            + (f"MFU {m['mfu']:.0%}  " if "mfu" in m else "")
            + f"{duration(left_s)} left"
        )


def duration(seconds: float) -> str:
    """A duration as a person says it: `3 h 05 min`, `12 min`, `40 s`."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
    return f"{int(seconds // 60)} min" if seconds >= 120 else f"{seconds:.0f} s"
