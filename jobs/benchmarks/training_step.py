"""Measures training steps on noise, on one device or several ranks. Imports only torch and NumPy.

The fastest of the measured steps counts, because other load on the machine can only make a step slower. Operations
are those of the audio without padding (pipeline/detector/flops.py).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.detector.config import LoraConfig, Precision, Strategy, TrainingConfig
from pipeline.detector.dry_run import DryRun, Noise, make_noise, prepare_dry_run
from pipeline.detector.flops import peak_tflops, training_flops
from pipeline.detector.meter import Meter, StepRequests
from pipeline.detector.network import Detector
from pipeline.detector.ranks import run_ranks
from pipeline.detector.state import TrainingProgress
from pipeline.detector.trainer import Trainer
from pipeline.detector.variants import VARIANTS, DetectorConfig, HeadConfig, HeadName
from pipeline.errors import InputError, did_you_mean

PHASES = ("forward", "backward", "optimiser")
NUM_WARM_UP = 2


@dataclass(frozen=True)
class Case:
    """One configuration to measure."""

    variant: str
    precision: Precision
    num_utterances: int
    seconds: float
    """Length of the longest utterance; the shortest has 0.9 of it."""
    compile: bool = False
    activation_checkpointing: bool = False
    is_peer: bool = False
    """Measure transformers' classifier of the same shape instead of our detector."""
    num_ranks: int = 0
    """Number of processes that take training steps together; 0: a dry run in this process."""
    strategy: Strategy = "ddp"
    head: HeadName = "mean_linear"
    lora_rank: int = 0
    """Rank of low-rank adaptation; 0: all weights are trained."""

    def training_config(self) -> TrainingConfig:
        """Return the settings of a training with this configuration."""
        return TrainingConfig(
            precision=self.precision,
            compile=self.compile,
            activation_checkpointing=self.activation_checkpointing,
            strategy=self.strategy,
            lora=LoraConfig(self.lora_rank),
        )


@dataclass(frozen=True)
class Speed:
    """Measurements of a case."""

    step_s: float
    processor_s: float
    """Smallest processor time of a step, over all threads of this process; other load hardly affects it."""
    audio_s_per_s: float
    """Seconds of audio per second, summed over ranks."""
    tflops: float
    """TFLOP/s of each rank."""
    mfu: float | None
    """Model FLOPs utilisation: share of the device's peak; None if the peak is unknown."""
    shares: dict[str, float]
    """Share of the step by phase; empty for several ranks."""
    peak_gib: float | None
    """Peak GPU memory of the measured steps, or on a CPU the peak of the process; None if several cases share it."""


def measure(
    cases: Sequence[Case], device: torch.device, num_steps: int, profile: Path | None = None
) -> list[Speed]:
    """Measure several cases alternately, so that other load on the machine affects all of them alike.

    Args:
        cases: configurations to compare.
        device: where to run them.
        num_steps: measured steps of each case, after the warm-up.
        profile: file for torch's profile of one more step of the last case.

    Raises:
        InputError: a variant is unknown, or transformers is needed and not installed.
    """
    torch.manual_seed(0)
    batches = [make_noise(case.num_utterances, case.seconds, device) for case in cases]
    dry_runs = [
        _peer(case, device)
        if case.is_peer
        else prepare_dry_run(_detector(case, device), case.training_config())
        for case in cases
    ]
    for _ in range(NUM_WARM_UP):
        for dry_run, batch in zip(dry_runs, batches, strict=True):
            dry_run.step(batch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rounds = [list(map(_time_step, dry_runs, batches)) for _ in range(num_steps)]
    if profile is not None:
        _write_profile(dry_runs[-1], batches[-1], profile)
    speeds = []
    for case, batch, timed in zip(cases, batches, zip(*rounds, strict=True), strict=True):
        phases = min((phases for phases, _ in timed), key=sum)
        processor_s = min(seconds for _, seconds in timed)
        shares = {name: phase / sum(phases) for name, phase in zip(PHASES, phases, strict=True)}
        speed = _speed(case, device, batch, sum(phases), processor_s, shares)
        speeds.append(speed if len(cases) == 1 else replace(speed, peak_gib=None))
    return speeds


def measure_ranks(case: Case, device: torch.device, num_steps: int) -> Speed:
    """Measure training steps, communication included, in one process per rank."""
    with tempfile.TemporaryDirectory(prefix="bonafide-benchmark-") as folder:
        path = Path(folder, "speed.json")
        run_ranks(_time_rank, (path, case, device.type, num_steps), case.num_ranks, device.type)
        return Speed(**json.loads(path.read_text(encoding="utf-8")))


def _time_rank(path: Path, case: Case, kind: str, num_steps: int) -> None:
    device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
    torch.manual_seed(0)
    batch = make_noise(case.num_utterances, case.seconds, device)
    config = case.training_config()
    trainer = Trainer(_detector(case, device), lambda *_: repeat(batch), config)
    meter, times_s, processor_s = Meter(case.num_ranks, device, config), [], []
    for _ in range(NUM_WARM_UP + num_steps):
        times_s.append(-time.perf_counter())
        processor_s.append(-time.process_time())
        # The host waits for the all-reduce of each step, so it is ahead of the device by at most one optimiser update.
        trainer.step(TrainingProgress(), meter, StepRequests())
        times_s[-1] += time.perf_counter()
        processor_s[-1] += time.process_time()
    if dist.get_rank() == 0:
        speed = _speed(case, device, batch, min(times_s[NUM_WARM_UP:]), min(processor_s[NUM_WARM_UP:]), {})
        path.write_text(json.dumps(asdict(speed)), encoding="utf-8")


def _detector(case: Case, device: torch.device) -> Detector:
    if case.variant not in VARIANTS:
        raise InputError(f"unknown variant {case.variant!r}{did_you_mean(case.variant, VARIANTS)}")
    with device:
        return Detector(DetectorConfig(VARIANTS[case.variant], HeadConfig(case.head)))


def _peer(case: Case, device: torch.device) -> DryRun:
    """Prepare the same step with transformers' network of the same shape."""
    try:
        from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification
    except ImportError as error:
        raise InputError("--peer on needs transformers, which is not installed; use --peer off") from error
    from pipeline.detector.huggingface import transformers_settings

    settings = Wav2Vec2Config.from_dict(transformers_settings(VARIANTS[case.variant]))
    with device:
        model = Wav2Vec2ForSequenceClassification(settings).train()
    if case.activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if case.compile:
        for layer in model.wav2vec2.encoder.layers:
            layer.compile(dynamic=True)

    def loss_of(batch: Noise) -> Tensor:
        num_samples_B = batch.num_samples.to(device)
        is_valid_BT = torch.arange(batch.waveform.shape[1], device=device) < num_samples_B[:, None]
        output = model(batch.waveform, attention_mask=is_valid_BT.long(), labels=batch.label)
        loss: Tensor = output.loss
        return loss

    return DryRun(loss_of, list(model.parameters()), case.training_config())


def _time_step(dry_run: DryRun, batch: Noise) -> tuple[list[float], float]:
    """Take a step; return the seconds of each phase and the processor seconds of the step."""
    start_s = time.process_time()
    if dry_run.device.type == "cuda":
        events = [_record()]
        dry_run.step(batch, lambda _: events.append(_record()))
        torch.cuda.synchronize(dry_run.device)
        phases = [one.elapsed_time(other) / 1000 for one, other in pairwise(events)]
        return phases, time.process_time() - start_s
    times = [time.perf_counter()]
    dry_run.step(batch, lambda _: times.append(time.perf_counter()))
    return [other - one for one, other in pairwise(times)], time.process_time() - start_s


def _record() -> torch.cuda.Event:
    event: torch.cuda.Event = cast("Any", torch.cuda.Event)(enable_timing=True)
    event.record()
    return event


def _speed(
    case: Case,
    device: torch.device,
    batch: Noise,
    step_s: float,
    processor_s: float,
    shares: dict[str, float],
) -> Speed:
    shape, lengths_B = VARIANTS[case.variant], batch.num_samples.numpy()
    flops = training_flops(shape, lengths_B, HeadConfig(case.head), LoraConfig(case.lora_rank))
    tflops = flops / step_s / 1e12
    peak = None
    if device.type == "cuda":
        peak = peak_tflops(torch.cuda.get_device_name(device), case.precision)
    return Speed(
        step_s=step_s,
        processor_s=processor_s,
        audio_s_per_s=max(1, case.num_ranks) * batch.audio_s / step_s,
        tflops=tflops,
        mfu=tflops / peak if peak else None,
        shares=shares,
        peak_gib=_peak_gib(device),
    )


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _write_profile(dry_run: DryRun, batch: Noise, path: Path) -> None:
    is_cuda = dry_run.device.type == "cuda"
    with torch.profiler.profile(acc_events=True) as profiler:
        dry_run.step(batch)
        if is_cuda:
            torch.cuda.synchronize(dry_run.device)
    order = "self_cuda_time_total" if is_cuda else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=60)
    path.write_text(table + "\n", encoding="utf-8")
